"""`size --check`: worked examples held against the engine, right ones, wrong ones and malformed ones."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]

HORIZON = {
    "id": "horizon",
    "kind": "repeat_horizon",
    "input": {"R_D_star": 10.0, "cases": [{"marginal_value_fraction": 1}, {"marginal_value_fraction": 0.5}]},
    "expected": {"cases": [{"epochs": 1.0}, {"epochs": 7.931471805599453}]},
    "rel_tol": 1e-9,
}
REGRET = {
    "id": "regret",
    "kind": "decision_regret",
    "input": {
        "law_draws": [{"form": "chinchilla", "E": 1.0, "A": 400.0, "B": 400.0, "alpha": 0.3, "beta": 0.3}],
        "cases": [{"C_flops": 6e20}],
    },
    "expected": {"cases": [{"N_opt_per_draw_params": [1e10], "regret_mean_nats": 5e-7, "N_minimax_params": 1e10}]},
    "rel_tol": 1e-9,
}


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """A file of these examples, or of this text."""

    def write(*examples: object, text: str | None = None) -> Path:
        path = tmp_path / "examples.json"
        path.write_text(json.dumps({"examples": examples}) if text is None else text)
        return path

    return write


def changed(example: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**example, **changes}


def test_right_examples_pass(cli: Cli, written: Callable[..., Path]) -> None:
    screen = cli("size", "--check", written(changed(HORIZON, id="v: horizon"), REGRET))
    assert screen.code == 0
    assert [line.split("  ")[:2] for line in screen.out.splitlines()] == [
        ["pass", "v: horizon"],
        ["pass", "v: horizon"],
        ["pass", "regret"],
    ]
    assert "3 cases, 5 numbers: all pass" in screen.err


def test_wrong_examples_are_told_number_by_number(cli: Cli, written: Callable[..., Path]) -> None:
    wrong = changed(HORIZON, expected={"cases": [{"epochs": 1.0}, {"epochs": 8.0, "days": 3}]})
    listed = {"N_opt_per_draw_params": [1e10, 2e10], "regret_mean_nats": 2e-6}
    screen = cli("size", "--check", written(wrong, changed(REGRET, expected={"cases": [listed]})))
    assert screen.code == 1
    assert "pass  horizon  case 1" in screen.out
    assert "epochs: got 7.931471805599453, wanted 8.0 within 8e-09, off by 0.0685" in screen.out
    assert "days: no such answer, wanted 3.0" in screen.out
    assert "N_opt_per_draw_params[1]: no such answer" in screen.out
    assert "N_opt_per_draw_params[0]" not in screen.out
    assert "regret_mean_nats: got 0.0, wanted 2e-06 within 1e-06" in screen.out
    assert "2 cases differ" in screen.err


def test_other_formats_hold_the_same(cli: Cli, written: Callable[..., Path]) -> None:
    path = written(changed(HORIZON, expected={"cases": [{"epochs": 1.0}, {"epochs": 8.0}]}))
    as_csv, as_json = cli("size", "--check", path, "--format", "csv"), cli("size", "--check", path, "--format", "json")
    assert as_csv.code == as_json.code == 1
    rows = list(csv.DictReader(io.StringIO(as_csv.out)))
    assert [row["passed"] for row in rows] == ["True", "False"]
    assert (rows[1]["key"], float(rows[1]["want"])) == ("epochs", 8.0)
    cases = json.loads(as_json.out)["cases"]
    assert cases[0]["differences"] == []
    assert cases[1]["differences"][0]["got"] == pytest.approx(7.9314718)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "repeat_horizont"}, "unknown kind 'repeat_horizont'"),
        ({"input": {"R_D_star": 10.0, "cases": [{}, {}]}}, "marginal_value_fraction is missing"),
        ({"input": {"R_D_star": "10", "cases": [{}, {}]}}, "R_D_star must be a number"),
        ({"input": {"R_D_star": True, "cases": [{}, {}]}}, "R_D_star must be a number"),
        ({"input": {"R_D_star": -1, "cases": [{}, {}]}}, "R_D_star must be above 0"),
        ({"input": {"R_D_star": 10.0}}, "cases is missing"),
        ({"input": [1]}, "input must be an object"),
        ({"expected": {"cases": [{"epochs": 1}]}}, "2 cases of input, 1 of expected"),
        ({"expected": {"cases": [{"epochs": "1"}, {}]}}, "an expected answer is a number or a list"),
        ({"rel_tol": None}, "rel_tol must be a number"),
        ({"rel_tol": 10**400}, "rel_tol must be a number"),
        ({"expected": {"cases": [{"epochs": 10**400}, {}]}}, "an expected answer is a number or a list"),
    ],
)
def test_an_example_that_cannot_be_asked_is_named(
    cli: Cli, written: Callable[..., Path], change: dict[str, Any], said: str
) -> None:
    if "input" in change and isinstance(change["input"], dict) and change["input"]["R_D_star"] != 10.0:
        change = {"input": {**HORIZON["input"], "R_D_star": change["input"]["R_D_star"]}}
    screen = cli("size", "--check", written(changed(HORIZON, **change)))
    assert screen.code == 2
    assert said in screen.err
    assert "examples.json: horizon" in screen.err
    assert screen.out == ""


@pytest.mark.parametrize(
    ("law", "said"),
    [
        ({"form": "kaplan"}, "unknown law form 'kaplan'"),
        ({"form": "muennighoff"}, "a law of form muennighoff answers no such question"),
        ({"form": "chinchilla", "E": 1.0, "A": 1.0, "alpha": 0.3, "beta": 0.3}, "B is missing"),
        ({"form": "gamma", "E": 1.0, "A": 1.0, "B": 1.0, "alpha": 0.3, "beta": 0.3}, "gamma is missing"),
        ({"form": "chinchilla", "E": 1, "A": 1, "lnA": 0, "B": 1, "alpha": 1, "beta": 1}, "A and lnA are both given"),
        ({"form": "chinchilla", "E": 1, "A": 0, "B": 1, "alpha": 1, "beta": 1}, "A must be above 0"),
        (7, "law_draws[0] must be an object"),
    ],
)
def test_a_law_that_cannot_be_read_is_named(cli: Cli, written: Callable[..., Path], law: object, said: str) -> None:
    screen = cli("size", "--check", written(changed(REGRET, input={"law_draws": [law], "cases": [{"C_flops": 1e20}]})))
    assert screen.code == 2
    assert said in screen.err
    assert "regret" in screen.err


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"examples": []}', '{"examples": [3]}', '{"examples": {}}'])
def test_a_malformed_file_is_named(cli: Cli, written: Callable[..., Path], text: str) -> None:
    screen = cli("size", "--check", written(text=text))
    assert screen.code == 2
    assert "examples.json" in screen.err
    assert screen.out == ""


def test_no_file_and_no_room_for_a_budget(cli: Cli, written: Callable[..., Path], tmp_path: Path) -> None:
    assert cli("size", "--check", tmp_path / "none.json").code == 2
    screen = cli("size", "--check", written(HORIZON), "--usd", "500", "--objective", "mlm")
    assert screen.code == 2
    assert "leave out --usd, --objective" in screen.err


def test_without_examples_the_objective_is_needed(cli: Cli) -> None:
    screen = cli("size", "--usd", "500")
    assert screen.code == 2
    assert "Missing option '--objective'" in screen.err
