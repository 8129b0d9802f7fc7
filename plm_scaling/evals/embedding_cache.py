"""Embeddings kept by content: computed once for weights, code, dtype, layer, pooling and sequence, by any process.

FOLDER/KEY/HASH.safetensors: KEY hashes what all its sequences share; HASH is the SHA-256 of the file, so that a file
that was damaged does not fit its name. Files are written whole and never changed: processes share a folder freely.

Shapes: n sequences of a file, R rows of all of them (residues, or one each where pooled), D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from plm_scaling.core.files import canonical_json, sha256_file, sha256_text, write_atomic
from plm_scaling.evals.adapters.base import (
    Adapter,
    Direction,
    Float32Array,
    FloatArray,
    Letters,
    ModelInfo,
    Pool,
    Query,
)
from plm_scaling.evals.sampling import next_logprobs

__all__ = ["CachedAdapter", "cached", "uncached"]

_AT_ONCE: Final = 100_000
"""Residues that are computed and written together: what a kill can cost."""
_HASH_BYTES: Final = 32


@dataclass(frozen=True)
class _Place:
    """Rows of a file."""

    path: Path
    begin: int
    end: int


class CachedAdapter:
    """An `Adapter` whose embeddings are kept; everything else is asked of the model.

    Attributes
    ----------
    adapter : the model.
    folder : of the cache.
    computed, found : embeddings that were asked of the model, and that were not, so far.
    """

    def __init__(self, adapter: Adapter, folder: Path) -> None:
        self.adapter, self.folder = adapter, folder
        self.computed = self.found = 0
        self._places: dict[str, dict[bytes, _Place]] = {}
        self._read: set[Path] = set()

    @property
    def info(self) -> ModelInfo:
        """What it is and what it can do."""
        return self.adapter.info

    def masked_logprobs(self, queries: Sequence[Query], *, letters: Letters = "20") -> list[FloatArray]:
        """See `Adapter`."""
        return self.adapter.masked_logprobs(queries, letters=letters)

    def residue_logprobs(
        self, sequences: Sequence[str], *, direction: Direction = "forward", letters: Letters = "20"
    ) -> list[FloatArray]:
        """See `Adapter`."""
        return self.adapter.residue_logprobs(sequences, direction=direction, letters=letters)

    def attentions(self, sequence: str) -> Float32Array:
        """See `Adapter`."""
        return self.adapter.attentions(sequence)

    def next_logprobs(self, prefixes: Sequence[str]) -> FloatArray:
        """See `Continues`; of a model that remembers nothing by its likelihoods."""
        return next_logprobs(self.adapter, prefixes)

    @property
    def run(self) -> Path | None:
        """Folder of the run that the model comes from, where it is one of ours."""
        folder: Path | None = getattr(self.adapter, "run", None)
        return folder

    def embed(self, sequences: Sequence[str], *, layer: int = -1, pool: Pool = "mean") -> list[Float32Array]:
        """Activations as `Adapter.embed` gives them; a model without a hash of its weights is asked every time."""
        if not self.info.sha256:
            return self.adapter.embed(sequences, layer=layer, pool=pool)
        key = self._key(layer, pool)
        hashes = [hashlib.sha256(sequence.encode()).digest() for sequence in sequences]
        self._look(key)
        places = self._places[key]
        missing = {h: s for h, s in zip(hashes, sequences, strict=True) if h not in places}
        for part in _parts(missing):
            self._keep(key, part, self.adapter.embed(list(part.values()), layer=layer, pool=pool))
        self.computed += len(missing)
        self.found += len(sequences) - len(missing)
        wanted = [places[h] for h in hashes]
        opened = {path: _values(path) for path in {place.path for place in wanted}}
        rows = [np.array(opened[place.path][place.begin : place.end]) for place in wanted]
        return [row[0] for row in rows] if pool == "mean" else rows

    def _key(self, layer: int, pool: Pool) -> str:
        shared = {"weights": self.info.sha256, "dtype": self.info.dtype, "code": _code_version()}
        return sha256_text(canonical_json(shared | {"layer": layer, "pool": pool}))[:32]

    def _look(self, key: str) -> None:
        """Take in files that are new; one that does not fit its name is removed, and computed again when asked for."""
        places = self._places.setdefault(key, {})
        for path in sorted((self.folder / key).glob("*.safetensors")):
            if path in self._read:
                continue
            if not _whole(path):
                path.unlink(missing_ok=True)
                continue
            self._take_in(places, path)

    def _keep(self, key: str, part: dict[bytes, str], found: Sequence[Float32Array]) -> None:
        from safetensors.numpy import save

        rows = [np.atleast_2d(values) for values in found]
        data: bytes = save(
            {
                "hash": np.frombuffer(b"".join(part), dtype=np.uint8).reshape(-1, _HASH_BYTES),
                "rows": np.array([len(values) for values in rows], dtype=np.int64),
                "values": np.ascontiguousarray(np.concatenate(rows), dtype=np.float32),
            }
        )
        path = self.folder / key / f"{hashlib.sha256(data).hexdigest()}.safetensors"
        write_atomic(path, data, durable=False)
        self._take_in(self._places[key], path)

    def _take_in(self, places: dict[bytes, _Place], path: Path) -> None:
        from safetensors import safe_open

        with safe_open(path, framework="numpy") as handle:
            ends = np.cumsum(handle.get_tensor("rows"))
            hashes = handle.get_tensor("hash")
        begin = 0
        for digest, end in zip(hashes, ends, strict=True):
            places[digest.tobytes()] = _Place(path, begin, int(end))
            begin = int(end)
        self._read.add(path)


def cached(adapter: Adapter, folder: Path) -> CachedAdapter:
    """The same model with its embeddings kept in `folder`, which is made when something is written."""
    return CachedAdapter(adapter, folder)


def uncached(adapter: Adapter) -> Adapter:
    """The model itself."""
    return adapter.adapter if isinstance(adapter, CachedAdapter) else adapter


def _parts(missing: dict[bytes, str]) -> Iterator[dict[bytes, str]]:
    part: dict[bytes, str] = {}
    residues = 0
    for digest, sequence in missing.items():
        part[digest] = sequence
        residues += len(sequence)
        if residues >= _AT_ONCE:
            yield part
            part, residues = {}, 0
    if part:
        yield part


def _values(path: Path) -> Any:
    """Rows of a file, float32[R, D], of which only those asked for are read."""
    from safetensors import safe_open

    opened: Any = safe_open(path, framework="numpy")
    return opened.get_slice("values")


def _whole(path: Path) -> bool:
    try:
        return sha256_file(path) == path.stem
    except OSError:
        return False


@lru_cache(maxsize=1)
def _code_version() -> str:
    """Of everything that decides an embedding: the models and their adapters."""
    package = Path(__file__).parents[1]
    parts = sorted([*(package / "models").glob("*.py"), *(package / "evals" / "adapters").glob("*.py")])
    return sha256_text("".join(f"{path.name} {sha256_file(path)}\n" for path in parts))
