"""Each form by hand: a law written here, its answer computed another way."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plm_scaling.laws.zoo import PublishedLaw, find_law
from plm_scaling.laws.zoo_forms import ZOO_FORMS, lowest_over_sizes


def law(form: str, **params: float) -> PublishedLaw:
    return PublishedLaw.model_validate(
        {"id": "x", "objective": "text", "form": form, "status": "read", "source": "here", "params": params}
    )


def test_logarithms_and_numbers_are_the_same_law() -> None:
    plain = law("chinchilla", E=1.7, A=400.0, B=900.0, alpha=0.34, beta=0.3)
    logs = law("chinchilla", log_E=math.log(1.7), log_A=math.log(400.0), log_B=math.log(900.0), alpha=0.34, beta=0.3)
    assert plain.loss(1e9, 2e10) == pytest.approx(logs.loss(1e9, 2e10), rel=1e-14)
    assert plain.loss(1e9, 2e10) == pytest.approx(1.7 + 400 * 1e9**-0.34 + 900 * 2e10**-0.3, rel=1e-14)
    assert plain.optimum(1e21) == pytest.approx(logs.optimum(1e21), rel=1e-12)


def test_a_floor_of_zero_is_a_floor() -> None:
    assert law("chinchilla", E=0.0, A=3.0, B=7.0, alpha=0.1, beta=0.1).loss(1.0, 1.0) == pytest.approx(10.0)


def test_an_outer_exponent_moves_the_loss_and_not_the_size() -> None:
    values = {"E": 1.2, "A": 3e3, "B": 2e4, "alpha": 0.4, "beta": 0.43}
    flat, bent = law("chinchilla", **values), law("gamma", **values, gamma=0.5)
    assert flat.optimum(1e21) == bent.optimum(1e21)
    plain, rooted = flat.loss(1e9, 1e11), bent.loss(1e9, 1e11)
    assert plain is not None
    assert rooted == pytest.approx(1.2 + math.sqrt(plain - 1.2))


@pytest.mark.parametrize(
    ("params", "N", "D"),
    [
        ({"k_N": 0.1, "a_N": 0.5, "k_D": 1.5, "a_D": 0.5}, 1e9, 1.5e10),
        ({"k_N": 0.1, "a_N": 0.5}, 1e9, 1e20 / 6e9),
        ({"k_D": 1.5, "a_D": 0.5}, 1e20 / 9e10, 1.5e10),
        ({"k_M": 0.6, "a_M": 0.5, "k_D": 1.5, "a_D": 0.5}, 1e9, 1.5e10),
    ],
)
def test_a_frontier_states_n_or_d_or_both(params: dict[str, float], N: float, D: float) -> None:
    found = law("power_frontier", **params)
    assert found.optimum(1e20) == pytest.approx((N, D), rel=1e-12)
    assert found.exponents() == (0.5, 0.5)


def test_the_loss_of_a_budget_in_other_units() -> None:
    days = law("loss_compute", k_C=2.0, a_C=-0.05, unit_C=8.64e19, k_N=4.8, a_N=-0.04)
    assert days.answer({"C": 8.64e19})["loss"] == pytest.approx(2.0)
    assert days.answer({"C": 8.64e20})["loss"] == pytest.approx(2.0 * 10**-0.05)
    assert days.answer({"N": 1e8})["loss"] == pytest.approx(4.8 * 1e8**-0.04)
    assert days.answer({"D": 1e10}) == {}


@given(N=st.floats(1e6, 1e11), D_f=st.floats(1e6, 1e12), factor=st.floats(1.01, 100))
def test_transfer_is_worth_more_to_larger_models_and_longer_runs(N: float, D_f: float, factor: float) -> None:
    for name in ("hernandez2021-python", "hernandez2021-text-and-code", "cheng-transfer"):
        found = find_law(name)
        before = found.answer({"N": N, "D_f": D_f})["D_t"]
        assert found.answer({"N": N * factor, "D_f": D_f})["D_t"] > before
        assert found.answer({"N": N, "D_f": D_f * factor})["D_t"] > before


def test_transfer_by_hand() -> None:
    assert law("transfer", k=2.0, a=0.5, b=0.25).answer({"N": 16.0, "D_f": 9.0}) == {"D_t": pytest.approx(12.0)}


@pytest.mark.parametrize(
    ("name", "N", "D", "peak_lr", "batch"),
    [
        ("step-law2025", 6.5e8, 1e11, 0.002219452259101457, 1107714.8899684167),
        ("step-law2025", 8.5e7, 2e10, 0.005775552628361374, 441891.981591865),
        ("deepseek2024-lr", 6.5e8, 1e11, 0.0008317504317450375, 1587523.2132850615),
        ("deepseek2024-lr", 3e9, 2e11, 0.0006299967343581712, 3284349.754337163),
    ],
)
def test_learning_rates_and_batches(name: str, N: float, D: float, peak_lr: float, batch: float) -> None:
    said = find_law(name).answer({"N": N, "D": D})
    assert said == {"peak_lr": pytest.approx(peak_lr, rel=1e-9), "batch_tokens": pytest.approx(batch, rel=1e-9)}


def test_a_distilled_student_by_hand() -> None:
    values = {"A": 2243.0, "B": 24181.0, "alpha": 0.321, "beta": 0.637, "gamma": 0.764}
    found = law("distillation", **values, c_0=2.549, c_1=522.61, f_1=0.09, d_1=1.315)
    teacher, alone = 2.071638997280692, 2.446831169663042
    said = found.answer({"N": 5.5e8, "D": 2e10, "loss_teacher": teacher, "loss_alone": alone})
    assert said["loss"] == pytest.approx(2.358790547777167, rel=1e-9)


def test_the_search_finds_a_kink_a_slope_and_a_plain() -> None:
    assert lowest_over_sizes(lambda N: abs(math.log(N / 3e8))) == pytest.approx(3e8, rel=1e-9)
    assert lowest_over_sizes(lambda N: -N) == pytest.approx(1e14, rel=1e-9)
    assert 1e4 <= lowest_over_sizes(lambda N: 2.0) <= 1e14


def test_every_form_is_shipped_and_answers_something() -> None:
    from plm_scaling.laws.zoo import all_laws

    assert {found.form for found in all_laws()} == set(ZOO_FORMS)
    for name, form in ZOO_FORMS.items():
        assert form.optimum or form.rule or name == "exponents"
