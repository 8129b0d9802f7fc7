from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.schedule import Schedule


def cosine(n_steps: int, peak: float = 1.0, warmup: float = 0.025, final: float = 0.1) -> Schedule:
    return Schedule("cosine", n_steps, max(1, round(warmup * n_steps)), 0, peak, final)


def rates_of(schedule: Schedule) -> list[float]:
    return [schedule.at(step) for step in range(schedule.n_steps)]


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 100_000), st.floats(1e-5, 1e-1), st.sampled_from([0.0, 0.025, 0.05]))
def test_the_last_step_is_at_exactly_a_tenth_of_the_peak(n_steps: int, peak: float, warmup: float) -> None:
    assert cosine(n_steps, peak, warmup).at(n_steps - 1) == peak * 0.1


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 800), st.sampled_from([0.0, 0.025, 0.05]))
def test_it_rises_to_the_peak_once_and_falls_ever_after(n_steps: int, warmup: float) -> None:
    rates = rates_of(cosine(n_steps, 1.0, warmup))
    top = max(1, round(warmup * n_steps)) - 1
    assert rates[top] == max(rates) == 1.0
    assert all(a < b for a, b in itertools.pairwise(rates[: top + 1]))
    assert all(a > b for a, b in itertools.pairwise(rates[top:]))
    assert min(rates[top:]) == 0.1


def test_the_schedule_by_hand() -> None:
    rates = rates_of(cosine(80, 2.0))  # 2 steps of warm-up, 78 of cosine
    assert rates[:2] == [1.0, 2.0]
    assert rates[40] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))  # half way down after 39 of 78
    assert rates[27] == pytest.approx(2.0 * (0.1 + 0.9 * 0.75))  # cos 60 degrees after 26 of 78
    assert cosine(80, 2.0, final=0.0).at(79) == 0.0


def test_a_run_stopped_early_is_not_a_run_with_a_smaller_horizon() -> None:
    assert cosine(1000).at(499) > 5 * cosine(500).at(499)


def test_beyond_the_horizon_the_rate_stays() -> None:
    assert cosine(100).at(150) == cosine(100).at(99)


def wsd(n_steps: int, warmup: int = 5, decay: int = 20) -> Schedule:
    return Schedule("wsd", n_steps, warmup, decay, 2.0, 0.1)


def test_wsd_is_flat_between_warm_up_and_decay_and_ends_at_its_floor() -> None:
    rates = rates_of(wsd(100))
    assert rates[4:80] == [2.0] * 76
    assert rates[99] == pytest.approx(0.2)
    assert rates[84] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))  # 1 - sqrt(5 / 20)
    assert all(a > b for a, b in itertools.pairwise(rates[79:]))


@settings(deadline=None, max_examples=30)
@given(st.integers(40, 300), st.integers(0, 300))
def test_before_the_decay_all_horizons_are_one_run(n_steps: int, more: int) -> None:
    short, long = wsd(n_steps), wsd(n_steps + more)
    assert short.decay_begins == n_steps - 20
    assert rates_of(short)[: short.decay_begins] == rates_of(long)[: short.decay_begins]
