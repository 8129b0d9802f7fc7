from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.laws.combine import fit_laws
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.laws.predict import extrapolation_sd, predict_losses
from plm_scaling.laws.surface import surface_loss

MakeWorld = Callable[..., Any]


@pytest.fixture(scope="module")
def asked(world: MakeWorld) -> LawFit:
    """One form asked for, on a noisy world of its own."""
    return fit_laws(world("chinchilla", sd=0.003, seed=1).table(), "clm", form="chinchilla", draws=200)


@pytest.fixture(scope="module")
def refused(world: MakeWorld) -> LawFit:
    """Three runs, which no surface can be fitted to."""
    return fit_laws(world("chinchilla").table().where(lambda row: row.run_id in {"r0", "r1", "r2"}), "clm", draws=20)


def test_the_form_asked_for_gives_its_own_estimate(asked: LawFit, world: MakeWorld) -> None:
    made = world("chinchilla")
    assert asked.surface is not None
    found = predict_losses(asked, made.N, made.D)
    np.testing.assert_allclose(found.loss, surface_loss(asked.surface, made.N, made.D), rtol=1e-12)
    assert (found.sd_forms == 0).all()
    assert extrapolation_sd(asked) == 0
    assert (found.low < found.loss).all()
    assert (found.high > found.loss).all()


def test_its_interval_holds_nine_new_runs_in_ten(asked: LawFit, world: MakeWorld) -> None:
    """One law, predicted for 20 further sets of 42 runs each: 840 runs, whose losses have noise of their own."""
    made = world("chinchilla")
    found = predict_losses(asked, made.N, made.D)
    rng = np.random.default_rng(9)
    new = made.truth * np.exp(0.003 * rng.standard_normal((20, 42)))
    share = ((found.low <= new) & (new <= found.high)).mean()
    assert 0.84 < share < 0.98
    narrow = predict_losses(asked, made.N, made.D, level=0.5)
    half = ((narrow.low <= new) & (new <= narrow.high)).mean()
    assert 0.38 < half < 0.66


def test_held_out_runs_of_larger_budgets_lie_inside(bounded_law: LawFit, world: MakeWorld) -> None:
    made = world("bounded", sd=0.002, seed=4)
    above = made.C > 1.1e20
    assert bounded_law.n_runs == (~above).sum()
    found = predict_losses(bounded_law, made.N[above], made.D[above])
    loss = made.loss[above]
    assert ((found.low <= loss) & (loss <= found.high)).mean() >= 0.8
    assert np.mean(np.abs(found.loss / loss - 1)) < 0.01


def test_the_ensemble_predicts_its_weighted_mean(bounded_law: LawFit) -> None:
    N, D = np.array([3e8, 1e9]), np.array([7e9, 3e10])
    found = predict_losses(bounded_law, N, D)
    members = [(score.surface, score.weight) for score in bounded_law.forms if score.surface and score.weight >= 0.02]
    assert len(members) > 1
    weights = np.array([weight for _, weight in members])
    estimates = np.log([surface_loss(fit, N, D) for fit, _ in members])
    np.testing.assert_allclose(found.loss, np.exp(weights @ estimates / weights.sum()), rtol=1e-12)
    assert (found.sd_forms > 0).all()
    assert estimates.min(axis=0)[0] <= np.log(found.loss[0]) <= estimates.max(axis=0)[0]


def test_intervals_widen_beyond_the_budgets(bounded_law: LawFit) -> None:
    steps = np.array([0.1, 1.0, 10.0, 100.0])
    top = bounded_law.range_C[1]
    C = top * steps
    N = 3e8 * (C / 1e20) ** 0.5
    found = predict_losses(bounded_law, N, C / 6 / N)
    np.testing.assert_allclose(found.decades, [0, 0, 1, 2], atol=1e-12)
    width = np.log(found.high / found.low)
    assert width[1] < width[2] < width[3]
    assert extrapolation_sd(bounded_law) > 0
    # Beyond, nearly all of it is the error seen in extrapolation.
    without = predict_losses(bounded_law.model_copy(update={"forms": ()}), N, C / 6 / N)
    assert width[3] > np.log(without.high / without.low)[3]


def test_beyond_the_budgets_the_error_seen_in_extrapolation_is_added(bounded_law: LawFit) -> None:
    top = bounded_law.range_C[1]
    C = top * np.array([0.5, 100.0])
    N = 3e8 * (C / 1e20) ** 0.5
    faultless = bounded_law.model_copy(
        update={
            "forms": tuple(
                score.model_copy(update={"folds": tuple(f.model_copy(update={"bias": 0.0}) for f in score.folds)})
                for score in bounded_law.forms
            )
        }
    )
    assert extrapolation_sd(faultless) == 0
    with_it, without = (predict_losses(law, N, C / 6 / N) for law in (bounded_law, faultless))
    width, narrower = (np.log(found.high / found.low) for found in (with_it, without))
    assert width[0] == pytest.approx(narrower[0], rel=0.05)
    # Two decades beyond: independent errors of sd s sqrt(2), in a 90 % interval of 2 x 1.645 sd.
    added = 2 * 1.645 * extrapolation_sd(bounded_law) * np.sqrt(2)
    assert width[1] == pytest.approx(np.hypot(narrower[1], added), rel=0.15)


def test_equal_seeds_give_equal_intervals(bounded_law: LawFit) -> None:
    a, b, c = (predict_losses(bounded_law, 1e9, 1e10, seed=seed) for seed in (0, 0, 1))
    assert (a.low[0], a.high[0]) == (b.low[0], b.high[0])
    assert a.low[0] != c.low[0]
    assert a.loss[0] == c.loss[0]
    assert a.low[0] == pytest.approx(c.low[0], rel=1e-3)


def test_a_batch_moves_the_prediction_where_the_form_has_one(world: MakeWorld) -> None:
    made = world("chinchilla+batch", sd=0.002, batches=True)
    law = fit_laws(made.table(), "clm", form="chinchilla+batch", draws=50)
    small, large, unknown = predict_losses(law, np.full(3, 3e8), np.full(3, 7e9), [2e5, 2e6, np.nan]).loss
    assert small < large
    assert small < unknown < large
    np.testing.assert_allclose(predict_losses(law, made.N, made.D, made.batch).loss, made.truth, rtol=0.005)


def test_a_fit_without_a_surface_predicts_nothing_and_says_why(refused: LawFit) -> None:
    assert refused.surface is None
    with pytest.raises(RefusedError, match="predicts no losses") as raised:
        predict_losses(refused, 1e8, 1e9)
    assert "3 runs" in raised.value.why
    assert raised.value.exit_code == 4


@pytest.mark.parametrize("level", [0.0, 1.0, -0.5, 90.0, float("nan")])
def test_a_level_is_a_share(asked: LawFit, level: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        predict_losses(asked, 1e8, 1e9, level=level)


def test_exact_flops_do_not_shift_the_border(world: MakeWorld) -> None:
    table = world("chinchilla", sd=0.003).table()
    exact = type(table)(tuple(row.model_copy(update={"C_exact": 1.3 * 6 * row.N * row.D}) for row in table))
    law = fit_laws(exact, "clm", form="chinchilla", draws=20)
    assert law.currency == "C_exact"
    assert law.range_C[1] == pytest.approx(1.3 * 3e20)
    top = 3e20 / 6 / 3e9
    assert predict_losses(law, 3e9, 10 * top).decades[0] == pytest.approx(1.0)
