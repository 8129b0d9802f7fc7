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


@pytest.fixture(scope="module")
def pairs(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Columns C, N, sd of ln N by configuration, as published."""
    points = defaultdict(list)
    with (folder / "porian_rw_optimal_pairs.csv").open(newline="") as handle:
        for row in csv.DictReader(handle):
            if row["n"]:
                points[row["config"]].append((float(row["flops"]), float(row["n"]), float(row["n_star_std"])))
    return {config: np.array(values).T for config, values in points.items()}


@pytest.fixture(scope="module")
def raw(folder: Path) -> dict[str, RunTable]:
    """The losses at equal compute behind three of the configurations; the others were published as minima only."""
    rows = defaultdict(list)
    with (folder / "porian_rw_isoflop_points.csv").open(newline="") as handle:
        for r in csv.DictReader(handle):
            values = {name: float(r[column]) for name, column in (("N", "N"), ("D", "D"), ("C_6nd", "C"))}
            run_id = f"{r['config']}|{r['C']}|{r['N']}"
            rows[r["config"]].append(RunRow(run_id=run_id, objective="clm", loss=float(r["loss"]), **values))
    return {config: RunTable(tuple(runs)) for config, runs in rows.items()}


def outside(exponents: dict[str, float], published: dict[str, Any]) -> set[str]:
    """Configurations whose exponent is not in the published 95 % interval."""
    intervals = {config: published[config]["n_exponent_ci95"] for config in exponents}
    return {config for config, a in exponents.items() if not intervals[config][0] <= a <= intervals[config][1]}


def test_power_laws_through_the_published_minima(pairs: dict[str, Any], published: dict[str, Any]) -> None:
    assert len(pairs) == len(published) == 10
    for config, (C, N, sd) in pairs.items():
        plain, weighted = published[config]["basic"], published[config]["weighted"]
        assert fit_power_law(C, N) == pytest.approx((plain["n_exponent"], plain["n_coef"]), rel=1e-9)
        assert fit_power_law(C, N, 1 / sd**2) == pytest.approx((weighted["n_exponent"], weighted["n_coef"]), rel=1e-9)


def test_exponents_lie_in_the_published_intervals(pairs: dict[str, Any], published: dict[str, Any]) -> None:
    weighted = {config: fit_power_law(C, N, 1 / sd**2)[0] for config, (C, N, sd) in pairs.items()}
    plain = {config: fit_power_law(C, N)[0] for config, (C, N, _) in pairs.items()}
    assert outside(weighted, published) == outside(plain, published) == set()
    accounting = ("rw|base|long|kaplan|kaplan|train", "rw|tuned|short|const|standard|val")
    assert [round(weighted[config], 3) for config in accounting] == [0.835, 0.497]


def test_linear_space_leaves_nearly_all_intervals(pairs: dict[str, Any], published: dict[str, Any]) -> None:
    linear = {config: fit_power_law(C, N, method="linear")[0] for config, (C, N, _) in pairs.items()}
    assert set(linear) - outside(linear, published) == {"rw|base|short|kaplan|standard|val"}
    moved = [abs(a - published[config]["basic"]["n_exponent"]) for config, a in linear.items()]
    assert max(moved) > 0.05


@pytest.mark.parametrize(("curve", "window"), [("parabola", 0.6), ("cubic", 1.2)])
def test_exponents_from_the_raw_points(
    raw: dict[str, RunTable], published: dict[str, Any], curve: Any, window: float
) -> None:
    fits = {
        config: fit_isoflop(table, "clm", currency="C_6nd", curve=curve, window=window, noise_sd=0.004, draws=200)
        for config, table in raw.items()
    }
    exponents = {config: fit.a_N.value for config, fit in fits.items() if fit.a_N}
    assert len(exponents) == 3
    assert outside(exponents, published) == set()
    for config, fit in fits.items():
        low, high = published[config]["n_exponent_ci95"]
        assert fit.a_N is not None
        assert fit.a_N.low < high
        assert fit.a_N.high > low


def test_a_wide_parabola_misses_where_the_valley_changes_shape(
    raw: dict[str, RunTable], published: dict[str, Any]
) -> None:
    """Against a cubic through the same losses a parabola leans towards larger sizes at small budgets and smaller ones
    at large budgets where hyper-parameters were not tuned, which flattens the line; where they were, it leans alike
    at all budgets, which the exponent does not see."""
    exponents, leans = {}, {}
    for config, table in raw.items():
        parabola, cubic = (
            fit_isoflop(table, "clm", currency="C_6nd", curve=curve, window=1.2, noise_sd=0.004, draws=20)
            for curve in ("parabola", "cubic")
        )
        assert "POOR_PARABOLA" in parabola.flags
        assert parabola.a_N is not None
        exponents[config] = parabola.a_N.value
        pairs = zip(parabola.rows, cubic.rows, strict=True)
        leans[config] = np.array([np.log(a.N_opt.value / b.N_opt.value) for a, b in pairs if a.N_opt and b.N_opt])
    tuned = "rw|tuned|short|const|standard|val"
    assert set(exponents) - outside(exponents, published) == {tuned}
    assert (leans[tuned] < 0).all()
    for config in set(raw) - {tuned}:
        half = len(leans[config]) // 2
        assert leans[config][:half].mean() > 0.01 > -0.01 > leans[config][half:].mean()
