"""Worked examples beside the engine's answers: the lines of `size --check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plm_scaling.cli.render import emit, say

if TYPE_CHECKING:
    from plm_scaling.sizing.worked_examples import CaseOutcome, Difference, ExamplesReport

__all__ = ["run_check"]


def run_check(examples: Path, output: str, *, page: bool = False) -> int:
    """Print pass or the differences of every case; the exit code, 1 if any number did not come out."""
    from plm_scaling import api

    report = api.size_check(examples, page=page)
    if output == "human":
        click.echo("\n".join(_lines(report)))
    else:
        emit(output, rows=[row for case in report.cases for row in _rows(case)], value=report)
    failed = sum(not case.passed for case in report.cases)
    count = f"{len(report.cases)} cases, {sum(case.compared for case in report.cases)} numbers"
    say(f"{count}: {f'{failed} cases differ' if failed else 'all pass'}")
    return 1 if failed else 0


def _lines(report: ExamplesReport) -> list[str]:
    width = max(len(case.example) for case in report.cases)
    lines = []
    for case in report.cases:
        verdict = "pass" if case.passed else "DIFF"
        lines.append(f"{verdict}  {case.example:<{width}}  case {case.case}  {case.compared} numbers of {case.kind}")
        lines += [f"      {_sentence(difference)}" for difference in case.differences]
    return lines


def _sentence(difference: Difference) -> str:
    key, got, want = difference.key, difference.got, difference.want
    if got is None:
        return f"{key}: no such answer, wanted {want!r}"
    if want is None:
        return f"{key}: got {got!r}, one more than wanted"
    return f"{key}: got {got!r}, wanted {want!r} within {difference.tolerance:.3g}, off by {abs(got - want):.3g}"


def _rows(case: CaseOutcome) -> list[dict[str, Any]]:
    """One row per difference; one without a key for a case that passes."""
    head = {"example": case.example, "kind": case.kind, "case": case.case, "passed": case.passed}
    differences = [difference.model_dump() for difference in case.differences]
    empty = {"key": None, "got": None, "want": None, "tolerance": None}
    return [{**head, **difference} for difference in differences or [empty]]
