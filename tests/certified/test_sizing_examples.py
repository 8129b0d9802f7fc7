"""Worked answers to every kind of sizing question, each at its own tolerance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plm_scaling.sizing.example_kinds import KINDS
from plm_scaling.sizing.worked_examples import ExamplesReport, check_examples

EXAMPLES = Path(__file__).with_name("sizing_examples.json")


@pytest.fixture(scope="module")
def report() -> ExamplesReport:
    return check_examples(EXAMPLES)


def test_every_example_comes_out(report: ExamplesReport) -> None:
    assert [(case.example, case.case, case.differences) for case in report.cases if not case.passed] == []
    assert report.passed


def test_every_case_and_every_number_was_compared(report: ExamplesReport) -> None:
    examples = json.loads(EXAMPLES.read_text())["examples"]
    wanted = {
        (example["id"], number): sum(len(v) if isinstance(v, list) else 1 for v in case.values())
        for example in examples
        for number, case in enumerate(example["expected"]["cases"], start=1)
    }
    assert {(case.example, case.case): case.compared for case in report.cases} == wanted


def test_every_kind_is_asked_and_answered() -> None:
    data = json.loads(EXAMPLES.read_text())
    assert set(data["kinds"]) == {example["kind"] for example in data["examples"]} == set(KINDS)
