"""The published extraction of the Chinchilla runs: our optimum against the best known one."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from plm_scaling.laws.fit import fit_surface
from plm_scaling.laws.law_fit import SurfaceFit


@pytest.fixture(scope="module")
def epoch_fit() -> SurfaceFit:
    root = os.environ.get("PLM_SCALING_TEST_DATA", "")
    path = Path(root) / "law_tables" / "epoch_chinchilla.csv"
    if not root or not path.is_file():
        pytest.skip("set PLM_SCALING_TEST_DATA to the folder that holds law_tables/epoch_chinchilla.csv")
    with path.open(newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["outlier"] == "False"]
    assert len(rows) == 240
    N, D, loss = (np.array([float(row[name]) for row in rows]) for name in ("N", "D", "loss"))
    return fit_surface(N, D, loss, draws=400)


def test_objective_is_the_best_known_to_1e9(epoch_fit: SurfaceFit) -> None:
    assert epoch_fit.objective_value == pytest.approx(1.0182740178006e-3, rel=1e-9)
    assert epoch_fit.starts_agreeing == 1.0


def test_parameters_of_the_optimum(epoch_fit: SurfaceFit) -> None:
    value = {name: interval.value for name, interval in epoch_fit.parameters.items()}
    assert value["E"] == pytest.approx(1.817218098, abs=1e-7)
    assert value["alpha"] == pytest.approx(0.3473104981, abs=1e-7)
    assert value["beta"] == pytest.approx(0.3671724331, abs=1e-7)
    assert value["A0"] * epoch_fit.N0 ** value["alpha"] == pytest.approx(477.825862, rel=1e-6)
    assert value["B0"] * epoch_fit.D0 ** value["beta"] == pytest.approx(2143.417384, rel=1e-6)


def test_intervals_match_the_published_bootstrap(epoch_fit: SurfaceFit) -> None:
    # Besiroglu et al. 2024, 4,000 resamples: E 1.769-1.871, alpha .317-.373, beta .331-.415.
    for name, low, high in (("E", 1.769, 1.871), ("alpha", 0.317, 0.373), ("beta", 0.331, 0.415)):
        interval = epoch_fit.parameters[name]
        assert interval.low == pytest.approx(low, abs=0.012)
        assert interval.high == pytest.approx(high, abs=0.012)
    assert epoch_fit.flags == ()
