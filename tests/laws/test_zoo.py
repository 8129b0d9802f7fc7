from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from plm_scaling.core.errors import ConfigError
from plm_scaling.laws.zoo import PublishedLaw, all_laws, find_law, load_zoo


def test_unverified_laws_stay_out_unless_asked_for() -> None:
    checked, every = load_zoo(), load_zoo(unverified=True)
    assert {law.status for law in checked} <= {"read", "measured"}
    extra = [law for law in every if law not in checked]
    assert extra
    assert all(law.status == "unverified" and not law.default for law in extra)
    assert len({law.id for law in all_laws()}) == len(all_laws())


def test_only_laws_that_size_a_budget_are_loaded_for_sizing() -> None:
    rest = [law for law in all_laws() if law not in load_zoo(unverified=True)]
    assert {law.form for law in rest} == {"exponents", "loss_compute", "transfer", "distillation", "lr_batch"}
    assert not any(law.default for law in rest)


def test_no_recalled_number_serves_as_a_test_value() -> None:
    assert [law.id for law in all_laws() if law.status == "unverified" and law.check] == []
    assert all("recalled" in law.caveat for law in all_laws() if law.status == "unverified")


def test_every_objective_has_a_default_law_with_a_source() -> None:
    for objective in ("clm", "mlm", "text"):
        assert [law for law in load_zoo() if law.objective == objective and law.default]
    assert all(law.source for law in all_laws())
    assert all(law.caveat or law.default for law in all_laws())


@pytest.mark.parametrize("law", load_zoo(unverified=True), ids=lambda law: law.id)
def test_the_optimum_is_a_minimum_of_the_stated_loss(law: PublishedLaw) -> None:
    C = 1e20
    N, D = law.optimum(C)
    lowest = law.loss(N, D)
    if lowest is None:
        assert law.form == "power_frontier"
        return
    assert pytest.approx(C, rel=1e-9) == 6 * N * D
    for factor in np.exp(np.linspace(-1, 1, 11)):
        other = law.loss(N * factor, D / factor)
        assert other is not None
        assert other >= lowest - 1e-12


@pytest.mark.parametrize("law", load_zoo(unverified=True), ids=lambda law: law.id)
def test_the_exponents_are_the_slopes_of_the_optimum(law: PublishedLaw) -> None:
    (N, D), (more_N, more_D) = law.optimum(1e20), law.optimum(1e21)
    a_N, a_D = law.exponents()
    assert math.log10(more_N / N) == pytest.approx(a_N, abs=1e-9)
    assert math.log10(more_D / D) == pytest.approx(a_D, abs=1e-9)


@given(C=st.floats(1e12, 1e26), factor=st.floats(1.01, 100))
def test_more_compute_means_more_of_both(C: float, factor: float) -> None:
    for law in load_zoo(unverified=True):
        (N, D), (more_N, more_D) = law.optimum(C), law.optimum(C * factor)
        assert more_N > N
        assert more_D > D


@given(epochs=st.floats(1, 200))
def test_repeats_are_worth_less_than_new_tokens_and_never_harm(epochs: float) -> None:
    law = find_law("muennighoff2023")
    U, N = 1e9, 1e8
    once, repeated, fresh = (
        law.loss(N, U, unique_tokens=U),
        law.loss(N, U * epochs, unique_tokens=U),
        law.loss(N, U * epochs),
    )
    assert once is not None
    assert repeated is not None
    assert fresh is not None
    assert fresh - 1e-12 <= repeated <= once + 1e-12


@pytest.mark.parametrize("U", [1e8, 1e9, 2e10])
def test_few_unique_tokens_ask_for_another_size(U: float) -> None:
    law, C = find_law("muennighoff2023"), 1e21
    N, D = law.optimum(C, U)
    assert pytest.approx(C) == 6 * N * D
    assert law.optimum(C)[0] > N
    lowest = law.loss(N, D, U)
    assert lowest is not None
    for factor in np.exp(np.linspace(-3, 3, 41)):
        other = law.loss(N * factor, D / factor, U)
        assert other is not None
        assert other >= lowest - 1e-12


def test_plenty_of_unique_tokens_change_nothing() -> None:
    law = find_law("muennighoff2023")
    assert law.optimum(1e20, 1e13) == pytest.approx(law.optimum(1e20), rel=1e-5)
    assert find_law("besiroglu2024").optimum(1e20, 1e6) == find_law("besiroglu2024").optimum(1e20)


def test_a_law_name_that_does_not_exist_suggests_one() -> None:
    with pytest.raises(ConfigError, match="did you mean besiroglu2024"):
        find_law("zoo:besiroglu24")


@pytest.mark.parametrize("C", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_must_be_positive(C: float) -> None:
    with pytest.raises(ConfigError, match="positive"):
        find_law("cheng-clm").optimum(C)


def test_a_law_without_an_optimum_says_so() -> None:
    with pytest.raises(ConfigError, match="does not say which size") as caught:
        find_law("serrano2024").optimum(1e20)
    assert "no coefficients" in str(caught.value)
    assert find_law("serrano2024").loss(1e8, 1e10) is None


def test_an_answer_names_what_it_lacks() -> None:
    with pytest.raises(ConfigError, match="hernandez2021-python needs D_f"):
        find_law("hernandez2021-python").answer({"N": 1e9})
    with pytest.raises(ConfigError, match="besiroglu2024 needs D"):
        find_law("besiroglu2024").answer({"N": 1e9})


def test_an_answer_for_a_budget() -> None:
    said = find_law("muennighoff2023").answer({"C": 1e21, "U": 5e9})
    assert set(said) == {"N", "D", "tokens_per_parameter", "six_ND_over_C", "loss", "epochs"}
    assert said["epochs"] == pytest.approx(said["D"] / 5e9)
    assert said["loss"] == find_law("muennighoff2023").loss(said["N"], said["D"], 5e9)
    assert "loss" not in find_law("cheng-clm").answer({"C": 1e20})
    assert find_law("serrano2024").answer({}) == {"a_N": 0.27, "a_D": 0.71}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"params": {"k_N": 1.0}}, "power_frontier takes"),
        ({"params": {"k_N": 1.0, "a_N": 0.5, "alpha": 1.0}}, "not a_N alpha k_N"),
        ({"ci95": {"alpha": (0.0, 1.0)}}, "intervals of no coefficient: alpha"),
        ({"range_C": (1e20, 1e18)}, "a range runs"),
        ({"range_N": (0.0, 1e9)}, "a range runs"),
        ({"form": "kaplen"}, "Input should be"),
        ({"notes": "x"}, "Extra inputs"),
    ],
)
def test_a_law_must_be_whole(change: dict[str, object], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        PublishedLaw.model_validate(find_law("cheng-clm").model_dump() | change)


def test_only_other_conventions_are_spelt_out() -> None:
    assert find_law("cheng-clm").convention == ""
    assert find_law("besiroglu2024").convention == "N is all parameters"
    assert find_law("deepseek2024").convention.endswith("; C is M D")


def test_a_law_survives_json() -> None:
    for law in all_laws():
        assert PublishedLaw.model_validate_json(law.model_dump_json()) == law


def test_the_zoo_loads_without_scipy() -> None:
    code = (
        "import sys; from plm_scaling.laws.zoo import load_zoo; load_zoo(); "
        "print([m for m in ('scipy', 'torch', 'pandas') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
