from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.errors import RefusedError
from plm_scaling.laws.law_fit import Interval, IsoflopFit, IsoflopRow, LawFit, Refusal, SurfaceFit
from plm_scaling.laws.zoo import find_law, load_zoo
from plm_scaling.sizing.answers import (
    VALLEY_NATS,
    answer_of,
    decades_outside,
    laws_of_fit,
    published_sizing_law,
    valley,
)
from plm_scaling.sizing.costs import exact_over_6nd


def isoflop(currency: str = "C_6nd") -> IsoflopFit:
    rows = tuple(
        IsoflopRow(
            C=C,
            N=(1e6,),
            D=(1e8,),
            loss=(2.5,),
            n_seeds=(1,),
            N_opt=Interval(value=1e-3 * C**0.5, low=0.8e-3 * C**0.5, high=1.25e-3 * C**0.5),
        )
        for C in (1e16, 1e18)
    )
    return IsoflopFit.model_validate(
        {
            "currency": currency,
            "rows": rows,
            "a_N": Interval(value=0.5, low=0.45, high=0.6),
            "k_N": 1e-3,
        }
    )


def surface(N0: float = 1e7, D0: float = 1e9) -> SurfaceFit:
    values = {"E": 2.0, "A0": 0.4, "B0": 0.3, "alpha": 0.35, "beta": 0.3}
    rng = np.random.default_rng(0)
    draws = tuple(tuple(float(v * math.exp(rng.normal(0, 0.05))) for v in values.values()) for _ in range(50))
    return SurfaceFit(
        N0=N0,
        D0=D0,
        parameters={name: Interval(value=v, low=v, high=v) for name, v in values.items()},
        draws=draws,
        huber_delta=1e-3,
        objective_value=0.0,
        starts=1,
        starts_agreeing=1.0,
        rms_relative_error=0.0,
        a_N=Interval(value=0.46, low=0.4, high=0.5),
        range_N=(1e6, 1e8),
        range_D=(1e8, 1e10),
        flags=("E_UNIDENTIFIED",),
    )


def fit(iso: IsoflopFit | None, surf: SurfaceFit | None, currency: str = "C_6nd") -> LawFit:
    return LawFit.model_validate(
        {
            "objective": "mlm",
            "currency": currency,
            "n_runs": 12,
            "isoflop": iso,
            "surface": surf,
            "range_C": (1e16, 1e18),
            "notes": ("too few interior minima",),
            "data_hash": "0",
        }
    )


def test_decades_are_counted_on_both_sides() -> None:
    assert decades_outside(1e19, (1e18, 3e20)) == 0.0
    assert decades_outside(3e21, (1e18, 3e20)) == pytest.approx(1.0)
    assert decades_outside(1e16, (1e18, 3e20)) == pytest.approx(2.0)
    assert decades_outside(1e30, None) == 0.0
    assert decades_outside(0.0, (1e18, 3e20)) == decades_outside(math.inf, (1e18, 3e20)) == math.inf


def test_the_published_frontiers_at_3e19() -> None:
    clm = answer_of(published_sizing_law(find_law("cheng-clm")), 3e19, "primary")
    mlm = answer_of(published_sizing_law(find_law("cheng-mlm")), 3e19, "primary")
    assert pytest.approx(228111211.12531748) == clm.N
    assert pytest.approx(80526114.20582321) == mlm.N
    assert pytest.approx(3e19 / (6 * clm.N)) == clm.D
    assert mlm.N_low == pytest.approx(mlm.N * 10**-0.25)
    assert mlm.N_high == pytest.approx(mlm.N * 10**0.25)
    assert mlm.loss is None
    assert mlm.flags == ()


def test_the_band_of_a_frontier_widens_outside_its_range() -> None:
    law = published_sizing_law(find_law("cheng-mlm"))
    far = answer_of(law, 3e21, "primary")
    assert far.N_high == pytest.approx(far.N * 10**0.35)
    assert far.flags == ("ABOVE_RANGE",)
    assert answer_of(law, 1e16, "primary").flags == ("BELOW_RANGE", "FAR_OUTSIDE_RANGE")


@pytest.mark.parametrize("law_id", ["cheng-a9-clm", "cheng-a9-mlm", "besiroglu2024", "hoffmann2022", "muennighoff2023"])
@pytest.mark.parametrize("C", [1e18, 1e20, 2e21])
def test_n_minimises_the_loss_by_brute_force(law_id: str, C: float) -> None:
    law = published_sizing_law(find_law(law_id))
    grid = np.exp(np.linspace(math.log(1e5), math.log(1e12), 4001))
    losses = [law.loss(float(n), C / (6.0 * float(n))) for n in grid]
    best = int(np.argmin(np.array(losses, dtype=float)))
    step = grid[1] / grid[0]
    assert grid[best] / step <= law.optimum(C) <= grid[best] * step


@pytest.mark.parametrize("law_id", ["cheng-a9-clm", "besiroglu2024"])
def test_the_valley_is_one_hundredth_of_a_nat_deep(law_id: str) -> None:
    law, C = published_sizing_law(find_law(law_id)), 1e20
    answer = answer_of(law, C, "counted")
    assert answer.loss is not None
    for edge in (answer.N_low, answer.N_high):
        assert edge is not None
        at_edge = law.loss(edge, C / (6.0 * edge))
        assert at_edge is not None
        assert at_edge - answer.loss == pytest.approx(VALLEY_NATS, rel=1e-6)


def test_a_flat_valley_ends_after_six_decades() -> None:
    assert valley(lambda N: 2.0, 1e9) == pytest.approx((1e3, 1e15))


@pytest.mark.parametrize(
    ("C", "unique", "N"),
    [(9.24e21, 25e9, 6796649745.623604), (1e21, 5e9, 2066410771.3221095), (1e21, 15e9, 2451059958.5762806)],
)
def test_the_law_of_repeats_answers_for_the_unique_tokens(C: float, unique: float, N: float) -> None:
    law = published_sizing_law(find_law("muennighoff2023"), unique)
    assert law.optimum(C) == pytest.approx(N, rel=2e-4)
    unlimited = published_sizing_law(find_law("muennighoff2023"))
    assert law.optimum(C) < unlimited.optimum(C)
    low, high = law.band(C) or (0.0, 0.0)
    assert low < N < high


def test_text_and_unchecked_laws_are_flagged() -> None:
    assert published_sizing_law(find_law("besiroglu2024")).flags == ("TEXT_LAW",)
    assert published_sizing_law(find_law("kaplan2020")).flags == ("TEXT_LAW", "UNVERIFIED")
    assert "RANGE_UNKNOWN" in answer_of(published_sizing_law(find_law("muennighoff2023")), 1e20, "comparison").flags


def test_an_isoflop_fit_of_ones_own() -> None:
    (law,) = laws_of_fit(fit(isoflop(), None))
    answer = answer_of(law, 1e20, "primary")
    assert pytest.approx(1e7) == answer.N
    # Three decades from the middle of the rows (1e17), hypot with the rows' own half width ln(1.25).
    lever, own = math.log(1e3), math.log(1.25)
    assert answer.N_low == pytest.approx(1e7 * math.exp(-math.hypot(0.05 * lever, own)))
    assert answer.N_high == pytest.approx(1e7 * math.exp(math.hypot(0.1 * lever, own)))
    assert answer.status == "own fit"
    assert answer.extrapolation_decades == pytest.approx(2.0)


def test_the_band_below_the_data_turns_the_other_way() -> None:
    (law,) = laws_of_fit(fit(isoflop(), None))
    low, high = law.band(1e14) or (0.0, 0.0)
    N = law.optimum(1e14)
    assert N / low > high / N > 1.0


def test_a_fit_on_exact_compute_is_read_on_exact_compute() -> None:
    (law,) = laws_of_fit(fit(isoflop("C_exact"), None, "C_exact"))
    N = law.optimum(1e18)
    assert pytest.approx(1e-3 * (1e18 * exact_over_6nd(N)) ** 0.5) == N
    assert law.range_C is not None
    assert law.range_C[1] == pytest.approx(1e18 / exact_over_6nd(law.optimum(1e18)), rel=1e-3)


def bounded_surface(batch_typical: float | None = 5e5) -> SurfaceFit:
    """A bounded law with a batch term, as a fit of the present version holds it."""
    values = {"E": 1.2, "A0": 0.9, "B0": 0.7, "alpha": 0.3, "beta": 0.55, "L0": 2.9, "B_c": 2e6}
    rng = np.random.default_rng(1)
    draws = tuple(tuple(float(v * math.exp(rng.normal(0, 0.02))) for v in values.values()) for _ in range(60))
    return SurfaceFit.model_validate(
        surface().model_dump()
        | {
            "form": "bounded+batch",
            "parameters": {name: {"value": v, "low": 0.9 * v, "high": 1.1 * v} for name, v in values.items()},
            "draws": draws,
            "batch_typical": batch_typical,
            "range_C_6nd": (2e16, 3e18),
            "flags": ("MIXED_BATCH",),
        }
    )


def test_a_law_of_any_form_minimises_its_own_loss() -> None:
    (law,) = laws_of_fit(fit(None, bounded_surface()))
    C = 3e18
    N = law.optimum(C)
    grid = N * np.exp(np.linspace(-3, 3, 601))
    losses = np.array([law.loss(float(n), C / 6 / float(n)) for n in grid])
    assert abs(int(losses.argmin()) - 300) <= 1
    assert 1.2 < losses.min() < losses.max() < 2.9
    low, high = law.band(C) or (0.0, 0.0)
    assert N / 2 < low < N < high < 2 * N
    assert law.range_C == (2e16, 3e18)
    assert law.flags == ("MIXED_BATCH",)
    assert law.caveat == "at batches of 500,000 tokens, the median of the runs"
    assert "L = E + h R / (h + R)" in law.source
    # At a larger batch a token is worth less: more tokens, a smaller model.
    (wide,) = laws_of_fit(fit(None, bounded_surface(8e6)))
    assert wide.optimum(C) < N
    assert (wide.loss(N, C / 6 / N) or 0.0) > (law.loss(N, C / 6 / N) or math.inf)


def test_a_form_without_an_optimum_answers_nothing() -> None:
    values = {"K0": 2.5, "alpha": 0.05, "beta": 0.06}
    parameters = {name: Interval(value=v, low=v, high=v) for name, v in values.items()}
    bare = surface().model_copy(
        update={"form": "multiplicative", "parameters": parameters, "draws": (), "a_N": None, "flags": ()}
    )
    with pytest.raises(RefusedError, match="does not say which size"):
        laws_of_fit(fit(None, bare))
    silent = fit(None, bare).model_copy(update={"notes": ()})
    with pytest.raises(RefusedError) as caught:
        laws_of_fit(silent)
    assert "multiplicative has no lowest loss at a fixed compute" in str(caught.value)
    (law,) = laws_of_fit(fit(isoflop(), bare))
    assert law.law_id == "own-mlm-isoflop"


def test_a_refused_optimum_is_not_answered_with() -> None:
    reason = "at every budget the surface's minimum lies below the smallest that were run; widen the sweep"
    refused = fit(None, bounded_surface().model_copy(update={"a_N": None})).model_copy(
        update={"refusals": (Refusal(quantity="N_opt of the surface", code="OUT_OF_HULL", reason=reason),)}
    )
    with pytest.raises(RefusedError) as caught:
        laws_of_fit(refused)
    assert reason in str(caught.value)
    no_surface = refused.model_copy(update={"surface": None})
    with pytest.raises(RefusedError, match="does not say which size"):
        laws_of_fit(no_surface)


@pytest.mark.parametrize("currency", ["C_6nd", "C_exact"])
def test_a_surface_of_ones_own_minimises_its_loss(currency: str) -> None:
    """A surface is a law of N and D: the currency its budgets were placed on does not matter."""
    (law,) = laws_of_fit(fit(None, surface(), currency))
    C = 1e19
    N = law.optimum(C)
    best = law.loss(N, C / (6 * N))
    assert best is not None
    for factor in (0.9, 1.1):
        other = law.loss(N * factor, C / (6 * N * factor))
        assert other is not None
        assert other > best
    low, high = law.band(C) or (0.0, 0.0)
    assert low < N < high
    assert law.flags == ("E_UNIDENTIFIED",)


def test_the_centre_of_a_surface_does_not_move_its_answer() -> None:
    one = surface()
    p = {name: interval.value for name, interval in one.parameters.items()}
    moved = one.model_copy(
        update={
            "N0": 1e8,
            "parameters": {
                **one.parameters,
                "A0": Interval(value=p["A0"] * 10 ** -p["alpha"], low=0.0, high=1.0),
            },
        }
    )
    (a,), (b,) = laws_of_fit(fit(None, one)), laws_of_fit(fit(None, moved))
    assert a.optimum(1e19) == pytest.approx(b.optimum(1e19))


def test_the_isoflop_law_comes_before_the_surface() -> None:
    assert [law.law_id for law in laws_of_fit(fit(isoflop(), surface(), "C_6nd"))] == [
        "own-mlm-isoflop",
        "own-mlm-surface",
    ]


def test_a_surface_on_exact_compute_has_a_band_around_its_point() -> None:
    (law,) = laws_of_fit(fit(None, surface(), "C_exact"))
    low, high = law.band(1e18) or (0.0, 0.0)
    assert low < law.optimum(1e18) < high


def test_a_fit_without_a_law_is_refused_with_its_own_notes() -> None:
    empty = IsoflopFit(currency="C_6nd", rows=(), flags=("TOO_FEW_MINIMA",))
    with pytest.raises(RefusedError, match="does not say which size") as caught:
        laws_of_fit(fit(empty, None))
    assert "too few interior minima" in str(caught.value)
    assert caught.value.exit_code == 4


@settings(max_examples=40, deadline=None)
@given(index=st.integers(0, len(load_zoo(unverified=True)) - 1), log_c=st.floats(17, 23), more=st.floats(0.01, 2))
def test_more_compute_means_more_parameters_and_a_band_around_them(index: int, log_c: float, more: float) -> None:
    law = published_sizing_law(load_zoo(unverified=True)[index])
    small, large = answer_of(law, 10**log_c, "counted"), answer_of(law, 10 ** (log_c + more), "counted")
    assert small.N < large.N
    assert small.N_low is not None
    assert small.N_high is not None
    assert small.N_low < small.N < small.N_high
