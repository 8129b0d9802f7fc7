from __future__ import annotations

import math

import pytest

from plm_scaling.laws.zoo import PublishedLaw, find_law
from plm_scaling.laws.zoo_checks import check_zoo


def changed(name: str, **params: float) -> PublishedLaw:
    law = find_law(name)
    return law.model_copy(update={"params": {**law.params, **params}})


def test_every_law_says_what_its_source_prints() -> None:
    outcomes = check_zoo()
    assert [o for o in outcomes if not o.ok] == []
    printed = {o.law_id for o in outcomes if o.quantity != "N of the lowest loss"}
    assert {"cheng-clm", "cheng-mlm", "besiroglu2024", "hoffmann2022", "muennighoff2023"} <= printed


@pytest.mark.parametrize(
    ("law", "quantity"),
    [
        (changed("cheng-mlm", a_N=0.766), "tokens_per_parameter"),
        (changed("cheng-clm", k_D=1.34e2), "six_ND_over_C"),
        (changed("besiroglu2024", alpha=0.3479), "N"),
        (changed("besiroglu2024", E=1.817), "loss"),
        (changed("hoffmann2022", beta=0.281), "N"),
        (changed("muennighoff2023", R_D=15.3877), "loss"),
        (changed("deepseek2024", k_M=0.1716), "six_ND_over_C"),
    ],
)
def test_a_digit_changed_is_found(law: PublishedLaw, quantity: str) -> None:
    assert quantity in {o.quantity for o in check_zoo((law,)) if not o.ok}


def test_an_answer_that_is_missing_is_wrong() -> None:
    law = find_law("cheng-clm")
    point = law.check[0].model_copy(update={"prints": {"loss": 2.4}})
    (outcome,) = check_zoo((law.model_copy(update={"check": (point,)}),))
    assert math.isnan(outcome.got)
    assert not outcome.ok
