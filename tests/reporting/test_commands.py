from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from plm_scaling import api
from plm_scaling.cli import cmd_report, cmd_transfer
from plm_scaling.reporting.study import Study


def test_report_passes_the_validation_set_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def report(study: Path, out: Path | None = None, *, validation: str = "val_iid", evals: Any = None) -> Path:
        assert not evals
        asked.append((study, out, validation))
        return study / "report.html"

    monkeypatch.setattr(api, "report", report)
    for words in ([], ["--validation", "heldout_enzymes"], ["--validation", "x", "--dry-run"]):
        assert CliRunner().invoke(cmd_report.command, [str(tmp_path), *words]).exit_code == 0
    assert asked == [(tmp_path, None, "val_iid"), (tmp_path, None, "heldout_enzymes")]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "1.96M [1.55M, 2.47M]"),
        ({"D_t_high": None}, "1.96M [1.55M, ?]"),
        ({"D_t_low": None, "D_t_high": None}, "1.96M"),
        ({"D_t": None, "D_t_high": None}, "at least 1.55M"),
        ({"D_t": None, "D_t_low": None, "D_t_high": -1e5}, "at most -100k"),
        ({"D_t": None, "D_t_low": None, "D_t_high": None}, "-"),
    ],
)
def test_transfer_prints_its_tokens_with_their_interval(
    full_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], says: str
) -> None:
    assert full_study.transfer
    pair = full_study.transfer.pairs[0].model_copy(update=changes)
    fitted = full_study.transfer.model_copy(update={"pairs": (pair,), "notes": ()})
    monkeypatch.setattr(api, "transfer", lambda *_, **__: fitted)
    done = CliRunner().invoke(cmd_transfer.command, [str(tmp_path), "--dry-run"])
    assert done.exit_code == 0
    names, values = (re.split(r" {2,}", line.strip()) for line in done.stdout.splitlines()[:2])
    assert values[names.index("D_t (95 %)")] == says


def test_transfer_prints_the_whole_error_of_the_gap(
    full_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert full_study.transfer
    for total, says in ((None, "-0.2830 +/- 0.0090"), (0.03, "-0.283 +/- 0.030")):
        pair = full_study.transfer.pairs[0].model_copy(update={"gap_total_se": total})
        fitted = full_study.transfer.model_copy(update={"pairs": (pair,), "notes": ()})
        monkeypatch.setattr(api, "transfer", lambda *_, fitted=fitted, **__: fitted)
        done = CliRunner().invoke(cmd_transfer.command, [str(tmp_path), "--dry-run"])
        assert says in done.stdout
