"""Do models that repeat data give it away? `python benchmarks/bench_memorisation.py [clm] [mlm] [epochs ...]`.

Needs real sequences: PLM_SCALING_TEST_DATA, a folder whose `corpus` holds FASTA files.
"""

from __future__ import annotations

import gzip
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from Bio.SeqIO.FastaIO import SimpleFastaParser

from data_prep.pipeline import PrepSpec, SourceInput, prepare_corpus
from plm_scaling.core.run import Objective, RunConfig
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder
from plm_scaling.corpus.reader import Corpus
from plm_scaling.evals.adapters.own_models import open_own
from plm_scaling.evals.memorisation import MemorisationReport, measure_memorisation
from plm_scaling.training.loop import train

VARIABLE = "PLM_SCALING_TEST_DATA"
FILES = "ncbi-*.fasta.gz"
EACH = 80


def proteins() -> tuple[list[str], list[str]]:
    """Short proteins of mycoplasmas, shuffled and halved: seen, and unseen."""
    found = set()
    for path in sorted((Path(os.environ[VARIABLE]) / "corpus").glob(FILES)):
        with gzip.open(path, "rt") as handle:
            found |= {text for _, text in SimpleFastaParser(handle) if 60 <= len(text) <= 120 and "X" not in text}
    chosen = np.random.default_rng(0).permutation(sorted(found))[: 2 * EACH].tolist()
    return chosen[:EACH], chosen[EACH:]


def trained(corpus: Corpus, folder: Path, objective: Objective, epochs: int) -> RunFolder:
    tokens = sum(source.tokens for source in corpus.manifest.sources)
    config = RunConfig(
        corpus_id=corpus.corpus_id,
        objective=objective,
        n_layers=2,
        d_model=96,
        context=128,
        D=epochs * tokens,
        batch_tokens=512,
        peak_lr=5e-3,
        recipe="small",
        validation_points=1,
    )
    run = RunFolder(folder / config.run_id)
    RunOrder(config=config, corpus=str(corpus.path), device="cpu").write(run.order_path)
    train(run.path)
    return run


def described(found: MemorisationReport) -> str:
    gap, told = found.exposure_gap, found.membership
    parts = (
        f"regenerated nearly {found.seen.near}/{found.seen.n} seen, {found.unseen.near}/{found.unseen.n} unseen",
        f"identity {found.seen.recovered:.2f}, {found.unseen.recovered:.2f}",
        f"exposure {found.seen.exposure:.2f}, {found.unseen.exposure:.2f} bits",
        f"gap {gap.value:+.2f} ({gap.low:+.2f} to {gap.high:+.2f})",
        f"told {told.value:.2f} ({told.low:.2f} to {told.high:.2f})",
        f"alarm {'yes' if found.alarms else 'no'}",
    )
    return "; ".join(parts)


def main() -> int:
    if VARIABLE not in os.environ:
        print(f"skipped: {VARIABLE} is not set, and this needs real sequences")
        return 0
    asked = [int(word) for word in sys.argv[1:] if word.isdigit()] or [1, 20, 150]
    objectives: list[Objective] = [one for one in ("clm", "mlm") if one in sys.argv or not {"clm", "mlm"} & {*sys.argv}]
    seen, unseen = proteins()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "seen.fasta").write_text("".join(f">s{k}\n{one}\n" for k, one in enumerate(seen)))
        prepare_corpus([SourceInput("seen", [folder / "seen.fasta"])], folder / "corpus", PrepSpec(val_share=0.1))
        corpus = Corpus.open(folder / "corpus")
        kept = [seen[int(name[1:])] for name in corpus.accessions(corpus.rows("train"))]
        print(f"{len(kept)} seen and {len(unseen)} unseen proteins of 60 to 120 residues; 2 x 96")
        for objective in objectives:
            for epochs in asked:
                begin = time.process_time()
                run = trained(corpus, folder, objective, epochs)
                middle = time.process_time()
                found = measure_memorisation(open_own(run.path), kept, unseen, references=32)
                print(f"{objective} {epochs:4d} epochs: {described(found)}", end="; ")
                spent = time.process_time() - middle
                print(f"{middle - begin:.0f} s training, {spent:.0f} s asking", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
