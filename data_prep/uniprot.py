"""UniProt's own formats, flat file (.dat) and XML, to FASTA text with UniProt's headers, through Biopython.

A Python object per entry: right for Swiss-Prot, slow for TrEMBL, whose FASTA says the same.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from data_prep.streams import Meter, text_blocks
from plm_scaling.core.errors import CorpusError

__all__ = ["flat_file_text", "xml_text"]

_FULL_NAME: Final = re.compile(r"(?:RecName|SubName): Full=([^;{]+)")
_FRAGMENT: Final = re.compile(r"Flags:[^;]*\bFragments?\b")
_EVIDENCE: Final = (
    "evidence at protein level",
    "evidence at transcript level",
    "inferred from homology",
    "predicted",
    "uncertain",
)
"""Protein existence, levels 1 to 5. **Source:** uniprot.org/help/protein_existence."""
_REVIEWED: Final = frozenset({"Reviewed", "Swiss-Prot", "STANDARD"})
_NAMESPACE: Final = b"http://uniprot.org/uniprot"
_SECURE_NAMESPACE: Final = b"https://uniprot.org/uniprot"
_HEAD_BYTES: Final = 4096


class _BlockReader(io.RawIOBase):
    """Blocks of bytes as a file, for parsers that want one."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._blocks, b""))
        n = min(len(buffer), len(self._rest))
        buffer[:n] = self._rest[:n]
        self._rest = self._rest[n:]
        return n


def flat_file_text(path: Path, *, block_bytes: int, meter: Meter | None = None) -> Iterator[bytes]:
    """FASTA text of a UniProt flat file (plain, gzip or zstd).

    Parameters
    ----------
    path : the file.
    block_bytes : size of a block of text in bytes, at least.
    meter : told of every byte read, as stored in the file.

    Raises
    ------
    CorpusError : unreadable, damaged, or not in this format (with the entry it got to).
    """
    from Bio import SwissProt

    raw = io.BufferedReader(_BlockReader(text_blocks(path, meter=meter)))
    lines = io.TextIOWrapper(raw, encoding="utf-8", errors="replace", newline="\n")
    records = (_of_flat_file(record) for record in SwissProt.parse(lines))  # type: ignore[no-untyped-call]
    yield from _blocks(records, path, "UniProt flat file", block_bytes)


def xml_text(path: Path, *, block_bytes: int, meter: Meter | None = None) -> Iterator[bytes]:
    """FASTA text of a UniProt XML file (plain, gzip or zstd).

    Parameters
    ----------
    path : the file.
    block_bytes : size of a block of text in bytes, at least.
    meter : told of every byte read, as stored in the file.

    Raises
    ------
    CorpusError : unreadable, damaged, or not in this format (with the entry it got to).
    """
    from Bio.SeqIO import UniprotIO

    raw = io.BufferedReader(_BlockReader(_one_namespace(text_blocks(path, meter=meter))))
    records = (_of_xml(record) for record in UniprotIO.UniprotIterator(raw))
    yield from _blocks(records, path, "UniProt XML", block_bytes)


def _one_namespace(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The older spelling of the namespace, the only one Biopython knows; it stands in the root element."""
    head = b""
    for block in blocks:
        head += block
        if len(head) >= _HEAD_BYTES:
            break
    yield head.replace(_SECURE_NAMESPACE, _NAMESPACE, 1)
    yield from blocks


def _blocks(records: Iterator[bytes], path: Path, name: str, size: int) -> Iterator[bytes]:
    """Records put together to blocks; whatever Biopython trips over is the file's fault."""
    held: list[bytes] = []
    n_held = n_records = 0
    last = ""
    while True:
        try:
            record = next(records, b"")
        except CorpusError:
            raise
        except Exception as error:
            raise CorpusError(
                f"cannot read this as a {name}: {type(error).__name__} in entry {n_records + 1}",
                where=str(path),
                why=f"{error}" + (f" (the last whole entry is {last})" if last else ""),
                hint="copy or download the file again",
            ) from None
        if not record:
            break
        n_records += 1
        last = record[1:].split(None, 1)[0].decode()
        held.append(record)
        n_held += len(record)
        if n_held >= size:
            yield b"".join(held)
            held, n_held = [], 0
    if not n_records:
        raise CorpusError(f"no entry in this {name}", where=str(path))
    yield b"".join(held)


def _of_flat_file(record: Any) -> bytes:
    name = _FULL_NAME.search(record.description)
    return _record(
        reviewed=record.data_class in _REVIEWED,
        accession=record.accessions[0],
        entry=record.entry_name,
        name=name.group(1).strip() if name else "",
        fragment=bool(_FRAGMENT.search(record.description)),
        organism=record.organism.split(" (")[0].rstrip("."),
        taxon=record.taxonomy_id[0] if record.taxonomy_id else "",
        evidence=record.protein_existence or 0,
        sequence=record.sequence,
    )


def _of_xml(record: Any) -> bytes:
    notes = record.annotations
    taxa = [reference.split(":", 1)[1] for reference in record.dbxrefs if reference.startswith("NCBI Taxonomy:")]
    level = (notes.get("proteinExistence") or [""])[0]
    return _record(
        reviewed=notes.get("dataset") in _REVIEWED,
        accession=record.id,
        entry=record.name,
        name=record.description,
        fragment="sequence_fragment" in notes,
        organism=notes.get("organism", "").split(" (")[0],
        taxon=taxa[0] if taxa else "",
        evidence=_EVIDENCE.index(level) + 1 if level in _EVIDENCE else 0,
        sequence=str(record.seq),
    )


def _record(
    *,
    reviewed: bool,
    accession: str,
    entry: str,
    name: str,
    fragment: bool,
    organism: str,
    taxon: str,
    evidence: int,
    sequence: str,
) -> bytes:
    """A record with the header that UniProt's FASTA has. **Source:** uniprot.org/help/fasta-headers."""
    words = [f">{'sp' if reviewed else 'tr'}|{accession}|{entry}", name]
    words += ["(Fragment)"] if fragment else []
    words += [f"OS={organism}"] if organism else []
    words += [f"OX={taxon}"] if taxon else []
    words += [f"PE={evidence}"] if evidence else []
    return f"{' '.join(word for word in words if word)}\n{sequence}\n".encode()
