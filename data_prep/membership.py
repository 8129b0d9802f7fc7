"""Clusters from the user's own table of members instead of MMseqs2: UniRef's, or those of an earlier clustering.

Two layouts are read, tab-separated (`.gz`, `.bz2` and `.zst` too) or Parquet:

* MMseqs2's: representative, member, without a header. It gives 50 % clusters; a second file gives 90 % clusters.
* With the header `accession`, `cluster50` and, if it is known, `cluster90`: one row per sequence, an empty cell where a
  cluster is unknown.

Names are compared with the first word of a sequence's header, letter by letter; of exact copies the first occurrence
counts. UniRef is hierarchical: UniRef50 clusters seeds of UniRef90 clusters. A sequence that the 50 % table does not
name is therefore looked up there by the name of its 90 % cluster. What is still unknown is alone, and counted. A 90 %
cluster that crosses the border of 50 % clusters is cut there, so that clusters always nest.

All joins are on 64-bit hashes of names, on disk, bucket by bucket: memory does not grow with the corpus or the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from data_prep.clusters import NO_CLUSTER, write_column
from data_prep.hashing import hash_names
from data_prep.keys import BUCKETS, KeyReader, KeyWriter, bucket_groups
from plm_scaling.core.errors import CorpusError
from plm_scaling.corpus.format import ClusterStats
from plm_scaling.corpus.mixing import mix64

__all__ = ["NamedRows", "membership_clusters"]

Words = npt.NDArray[np.uint64]

_ROWS: Final = 1 << 18
_UNKNOWN: Final = np.uint64(0)
_OWN: Final = np.uint64(0x9E3779B97F4A7C15)
_COLUMNS: Final = ("accession", "cluster50", "cluster90")


class NamedRows(Protocol):
    """What this module needs of a draft."""

    @property
    def folder(self) -> Path:
        """Room for files."""

    @property
    def n_rows(self) -> int:
        """Records, copies included."""

    def names(self, start: int, stop: int) -> Any:
        """Arrow table of rows start..stop-1 with the column accession."""

    def first(self, start: int, stop: int) -> npt.NDArray[np.bool_]:
        """bool[stop - start]: which rows are first occurrences."""


def membership_clusters(draft: NamedRows, files: Sequence[Path]) -> ClusterStats:
    """Write `cluster/c90.u32` and `cluster/c50.u32` of the draft's folder, as `clusters.cluster_draft` does.

    Without 90 % clusters every sequence is a 90 % cluster of its own.

    Parameters
    ----------
    draft : the names.
    files : the table of members, or one of 50 % and one of 90 % clusters in MMseqs2's layout.

    Returns
    -------
    ClusterStats : counts; the setting says how many unique sequences the table does not name.

    Raises
    ------
    CorpusError : a table that cannot be read, names one sequence in two clusters, or names none of the corpus.
    """
    folder = draft.folder / "cluster"
    folder.mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="members-", dir=folder, ignore_cleanup_errors=True) as place:
        scratch = Path(place)
        members = _read_tables(files, scratch)
        keys = {level: _empty_keys(scratch / f"keys{level}", draft.n_rows) for level in (50, 90)}
        names = _write_names(draft, scratch / "names")
        for level, table in members.items():
            _join(names, table, keys[level], files)
        if 90 in members:
            _join(_write_seeds(keys[50], keys[90], scratch / "seeds"), members[50], keys[50], files)
        n_first, n_named = _nest(draft, keys[50], keys[90])
        if n_first and not n_named:
            raise CorpusError(
                "the table of members names no sequence of this corpus",
                where=str(files[0]),
                hint="it must use the first word of each header as it stands there: UniRef50_P12345, sp|P12345|NAME",
            )
        (n90, _), (n50, largest) = (
            _number(keys[level][: draft.n_rows], scratch / f"number{level}", folder / f"c{level}.u32")
            for level in (90, 50)
        )
    return ClusterStats(
        tool=" ".join(path.name for path in files),
        settings=(f"alone: {n_first - n_named} of {n_first} unique sequences, which the table does not name",),
        n_clusters90=n90,
        n_clusters50=n50,
        largest50=largest,
    )


# ---- tables --------------------------------------------------------------------------------------------------------


def _read_tables(files: Sequence[Path], scratch: Path) -> dict[int, Path]:
    """Hashes of members and of their clusters, by level: on disk, partitioned by the hash of the member."""
    header = _header(files[0])
    found = {}
    for level, path, columns in _levels(files, header):
        found[level] = scratch / f"members{level}"
        with KeyWriter(found[level], 1) as writer:
            try:
                for member, cluster in _pairs(path, header, columns):
                    writer.add(np.maximum(hash_names(member), 1), np.maximum(hash_names(cluster), 1))
            except (OSError, ValueError) as error:  # what Arrow raises on damaged tables is a ValueError
                raise CorpusError("cannot read the table of members", where=str(path), why=str(error)) from None
            writer.finish()
    return found


def _levels(files: Sequence[Path], header: list[str]) -> Iterator[tuple[int, Path, tuple[str, str]]]:
    """(level, file, columns of member and cluster) of each level there is."""
    if not set(_COLUMNS[:2]) <= set(header):
        if len(header) != 2 or files[0].suffix == ".parquet":
            raise CorpusError(
                f"the table of members has the columns {', '.join(header) or 'none'}",
                where=str(files[0]),
                hint="give representative and member without a header, or a header with accession and cluster50",
            )
        yield from ((level, path, ("f1", "f0")) for level, path in zip((50, 90), files, strict=False))
        return
    yield 50, files[0], ("accession", "cluster50")
    if "cluster90" in header:
        yield 90, files[0], ("accession", "cluster90")


def _header(path: Path) -> list[str]:
    """Names of the columns, or the cells of the first line of a table without them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".parquet":
            return list(pq.read_schema(path).names)
        with pa.input_stream(str(path), compression="detect") as stream:
            line: str = bytes(stream.read(1 << 16)).split(b"\n")[0].decode().rstrip("\r")
    except (OSError, ValueError) as error:
        raise CorpusError("cannot read the table of members", where=str(path), why=str(error)) from None
    return line.split("\t")


def _pairs(path: Path, header: list[str], columns: tuple[str, str]) -> Iterator[tuple[Any, Any]]:
    """Member and cluster, batch by batch, as Arrow strings; rows without a cluster are left out."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    if path.suffix == ".parquet":
        batches: Any = pq.ParquetFile(path).iter_batches(columns=list(columns), batch_size=_ROWS)
    else:
        names = ["f0", "f1"] if columns[0] == "f1" else None
        batches = csv.open_csv(
            path,
            read_options=csv.ReadOptions(column_names=names),
            parse_options=csv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.string()), include_columns=list(columns)
            ),
        )
    for batch in batches:
        member, cluster = (batch.column(name).cast(pa.string()) for name in columns)
        # An empty cell of text is an empty string, a missing one of Parquet is null.
        keep = pc.fill_null(pc.greater(pc.binary_length(cluster), 0), False)
        yield member.filter(keep), cluster.filter(keep)


# ---- joins ---------------------------------------------------------------------------------------------------------


def _empty_keys(path: Path, n_rows: int) -> Words:
    return np.memmap(path, dtype=np.uint64, mode="w+", shape=max(n_rows, 1))


def _write_names(draft: NamedRows, folder: Path) -> Path:
    """Hashes of the names of all first rows."""
    with KeyWriter(folder, 1) as writer:
        for start in range(0, draft.n_rows, _ROWS):
            stop = min(start + _ROWS, draft.n_rows)
            rows = np.flatnonzero(draft.first(start, stop))
            names = draft.names(start, stop).column("accession").take(rows)
            writer.add(np.maximum(hash_names(names), 1), (rows + start).astype(np.uint64))
        writer.finish()
    return folder


def _write_seeds(key50: Words, key90: Words, folder: Path) -> Path:
    """90 % clusters of the rows whose 50 % cluster is unknown."""
    with KeyWriter(folder, 1) as writer:
        for chunk in _chunks(len(key50)):
            rows = np.flatnonzero((key50[chunk] == _UNKNOWN) & (key90[chunk] != _UNKNOWN))
            writer.add(key90[chunk][rows], (rows + chunk.start).astype(np.uint64))
        writer.finish()
    return folder


def _join(rows: Path, members: Path, key: Words, files: Sequence[Path]) -> None:
    """Give every row whose hash a member has that member's cluster."""
    left, right = KeyReader(rows, 1), KeyReader(members, 1)
    for group in bucket_groups(left.counts() + right.counts(), 0, BUCKETS):
        name, row = left.read(*group)
        member, cluster = right.read(*group)
        order = np.lexsort((cluster, member))
        member, cluster = member[order], cluster[order]
        twice = (member[1:] == member[:-1]) & (cluster[1:] != cluster[:-1])
        if twice.any():
            raise CorpusError(
                "the table of members names a sequence in two clusters",
                where=" ".join(map(str, files)),
                hint="a name must stand for one sequence: give one release's members",
            )
        if len(member):
            place = np.minimum(np.searchsorted(member, name), len(member) - 1)
            known = member[place] == name
            key[row[known]] = cluster[place[known]]


def _nest(draft: NamedRows, key50: Words, key90: Words) -> tuple[int, int]:
    """Keys of all first rows such that 90 % clusters nest; returns how many first rows there are, and named ones."""
    n_first = n_named = 0
    for start in range(0, draft.n_rows, _ROWS):
        stop = min(start + _ROWS, draft.n_rows)
        first = draft.first(start, stop)
        wide, narrow = key50[start:stop], key90[start:stop]
        own = mix64(np.arange(start, stop, dtype=np.uint64) + _OWN)
        wide[:] = np.where(wide == _UNKNOWN, narrow, wide)
        named = wide != _UNKNOWN
        wide[:] = np.where(named, wide, own) * first
        narrow[:] = np.where(narrow == _UNKNOWN, own, mix64(narrow ^ mix64(wide + _OWN))) * first
        n_first += int(np.count_nonzero(first))
        n_named += int(np.count_nonzero(named & first))
    return n_first, n_named


def _number(key: Words, scratch: Path, path: Path) -> tuple[int, int]:
    """Write dense numbers of the known keys; returns how many there are, and how many rows share the commonest."""
    with KeyWriter(scratch, 1) as writer:
        for chunk in _chunks(len(key)):
            rows = np.flatnonzero(key[chunk] != _UNKNOWN)
            writer.add(key[chunk][rows], (rows + chunk.start).astype(np.uint64))
        writer.finish()
    number = np.full(len(key), NO_CLUSTER, dtype=np.uint32)
    reader = KeyReader(scratch, 1)
    count = largest = 0
    for group in bucket_groups(reader.counts(), 0, BUCKETS):
        words, places = reader.read(*group)
        distinct, inverse, sizes = np.unique(words, return_inverse=True, return_counts=True)
        number[places] = (inverse + count).astype(np.uint32)
        count += len(distinct)
        largest = max(largest, int(sizes.max(initial=0)))
    write_column(path, number)
    return count, largest


def _chunks(n: int) -> Iterator[slice]:
    for start in range(0, n, _ROWS):
        yield slice(start, min(start + _ROWS, n))
