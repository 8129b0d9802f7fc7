"""Which group each record of a corpus belongs to, and a sweep's validation losses by group. n records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, CorpusError, RecordError, RefusedError, did_you_mean
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_table import RunTable
from plm_scaling.corpus.format import HELD_OUT_PREFIX, VAL_IID
from plm_scaling.corpus.reader import Corpus
from plm_scaling.corpus.val_losses import SequenceLosses, read_val
from plm_scaling.laws.group_losses import GroupLosses

__all__ = [
    "COLUMNS",
    "Labels",
    "SweepLosses",
    "group_losses_of",
    "label_records",
    "read_sweep_losses",
    "training_shares",
]

Int = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]

COLUMNS: Final = ("source", "taxon", "cluster50", "cluster90", "set", "identity")
"""Columns that need no file of the user's; `set` and `identity` belong to the scored sequences alone."""


@dataclass(frozen=True)
class Labels:
    """Groups of records: names, and int64[n] positions in them, -1 for none."""

    names: tuple[str, ...]
    number: Int


@dataclass(frozen=True)
class SweepLosses:
    """Losses of R runs on the same K sequences of one or several validation sets."""

    run_ids: tuple[str, ...]
    rows: Int
    """int64[K], records of the corpus."""
    sets: tuple[str, ...]
    set_of: Int
    """int64[K], position in `sets`."""
    loss_sum: Float
    """float64[R, K], nats."""
    n_targets: Float


@dataclass(frozen=True)
class GroupedRuns:
    """A folder's runs, those a law is fitted to, and the losses of these by group."""

    table: RunTable
    """All runs of the folder, of the schedule asked for."""
    runs: RunTable
    losses: GroupLosses
    sets: tuple[str, ...]
    left_out: int
    """Groups of too few sequences, or beyond the largest."""


def read_sweep_losses(runs_dir: Path, run_ids: Sequence[str], sets: Sequence[str] = (VAL_IID,)) -> SweepLosses:
    """Per-sequence losses of several runs on some sets; a sequence of two sets is taken once, from the first.

    Raises
    ------
    RecordError : a run without losses on one of the sets. RefusedError : runs scored on different sequences.
    """
    found = [[read_val(runs_dir, run_id, name) for name in sets] for run_id in run_ids]
    if not found:
        raise RecordError("no complete runs of this objective", where=str(runs_dir))
    for run_id, scored in zip(run_ids, found, strict=True):
        if any(not _alike(a, b) for a, b in zip(scored, found[0], strict=True)):
            raise RefusedError(
                f"the losses of {run_ids[0]} and {run_id} are not of the same sequences and targets",
                where=str(runs_dir),
                hint="fit runs that were scored under one protocol",
            )
    rows = np.concatenate([one.row for one in found[0]])
    set_of = np.repeat(np.arange(len(sets)), [len(one.row) for one in found[0]])
    targets = np.concatenate([one.n_targets for one in found[0]]).astype(np.float64)
    first = np.zeros(len(rows), dtype=np.bool_)
    first[np.unique(rows, return_index=True)[1]] = True
    keep = np.flatnonzero(first & (targets > 0))
    sums = np.stack([np.concatenate([one.loss_sum for one in scored])[keep] for scored in found])
    return SweepLosses(tuple(run_ids), rows[keep], tuple(sets), set_of[keep], sums, targets[keep])


def _alike(a: SequenceLosses, b: SequenceLosses) -> bool:
    return np.array_equal(a.row, b.row) and np.array_equal(a.n_targets, b.n_targets)


def label_records(corpus: Corpus, by: str, groups: Path | None = None) -> Labels:
    """The groups of all records of a corpus, by a column of its index or of a user's file.

    Parameters
    ----------
    by : source, taxon, cluster50, cluster90; or with `groups`, one of its columns.
    groups : CSV or TSV with a header, the column `accession`, and `by`. Records it does not name have no group.

    Raises
    ------
    ConfigError : no such column. RecordError : a file that cannot be read, or names no record of the corpus.
    CorpusError : a corpus without clusters, or without taxa.
    """
    if groups is not None:
        return _from_file(corpus, by, groups)
    if by == "source":
        return Labels(tuple(source.name for source in corpus.manifest.sources), corpus.source.astype(np.int64))
    if by == "taxon":
        taxon = corpus.taxon.astype(np.int64)
        if not taxon.any():
            raise CorpusError(
                "no record of the corpus has a taxon",
                where=str(corpus.path),
                why="taxa are read from OX= or TaxID= in FASTA headers",
                hint="--by source, or --by COLUMN --groups FILE with a taxonomy of your own",
            )
        return _numbered(taxon, nothing=0)
    if by in ("cluster50", "cluster90"):
        return _numbered(corpus.cluster(int(by.removeprefix("cluster"))), nothing=None)
    raise ConfigError(
        f"records have no column {by!r}",
        where="--by",
        why="without a file the columns are " + ", ".join(COLUMNS),
        hint=did_you_mean(by, COLUMNS) or "--groups FILE",
    )


def _numbered(values: Int, nothing: int | None) -> Labels:
    """Groups of equal values; `nothing` is no group."""
    grouped = np.ones(len(values), dtype=np.bool_) if nothing is None else values != nothing
    known = np.unique(values[grouped])
    number = np.where(grouped, np.searchsorted(known, values), -1)
    return Labels(tuple(str(value) for value in known.tolist()), number.astype(np.int64))


def _from_file(corpus: Corpus, by: str, path: Path) -> Labels:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv

    delimiter = "\t" if path.suffix.lower() in (".tsv", ".tab") else ","
    try:
        header = pyarrow.csv.open_csv(path, parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter)).schema.names
        missing = [name for name in ("accession", by) if name not in header]
        if missing:
            raise ConfigError(
                f"no column {' and '.join(missing)}", where=str(path), hint=did_you_mean(missing[0], header)
            )
        table = pyarrow.csv.read_csv(
            path,
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=list(dict.fromkeys(("accession", by))),
                column_types={"accession": pa.string(), by: pa.string()},
                strings_can_be_null=True,
            ),
        )
    except (OSError, pa.ArrowException) as error:
        raise RecordError(f"not a readable table of groups: {error}", where=str(path)) from None
    accession, group = table["accession"].combine_chunks(), table[by].combine_chunks()
    names = sorted(name for name in pc.unique(group).to_pylist() if name)
    of_line = np.asarray(pc.fill_null(pc.index_in(group, value_set=pa.array(names, pa.string())), -1), dtype=np.int64)
    line = corpus.lines_of(accession)
    number = np.where(line >= 0, of_line[line], -1) if len(of_line) else np.full(len(line), -1)
    if not (number >= 0).any():
        raise RecordError(
            "the file names no record of the corpus",
            where=str(path),
            why=f"the corpus' first accession is {corpus.accessions([0])[0]}",
            hint="accessions are the headers' first word, as `prep` read them",
        )
    return Labels(tuple(names), number)


def training_shares(corpus: Corpus, config: RunConfig, labels: Labels) -> Float:
    """Each group's share of the tokens a run draws from, float64[G].

    Streams count by their weight, shuffled ones not at all; copies count once.
    """
    shares = np.zeros(len(labels.names))
    whole = sum(stream.weight for stream in config.streams)
    for stream in config.streams:
        if stream.shuffled:
            continue
        rows = corpus.pool(stream)
        length = corpus.length[rows] + 1.0
        number = labels.number[rows]
        here = number >= 0
        counted = np.bincount(number[here], length[here], len(labels.names))
        shares += stream.weight / whole * counted / length.sum()
    return shares


def group_losses_of(
    found: SweepLosses,
    corpus: Corpus,
    labels: Labels,
    *,
    share: Float | None = None,
    least: int = 3,
    most: int = 1000,
) -> tuple[GroupLosses, int]:
    """Losses by group, of groups of at least `least` sequences and the `most` largest, and how many are left out.

    Parameters
    ----------
    labels : of the K sequences. share : of the training tokens by group.
    """
    count = np.bincount(labels.number[labels.number >= 0], minlength=len(labels.names))
    losses = GroupLosses(
        found.run_ids,
        found.loss_sum,
        found.n_targets,
        labels.number,
        labels.names,
        corpus.length[found.rows].astype(np.float64),
        share,
    )
    kept = losses.keep(np.flatnonzero(count >= least)).largest(most)
    return kept, int((count > 0).sum()) - len(kept.names)


def sets_of(runs_dir: Path, run_id: str) -> tuple[str, ...]:
    """Validation sets a run was scored on, without the parts by source of another set; held-out ones last."""
    record = RunFolder(runs_dir / run_id).record()
    names = [loss.set_name for loss in record.validation if "@" not in loss.set_name] if record else []
    return tuple(sorted(names, key=lambda name: name.startswith(HELD_OUT_PREFIX)))
