"""Every kind of worked example at inputs of its own, against dense grids, general optimisers and formulas by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from plm_scaling.core.errors import ConfigError
from plm_scaling.sizing.example_kinds import KINDS, answer_example

Array = npt.NDArray[np.float64]
Law = dict[str, Any]

few = settings(max_examples=15, deadline=None)


def decades(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high).map(lambda x: 10.0**x)


@st.composite
def law_of(draw: st.DrawFn, *forms: str) -> Law:
    """A law whose terms matter at 1e6 to 1e12 parameters, its coefficients or their logarithms."""
    form = draw(st.sampled_from(forms or ("chinchilla", "gamma")))
    law: Law = {"form": form, "alpha": draw(st.floats(0.15, 0.7)), "beta": draw(st.floats(0.15, 0.7))}
    for name, value in (
        ("E", draw(st.floats(-1.0, 1.0))),
        ("A", 20.0 * law["alpha"] + draw(st.floats(-3.0, 1.0))),
        ("B", 22.0 * law["beta"] + draw(st.floats(-3.0, 1.0))),
    ):
        law |= {f"ln{name}": value} if draw(st.booleans()) else {name: math.exp(value)}
    if form == "gamma":
        law["gamma"] = draw(st.floats(0.2, 1.3))
    if form == "muennighoff":
        law |= {"R_D_star": draw(decades(0.0, 2.0)), "R_N_star": draw(decades(0.0, 2.0))}
    return law


def coefficient(law: Law, name: str) -> float:
    return float(law[name] if name in law else math.exp(law[f"ln{name}"]))


def loss(law: Law, N: Any, D: Any) -> Any:
    E, A, B = (coefficient(law, name) for name in "EAB")
    return E + (A * N ** -law["alpha"] + B * D ** -law["beta"]) ** law.get("gamma", 1.0)


def repeated(law: Law, N: Any, D: Any, U: Any) -> Any:
    A, B, a, b = coefficient(law, "A"), coefficient(law, "B"), law["alpha"], law["beta"]
    G = (a * A / (b * B)) ** (1.0 / (a + b))
    R_D, R_N = law["R_D_star"], law["R_N_star"]
    D_worth = np.minimum(D, U) * (1 + R_D * (1 - np.exp(-np.maximum(D / U - 1, 0) / R_D)))
    U_N = np.minimum(N, G * (U * G) ** (b / a))
    N_worth = U_N * (1 + R_N * (1 - np.exp(-np.maximum(N / U_N - 1, 0) / R_N)))
    return coefficient(law, "E") + A * N_worth**-a + B * D_worth**-b


def lowest(f: Callable[[Array], Array], low: float, high: float) -> tuple[float, float]:
    """(x, f) of the lowest point of a grid that is refined around it."""
    x, y = low, math.inf
    for _ in range(4):
        grid = np.linspace(low, high, 4001)
        values = np.nan_to_num(f(grid), nan=math.inf)
        at = int(values.argmin())
        x, y = float(grid[at]), float(values[at])
        low, high = max(low, x - 2.5 * (grid[1] - grid[0])), min(high, x + 2.5 * (grid[1] - grid[0]))
    return x, y


def answer(kind: str, *, where: str = "", **inputs: Any) -> dict[str, Any]:
    return dict(answer_example(kind, inputs, where=where))


# ---- one budget ----------------------------------------------------------------------------------------------------


@few
@given(law=law_of(), C=decades(17, 26))
def test_the_optimum_of_a_budget(law: Law, C: float) -> None:
    said = answer("optimum_6nd", law=law, C_flops=C)
    N = said["N_params"]
    x, y = lowest(lambda x: loss(law, np.exp(x), C / 6 / np.exp(x)), math.log(N) - 9, math.log(N) + 9)
    assert said["loss_nats"] == pytest.approx(y, rel=1e-10)
    assert pytest.approx(math.exp(x), rel=1e-3) == N
    assert 6 * N * said["D_tokens"] == pytest.approx(C, rel=1e-12)
    assert said["tokens_per_param"] == pytest.approx(said["D_tokens"] / N, rel=1e-12)
    plain = {**law, "form": "chinchilla"}
    assert answer("optimum_6nd", law=plain, C_flops=C)["N_params"] == N


@few
@given(law=law_of(), C=decades(17, 26), s=st.sampled_from([0, 128, 1024, 50_000]), r=st.floats(10, 300))
def test_the_optimum_at_the_true_cost(law: Law, C: float, s: float, r: float) -> None:
    def cost(N: Any) -> Any:
        return 6 * N * (1 + s / (6 * (N * r / 12) ** (1 / 3)))

    said = answer("optimum_exact_flops", law=law, C_flops=C, seq_len_tokens=s, width_per_layer=r)
    x, y = lowest(lambda x: loss(law, np.exp(x), C / cost(np.exp(x))), math.log(1e6), math.log(1e12))
    assert said["loss_nats"] == pytest.approx(y, rel=1e-10)
    assert said["N_params"] == pytest.approx(math.exp(x), rel=2e-3)
    assert said["D_tokens"] == pytest.approx(C / cost(said["N_params"]), rel=1e-10)
    kept = said["N_6nd_params"]
    assert said["regret_6nd_choice_nats"] == pytest.approx(loss(law, kept, C / cost(kept)) - y, abs=1e-9)
    assert said["token_shortfall_fraction"] == pytest.approx(1 - 6 * kept / cost(kept), abs=1e-12)


@few
@given(laws=st.lists(law_of(), min_size=1, max_size=4), near=st.booleans(), C=decades(18, 25))
def test_the_least_regret(laws: list[Law], near: bool, C: float) -> None:
    if near:  # laws that are variations of one
        laws = [{**laws[0], "alpha": laws[0]["alpha"] + 0.004 * k} for k in range(len(laws))]
    said = answer("decision_regret", law_draws=laws, C_flops=C)
    optima = said["N_opt_per_draw_params"]
    assert optima == [answer("optimum_6nd", law=law, C_flops=C)["N_params"] for law in laws]

    def regrets(x: Array) -> Array:
        return np.array(
            [
                loss(law, np.exp(x), C / 6 / np.exp(x)) - loss(law, best, C / 6 / best)
                for law, best in zip(laws, optima, strict=True)
            ]
        )

    low, high = math.log(min(optima)) - 0.5, math.log(max(optima)) + 0.5
    for name, mean in (("mean", True), ("minimax", False)):

        def total(x: Array, mean: bool = mean) -> Array:
            return np.asarray(regrets(x).mean(axis=0) if mean else regrets(x).max(axis=0))

        y = lowest(total, low, high)[1]
        N = said["N_mean_regret_params" if mean else "N_minimax_params"]
        assert said[f"regret_{name}_nats"] == pytest.approx(y, abs=1e-9)
        assert float(total(np.array([math.log(N)]))[0]) == pytest.approx(y, abs=1e-9)
    best = math.log(said["N_mean_regret_params"])
    for name, step in (("big", 2.0), ("small", 0.5)):
        there = regrets(np.array([best + math.log(step)])).mean()
        assert said[f"regret_2x_too_{name}_nats"] == pytest.approx(there, rel=1e-6, abs=1e-12)


@few
@given(
    powers=st.lists(st.tuples(decades(-6, 4), st.floats(0.1, 0.9)), min_size=2, max_size=2),
    loss_law=st.none() | st.tuples(st.floats(1, 20), st.floats(-0.1, -0.01)),
    C=decades(15, 27),
)
def test_power_frontiers(powers: list[tuple[float, float]], loss_law: tuple[float, float] | None, C: float) -> None:
    (k_N, a_N), (k_D, a_D) = powers
    inputs: dict[str, Any] = {
        "N_law": {"coef": k_N, "exponent": a_N},
        "D_law": {"coef": k_D, "exponent": a_D},
    }
    if loss_law:
        inputs["loss_law"] = {"coef": loss_law[0], "exponent": loss_law[1]}
    N, D = k_N * C**a_N, k_D * C**a_D
    wanted = {"N_params": N, "D_tokens": D, "tokens_per_param": D / N, "six_ND_over_C": 6 * N * D / C}
    wanted |= {"loss_nats": loss_law[0] * C ** loss_law[1]} if loss_law else {}
    assert answer("power_frontier", C_flops=C, **inputs) == pytest.approx(wanted, rel=1e-12)


# ---- repeats -------------------------------------------------------------------------------------------------------


@few
@given(law=law_of("muennighoff"), N=decades(6, 12), D=decades(7, 14), U=decades(7, 14))
def test_the_loss_on_repeated_data(law: Law, N: float, D: float, U: float) -> None:
    said = answer("loss_repeated_data", law=law, N_params=N, D_tokens=D, unique_tokens=U)["loss_nats"]
    assert said == pytest.approx(float(repeated(law, N, D, U)), rel=1e-10)
    more = answer("loss_repeated_data", law=law, N_params=N, D_tokens=D, unique_tokens=U * 1.01)["loss_nats"]
    assert more <= said * (1 + 1e-14)


@few
@given(law=law_of("muennighoff"), C=decades(17, 23), U=decades(8, 13), factor=st.floats(1.001, 10))
def test_the_optimum_of_limited_data(law: Law, C: float, U: float, factor: float) -> None:
    said = answer("optimum_data_constrained", law=law, C_flops=C, unique_tokens=U)
    N, free = said["N_params"], said["unlimited_N_params"]
    middle = math.log(free)
    y = lowest(lambda x: repeated(law, np.exp(x), C / 6 / np.exp(x), U), middle - 12, middle + 12)[1]
    assert said["loss_nats"] == pytest.approx(y, rel=1e-10)
    assert said["loss_nats"] == pytest.approx(float(repeated(law, N, C / 6 / N, U)), rel=1e-10)
    assert said["epochs"] == pytest.approx(said["D_tokens"] / U, rel=1e-12)
    assert said["loss_if_unlimited_N_kept_nats"] == pytest.approx(
        float(repeated(law, free, C / 6 / free, U)), rel=1e-10
    )
    assert said["unlimited_loss_nats"] <= said["loss_nats"] * (1 + 1e-12) <= said["loss_if_unlimited_N_kept_nats"] * 1.1
    for change in ({"unique_tokens": U * factor, "C_flops": C}, {"unique_tokens": U, "C_flops": C * factor}):
        assert answer("optimum_data_constrained", law=law, **change)["loss_nats"] <= said["loss_nats"] * (1 + 1e-12)


def test_plenty_of_data_is_unlimited_data() -> None:
    law = {"form": "muennighoff", "lnA": 6.0, "lnB": 7.0, "lnE": 0.6, "alpha": 0.35, "beta": 0.3}
    law |= {"R_D_star": 15.0, "R_N_star": 5.0}
    said = answer("optimum_data_constrained", law=law, C_flops=1e20, unique_tokens=1e14)
    for name in ("N_params", "D_tokens", "loss_nats"):
        assert said[name] == pytest.approx(said[f"unlimited_{name}"], rel=1e-12)
    assert said["epochs"] < 1


@few
@given(R=decades(-1, 3), epochs=st.just(1.0) | st.floats(1, 200), v=st.just(1) | st.floats(1e-6, 1))
def test_the_worth_of_repeats(R: float, epochs: float, v: float) -> None:
    said = answer("repeat_value", R_D_star=R, epochs=epochs)
    assert said["D_eff_over_unique"] == pytest.approx(1 + R * (1 - math.exp(-(epochs - 1) / R)), rel=1e-12)
    assert said["marginal_value_fraction"] == pytest.approx(math.exp(-(epochs - 1) / R), rel=1e-12)
    assert said["max_D_eff_over_unique"] == 1 + R
    until = answer("repeat_horizon", R_D_star=R, marginal_value_fraction=v)["epochs"]
    assert until >= 1
    assert answer("repeat_value", R_D_star=R, epochs=until)["marginal_value_fraction"] == pytest.approx(v, rel=1e-9)


PENALTY = st.fixed_dictionaries(
    {
        "unique_tokens": decades(8, 13),
        "penalty_P_nats": st.just(0) | decades(-6, 0),
        "penalty_delta": st.sampled_from([0, 0.3, 0.8, 1, 1.5, 2.5]),
        "penalty_kappa": st.floats(-0.5, 1.0),
    }
)


def penalised(law: Law, x: dict[str, float], N: Any, D: Any) -> Any:
    U = x["unique_tokens"]
    repeats = np.maximum(D / U - 1, 0) ** x["penalty_delta"]
    return loss(law, N, D) + x["penalty_P_nats"] * repeats * (N / U) ** x["penalty_kappa"]


@few
@given(law=law_of(), penalty=PENALTY, N=decades(6, 11), compare=decades(8, 13))
def test_the_best_epochs_where_repeats_hurt(law: Law, penalty: dict[str, float], N: float, compare: float) -> None:
    U = penalty["unique_tokens"]
    said = answer("overfit_best_epochs", law=law, N_params=N, compare_D_tokens=compare, **penalty)
    epochs = np.concatenate([1 + np.geomspace(1e-12, 59, 20_000), np.linspace(1, 60, 20_001)])
    y = float(penalised(law, penalty, N, epochs * U).min())
    assert 1 <= said["epochs"] <= 60
    assert said["loss_nats"] <= y * (1 + 1e-13)
    assert said["loss_nats"] == pytest.approx(y, rel=1e-6)
    D = said["D_tokens"]
    assert pytest.approx(said["epochs"] * U, rel=1e-14) == D
    assert said["loss_nats"] == pytest.approx(float(penalised(law, penalty, N, D)), rel=1e-12)
    assert said["loss_if_unique_nats"] == pytest.approx(loss(law, N, D), rel=1e-12)
    assert said["loss_at_compare_nats"] == pytest.approx(float(penalised(law, penalty, N, compare)), rel=1e-12)


@few
@given(law=law_of(), penalty=PENALTY, C=decades(17, 25))
def test_the_best_size_where_repeats_hurt(law: Law, penalty: dict[str, float], C: float) -> None:
    said = answer("overfit_budget", law=law, C_flops=C, **penalty)
    once = C / 6 / penalty["unique_tokens"]
    N = np.concatenate([np.geomspace(1e7, 1e11, 40_001), [min(max(once, 1e7), 1e11)]])
    y = float(penalised(law, penalty, N, C / 6 / N).min())
    assert said["loss_nats"] <= y * (1 + 1e-12)
    # Of a penalty with delta < 1 a grid meets the cusp at one epoch only by the point put there.
    assert said["loss_nats"] == pytest.approx(y, rel=1e-5)
    free = answer("optimum_6nd", law=law, C_flops=C)
    assert said["unlimited_N_params"] == free["N_params"]
    assert said["unlimited_loss_nats"] == free["loss_nats"]
    kept = penalised(law, penalty, free["N_params"], free["D_tokens"])
    assert said["loss_if_unlimited_N_kept_nats"] == pytest.approx(float(kept), rel=1e-9)


# ---- money ---------------------------------------------------------------------------------------------------------


@few
@given(law=law_of(), C=decades(18, 25), T=st.just(0) | decades(7, 17))
def test_the_least_lifetime_flops(law: Law, C: float, T: float) -> None:
    target = answer("optimum_6nd", law=law, C_flops=C)["loss_nats"]
    said = answer("inference_adjusted", law=law, target_loss_nats=target, inference_tokens=T)
    N, D = said["N_params"], said["D_tokens"]
    assert loss(law, N, D) == pytest.approx(target, rel=1e-10)
    reducible = (target - coefficient(law, "E")) ** (1 / law.get("gamma", 1.0))
    smallest = math.log(coefficient(law, "A") / reducible) / law["alpha"]

    def total(log_N: Array) -> Array:
        left = reducible - coefficient(law, "A") * np.exp(-law["alpha"] * log_N)
        with np.errstate(all="ignore"):
            tokens = (coefficient(law, "B") / left) ** (1 / law["beta"])
        return np.where(left > 0, np.exp(log_N) * (6 * tokens + 2 * T), np.inf)

    assert said["total_flops"] == pytest.approx(lowest(total, smallest, smallest + 15)[1], rel=1e-6)
    alone = answer("optimum_6nd", law=law, C_flops=C)
    before = 6 * alone["N_params"] * alone["D_tokens"] + 2 * alone["N_params"] * T
    assert said["saving_fraction"] == pytest.approx(1 - said["total_flops"] / before, abs=1e-9)
    assert said["saving_fraction"] >= 0
    assert said["train_flops"] + said["inference_flops"] == pytest.approx(said["total_flops"], rel=1e-12)
    more = answer("inference_adjusted", law=law, target_loss_nats=target, inference_tokens=2 * T + 1e9)
    assert more["N_params"] < N * (1 + 1e-12)
    assert more["D_tokens"] > D * (1 - 1e-12)


def solved(f: Callable[[Array], float], start: Array, constraint: Callable[[Array], float], kind: str) -> Array | None:
    """The minimum that SLSQP finds from some starts around `start`; None if it finds no point that is allowed."""
    found = []
    for shift in (0.0, 0.7, -0.7):
        run = minimize(
            f, start + shift, method="SLSQP", constraints=[{"type": kind, "fun": constraint}], options={"ftol": 1e-13}
        )
        if constraint(run.x) > -1e-6 and (kind == "ineq" or constraint(run.x) < 1e-6):
            found.append(run.x)
    return min(found, key=f, default=None)


@few
@given(law=law_of(), usd=decades(2, 7), p=decades(-19, -17), q=st.just(0) | decades(-10, -4), dearer=st.floats(1.01, 9))
def test_bought_tokens(law: Law, usd: float, p: float, q: float, dearer: float) -> None:
    prices = {"budget_usd": usd, "usd_per_flop": p}
    said = answer("data_price", law=law, usd_per_token=q, **prices)
    N, D = said["N_params"], said["D_tokens"]
    y = lowest(lambda x: loss(law, np.exp(x), usd / (6 * p * np.exp(x) + q)), math.log(N) - 9, math.log(N) + 9)[1]
    assert said["loss_nats"] == pytest.approx(y, rel=1e-10)
    assert said["data_usd"] == pytest.approx(q * D, rel=1e-12)
    assert said["compute_usd"] == pytest.approx(6 * p * N * D, rel=1e-12)
    assert said["data_usd"] + said["compute_usd"] == pytest.approx(usd, rel=1e-9)
    assert said["parity_N_params"] == pytest.approx(q / (6 * p), rel=1e-12)
    found = solved(
        lambda v: float(np.log(loss(law, *np.exp(np.clip(v, -80, 80))))),
        np.log([N, D]) + 0.3,
        lambda v: float(np.log((6 * p * np.exp(np.clip(v[0], -80, 80)) + q) / usd) + v[1]),
        "eq",
    )
    assume(found is not None)
    assert found is not None
    assert loss(law, *np.exp(found)) >= said["loss_nats"] * (1 - 1e-5)
    assert answer("data_price", law=law, usd_per_token=q * dearer + 1e-12, **prices)["D_tokens"] < D
    richer = {**prices, "budget_usd": usd * dearer}
    assert answer("data_price", law=law, usd_per_token=q, **richer)["loss_nats"] < said["loss_nats"]
    if q == 0:
        assert answer("optimum_6nd", law=law, C_flops=usd / p)["N_params"] == pytest.approx(N, rel=1e-9)


@few
@given(
    law=law_of("muennighoff"),
    usd=decades(2, 7),
    p=decades(-19, -17),
    q=st.just(0) | decades(-10, -5),
    free=st.just(0) | decades(7, 12),
)
def test_new_tokens_epochs_or_parameters(law: Law, usd: float, p: float, q: float, free: float) -> None:
    inputs = {"law": law, "budget_usd": usd, "usd_per_flop": p, "usd_per_token": q, "free_unique_tokens": free}
    said = answer("collect_or_grow", **inputs)
    N, D, U = said["N_params"], said["D_tokens"], said["unique_tokens"]
    assert said["loss_nats"] == pytest.approx(float(repeated(law, N, D, U)), rel=1e-9)
    assert 6 * p * N * D + said["data_usd"] == pytest.approx(usd, rel=1e-9)
    assert said["new_tokens"] == pytest.approx(U - free, rel=1e-9, abs=1e-6 * U)
    assert said["data_usd"] == pytest.approx(q * said["new_tokens"], rel=1e-9)
    assert said["epochs"] == pytest.approx(D / U, rel=1e-12)
    if q == 0:
        assert said["loss_nats"] == pytest.approx(
            answer("optimum_6nd", law={**law, "form": "chinchilla"}, C_flops=usd / p)["loss_nats"]
        )
        return
    own = said["data_usd"] / usd
    shares = np.concatenate([[0.0], np.geomspace(1e-6, 0.99, 60), [own * 0.99, min(own * 1.01, 0.999)]])
    U_of, C_of = free + shares * usd / q, (1 - shares) * usd / p
    U_of, C_of = U_of[U_of > 0], C_of[U_of > 0]
    grid = np.exp(np.linspace(math.log(N) - 6, math.log(N) + 6, 1201))
    losses = repeated(law, grid[:, None], C_of / 6 / grid[:, None], U_of)
    assert said["loss_nats"] <= float(losses.min()) * (1 + 1e-9)
    assert said["loss_nats"] == pytest.approx(float(losses.min()), rel=2e-3)
    for change in ({"free_unique_tokens": 1.5 * free + 1e6}, {"budget_usd": 1.5 * usd}, {"usd_per_token": 0.7 * q}):
        assert answer("collect_or_grow", **{**inputs, **change})["loss_nats"] <= said["loss_nats"] * (1 + 1e-12)
    assert (
        answer("collect_or_grow", **{**inputs, "usd_per_token": 1.5 * q})["new_tokens"] <= said["new_tokens"] + 1e-6 * U
    )


def searched(inputs: dict[str, Any]) -> float:
    """The lowest loss that SLSQP finds over N, D and U = U0 e^(v^2), which needs no bound; inf if it finds none."""
    law, usd, p, q, free = inputs.values()
    said = answer("collect_or_grow", **inputs)

    def unpacked(v: Array) -> Array:
        return np.exp(np.clip([v[0], v[1], math.log(free) + v[2] ** 2], -80, 80))

    found = solved(
        lambda v: float(np.log(repeated(law, *unpacked(v)))),
        np.array([math.log(said["N_params"]), math.log(said["D_tokens"]), 1.0]),
        lambda v: -float(np.log((6 * p * unpacked(v)[0] * unpacked(v)[1] + q * (unpacked(v)[2] - free)) / usd)),
        "ineq",
    )
    return math.inf if found is None else float(repeated(law, *unpacked(found)))


MONEY = ("law", "budget_usd", "usd_per_flop", "usd_per_token", "free_unique_tokens")


@pytest.mark.parametrize("q", [3e-9, 3e-8, 3e-7, 3e-6])
def test_a_general_optimiser_agrees(q: float) -> None:
    law = {"form": "muennighoff", "lnA": 6.255414, "lnB": 7.3049974, "lnE": 0.6254804, "alpha": 0.3526596}
    law |= {"beta": 0.3526596, "R_D_star": 15.387756, "R_N_star": 5.309743}
    inputs = dict(zip(MONEY, (law, 2e4, 2.4e-18, q, 5e9), strict=True))
    assert searched(inputs) == pytest.approx(answer("collect_or_grow", **inputs)["loss_nats"], rel=1e-7)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(law=law_of("muennighoff"), usd=decades(3, 6), q=decades(-9, -6), free=decades(8, 11))
def test_a_general_optimiser_finds_nothing_better(law: Law, usd: float, q: float, free: float) -> None:
    inputs = dict(zip(MONEY, (law, usd, 2e-18, q, free), strict=True))
    assert searched(inputs) >= answer("collect_or_grow", **inputs)["loss_nats"] * (1 - 1e-5)


@few
@given(
    bill=st.fixed_dictionaries(
        {
            "train_flops": decades(15, 26),
            "gpus": st.integers(1, 4096),
            "gpu_peak_flops_per_s": decades(13, 16),
            "mfu_fraction": st.floats(0.05, 1),
            "usd_per_gpu_hour": st.floats(0, 20),
            "gpu_watts": st.floats(50, 2000),
            "load_fraction": st.floats(0.1, 1),
            "pue": st.floats(1, 2),
            "kg_co2_per_kwh": st.floats(0, 1),
            "job_limit_hours": st.floats(0.5, 200),
            "segment_overhead_fraction": st.floats(0, 0.9),
        }
    )
)
def test_the_bill(bill: dict[str, float]) -> None:
    said = answer("cost_time_carbon", **bill)
    hours = bill["train_flops"] / (bill["gpu_peak_flops_per_s"] * bill["mfu_fraction"] * 3600)
    kwh = hours * bill["gpu_watts"] / 1000 * bill["load_fraction"] * bill["pue"]
    useful = bill["job_limit_hours"] * (1 - bill["segment_overhead_fraction"])
    jobs = hours / bill["gpus"] / useful
    assert said["slurm_segments"] == math.ceil(jobs) or abs(jobs - round(jobs)) < 1e-12
    assert said["gpu_hours"] == pytest.approx(hours, rel=1e-12)
    assert said["wall_hours"] == pytest.approx(hours / bill["gpus"], rel=1e-12)
    assert said["cost_usd"] == pytest.approx(hours * bill["usd_per_gpu_hour"], rel=1e-12)
    assert said["energy_kwh"] == pytest.approx(kwh, rel=1e-12)
    assert said["co2_kg"] == pytest.approx(kwh * bill["kg_co2_per_kwh"], rel=1e-12)


# ---- models --------------------------------------------------------------------------------------------------------


@few
@given(
    L=st.integers(1, 200),
    d=st.integers(8, 20_000),
    h=st.integers(0, 200),
    V=st.integers(4, 300),
    a=st.integers(0, 99_999),
)
def test_parameters_and_flops(L: int, d: int, h: int, V: int, a: int) -> None:
    shape = {"layers": L, "width": d, "heads": h, "vocab_size": V, "attended_tokens_per_query": a}
    wanted = {
        "esm2": (L * (12 * d * d + 13 * d), V * d + 2 * d + (d * d + 3 * d + V) + (L * h + 1), 2 * d * d + 2 * d * V),
        "progen2": (L * (12 * d * d + 7 * d), 2 * V * d + V + 2 * d, 2 * d * V),
    }
    for family, (blocks, outside, head) in wanted.items():
        said = answer("flops_params", family=family, **shape)
        forward = 24 * L * d * d + 4 * a * d * L + head
        assert said["params_nonemb"] == blocks
        assert said["params_total"] == blocks + outside
        assert said["fwd_linear_flops_per_token"] == 24 * L * d * d
        assert said["fwd_attention_flops_per_token"] == 4 * a * d * L
        assert said["fwd_head_flops_per_token"] == head
        assert said["train_flops_per_token"] == 3 * forward
        assert said["ratio_to_6N_nonemb"] == pytest.approx(forward / (2 * blocks), rel=1e-14)
        assert said["attention_share_fraction"] == pytest.approx(4 * a * d * L / forward, rel=1e-14)


@few
@given(
    L=st.integers(1, 100),
    d=st.integers(64, 9000),
    h=st.integers(1, 100),
    b=st.integers(1, 64),
    s=st.integers(1, 9000),
    n=st.integers(1, 512),
)
def test_memory(L: int, d: int, h: int, b: int, s: int, n: int) -> None:
    shape = {"layers": L, "width": d, "heads": h, "batch_sequences": b, "seq_len_tokens": s, "shards": n}
    state = 16 * (12 * L * d * d + 13 * L * d) / n / 1e9
    for kernel, layer in (("flash", 34 * s * b * d), ("standard", s * b * d * (34 + 5 * h * s / d))):
        for checkpointing, kept in (("none", L * layer), ("full", 2 * s * b * d * L + layer)):
            said = answer("memory_fit", attention_kernel=kernel, checkpointing=checkpointing, **shape)
            wanted = {"state_GB": state, "activations_GB": kept / 1e9, "total_GB": state + kept / 1e9}
            assert said == pytest.approx(wanted, rel=1e-12)


@few
@given(N=decades(5, 12), D=decades(7, 14))
def test_learning_rates_and_batches(N: float, D: float) -> None:
    C = 6 * N * D
    assert answer("lr_batch", N_params=N, D_tokens=D) == pytest.approx(
        {
            "step_law_lr": 1.79 * N**-0.713 * D**0.307,
            "step_law_batch_tokens": 0.58 * D**0.571,
            "deepseek_lr": 0.3118 * C**-0.125,
            "deepseek_batch_tokens": 0.2920 * C**0.3271,
        },
        rel=1e-11,
    )


@few
@given(
    law=law_of(),
    coefficients=st.fixed_dictionaries({
        "A": decades(2, 4), "B": decades(3, 5), "alpha": st.floats(0.2, 0.6), "beta": st.floats(0.3, 0.8),
        "gamma": st.floats(0.3, 1), "c0": st.floats(0, 4), "c1": st.floats(0.1, 900), "f1": st.floats(0.03, 2),
        "d1": st.floats(0.5, 2),
    }),
    student=st.tuples(decades(7, 10), decades(9, 12)),
    teacher=st.tuples(decades(8, 11), decades(10, 13)),
)  # fmt: skip
def test_distillation(
    law: Law, coefficients: dict[str, float], student: tuple[float, float], teacher: tuple[float, float]
) -> None:
    c, (NS, DS), (NT, DT) = coefficients, student, teacher
    said = answer(
        "distill", supervised_law=law, distillation_law=c,
        student_params=NS, student_tokens=DS, teacher_params=NT, teacher_tokens=DT,
    )  # fmt: skip
    LT, LS = loss(law, NT, DT), loss(law, NS, DS)
    lead = (1 + (LT / (LS * c["d1"])) ** (1 / c["f1"])) ** (-c["c1"] * c["f1"])
    gap = LT ** -c["c0"] * lead * (c["A"] * NS ** -c["alpha"] + c["B"] * DS ** -c["beta"]) ** c["gamma"]
    flops = DS * (6 * NS + 2 * NT)
    wanted = {
        "teacher_loss_nats": LT,
        "supervised_loss_same_tokens_nats": LS,
        "distilled_loss_nats": LT + gap,
        "distill_flops": flops,
        "supervised_tokens_same_flops": flops / (6 * NS),
        "supervised_loss_same_flops_nats": loss(law, NS, flops / (6 * NS)),
    }
    assert said == pytest.approx(wanted, rel=1e-9)
    logs = {**{k: v for k, v in c.items() if k not in "AB"}, "lnA": math.log(c["A"]), "lnB": math.log(c["B"])}
    again = answer(
        "distill", supervised_law=law, distillation_law=logs,
        student_params=NS, student_tokens=DS, teacher_params=NT, teacher_tokens=DT,
    )  # fmt: skip
    assert again == pytest.approx(said, rel=1e-9)


@few
@given(
    law=law_of(), N=decades(7, 10), C=decades(18, 23), k=st.just(0) | decades(3, 13), a=st.floats(-0.3, 1.2),
    b=st.sampled_from([0, 0.3, -0.3]), rho=st.sampled_from([0, 0.5, 1, 1.01, 1.5, 3, 40]),
)  # fmt: skip
def test_the_split_of_two_phases(law: Law, N: float, C: float, k: float, a: float, b: float, rho: float) -> None:
    worth = {"transfer_k_tokens": k, "transfer_a": a, "transfer_b": b}
    said = answer("clm_mlm_split", law=law, N_params=N, C_flops=C, rho=rho, **worth)
    D = C / (6 * N)
    share = np.concatenate([[0], np.geomspace(1e-8, 0.98, 20_000), np.linspace(0, 0.98, 20_001)])
    with np.errstate(divide="ignore"):
        room, limit = k * ((1 - share) * D) ** a * N**b, rho * share * D
        tokens = (1 - share) * D + np.where((room > 0) & (limit > 0), 1 / (1 / room + 1 / limit), 0)
    assert said["D_mlm_tokens"] + said["D_transferred_tokens"] >= tokens.max() * (1 - 1e-12)
    assert said["loss_nats"] == pytest.approx(loss(law, N, float(tokens.max())), rel=1e-8)
    assert said["loss_no_transfer_nats"] == pytest.approx(loss(law, N, D), rel=1e-12)
    f = said["clm_fraction"]
    assert 0 <= f <= 0.98
    assert said["D_clm_tokens"] == pytest.approx(f * D, rel=1e-12)
    assert said["D_mlm_tokens"] == pytest.approx((1 - f) * D, rel=1e-12)
    if rho <= 1 or k == 0:
        assert f == said["D_transferred_tokens"] == 0
        assert said["loss_nats"] == said["loss_no_transfer_nats"]
    richer = answer("clm_mlm_split", law=law, N_params=N, C_flops=C, rho=rho + 1, **worth)
    assert richer["loss_nats"] <= said["loss_nats"] * (1 + 1e-12)


# ---- what cannot be answered ---------------------------------------------------------------------------------------

SIMPLE = {"form": "chinchilla", "E": 1.8, "A": 482.0, "B": 2085.0, "alpha": 0.348, "beta": 0.366}


@pytest.mark.parametrize(
    ("kind", "inputs", "said"),
    [
        ("inference_adjusted", {"law": SIMPLE, "target_loss_nats": 1.8, "inference_tokens": 0}, "no model reaches"),
        ("optimum_6nd", {"law": SIMPLE, "C_flops": 0}, "C_flops must be above 0"),
        ("optimum_6nd", {"law": SIMPLE, "C_flops": math.nan}, "C_flops must be a number"),
        ("optimum_6nd", {"law": {**SIMPLE, "alpha": -0.3}, "C_flops": 1e20}, "alpha must be above 0"),
        ("repeat_value", {"R_D_star": 15, "epochs": 0.5}, "epochs must not be below 1"),
        ("repeat_horizon", {"R_D_star": 15, "marginal_value_fraction": 0}, "above 0 and at most 1"),
        ("decision_regret", {"law_draws": [], "C_flops": 1e20}, "must be a list of laws"),
        ("flops_params", {"family": "gpt"}, "family cannot be 'gpt'"),
        ("optimum_6nd", {"law": {**SIMPLE, "alpha": 1e-12, "beta": 1e-9}, "C_flops": 1e20}, "too large or too small"),
    ],
)
def test_questions_without_an_answer_are_refused(kind: str, inputs: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        answer_example(kind, inputs, where="here, case 3")
    assert "here, case 3" in str(caught.value)


def test_no_kind_swallows_a_missing_input() -> None:
    for kind in KINDS:
        with pytest.raises(ConfigError, match="is missing"):
            answer_example(kind, {})


EXAMPLES = json.loads((Path(__file__).parents[1] / "certified" / "sizing_examples.json").read_text())["examples"]
JUNK = (None, "x", [], {}, [1], True, -1, 0, 1, 0.5, 1e308, 1e-308, 5e-324, 1e30, 1e-30, math.nan, math.inf, 10**400)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_is_asked_the_answer_is_finite_or_refused(data: st.DataObject) -> None:
    example = data.draw(st.sampled_from(EXAMPLES))
    given = {**{k: v for k, v in example["input"].items() if k != "cases"}, **example["input"]["cases"][0]}
    given = json.loads(json.dumps(given))
    place = given
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[key], dict) or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(st.sampled_from(JUNK))
    refused, said = None, {}
    try:
        said = answer(example["kind"], where="case 1", **given)
    except ConfigError as error:
        refused = error
    numbers = np.concatenate([np.atleast_1d(np.array(v, dtype=float)) for v in said.values()] or [np.zeros(0)])
    assert np.all(np.isfinite(numbers))
    assert bool(said) != bool(refused)
    assert refused is None or refused.where.startswith("case 1")
    if refused is not None and place[key] is None:
        assert key in str(refused)
