"""Helpers of the data_prep tests: write FASTA, read a prepared corpus back without the library's own reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from plm_scaling.core.alphabet import EOS, decode
from plm_scaling.corpus.format import MANIFEST_NAME, Manifest

Write = Callable[..., Path]


@dataclass(frozen=True)
class Contents:
    """A corpus as plain Python values: index rows (dicts) and the stored tokens of all shards."""

    manifest: Manifest
    rows: list[dict[str, Any]]
    tokens: np.ndarray

    def sequence(self, row: dict[str, Any]) -> str:
        start, length = row["offset"], row["length"]
        assert self.tokens[start + length] == EOS
        return decode(self.tokens[start : start + length])


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write text or bytes to a file of the test's folder."""

    def write_file(text: str | bytes, name: str = "a.fasta") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode("latin-1") if isinstance(text, str) else text)
        return path

    return write_file


@pytest.fixture
def contents() -> Callable[[Path], Contents]:
    """Read a prepared corpus."""

    def read(path: Path) -> Contents:
        manifest = Manifest.read(path / MANIFEST_NAME)
        rows = [row for entry in manifest.index for row in pq.read_table(path / entry.name).to_pylist()]
        shards = [np.fromfile(path / entry.name, dtype=np.uint8) for entry in manifest.shards]
        return Contents(manifest, rows, np.concatenate(shards))

    return read


@pytest.fixture
def make_fasta() -> Callable[..., str]:
    """Random protein FASTA: `n` records in 60-column lines, as text."""

    def make(n: int, seed: int = 0, mean: int = 120, prefix: str = "P") -> str:
        rng = np.random.default_rng(seed)
        letters = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", dtype=np.uint8)
        out = []
        for i in range(n):
            residues = letters[rng.integers(0, 20, int(rng.integers(1, 2 * mean)))].tobytes().decode()
            lines = "\n".join(residues[k : k + 60] for k in range(0, len(residues), 60))
            out.append(f">{prefix}{i:06d} protein {i}\n{lines}\n")
        return "".join(out)

    return make
