"""Laws of repeated data fitted to simulated runs: what is recovered, what is refused, and in which words."""

from __future__ import annotations

import math

import numpy as np
import pytest

from plm_scaling.core.errors import ConfigError, FitError
from plm_scaling.laws.fit import fit_surface
from plm_scaling.laws.repeat_answers import (
    best_epochs,
    repeat_loss,
)
from plm_scaling.laws.repeat_doubts import SENTENCES, UNIDENTIFIED
from plm_scaling.laws.repeat_fit import RepeatFit
from plm_scaling.laws.repeats import compare_repeat_forms, fit_repeats
from plm_scaling.laws.surface import surface_loss

TRUTH = {"E": 1.6, "A": 600.0, "B": 900.0, "alpha": 0.4, "beta": 0.33}


def base_loss(N: np.ndarray, D: np.ndarray) -> np.ndarray:
    return TRUTH["E"] + TRUTH["A"] * N ** -TRUTH["alpha"] + TRUTH["B"] * D ** -TRUTH["beta"]


def design(sizes: int = 4, uniques: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unrepeated runs on a grid, and every size on every U for 2 to 40 epochs."""
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(2e9, 2e11, 5)))
    shapes = (np.geomspace(2e7, 5e8, sizes), np.geomspace(1e9, 1e10, uniques), np.geomspace(2.0, 40.0, 5))
    n, u, e = (v.ravel() for v in np.meshgrid(*shapes))
    return np.append(N, n), np.append(D, u * e), np.append(D, u)


def worn(N: np.ndarray, D: np.ndarray, U: np.ndarray, R_D: float) -> np.ndarray:
    return base_loss(N, U * (1.0 - R_D * np.expm1(-(D / U - 1.0) / R_D)))


def penalised(N: np.ndarray, D: np.ndarray, U: np.ndarray, P: float = 0.02) -> np.ndarray:
    return base_loss(N, D) + P * (D / U - 1.0) ** 0.8 * (N / U) ** 0.6


def noisy(loss: np.ndarray, sd: float = 0.003, seed: int = 0) -> np.ndarray:
    return loss * np.exp(sd * np.random.default_rng(seed).standard_normal(len(loss)))


def value(fit: RepeatFit, name: str) -> float:
    return fit.parameters[name].value


@pytest.mark.parametrize("base", [TRUTH, "chinchilla"])
@pytest.mark.parametrize("R_D", [1.5, 12.0])
def test_noiseless_decay_is_found_exactly(base: object, R_D: float) -> None:
    N, D, U = design()
    fit = fit_repeats(N, D, U, worn(N, D, U, R_D), form="data_decay", base=base, draws=2)
    assert fit.objective_value < 1e-12
    assert value(fit, "R_D") == pytest.approx(R_D, rel=1e-5)
    assert repeat_loss(fit, 3e8, 3e10, 1e9) == pytest.approx(float(worn(3e8, 3e10, 1e9, R_D)), rel=1e-7)


@pytest.mark.parametrize("base", [TRUTH, "chinchilla"])
def test_noiseless_penalty_is_found_exactly(base: object) -> None:
    N, D, U = design()
    fit = fit_repeats(N, D, U, penalised(N, D, U), form="penalty", base=base, draws=2)
    assert fit.objective_value < 1e-12
    assert value(fit, "delta") == pytest.approx(0.8, rel=1e-4)
    assert value(fit, "kappa") == pytest.approx(0.6, rel=1e-4)
    assert value(fit, "P0") == pytest.approx(0.02 * fit.R0**0.8 * fit.ratio0**0.6, rel=1e-4)


def test_both_decays_on_a_bounded_base() -> None:
    N, D, U = design(sizes=6)
    bounded = {**TRUTH, "L0": 4.0}
    made = fit_repeats(N, D, U, base_loss(N, D), form="decay", base=bounded, held={"R_D": 8.0, "R_N": 4.0}, draws=1)
    assert made.fitted == ()
    fit = fit_repeats(N, D, U, repeat_loss(made, N, D, U), form="decay", base=bounded, draws=2)
    assert (value(fit, "R_D"), value(fit, "R_N")) == pytest.approx((8.0, 4.0), rel=1e-4)


def test_a_simulated_saturation_is_recovered_and_told_from_an_upturn() -> None:
    N, D, U = design()
    fits = compare_repeat_forms(N, D, U, noisy(worn(N, D, U, 6.0)), base=TRUTH, draws=100)
    best = fits[0]
    assert best.form in ("data_decay", "decay")
    own = next(fit for fit in fits if fit.form == "data_decay")
    assert own.parameters["R_D"].low < 6.0 < own.parameters["R_D"].high
    assert own.profiles["R_D"].low < 6.0 < own.profiles["R_D"].high
    assert own.is_identified("R_D")
    assert "NO_UPTURN_IN_DATA" in own.flags
    assert "FORMS_INDISTINGUISHABLE" not in own.flags
    assert best_epochs(own, 1e8, 1e9) is None
    penalty = next(score for score in best.rivals if score.form == "penalty")
    assert penalty.behind is not None
    assert penalty.behind.low > 0


def test_a_simulated_upturn_is_recovered_and_told_from_a_decay() -> None:
    N, D, U = design()
    fits = compare_repeat_forms(N, D, U, noisy(penalised(N, D, U, 0.1)), base=TRUTH, draws=100)
    best = fits[0]
    assert best.form == "penalty"
    for name, true in (("delta", 0.8), ("kappa", 0.6)):
        assert best.parameters[name].low < true < best.parameters[name].high
        assert best.is_identified(name)
    assert "UPTURN_NOT_IN_FORM" not in best.flags
    assert "UPTURN_NOT_IN_FORM" in next(fit for fit in fits if fit.form == "data_decay").flags
    epochs = np.geomspace(1.0, 400.0, 200_000)
    true_turn = epochs[np.argmin(penalised(np.full_like(epochs, 3e8), 1e9 * epochs, np.full_like(epochs, 1e9), 0.1))]
    turn = best_epochs(best, 3e8, 1e9)
    assert turn is not None
    assert turn.low < true_turn < turn.high
    assert turn.value == pytest.approx(true_turn, rel=0.1)


def test_the_best_epochs_are_where_the_loss_is_lowest() -> None:
    N, D, U = design()
    fit = fit_repeats(N, D, U, penalised(N, D, U, 0.1), form="penalty", base=TRUTH, draws=20)
    for size, unique in ((1e7, 1e9), (3e8, 1e9), (1e9, 3e8)):
        epochs = np.geomspace(1.0, 400.0, 100_001)
        lowest = epochs[np.argmin(repeat_loss(fit, size, unique * epochs, unique))]
        turn = best_epochs(fit, size, unique)
        if lowest > 399:
            assert turn is None
        else:
            assert turn is not None
            assert turn.value == pytest.approx(lowest, rel=1e-3)
    # So costly that one epoch is best.
    dear = fit_repeats(N, D, U, base_loss(N, D), form="penalty", base=TRUTH, held={"P0": 9.0, "delta": 1, "kappa": 0})
    assert best_epochs(dear, 1e8, 1e9).value == 1.0


@pytest.mark.parametrize("base", [TRUTH, "chinchilla"])
def test_runs_of_one_epoch_leave_every_parameter_open(base: object) -> None:
    N, D, _ = design()
    loss = noisy(base_loss(N, D))
    for form, names in (("data_decay", ["R_D"]), ("penalty", ["P0", "delta", "kappa"])):
        fit = fit_repeats(N, D, D, loss, form=form, base=base, draws=20)
        assert "NO_REPEATS" in fit.flags
        assert fit.n_repeated == 0
        for name in names:
            assert not fit.is_identified(name)
            assert fit.parameters[name].high == math.inf
            assert UNIDENTIFIED[name] in fit.flags
        assert "no run repeats its data" in [entry.reason for entry in fit.identified]
        np.testing.assert_allclose(repeat_loss(fit, N, D, D), repeat_loss(fit, N, D, U=D / 3), rtol=0.05)


def test_few_epochs_leave_the_decay_open_upwards() -> None:
    N, D, U = design()
    keep = D / U < 3.0
    fit = fit_repeats(N[keep], D[keep], U[keep], noisy(worn(N, D, U, 15.0), 0.01)[keep], base=TRUTH, form="data_decay")
    assert fit.parameters["R_D"].high == math.inf
    assert not fit.is_identified("R_D")
    assert {"R_D_UNIDENTIFIED", "REPEAT_RANGE"} <= set(fit.flags)


def test_one_size_cannot_tell_the_forms_apart() -> None:
    U = np.repeat([3e9, 1e10], 4)
    D, N = U * np.tile([2.0, 4.0, 8.0, 13.0], 2), np.full(8, 1.5e8)
    fits = compare_repeat_forms(N, D, U, noisy(worn(N, D, U, 10.0), 0.004), base=TRUTH, draws=100)
    assert {"FORMS_INDISTINGUISHABLE", "ONE_SIZE_REPEATED"} <= set(fits[0].flags)


def test_a_form_with_as_many_parameters_as_repeated_runs_is_not_chosen() -> None:
    N, D, U = design(sizes=2, uniques=1)
    keep = np.r_[:25, 25, 28, 31, 34]
    loss = noisy(worn(N, D, U, 5.0), 0.004)[keep]
    loss[-4:] *= np.array([0.99, 1.005, 1.0, 1.01])
    fits = compare_repeat_forms(N[keep], D[keep], U[keep], loss, base=TRUTH, draws=20)
    assert fits[0].n_repeated == 4
    assert fits[0].form == "data_decay"
    assert fits[-1].form == "penalty"
    assert "TOO_FEW_REPEATS" in fits[-1].flags


def test_an_offset_of_another_corpus_is_fitted_beside_the_decay() -> None:
    N, D, U = design()
    shifted = (np.arange(len(N)) % 2 == 0) & (D > U)
    loss = worn(N, D, U, 6.0) * np.exp(0.02 * shifted)
    fit = fit_repeats(N, D, U, loss, form="data_decay", base=TRUTH, shifted=shifted, draws=2)
    assert (value(fit, "R_D"), value(fit, "offset")) == pytest.approx((6.0, 0.02), rel=1e-3)
    here, there = repeat_loss(fit, 1e8, 1e10, 1e9), repeat_loss(fit, 1e8, 1e10, 1e9, shifted=True)
    assert math.log(there / here) == pytest.approx(0.02, rel=1e-3)


def test_an_offset_and_one_number_of_epochs_are_not_told_apart() -> None:
    N, D, U = design(sizes=1, uniques=1)
    fresh = U >= D
    N, D, U = np.append(N[fresh], [1.5e8] * 3), np.append(D[fresh], [2e11] * 3), np.append(U[fresh], [1.54e10] * 3)
    shifted = U < D
    loss = noisy(base_loss(N, D) * np.exp(0.03 * shifted), 0.001)
    fits = compare_repeat_forms(N, D, U, loss, base=TRUTH, shifted=shifted, draws=50)
    best = fits[0]
    assert best.form == "none"
    assert "OFFSET_CONFOUNDED" in best.flags
    assert "R_D_UNIDENTIFIED" in best.flags
    assert not best.is_identified("offset")
    assert not best.is_identified("R_D")
    assert value(best, "offset") == pytest.approx(0.03, abs=0.003)
    assert "NO_REPEAT_EFFECT" not in best.flags


def test_repeats_that_cost_nothing_are_called_so() -> None:
    N, D, U = design()
    best = compare_repeat_forms(N, D, U, noisy(base_loss(N, D), 0.002), base=TRUTH, draws=100)[0]
    assert {"NO_REPEAT_EFFECT", "FORMS_INDISTINGUISHABLE"} & set(best.flags)


def test_a_surface_serves_as_base_and_brings_its_own_uncertainty() -> None:
    N, D, U = design()
    fresh = U >= D
    loss = noisy(worn(N, D, U, 6.0))
    surface = fit_surface(N[fresh], D[fresh], loss[fresh], draws=40)
    fit = fit_repeats(N, D, U, loss, form="data_decay", base=surface, draws=200)
    assert fit.base_from == surface.content_hash()
    assert fit.parameters["alpha"] == surface.parameters["alpha"]
    np.testing.assert_allclose(repeat_loss(fit, N, D, D), surface_loss(surface, N, D), rtol=1e-12)
    assert fit.parameters["R_D"].low < 6.0 < fit.parameters["R_D"].high
    alone = fit_repeats(N, D, U, loss, form="data_decay", base=surface.model_copy(update={"draws": ()}), draws=200)
    width = [math.log(f.parameters["R_D"].high / f.parameters["R_D"].low) for f in (fit, alone)]
    assert width[0] > width[1]
    together = fit_repeats(N, D, U, loss, form="data_decay", base="chinchilla", draws=20)
    assert value(together, "R_D") == pytest.approx(value(fit, "R_D"), rel=0.2)
    assert set(together.fitted) == {"E", "A0", "B0", "alpha", "beta", "R_D"}


def test_draws_are_optima_of_their_resamples() -> None:
    """No point of a fine grid is better for a resample than its draw; the draws predict."""
    from plm_scaling.laws.repeat_base import make_base
    from plm_scaling.laws.repeat_problem import make_runs
    from plm_scaling.laws.repeat_search import Asked, find_optimum, resample_repeats
    from plm_scaling.laws.repeat_starts import huber_rows

    N, D, U = design(sizes=5)
    runs = make_runs(N, D, U, noisy(penalised(N, D, U, 0.03), 0.02))
    weights = resample_repeats(runs, 40, 3)
    assert (weights[:, runs.repeated].sum(axis=1) == runs.repeated.sum()).all()
    found = find_optimum(Asked("decay", make_base(TRUTH), {}, False, 1e-3), runs, weights)
    axis = np.linspace(-3.0, 9.0, 121)
    grid = np.stack([v.ravel() for v in np.meshgrid(axis, axis)], axis=1)
    own = np.sum(weights * huber_rows(found.setup.problem, found.draws[:, -2:]), axis=1)
    assert (own <= (weights @ huber_rows(found.setup.problem, grid).T).min(axis=1) * (1 + 1e-6)).all()


def test_weights_count_like_copies() -> None:
    N, D, U = design()
    loss = noisy(worn(N, D, U, 6.0))
    weights = np.ones(len(N))
    weights[30:34] = 2.0
    weighted = fit_repeats(N, D, U, loss, form="data_decay", base=TRUTH, weights=weights, draws=1)
    N, D, U, loss = (np.append(v, v[30:34]) for v in (N, D, U, loss))
    assert value(weighted, "R_D") == pytest.approx(
        value(fit_repeats(N, D, U, loss, form="data_decay", base=TRUTH, draws=1), "R_D"), rel=1e-6
    )


def test_least_absolute_deviations_and_least_squares() -> None:
    N, D, U = design()
    loss = noisy(worn(N, D, U, 6.0))
    for delta in (0.0, math.inf):
        fit = fit_repeats(N, D, U, loss, form="data_decay", base=TRUTH, huber_delta=delta, draws=1)
        assert value(fit, "R_D") == pytest.approx(6.0, rel=0.1)


def test_a_fit_survives_its_file(tmp_path: object) -> None:
    N, D, U = design()
    fits = compare_repeat_forms(N, D, U, noisy(base_loss(N, D)), base=TRUTH, draws=20)
    for fit in fits:
        path = tmp_path / f"{fit.form}.json"  # type: ignore[operator]
        again = RepeatFit.read(fit.write(path))
        assert again == fit
        np.testing.assert_array_equal(repeat_loss(again, N, D, U), repeat_loss(fit, N, D, U))


def test_every_flag_has_a_sentence() -> None:
    N, D, U = design()
    fits = compare_repeat_forms(N, D, U, noisy(penalised(N, D, U, 0.1), 0.02), base=TRUTH, draws=20)
    for fit in fits:
        assert [note.partition(":")[0] for note in fit.notes] == list(fit.flags)
    assert set(UNIDENTIFIED.values()) <= set(SENTENCES)


def test_what_cannot_be_fitted_says_why() -> None:
    N, D, U = design()
    loss = base_loss(N, D)
    with pytest.raises(FitError, match="law of repeats with 6 parameters cannot be fitted to 5 runs"):
        fit_repeats(N[:5], D[:5], U[:5] / 3, loss[:5], form="data_decay", base="chinchilla")
    with pytest.raises(FitError, match="U of row 2 is not a positive number"):
        fit_repeats(N, D, np.where(np.arange(len(U)) == 2, 0.0, U), loss, base=TRUTH)
    with pytest.raises(FitError, match="N has 85 rows, U 84"):
        fit_repeats(N, D, U[1:], loss, base=TRUTH)
    with pytest.raises(ConfigError, match="lacks beta"):
        fit_repeats(N, D, U, loss, base={k: v for k, v in TRUTH.items() if k != "beta"})
    with pytest.raises(ConfigError, match="A of the base law must be positive"):
        fit_repeats(N, D, U, loss, base={**TRUTH, "A": 0.0})
    with pytest.raises(ConfigError, match="data_decay has no parameter 'R_N'"):
        fit_repeats(N, D, U, loss, form="data_decay", base=TRUTH, held={"R_N": 3.0})
    with pytest.raises(ConfigError, match="no law of repeats is called 'decays'"):
        fit_repeats(N, D, U, loss, form="decays", base=TRUTH)


@pytest.mark.slow
def test_intervals_of_the_decay_cover_the_truth() -> None:
    """Simulated designs with noise: 95 % intervals of R_D hold the truth in 86 % or more of 36 tables."""
    N, D, U = design()
    inside = []
    for seed in range(36):
        fit = fit_repeats(N, D, U, noisy(worn(N, D, U, 8.0), 0.01, seed), form="data_decay", base=TRUTH, draws=200)
        both = (fit.parameters["R_D"], fit.profiles["R_D"])
        inside.append([interval.low <= 8.0 <= interval.high for interval in both])
    share = np.mean(inside, axis=0)
    assert (share >= 0.86).all(), share
