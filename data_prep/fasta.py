"""FASTA to token ids, block by block: what was dropped or renamed is counted, what cannot be a protein is refused.

Memory is a few blocks, whatever the file; only a record longer than a block makes the buffer grow to hold it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress, islice
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from data_prep.streams import BLOCK_BYTES, Meter, text_blocks
from plm_scaling.core.alphabet import DROPPED, EOS, FIRST_RESIDUE, RENAMED, STANDARD, SYMBOLS, UNUSUAL
from plm_scaling.core.errors import CorpusError

__all__ = ["RecordBlock", "read_records"]

Tokens = npt.NDArray[np.uint8]

# A header starts a line, so `>` inside a header or a sequence line starts nothing. The pattern begins with a literal
# because the regex engine then looks for it with memchr.
_HEADER: Final = re.compile(rb">(?<=\n>)[ \t]*(\S*)[^\n]*\n?")
_BLANKS: Final = b" \t\n"

# A byte of sequence text is first translated to a code. Codes of residues in upper case are their token ids, so that
# most text needs nothing else; anything to count, rename, drop or refuse has a code of its own.
_LOWER: Final = 32
_CODE_OF: Final = {
    **{letter: SYMBOLS.index(letter) for letter in STANDARD + UNUSUAL},
    **{letter: 64 + i for i, letter in enumerate("".join(RENAMED) + DROPPED)},
}
_ILLEGAL: Final = 255
_DROP: Final = 255


def _code_table() -> bytes:
    """Code of each byte of sequence text."""
    table = np.full(256, _ILLEGAL, dtype=np.uint8)
    table[ord(">")] = EOS  # the header's place: each record ends with one
    for letter, code in _CODE_OF.items():
        table[ord(letter.lower())] = code + _LOWER if letter.isalpha() else code
        table[ord(letter)] = code
    return table.tobytes()


def _token_table() -> Tokens:
    """Token id of each code, `_DROP` where there is none."""
    table = np.full(256, _DROP, dtype=np.uint8)
    table[EOS] = EOS
    for letter, code in _CODE_OF.items():
        if letter.isalpha():
            table[[code, code + _LOWER]] = SYMBOLS.index(RENAMED.get(letter, letter))
    return table


_TO_CODE: Final = _code_table()
_TO_TOKEN: Final = _token_table()
_LOWER_CODES: Final = [code + _LOWER for letter, code in _CODE_OF.items() if letter.isalpha()]

_NUCLEOTIDES: Final = tuple(SYMBOLS.index(letter) for letter in "ACGTU")
_ANY_BASE: Final = SYMBOLS.index("N")
_JUDGED_RESIDUES: Final = 2000
_JUDGED_AT_LEAST: Final = 200
_NUCLEOTIDE_SHARE: Final = 0.95


@dataclass(frozen=True, slots=True)
class RecordBlock:
    """Consecutive records of a FASTA file, none of them empty.

    Parameters
    ----------
    accessions : first word of each header (empty where the header is).
    tokens : uint8[sum(lengths) + n], token ids with `<eos>` after each record.
    lengths : int64[n], residues of each record.
    counts : what normalisation met, by name; names without an occurrence are left out.
    """

    accessions: list[str]
    tokens: Tokens
    lengths: npt.NDArray[np.int64]
    counts: dict[str, int]

    def __len__(self) -> int:
        return len(self.accessions)


def read_records(path: Path, *, block_bytes: int = BLOCK_BYTES, meter: Meter | None = None) -> Iterator[RecordBlock]:
    """Stream a protein FASTA file (plain, gzip or zstd) as blocks of tokenised records.

    Lower case reads as upper case; stops and gaps are dropped; J becomes X; X, B, U, Z, O stay; empty records are
    skipped: all counted. Blank lines, blanks inside lines, any line end and a missing last line end are fine.

    Parameters
    ----------
    path : the file.
    block_bytes : bytes of text read at a time; the records do not depend on it.
    meter : told of every byte read, as stored in the file.

    Raises
    ------
    CorpusError : unreadable, damaged, empty, not FASTA, a byte that is no residue letter (file:line), or nucleotides.
    """
    judge = _NucleotideJudge(path)
    for number, chunk in enumerate(_whole_records(path, text_blocks(path, block_bytes=block_bytes, meter=meter))):
        block = _tokenised(chunk)
        if block is None:
            # Lines are not counted on the way: the one file that needs it is read again.
            before = islice(_whole_records(path, text_blocks(path, block_bytes=block_bytes)), number)
            raise _bad_line(path, chunk, sum(earlier.count(b"\n") for earlier in before))
        judge.see(block.tokens)
        if len(block) or block.counts:
            yield block
    judge.close()


def _whole_records(path: Path, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Text cut between records; each chunk starts with the line end before its first header."""
    held = bytearray(b"\n")
    started = False
    for block in blocks:
        seam = len(held) - 1
        held += block
        if not started:
            started = _has_started(path, held)
        cut = held.rfind(b"\n>", seam)
        if started and cut > 0:
            with memoryview(held) as view:
                chunk = bytes(view[:cut])
            del held[:cut]
            yield chunk
    if not started:
        raise CorpusError("the file is empty", where=str(path), why="there is no sequence in it")
    yield bytes(held)


def _has_started(path: Path, text: bytearray) -> bool:
    """Whether anything but blanks was read; if so it must be a header."""
    head = text.lstrip()
    if not head or head.startswith(b">"):
        return bool(head)
    line = text[: len(text) - len(head)].count(b"\n")
    first = bytes(head[:40]).split(b"\n")[0]
    raise CorpusError(
        "not a FASTA file: no '>' header before the first sequence",
        where=f"{path}:{line}",
        why=f"the text begins with {first.decode('latin-1')!r}",
        hint="give protein FASTA, plain or compressed with gzip or zstd",
    )


def _tokenised(chunk: bytes) -> RecordBlock | None:
    """The records of a chunk, or None if a sequence line holds a byte it may not hold."""
    parts = _HEADER.split(chunk)
    names, bodies = parts[1::2], parts[2::2]
    text = b">".join(bodies) + b">" if bodies else b""
    codes = np.frombuffer(text.translate(_TO_CODE, _BLANKS), dtype=np.uint8)
    # Unsigned differences wrap around: this finds `<eos>` and every code that is not a standard residue.
    special = np.flatnonzero(codes - np.uint8(FIRST_RESIDUE) >= len(STANDARD))
    is_end = codes[special] == EOS
    odd = special[~is_end]
    seen = np.bincount(codes[odd], minlength=256)
    if len(special) - len(odd) != len(names) or seen[_ILLEGAL]:
        return None
    tokens, ends, counts = codes, special[is_end], {}
    if odd.size:
        tokens, counts = _normalised(codes, odd), _policy_counts(seen)
        ends = ends if len(tokens) == len(codes) else np.flatnonzero(tokens == EOS)
    lengths = np.diff(ends, prepend=-1) - 1
    accessions = _decoded(names)
    if not lengths.all():
        kept = lengths > 0
        counts["empty_records"] = int(np.count_nonzero(~kept))
        tokens = np.delete(tokens, ends[~kept])
        accessions = list(compress(accessions, kept))
        lengths = lengths[kept]
    return RecordBlock(accessions, tokens, lengths, counts)


def _normalised(codes: Tokens, odd: npt.NDArray[np.int64]) -> Tokens:
    """Token ids from codes, of which those at `odd` need a look."""
    tokens = codes.copy()
    tokens[odd] = _TO_TOKEN[codes[odd]]
    dropped = odd[tokens[odd] == _DROP]
    return np.delete(tokens, dropped) if dropped.size else tokens


def _decoded(names: list[bytes]) -> list[str]:
    """Accessions as UTF-8 where they are, as Latin-1 where they are not (each on its own)."""
    if not names:
        return []
    try:
        return b"\n".join(names).decode().split("\n")
    except UnicodeDecodeError:
        return [_decoded_one(name) for name in names]


def _decoded_one(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")


def _policy_counts(seen: npt.NDArray[np.int64]) -> dict[str, int]:
    """Counts by policy from the counts of codes."""

    def times(letter: str) -> int:
        code = _CODE_OF[letter]
        return int(seen[code] + (seen[code + _LOWER] if letter.isalpha() else 0))

    counts = {
        "lower_case": int(seen[_LOWER_CODES].sum()),
        "stops": times("*"),
        "gaps": times("-") + times("."),
        **{f"{letter}_as_{target}": times(letter) for letter, target in RENAMED.items()},
        **{letter: times(letter) for letter in UNUSUAL},
    }
    return {name: count for name, count in counts.items() if count}


def _bad_line(path: Path, chunk: bytes, lines_before: int) -> CorpusError:
    """The error for the first line of a chunk that holds a byte no sequence may hold."""
    for number, line in enumerate(chunk.split(b"\n")[1:], start=lines_before + 1):
        if line.startswith(b">"):
            continue
        bad = next((byte for byte in line if byte not in _BLANKS and _TO_CODE[byte] in (EOS, _ILLEGAL)), None)
        if bad == ord(">"):
            return CorpusError(
                "'>' inside a sequence line",
                where=f"{path}:{number}",
                why="a header starts with '>' in the first column",
                hint="the line end before it is probably missing",
            )
        if bad is not None:
            return CorpusError(
                f"{chr(bad)!r} is not a residue letter",
                where=f"{path}:{number}",
                why=f"legal are the letters {STANDARD}{UNUSUAL}J, stops '*' and gaps '-' '.'",
                hint="give protein FASTA; remove numbering, qualities and markup",
            )
    raise AssertionError("a chunk was refused, but each of its lines is legal")


class _NucleotideJudge:
    """Refuses a file whose first residues read as DNA or RNA. N (any base) does not count towards them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts = np.zeros(len(SYMBOLS), dtype=np.int64)

    def see(self, tokens: Tokens) -> None:
        """Count residues until enough were seen, then judge once."""
        for start in range(0, tokens.size, _JUDGED_RESIDUES):
            missing = _JUDGED_RESIDUES - int(self.counts.sum())
            if not missing:
                return
            piece = tokens[start : start + _JUDGED_RESIDUES]
            judged = piece[(piece != EOS) & (piece != _ANY_BASE)][:missing]
            self.counts += np.bincount(judged, minlength=len(SYMBOLS))
            if judged.size == missing:
                self._judge()

    def close(self) -> None:
        """Judge a short file by what there was."""
        if _JUDGED_AT_LEAST <= self.counts.sum() < _JUDGED_RESIDUES:
            self._judge()

    def _judge(self) -> None:
        a, c, g, t, u = (int(self.counts[letter]) for letter in _NUCLEOTIDES)
        share = (a + c + g + t + u) / int(self.counts.sum())
        if share >= _NUCLEOTIDE_SHARE and a and c and g and (t or u):
            raise CorpusError(
                "these are nucleotides, not proteins",
                where=str(self.path),
                why=f"{share:.0%} of the first {int(self.counts.sum())} letters are A, C, G, T or U",
                hint="translate the sequences first, or give the protein FASTA of the same genome",
            )
