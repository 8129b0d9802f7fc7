"""What `evaluate` tells a reader beside its numbers: merged rows, reasons, verdicts; and a list that fits a screen."""

from __future__ import annotations

import json
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from plm_scaling import api
from plm_scaling.cli.cmd_evaluate import _shown
from plm_scaling.cli.quantities import BUDGET, budget_words
from plm_scaling.cli.tasks_screen import task_lines
from plm_scaling.evals.adapters.base import ModelInfo
from plm_scaling.evals.bootstrap import bootstrap_mean
from plm_scaling.evals.memorisation import GroupMemory, MemorisationReport
from plm_scaling.evals.pairs import PairedRow
from plm_scaling.evals.results import FloorScore, ResultRow, append_rows
from tests.conftest import Screen

Cli = Callable[..., Screen]


def test_all_tasks_fit_the_width() -> None:
    tasks = api.evaluate_ls()
    lines = task_lines(tasks, 80)
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    for task in tasks:
        group, _, part = task.name.rpartition(".")
        assert task.name in text or (f"{group}.* " in text and part in text), task.name


def row(task: str, name: str, value: float, *, protocol: str = "p", floors: tuple[FloorScore, ...] = ()) -> ResultRow:
    said = {"name": name, "family": "own", "objective": "clm", "origin": "run", "abilities": ("causal",), "N": 10}
    return ResultRow(
        task=task, task_version=1, data_sha256="d", model=ModelInfo.model_validate(said), protocol=protocol,
        metric=task, higher_is_better=True, value=value, n=9, floors=floors,
    )  # fmt: skip


def test_no_model_is_its_own_floor() -> None:
    floors = (FloorScore(name="random weights", value=0.9), FloorScore(name="one-hot", value=0.5))
    control = row("t", "random m", 0.9, floors=floors)
    control = control.model_copy(
        update={"model": control.model.model_copy(update={"origin": "random weights, seed 0"})}
    )
    assert _shown(control)["best floor"] == "one-hot 0.500"
    assert _shown(row("t", "m", 0.9, floors=floors))["best floor"] == "random weights 0.900"


def test_pairs_of_several_protocols_are_told_apart(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = {"task": "t", "metric": "spearman", "model": "m", "against": "a", "value": 0.1, "value_against": 0.2}
    said |= {"difference": bootstrap_mean(np.arange(9.0)), "p_holm": 1.0, "note": ""}
    pairs = [PairedRow.model_validate(said | {"protocol": p, "protocol_against": p}) for p in ("mean", "sites")]
    (tmp_path / "rows.jsonl").touch()
    for shown in (pairs, pairs[:1]):
        monkeypatch.setattr(api, "evaluate_compare", lambda *_, shown=shown, **__: shown)
        done = cli("evaluate", "compare", str(tmp_path / "rows.jsonl"), "--against", "a")
        assert ("protocol" in done.out) == (len(shown) == 2)
        assert done.err == ""


def test_only_one_scale_is_compared_over_protocols() -> None:
    said = {"task": "t", "model": "m", "against": "a", "value": 0.1, "value_against": 0.2, "p_holm": 1.0, "note": ""}
    said |= {"difference": bootstrap_mean(np.arange(9.0)), "protocol": "masked", "protocol_against": "causal"}
    assert PairedRow.model_validate(said | {"metric": "site_nats"}).comparable
    assert not PairedRow.model_validate(said | {"metric": "spearman"}).comparable


def test_merged_rows_are_counted(cli: Cli, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = ["".join(rng.choice(list("ACDE"), 8)) for _ in range(60)]
    lines = [f"{text},{k % 7}" for k, text in enumerate(dict.fromkeys(rows))]
    (tmp_path / "t.csv").write_text("sequence,target\n" + "\n".join([*lines, *lines[:5]]) + "\n")
    done = cli("evaluate", "floors", str(tmp_path / "t.csv"), "--resamples", "10", "--format", "json")
    assert "5 rows that repeat a sequence were merged" in done.err
    assert {one["merged"] for one in json.loads(done.out)} == {5}


def test_a_floor_that_is_missing_says_why(cli: Cli, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = dict.fromkeys("".join(rng.choice(list("ACDE"), 8)) for _ in range(80))
    (tmp_path / "t.csv").write_text("sequence,target\n" + "".join(f"{text},{k % 7}\n" for k, text in enumerate(rows)))
    done = cli("evaluate", "labels", str(tmp_path / "t.csv"), "--labels", "10", "--seeds", "1", "--format", "json")
    why = {one["name"]: one["why"] for one in json.loads(done.out)["curves"]}
    assert why["one-hot"] == ""
    assert why["blosum62"] == "no wild type is known"
    assert "floor blosum62 has no value here and is no part of the best floor: no wild type is known." in done.err


def test_sizes_that_agree_are_said_to(cli: Cli, tmp_path: Path) -> None:
    append_rows(tmp_path / "rows.jsonl", [row("spearman", "m", 0.5)])
    said = cli("evaluate", "sizes", str(tmp_path / "rows.jsonl")).out
    assert "SIGN_FLIP would have been raised" in said
    assert "single size cannot" in said


def test_a_report_without_alarm_says_what_it_looked_for() -> None:
    group = GroupMemory(n=7, exact=0, near=0, recovered=0.1, exposure=1.4, most_exposed=3.0)
    none = bootstrap_mean(np.arange(9.0))
    report = MemorisationReport(
        model="m", sha256="s", how="causal", shown=0.5, near_identity=0.9, references=64, made=0.0, seen=group,
        unseen=group, exposure_gap=none, membership=none,
    )  # fmt: skip
    assert report.verdict.startswith("No memorisation found in 7 seen and 7 unseen")
    assert "proves no absence" in report.verdict


def test_a_budget_in_words_is_read_back_as_it_was() -> None:
    asked = {"usd": 1234567.25, "objective": "mlm", "laws": ("a b.json", "zoo:x"), "force": True, "mfu": None, "N": 3}
    words = shlex.split(budget_words(asked))
    assert float(words[words.index("--usd") + 1]) == 1234567.25
    assert [words[k + 1] for k, word in enumerate(words) if word == "--laws"] == ["a b.json", "zoo:x"]
    assert words[-1] == "--force"
    assert {word[2:].replace("-", "_") for word in words if word.startswith("--")} <= set(BUDGET)


def test_the_package_runs_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["plm-scaling", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("plm_scaling", run_name="__main__")
    assert ended.value.code == 0
    assert "plm-scaling, version" in capsys.readouterr().out
