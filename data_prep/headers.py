"""What headers say, as columns: accession, taxon, cluster size, evidence, and whether a sequence is partial or viral.

Understood are UniRef, UniProt, NCBI, MGnify and Prodigal headers; of anything else, the accession. Prokka's databases
(`ID EC~~~gene~~~product`) name no organism. No Python runs per header: all headers are one text, in which the `=` of
the keys is looked for, and the eight bytes before or after a place are compared as one number.

`fragment` is what the header says, which is less than the truth: partial sequences without a note are many. `viral` is
a heuristic on the organism's name and wrong both ways: a virus may be named otherwise ("Rous sarcoma provirus" is not
recognised by its host), a satellite or a host named after a virus may be taken for one, and headers without an organism
are never viral. Where it matters, go by taxon.

**Source:** UniProt help, "FASTA headers" (UniProtKB and UniRef); NCBI protein FASTA (`name, partial [organism]`);
MGnify proteins (`PL=` is a pair of digits, read as Prodigal's: 1 for an end that runs off the contig; `FL=1` for full
length); Prodigal wiki (`partial=00` is complete).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["Fields", "header_fields"]

Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

_WORD: Final = 8
_PAD: Final = b"\n" * 16
"""Around all headers, so that words and numbers can be read at any place."""
_EACH_BYTE: Final = np.uint64(0x0101010101010101)
_LONG_NUMBER: Final = re.compile(rb"0*(\d{1,10})(?!\d)")
_CONTROLS_TO_BLANKS: Final = bytes(32 if byte in b"\t\n\v\f\r" else byte for byte in range(256))
_VIRAL: Final = {
    b"vir": (b"us", b"uses", b"oid", b"oids", b"idae", b"inae", b"ales", b"icetes", b"icota", b"ites"),
    b"phag": (b"e", b"es"),
}
"""Endings of words that name viruses: a stem anywhere in a word, and what the word ends with after it."""


@dataclass(frozen=True)
class Fields:
    """Columns of n headers.

    Parameters
    ----------
    accession : StringArray[n], the first word; bytes that are not UTF-8 are read as Latin-1.
    rep_id : StringArray[n], UniRef's RepID, null where there is none.
    taxon : uint32[n], NCBI taxonomy id, 0 unknown.
    members : uint32[n], sequences the record stands for (UniRef's n=), 0 unknown.
    evidence : uint8[n], UniProt's protein existence level 1-5, 0 unknown.
    fragment : bool[n], the header says that the sequence is not whole.
    viral : bool[n], the organism's name reads as a virus, phage or viroid.
    """

    accession: pa.StringArray
    rep_id: pa.StringArray
    taxon: npt.NDArray[np.uint32]
    members: npt.NDArray[np.uint32]
    evidence: npt.NDArray[np.uint8]
    fragment: Bool
    viral: Bool

    def __len__(self) -> int:
        return len(self.taxon)

    def filtered(self, keep: Bool) -> Fields:
        """The rows of bool[n] `keep`."""
        mask = pa.array(keep)
        columns = (getattr(self, column.name) for column in fields(self))
        return Fields(*(column[keep] if isinstance(column, np.ndarray) else column.filter(mask) for column in columns))


def header_fields(headers: list[bytes]) -> Fields:
    """Columns of header lines (without `>` and line end), in their order."""
    if not headers:
        return header_fields([b""]).filtered(np.zeros(1, dtype=np.bool_))
    text = _text_of(headers)
    keys = _Keys(text)
    taxon, evidence = np.zeros(len(text), np.uint32), np.zeros(len(text), np.uint8)
    for key in (b" OX", b" TaxID"):
        rows, values = keys.numbers(key)
        taxon[rows] = values
    representative = keys.places(b" RepID")
    is_cluster = np.zeros(len(text), np.bool_)
    is_cluster[keys.rows[representative]] = True
    rows, values = keys.numbers(b" n")
    members = np.zeros(len(text), np.uint32)
    members[rows] = values
    members[~is_cluster] = 0
    rows, values = keys.numbers(b" PE")
    evidence[rows] = np.where((values >= 1) & (values <= 5), values, 0)
    return Fields(
        accession=_accessions(text),
        rep_id=_representatives(text, keys, representative),
        taxon=taxon,
        members=members,
        evidence=evidence,
        fragment=_fragments(text, keys),
        viral=_viral(text, keys),
    )


@dataclass(frozen=True)
class _Text:
    """All headers in one text, as valid UTF-8, each followed by a line end and the whole padded at both ends.

    Parameters
    ----------
    data : the text.
    begins, ends : int64[n], where each header begins and ends.
    """

    data: bytes
    begins: Int
    ends: Int

    def __len__(self) -> int:
        return len(self.begins)

    @cached_property
    def letters(self) -> npt.NDArray[np.uint8]:
        """uint8, the text."""
        return np.frombuffer(self.data, dtype=np.uint8)

    @cached_property
    def lower_letters(self) -> npt.NDArray[np.uint8]:
        """uint8, the text with its letters in lower case (and other characters changed)."""
        return self.letters | np.uint8(32)

    @cached_property
    def _words(self) -> npt.NDArray[np.uint64]:
        # Every eight bytes of the text as one number, the last byte the most significant.
        return np.ndarray((len(self.data) - _WORD + 1,), "<u8", self.data, strides=(1,))

    def find(self, letter: bytes) -> Int:
        """Places of a letter."""
        return np.flatnonzero(self.letters == ord(letter))

    def words(self, places: Int) -> npt.NDArray[np.uint64]:
        """uint64[k], the eight bytes at places."""
        words: npt.NDArray[np.uint64] = self._words[places]
        return words

    def is_start(self, word: bytes, places: Int, *, any_case: bool = False) -> Bool:
        """bool[k], at which places the text goes on with a word of up to eight bytes."""
        if not word:
            return np.ones(len(places), np.bool_)
        words = self.words(places)
        if any_case:
            words |= _EACH_BYTE * np.uint64(32)
        shift = np.uint64(8 * (_WORD - len(word)))
        return np.asarray(words << shift == np.uint64(int.from_bytes(word, "little")) << shift)

    def rows(self, places: Int) -> Int:
        """int64[k], the headers in which ascending places are."""
        counts = np.diff(np.searchsorted(places, self.begins), append=len(places))
        return np.repeat(np.arange(len(self)), counts)

    def numbers(self, places: Int) -> Int:
        """The decimal numbers that begin at places, 0 where there is none or one beyond 32 bits."""
        digits = self.words(places) ^ _EACH_BYTE * np.uint64(ord("0"))
        other = (digits | digits + _EACH_BYTE * np.uint64(127 - 9)) & _EACH_BYTE * np.uint64(128)
        # The bits below the lowest marker are those of the leading digits: they move to the number's end.
        n_bits = np.bitwise_count((other & (~other + np.uint64(1))) - np.uint64(1)) & np.uint8(0x78)
        value = np.where(n_bits > 0, digits << (np.uint64(64) - n_bits) % np.uint64(64), np.uint64(0))
        # Neighbouring digits, pairs and fours are joined in all places at once.
        value = (value * np.uint64(10) + (value >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
        value = (value * np.uint64(100) + (value >> np.uint64(16))) & np.uint64(0x0000FFFF0000FFFF)
        value = (value * np.uint64(10_000) + (value >> np.uint64(32))) & np.uint64(0xFFFFFFFF)
        numbers = value.astype(np.int64)
        for row in np.flatnonzero(n_bits == 64).tolist():  # rare: eight digits or more
            found = _LONG_NUMBER.match(self.data, int(places[row]))
            numbers[row] = int(found[1]) if found and int(found[1]) < 1 << 32 else 0
        return numbers

    def slices(self, begins: Int, ends: Int) -> Any:
        """BinaryArray[k], the stretches of text between ascending places."""
        offsets = np.empty(2 * len(begins) + 1, dtype=np.int32)
        offsets[:-1:2], offsets[1::2], offsets[-1] = begins, ends, len(self.data)
        pieces = self._binary(offsets)
        return pieces.take(pa.array(np.arange(0, 2 * len(begins), 2, dtype=np.int32)))

    def from_begins(self) -> Any:
        """BinaryArray[n], from where each header begins to where the next one does."""
        return self._binary(np.append(self.begins, len(self.data)).astype(np.int32))

    def _binary(self, offsets: npt.NDArray[np.int32]) -> Any:
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(self.data)]
        return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, buffers)


def _text_of(headers: list[bytes]) -> _Text:
    data = b"".join((_PAD, b"\n".join(headers), _PAD))
    letters = np.frombuffer(data, dtype=np.uint8)
    n_line_ends = 2 * len(_PAD) + len(headers) - 1
    if np.count_nonzero(letters < 32) != n_line_ends and _n_controls(data) != n_line_ends:
        # Tabs and the like are blanks too; with the blank itself the only one, places in the text are found faster.
        return _text_of([header.translate(_CONTROLS_TO_BLANKS) for header in headers])
    if not data.isascii() and not _is_utf8(data):
        return _text_of([header if _is_utf8(header) else header.decode("latin-1").encode() for header in headers])
    line_ends = np.flatnonzero(letters == ord("\n"))[len(_PAD) - 1 : 1 - len(_PAD)]
    begins, ends = line_ends[:-1] + 1, line_ends[1:]
    while (blanks := letters[begins] == ord(" ")).any():
        begins = begins + blanks
    return _Text(data, begins, ends)


def _n_controls(data: bytes) -> int:
    return len(data) - len(data.translate(None, b"\t\n\v\f\r"))


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


class _Keys:
    """The `key=value` pairs of a text.

    Parameters
    ----------
    text : the headers.
    """

    def __init__(self, text: _Text) -> None:
        self.text = text
        self.signs = text.find(b"=")
        self.rows = text.rows(self.signs)
        self._before = text.words(self.signs - _WORD)

    def places(self, key: bytes) -> Int:
        """Which of the `=` follow a key (with the blank before it)."""
        shift = np.uint64(8 * (_WORD - len(key)))
        return np.flatnonzero(self._before >> shift == np.uint64(int.from_bytes(key, "little")))

    def numbers(self, key: bytes) -> tuple[Int, Int]:
        """Rows that have a key, and the numbers it has there."""
        places = self.places(key)
        return self.rows[places], self.text.numbers(self.signs[places] + 1)

    def value_ends(self, places: Int) -> Int:
        """Where the next key's `=` is, or the header ends."""
        after = np.append(self.signs, len(self.text.data))[places + 1]
        return np.asarray(np.minimum(after, self.text.ends[self.rows[places]]))


def _accessions(text: _Text) -> Any:
    import pyarrow.compute as pc

    sizes = text.ends - text.begins
    blank = pc.find_substring(text.from_begins(), b" ").to_numpy()
    sizes = np.where((blank >= 0) & (blank < sizes), blank, sizes)
    return text.slices(text.begins, text.begins + sizes).view(pa.string())


def _representatives(text: _Text, keys: _Keys, places: Int) -> Any:
    import pyarrow.compute as pc

    if not places.size:
        return pa.nulls(len(text), pa.string())
    begins, ends = text.begins.copy(), text.begins.copy()
    rows = keys.rows[places]
    begins[rows], ends[rows] = keys.signs[places] + 1, text.ends[rows]
    values = text.slices(begins, ends)
    blank = pc.find_substring(values, b" ").to_numpy()
    if (blank >= 0).any():
        values = text.slices(begins, np.where(blank >= 0, begins + blank, ends))
    known = np.zeros(len(text), np.bool_)
    known[rows] = True
    values = values.view(pa.string())
    return values if known.all() else pc.if_else(pa.array(known), values, None)


def _fragments(text: _Text, keys: _Keys) -> Bool:
    partial = np.zeros(len(text), np.bool_)
    for begin, endings in ((b"(Fragmen", (b"t)", b"ts)")), (b", partia", (b"l [", b"l\n"))):
        places = text.find(begin[:1])
        places = places[text.is_start(begin, places)]
        for ending in endings if places.size else ():
            partial[text.rows(places[text.is_start(ending, places + len(begin))])] = True
    for key, complete, accession in ((b" PL", b"00", b"MGYP"), (b" FL", b"1", b"MGYP"), (b";partial", b"00", b"")):
        places = keys.places(key)
        if places.size:
            rows = keys.rows[places]
            broken = ~text.is_start(complete, keys.signs[places] + 1)
            partial[rows[broken & text.is_start(accession, text.begins[rows])]] = True
    return partial


def _viral(text: _Text, keys: _Keys) -> Bool:
    """By the name after OS= or Tax=, or in brackets at the end."""
    begins, ends = text.ends.copy(), text.ends.copy()
    bracketed = np.flatnonzero(text.letters[text.ends - 1] == ord("]"))
    if bracketed.size:
        opening = text.find(b"[")
        opening = opening[text.letters[opening - 1] == ord(" ")]
        last = text.ends.copy()
        last[text.rows(opening)] = opening
        begins[bracketed] = last[bracketed]
    for key in (b" OS", b" Tax"):
        places = keys.places(key)
        if places.size:
            rows = keys.rows[places]
            begins[rows], ends[rows] = keys.signs[places] + 1, keys.value_ends(places)
    viral = np.zeros(len(text), np.bool_)
    for stem, endings in _VIRAL.items():
        places = np.flatnonzero(text.lower_letters == stem[0])
        places = places[text.is_start(stem, places, any_case=True)]
        rows = text.rows(places) if places.size else places
        in_name = (begins[rows] <= places) & (places < ends[rows])
        places, rows = places[in_name] + len(stem), rows[in_name]
        for ending in endings if places.size else ():
            after = text.lower_letters[places + len(ending)] - np.uint8(ord("a"))
            viral[rows[text.is_start(ending, places, any_case=True) & (after >= 26)]] = True
    return viral
