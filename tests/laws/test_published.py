from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from plm_scaling.core.errors import ConfigError
from plm_scaling.laws.published import PublishedLaw, find_law, load_zoo


def test_unverified_laws_stay_out_unless_asked_for() -> None:
    checked, every = load_zoo(), load_zoo(unverified=True)
    assert {law.status for law in checked} <= {"read", "measured"}
    extra = [law for law in every if law not in checked]
    assert extra
    assert all(law.status == "unverified" and not law.default for law in extra)
    assert len({law.id for law in every}) == len(every)


def test_every_objective_has_a_default_law_with_a_source() -> None:
    for objective in ("clm", "mlm", "text"):
        assert [law for law in load_zoo() if law.objective == objective and law.default]
    assert all(law.source for law in load_zoo(unverified=True))


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


def test_a_law_name_that_does_not_exist_suggests_one() -> None:
    with pytest.raises(ConfigError, match="did you mean besiroglu2024"):
        find_law("zoo:besiroglu24")


@pytest.mark.parametrize("C", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_must_be_positive(C: float) -> None:
    with pytest.raises(ConfigError, match="positive"):
        find_law("cheng-clm").optimum(C)


def test_a_law_needs_the_parameters_of_its_form() -> None:
    law = find_law("cheng-clm")
    with pytest.raises(ValidationError, match="power_frontier takes"):
        PublishedLaw.model_validate(law.model_dump() | {"params": {"k_N": 1.0}})


def test_the_zoo_loads_without_scipy() -> None:
    code = (
        "import sys; from plm_scaling.laws.published import load_zoo; load_zoo(); "
        "print([m for m in ('scipy', 'torch', 'pandas') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
