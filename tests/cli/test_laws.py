from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plm_scaling.laws import zoo, zoo_checks
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.laws.zoo import all_laws, find_law

Cli = Callable[..., Any]


@pytest.fixture
def fitted(tmp_path: Path) -> Path:
    """The file of a CLM fit that found N_opt = 1e-3 C^.5 between 1e16 and 1e18 FLOPs."""
    rows = [
        {
            "C": C,
            "N": (1e6,),
            "D": (1e8,),
            "loss": (2.5,),
            "n_seeds": (1,),
            "N_opt": {"value": 1e-3 * C**0.5, "low": 0.8e-3 * C**0.5, "high": 1.25e-3 * C**0.5},
        }
        for C in (1e16, 1e18)
    ]
    exponent = {"value": 0.5, "low": 0.45, "high": 0.55}
    fit = {
        "objective": "clm",
        "currency": "C_6nd",
        "n_runs": 12,
        "isoflop": {"currency": "C_6nd", "rows": rows, "a_N": exponent, "k_N": 1e-3},
        "range_C": (1e16, 1e18),
        "data_hash": "0",
    }
    return LawFit.model_validate(fit).write(tmp_path / "fit-clm.json")


def test_the_list_shows_exponents_range_and_status(cli: Cli) -> None:
    screen = cli("laws", "list")
    assert screen.code == 0
    line = next(line for line in screen.out.splitlines() if line.startswith("cheng-mlm "))
    assert line.split() == ["cheng-mlm", "mlm", "power_frontier", "0.776", "0.230", "1e+18", "to", "3e+20", "read"]
    assert "kaplan2020" not in screen.out
    assert "kaplan2020" in cli("laws", "list", "--all").out
    assert "laws show" in screen.err


def test_the_list_of_one_objective_for_programs(cli: Cli) -> None:
    rows = json.loads(cli("laws", "list", "--objective", "clm", "--format", "json").out)
    assert {row["objective"] for row in rows} == {"clm"}
    assert rows[0]["id"] == "cheng-clm"
    assert (rows[0]["C_low"], rows[0]["C_high"]) == (1e18, 3e20)
    table = list(csv.DictReader(io.StringIO(cli("laws", "list", "--all", "--format", "csv").out)))
    assert [row["id"] for row in table] == [law.id for law in all_laws()]


def test_a_law_with_its_source_and_doubts(cli: Cli) -> None:
    screen = cli("laws", "show", "besiroglu2024", "--flops", "1e21", "--flops", "1e24")
    assert screen.code == 0
    for text in (
        "E 1.81686, A 482.00572, B 2085.4342",
        "replication attempt",
        "N is all parameters",
        "A 285.214 to 743.626",
    ):
        assert text in screen.out
    inside, outside = screen.out.splitlines()[-2:]
    assert inside.split() == ["1e+21", "2.78B", "59.9B", "22", "1.000", "2.3048", "TEXT_LAW"]
    assert "EXTRAPOLATION(1.9 decades)" in outside
    assert "points read off a figure" in screen.err


def test_a_law_over_its_range(cli: Cli) -> None:
    screen = cli("laws", "show", "cheng-clm")
    assert screen.out.splitlines()[-5].split() == ["1e+18", "31.9M", "4.69B", "147", "0.899", "-"]
    assert "EXTRAPOLATION" not in screen.out


@pytest.mark.parametrize("name", [law.id for law in all_laws()])
def test_every_law_can_be_shown_and_says_when_nobody_checked_it(cli: Cli, name: str) -> None:
    screen = cli("laws", "show", name)
    assert screen.code == 0
    unverified = find_law(name).status == "unverified"
    assert ("UNVERIFIED" in screen.out) == ("UNVERIFIED" in screen.err) == unverified
    sheet = json.loads(cli("laws", "show", name, "--format", "json").out)
    assert sheet["law"]["id"] == name


def test_a_misspelt_law_suggests_one(cli: Cli) -> None:
    screen = cli("laws", "show", "besiroglu24")
    assert screen.code == 2
    assert "did you mean besiroglu2024?" in screen.err
    assert cli("laws", "compare", "chneg-mlm", "--flops", "1e20").code == 2


def test_a_budget_for_a_law_without_one(cli: Cli) -> None:
    screen = cli("laws", "show", "hernandez2021-python", "--flops", "1e20")
    assert screen.code == 2
    assert "D_t = k D_f^a N^b" in screen.err
    assert cli("laws", "show", "cheng-clm", "--flops", "lots").code == 2


def test_laws_side_by_side(cli: Cli) -> None:
    screen = cli("laws", "compare", "--flops", "1e20", "--objective", "mlm")
    assert screen.code == 0
    lines = screen.out.splitlines()
    assert lines[0] == "at 1e+20 FLOPs"
    assert lines[2].split()[:5] == ["cheng-mlm", "205M", "80.4B", "392", "0.989"]
    assert "span 0.27 (serrano2024) to 0.78 (cheng-mlm)" in screen.err
    text = cli("laws", "compare", "--flops", "1e23", "--objective", "text", "--all")
    assert "losses of different corpora, tokenizers or objectives cannot be compared" in text.err
    assert "UNVERIFIED, numbers recalled" in text.err


def test_ones_own_fit_beside_a_published_law(cli: Cli, fitted: Path) -> None:
    screen = cli("laws", "compare", "cheng-clm", fitted, "--flops", "1e19")
    assert screen.code == 0
    assert "band of N" in screen.out
    own = next(line for line in screen.out.splitlines() if line.startswith("own-clm-isoflop"))
    assert own.split()[1] == "3.16M"
    assert " to " in own
    assert "EXTRAPOLATION(1.0 decades)" in own
    rows = list(csv.DictReader(io.StringIO(cli("laws", "compare", fitted, "--flops", "1e19", "--format", "csv").out)))
    assert [row["law_id"] for row in rows] == ["cheng-clm", "cheng-a9-clm", "own-clm-isoflop"]
    assert float(rows[-1]["N"]) == pytest.approx(1e-3 * 1e19**0.5)


def test_a_file_that_is_no_fit(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("N,D,loss")
    assert "is a .json file" in cli("laws", "compare", tmp_path / "runs.csv", "--flops", "1e11").err
    (tmp_path / "x.json").write_text("{}")
    screen = cli("laws", "compare", tmp_path / "x.json", "--flops", "1e11")
    assert screen.code == 1
    assert "x.json" in screen.err
    assert cli("laws", "compare", "--flops", "1e20").code == 2


def test_the_self_check_passes(cli: Cli) -> None:
    screen = cli("laws", "check")
    assert screen.code == 0
    assert "WRONG" not in screen.out
    n = len(screen.out.splitlines()) - 1
    assert f"{n} of {n} numbers are as they should be" in screen.err


def test_the_self_check_fails_with_exit_code_1(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    law = find_law("cheng-clm")
    wrong = law.model_copy(update={"params": {**law.params, "a_N": 0.587}})
    monkeypatch.setattr(zoo_checks, "all_laws", lambda: (wrong,))
    screen = cli("laws", "check")
    assert screen.code == 1
    assert "WRONG" in screen.out
    rows = json.loads(cli("laws", "check", "--format", "json").out)
    assert not all(row["ok"] for row in rows)
    assert zoo.find_law("cheng-clm") == law
