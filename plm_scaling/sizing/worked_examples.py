"""Worked examples held against the engine: inputs, the answers that are wanted, and how near ours must come."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from plm_scaling.core.errors import ConfigError
from plm_scaling.core.records import Record
from plm_scaling.sizing.example_kinds import Answer, answer_example

__all__ = ["Answerer", "CaseOutcome", "Difference", "ExamplesReport", "answer_example", "check_examples"]

_NEAR_ZERO: Final = 1e-6
"""A regret or a share of 1 also passes within this, whatever its size."""


class Difference(Record):
    """One number that did not come out."""

    key: str
    """Name of the answer; `NAME[i]` for one of a list."""
    got: float | None
    """None where the engine gives no such answer."""
    want: float | None
    """None where the engine gives one more than is wanted."""
    tolerance: float
    """Largest |got - want| that would have passed."""


class CaseOutcome(Record):
    """One case of one example."""

    example: str
    kind: str
    case: int
    """From 1."""
    compared: int
    """Numbers compared."""
    differences: tuple[Difference, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every number came out."""
        return not self.differences


class ExamplesReport(Record):
    """Every case of a file of worked examples."""

    file: str
    cases: tuple[CaseOutcome, ...]

    @property
    def passed(self) -> bool:
        """Whether every case passed."""
        return all(case.passed for case in self.cases)


class Answerer(Protocol):
    """Whatever answers one case of a kind: this engine, or another to be held against the same examples."""

    def __call__(self, kind: str, inputs: Mapping[str, Any], *, where: str = "") -> Answer:
        """Answers by key."""
        ...


def check_examples(path: Path | str, answer: Answerer = answer_example) -> ExamplesReport:
    """The engine's answers to a file of worked examples beside those it wants.

    The inputs of case i are `input` without `cases`, updated with `input.cases[i]`; its answer is `expected.cases[i]`.
    A number passes if |got - want| <= rel_tol |want|; under keys that begin with regret_ or end in _fraction also
    within 1e-6; lists are compared element by element. Answers that are not asked for are not looked at. `answer` is
    asked once for every case, in the file's order.

    Raises
    ------
    ConfigError : no such file, no examples in it, or an example that cannot be asked.
    """
    where = str(path)
    cases: list[CaseOutcome] = []
    for number, example in enumerate(_list(_read(Path(path)), "examples", where), start=1):
        if not isinstance(example, Mapping):
            raise ConfigError(f"example {number} must be an object", where=where, why=f"got {example!r:.80}")
        cases += _outcomes(example, str(example.get("id", f"example {number}")), where, answer)
    return ExamplesReport(file=where, cases=tuple(cases))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the examples: {error.strerror}", where=str(path)) from None
    except ValueError as error:
        raise ConfigError(f"not valid JSON: {error}", where=str(path)) from None
    if not isinstance(data, Mapping):
        raise ConfigError("must be an object with a list of examples", where=str(path))
    return data


def _outcomes(example: Mapping[str, Any], name: str, file: str, answer: Answerer) -> Iterator[CaseOutcome]:
    where = f"{file}: {name}"
    kind, rel_tol = _get(example, "kind", where), _get(example, "rel_tol", where)
    if not _is_number(rel_tol) or rel_tol < 0:
        raise ConfigError("rel_tol must be a number of at least 0", where=where, why=f"got {rel_tol!r:.80}")
    shared, expected = (_object(example, key, where) for key in ("input", "expected"))
    given, wanted = _list(shared, "cases", f"{where}: input"), _list(expected, "cases", f"{where}: expected")
    if len(given) != len(wanted):
        raise ConfigError(f"{len(given)} cases of input, {len(wanted)} of expected answers", where=where)
    common = {key: value for key, value in shared.items() if key != "cases"}
    for number, (one, want) in enumerate(zip(given, wanted, strict=True), start=1):
        case = f"{where}, case {number}"
        if not isinstance(one, Mapping) or not isinstance(want, Mapping):
            raise ConfigError("a case of input and of expected answers must be an object", where=case)
        got = answer(kind, {**common, **one}, where=case)
        compared = list(_compared(got, want, float(rel_tol), case))
        yield CaseOutcome(
            example=name,
            kind=kind,
            case=number,
            compared=len(compared),
            differences=tuple(difference for difference, ok in compared if not ok),
        )


def _compared(got: Answer, want: Mapping[str, Any], rel_tol: float, where: str) -> Iterator[tuple[Difference, bool]]:
    """Every number wanted beside ours, and whether it passes."""
    for key, value in want.items():
        for name, ours, theirs in _pairs(key, got.get(key), value, where):
            absolute = _NEAR_ZERO if key.startswith("regret_") or key.endswith("_fraction") else 0.0
            tolerance = 0.0 if theirs is None else max(rel_tol * abs(theirs), absolute)
            ok = ours is not None and theirs is not None and abs(ours - theirs) <= tolerance
            yield Difference(key=name, got=ours, want=theirs, tolerance=tolerance), ok


def _pairs(
    key: str, ours: float | list[float] | None, theirs: Any, where: str
) -> Iterator[tuple[str, float | None, float | None]]:
    """(name, got, wanted) of a number, or of the numbers of a list; None for one that is not there."""
    if isinstance(theirs, list) and all(_is_number(value) for value in theirs):
        own = ours if isinstance(ours, list) else []
        for n in range(max(len(own), len(theirs))):
            got, want = (float(side[n]) if n < len(side) else None for side in (own, theirs))
            yield f"{key}[{n}]", got, want
    elif _is_number(theirs):
        yield key, None if ours is None or isinstance(ours, list) else float(ours), float(theirs)
    else:
        raise ConfigError(f"{key}: an expected answer is a number or a list", where=where, why=f"got {theirs!r:.80}")


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max  # nan, and whole numbers beyond all others: no


def _get(values: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in values:
        raise ConfigError(f"{key} is missing", where=where)
    return values[key]


def _object(values: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = _get(values, key, where)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key} must be an object", where=where, why=f"got {value!r:.80}")
    return value


def _list(values: Mapping[str, Any], key: str, where: str) -> list[Any]:
    value = _get(values, key, where)
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{key} must be a list with something in it", where=where, why=f"got {value!r:.80}")
    return value
