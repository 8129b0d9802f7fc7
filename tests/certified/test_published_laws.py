"""The zoo against numbers printed in its sources, and against the tables they were fitted to."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plm_scaling.laws.zoo import PublishedLaw, find_law

# ---- printed numbers, no data needed -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("law", "N_coef", "N_exp", "D_coef", "D_exp"),
    [("cheng-clm", 1.26e-3, 0.578, 1.24e2, 0.421), ("cheng-mlm", 6.19e-8, 0.776, 2.02e6, 0.230)],
)
@pytest.mark.parametrize("C", [1e18, 1e19, 1e20, 3e20])
def test_cheng_figure(law: str, N_coef: float, N_exp: float, D_coef: float, D_exp: float, C: float) -> None:
    assert find_law(law).optimum(C) == pytest.approx((N_coef * C**N_exp, D_coef * C**D_exp), rel=1e-12)


@pytest.mark.parametrize(("law", "low", "high"), [("cheng-clm", 0.89, 0.90), ("cheng-mlm", 0.96, 1.00)])
def test_cheng_laws_spend_their_budget(law: str, low: float, high: float) -> None:
    for C in (1e18, 1e19, 1e20, 3e20):
        assert low - 0.005 < find_law(law).answer({"C": C})["six_ND_over_C"] < high + 0.005


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
    assert law.exponents()[0] == pytest.approx(0.513, abs=5e-4)
    assert find_law("hoffmann2022").optimum(1e21) == pytest.approx((1.824e9, 91.4e9), rel=1e-3)
    assert find_law("hoffmann2022").exponents()[0] == pytest.approx(0.452, abs=5e-4)


@pytest.mark.parametrize(
    ("C", "N", "D", "loss"),
    [
        (1e19, 262468028.9754828, 6349979741.046291, 2.926038702937961),
        (1e21, 2781983523.6581883, 59909293225.25504, 2.3048372003834916),
        (1e23, 29487143086.019714, 565218089051.4475, 2.0315429428507596),
    ],
)
def test_the_replication_in_full_digits(C: float, N: float, D: float, loss: float) -> None:
    said = find_law("besiroglu2024").answer({"C": C})
    assert (said["N"], said["D"], said["loss"]) == pytest.approx((N, D, loss), rel=1e-9)


@pytest.mark.parametrize(("N", "D", "loss"), [(6.34e9, 242e9, 2.2256440889984477), (8.67e9, 178e9, 2.2269634075087867)])
def test_repeated_tokens_reference(N: float, D: float, loss: float) -> None:
    assert find_law("muennighoff2023").loss(N, D, unique_tokens=25e9) == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize(
    ("C", "U", "N", "loss"),
    [
        (9.24e21, 25e9, 6796649745.623604, 2.2253563256466413),
        (1e21, 5e9, 2066410771.3221095, 2.4368589080524163),
        (1e21, 15e9, 2451059958.5762806, 2.3678268575823815),
        (1e22, 15e9, 6482365784.105786, 2.2510785683848065),
    ],
)
def test_the_best_size_for_repeated_tokens(C: float, U: float, N: float, loss: float) -> None:
    said = find_law("muennighoff2023").answer({"C": C, "U": U})
    assert said["N"] == pytest.approx(N, rel=1e-5)
    assert said["loss"] == pytest.approx(loss, rel=1e-11)


def test_what_a_repeated_token_is_worth() -> None:
    """Half of a new one at 11.7 epochs, a tenth at 36.4: the published decay of 15.39 epochs."""
    decay = find_law("muennighoff2023").params["R_D"]
    for worth, epochs in ((0.9, 2.6), (0.5, 11.7), (0.1, 36.4)):
        assert 1 - decay * math.log(worth) == pytest.approx(epochs, abs=0.05)


# ---- the released coefficients and tables --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tables(test_data: Path) -> Path:
    return test_data / "law_tables"


@pytest.fixture(scope="module")
def released(tables: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tables / "published_coefficients.json").read_text())
    return found


def numbers(table: Path, *columns: str, keep: dict[str, str] | None = None) -> list[np.ndarray[Any, Any]]:
    with table.open(newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if all(row[k] == v for k, v in (keep or {}).items())]
    return [np.array([float(row[name]) for row in rows]) for name in columns]


def residuals(law: PublishedLaw, loss: np.ndarray[Any, Any], *inputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Errors ln(predicted) - ln(loss)."""
    predicted = [law.loss(*map(float, row)) for row in zip(*inputs, strict=True)]
    return np.log(np.array(predicted, dtype=float)) - np.log(loss)


def huber(r: np.ndarray[Any, Any], delta: float = 1e-3) -> float:
    size = np.abs(r)
    return float(np.where(size <= delta, r**2 / 2, delta * (size - delta / 2)).sum())


def test_the_chinchilla_coefficients_have_all_their_digits(released: dict[str, Any]) -> None:
    published = released["epoch_chinchilla"]
    theirs, ours = published["published_epoch"], find_law("besiroglu2024")
    assert ours.params == {name: theirs[name] for name in ("E", "A", "B", "alpha", "beta")}
    assert {name: list(span) for name, span in ours.ci95.items()} == theirs["ci95_pct_bootstrap4000"]
    best = published["our_optimum_huber1e-3_sum"]
    assert find_law("chinchilla2022-refit").params == {name: best[name] for name in ("E", "A", "B", "alpha", "beta")}
    assert find_law("hoffmann2022").params == published["hoffmann_rounded"]
    unrounded = published["hoffmann_unrounded"]
    logs = {"log_A": unrounded["a"], "log_B": unrounded["b"], "log_E": unrounded["e"]}
    params = find_law("hoffmann2022-unrounded").params
    assert params == logs | {name: unrounded[name] for name in ("alpha", "beta")}
    rounded = find_law("hoffmann2022").params
    for name in ("A", "B"):
        assert math.exp(params[f"log_{name}"]) == pytest.approx(rounded[name], abs=0.05)
    assert math.exp(params["log_E"]) == pytest.approx(rounded["E"], abs=0.005)


def test_chinchilla_laws_on_their_own_runs(tables: Path, released: dict[str, Any]) -> None:
    N, D, C, loss = numbers(tables / "epoch_chinchilla.csv", "N", "D", "C", "loss", keep={"outlier": "False"})
    assert len(N) == 240
    by_law = {name: residuals(find_law(name), loss, N, D) for name in ("hoffmann2022", "hoffmann2022-unrounded")}
    assert by_law["hoffmann2022"].mean() == pytest.approx(0.0167, abs=1e-4)
    assert by_law["hoffmann2022-unrounded"].mean() == pytest.approx(-0.0030, abs=1e-4)
    ratio = huber(by_law["hoffmann2022"]) / huber(by_law["hoffmann2022-unrounded"])
    assert ratio == pytest.approx(3.3, abs=0.15)
    best = released["epoch_chinchilla"]["our_optimum_huber1e-3_sum"]["objective_sum"]
    assert huber(residuals(find_law("chinchilla2022-refit"), loss, N, D)) == pytest.approx(best, rel=1e-9)
    low, high = find_law("besiroglu2024").range_C or (0.0, 0.0)
    assert (low, high) == pytest.approx((C.min(), C.max()), rel=0.01)


def test_the_laws_of_repeats_have_all_their_digits(released: dict[str, Any]) -> None:
    published = released["datablations_fit182"]
    fixed = published["fixed"]
    common = {"log_A": fixed["a"], "log_B": fixed["b"], "log_E": fixed["e"]}
    common |= {name: fixed[name] for name in ("alpha", "beta")}
    for name, where in (("muennighoff2023", "published"), ("muennighoff2023-refit", "our_global_optimum")):
        decay = {"R_D": published[where]["R_D_star"], "R_N": published[where]["R_N_star"]}
        assert find_law(name).params == common | decay
    low = published["our_bootstrap300_ci95"]["R_D_star"][0]
    assert find_law("muennighoff2023-refit").ci95["R_D"] == (low, math.inf)


@pytest.mark.parametrize(
    ("name", "where", "rel"),
    [("muennighoff2023", "published", 1e-7), ("muennighoff2023-refit", "our_global_optimum", 1e-6)],
)
def test_the_laws_of_repeats_on_their_own_runs(
    tables: Path, released: dict[str, Any], name: str, where: str, rel: float
) -> None:
    N, D, U, loss = numbers(tables / "datablations_fit182.csv", "N", "D", "U", "loss")
    assert len(N) == 182
    law, wanted = find_law(name), released["datablations_fit182"][where]
    errors = residuals(law, loss, N, D, U)
    assert huber(errors) == pytest.approx(wanted["objective_sum"], rel=rel)
    predicted = np.exp(errors) * loss
    r2 = 1 - float(((predicted - loss) ** 2).sum() / ((loss - loss.mean()) ** 2).sum())
    assert r2 == pytest.approx(wanted["R2"], abs=1e-4)
    for span, values in ((law.range_N, N), (law.range_D, D)):
        assert span == pytest.approx((values.min(), values.max()), rel=0.01)


def test_the_published_grid_finds_our_best_size(released: dict[str, Any]) -> None:
    """The source steps N down and D up by the same factor, 500 steps from the unlimited optimum to three times it."""
    predictions = released["datablations_fit182"]["reference_predictions_README"]
    wanted, law = predictions["optimal_allocation(1e22,25e9)"], find_law("muennighoff2023")
    N, D = law.optimum(1e22)
    factors = np.linspace(1.0001, 3, 500)
    losses = [law.loss(N / f, D * f, 25e9) for f in factors]
    best = factors[int(np.argmin(np.array(losses, dtype=float)))]
    assert (N / best, D * best) == pytest.approx((wanted["N"], wanted["D"]), rel=1e-9)
    ours = law.answer({"C": 1e22, "U": 25e9})
    assert ours["loss"] <= min(loss for loss in losses if loss is not None)
    # Half a step of the grid.
    assert (ours["N"], ours["epochs"]) == pytest.approx((wanted["N"], wanted["epochs"]), rel=0.0021 / best)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("porian2024-tuned", "rw|tuned|short|const|standard|val"),
        ("porian2024-kaplan", "rw|base|long|kaplan|kaplan|train"),
    ],
)
def test_porian_fits_have_all_their_digits(tables: Path, name: str, config: str) -> None:
    fit = json.loads((tables / "porian_rw_published_fits.json").read_text())[config]
    weighted, law = fit["weighted"], find_law(name)
    names = {"k_N": "n_coef", "a_N": "n_exponent", "k_D": "t_coef", "a_D": "t_exponent"}
    assert law.params == {ours: weighted[theirs] for ours, theirs in names.items()}
    assert list(law.ci95["a_N"]) == fit["n_exponent_ci95"]
    C, N = numbers(tables / "porian_rw_optimal_pairs.csv", "flops", "n", keep={"config": config})
    assert law.range_C == pytest.approx((C.min(), C.max()))
    errors = [math.log(law.optimum(float(c))[0] / n) for c, n in zip(C, N, strict=True)]
    assert float(np.sqrt(np.mean(np.square(errors)))) < 0.2
