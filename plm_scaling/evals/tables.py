"""`LabelledTable`: sequences with a measurement or a class each, and the part of a split they belong to.

n: sequences, L: residues of one.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt

from plm_scaling.core.alphabet import TO_ID
from plm_scaling.core.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from _csv import Reader

__all__ = [
    "Kind",
    "LabelledTable",
    "Part",
    "ResidueTable",
    "read_aav28",
    "read_flip",
    "read_header",
    "read_residue_table",
    "read_table",
    "read_tape",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Part = Literal["train", "validation", "test", ""]
Kind = Literal["values", "classes"]

AAV2_REGION: Final = "DEEEIRTTNPVATEQYGSVSTNLQRGNR"
"""Residues 561-588 of the capsid protein of AAV2. **Source:** UniProt P03135."""
_PARTS: Final[dict[str, Part]] = {
    "train": "train",
    "training": "train",
    "valid": "validation",
    "val": "validation",
    "validation": "validation",
    "test": "test",
    "": "",
}
_LETTERS: Final = frozenset(chr(byte) for byte in range(256) if TO_ID[byte] != 255)
_SEQUENCE: Final = ("sequence", "seq", "primary", "mutated_sequence")
_TARGET: Final = (
    *("target", "label", "score", "fitness", "DMS_score"),
    *("log_fluorescence", "stability_score", "fold_label", "ss3", "ss8"),
)


@dataclass(frozen=True)
class LabelledTable:
    """Different sequences with one target each.

    Attributes
    ----------
    targets : float64[n]; for classes whole numbers.
    parts : of the split that came with the table, [n]; empty strings where none did.
    wild_type : of the same region, where known.
    merged : rows of the file that repeated a sequence and were averaged (values) or dropped (classes).
    labels : names of the classes by number, where the file had words.
    """

    name: str
    sequences: tuple[str, ...]
    targets: FloatArray
    kind: Kind
    parts: tuple[Part, ...]
    wild_type: str | None = None
    merged: int = 0
    labels: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.sequences)

    def take(self, rows: npt.NDArray[np.integer]) -> LabelledTable:
        """Some of its rows."""
        chosen = tuple(int(row) for row in rows)
        return replace(
            self,
            sequences=tuple(self.sequences[row] for row in chosen),
            targets=self.targets[list(chosen)],
            parts=tuple(self.parts[row] for row in chosen),
        )


@dataclass(frozen=True)
class ResidueTable:
    """Sequences with a class for every residue.

    Attributes
    ----------
    labels : int64[L] of every sequence; -1 where a residue has none.
    parts : train, validation or test, [n].
    """

    name: str
    sequences: tuple[str, ...]
    labels: tuple[IntArray, ...]
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class _Row:
    line: int
    sequence: str
    text: str
    part: Part


def read_table(
    path: Path,
    *,
    sequence: str | None = None,
    target: str | None = None,
    split: str | None = None,
    kind: Kind = "values",
    wild_type: str | None = None,
    validation: str | None = None,
    name: str | None = None,
) -> LabelledTable:
    """A CSV file, plain or .gz, with a header.

    Parameters
    ----------
    sequence, target, split : columns; the first two by default what published tables call them (sequence, seq;
        target, label, score, ...). The split's words are train, valid (val, validation), test, or empty.
    kind : what targets are. Classes may be numbers or words.
    validation : column whose `True` turns training rows into validation rows.
    wild_type : of the region that the sequences cover.

    A sequence that occurs twice becomes one row with the mean of its values; one with two classes, or in two parts of
    the split, is an error.

    Raises
    ------
    ConfigError : no such file or column, a letter that no protein has, a target that is no number (nan included), an
        unknown word in the split, a repeated sequence as above: each with its line.
    """
    rows = list(_rows(path, sequence, target, split, validation))
    return _collected(rows, path, kind, wild_type, name or path.name.split(".csv")[0])


def read_flip(path: Path, *, wild_type: str | None = None) -> LabelledTable:
    """A split of FLIP as published: `sequence,target,set,validation`. Raises as `read_table`.

    **Source:** Dallago et al. 2021 (FLIP), splits/*.csv.
    """
    return read_table(
        path, sequence="sequence", target="target", split="set", validation="validation", wild_type=wild_type
    )


def read_aav28(path: Path) -> LabelledTable:
    """The capsid's 28-mers as published, `sequence,score`: unique 28-mers with the mean score of repeated ones.

    **Source:** Bryant et al. 2021; the file of Kirjner et al. 2024 (GGS). Raises as `read_table`.
    """
    table = read_table(path, sequence="sequence", target="score", wild_type=AAV2_REGION, name="aav28")
    for row, letters in enumerate(table.sequences):
        if len(letters) != len(AAV2_REGION):
            raise ConfigError(
                f"a sequence of {len(letters)} residues", where=f"{path}, sequence {row + 1}", why="aav28 holds 28-mers"
            )
    return table


def read_tape(paths: Sequence[Path], *, kind: Kind, name: str) -> LabelledTable:
    """A task of TAPE as one file per part, `NAME.train.csv`, `NAME.valid.csv`, `NAME.test.csv` with `seq,label`.

    Fold is `classes`; fluorescence and stability are `values`.

    Raises
    ------
    ConfigError : as `read_table`, or a file name that says no part.
    """
    rows: list[_Row] = []
    for path in paths:
        part = _part_of_name(path)
        rows += [replace(row, part=part) for row in _rows(path, None, None, None, None)]
    return _collected(rows, paths[0], kind, None, name)


def read_residue_table(paths: Sequence[Path], *, name: str) -> ResidueTable:
    """Secondary structure as one file per part: `seq,label` with a letter or digit per residue, or a list of numbers.

    Letters are H, E, C (three classes) or the eight of DSSP; `-`, X and -1 are residues without a class.

    Raises
    ------
    ConfigError : as `read_table`, or labels of another number than residues.
    """
    sequences, labels, parts = [], [], []
    for path in paths:
        part = _part_of_name(path)
        for row in _rows(path, None, None, None, None):
            label = _residue_labels(row.text, f"{path}:{row.line}")
            if len(label) != len(row.sequence):
                raise ConfigError(
                    f"{len(label)} labels for {len(row.sequence)} residues",
                    where=f"{path}:{row.line}",
                    hint="one letter, digit or number for each residue",
                )
            sequences.append(row.sequence)
            labels.append(label)
            parts.append(part)
    return ResidueTable(name, tuple(sequences), tuple(labels), tuple(parts))


def read_header(path: Path) -> tuple[str, ...]:
    """Names of a CSV file's columns. Raises as `read_table`."""
    with _opened(path) as reader:
        return tuple(name.strip() for name in next(reader, []))


@contextmanager
def _opened(path: Path) -> Iterator[Reader]:
    opener: Callable[..., IO[str]] = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as handle:
            yield csv.reader(handle)
    except (OSError, EOFError) as error:
        raise ConfigError("a table that cannot be read", where=str(path), why=str(error)) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError("not a CSV file of text", where=str(path), why=str(error)) from None


def _rows(
    path: Path, sequence: str | None, target: str | None, split: str | None, validation: str | None
) -> Iterator[_Row]:
    with _opened(path) as reader:
        header = next(reader, [])
        columns = (
            _column(header, sequence, _SEQUENCE, "sequence", path),
            _column(header, target, _TARGET, "target", path),
            -1 if split is None else _column(header, split, (), "split", path),
            -1 if validation is None else _column(header, validation, (), "validation", path),
        )
        for cells in reader:
            if cells:
                yield _row(cells, columns, len(header), f"{path}:{reader.line_num}", reader.line_num)


def _row(cells: list[str], columns: tuple[int, int, int, int], width: int, where: str, line: int) -> _Row:
    if len(cells) != width:
        raise ConfigError(f"{len(cells)} cells under {width} columns", where=where)
    letters = _residues(cells[columns[0]], where)
    part: Part = ""
    if columns[2] >= 0:
        word = cells[columns[2]].strip().lower()
        if word not in _PARTS:
            raise ConfigError(
                f"{word!r} is no part of a split", where=where, hint="train, valid, test, or nothing for neither"
            )
        part = _PARTS[word]
    if columns[3] >= 0 and part == "train" and cells[columns[3]].strip().lower() in ("true", "1"):
        part = "validation"
    return _Row(line, letters, cells[columns[1]].strip(), part)


def _residues(text: str, where: str) -> str:
    letters = text.strip().upper()
    if not letters:
        raise ConfigError("an empty sequence", where=where)
    if not _LETTERS.issuperset(letters):
        place = next(k for k, letter in enumerate(letters) if letter not in _LETTERS)
        raise ConfigError(
            f"{letters[place]!r} is no residue letter, at residue {place + 1} of {len(letters)}",
            where=where,
            hint="write the residues themselves, without gaps, stops and spaces",
        )
    return letters


def _column(header: list[str], asked: str | None, usual: Sequence[str], what: str, path: Path) -> int:
    names = [name.strip() for name in header]
    if not any(names):
        raise ConfigError("an empty table", where=str(path), hint="a header with names of columns, then a row each")
    for name in (asked,) if asked is not None else usual:
        if name in names:
            return names.index(name)
    missing = f"no column {asked!r}" if asked is not None else f"no column that looks like a {what}"
    hint = did_you_mean(asked, names) if asked is not None else f"name it: the columns are {', '.join(names)}"
    raise ConfigError(missing, where=str(path), hint=hint)


def _collected(rows: list[_Row], path: Path, kind: Kind, wild_type: str | None, name: str) -> LabelledTable:
    if not rows:
        raise ConfigError("a table without rows", where=str(path))
    values, labels = _values(rows, path) if kind == "values" else _classes(rows)
    first: dict[str, int] = {}
    held: list[list[int]] = []
    for number, row in enumerate(rows):
        if row.sequence not in first:
            first[row.sequence] = len(held)
            held.append([number])
        else:
            held[first[row.sequence]].append(number)
    for group in held:
        if len(group) > 1:
            _check_repeats([rows[k] for k in group], [values[k] for k in group], kind, path)
    return LabelledTable(
        name=name,
        sequences=tuple(first),
        targets=np.array([math.fsum(values[k] for k in group) / len(group) for group in held]),
        kind=kind,
        parts=tuple(rows[group[0]].part for group in held),
        wild_type=None if wild_type is None else _residues(wild_type, f"{path}, its wild type"),
        merged=len(rows) - len(held),
        labels=labels,
    )


def _check_repeats(rows: list[_Row], values: list[float], kind: Kind, path: Path) -> None:
    lines = " and ".join(str(row.line) for row in rows[:2])
    if len({row.part for row in rows}) > 1:
        raise ConfigError(
            f"the same sequence in {' and '.join(sorted({row.part or 'no part' for row in rows}))}",
            where=f"{path}: lines {lines}",
            why="a model could learn its answer by heart",
            hint="keep it in one part of the split",
        )
    if kind == "classes" and len(set(values)) > 1:
        raise ConfigError("the same sequence with two classes", where=f"{path}: lines {lines}", hint="keep one")


def _values(rows: list[_Row], path: Path) -> tuple[list[float], tuple[str, ...]]:
    found = []
    for row in rows:
        try:
            value = float(row.text.strip("[]"))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            lost = not row.text or row.text.strip("+-").lower() in ("nan", "na", "n/a", "inf", "none", "null")
            raise ConfigError(
                f"a target of {row.text!r}",
                where=f"{path}:{row.line}",
                why="every sequence needs a finite number",
                hint="leave rows out that were not measured" if lost else "numbers, or say that these are classes",
            )
        found.append(value)
    return found, ()


def _classes(rows: list[_Row]) -> tuple[list[float], tuple[str, ...]]:
    if all(row.text.isdigit() for row in rows):
        return [float(row.text) for row in rows], ()
    words = sorted({row.text for row in rows})
    number = {word: float(k) for k, word in enumerate(words)}
    return [number[row.text] for row in rows], tuple(words)


def _part_of_name(path: Path) -> Part:
    for word in path.name.replace("_", ".").split("."):
        if part := _PARTS.get(word):
            return part
    raise ConfigError(f"{path.name} says no part", where=str(path), hint="name files NAME.train.csv, .valid, .test")


def _residue_labels(text: str, where: str) -> IntArray:
    if text.startswith("["):
        try:
            return np.array(json.loads(text), dtype=np.int64)
        except (ValueError, TypeError) as error:
            raise ConfigError("labels that are no list of numbers", where=where, why=str(error)) from None
    known = {**{letter: k for k, letter in enumerate("HECGIBTS")}, **{str(k): k for k in range(10)}, "-": -1, "X": -1}
    unknown = [letter for letter in text if letter not in known]
    if unknown:
        raise ConfigError(f"{unknown[0]!r} is no class of a residue", where=where, hint="H, E, C, DSSP's eight, digits")
    return np.array([known[letter] for letter in text], dtype=np.int64)
