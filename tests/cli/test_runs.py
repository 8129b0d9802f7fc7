from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


def test_sql_answers_as_a_table_json_or_csv(cli: Cli, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    query = "select objective, count(*) n, min(loss) best from runs group by all order by all"
    screen = cli("runs", "sql", query, study / "runs", "--format", "json")
    rows = json.loads(screen.out)
    assert screen.code == 0
    assert [list(row) for row in rows] == [["objective", "n", "best"]] * 2
    assert sum(row["n"] for row in rows) == len(list((study / "runs").iterdir()))
    monkeypatch.chdir(study)  # runs/ is the default
    assert cli("runs", "sql", query, "--format", "csv").out.splitlines()[0] == "objective,n,best"
    assert cli("runs", "sql", query).out.split()[:3] == ["objective", "n", "best"]


def test_bad_sql_is_a_usage_error_that_names_the_views(cli: Cli, study: Path) -> None:
    screen = cli("runs", "sql", "select steps from metrics", study / "runs")
    assert screen.code == 2
    assert "metrics(run_id, step, D, loss" in screen.err
    assert "Traceback" not in screen.err


def test_only_people_are_spared_long_answers(cli: Cli, study: Path) -> None:
    query = "select * from range(1500)"
    screen = cli("runs", "sql", query, study / "runs")
    assert len(screen.out.splitlines()) == 1001
    assert "500 further rows" in screen.err
    assert len(cli("runs", "sql", query, study / "runs", "--format", "csv").out.splitlines()) == 1501


def test_the_table_is_what_fit_and_import_read(cli: Cli, study: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.parquet"
    dry = cli("runs", "table", study / "runs", "-o", out, "-n")
    assert (dry.code, out.exists()) == (0, False)
    screen = cli("runs", "table", study / "runs", "-o", out)
    assert screen.code == 0
    assert f"next: plm-scaling fit {out}" in screen.err
    assert cli("import", "runs", study / "runs", "-o", tmp_path / "theirs.csv").code == 0
    from plm_scaling import api

    assert api.collect(out) == api.collect(tmp_path / "theirs.csv") == api.collect(study / "runs")


def test_export_writes_new_folders_only(cli: Cli, study: Path, tmp_path: Path) -> None:
    out = tmp_path / "csv"
    assert cli("runs", "export", study / "runs").code == 2
    assert cli("runs", "export", study / "runs", "--csv", out, "--dry-run").code == 0
    assert not out.exists()
    assert cli("runs", "export", study / "runs", "--csv", out).code == 0
    assert sorted(path.name for path in out.iterdir()) == ["losses.csv", "metrics.csv", "runs.csv"]
    again = cli("runs", "export", study / "runs", "--csv", out)
    assert again.code == 2
    assert "already" in again.err
