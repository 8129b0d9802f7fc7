from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plm_scaling.laws.clusters import ValidationClusters
from plm_scaling.laws.ensemble import fit_surfaces
from plm_scaling.laws.fit import fit_sample
from plm_scaling.laws.forms import find_form

MakeWorld = Callable[..., Any]
K, SPREAD = 80, 0.3


def clusters_of(loss: np.ndarray, ids: list[str], *, own: float = 0.0) -> ValidationClusters:
    """Clusters that are harder or easier for all runs alike, by `SPREAD` nats, and for each alone by `own`."""
    rng = np.random.default_rng(0)
    n_targets = rng.integers(100, 400, K).astype(float)
    common = SPREAD * rng.standard_normal(K)
    common -= (common * n_targets).sum() / n_targets.sum()
    alone = own * rng.standard_normal((len(loss), K))
    return ValidationClusters(tuple(ids), (loss[:, None] + common + alone) * n_targets, n_targets)


@pytest.fixture(scope="module")
def runs(world: MakeWorld) -> tuple[Any, list[str]]:
    made = world("chinchilla")
    return made.sample(), [f"r{i}" for i in range(len(made.N))]


def test_a_common_shift_moves_the_floor_and_not_the_exponents(runs: tuple[Any, list[str]]) -> None:
    sample, ids = runs
    targets = clusters_of(sample.loss, ids).resampled(ids, sample.loss, 150, seed=1)
    assert targets is not None
    assert targets.shape == (150, 42)
    fit = fit_sample(sample, find_form("chinchilla"), resampled=np.ones((150, 42)), targets=targets)
    E, A, B, alpha, beta = np.array(fit.draws).T
    # A mean over K clusters, weighted by their targets.
    assert E.std() == pytest.approx(SPREAD / np.sqrt(K), rel=0.35)
    # The table's losses move by a ratio, so that a shift of E is not quite all: a hundredth of its relative size.
    assert alpha.std() < 0.02 * E.std()
    assert beta.std() < 0.02 * E.std()
    assert A.std() / A.mean() < 0.05 * E.std()
    assert B.std() / B.mean() < 0.05 * E.std()


def test_what_differs_between_runs_moves_the_exponents_too(runs: tuple[Any, list[str]]) -> None:
    sample, ids = runs
    spread = []
    for own in (0.0, 0.3):
        targets = clusters_of(sample.loss, ids, own=own).resampled(ids, sample.loss, 60, seed=1)
        fit = fit_sample(sample, find_form("chinchilla"), resampled=np.ones((60, 42)), targets=targets)
        spread.append(np.array(fit.draws)[:, 3].std())
    assert spread[1] > 5 * spread[0]


def test_resampled_means_are_those_of_whole_clusters() -> None:
    n_targets = np.array([10.0, 30.0])
    clusters = ValidationClusters(("a", "b"), np.array([[20.0, 90.0], [30.0, 60.0]]), n_targets)
    logs = clusters.resampled(["b", "a"], np.array([2.25, 2.75]), 200, seed=0)
    assert logs is not None
    # The first cluster twice, one of each, or the second twice.
    values = np.unique(np.round(np.exp(logs[:, 1]), 9))
    np.testing.assert_allclose(values, [2.0, 2.75, 3.0])
    assert set(np.round(np.exp(logs[:, 0]), 9)) == {2.0, 2.25, 3.0}
    # Both runs are scored on the same resample.
    assert ((np.exp(logs[:, 1]) < 2.1) == (np.exp(logs[:, 0]) > 2.9)).all()


def test_losses_in_another_unit_keep_their_own_mean(runs: tuple[Any, list[str]]) -> None:
    sample, ids = runs
    clusters = clusters_of(sample.loss, ids)
    plain, doubled = (clusters.resampled(ids, f * sample.loss, 40, seed=2) for f in (1.0, 2.0))
    assert plain is not None
    assert doubled is not None
    np.testing.assert_allclose(doubled - plain, np.log(2.0), rtol=1e-12)
    other = clusters.resampled(ids, sample.loss, 40, seed=3)
    assert other is not None
    assert (other != plain).any()


def test_a_run_without_losses_by_sequence_switches_it_off(runs: tuple[Any, list[str]]) -> None:
    sample, ids = runs
    assert clusters_of(sample.loss, ids).resampled([*ids[1:], "other"], sample.loss, 10, seed=0) is None


def test_a_fit_with_clusters_has_a_wider_floor_and_the_same_exponents(world: MakeWorld) -> None:
    made = world("chinchilla", sd=0.002)
    sample, ids = made.sample(), [f"r{i}" for i in range(42)]
    without, with_them = (
        fit_surfaces(sample, ids, form="chinchilla", draws=150, clusters=clusters).surface
        for clusters in (None, clusters_of(sample.loss, ids))
    )
    assert without is not None
    assert with_them is not None

    def width(fit: Any, name: str) -> float:
        return float(fit.parameters[name].high - fit.parameters[name].low)

    assert with_them.parameters["E"].value == without.parameters["E"].value
    assert width(with_them, "E") > 1.3 * width(without, "E")
    assert width(with_them, "alpha") == pytest.approx(width(without, "alpha"), rel=0.1)
