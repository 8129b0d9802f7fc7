"""What a corpus is made from: named sources of FASTA files, checked before any of them is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from data_prep.formats import is_local, kind_of, local_path
from plm_scaling.core.errors import ConfigError, CorpusError
from plm_scaling.corpus.format import HELD_OUT_PREFIX

__all__ = ["InputSize", "SourceInput", "describe_inputs", "held_out_sources"]

_COMPRESSED: Final = (".gz", ".zst")
_FASTA: Final = (".fasta", ".fa", ".faa", ".fas", ".pep")
_MAX_SOURCES: Final = 1 << 16
_RESERVED: Final = ("", "*")


@dataclass(frozen=True)
class SourceInput:
    """A source of sequences: a name and its files, in order.

    Parameters
    ----------
    name : of the source.
    paths : files or folders; data sets of the Hugging Face hub as text, `hf://owner/name`.
    origin : where the files were downloaded from, if they were.
    licence : that of the source, as its owner names it.
    """

    name: str
    paths: tuple[Path | str, ...]
    origin: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", tuple(self.paths))

    @classmethod
    def from_file(cls, path: Path | str) -> SourceInput:
        """A source of one file, named after it without its endings: `data/human.fasta.gz` is `human`."""
        name = Path(path).name
        for endings in (_COMPRESSED, _FASTA):
            ending = next((e for e in endings if name.lower().endswith(e) and len(name) > len(e)), "")
            name = name[: len(name) - len(ending)]
        return cls(name, (Path(path),))


@dataclass(frozen=True)
class InputSize:
    """A source before it is read: its name, how many files, and their bytes as stored."""

    name: str
    files: int
    bytes: int


def held_out_sources(hold_out: Mapping[str, Sequence[Path]]) -> tuple[SourceInput, ...]:
    """Held-out sets as sources, each named like its split."""
    return tuple(SourceInput(HELD_OUT_PREFIX + name, tuple(paths)) for name, paths in hold_out.items())


def describe_inputs(
    inputs: Sequence[SourceInput], *, hold_out: Mapping[str, Sequence[Path]] | None = None
) -> tuple[InputSize, ...]:
    """The sources in order of priority (held-out ones first) with their sizes; nothing is read.

    Raises
    ------
    ConfigError : no source, a name that is taken or reserved, a source without files.
    CorpusError : a file that is not there.
    """
    if not inputs:
        raise ConfigError("no sequences to prepare", hint="give at least one FASTA file")
    for source in inputs:
        if source.name in _RESERVED or source.name.startswith(HELD_OUT_PREFIX):
            raise ConfigError(f"{source.name!r} cannot name a source", why=f"'', '*' and {HELD_OUT_PREFIX}... are ours")
    sources = (*held_out_sources(hold_out or {}), *inputs)
    name, times = Counter(source.name for source in sources).most_common(1)[0]
    if times > 1:
        raise ConfigError(
            f"{times} sources are called {name!r}", hint="name them apart, or give the files as one source"
        )
    if len(sources) > _MAX_SOURCES:
        raise ConfigError(f"{len(sources)} sources", why=f"a corpus has at most {_MAX_SOURCES}")
    return tuple(_described(source) for source in sources)


def _described(source: SourceInput) -> InputSize:
    if not source.paths:
        raise ConfigError(f"source {source.name!r} has no files")
    return InputSize(source.name, len(source.paths), sum(_size(source.name, item) for item in source.paths))


def _size(source: str, item: Path | str) -> int:
    """Bytes of a file or folder as stored, 0 for what is not on this machine."""
    if not is_local(item):
        return 0
    path = local_path(item)
    if not path.exists():
        raise CorpusError("no such file", where=str(path), why=f"it belongs to source {source!r}")
    if path.is_file():
        return path.stat().st_size
    kind_of(item)  # refuses a folder that is no data set
    return sum(child.stat().st_size for child in path.rglob("*") if child.is_file())
