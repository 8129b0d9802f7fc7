"""What the index of a corpus says about its records, read in stretches: two passes, whatever its size.

Memory: about 40 bytes per copy (a record that is no first occurrence), 4 bytes per 50 % and 90 % cluster, and a byte
per source and 50 % cluster, beside 250 MB for the stretch at hand. Measured: 400 MB and 14 s of CPU time for 1e7
records of five sources, a tenth of them copies, in 3e6 clusters; by these figures 1.8 GB and 2.5 minutes for 1e8.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from plm_scaling.corpus.format import FLAGS, TRAIN, ClusterStats
from plm_scaling.corpus.reader import Corpus

__all__ = ["ALL_SOURCES", "ClusterScan", "CopyScan", "IndexScan", "Tally", "count_sizes", "has_column", "scan_index"]

Bools = npt.NDArray[np.bool_]
Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Columns = dict[str, npt.NDArray[Any]]

ALL_SOURCES: Final = -1
_ROWS: Final = 1 << 18
_BLOCK: Final = 1 << 22
_VIRAL: Final = np.uint32(1 << FLAGS.index("viral"))


class Tally:
    """Sequences and tokens by a whole number, of which few are met."""

    def __init__(self) -> None:
        self.keys: Int = np.zeros(0, dtype=np.int64)
        self.counts: Int = np.zeros((0, 2), dtype=np.int64)

    def add(self, keys: Int, sizes: Int) -> None:
        """Count one sequence of `sizes` tokens under each key."""
        met, place = np.unique(keys, return_inverse=True)
        here = np.stack([np.bincount(place), np.bincount(place, weights=sizes)], axis=1).astype(np.int64)
        every = np.union1d(self.keys, met)
        counts = np.zeros((len(every), 2), dtype=np.int64)
        counts[np.searchsorted(every, self.keys)] = self.counts
        counts[np.searchsorted(every, met)] += here
        self.keys, self.counts = every, counts


@dataclass(frozen=True)
class CopyScan:
    """The sequences that several records hold.

    Parameters
    ----------
    within, across : int64[sources, 2], copies (and tokens) of a sequence that the same source had before, and of one
        that only earlier sources had.
    sizes : int64[k, 2], the numbers of records that sequences with copies have, and how many have it.
    shared : int64[sources, sources], different sequences that both sources hold; on the diagonal all of a source.
    """

    within: Int
    across: Int
    sizes: Int
    shared: Int


@dataclass(frozen=True)
class ClusterScan:
    """Clusters among the unique sequences.

    Parameters
    ----------
    sizes : percent of identity -> int64[k, 2], the sizes that occur (unique sequences) and how many clusters have it.
    effective : float64[sources], sum over a source's different sequences of 1 / size of their 50 % cluster.
    near : int64[sources, sources], different sequences of the first source in whose 50 % cluster the second has one.
    """

    sizes: dict[int, Int]
    effective: Float
    near: Int


@dataclass
class IndexScan:
    """Sums over the records of a corpus.

    Parameters
    ----------
    lengths : source -> sequences by length, copies included; ALL_SOURCES holds the unique sequences of all.
    train : int64[sources, 2], unique sequences and tokens of the training split, by source.
    viral : the same of those flagged viral.
    taxa : unique training sequences by taxon, 0 where it is unknown.
    begin, end : int64[sources], the addresses between which a source's unique sequences lie.
    """

    n_sources: int
    lengths: dict[int, Tally] = field(default_factory=dict)
    train: Int = field(init=False)
    viral: Int = field(init=False)
    taxa: Tally = field(default_factory=Tally)
    begin: Int = field(init=False)
    end: Int = field(init=False)
    copies: CopyScan = field(init=False)
    clusters: ClusterScan | None = None

    def __post_init__(self) -> None:
        self.train, self.viral = (np.zeros((self.n_sources, 2), dtype=np.int64) for _ in range(2))
        self.begin = np.full(self.n_sources, np.iinfo(np.int64).max)
        self.end = np.zeros(self.n_sources, dtype=np.int64)

    @property
    def n_unique(self) -> int:
        """Unique sequences of all sources."""
        return int(self.lengths[ALL_SOURCES].counts[:, 0].sum())

    def add(self, columns: Columns, train_id: int) -> None:
        """Count some records."""
        source, first = columns["source"], columns["first"]
        size = columns["length"] + 1
        for number in np.unique(source):
            here = source == number
            self.lengths.setdefault(int(number), Tally()).add(columns["length"][here], size[here])
        self.lengths.setdefault(ALL_SOURCES, Tally()).add(columns["length"][first], size[first])
        np.minimum.at(self.begin, source[first], columns["offset"][first])
        np.maximum.at(self.end, source[first], (columns["offset"] + size)[first])
        learnt = first & (columns["split"] == train_id)
        self.train += _by_source(source[learnt], size[learnt], self.n_sources)
        viral = learnt & (columns["flags"] & _VIRAL > 0)
        self.viral += _by_source(source[viral], size[viral], self.n_sources)
        self.taxa.add(columns["taxon"][learnt], size[learnt])


def scan_index(corpus: Corpus) -> IndexScan:
    """Read the index twice, and sum it up."""
    n_sources = len(corpus.manifest.sources)
    train_id = corpus.manifest.split_id(TRAIN)
    scan = IndexScan(n_sources)
    copies = _Copies()
    clusters = _Clusters(n_sources, stats) if (stats := corpus.manifest.clusters) else None
    names = ["cluster50", "cluster90"] if clusters else []
    columns_read = ["source", "length", "offset", "first", "split", "taxon", "flags", *names]
    for columns in _stretches(corpus, columns_read):
        scan.add(columns, train_id)
        copies.add(columns)
        if clusters:
            clusters.count(columns)
    copies.group()
    for columns in _stretches(corpus, ["source", "offset", "first", *names]):
        copies.find_owners(columns)
        if clusters:
            clusters.weigh(columns["source"][columns["first"]], columns["cluster50"][columns["first"]])
    new = copies.first_in_source()
    records = {number: int(tally.counts[:, 0].sum()) for number, tally in scan.lengths.items()}
    scan.copies = copies.result(new, n_sources, records)
    if clusters:
        clusters.weigh(copies.source[new], copies.cluster[new])
        scan.clusters = clusters.result()
    return scan


def count_sizes(sizes: npt.NDArray[np.integer[Any]]) -> Int:
    """int64[k, 2]: the sizes above 0 that occur, and how often; in stretches, for there may be very many."""
    times = np.zeros(int(sizes.max(initial=0)) + 1, dtype=np.int64)
    for begin in range(0, len(sizes), _BLOCK):
        times += np.bincount(sizes[begin : begin + _BLOCK], minlength=len(times))
    met = np.flatnonzero(times[1:]) + 1
    return np.stack([met, times[met]], axis=1)


def has_column(corpus: Corpus, name: str) -> bool:
    """Whether the index has a column; older releases wrote fewer."""
    import pyarrow.parquet as pq

    return name in pq.read_schema(corpus.path / corpus.manifest.index[0].name).names


def _stretches(corpus: Corpus, names: list[str]) -> Iterator[Columns]:
    """Columns of the index as numbers, some rows at a time; those that an older corpus lacks are 0."""
    import pyarrow.parquet as pq

    for entry in corpus.manifest.index:
        with pq.ParquetFile(corpus.path / entry.name) as file:
            present = [name for name in names if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=_ROWS, columns=present):
                columns = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in present}
                wide = {
                    name: column if name in ("first", "flags") else column.astype(np.int64)
                    for name, column in columns.items()
                }
                missing = {name: np.zeros(batch.num_rows, dtype=np.uint32) for name in names if name not in present}
                yield wide | missing


def _by_source(source: Int, size: Int, n_sources: int) -> Int:
    """int64[sources, 2]: sequences and tokens."""
    sequences = np.bincount(source, minlength=n_sources)
    return np.stack([sequences, np.bincount(source, weights=size, minlength=n_sources).astype(np.int64)], axis=1)


class _Copies:
    """Records that are no first occurrences, in row order, grouped by their sequence."""

    def __init__(self) -> None:
        none = np.zeros(0, dtype=np.int64)
        self._parts: list[tuple[Int, ...]] = [(none, none, none, none)]
        self.source: Int
        self.cluster: Int
        self._size: Int
        self._group: Int
        self._copied: Int
        self._owner: Int

    def add(self, columns: Columns) -> None:
        copy = ~columns["first"]
        cluster = columns.get("cluster50", np.zeros(len(copy), dtype=np.int64))
        kinds = (np.int64, np.uint16, np.uint32, np.uint32)
        found = (columns["offset"], columns["source"], columns["length"] + 1, cluster)
        self._parts.append(tuple(column[copy].astype(kind) for column, kind in zip(found, kinds, strict=True)))

    def group(self) -> None:
        """Number the sequences that have copies."""
        offset, source, size, cluster = (np.concatenate(parts) for parts in zip(*self._parts, strict=True))
        self._parts.clear()
        self._copied, self._group = np.unique(offset, return_inverse=True)
        self.source, self._size, self.cluster = source, size, cluster
        self._owner = np.zeros(len(self._copied), dtype=np.int64)

    def find_owners(self, columns: Columns) -> None:
        """Note the source of the first occurrences that have copies."""
        if not len(self._copied):
            return
        offset, source = (columns[name][columns["first"]] for name in ("offset", "source"))
        place = np.minimum(np.searchsorted(self._copied, offset), len(self._copied) - 1)
        hit = self._copied[place] == offset
        self._owner[place[hit]] = source[hit]

    def first_in_source(self) -> Bools:
        """Which copies are the first of their sequence in their source."""
        new = np.zeros(len(self.source), dtype=np.bool_)
        pair = self._group << 16 | self.source
        new[np.unique(pair, return_index=True)[1]] = True  # the first of equal ones
        new &= self._owner[self._group] != self.source
        return new

    def result(self, new: Bools, n_sources: int, records: dict[int, int]) -> CopyScan:
        """The counts; `records` holds the records of each source."""
        within, across = (_by_source(self.source[part], self._size[part], n_sources) for part in (~new, new))
        group = np.concatenate([np.arange(len(self._copied)), self._group[new]])
        source = np.concatenate([self._owner, self.source[new].astype(np.int64)])
        shared = np.zeros((n_sources, n_sources), dtype=np.int64)
        for number in range(n_sources):
            held = np.zeros(len(self._copied), dtype=np.bool_)
            held[group[source == number]] = True
            shared[number] = np.bincount(source[held[group]], minlength=n_sources)
            shared[number, number] = records.get(number, 0) - within[number, 0]
        return CopyScan(within, across, count_sizes(np.bincount(self._group, minlength=len(self._copied)) + 1), shared)


class _Clusters:
    """Sizes of the clusters, and which sources have a member in which."""

    def __init__(self, n_sources: int, stats: ClusterStats) -> None:
        self._sizes = {
            percent: np.zeros(n, dtype=np.uint32) for percent, n in ((50, stats.n_clusters50), (90, stats.n_clusters90))
        }
        self._held = np.zeros((n_sources, stats.n_clusters50), dtype=np.bool_)
        self._effective = np.zeros(n_sources)
        self._near = np.zeros((n_sources, n_sources), dtype=np.int64)

    def count(self, columns: Columns) -> None:
        """The first pass."""
        for percent in self._sizes:
            cluster = columns[f"cluster{percent}"]
            met, times = np.unique(cluster[columns["first"]], return_counts=True)
            self._grow(percent, int(cluster.max(initial=-1)) + 1)
            self._sizes[percent][met] += times.astype(np.uint32)
        self._held[columns["source"], columns["cluster50"]] = True

    def _grow(self, percent: int, n: int) -> None:
        """Make room for numbers beyond those of the manifest; data_prep leaves no gaps between them."""
        missing = n - len(self._sizes[percent])
        if missing > 0:
            self._sizes[percent] = np.pad(self._sizes[percent], (0, missing))
            if percent == 50:
                self._held = np.pad(self._held, ((0, 0), (0, missing)))

    def weigh(self, source: Int, cluster: Int) -> None:
        """The second pass, over the different sequences of each source."""
        n_sources = len(self._effective)
        self._effective += np.bincount(source, weights=1.0 / self._sizes[50][cluster], minlength=n_sources)
        for other in range(n_sources):
            self._near[:, other] += np.bincount(source[self._held[other][cluster]], minlength=n_sources)

    def result(self) -> ClusterScan:
        sizes = {percent: count_sizes(sizes) for percent, sizes in self._sizes.items()}
        return ClusterScan(sizes, self._effective, self._near)
