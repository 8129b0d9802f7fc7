"""The index of a prepared corpus as arrays, one value per record. Each column is read on first use."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import CorpusError
from plm_scaling.corpus.format import Manifest

__all__ = ["IndexColumns"]

Int = npt.NDArray[np.int64]


class IndexColumns:
    """Columns of the index of the corpus in folder `path`.

    Attributes
    ----------
    path : the corpus' folder.
    manifest : its manifest.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    def _column(self, name: str) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        paths = [self.path / entry.name for entry in self.manifest.index]
        if not paths or name not in pq.read_schema(paths[0]).names:
            raise CorpusError(
                f"the index has no column {name!r}",
                where=str(self.path),
                why="an older release prepared this corpus",
                hint="prepare it again",
            )
        parts = [pq.read_table(path, columns=[name]) for path in paths]
        return pa.concat_tables(parts).column(0)

    def _numbers(self, name: str, dtype: type[np.generic]) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = self._column(name).to_numpy().astype(dtype, copy=False)
        if len(values) != self.manifest.n_sequences:
            raise CorpusError(
                f"the index holds {len(values)} records, the manifest counts {self.manifest.n_sequences}",
                where=str(self.path),
                hint="plm-scaling prep verify CORPUS names the damaged file",
            )
        return values

    @cached_property
    def source(self) -> npt.NDArray[np.uint16]:
        """Position of each record's source in `manifest.sources`."""
        return self._numbers("source", np.uint16)

    @cached_property
    def length(self) -> Int:
        """Residues of each record."""
        return self._numbers("length", np.int64)

    @cached_property
    def offset(self) -> Int:
        """Address of the first copy's first token, over all shards laid end to end: equal for exact copies."""
        return self._numbers("offset", np.int64)

    @cached_property
    def first(self) -> npt.NDArray[np.bool_]:
        """Whether a record is the first occurrence of its sequence."""
        return self._numbers("first", np.bool_)

    @cached_property
    def split(self) -> npt.NDArray[np.uint8]:
        """Position of each record's split in `manifest.splits`."""
        return self._numbers("split", np.uint8)

    @cached_property
    def flags(self) -> npt.NDArray[np.uint32]:
        """Bits of `format.FLAGS` of each record."""
        return self._numbers("flags", np.uint32)

    @cached_property
    def taxon(self) -> npt.NDArray[np.uint32]:
        """NCBI taxonomy id of each record, 0 unknown."""
        return self._numbers("taxon", np.uint32)

    @cached_property
    def members(self) -> npt.NDArray[np.uint32]:
        """Sequences each record stands for (UniRef's n=), 0 unknown."""
        return self._numbers("members", np.uint32)

    @cached_property
    def evidence(self) -> npt.NDArray[np.uint8]:
        """UniProt's protein existence level of each record, 0 unknown."""
        return self._numbers("evidence", np.uint8)

    def cluster(self, percent: int) -> Int:
        """int64[n]: number of each record's cluster at 50 or 90 % identity; copies share it.

        Raises
        ------
        CorpusError : the corpus has no clusters.
        """
        if self.manifest.clusters is None:
            raise CorpusError(
                "this corpus has no clusters", where=str(self.path), hint="prepare it again with --cluster mmseqs"
            )
        return self._clusters50 if percent == 50 else self._clusters90

    @cached_property
    def _clusters50(self) -> Int:
        return self._numbers("cluster50", np.int64)

    @cached_property
    def _clusters90(self) -> Int:
        return self._numbers("cluster90", np.int64)

    @cached_property
    def hash(self) -> npt.NDArray[np.uint64]:
        """uint64[n, 2]: high and low half of each sequence's 128-bit content hash."""
        column = self._column("hash")
        raw = b"".join(
            chunk.buffers()[1].to_pybytes()[16 * chunk.offset : 16 * (chunk.offset + len(chunk))]
            for chunk in column.chunks
        )
        return np.frombuffer(raw, dtype=">u8").reshape(-1, 2).astype(np.uint64)
