"""Porian et al. 2024, RefinedWeb: exponents through their minima, and from their raw isoFLOP points."""

from __future__ import annotations

import csv
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.isoflop import fit_isoflop
from plm_scaling.laws.power_laws import fit_power_law


@pytest.fixture(scope="module")
def folder() -> Path:
    root = os.environ.get("PLM_SCALING_TEST_DATA", "")
    path = Path(root) / "law_tables"
    if not root or not (path / "porian_rw_optimal_pairs.csv").is_file():
        pytest.skip("set PLM_SCALING_TEST_DATA to the folder that holds law_tables/porian_rw_optimal_pairs.csv")
    return path


@pytest.fixture(scope="module")
def published(folder: Path) -> dict[str, Any]:
    fits: dict[str, Any] = json.loads((folder / "porian_rw_published_fits.json").read_text())
    return fits


def test_power_laws_through_the_published_minima(folder: Path, published: dict[str, Any]) -> None:
    points = defaultdict(list)
    with (folder / "porian_rw_optimal_pairs.csv").open(newline="") as handle:
        for row in csv.DictReader(handle):
            if row["n"]:
                points[row["config"]].append((float(row["flops"]), float(row["n"]), float(row["n_star_std"])))
    assert len(points) == len(published) == 10
    for config, values in points.items():
        C, N, sd = np.array(values).T
        plain, weighted = published[config]["basic"], published[config]["weighted"]
        assert fit_power_law(C, N) == pytest.approx((plain["n_exponent"], plain["n_coef"]), rel=1e-9)
        assert fit_power_law(C, N, 1 / sd**2) == pytest.approx((weighted["n_exponent"], weighted["n_coef"]), rel=1e-9)


def test_exponents_from_the_raw_points(folder: Path, published: dict[str, Any]) -> None:
    budgets = defaultdict(list)
    with (folder / "porian_rw_isoflop_points.csv").open(newline="") as handle:
        for r in csv.DictReader(handle):
            budgets[r["config"], float(r["C"])].append((float(r["N"]), float(r["D"]), float(r["loss"])))
    rows = defaultdict(list)
    for (config, C), points in budgets.items():
        lowest = min(loss for _, _, loss in points)
        # A parabola describes the valley, not its far walls: keep what lies within 4 % of the minimum.
        for N, D, loss in points:
            if loss < 1.04 * lowest:
                run_id = f"{config}|{C}|{N}"
                rows[config].append(RunRow(run_id=run_id, objective="clm", N=N, D=D, loss=loss, C_6nd=C))
    assert len(rows) == 3
    for config, runs in rows.items():
        fit = fit_isoflop(RunTable(tuple(runs)), "clm", currency="C_6nd", noise_sd=0.004, draws=200)
        assert fit.a_N is not None
        assert fit.a_N.value == pytest.approx(published[config]["weighted"]["n_exponent"], abs=0.03)
