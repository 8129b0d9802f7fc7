from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plm_scaling.core.errors import ConfigError
from plm_scaling.core.run_table import RunRow, RunTable

Cli = Callable[..., Any]


def test_the_published_rows_need_no_file(cli: Cli) -> None:
    shown = cli("laws", "causes")
    assert shown.code == 0
    assert "0.835 -> 0.706" in shown.out
    assert "not resolved" in shown.out
    assert "tuning and a constant rate" in shown.err


def test_own_tables_are_compared_with_the_first(cli: Cli, tmp_path: Path) -> None:
    paths = []
    for name, B, beta in (("tuned", 120.0, 0.3), ("untuned", 2.5e4, 0.6)):
        rows = []
        for C in (1e16, 4e16, 1.6e17):
            for j in range(5):
                N = 0.064 * C**0.5 * 2.0 ** (j - 2)
                D = C / 6 / N
                loss = 1.5 + 40.0 * N**-0.3 + B * D**-beta
                values = {"run_id": f"{C:g}-{j}", "objective": "clm", "N": N, "D": D, "C_6nd": C, "C_exact": C}
                rows.append(RunRow.model_validate(values | {"loss": loss, "validation_id": "v", "role": "isoflop"}))
        paths.append(tmp_path / f"{name}.csv")
        RunTable(tuple(rows)).write(paths[-1])
    shown = cli("laws", "causes", *paths, "--format", "csv")
    assert shown.code == 0
    (line,) = csv.DictReader(io.StringIO(shown.out))
    assert (line["cause"], line["change"]) == ("untuned", "tuned -> untuned")
    assert float(line["shift"]) == pytest.approx(float(line["a_after"]) - float(line["a_before"]))
    both = cli("laws", "causes", paths[0])
    assert both.code == 1
    assert "no other" in both.err


def test_a_table_of_both_objectives_asks_which(tmp_path: Path) -> None:
    from plm_scaling import api

    rows = tuple(
        RunRow.model_validate({"run_id": o, "objective": o, "N": 1e6, "D": 1e8, "C_exact": 1e15, "loss": 2.0})
        for o in ("clm", "mlm")
    )
    path = tmp_path / "both.csv"
    RunTable(rows).write(path)
    with pytest.raises(ConfigError, match="clm and mlm"):
        api.laws_causes([path, path])
