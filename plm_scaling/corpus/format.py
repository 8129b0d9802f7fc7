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
    "EXCLUDED",
    "FLAGS",
    "HELD_OUT_PREFIX",
    "IDENTITY_EDGES",
    "INDEX_SCHEMA",
    "MANIFEST_NAME",
    "MAX_SHARD_BYTES",
    "TRAIN",
    "VAL_CLUSTER",
    "VAL_IID",
    "ClusterStats",
    "FileEntry",
    "Leakage",
    "Manifest",
    "RecordCount",
    "SourceStats",
    "SplitStats",
]

MANIFEST_NAME: Final = "manifest.json"
MAX_SHARD_BYTES: Final = 1 << 30
TRAIN: Final = "train"
VAL_IID: Final = "val_iid"
VAL_CLUSTER: Final = "val_cluster"
"""One representative of each held-out 50 % cluster, none with a training sequence at 50 % identity or more."""
EXCLUDED: Final = "excluded"
"""Neither trained on nor scored: the other members of held-out clusters, and what was too near to training."""
HELD_OUT_PREFIX: Final = "heldout_"

FLAGS: Final = ("fragment", "low_complexity", "many_x", "short", "long", "weak_evidence", "viral")
"""Bit i of the index' `flags` is FLAGS[i]. Append only: the positions are on disk."""

IDENTITY_EDGES: Final = (0.3, 0.5, 0.9)
"""Borders of the four bins of identity to the nearest training sequence: < .3, .3-.5, .5-.9, >= .9."""

INDEX_SCHEMA: Final = pa.schema(
    [
        ("accession", pa.string()),
        ("source", pa.uint16()),  # position in Manifest.sources
        ("length", pa.uint32()),  # residues
        ("hash", pa.binary(16)),  # xxh3_128 of the normalised token ids, big-endian
        ("offset", pa.uint64()),  # of the first copy's first token, over all shards laid end to end
        ("first", pa.bool_()),  # first occurrence: its tokens are the stored ones
        ("split", pa.uint8()),  # position in Manifest.splits; copies share it
        ("cluster50", pa.uint32()),  # number of the 50 % identity cluster, null without clusters; copies share it
        ("cluster90", pa.uint32()),  # a part of one 50 % cluster
        ("taxon", pa.uint32()),  # NCBI taxonomy id of the header, 0 unknown
        ("members", pa.uint32()),  # sequences this one stands for (UniRef's n=), 0 unknown
        ("rep_id", pa.string()),  # UniRef's RepID, null unknown
        ("evidence", pa.uint8()),  # UniProt's protein existence level 1-5 (PE=), 0 unknown
        ("flags", pa.uint32()),  # bits of FLAGS
    ]
)


class FileEntry(Record):
    """A file by its name (relative to the corpus, or the input's base name), size and content."""

    name: str
    bytes: int
    sha256: str


class RecordCount(Record):
    """Some records and their tokens (residues + one `<eos>` each)."""

    sequences: int
    tokens: int


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
    flagged: dict[str, RecordCount] = Field(default_factory=dict)
    """Records kept and flagged, by flag (one record may have several)."""
    dropped: dict[str, RecordCount] = Field(default_factory=dict)
    """Records left out of the corpus on request, by the first reason that applied; not in the counts above."""
    origin: str = ""
    """Where the files came from: an address, or empty for local files."""
    licence: str = ""


class SplitStats(Record):
    """Unique sequences and tokens of one split."""

    name: str
    sequences: int
    tokens: int


class ClusterStats(Record):
    """Clusters of near-duplicates among the unique sequences."""

    tool: str
    """Program and version, or the file the membership was read from."""
    settings: tuple[str, ...]
    """Arguments that decide the clusters, one entry per program call."""
    n_clusters90: int
    n_clusters50: int
    largest50: int
    """Sequences of the largest 50 % cluster."""


class Leakage(Record):
    """How near one held-out split is to training, by a search of its sequences against all training sequences."""

    split: str
    sequences: int
    """Sequences searched."""
    hits_before: int
    """Of these, with a training sequence at >= 50 % identity before any was dropped."""
    dropped: RecordCount
    """Sequences dropped for such a hit (they are in split `excluded` now)."""
    hits_after: int
    """Sequences with such a hit left in the split: of `val_cluster` by a second, more sensitive search; of the other
    splits, of which nothing is dropped, by the first."""
    bins: tuple[int, int, int, int]
    """Sequences left in the split by identity to the nearest training sequence (IDENTITY_EDGES)."""


class Manifest(Record):
    """The corpus as a value; its content hash is the corpus' id."""

    SCHEMA_VERSION: ClassVar[int] = 2
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
    clusters: ClusterStats | None = None
    leakage: tuple[Leakage, ...] = ()
    filters: dict[str, Any] = Field(default_factory=dict)
    """Thresholds of the flags and what was dropped, where they were not the defaults."""
    containment: dict[str, RecordCount] = Field(default_factory=dict)
    """Unique sequences that another one holds, by how: `fragments`, `reversed`; `palindromes` apart. If counted."""
    identity_file: FileEntry | None = None
    """`identity.parquet`: row, split and identity to the nearest training sequence of every searched sequence."""
    versions: dict[str, str] = Field(default_factory=dict)
    created: str = ""

    def identity(self) -> dict[str, Any]:
        """Content only: the same sequences prepared from renamed or re-compressed files are the same corpus."""
        identity = super().identity()
        for source in identity["sources"]:
            for field in ("files", "origin", "licence"):
                source.pop(field, None)
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
