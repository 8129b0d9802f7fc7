from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from plm_scaling.core.run_table import RunRow
from plm_scaling.transfers.exponents import FittedLaw, censored_lines, condition_number, transfer_laws
from plm_scaling.transfers.gaps import Gap, Sampling, draw_noise
from plm_scaling.transfers.mixture import MeasuredPair
from plm_scaling.transfers.readings import Anchor, Question
from plm_scaling.transfers.transfer_fit import TransferPair

K, A, B = 2e6, 0.2, 0.4
GRID = [(N, D) for N in (1e4, 3e4, 9e4) for D in (1e6, 4e6, 16e6)]


def law_of(N: float, D: float) -> float:
    return K * (D / 4e6) ** A * (N / 3e4) ** B


def measured(
    N: float, D: float, D_t: float | None, *, sd: float = 0.0, D_source: float = 1e6, low: float | None = None
) -> MeasuredPair:
    """A pair as it was read: D_t with a log-normal error, or only a bound."""
    pair = TransferPair(
        source_run_id="s", target_run_id=f"t{N:g}-{D:g}", scratch_run_id="x", source_objective="clm", objective="mlm",
        N=N, D=D, D_source=D_source, loss_scratch=2.0, loss_transfer=1.9, gap=-0.1, D_t=D_t, D_t_low=low,
        overlap="disjoint", source_worth=D_source,
    )  # fmt: skip
    row = RunRow(run_id=pair.target_run_id, objective="mlm", N=N, D=D, loss=1.9)
    sampling = Sampling(200, 0)
    gap = Gap(-0.1, None, None)
    noise = draw_noise(gap, row, "x", sampling)
    question = Question(row, Anchor("paired", math.log(D), 2.0, "x"), gap, noise, D_source, sampling)
    errors = np.random.default_rng(0).standard_normal(200)
    draws = np.full(200, np.inf) if D_t is None else D_t * np.exp(sd * errors)
    return MeasuredPair(pair, row, question, draws, np.zeros(200, dtype=np.int64))


def noisy(seed: int, sd: float = 0.1, grid: Sequence[tuple[float, float]] = GRID) -> list[MeasuredPair]:
    rng = np.random.default_rng(seed)
    return [measured(N, D, law_of(N, D) * math.exp(sd * rng.standard_normal())) for N, D in grid]


def only(pairs: Sequence[MeasuredPair]) -> FittedLaw:
    (law,), refusals = transfer_laws(pairs)
    assert refusals == ()
    return law


def test_planted_exponents_are_recovered() -> None:
    law = only(noisy(0, sd=0.0)).law
    assert (law.a.value, law.b.value) == pytest.approx((A, B), abs=1e-9)
    assert law.k.value * (law.D0 / law.D0) == pytest.approx(law_of(law.N0, law.D0))
    assert law.residual_sd < 1e-5
    assert (law.n_pairs, law.n_censored) == (9, 0)
    assert law.condition == pytest.approx(1.0)
    assert law.rate is None


@pytest.mark.slow
def test_intervals_cover_the_planted_exponents() -> None:
    laws = [only(noisy(seed)).law for seed in range(60)]
    assert np.mean([law.a.low <= A <= law.a.high for law in laws]) >= 0.8
    assert np.mean([law.b.low <= B <= law.b.high for law in laws]) >= 0.8


def test_a_bound_is_no_value_and_no_hole() -> None:
    """Where the largest D_t are only bounded, leaving them out, or taking the bound, bends the exponents."""
    grid = [(N, D) for N in (1e4, 2e4, 4e4, 8e4) for D in (1e6, 3e6, 9e6)]
    exact = noisy(3, sd=0.25, grid=grid)
    limit = 2.2e6
    pairs = [measured(one.pair.N, one.pair.D, None, low=limit) if (one.pair.D_t or 0) > limit else one for one in exact]
    law = only(pairs).law
    assert law.n_censored >= 3
    b = only(exact).law.b.value
    taken = only([measured(one.pair.N, one.pair.D, min(one.pair.D_t or 0, limit)) for one in exact]).law.b.value
    assert abs(law.b.value - b) < 0.5 * abs(taken - b)


def test_censored_regression_is_the_maximum_of_its_likelihood() -> None:
    from scipy.optimize import minimize
    from scipy.special import log_ndtr

    rng = np.random.default_rng(1)
    x = rng.normal(size=40)
    y = 0.5 + 0.8 * x + 0.4 * rng.normal(size=40)
    side = np.where(y > 1.0, 1.0, np.where(y < 0.0, -1.0, 0.0))
    y = np.clip(y, 0.0, 1.0)
    columns = np.stack([np.ones(40), x], axis=1)

    def loss(theta: np.ndarray) -> float:
        mean, sd = columns @ theta[:2], math.exp(theta[2])
        known = -0.5 * ((y - mean) / sd) ** 2 - theta[2] - 0.5 * math.log(2 * math.pi)
        tail = log_ndtr(side * (mean - y) / sd)
        return -float(np.where(side == 0, known, tail).sum())

    best = minimize(loss, np.zeros(3), method="BFGS").x
    theta, sd = censored_lines(columns, y[None], side, np.ones((1, 40)))
    assert theta[0] == pytest.approx(best[:2], abs=1e-4)
    assert math.log(sd[0]) == pytest.approx(best[2], abs=1e-4)


@pytest.mark.parametrize(
    ("grid", "code"),
    [
        (GRID[:5], "TOO_FEW_PAIRS_FOR_EXPONENTS"),
        ([(1e4 * 2**k, 1e6 * 2.1**k) for k in range(8)], "COLLINEAR_DESIGN"),
        ([(1e4, 1e6 * 2.1**k) for k in range(8)], "COLLINEAR_DESIGN"),
    ],
)
def test_a_design_that_does_not_identify_them_is_refused(grid: list[tuple[float, float]], code: str) -> None:
    laws, refusals = transfer_laws(noisy(0, grid=grid))
    assert laws == ()
    assert code in {refusal.code for refusal in refusals}
    assert "condition number of ln D_f and ln N" in refusals[0].reason


def test_pairs_that_hurt_count_against_neither() -> None:
    hurt = measured(1e4, 1e6, -1e5)
    laws, refusals = transfer_laws([hurt] * 4 + noisy(0)[:5])
    assert laws == ()
    assert {refusal.code for refusal in refusals} == {"TOO_FEW_PAIRS_FOR_EXPONENTS"}


def test_condition_numbers_by_hand() -> None:
    x = np.array([0.0, 1.0, 2.0, 3.0])
    y = np.array([0.0, 1.0, 2.0, 4.0])
    r = float(np.corrcoef(x, y)[0, 1])
    assert condition_number(np.stack([x, y], axis=1)) == pytest.approx(math.sqrt((1 + r) / (1 - r)))
    assert condition_number(np.stack([x, x], axis=1)) == math.inf
    assert condition_number(np.stack([x, np.ones(4)], axis=1)) == math.inf


class TestLimitedByTheSource:
    RATE = 2.0
    GRID = tuple((N, D, source) for N in (1e4, 9e4) for D in (1e6, 4e6, 16e6) for source in (1e5, 1e6, 1e7))

    def pairs(self, sd: float = 0.0) -> list[MeasuredPair]:
        rng = np.random.default_rng(2)
        return [
            measured(N, D, math.exp(sd * rng.normal()) / (1 / law_of(N, D) + 1 / (self.RATE * source)), D_source=source)
            for N, D, source in self.GRID
        ]

    def test_the_rate_is_found_beside_the_exponents(self) -> None:
        law = only(self.pairs()).law
        assert law.rate is not None
        assert law.rate.value == pytest.approx(self.RATE, rel=1e-3)
        assert (law.a.value, law.b.value) == pytest.approx((A, B), abs=1e-3)
        assert law.residual_sd < 1e-4

    def test_noise_widens_the_rate(self) -> None:
        rate = only(self.pairs(sd=0.1)).law.rate
        assert rate is not None
        assert rate.low < self.RATE < rate.high

    def test_sources_of_one_length_say_nothing_of_it(self) -> None:
        assert only([measured(N, D, law_of(N, D)) for N, D in GRID]).law.rate is None
