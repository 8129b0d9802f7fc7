"""The verb that fits laws to groups of validation sequences; part of `plm_scaling.api`, where it is found too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plm_scaling.core.errors import ConfigError, RecordError

if TYPE_CHECKING:
    from plm_scaling.corpus.reader import Corpus
    from plm_scaling.laws.group_fit import GroupFit
    from plm_scaling.sweeps.group_labels import GroupedRuns, Labels, SweepLosses

__all__ = ["fit_groups", "grouped_losses"]


def fit_groups(
    runs_dir: Path | str,
    *,
    by: str,
    groups: Path | str | None = None,
    objective: str | None = None,
    schedule: str | None = None,
    validation: str = "val_iid",
    also: Sequence[str] = (),
    corpus: Path | str | None = None,
    form: str = "auto",
    least: int = 3,
    most: int = 1000,
    draws: int = 2000,
    seed: int = 0,
    tell: Callable[[str], None] = lambda _: None,
    out: Path | str | None = None,
) -> GroupFit:
    """Laws of groups of validation sequences beside the law of all, shrunk towards each other; written to `out`.

    Parameters
    ----------
    runs_dir : runs folder; `val.parquet` of each run holds the losses by sequence.
    by : source, taxon, cluster50, cluster90, set (validation sets), identity (to the training split, MMseqs2), or a
        column of `groups`.
    groups : CSV or TSV with the columns `accession` and `by`; the first line of an accession counts.
    objective, schedule : needed only where the folder holds both; a schedule is cosine or wsd.
    validation : the set whose law is fitted. also : more sets whose sequences are grouped; `set` takes all there are.
    corpus : folder of the prepared corpus; where the runs name it by default.
    form : of the law of all sequences, as in `fit`.
    least : validation sequences a group must have. most : the largest groups are kept.
    draws : of the posterior, and resamples of the runs behind the law.
    tell : called before a search that takes minutes.

    Raises
    ------
    ConfigError : no such column. RecordError : losses or a file that cannot be read. RefusedError : too few runs or
    groups, or N and D that move together. CorpusError : clusters or identities that this corpus or machine lacks.
    """
    from plm_scaling.laws.combine import fit_laws
    from plm_scaling.laws.groups import fit_group_laws

    read = grouped_losses(
        runs_dir, by=by, groups=groups, objective=objective, schedule=schedule, validation=validation, also=also,
        corpus=corpus, least=least, most=most, tell=tell,
    )  # fmt: skip
    law = fit_laws(read.table, read.runs.rows[0].objective, form=form, draws=max(draws, 50), seed=seed)
    fitted = fit_group_laws(
        read.runs,
        law,
        read.losses,
        by=by,
        validation=",".join(read.sets),
        left_out=read.left_out,
        draws=draws,
        seed=seed,
    )
    if out is not None:
        fitted.write(Path(out))
    return fitted


def grouped_losses(
    runs_dir: Path | str,
    *,
    by: str,
    groups: Path | str | None = None,
    objective: str | None = None,
    schedule: str | None = None,
    validation: str = "val_iid",
    also: Sequence[str] = (),
    corpus: Path | str | None = None,
    least: int = 3,
    most: int = 1000,
    tell: Callable[[str], None] = lambda _: None,
) -> GroupedRuns:
    """The runs a law is fitted to, and their validation losses by group; parameters and errors as `fit_groups`."""
    from plm_scaling.api_fit import _objective_of, collect
    from plm_scaling.core.run_folder import RunFolder
    from plm_scaling.corpus.reader import Corpus
    from plm_scaling.laws.noise import law_runs
    from plm_scaling.sweeps.group_labels import (
        GroupedRuns,
        Labels,
        group_losses_of,
        label_records,
        read_sweep_losses,
        sets_of,
        training_shares,
    )

    runs_dir = Path(runs_dir)
    if not runs_dir.is_dir():
        raise ConfigError(
            "laws by group need a runs folder", where=str(runs_dir), why="a table holds no losses by sequence"
        )
    table = collect(runs_dir, validation=validation)
    if schedule is not None:
        table = table.where(lambda row: row.schedule == schedule)
    runs = law_runs(table, _objective_of(table, objective, runs_dir))
    if not len(runs):
        raise RecordError(
            "no run a law could be fitted to", where=str(runs_dir), why="none is complete and from scratch"
        )
    largest = max(runs, key=lambda row: row.C_exact or row.N * row.D).run_id
    more = sets_of(runs_dir, largest) if by == "set" else also
    found = read_sweep_losses(runs_dir, [row.run_id for row in runs], tuple(dict.fromkeys((validation, *more))))
    order = RunFolder(runs_dir / largest).order()
    held = Corpus.open(corpus or order.corpus_path(runs_dir / largest))
    if held.corpus_id != order.config.corpus_id:
        raise ConfigError("the runs were trained on another corpus", where=str(held.path), hint="--corpus FOLDER")
    share = None
    if by in ("set", "identity") and groups is None:
        labels = Labels(found.sets, found.set_of) if by == "set" else _by_identity(found, held, tell)
    else:
        records = label_records(held, by, None if groups is None else Path(groups))
        labels = Labels(records.names, records.number[found.rows])
        share = training_shares(held, order.config, records)
    losses, left_out = group_losses_of(found, held, labels, share=share, least=least, most=most)
    return GroupedRuns(table, runs, losses, found.sets, left_out)


def _by_identity(found: SweepLosses, corpus: Corpus, tell: Callable[[str], None]) -> Labels:
    """Scored sequences by the identity of their nearest relative in the training split."""
    import numpy as np

    from plm_scaling.corpus.format import IDENTITY_EDGES, TRAIN
    from plm_scaling.evals.perplexity import IDENTITY_BINS, nearest_training
    from plm_scaling.sweeps.group_labels import Labels

    sequences = [corpus.sequence(int(row)) for row in found.rows]
    near = nearest_training(corpus, corpus.rows(TRAIN), sequences, tell=tell).identity
    return Labels(IDENTITY_BINS, np.digitize(near, np.array(IDENTITY_EDGES, dtype=np.float32)).astype(np.int64))
