"""The zoo against numbers printed in its sources."""

from __future__ import annotations

import pytest

from plm_scaling.laws.published import find_law


@pytest.mark.parametrize(
    ("law", "N_coef", "N_exp", "D_coef", "D_exp"),
    [("cheng-clm", 1.26e-3, 0.578, 1.24e2, 0.421), ("cheng-mlm", 6.19e-8, 0.776, 2.02e6, 0.230)],
)
@pytest.mark.parametrize("C", [1e18, 1e19, 1e20, 3e20])
def test_cheng_figure(law: str, N_coef: float, N_exp: float, D_coef: float, D_exp: float, C: float) -> None:
    assert find_law(law).optimum(C) == pytest.approx((N_coef * C**N_exp, D_coef * C**D_exp), rel=1e-12)


@pytest.mark.parametrize(("law", "low", "high"), [("cheng-clm", 0.89, 0.91), ("cheng-mlm", 0.96, 1.01)])
def test_cheng_laws_spend_their_budget(law: str, low: float, high: float) -> None:
    for C in (1e18, 1e19, 1e20, 3e20):
        N, D = find_law(law).optimum(C)
        assert low - 0.005 < 6 * N * D / C < high


@pytest.mark.parametrize(("law", "at_1e18", "at_1e20"), [("cheng-clm", 147, 71), ("cheng-mlm", 4850, 392)])
def test_cheng_tokens_per_parameter(law: str, at_1e18: float, at_1e20: float) -> None:
    for C, expected in ((1e18, at_1e18), (1e20, at_1e20)):
        N, D = find_law(law).optimum(C)
        assert pytest.approx(expected, rel=0.01) == D / N


def test_chinchilla_replication_and_original() -> None:
    law = find_law("besiroglu2024")
    N, D = law.optimum(1e21)
    assert pytest.approx((2.782e9, 59.91e9), rel=2e-4) == (N, D)
    assert law.loss(N, D) == pytest.approx(2.3048, abs=5e-5)
    assert find_law("hoffmann2022").optimum(1e21) == pytest.approx((1.824e9, 91.4e9), rel=1e-3)


@pytest.mark.parametrize(("N", "D", "loss"), [(6.34e9, 242e9, 2.2256440889984477), (8.67e9, 178e9, 2.2269634075087867)])
def test_repeated_tokens_reference(N: float, D: float, loss: float) -> None:
    assert find_law("muennighoff2023").loss(N, D, unique_tokens=25e9) == pytest.approx(loss, rel=1e-12)
