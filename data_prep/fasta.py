"""FASTA to token ids, block by block: what was dropped or renamed is counted, what cannot be a protein is refused.

Memory is a few blocks, whatever the file; only a record longer than a block makes the buffer grow to hold it.

No Python runs per record or line. The lines of a block are one Arrow array that shares the block's memory; taking the
sequence lines of it leaves headers and line ends behind, and a second take from a table of all pairs of bytes turns
letters into token ids, two at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import compress
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_prep.streams import BLOCK_BYTES, Meter, text_blocks
from plm_scaling.core.alphabet import DROPPED, EOS, LAST_RESIDUE, RENAMED, STANDARD, SYMBOLS, UNUSUAL
from plm_scaling.core.errors import CorpusError

__all__ = ["RecordBlock", "read_records", "read_text", "slices", "slices_between"]

Tokens = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int32]

_LINE_END: Final = ord("\n")
_HEADER: Final = ord(">")
_BLANKS: Final = " \t"
_MAX_TEXT: Final = 3 << 29
"""Longest record in bytes of text: beyond what a shard can hold, and within the 32-bit offsets of an Arrow array."""

# A byte of sequence text is first translated to a code. Codes of residues in upper case are their token ids, so that
# most text needs nothing else; anything to count, rename, drop or refuse has a code of its own.
_LOWER: Final = 32
_CODE_OF: Final = {
    **{letter: SYMBOLS.index(letter) for letter in STANDARD + UNUSUAL},
    **{letter: 64 + i for i, letter in enumerate("".join(RENAMED) + DROPPED + _BLANKS)},
}
_LARGE_BYTES: Final = 31 << 20
_FIRST_UNUSUAL: Final = SYMBOLS.index(UNUSUAL[0])
_ILLEGAL: Final = 255


def _code_table() -> Tokens:
    """uint8[256]: code of each byte of sequence text."""
    table = np.full(256, _ILLEGAL, dtype=np.uint8)
    table[_LINE_END] = EOS  # of the last line of each record; the others are taken out before
    for letter, code in _CODE_OF.items():
        table[ord(letter.lower())] = code + _LOWER if letter.isalpha() else code
        table[ord(letter)] = code
    return table


def _token_table() -> tuple[bytes, bytes]:
    """Token id of each code, and the codes that have none."""
    table = np.zeros(256, dtype=np.uint8)
    table[EOS] = EOS
    for letter, code in _CODE_OF.items():
        if letter.isalpha():
            table[[code, code + _LOWER]] = SYMBOLS.index(RENAMED.get(letter, letter))
    return table.tobytes(), bytes(_CODE_OF[letter] for letter in DROPPED + _BLANKS)


def _policy_table() -> dict[int, tuple[str, ...]]:
    """The names under which a code is counted; blanks, which everyone ignores, have none."""
    names = {"*": "stops", "-": "gaps", ".": "gaps", **{letter: letter for letter in UNUSUAL}}
    names |= {letter: f"{letter}_as_{target}" for letter, target in RENAMED.items()}
    table: dict[int, tuple[str, ...]] = {code: () for code in range(256)}
    for letter, code in _CODE_OF.items():
        table[code] = (names[letter],) if letter in names else ()
        if letter.isalpha():
            table[code + _LOWER] = ("lower_case", *table[code])
    return table


_TO_CODE: Final = _code_table()
_PAIRS_TO_CODES: Final = pa.array(_TO_CODE[np.arange(1 << 16, dtype=np.uint16).view(np.uint8)].view(np.uint16))
_TO_TOKEN, _NO_TOKEN = _token_table()
_POLICIES: Final = _policy_table()
_ROWS: Final = 32
_STRIP_BYTES: Final = 1 << 17

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
    headers : header line of each record, without `>` and line end.
    tokens : uint8[sum(lengths) + n], token ids with `<eos>` after each record.
    lengths : int64[n], residues of each record.
    counts : what normalisation met, by name; names without an occurrence are left out.
    """

    headers: list[bytes]
    tokens: Tokens
    lengths: npt.NDArray[np.int64]
    counts: dict[str, int]

    def __len__(self) -> int:
        return len(self.headers)


def read_records(
    path: Path, *, block_bytes: int = BLOCK_BYTES, meter: Meter | None = None, span: tuple[int, int] | None = None
) -> Iterator[RecordBlock]:
    """Stream a protein FASTA file (plain, gzip or zstd) as blocks of tokenised records.

    Lower case reads as upper case; stops and gaps are dropped; J becomes X; X, B, U, Z, O stay; empty records are
    skipped: all counted. Blank lines, blanks inside lines, any line end and a missing last line end are fine.

    Parameters
    ----------
    path : the file.
    block_bytes : bytes of text read at a time; the records do not depend on it.
    meter : told of every byte read, as stored in the file; of each byte of the span only (and not to hash) if there
        is one.
    span : (begin, end) in bytes of a plain file: only the records whose header starts there, so that consecutive spans
        read each record of the file once.

    Raises
    ------
    CorpusError : unreadable, damaged, empty, not FASTA, a byte that is no residue letter (file:line), or nucleotides.
    """
    where, begin = str(path), span[0] if span else 0
    if span and begin >= span[1]:
        return
    blocks = text_blocks(path, block_bytes=block_bytes, meter=meter, span=span)
    if begin:
        # Lines are not counted up to here: the one file that needs it is read again.
        place = _Place(where, lambda: _lines_between(path, 0, begin))
        yield from _records(_whole_records(blocks, where, block_bytes, whole=False), place)
    elif span and not any(block.strip() for block in text_blocks(path, span=span)):
        # Blank lines only. If the rest of the file is no better, this span has to say so.
        _require_header(text_blocks(path), where)
    else:
        yield from _records(_whole_records(blocks, where, block_bytes, whole=True), _Place(where))


def read_text(blocks: Iterable[bytes], where: str, *, numbered: bool = True) -> Iterator[RecordBlock]:
    """Blocks of tokenised records from blocks of FASTA text with unix line ends, cut anywhere.

    Parameters
    ----------
    blocks : the text.
    where : what error messages call its origin.
    numbered : whether the lines of the text are lines of the origin; if not, messages name the record instead.

    Raises
    ------
    CorpusError : as `read_records`.
    """
    return _records(_whole_records(blocks, where, BLOCK_BYTES, whole=True), _Place(where, numbered=numbered))


@dataclass(frozen=True)
class _Place:
    """Where text comes from, how many lines precede it, and whether its lines have numbers there."""

    where: str
    lines_before: Callable[[], int] = lambda: 0
    numbered: bool = True


def _lines_between(path: Path, begin: int, end: int) -> int:
    """Lines of the records that start in [begin, end)."""
    return sum(block.count(b"\n") for block in text_blocks(path, span=(begin, end)))


def _records(chunks: Iterator[tuple[Tokens, Offsets]], place: _Place) -> Iterator[RecordBlock]:
    """Tokenised blocks of pieces of text."""
    judge = _NucleotideJudge(place.where)
    lines = 0
    # The C library returns large blocks to the system and pays for new pages each time, until one as large was freed.
    np.empty(_LARGE_BYTES, dtype=np.uint8)
    for chunk, offsets in chunks:
        block = _tokenised(chunk, offsets)
        if block is None:
            raise _bad_line(place, chunk, lines)
        lines += len(offsets) // 2 - 1
        judge.see(block.tokens)
        if len(block) or block.counts:
            yield block
    judge.close()


def _require_header(blocks: Iterable[bytes], where: str) -> None:
    """Refuse text without records: none at all, or something else first."""
    next(_whole_records(blocks, where, 1, whole=True))


def _empty(where: str) -> CorpusError:
    return CorpusError("the file is empty", where=where, why="there is no sequence in it")


def _whole_records(blocks: Iterable[bytes], where: str, size: int, *, whole: bool) -> Generator[tuple[Tokens, Offsets]]:
    """Pieces of at least `size` bytes (but the last) of text cut between records, and the offsets of their lines.

    A blank line is added to each piece. `whole` text may not be empty and may begin with blank lines.
    """
    held, started = _Held(size), not whole
    for block in blocks:
        if not started and block.strip():
            _check_start(where, held.text.tobytes() + block)
            started = True
        cut = -1
        if started and len(held) + len(block) >= size:
            cut = block.rfind(b"\n>") + 1
            if not cut and not (block.startswith(b">") and held.at_line_start):
                cut = -1
        if cut >= 0 and len(held) + cut:
            held.add(memoryview(block)[:cut])
            yield held.finished(b"\n")
            held = _Held(size)
            block = block[cut:]
        held.add(block)
        if len(held) > _MAX_TEXT:
            raise _too_long(where, held.text[:100].tobytes())
    if not started:
        raise _empty(where)
    if len(held):
        yield held.finished(b"\n" if held.at_line_start else b"\n\n")


class _Held:
    """Text not yet cut off, and where its lines end: both are dealt with while the fastest cache holds a block.

    Parameters
    ----------
    size : expected bytes of text.
    """

    def __init__(self, size: int) -> None:
        self._buffer = np.empty(size + size // 4 + 2, dtype=np.uint8)
        self._size = 0
        self._ends: list[tuple[int, npt.NDArray[np.int64]]] = []

    def __len__(self) -> int:
        return self._size

    @property
    def text(self) -> Tokens:
        """The bytes held."""
        return self._buffer[: self._size]

    @property
    def at_line_start(self) -> bool:
        """Whether the text held ends with a line end."""
        return bool(self._size and self._buffer[self._size - 1] == _LINE_END)

    def add(self, block: bytes | memoryview) -> None:
        """Append text."""
        size = self._size + len(block)
        if size > len(self._buffer):
            larger = np.empty(2 * size, dtype=np.uint8)
            larger[: self._size] = self.text
            self._buffer = larger
        self._buffer[self._size : size] = np.frombuffer(block, dtype=np.uint8)
        for begin in range(self._size, size, _STRIP_BYTES):
            strip = self._buffer[begin : min(begin + _STRIP_BYTES, size)]
            self._ends.append((begin, np.flatnonzero(strip == _LINE_END)))
        self._size = size

    def finished(self, added: bytes) -> tuple[Tokens, Offsets]:
        """The text with line ends added, and int32[2 n + 1]: where each line begins and ends, then its length."""
        self.add(added)
        offsets = np.empty(2 * sum(len(found) for _, found in self._ends) + 1, dtype=np.int32)
        first, offsets[0] = 1, 0
        for begin, found in self._ends:
            last = first + 2 * len(found)
            np.add(found, begin, out=offsets[first:last:2], casting="unsafe")
            first = last
        np.add(offsets[1::2], 1, out=offsets[2::2])
        return self.text, offsets


def _check_start(where: str, text: bytes) -> None:
    """Refuse text whose first line that is not blank is no header."""
    begin = len(text) - len(text.lstrip())
    if text.startswith(b">", begin) and (not begin or text[begin - 1] == _LINE_END):
        return
    line = text[:begin].count(b"\n") + 1
    first = text[text.rfind(b"\n", 0, begin) + 1 :][:40].split(b"\n")[0]
    raise CorpusError(
        "not a FASTA file: no '>' header before the first sequence",
        where=f"{where}:{line}",
        why=f"the text begins with {first.decode('latin-1')!r}",
        hint="give protein FASTA, plain or compressed with gzip or zstd",
    )


def _too_long(where: str, text: bytes) -> CorpusError:
    name = text.lstrip(b" \t\n>").split(maxsplit=1)[:1] or [b""]
    return CorpusError(
        f"a record of more than {_MAX_TEXT} bytes",
        where=where,
        why=f"no header follows that of {_text(name[0][:40])!r}",
        hint="a header starts with '>' in the first column of a line",
    )


def _text(name: bytes) -> str:
    """As UTF-8 where it is, as Latin-1 where it is not."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")


def _tokenised(chunk: Tokens, offsets: Offsets) -> RecordBlock | None:
    """The records of a chunk by the offsets of its lines, or None if a sequence line holds a byte it may not hold.

    The last line is blank. The offsets are changed.
    """
    begins, ends = offsets[:-1:2], offsets[1::2]
    heads = np.flatnonzero(chunk[begins] == _HEADER)
    last = np.append(heads[1:], len(begins)) - 1
    headers = slices(chunk, begins[heads] + 1, ends[heads])
    # Headers shrink to nothing, and the last line of each record keeps its line end, which becomes `<eos>`.
    begins[heads] = ends[heads]
    ends[last] += 1
    if (is_odd := int((ends - begins).sum()) & 1) == 1:
        begins[-1] -= 1  # another line end, for whole pairs
    lines = _taken(chunk, offsets)
    stops = np.frombuffer(lines.buffers()[1], dtype=np.int32)[last + 1] - 1
    stops[-1] -= is_odd
    tokens = _codes(lines.buffers()[2], int(stops[-1]) + 1)
    seen = _unusual(tokens)
    if seen[_ILLEGAL]:
        return None
    counts = _policy_counts(seen)
    if seen[LAST_RESIDUE + 1 :].any():
        tokens = np.frombuffer(tokens.tobytes().translate(_TO_TOKEN, _NO_TOKEN), dtype=np.uint8)
        stops = np.flatnonzero(tokens == EOS)
    lengths = stops.astype(np.int64)
    lengths[1:] -= stops[:-1] + 1
    if not lengths.all():
        kept = lengths > 0
        counts["empty_records"] = int(np.count_nonzero(~kept))
        tokens = np.delete(tokens, stops[~kept])
        headers = list(compress(headers, kept))
        lengths = lengths[kept]
    return RecordBlock(headers, tokens, lengths, counts)


def slices(data: bytes | Tokens, begins: npt.NDArray[np.integer], ends: npt.NDArray[np.integer]) -> list[bytes]:
    """The slices data[begin:end] as bytes objects, without a Python loop.

    Parameters
    ----------
    data : bytes or uint8[m], m < 2**31.
    begins, ends : int[n] in ascending order; the slices must not overlap.
    """
    if not len(begins):
        return []
    offsets = np.empty(2 * len(begins), dtype=np.int32)
    offsets[::2], offsets[1::2] = begins, ends
    return _objects(_taken(data, offsets))


def slices_between(data: bytes | Tokens, edges: npt.NDArray[np.integer]) -> npt.NDArray[np.object_]:
    """The slices between neighbouring edges as bytes objects, all but the single bytes before edges.

    Parameters
    ----------
    data : bytes or uint8[m], m < 2**31.
    edges : int[n + 1]; slice i is data[edges[i] : edges[i + 1] - 1].
    """
    offsets = np.empty(2 * len(edges) - 1, dtype=np.int32)
    offsets[::2] = edges
    np.subtract(edges[1:], 1, out=offsets[1::2], casting="unsafe")
    # Single bytes between the slices are cheaper to make than to leave out.
    objects: npt.NDArray[np.object_] = _binary(data, offsets).to_numpy(zero_copy_only=False)[::2]
    return objects


def _objects(values: Any) -> list[bytes]:
    objects: list[bytes] = values.to_numpy(zero_copy_only=False).tolist()
    return objects


def _binary(data: bytes | Tokens, offsets: Offsets) -> Any:
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, buffers)


def _taken(data: bytes | Tokens, offsets: Offsets) -> Any:
    """Every other slice between offsets, the first one included, as a binary array of its own."""
    return _take(_binary(data, offsets), pa.array(np.arange(0, len(offsets) - 1, 2, dtype=np.int32)))


def _take(values: Any, indices: Any) -> Any:
    """values[indices], which must be in range."""
    take, options = _take_function()
    return take.call([values, indices], options)


@cache
def _take_function() -> tuple[Any, Any]:
    """Arrow's function and its options, without the wrapper that costs as much as a small block."""
    import pyarrow.compute as pc

    return pc.get_function("array_take"), pc.TakeOptions(boundscheck=False)


def _codes(letters: pa.Buffer, size: int) -> Tokens:
    """uint8[size], codes of the first letters of an even number."""
    pairs = pa.Array.from_buffers(pa.uint16(), letters.size // 2, [None, letters])
    return np.asarray(_take(_PAIRS_TO_CODES, pairs).to_numpy().view(np.uint8)[:size])


def _unusual(codes: Tokens) -> npt.NDArray[np.int64]:
    """int64[256]: how often each code occurs, of those that are neither `<eos>` nor a standard residue."""
    # Most columns of the text, laid out in rows, hold none of them: their maxima tell at the speed of memory.
    columns = codes.size // _ROWS
    hit = np.flatnonzero(codes[: columns * _ROWS].reshape(_ROWS, columns).max(axis=0) >= _FIRST_UNUSUAL)
    rows = np.arange(0, columns * _ROWS, columns)[:, np.newaxis] if columns else hit
    found = np.append(codes[rows + hit], codes[columns * _ROWS :])
    return np.bincount(found[found >= _FIRST_UNUSUAL], minlength=256)


def _policy_counts(seen: npt.NDArray[np.int64]) -> dict[str, int]:
    """Counts by policy from the counts of codes."""
    counts: dict[str, int] = {}
    for code in np.flatnonzero(seen).tolist():
        for name in _POLICIES[code]:
            counts[name] = counts.get(name, 0) + int(seen[code])
    return counts


def _bad_line(place: _Place, chunk: Tokens, lines: int) -> CorpusError:
    """The error for the first line of a chunk, `lines` into the text, that holds a byte no sequence may hold."""
    name = b""
    for number, line in enumerate(chunk.tobytes().split(b"\n"), start=lines + 1):
        if line.startswith(b">"):
            name = line
            continue
        bad = next((byte for byte in line if _TO_CODE[byte] == _ILLEGAL), None)
        if bad is None:
            continue
        where = f"{place.where}:{place.lines_before() + number}" if place.numbered else place.where
        record = "" if place.numbered else f" (record {_text((name[1:].split() or [b''])[0])})"
        if bad == _HEADER:
            return CorpusError(
                f"'>' inside a sequence line{record}",
                where=where,
                why="a header starts with '>' in the first column",
                hint="the line end before it is probably missing",
            )
        return CorpusError(
            f"{chr(bad)!r} is not a residue letter{record}",
            where=where,
            why=f"legal are the letters {STANDARD}{UNUSUAL}J, stops '*' and gaps '-' '.'",
            hint="give protein FASTA; remove numbering, qualities and markup",
        )
    raise AssertionError("a chunk was refused, but each of its lines is legal")


class _NucleotideJudge:
    """Refuses a file whose first residues read as DNA or RNA. N (any base) does not count towards them."""

    def __init__(self, where: str) -> None:
        self.where = where
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
                where=self.where,
                why=f"{share:.0%} of the first {int(self.counts.sum())} letters are A, C, G, T or U",
                hint="translate the sequences first, or give the protein FASTA of the same genome",
            )
