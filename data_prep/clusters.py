"""Clusters of near-duplicates among the unique sequences, by MMseqs2.

90 % clusters by linclust; their representatives are clustered at 50 % by cascaded clustering, and every member goes
where its representative goes. 90 % clusters therefore nest in 50 % clusters, as UniRef's do.

What is left in the draft's folder:

cluster/c90.u32, c50.u32  number of each row's cluster, `NO_CLUSTER` on rows that are not first
cluster/rep90.u32         row of each row's 90 % representative: an interrupted run need not repeat the first step
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import CorpusError
from plm_scaling.core.files import canonical_json, write_atomic, writing_atomic
from plm_scaling.corpus.format import ClusterStats
from plm_scaling.corpus.homology import (
    CLUSTER_ARGS,
    SHORTEST,
    Alike,
    Batch,
    Mmseqs,
    MmseqsWork,
    mmseqs_work,
    write_numbered,
)

__all__ = [
    "LONGEST",
    "NO_CLUSTER",
    "Sequences",
    "UniqueSequences",
    "cluster_draft",
    "largest_cluster",
    "searchable",
    "write_column",
]

Int = npt.NDArray[np.int64]
Rows = npt.NDArray[np.uint32]

NO_CLUSTER: Final = 0xFFFFFFFF
LONGEST: Final = 65_535
"""Residues; MMseqs2's own limit. Longer sequences are alone in their clusters."""

_ALIKE90: Final = Alike(identity=0.9)
_ALIKE50: Final = Alike(identity=0.5)
_CHUNK: Final = 1 << 22


class Sequences(Protocol):
    """Some sequences laid end to end."""

    @property
    def rows(self) -> Int:
        """int64[k]."""

    @property
    def tokens(self) -> npt.NDArray[np.uint8]:
        """uint8[sum(sizes)], `<eos>` after each."""

    @property
    def sizes(self) -> Int:
        """int64[k], tokens of each."""


class UniqueSequences(Protocol):
    """What clustering and splitting need of a draft."""

    @property
    def folder(self) -> Path:
        """Room for files."""

    @property
    def n_rows(self) -> int:
        """Records, copies included."""

    def first_sequences(self) -> Iterator[Sequences]:
        """The first occurrences in row order."""


def cluster_draft(draft: UniqueSequences, *, mmseqs: Mmseqs, threads: int | None = None) -> ClusterStats:
    """Cluster all unique sequences and write the numbers of the clusters.

    Memory is 8 bytes a row, and what MMseqs2 takes.

    Parameters
    ----------
    draft : the sequences, at most 2^32 - 1 rows.
    mmseqs : the program.
    threads : cores MMseqs2 may use; all by default.

    Returns
    -------
    ClusterStats : counts and settings; its last setting counts sequences that MMseqs2 cannot cluster.

    Raises
    ------
    CorpusError : MMseqs2 failed.
    """
    folder = draft.folder / "cluster"
    folder.mkdir(exist_ok=True)
    with mmseqs_work(mmseqs, threads=threads, parent=folder) as work:
        representative, alone = _representatives90(draft, work)
        near, args50 = _representatives50(draft, work, representative)
    write_column(folder / "c90.u32", _numbered(representative))
    n_clusters90 = _count_own(representative)
    # A member goes where its representative goes.
    for chunk in _chunks(len(representative)):
        rows = representative[chunk]
        known = rows != NO_CLUSTER
        representative[chunk][known] = near[rows[known]]
    number = _numbered(representative)
    write_column(folder / "c50.u32", number)
    settings = (_words("linclust", _ALIKE90.args()), _words("cluster", args50))
    left_out = f"alone: {alone} unique sequences shorter than {SHORTEST} or longer than {LONGEST} residues"
    return ClusterStats(
        tool=str(mmseqs),
        settings=(*settings, left_out) if alone else settings,
        n_clusters90=n_clusters90,
        n_clusters50=_count_own(representative),
        largest50=largest_cluster(number),
    )


def largest_cluster(number: Rows) -> int:
    """Unique sequences of the largest cluster.

    Parameters
    ----------
    number : uint32[n_rows], the number of each row's cluster, `NO_CLUSTER` where it has none.
    """
    return int(np.bincount(number[number != NO_CLUSTER], minlength=1).max())


def searchable(pieces: Iterable[Sequences], wanted: npt.NDArray[np.bool_] | None = None) -> Iterator[Batch]:
    """The sequences MMseqs2 can work on, as batches for `homology.write_numbered`.

    Parameters
    ----------
    pieces : sequences with their rows.
    wanted : bool[n_rows], the rows to keep; all by default.
    """
    for piece in pieces:
        keep = (piece.sizes > SHORTEST) & (piece.sizes <= LONGEST + 1)
        if wanted is not None:
            keep &= wanted[piece.rows]
        if keep.all():
            yield piece.rows, piece.tokens, piece.sizes
        elif keep.any():
            yield piece.rows[keep], piece.tokens[np.repeat(keep, piece.sizes)], piece.sizes[keep]


def write_column(path: Path, values: npt.NDArray[np.generic]) -> None:
    """Write one value per row, whole or not at all."""
    with writing_atomic(path) as handle:
        handle.write(np.ascontiguousarray(values).data)


def _representatives90(draft: UniqueSequences, work: MmseqsWork) -> tuple[Rows, int]:
    """uint32[n_rows], the row of each first row's 90 % representative; and how many sequences were not clustered."""
    path, mark = draft.folder / "cluster" / "rep90.u32", draft.folder / "cluster" / "rep90.json"
    key = {"rows": draft.n_rows, "setting": _words("linclust", _ALIKE90.args()), "tool": str(work.program)}
    found = json.loads(mark.read_text()) if mark.is_file() else {}
    if key.items() <= found.items() and path.stat().st_size == 4 * draft.n_rows:
        return np.fromfile(path, dtype=np.uint32), int(found["alone"])
    mark.unlink(missing_ok=True)
    representative = np.full(draft.n_rows, NO_CLUSTER, dtype=np.uint32)
    n_first = 0

    def noted() -> Iterator[Sequences]:
        nonlocal n_first
        for piece in draft.first_sequences():
            representative[piece.rows] = piece.rows
            n_first += len(piece.rows)
            yield piece

    fasta = work.folder / "unique.fasta"
    n_searchable = write_numbered(fasta, searchable(noted()))
    if n_searchable:
        for heads, members in work.linclust(work.database(fasta), _ALIKE90):
            representative[members] = heads
    fasta.unlink()
    write_column(path, representative)
    write_atomic(mark, canonical_json({**key, "alone": n_first - n_searchable}))
    return representative, n_first - n_searchable


def _representatives50(draft: UniqueSequences, work: MmseqsWork, representative: Rows) -> tuple[Rows, tuple[str, ...]]:
    """uint32[n_rows], the row of the 50 % representative of each 90 % representative (other rows mean nothing).

    And the arguments that decided them.
    """
    near = np.arange(draft.n_rows, dtype=np.uint32)
    fasta = work.folder / "representatives.fasta"
    if not write_numbered(fasta, searchable(draft.first_sequences(), representative == near)):
        return near, (*_ALIKE50.args(), *CLUSTER_ARGS)
    database = work.database(fasta)
    for heads, members in work.cluster(database, _ALIKE50):
        near[members] = heads
    return near, work.cluster_args(database, _ALIKE50)


def _numbered(representative: Rows) -> Rows:
    """uint32[n_rows]: clusters numbered 0, 1, ... in the order of their representatives."""
    number = np.full(len(representative), NO_CLUSTER, dtype=np.uint32)
    count = 0
    for chunk in _chunks(len(representative)):
        own = np.flatnonzero(_is_own(representative, chunk))
        number[own + chunk.start] = np.arange(count, count + len(own), dtype=np.uint32)
        count += len(own)
    for chunk in _chunks(len(representative)):
        rows = representative[chunk]
        known = rows != NO_CLUSTER
        number[chunk][known] = number[rows[known]]
        if (number[chunk][known] == NO_CLUSTER).any():
            raise CorpusError(
                "a representative is not in its own cluster", why="MMseqs2 left a damaged table of members"
            )
    return number


def _count_own(representative: Rows) -> int:
    return sum(int(np.count_nonzero(_is_own(representative, chunk))) for chunk in _chunks(len(representative)))


def _is_own(representative: Rows, chunk: slice) -> npt.NDArray[np.bool_]:
    here: npt.NDArray[np.bool_] = representative[chunk] == np.arange(chunk.start, chunk.stop, dtype=np.uint32)
    return here


def _chunks(n: int) -> Iterator[slice]:
    for start in range(0, n, _CHUNK):
        yield slice(start, min(start + _CHUNK, n))


def _words(verb: str, args: Iterable[str]) -> str:
    return " ".join((verb, *args))
