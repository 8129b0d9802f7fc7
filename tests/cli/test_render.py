from __future__ import annotations

import json
from typing import Any

import pytest

from plm_scaling.cli.render import emit
from plm_scaling.core.run import Stream

ROWS: list[dict[str, Any]] = [
    {"name": "a", "loss": 2.123456, "n": 3, "why": None},
    {"name": "b, c", "loss": None, "n": 12345, "why": "[red]no markup"},
]


def test_a_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    emit("human", rows=ROWS, title="all of them")
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "all of them",
        "name   loss      n  why",
        "a     2.123      3  -",
        "b, c      -  12345  [red]no markup",
    ]


def test_nothing_is_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    emit("human", rows=[])
    emit("human", rows=[], title="runs")
    assert capsys.readouterr().out == "nothing\nruns: nothing\n"


def test_a_wide_table_is_not_cut_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    emit("human", rows=[{"word": "x" * 300, "end": "here"}])
    assert "x" * 300 + "  here" in capsys.readouterr().out


def test_csv_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    emit("csv", rows=ROWS)
    assert capsys.readouterr().out == 'name,loss,n,why\na,2.123456,3,\n"b, c",,12345,[red]no markup\n'
    emit("csv", rows=[])
    assert capsys.readouterr().out == ""


def test_json_is_the_value_else_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    emit("json", rows=ROWS)
    assert json.loads(capsys.readouterr().out) == ROWS
    value = Stream(unique_tokens=5)
    emit("json", rows=ROWS, value=value)
    assert capsys.readouterr().out == value.to_json()
