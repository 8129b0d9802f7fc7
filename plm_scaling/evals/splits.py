"""`Split`: which rows of a table a head is fitted to, which choose its penalty, and which it is tested on.

A table holds no sequence twice, so none can stand on both sides. n: rows.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.evals.encodings import letter_matrix, mutation_counts
from plm_scaling.evals.tables import LabelledTable, read_header, read_table

__all__ = ["Split", "find_split", "k_vs_many", "low_vs_high", "own_split", "sampled", "table_and_split"]

IntArray = npt.NDArray[np.int64]

_SHARE: Final = 0.8
_NUMBERS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Split:
    """Rows by their use.

    Attributes
    ----------
    train : all rows that a head may learn from, int64, ascending.
    validation : those among them that choose its penalty; None for a seeded tenth of them.
    test : int64, ascending.
    """

    name: str
    train: IntArray
    test: IntArray
    validation: IntArray | None = None


def sampled(table: LabelledTable, share: float = _SHARE) -> Split:
    """Trains on sequences whose SHA-256, as a fraction of its range, is below the share: the same in every table."""
    small = [int(hashlib.sha256(s.encode()).hexdigest(), 16) < share * 2**256 for s in table.sequences]
    return _split("sampled", table, np.array(small, dtype=bool))


def low_vs_high(table: LabelledTable, threshold: float | None = None) -> Split:
    """Trains on values up to that of the wild type (or a threshold), tests on those above.

    Raises
    ------
    ConfigError : no threshold, and a table that does not hold its wild type; or classes.
    """
    if table.kind != "values":
        raise ConfigError("low_vs_high of classes", why="classes have no order", hint="another split")
    return _split("low_vs_high", table, table.targets <= (_wild_value(table) if threshold is None else threshold))


def k_vs_many(table: LabelledTable, k: int) -> Split:
    """Trains on sequences with at most k substitutions, tests on those with more.

    Raises
    ------
    ConfigError : no wild type, or sequences of another length.
    """
    if table.wild_type is None:
        raise ConfigError(f"{k} substitutions of what?", where=table.name, hint="give the wild type (--wild-type)")
    if any(len(sequence) != len(table.wild_type) for sequence in table.sequences):
        raise ConfigError("substitutions in sequences of other lengths than the wild type", where=table.name)
    name = f"{_NUMBERS[k] if k < len(_NUMBERS) else k}_vs_many"
    return _split(name, table, mutation_counts(letter_matrix(table.sequences), table.wild_type) <= k)


def own_split(table: LabelledTable, name: str = "own") -> Split:
    """The split that came with the table; rows of no part are left out.

    Raises
    ------
    ConfigError : it came with none.
    """
    part = np.array(table.parts)
    if not (part != "").any():
        raise ConfigError("the table came without a split", where=table.name, hint="name its column, or use `sampled`")
    validation = np.flatnonzero(part == "validation")
    train = np.flatnonzero((part == "train") | (part == "validation"))
    return _checked(Split(name, train, np.flatnonzero(part == "test"), validation if len(validation) else None), table)


def find_split(table: LabelledTable, name: str) -> Split:
    """A split by name: `sampled`, `low_vs_high`, `two_vs_many` (or `2_vs_many`), `own`.

    Raises
    ------
    ConfigError : no such split, or one that the table cannot have.
    """
    if name == "sampled":
        return sampled(table)
    if name == "low_vs_high":
        return low_vs_high(table)
    if name == "own":
        return own_split(table)
    if found := re.fullmatch(r"(\w+)_vs_many", name):
        word = found.group(1)
        if word in _NUMBERS or word.isdigit():
            return k_vs_many(table, _NUMBERS.index(word) if word in _NUMBERS else int(word))
    raise ConfigError(f"no split is called {name!r}", hint="sampled, low_vs_high, K_vs_many, or a column of the table")


def table_and_split(
    path: Path,
    *,
    sequence: str | None = None,
    target: str | None = None,
    split: str = "sampled",
    wild_type: str | None = None,
    classes: bool = False,
    validation: str | None = None,
) -> tuple[LabelledTable, Split]:
    """Any CSV with the split that is asked for.

    Parameters
    ----------
    sequence, target : columns; the usual names by default (`read_table`).
    split : a column of the table, or `sampled`, `low_vs_high`, `two_vs_many`.
    wild_type : sequence that variants are compared with; without it what needs it is left out.
    classes : targets are classes, measured by accuracy, instead of values, by rank correlation.
    validation : column whose `True` marks training rows that choose the penalty; FLIP's is found by itself.

    Raises
    ------
    ConfigError : as `read_table` and `find_split`.
    RefusedError : fewer than 3 rows to train or to test on.
    """
    header = read_header(path)
    own = split in header
    if own and validation is None and split == "set" and "validation" in header:
        validation = "validation"
    if validation is not None and not own:
        raise ConfigError(
            f"a column of validation rows beside the split {split!r}",
            where=str(path),
            why="it marks rows within a split that is a column of the table",
            hint="name that column as the split, or leave validation out",
        )
    table = read_table(
        path,
        sequence=sequence,
        target=target,
        split=split if own else None,
        kind="classes" if classes else "values",
        wild_type=wild_type,
        validation=validation if own else None,
    )
    return table, own_split(table, split) if own else find_split(table, split)


def _wild_value(table: LabelledTable) -> float:
    if table.wild_type is None or table.wild_type not in table.sequences:
        what = "has no wild type" if table.wild_type is None else "does not hold its wild type"
        raise ConfigError(
            f"low_vs_high of a table that {what}",
            where=table.name,
            why="values are low or high beside that of the wild type",
            hint="give the wild type (--wild-type)"
            if table.wild_type is None
            else "add a row of the wild type with its measurement",
        )
    return float(table.targets[table.sequences.index(table.wild_type)])


def _split(name: str, table: LabelledTable, trains: npt.NDArray[np.bool_]) -> Split:
    return _checked(Split(name, np.flatnonzero(trains), np.flatnonzero(~trains)), table)


def _checked(split: Split, table: LabelledTable) -> Split:
    for what, rows in (("train", split.train), ("test", split.test)):
        if len(rows) < 3:
            raise RefusedError(
                f"{split.name} leaves {len(rows)} rows to {what}",
                where=table.name,
                why="nothing can be learnt or measured on fewer than 3",
                hint="another split, or a larger table",
            )
    return split
