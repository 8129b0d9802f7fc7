"""Splits that respect clusters: whole 50 % clusters are held out, and what leaks is searched for, dropped, measured.

1. Clusters in a keyed order are held out until they hold the share of training tokens asked for. Not held out are
   clusters with a sequence of a held-out set, clusters of several sequences with more than `GIANT_SHARE` of what is
   wanted (a family that large would be the whole split), and clusters without a sequence that can be judged.
2. Of each, one member drawn by the key becomes `val_cluster`, as cluster sampling would draw it. All others, those
   that were `val_iid` too, are `excluded`.
3. Clusters do not part at a gap: a member may be as near to a member of another cluster. `val_cluster` is searched
   against all training sequences, and what has one at >= 50 % identity over >= 80 % of both is `excluded`.
4. A second search, of other k-mers and more sensitive, measures what is left. Of the other splits a sample is searched
   for comparison, once: nothing of them is dropped.

Judged are sequences of `SHORTEST_JUDGED` to `LONGEST_JUDGED` residues: no alignment of a shorter one is significant,
and MMseqs2 cannot align longer ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from data_prep.clusters import NO_CLUSTER, UniqueSequences, searchable, write_column
from data_prep.split import EXCLUDED_ID, FIRST_HELD_OUT, TRAIN_ID, VAL_CLUSTER_ID, VAL_IID_ID
from plm_scaling.core.files import writing_atomic
from plm_scaling.corpus.format import Leakage, RecordCount
from plm_scaling.corpus.hits import Hits, identity_bins, no_hits
from plm_scaling.corpus.homology import (
    LONGEST_JUDGED,
    SECOND_SEARCH_ARGS,
    Alike,
    Mmseqs,
    MmseqsWork,
    mmseqs_work,
    write_numbered,
)
from plm_scaling.corpus.mixing import mix64, mix_key

__all__ = ["GIANT_SHARE", "NEAR", "SHORTEST_JUDGED", "HoldOut", "pick_clusters", "split_draft"]

Int = npt.NDArray[np.int64]
Ids = npt.NDArray[np.uint8]

NEAR: Final = 0.5
"""Identity from which on a training sequence is too near."""
GIANT_SHARE: Final = 0.1
SHORTEST_JUDGED: Final = 30

# Ten times the usual E-value: no verdict hangs on the exact size of the training data.
_ALIKE: Final = Alike(identity=0.0, coverage=0.8, evalue=0.01)
_FIRST_SENSITIVITY: Final = 5.7
_SECOND_SENSITIVITY: Final = 7.5


@dataclass(frozen=True)
class HoldOut:
    """How much is held out, and how much of the other splits is searched.

    Parameters
    ----------
    share : of the unique training tokens, in whole clusters.
    seed : another seed draws other clusters.
    most : clusters held out at most: each is searched twice.
    sampled : sequences of every other split searched at most.
    """

    share: float = 0.01
    seed: int = 0
    most: int = 20_000
    sampled: int = 1_000


def split_draft(
    draft: UniqueSequences,
    base: Ids,
    names: Sequence[str],
    hold_out: HoldOut,
    *,
    mmseqs: Mmseqs,
    threads: int | None = None,
) -> tuple[Leakage, ...]:
    """Hold out clusters, drop what leaks, measure what is left.

    Reads `cluster/c50.u32` of the draft's folder, writes `split/split.u8` (uint8[n_rows]: as `base`, but for first
    rows that moved to `val_cluster` or `excluded`) and `split/identity.parquet`.

    Parameters
    ----------
    draft : the sequences.
    base : uint8[n_rows], the split of each row before clusters (rows that are not first are left as they are).
    names : names of the splits by id.
    hold_out : how much.
    mmseqs : the program.
    threads : cores MMseqs2 may use; all by default.

    Returns
    -------
    tuple of Leakage : `val_cluster` first, then every other split with sequences to judge.

    Raises
    ------
    CorpusError : MMseqs2 failed.
    """
    folder = draft.folder / "split"
    folder.mkdir(exist_ok=True)
    split = np.array(base, dtype=np.uint8)
    sizes = _sizes(draft)
    cluster = np.fromfile(draft.folder / "cluster" / "c50.u32", dtype=np.uint32)
    chosen = pick_clusters(cluster, split, sizes, hold_out)
    split[np.isin(cluster, cluster[chosen])] = EXCLUDED_ID
    split[chosen] = VAL_CLUSTER_ID
    rows = np.sort(np.concatenate([chosen, _samples(split, sizes, hold_out)]))
    origin = split[rows]
    with mmseqs_work(mmseqs, threads=threads, parent=folder) as work:
        search = _Search(draft, work, split == TRAIN_ID)
        first = search.run(rows, sensitivity=_FIRST_SENSITIVITY)
        near = np.isin(rows, first.query[first.identity >= NEAR])
        dropped = near & (origin == VAL_CLUSTER_ID)
        split[rows[dropped]] = EXCLUDED_ID
        left = rows[(origin == VAL_CLUSTER_ID) & ~dropped]
        second = search.run(left, sensitivity=_SECOND_SENSITIVITY, args=SECOND_SEARCH_ARGS)
    best = (first + second).best()
    nearest = np.zeros(len(rows), dtype=np.float32)
    nearest[np.searchsorted(rows, best.query)] = best.identity
    still = np.isin(rows, best.query[best.identity >= NEAR]) & ~dropped
    _write_identity(folder / "identity.parquet", rows, split[rows], best)
    write_column(folder / "split.u8", split)
    return tuple(
        Leakage(
            split=names[number],
            sequences=int(mine.sum()),
            hits_before=int((mine & near).sum()),
            dropped=RecordCount(
                sequences=int((mine & dropped).sum()), tokens=int(sizes[rows[mine & dropped]].sum(dtype=np.int64))
            ),
            hits_after=int((mine & still).sum()),
            bins=identity_bins(nearest[mine & ~dropped]),
        )
        for number in (VAL_CLUSTER_ID, VAL_IID_ID, *range(FIRST_HELD_OUT, len(names)))
        if (mine := origin == number).any()
    )


def pick_clusters(cluster: npt.NDArray[np.uint32], split: Ids, sizes: npt.NDArray[np.uint32], hold_out: HoldOut) -> Int:
    """int64[k], sorted: one row of every cluster to hold out, the one that stands for it.

    Parameters
    ----------
    cluster : uint32[n_rows], number of each row's 50 % cluster, `NO_CLUSTER` on rows that are not first.
    split : uint8[n_rows], before clusters.
    sizes : uint32[n_rows], tokens of each first row.
    hold_out : how much.
    """
    pool = (cluster != NO_CLUSTER) & ((split == TRAIN_ID) | (split == VAL_IID_ID))
    judged = pool & _judged(sizes)
    if not judged.any():
        return np.zeros(0, dtype=np.int64)
    n = int(cluster[cluster != NO_CLUSTER].max()) + 1
    trained = pool & (split == TRAIN_ID)
    tokens = np.bincount(cluster[trained], weights=sizes[trained], minlength=n)
    wanted = hold_out.share * tokens.sum()
    several = np.bincount(cluster[pool], minlength=n) > 1
    fit = (tokens > 0) & ~(several & (tokens > GIANT_SHARE * wanted))
    fit[cluster[(cluster != NO_CLUSTER) & (split >= FIRST_HELD_OUT)]] = False
    fit &= np.bincount(cluster[judged], minlength=n) > 0
    order = np.flatnonzero(fit)
    order = order[np.argsort(_keys(order, hold_out.seed, 0), kind="stable")]
    before = np.cumsum(tokens[order]) - tokens[order]
    taken = np.zeros(n, dtype=bool)
    taken[order[before < wanted][: hold_out.most]] = True
    rows = np.flatnonzero(judged)
    rows = rows[taken[cluster[rows]]]
    drawn = np.lexsort((_keys(rows, hold_out.seed, 1), cluster[rows]))
    rows = rows[drawn]
    is_first = np.ones(len(rows), dtype=bool)
    is_first[1:] = cluster[rows[1:]] != cluster[rows[:-1]]
    return np.sort(rows[is_first])


class _Search:
    """Searches of some rows against the training rows, whose database is made once."""

    def __init__(self, draft: UniqueSequences, work: MmseqsWork, training: npt.NDArray[np.bool_]) -> None:
        self.draft, self.work = draft, work
        self._made = 0
        self.targets = self._database(training)

    def run(self, rows: Int, *, sensitivity: float, args: Sequence[str] = ()) -> Hits:
        wanted = np.zeros(self.draft.n_rows, dtype=bool)
        wanted[rows] = True
        queries = self._database(wanted) if len(rows) else None
        if queries is None or self.targets is None:
            return no_hits()
        return self.work.search(queries, self.targets, _ALIKE, sensitivity=sensitivity, args=args)

    def _database(self, wanted: npt.NDArray[np.bool_]) -> Path | None:
        """A database of the wanted rows, None if MMseqs2 can search none of them."""
        # A database is its FASTA file and an index of it: each needs a file of its own.
        self._made += 1
        fasta = self.work.folder / f"rows{self._made}.fasta"
        if not write_numbered(fasta, searchable(self.draft.first_sequences(), wanted)):
            return None
        return self.work.database(fasta)


def _sizes(draft: UniqueSequences) -> npt.NDArray[np.uint32]:
    """uint32[n_rows]: tokens of each first row, 0 elsewhere."""
    sizes = np.zeros(draft.n_rows, dtype=np.uint32)
    for piece in draft.first_sequences():
        sizes[piece.rows] = piece.sizes
    return sizes


def _samples(split: Ids, sizes: npt.NDArray[np.uint32], hold_out: HoldOut) -> Int:
    """Rows of `val_iid` and of the held-out sets to search: of each those with the smallest keys."""
    found = [np.zeros(0, dtype=np.int64)]
    judged = _judged(sizes)
    for number in (VAL_IID_ID, *range(FIRST_HELD_OUT, int(split.max(initial=0)) + 1)):
        rows = np.flatnonzero(judged & (split == number))
        found.append(rows[np.argsort(_keys(rows, hold_out.seed, 2), kind="stable")[: hold_out.sampled]])
    return np.concatenate(found)


def _judged(sizes: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    judged: npt.NDArray[np.bool_] = (sizes > SHORTEST_JUDGED) & (sizes <= LONGEST_JUDGED + 1)
    return judged


def _keys(numbers: Int, seed: int, use: int) -> npt.NDArray[np.uint64]:
    """A fixed random order of numbers, another for every seed and use."""
    return mix64(numbers.astype(np.uint64) ^ np.uint64(mix_key(seed, use)))


def _write_identity(path: Path, rows: Int, split: Ids, best: Hits) -> None:
    """One row per searched sequence: its nearest training sequence, identity 0 and none where nothing was found."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = np.searchsorted(rows, best.query)
    identity, coverage = np.zeros((2, len(rows)), dtype=np.float32)
    hit, missing = np.zeros(len(rows), dtype=np.uint64), np.ones(len(rows), dtype=bool)
    identity[place], hit[place], missing[place] = best.identity, best.target, False
    coverage[place] = np.minimum(best.query_coverage, best.target_coverage)
    columns = {
        "row": pa.array(rows.astype(np.uint64)),
        "split": pa.array(split),
        "identity": pa.array(identity),
        "coverage": pa.array(coverage),
        "hit_row": pa.array(hit, mask=missing),
    }
    with writing_atomic(path) as handle:
        pq.write_table(pa.table(columns), handle)
