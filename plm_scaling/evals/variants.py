"""`Variant`: a changed protein, read from the ways tables write it, and checked against its wild type.

What is read: substitutions `A23G`, several as `A23G:K30L` (also `,`, `;`, `/` or a space between); deletions and
insertions `K30del`, `K30_L32del`, `K30_Y31insGSG`, `K30delinsGS`, `K30_L32delinsGS`; whole sequences; `WT` or nothing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from plm_scaling.core.alphabet import STANDARD, UNUSUAL
from plm_scaling.core.errors import ConfigError

__all__ = ["Substitution", "Variant", "parse_variants"]

_BETWEEN: Final = re.compile(r"[:,;/\s]+")
_SUBSTITUTION: Final = re.compile(r"(?P<old>[A-Z*])(?P<at>-?\d+)(?P<new>[A-Z*])")
_INDEL: Final = re.compile(
    r"(?P<old>[A-Z])(?P<at>-?\d+)(?:_(?P<old2>[A-Z])(?P<at2>-?\d+))?(?P<what>DELINS|DEL|INS)(?P<new>[A-Z]*)"
)
_DIGIT: Final = re.compile(r"\d")
_UNUSUAL: Final = re.compile(f"[^{STANDARD}]")
_EXAMPLES: Final = "write A23G, A23G:K30L, K30del, K30_L32del, K30_Y31insGSG, K30_L32delinsGS, WT or a whole sequence"


class Substitution(NamedTuple):
    """One letter for another; `position` is counted from 0 within the wild type."""

    position: int
    old: str
    new: str


@dataclass(frozen=True)
class Variant:
    """A changed protein.

    Attributes
    ----------
    name : as the table has it.
    sequence : all its residues.
    substitutions : sorted by position; of a variant with insertions or deletions none.
    indel : whether residues were inserted or deleted: then it shares no numbering with its wild type.
    """

    name: str
    sequence: str
    substitutions: tuple[Substitution, ...] = ()
    indel: bool = False

    @property
    def sites(self) -> tuple[int, ...]:
        """Substituted positions from 0, ascending."""
        return tuple(change.position for change in self.substitutions)


@dataclass(frozen=True)
class _Edit:
    """Residues [begin, end) of the wild type become `new`."""

    begin: int
    end: int
    new: str


def _where_it_stands(edit: _Edit) -> tuple[int, int]:
    """An insertion comes before a change of the residue that follows it."""
    return edit.begin, edit.end


def parse_variants(
    wild_type: str, texts: Sequence[str], *, first: int = 1, region: tuple[int, int] | None = None
) -> tuple[Variant, ...]:
    """Read variants of one protein, and check every one against it.

    Parameters
    ----------
    wild_type : residue letters.
    texts : one variant each, see the module.
    first : number that the tables give to the wild type's first residue.
    region : [begin, end) from 0: whole sequences in `texts` replace this part of the wild type only.

    Raises
    ------
    ConfigError : what cannot be read, a stated letter that the wild type does not have there, a position beyond its
        ends or changed twice, a letter that is none of the 20. Names the variant, by number and text.
    """
    wild_type = wild_type.strip().upper()
    _check_wild_type(wild_type, region)
    reader = _Reader(wild_type, first, region or (0, len(wild_type)), texts)
    return tuple(reader.read(number, text) for number, text in enumerate(texts))


def _check_wild_type(wild_type: str, region: tuple[int, int] | None) -> None:
    if not wild_type:
        raise ConfigError("the wild type is empty", hint="give its residues, e.g. MKTAYIAKQR")
    for place, letter in enumerate(wild_type):
        if letter not in STANDARD + UNUSUAL:
            raise ConfigError(f"{letter!r} is no residue", where=f"wild type, residue {place + 1}")
    if region and not 0 <= region[0] <= region[1] <= len(wild_type):
        raise ConfigError(
            f"the wild type has no residues {region[0]} to {region[1]} (from 0)", why=f"it has {len(wild_type)}"
        )


class _Reader:
    """Variants of one wild type."""

    def __init__(self, wild_type: str, first: int, region: tuple[int, int], texts: Sequence[str]) -> None:
        self._wild, self._first, self._region, self._texts = wild_type, first, region, texts
        self._bytes = np.frombuffer(wild_type.encode(), dtype=np.uint8)

    def read(self, number: int, text: str) -> Variant:
        where = f"variant {number + 1}, {text[:60]!r}"
        clean = text.strip().upper().removeprefix("P.")
        if clean in ("", "WT", "WILD_TYPE", "WILDTYPE"):
            return Variant(text, self._wild)
        if not _DIGIT.search(clean):
            return self._whole(text, clean, where)
        edits = sorted((self._edit(word, where) for word in _BETWEEN.split(clean) if word), key=_where_it_stands)
        for before, after in itertools.pairwise(edits):
            if after.begin < before.end or (after.begin, after.end) == (before.begin, before.end):
                place = after.begin + self._first
                raise ConfigError(f"residue {place} is changed twice", where=where, hint="state each change once")
        sequence, end = [], 0
        for edit in edits:
            sequence += [self._wild[end : edit.begin], edit.new]
            end = edit.end
        changed = "".join([*sequence, self._wild[end:]])
        if not changed:
            raise ConfigError("no residue is left", where=where)
        if any(len(edit.new) != edit.end - edit.begin for edit in edits):
            return Variant(text, changed, indel=True)
        return Variant(text, changed, self._differences(changed))

    def _whole(self, text: str, sequence: str, where: str) -> Variant:
        if unusual := _UNUSUAL.search(sequence):
            self._check_letter(unusual[0], f"{where}, residue {unusual.start() + 1} of the sequence")
        begin, end = self._region
        whole = self._wild[:begin] + sequence + self._wild[end:]
        if len(whole) != len(self._wild):
            return Variant(text, whole, indel=True)
        return Variant(text, whole, self._differences(whole))

    def _differences(self, sequence: str) -> tuple[Substitution, ...]:
        places = np.flatnonzero(np.frombuffer(sequence.encode(), dtype=np.uint8) != self._bytes)
        return tuple(Substitution(place, self._wild[place], sequence[place]) for place in places.tolist())

    def _edit(self, word: str, where: str) -> _Edit:
        found = _SUBSTITUTION.fullmatch(word)
        if found:
            self._check_letter(found["new"], where)
            place = self._place(found["old"], found["at"], where)
            return _Edit(place, place + 1, found["new"])
        found = _INDEL.fullmatch(word)
        if not found or (found["what"] == "DEL") == bool(found["new"]):
            raise ConfigError(f"{word!r} is no change that can be read", where=where, hint=_EXAMPLES)
        for letter in found["new"]:
            self._check_letter(letter, where)
        begin = self._place(found["old"], found["at"], where)
        last = self._place(found["old2"], found["at2"], where) if found["at2"] else begin
        if found["what"] == "INS":
            if last != begin + 1:
                raise ConfigError(
                    f"{word!r} inserts between residues that are no neighbours",
                    where=where,
                    hint="name the residues on both sides, e.g. K30_Y31insGSG",
                )
            return _Edit(last, last, found["new"])
        if last < begin:
            raise ConfigError(f"{word!r} ends before it begins", where=where)
        return _Edit(begin, last + 1, found["new"])

    def _check_letter(self, letter: str, where: str) -> None:
        if letter == "*":
            raise ConfigError("a stop codon has no likelihood", where=where, hint="leave such variants out")
        if letter not in STANDARD:
            raise ConfigError(
                f"{letter!r} is none of the 20 amino acids",
                where=where,
                why=f"they are {''.join(sorted(STANDARD))}",
                hint="a deletion is written K30del, or as the shorter sequence"
                if letter in "-."
                else "leave such variants out of the table",
            )

    def _place(self, old: str, stated: str, where: str) -> int:
        """Position from 0 of a stated residue, checked."""
        place, last = int(stated) - self._first, self._first + len(self._wild) - 1
        if not 0 <= place < len(self._wild):
            raise ConfigError(
                f"there is no residue {stated}",
                where=where,
                why=f"the wild type's residues are numbered {self._first} to {last}",
                hint=self._shift(),
            )
        if self._wild[place] != old:
            raise ConfigError(
                f"residue {stated} of the wild type is {self._wild[place]}, not {old}", where=where, hint=self._shift()
            )
        return place

    def _shift(self) -> str:
        """A hint: the numbering under which all stated letters fit, where there is exactly one."""
        stated = {
            (int(found["at"]), found["old"])
            for text in self._texts[:1000]
            for found in _SUBSTITUTION.finditer(text.strip().upper())
        }
        if stated:
            lowest, highest = min(at for at, _ in stated), max(at for at, _ in stated)
            fits = [
                first
                for first in range(highest - len(self._wild) + 1, lowest + 1)
                if all(self._wild[at - first] == old for at, old in stated)
            ]
            if len(fits) == 1:
                return f"all {len(stated)} stated residues fit if the first one is number {fits[0]} (first={fits[0]})"
        return (
            "is this the wild type that the variants were made from, and does its numbering begin elsewhere (--first)?"
        )
