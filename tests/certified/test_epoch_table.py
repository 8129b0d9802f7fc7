"""The published extractions of the Chinchilla runs: best known optimum, published refit, intervals, what they lack."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.combine import fit_laws
from plm_scaling.laws.fit import fit_surface
from plm_scaling.laws.forms import log_loss
from plm_scaling.laws.law_fit import LawFit, SurfaceFit
from plm_scaling.laws.predict import predict_losses
from plm_scaling.laws.surface import form_of, rows_at, theta_draws

Array = npt.NDArray[np.float64]
Columns = tuple[Array, Array, Array]
DRAWS = 2000


def read_rows(name: str) -> list[dict[str, str]]:
    root = os.environ.get("PLM_SCALING_TEST_DATA", "")
    path = Path(root) / "law_tables" / name
    if not root or not path.is_file():
        pytest.skip(f"set PLM_SCALING_TEST_DATA to the folder that holds law_tables/{name}")
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def columns(rows: list[dict[str, str]]) -> Columns:
    N, D, loss = (np.array([float(row[name]) for row in rows]) for name in ("N", "D", "loss"))
    return N, D, loss


@pytest.fixture(scope="module")
def all_rows() -> list[dict[str, str]]:
    return read_rows("epoch_chinchilla.csv")


@pytest.fixture(scope="module")
def runs(all_rows: list[dict[str, str]]) -> Columns:
    kept = [row for row in all_rows if row["outlier"] == "False"]
    assert (len(all_rows), len(kept)) == (245, 240)
    return columns(kept)


@pytest.fixture(scope="module")
def epoch_fit(runs: Columns) -> SurfaceFit:
    return fit_surface(*runs, draws=DRAWS)


def published_terms(fit: SurfaceFit, values: Mapping[str, Any]) -> dict[str, Any]:
    """E, A, B, alpha, beta as the papers state them: A = A0 N0^alpha, B = B0 D0^beta."""
    alpha, beta = values["alpha"], values["beta"]
    A, B = values["A0"] * fit.N0**alpha, values["B0"] * fit.D0**beta
    return {"E": values["E"], "A": A, "B": B, "alpha": alpha, "beta": beta}


def estimate(fit: SurfaceFit) -> dict[str, float]:
    return published_terms(fit, {name: interval.value for name, interval in fit.parameters.items()})


def standard_error(fit: SurfaceFit, name: str) -> float:
    interval = fit.parameters[name]
    return (interval.high - interval.low) / (2 * 1.96)


def test_objective_is_the_best_known_to_1e9(epoch_fit: SurfaceFit) -> None:
    assert epoch_fit.objective_value == pytest.approx(1.0182740178006e-3, rel=1e-9)
    assert epoch_fit.objective_value <= 1.01827402e-3
    assert epoch_fit.starts_agreeing == 1.0
    assert epoch_fit.flags == ()


def test_parameters_of_the_optimum(epoch_fit: SurfaceFit) -> None:
    """The other published refit at the same border (1.81724, 477.84, 2143.86, .347313, .367183) is 2e-4 away."""
    expected = {"E": 1.817218098, "A": 477.825862, "B": 2143.417384, "alpha": 0.3473104981, "beta": 0.3671724331}
    assert estimate(epoch_fit) == pytest.approx(expected, rel=1e-6)
    rounded = {"E": 1.81722, "A": 477.83, "B": 2143.4, "alpha": 0.347310, "beta": 0.367172}
    assert estimate(epoch_fit) == pytest.approx(rounded, rel=1e-4)


def test_least_absolute_deviations_are_the_published_refit(runs: Columns) -> None:
    """Besiroglu et al. 2024 fit the border too, which goes to zero: 1.81686, 482.006, 2085.43, .34781, .36585."""
    fit = fit_surface(*runs, huber_delta=0.0, draws=1)
    published = {"E": 1.81686, "A": 482.006, "B": 2085.43, "alpha": 0.34781, "beta": 0.36585}
    assert estimate(fit) == pytest.approx(published, rel=5e-5)
    E, A, B, alpha, beta = estimate(fit).values()
    N, D, loss = runs

    def absolute(e: float, a: float, b: float, x: float, y: float) -> float:
        return float(np.abs(np.log(e + a * N**-x + b * D**-y) - np.log(loss)).sum())

    assert absolute(E, A, B, alpha, beta) <= absolute(1.81686, 482.006, 2085.43, 0.34781, 0.36585)


@pytest.mark.parametrize(
    ("name", "low", "high", "rounding"),
    [
        ("E", 1.769, 1.871, 5e-4),
        ("A", 285.0, 744.0, 0.5),
        ("B", 1042.0, 5810.0, 0.5),
        ("alpha", 0.317, 0.373, 5e-4),
        ("beta", 0.331, 0.415, 5e-4),
    ],
)
def test_intervals_are_the_published_ones_within_bootstrap_noise(
    epoch_fit: SurfaceFit, name: str, low: float, high: float, rounding: float
) -> None:
    """Besiroglu et al. 2024, 4,000 resamples; ours are 2,000 others.

    The share of draws below the true q-quantile has variance q (1 - q) / B, so that the q-quantiles of two bootstraps
    lie apart by about the distance over which the distribution function rises by the root of both variances' sum.
    """
    drawn = np.array(epoch_fit.draws)
    by_name = {parameter: drawn[:, i] for i, parameter in enumerate(epoch_fit.parameters)}
    draws = published_terms(epoch_fit, by_name)[name]
    for q, published in ((0.025, low), (0.975, high)):
        rise = math.sqrt(q * (1 - q) * (1 / DRAWS + 1 / 4000))
        noise = (np.quantile(draws, q + rise) - np.quantile(draws, q - rise)) / 2
        assert abs(np.quantile(draws, q) - published) <= 3 * noise + rounding


def test_what_the_five_flagged_runs_move(
    all_rows: list[dict[str, str]], runs: Columns, epoch_fit: SurfaceFit, record_property: Any
) -> None:
    """The data term moves (beta by 4 standard errors, B sixfold), E and the exponent of N_opt with it; alpha stays."""
    with_them = fit_surface(*columns(all_rows), draws=1)
    before, after = estimate(epoch_fit), estimate(with_them)
    record_property("estimates", (before, after))
    moved = {name: (after[name] - before[name]) / standard_error(epoch_fit, name) for name in ("E", "alpha", "beta")}
    assert abs(moved["alpha"]) < 0.5
    assert 3 < moved["beta"] < 5
    assert 2 < moved["E"] < 4
    assert 5 < after["B"] / before["B"] < 7
    assert epoch_fit.a_N is not None
    assert with_them.a_N is not None
    assert with_them.a_N.value - epoch_fit.a_N.value == pytest.approx(0.051, abs=0.005)
    assert with_them.objective_value / epoch_fit.objective_value == pytest.approx(1.79, abs=0.02)


def test_starts_agree_on_the_second_extraction() -> None:
    rows = read_rows("kyotakano_chinchilla.csv")
    assert len(rows) == 234
    fit = fit_surface(*columns(rows), draws=1)
    assert fit.starts_agreeing == 1.0
    assert fit.second_objective is None
    assert fit.gradient_norm is not None
    assert fit.gradient_norm < 1e-6


def test_both_extractions_tell_of_one_sweep(epoch_fit: SurfaceFit) -> None:
    other = fit_surface(*columns(read_rows("kyotakano_chinchilla.csv")), draws=200)
    assert epoch_fit.a_N is not None
    assert other.a_N is not None
    assert other.a_N.low < epoch_fit.a_N.high
    assert epoch_fit.a_N.low < other.a_N.high


def extrapolated(runs: Columns, cut: float, form: str) -> tuple[LawFit, Columns]:
    """The fit to runs up to a compute, and the runs above."""
    rows = [
        RunRow.model_validate({"run_id": f"r{i}", "objective": "clm", "role": "grid", "N": n, "D": d, "loss": loss})
        for i, (n, d, loss) in enumerate(zip(*runs, strict=True))
    ]
    N, D, loss = runs
    above = cut < 6 * N * D
    law = fit_laws(RunTable(tuple(rows)), "clm", form=form, max_compute=cut, currency="C_6nd", draws=400)
    return law, (N[above], D[above], loss[above])


def coverages(law: LawFit, held_out: Columns) -> tuple[float, float]:
    """Shares of runs inside the 95 % interval of predictions, and inside that of the parameters alone."""
    N, D, loss = held_out
    predicted = predict_losses(law, N, D, level=0.95)
    inside = float(np.mean((predicted.low <= loss) & (loss <= predicted.high)))
    surface = law.surface
    assert surface is not None
    drawn = np.exp(log_loss(form_of(surface), theta_draws(surface), rows_at(surface, N, D)))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return inside, float(np.mean((low <= loss) & (loss <= high)))


@pytest.mark.parametrize(("cut", "count", "published"), [(1e20, 104, 0.28), (3e20, 63, 0.21), (6e20, 42, 0.14)])
def test_bands_of_parameters_are_no_prediction_intervals(
    runs: Columns, cut: float, count: int, published: float
) -> None:
    """Parameters alone hold 28, 21 and 14 % of larger runs at nominal 95 %; with residuals it is 69, 70 and 67 %.

    What is still missing is the form's own error, which one form asked for cannot know.
    """
    law, held_out = extrapolated(runs, cut, "chinchilla")
    inside, parameters_only = coverages(law, held_out)
    assert len(held_out[0]) == count
    assert parameters_only == pytest.approx(published, abs=0.05)
    assert 0.6 < inside < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("cut", [1e20, 3e20, 6e20])
def test_the_ensemble_covers_larger_runs(runs: Columns, cut: float) -> None:
    """Spread of forms and their error in the rolling test included: 97, 98 and 93 % at nominal 95 %."""
    law, held_out = extrapolated(runs, cut, "auto")
    inside, _ = coverages(law, held_out)
    assert inside >= 0.9
