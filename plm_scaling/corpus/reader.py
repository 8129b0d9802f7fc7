"""`Corpus`: a prepared corpus opened for reading. Index columns load on first use, tokens stay memory-mapped."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.alphabet import decode
from plm_scaling.core.errors import CorpusError, PlanError, RecordError, did_you_mean
from plm_scaling.core.files import writing_atomic
from plm_scaling.core.run import Stream
from plm_scaling.corpus.format import FLAGS, MANIFEST_NAME, TRAIN, Manifest
from plm_scaling.corpus.index import IndexColumns
from plm_scaling.corpus.mixing import mix64
from plm_scaling.corpus.sampling import ClusterPool, cluster_keys, cluster_pool

if TYPE_CHECKING:
    import datasets

__all__ = ["Corpus", "stream_identity"]

Int = npt.NDArray[np.int64]

_PERMUTATION_KEY: Final = np.uint64(0x706C6D2D7363616C)
"""Fixed for ever: it decides which sequences a subset of U unique tokens holds."""
_HF_BATCH: Final = 20_000
_KEPT_POOLS: Final = 4
"""Cluster pools held in memory, 8 bytes per sequence each."""


class Corpus(IndexColumns):
    """A prepared corpus. Rows are records in index order; a duplicate's row points at its first copy's tokens.

    Attributes
    ----------
    path : the corpus' folder.
    manifest : its manifest.
    corpus_id : content hash of the manifest.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        super().__init__(path, manifest)
        self.corpus_id = manifest.content_hash()
        sizes = [entry.bytes for entry in manifest.shards]
        self._cluster_pools: dict[str, ClusterPool] = {}
        self._pools_lock = threading.Lock()  # one thread makes inputs ahead while another counts
        self._shard_starts: Int = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)

    def __repr__(self) -> str:
        return f"Corpus({str(self.path)!r}, id {self.corpus_id[:12]}, {self.manifest.n_sequences} sequences)"

    @classmethod
    def open(cls, path: Path | str) -> Corpus:
        """Open the corpus in folder `path`; checks that every file is there and has its size (not its hash).

        Raises
        ------
        CorpusError : no such folder, no manifest (preparation did not finish), a file missing or of another size.
        """
        path = Path(path)
        if not path.is_dir():
            raise CorpusError("no corpus here", where=str(path), hint="make one: plm-scaling prep FASTA... -o CORPUS")
        if not (path / MANIFEST_NAME).is_file():
            raise CorpusError(
                "this folder has no manifest, so it is no complete corpus",
                where=str(path / MANIFEST_NAME),
                why="the manifest is written last: preparation never ran here, or was interrupted",
                hint="run plm-scaling prep again",
            )
        try:
            manifest = Manifest.read(path / MANIFEST_NAME)
        except RecordError as error:
            raise CorpusError(error.what, where=error.where, why=error.why, hint=error.hint) from None
        for entry in (*manifest.shards, *manifest.index):
            _check_file(path / entry.name, entry.bytes)
        return cls(path, manifest)

    # ---- tokens ------------------------------------------------------------------------------------------------

    @cached_property
    def shards(self) -> tuple[npt.NDArray[np.uint8], ...]:
        """The memory-mapped shards."""
        return tuple(
            np.asarray(np.memmap(self.path / entry.name, dtype=np.uint8, mode="r")) for entry in self.manifest.shards
        )

    def tokens(self, row: int) -> npt.NDArray[np.uint8]:
        """uint8[length + 1]: token ids of a record with its `<eos>`, a read-only view of its shard."""
        address, size = int(self.offset[row]), int(self.length[row]) + 1
        shard = int(np.searchsorted(self._shard_starts, address, side="right")) - 1
        begin = address - int(self._shard_starts[shard])
        view: npt.NDArray[np.uint8] = self.shards[shard][begin : begin + size]
        return view

    def gather(self, address: Int, size: Int) -> npt.NDArray[np.uint8]:
        """Token spans laid end to end: uint8[sum(size)]. No span may cross two shards (no sequence does).

        Parameters
        ----------
        address : int64[n], first token of each span.
        size : int64[n], tokens of each span.
        """
        ends = np.cumsum(size)
        total = int(ends[-1]) if len(ends) else 0
        shard = np.searchsorted(self._shard_starts, address, side="right") - 1
        local = address - self._shard_starts[shard]
        index = np.repeat(local - (ends - size), size)
        index += np.arange(total)
        used = np.unique(shard)
        if len(used) == 1:
            out: npt.NDArray[np.uint8] = self.shards[int(used[0])][index]
            return out
        out = np.empty(total, dtype=np.uint8)
        for number in used:
            here = np.repeat(shard == number, size)
            out[here] = self.shards[int(number)][index[here]]
        return out

    # ---- which sequences ---------------------------------------------------------------------------------------

    def _sequence_keys(self) -> npt.NDArray[np.uint64]:
        """uint64[n]: a fixed mix of each record's content hash."""
        return mix64(self.hash[:, 0] ^ mix64(self.hash[:, 1] + _PERMUTATION_KEY))

    @cached_property
    def _permutation(self) -> Int:
        """All rows sorted by their keys; exact copies follow each other in row order, first occurrences first."""
        return np.lexsort((self.hash[:, 1], self._sequence_keys())).astype(np.int64, copy=False)

    @cached_property
    def _cluster_keys(self) -> npt.NDArray[np.uint64]:
        """uint64[]: the key of each 50 % cluster, of all its sequences: whatever a pool leaves out of it."""
        return cluster_keys(self.cluster(50), self._sequence_keys())

    def source_ids(self, sources: Sequence[str]) -> list[int]:
        """Positions of the named sources; none named means all.

        Raises
        ------
        PlanError : the corpus has no source of that name.
        """
        names = [source.name for source in self.manifest.sources]
        for name in sources:
            if name not in names:
                raise PlanError(
                    f"the corpus has no source {name!r}", where=str(self.path), hint=did_you_mean(name, names)
                )
        return [names.index(name) for name in sources] if sources else list(range(len(names)))

    def rows(
        self, split: str, sources: Sequence[str] = (), duplicates: bool = False, exclude: Sequence[str] = ()
    ) -> Int:
        """int64[n]: the rows of a split in keyed order, a permutation fixed by the sequences alone.

        A prefix is therefore a random subset, prefixes are nested, and the order of the input files does not
        matter. Without `duplicates` only first occurrences are listed: a sequence held by several sources
        belongs to the first of them. `exclude` leaves out every sequence whose first occurrence has one of
        these flags, and its copies.

        Raises
        ------
        PlanError : unknown split, source or flag.
        """
        split_id = self.manifest.split_id(split)
        if split_id < 0:
            names = [entry.name for entry in self.manifest.splits]
            raise PlanError(f"the corpus has no split {split!r}", where=str(self.path), hint=did_you_mean(split, names))
        keep = self.split == split_id
        if sources:
            keep &= np.isin(self.source, self.source_ids(sources))
        if not duplicates:
            keep &= self.first
        if exclude:
            keep &= ~self._flagged(exclude, duplicates)
        order = self._permutation
        chosen: Int = order[keep[order]]
        return chosen

    def _flagged(self, flags: Sequence[str], duplicates: bool) -> npt.NDArray[np.bool_]:
        """bool[n]: whether a record's sequence has one of the flags; of copies only if `duplicates`."""
        for flag in flags:
            if flag not in FLAGS:
                raise PlanError(f"there is no flag {flag!r}", where="exclude", hint=did_you_mean(flag, FLAGS))
        bits = sum(1 << FLAGS.index(flag) for flag in set(flags))
        flagged: npt.NDArray[np.bool_] = (self.flags & np.uint32(bits)) != 0
        if duplicates:
            order = self._permutation
            heads = np.flatnonzero(self.first[order])
            flagged[order] = np.repeat(flagged[order[heads]], np.diff(np.append(heads, len(order))))
        return flagged

    def pool(self, stream: Stream, split: str = TRAIN) -> Int:
        """int64[n]: the rows a stream draws from, a range of the keyed permutation of its sequences or clusters.

        A sequence belongs to the range in which its first token falls, so that the ranges [a, b) and [b, c)
        share no sequence and miss none. Tokens of exact copies are counted once: with `duplicates` the range
        holds the same sequences, and their copies. With cluster sampling a range holds whole clusters, and the
        tokens of all their members count. A range that ends beyond the last token is cut there.

        Raises
        ------
        PlanError : unknown source or flag, or no token left after `start_tokens`.
        CorpusError : cluster sampling from a corpus without clusters.
        """
        if stream.sampling == "cluster50":
            return self.cluster_pool(stream, split).rows
        rows = self.rows(split, stream.sources, stream.duplicates, stream.exclude)
        if stream.start_tokens == 0 and stream.unique_tokens is None and len(rows):
            return rows
        begin, total = _begins(self.offset[rows], self.length[rows] + 1)
        return rows[slice(*self._range(stream, split, begin, total))]

    def cluster_pool(self, stream: Stream, split: str = TRAIN) -> ClusterPool:
        """The clusters a stream with cluster sampling draws from, with all members the stream may visit.

        Raises
        ------
        PlanError, CorpusError : as `pool`; and exact duplicates asked for, which are no members.
        """
        if stream.duplicates:
            raise PlanError(
                "cluster sampling visits no exact duplicates",
                where="duplicates",
                why="an epoch shows one member of each cluster; a copy is the same member",
                hint='leave out duplicates = true, or use sampling = "flat"',
            )
        name = f"{split} {stream_identity(stream)}"
        with self._pools_lock:
            if name not in self._cluster_pools:
                pool = self._made_cluster_pool(stream, split)
                while len(self._cluster_pools) >= _KEPT_POOLS:
                    self._cluster_pools.pop(next(iter(self._cluster_pools)))
                self._cluster_pools[name] = pool
            return self._cluster_pools[name]

    def _made_cluster_pool(self, stream: Stream, split: str) -> ClusterPool:
        rows = self.rows(split, stream.sources, exclude=stream.exclude)
        whole = cluster_pool(rows, self.cluster(50), self._cluster_keys)
        tokens = whole.tokens(self.length)
        ends = np.cumsum(tokens)
        return whole.between(*self._range(stream, split, ends - tokens, int(ends[-1]) if len(ends) else 0))

    def epoch_rows(self, stream: Stream, epoch: int, split: str = TRAIN) -> Int:
        """int64[n]: the rows a stream visits in an epoch: its whole pool, or one member of each cluster.

        Raises
        ------
        PlanError, CorpusError : as `pool`.
        """
        if stream.sampling == "cluster50":
            return self.cluster_pool(stream, split).epoch(epoch)
        return self.pool(stream, split)

    def _range(self, stream: Stream, split: str, begin: Int, total: int) -> tuple[int, int]:
        """First and last + 1 of the sequences (or clusters) whose first token falls into the stream's range."""
        if stream.start_tokens >= total:
            without = f", without {', '.join(stream.exclude)}" if stream.exclude else ""
            raise PlanError(
                f"the pool holds {total:,} tokens, none after start_tokens = {stream.start_tokens:,}",
                where=str(self.path),
                why=f"split {split}, sources {', '.join(stream.sources) or 'all'}{without}",
                hint="lower start_tokens (or the source run's D), or prepare a larger corpus",
            )
        lower = int(np.searchsorted(begin, stream.start_tokens, side="left"))
        if stream.unique_tokens is None:
            return lower, len(begin)
        upper = int(np.searchsorted(begin, stream.start_tokens + stream.unique_tokens, side="left"))
        if upper == lower:
            kind = "cluster" if stream.sampling == "cluster50" else "sequence"
            raise PlanError(
                f"no {kind} begins within {stream.unique_tokens:,} tokens after token {stream.start_tokens:,}",
                where=str(self.path),
                hint=f"raise unique_tokens above the length of the longest {kind}s",
            )
        return lower, upper

    def pool_tokens(self, stream: Stream, split: str = TRAIN) -> int:
        """Distinct tokens of a stream's pool."""
        rows = self.pool(stream, split)
        return _begins(self.offset[rows], self.length[rows] + 1)[1]

    # ---- for people and other libraries ------------------------------------------------------------------------

    def accessions(self, rows: Sequence[int] | Int) -> list[str]:
        """Accessions of the given rows."""
        names: list[str] = self._column("accession").take(np.asarray(rows, dtype=np.int64)).to_pylist()
        return names

    def lines_of(self, accessions: Any) -> Int:
        """int64[n]: of every record, the position of its accession in a list (or Arrow array) of them, -1 for none."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted = accessions if isinstance(accessions, pa.Array) else pa.array(accessions, pa.string())
        found = pc.fill_null(pc.index_in(self._column("accession"), value_set=wanted), -1)
        return np.asarray(found, dtype=np.int64)

    def sequence(self, row: int) -> str:
        """Residue letters of a record."""
        return decode(self.tokens(row)[:-1])

    def to_hf_dataset(self) -> datasets.Dataset:
        """Every record as a memory-mapped Hugging Face dataset: accession, sequence, source, split, length.

        The Arrow file is written once, into the corpus (or a temporary folder where that is read-only).
        """
        import datasets
        import pyarrow as pa

        path = self.path / "arrow" / f"{self.corpus_id[:16]}.arrow"
        if not path.is_file():
            try:
                path.parent.mkdir(exist_ok=True)
            except OSError:
                path = Path(tempfile.mkdtemp(prefix="plm-scaling-")) / path.name
            with writing_atomic(path) as handle, pa.ipc.new_stream(handle, _HF_SCHEMA()) as writer:
                for batch in self._hf_batches():
                    writer.write_batch(batch)
        return datasets.Dataset.from_file(str(path))

    def _hf_batches(self) -> Iterator[Any]:
        import pyarrow as pa

        accession = self._column("accession")
        sources = np.array([entry.name for entry in self.manifest.sources])
        splits = np.array([entry.name for entry in self.manifest.splits])
        for begin in range(0, self.manifest.n_sequences, _HF_BATCH):
            part = slice(begin, begin + _HF_BATCH)
            length = self.length[part]
            letters = pa.py_buffer(decode(self.gather(self.offset[part], length)).encode())
            ends = pa.py_buffer(np.concatenate([[0], np.cumsum(length)]))
            columns = [
                accession.slice(begin, len(length)).combine_chunks(),
                pa.LargeStringArray.from_buffers(len(length), ends, letters).cast(pa.string()),
                pa.array(sources[self.source[part]]),
                pa.array(splits[self.split[part]]),
                pa.array(length),
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=_HF_SCHEMA())


def _HF_SCHEMA() -> Any:
    import pyarrow as pa

    names = ("accession", "sequence", "source", "split")
    return pa.schema([*((name, pa.string()) for name in names), ("length", pa.int64())])


def _begins(address: Int, size: Int) -> tuple[Int, int]:
    """Distinct tokens before each row (equal for neighbouring copies), and in all of them."""
    if not len(address):
        return np.zeros(0, dtype=np.int64), 0
    new = np.concatenate([[True], address[1:] != address[:-1]])
    ends = np.cumsum(np.where(new, size, 0))
    # A copy begins where its group does: its group's end less its own (equal) size.
    return (ends - size).astype(np.int64), int(ends[-1])


def stream_identity(stream: Stream) -> dict[str, Any]:
    """What decides a stream's pool: everything but its weight."""
    identity = stream.identity()
    identity.pop("weight", None)
    return identity


def _check_file(path: Path, size: int) -> None:
    if not path.is_file():
        raise CorpusError("a file of the corpus is missing", where=str(path), hint="prepare or copy the corpus again")
    found = path.stat().st_size
    if found != size:
        raise CorpusError(
            f"{found:,} bytes where the manifest says {size:,}",
            where=str(path),
            why="the file was cut or changed after preparation",
            hint="prepare or copy the corpus again",
        )
