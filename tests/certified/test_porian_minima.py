"""The published minima of Porian et al. 2024: our log-log exponents against their released ones."""

from __future__ import annotations

import csv
import json
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.isoflop import fit_isoflop, fit_power_law


def _tables() -> Path:
    root = os.environ.get("PLM_SCALING_TEST_DATA", "")
    folder = Path(root) / "law_tables"
    if not root or not (folder / "porian_rw_optimal_pairs.csv").is_file():
        pytest.skip("set PLM_SCALING_TEST_DATA to the folder that holds law_tables/porian_rw_optimal_pairs.csv")
    return folder


def test_unweighted_exponents_in_log_space() -> None:
    folder = _tables()
    published = json.loads((folder / "porian_rw_published_fits.json").read_text())
    pairs = defaultdict(list)
    with (folder / "porian_rw_optimal_pairs.csv").open(newline="") as handle:
        for row in csv.DictReader(handle):
            if row["n"]:
                pairs[row["config"]].append((float(row["flops"]), float(row["n"])))
    assert len(pairs) == len(published) == 10
    for config, points in pairs.items():
        C, N = np.array(points).T
        slope, _ = fit_power_law(C, N)
        assert slope == pytest.approx(published[config]["basic"]["n_exponent"], abs=2e-3), config


def test_exponents_from_the_raw_isoflop_points() -> None:
    folder = _tables()
    published = json.loads((folder / "porian_rw_published_fits.json").read_text())
    rows = defaultdict(list)
    with (folder / "porian_rw_isoflop_points.csv").open(newline="") as handle:
        for i, r in enumerate(csv.DictReader(handle)):
            C, N, D, loss = (float(r[name]) for name in ("C", "N", "D", "loss"))
            # Loss at a point well away from the valley says nothing about a parabola: keep the low part.
            rows[r["config"]].append(
                RunRow(run_id=str(i), objective="clm", role="isoflop", N=N, D=D, loss=loss, C_6nd=C)
            )
    checked = 0
    for config, runs in rows.items():
        kept = [
            r for r in runs if r.loss < 1.04 * min(o.loss for o in runs if o.C_6nd == r.C_6nd)
        ]
        fit = fit_isoflop(RunTable(tuple(kept)), "clm", currency="C_6nd", noise_sd=0.004, draws=200)
        assert fit.a_N is not None
        assert fit.a_N.value == pytest.approx(published[config]["weighted"]["n_exponent"], abs=0.05), (config,fit.a_N.value,published[config]['weighted']['n_exponent'])
        print(config,fit.a_N,published[config]['weighted']['n_exponent'],fit.flags)
        checked += 1
    assert checked >= 3
