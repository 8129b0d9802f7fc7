"""Runs of a study, a random-weights control and composition on one axis: site-conditional nats on its validation set.

    python benchmarks/one_axis.py STUDY [--runs 4] [--sequences 200] [--sites 4]

STUDY holds corpus/ and runs/, as `plm-scaling demo` leaves them. Of each objective `--runs` runs from scratch are
taken, evenly from the lowest validation loss to the highest.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from plm_scaling.core.alphabet import decode
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.corpus.reader import Corpus
from plm_scaling.evals.adapters.base import Adapter
from plm_scaling.evals.adapters.own_models import open_own, random_control
from plm_scaling.evals.compare_sites import SiteTable, compare_objectives
from plm_scaling.evals.composition import corpus_composition
from plm_scaling.evals.site_sample import sample_sites


def scratch_runs(study: Path) -> list[tuple[str, float, RunFolder]]:
    """(objective, loss on val_iid, folder) of the complete runs from scratch, by objective and loss."""
    found = []
    for path in sorted((study / "runs").iterdir()):
        folder = RunFolder(path)
        record = folder.record() if folder.order_path.is_file() else None
        if record is not None and record.config.init_from is None:
            losses = {loss.set_name: loss.per_token for loss in record.validation}
            found.append((record.config.objective, losses["val_iid"], folder))
    return sorted(found, key=lambda one: one[:2])


def place_on_one_axis(study: Path, runs: int, sequences: int, sites: int) -> tuple[SiteTable, dict[str, float]]:
    """The table, and the validation loss of each run by its name."""
    corpus = Corpus.open(study / "corpus")
    held_out = [decode(corpus.tokens(int(row))[:-1]) for row in corpus.rows("val_iid")[:sequences]]
    models: list[Adapter] = []
    losses = {}
    for objective in ("clm", "mlm"):
        own = [run for run in scratch_runs(study) if run[0] == objective]
        for k in np.unique(np.linspace(0, len(own) - 1, runs).astype(int)).tolist():
            _, loss, folder = own[k]
            models.append(open_own(folder.path, name=f"{objective} {folder.path.name[:6]}", device="cpu"))
            losses[models[-1].info.name] = loss
    models.append(random_control(open_own(scratch_runs(study)[0][2].path, device="cpu")))
    models.append(corpus_composition(corpus, corpus.rows("train")))
    return compare_objectives(models, held_out, sample_sites(held_out, per_sequence=sites)), losses


def show(table: SiteTable, losses: dict[str, float]) -> None:
    """One line a model, the best first."""
    apart = {difference.model: difference for difference in table.differences}
    for result in table.results:
        mean, name = result.mean, result.info.name
        line = (
            f"{name:36} N {result.info.N:7d}  D {result.info.D or 0:9.3g}  loss {losses.get(name, float('nan')):6.3f}"
        )
        line += f"  site nats {mean.value:6.3f} ({mean.low:.3f} to {mean.high:.3f})"
        if name in apart:
            nats = apart[name].nats
            line += f"  {nats.value:+.3f} ({nats.low:+.3f} to {nats.high:+.3f}), p {apart[name].p_holm:.3f}"
        print(line)


def main(words: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--sequences", type=int, default=200)
    parser.add_argument("--sites", type=int, default=4)
    asked = parser.parse_args(words)
    torch.set_num_threads(1)
    show(*place_on_one_axis(asked.study, asked.runs, asked.sequences, asked.sites))


if __name__ == "__main__":
    main()
