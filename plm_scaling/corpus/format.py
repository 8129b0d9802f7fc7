"""The on-disk layout of a prepared corpus (docs/file-formats.md), shared by its writer and its reader.

corpus/manifest.json         written last: a corpus without it is not a corpus
corpus/shards/000000.bin     flat uint8 token ids, `<eos>` after each sequence, no sequence across two shards
corpus/index/000000.parquet  one row per record, in the order of the sources and their files
corpus/windows/HASH/         packed windows, made on demand (corpus/packing.py)
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import pyarrow as pa
from pydantic import Field

from plm_scaling.core.records import Record

__all__ = [
    "HELD_OUT_PREFIX",
    "INDEX_SCHEMA",
    "MANIFEST_NAME",
    "MAX_SHARD_BYTES",
    "TRAIN",
    "VAL_IID",
    "FileEntry",
    "Manifest",
    "SourceStats",
    "SplitStats",
]

MANIFEST_NAME: Final = "manifest.json"
MAX_SHARD_BYTES: Final = 1 << 30
TRAIN: Final = "train"
VAL_IID: Final = "val_iid"
HELD_OUT_PREFIX: Final = "heldout_"

INDEX_SCHEMA: Final = pa.schema(
    [
        ("accession", pa.string()),
        ("source", pa.uint16()),  # position in Manifest.sources
        ("length", pa.uint32()),  # residues
        ("hash", pa.binary(16)),  # xxh3_128 of the normalised token ids, big-endian
        ("offset", pa.uint64()),  # of the first copy's first token, over all shards laid end to end
        ("first", pa.bool_()),  # first occurrence: its tokens are the stored ones
        ("split", pa.uint8()),  # position in Manifest.splits; a property of the hash, so copies share it
        ("cluster", pa.uint64()),  # null until clusters exist
    ]
)


class FileEntry(Record):
    """A file by its name (relative to the corpus, or the input's base name), size and content."""

    name: str
    bytes: int
    sha256: str


class SourceStats(Record):
    """Exact counts of one source, and what normalisation did to it."""

    name: str
    files: tuple[FileEntry, ...]
    sequences: int
    residues: int
    tokens: int
    """Residues + one `<eos>` per sequence."""
    unique_sequences: int
    """First occurrences: copies of an earlier source's sequences count there."""
    unique_tokens: int
    duplicate_sequences: int
    duplicate_tokens: int
    policy_counts: dict[str, int] = Field(default_factory=dict)
    """What was kept, renamed or dropped, by name: lower_case, stops, gaps, J_as_X, X, B, U, Z, O, empty_records, ..."""


class SplitStats(Record):
    """Unique sequences and tokens of one split."""

    name: str
    sequences: int
    tokens: int


class Manifest(Record):
    """The corpus as a value; its content hash is the corpus' id."""

    SCHEMA_VERSION: ClassVar[int] = 1
    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"versions", "created", "name"})

    name: str
    alphabet: str = "esm2-33"
    sources: tuple[SourceStats, ...]
    """In order of priority: the first source that holds a sequence owns it."""
    splits: tuple[SplitStats, ...]
    val_share: float
    split_seed: int
    shards: tuple[FileEntry, ...]
    index: tuple[FileEntry, ...]
    versions: dict[str, str] = Field(default_factory=dict)
    created: str = ""

    def identity(self) -> dict[str, Any]:
        """Content only: the same sequences prepared from renamed or re-compressed files are the same corpus."""
        identity = super().identity()
        for source in identity["sources"]:
            source.pop("files", None)
        return identity

    @property
    def n_sequences(self) -> int:
        """Records, duplicates included."""
        return sum(source.sequences for source in self.sources)

    @property
    def unique_tokens(self) -> int:
        """Tokens stored in the shards."""
        return sum(source.unique_tokens for source in self.sources)

    def split_id(self, name: str) -> int:
        """Position of a split; -1 if there is none of that name."""
        names = [split.name for split in self.splits]
        return names.index(name) if name in names else -1
