"""Any input as FASTA text: what a file or an address is, and its sequences as text for the parser."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from data_prep.columns import ROLES
from data_prep.hub import HUB, HUB_NAME, hub_text, saved_text
from data_prep.streams import BLOCK_BYTES, Meter, text_blocks
from data_prep.tables import arrow_text, parquet_text
from plm_scaling.core.errors import ConfigError, CorpusError, did_you_mean

__all__ = [
    "HUB",
    "HUB_NAME",
    "Item",
    "Kind",
    "is_local",
    "is_splittable",
    "kind_of",
    "local_path",
    "parse_item",
    "text_of",
]

_URLS: Final = ("https://", "http://", "ftp://")
_KEYS: Final = frozenset({"seq", "id", "split", *ROLES} - {"sequence", "accession"})
_SNIFFED_BYTES: Final = 4096
_STRANGERS: Final = {
    b"PK\3\4": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"BAM\1": "BAM",
    b"CRAM": "CRAM",
    b"FEA1": "Feather version 1",
    b"\x89HDF": "HDF5",
    b"SQLite format 3": "SQLite",
    b"LOCUS ": "GenBank",
    b"@": "FASTQ and SAM",
    b"{": "JSON",
    b"<!DOCTYPE html": "HTML",
    b"<html": "HTML",
}
_ARROW_STREAM: Final = b"\xff\xff\xff\xff"
_READ: Final = (
    "give protein FASTA (plain, gzip or zstd), Parquet, Arrow, a `datasets` folder, or UniProt's .dat or .xml"
)
_TAR_MAGIC: Final = slice(257, 262)


class Kind(StrEnum):
    """What an input is."""

    FASTA = "fasta"
    PARQUET = "parquet"
    ARROW = "arrow"
    DATASET = "dataset"
    """A folder that the `datasets` library saved."""
    HUB = "hub"
    """A data set of the Hugging Face Hub, streamed."""
    FLAT_FILE = "dat"
    """UniProt's flat file."""
    XML = "xml"
    """UniProt's XML."""
    URL = "url"
    """A file of another machine."""


@dataclass(frozen=True)
class Item:
    """An input in its parts.

    Parameters
    ----------
    place : path, address, or OWNER/NAME[@REVISION][/CONFIG][:SPLIT] of the Hub.
    options : what the user said after `?`: columns by role (`seq`, `id`, ...) and `split`.
    """

    place: str
    is_hub: bool = False
    is_url: bool = False
    options: Mapping[str, str] = field(default_factory=dict)


def parse_item(item: str | Path) -> Item:
    """Take an input's words apart: `FILE?seq=COLUMN&id=COLUMN`, `hf://OWNER/NAME:SPLIT`, an address, a path.

    Raises
    ------
    ConfigError : an option nobody knows, or a Hub name that is none.
    """
    text = str(item)
    if text.startswith(_URLS):
        return Item(text, is_url=True)
    place, mark, query = text.rpartition("?")
    if not mark or "=" not in query or (not text.startswith(HUB) and Path(text).exists()):
        place, query = text, ""
    options = dict(_option(part, text) for part in query.split("&") if part)
    if not place.startswith(HUB):
        return Item(place, options=options)
    name = place.removeprefix(HUB).removeprefix("datasets/").strip("/")
    if not HUB_NAME.fullmatch(name):
        raise ConfigError(
            f"{item} names no data set of the Hub", hint="write hf://OWNER/NAME, hf://OWNER/NAME/CONFIG:SPLIT"
        )
    return Item(name, is_hub=True, options=options)


def _option(part: str, text: str) -> tuple[str, str]:
    key, _, value = part.partition("=")
    if key not in _KEYS or not value:
        raise ConfigError(f"{key!r} is no option of an input", where=text, hint=did_you_mean(key, _KEYS))
    return key, value


def is_local(item: str | Path) -> bool:
    """Whether an input is a file or folder of this machine."""
    return not str(item).startswith((HUB, *_URLS))


def local_path(item: str | Path) -> Path:
    """The file or folder of a local input, without options."""
    return Path(parse_item(item).place)


def kind_of(item: str | Path) -> Kind:
    """Tell what an input is, by its first bytes rather than its name.

    Raises
    ------
    ConfigError : an option or a Hub name that cannot be.
    CorpusError : not there, or a format that is not read.
    """
    parsed = parse_item(item)
    if parsed.is_hub:
        return Kind.HUB
    if parsed.is_url:
        return Kind.URL
    path = Path(parsed.place)
    if path.is_dir():
        return _kind_of_folder(path)
    try:
        with path.open("rb") as handle:
            raw = handle.read(_SNIFFED_BYTES)
    except OSError as error:
        raise CorpusError(f"cannot read the file: {error.strerror}", where=str(path)) from None
    return _kind_of_bytes(raw, path)


def _kind_of_folder(path: Path) -> Kind:
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return Kind.DATASET
    raise CorpusError(
        "a folder, not a file",
        where=str(path),
        why="it is none that `datasets` saved (there is no state.json or dataset_dict.json in it)",
        hint="give the files in it",
    )


def _kind_of_bytes(raw: bytes, path: Path) -> Kind:
    if raw.startswith(b"PAR1"):
        return Kind.PARQUET
    if raw.startswith((b"ARROW1", _ARROW_STREAM)):
        return Kind.ARROW
    text = _unpacked(raw)
    for start in (raw, text):
        stranger = next((name for magic, name in _STRANGERS.items() if start.startswith(magic)), "")
        if stranger or start[_TAR_MAGIC] == b"ustar":
            raise CorpusError(f"{stranger or 'tar'} files are not read", where=str(path), hint=_READ)
    text = text.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"ID   "):
        return Kind.FLAT_FILE
    if text.startswith((b"<?xml", b"<uniprot")) and b"uniprot.org/uniprot" in text:
        return Kind.XML
    # Whatever else is wrong with the file, the FASTA reader says where and why.
    return Kind.FASTA


def _unpacked(raw: bytes) -> bytes:
    """The first text of a compressed file, or `raw` if it is none; damage is left to the reader."""
    if raw.startswith(b"\x1f\x8b"):
        try:
            return zlib.decompressobj(wbits=31).decompress(raw, _SNIFFED_BYTES)
        except zlib.error:
            return b""
    if raw.startswith(b"\x28\xb5\x2f\xfd"):
        import zstandard

        try:
            return zstandard.ZstdDecompressor().decompressobj().decompress(raw)[:_SNIFFED_BYTES]
        except zstandard.ZstdError:
            return b""
    return raw


def is_splittable(item: str | Path) -> bool:
    """Whether byte ranges of an input can be read on their own: plain FASTA and Parquet."""
    kind = kind_of(item)
    if kind is Kind.PARQUET:
        return True
    if kind is not Kind.FASTA:
        return False
    with local_path(item).open("rb") as handle:
        raw = handle.read(4)
    return not raw.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")) and raw[1:4] != b"\x2a\x4d\x18"


def text_of(
    item: str | Path,
    *,
    block_bytes: int = BLOCK_BYTES,
    meter: Meter | None = None,
    span: tuple[int, int] | None = None,
) -> Iterator[bytes]:
    """FASTA text of any input, in blocks.

    Parameters
    ----------
    item : a path, an address, or `hf://...`; columns may be named behind it (`?seq=COLUMN&id=COLUMN`).
    block_bytes : size of a block of text in bytes, about.
    meter : told of every byte as stored in the file(s) or received; of a Hub stream, of its text.
    span : of a Parquet file, only the row groups that begin in these bytes [begin, end).

    Raises
    ------
    ConfigError : an option or a Hub name that cannot be.
    CorpusError : unreadable, damaged, not reachable, or a format that is not read.
    """
    parsed, kind = parse_item(item), kind_of(item)
    path, chosen = Path(parsed.place), dict(parsed.options)
    split = chosen.pop("split", "")
    if kind not in (Kind.PARQUET, Kind.ARROW, Kind.DATASET, Kind.HUB) and parsed.options:
        raise ConfigError("only tables have columns to name", where=str(item), why=f"this is {kind}")
    if span is not None and kind is not Kind.PARQUET:
        raise ConfigError("only Parquet files are cut into spans here", where=str(item))
    if kind is Kind.FASTA:
        yield from text_blocks(path, block_bytes=block_bytes, meter=meter)
    elif kind is Kind.PARQUET:
        yield from parquet_text(path, block_bytes=block_bytes, chosen=chosen, meter=meter, span=span)
    elif kind is Kind.ARROW:
        yield from arrow_text(path, block_bytes=block_bytes, chosen=chosen, meter=meter)
    elif kind is Kind.DATASET:
        yield from saved_text(path, split, block_bytes=block_bytes, chosen=chosen, meter=meter)
    elif kind is Kind.HUB:
        yield from hub_text(parsed.place, split, block_bytes=block_bytes, chosen=chosen, meter=meter)
    elif kind is Kind.URL:
        from data_prep.remote import url_text

        yield from url_text(parsed.place, block_bytes=block_bytes, meter=meter)
    else:
        from data_prep.uniprot import flat_file_text, xml_text

        reader = flat_file_text if kind is Kind.FLAT_FILE else xml_text
        yield from reader(path, block_bytes=block_bytes, meter=meter)
