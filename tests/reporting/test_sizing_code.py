"""The sizing page's code under node: worked examples, every form and law of repeats, decisions, bills, refusals."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plm_scaling.laws.zoo import find_law
from plm_scaling.reporting.page_examples import answer_under_node, check_page
from plm_scaling.reporting.page_laws import page_laws
from plm_scaling.reporting.sizing_page import write_sizing_page
from plm_scaling.sizing.costs import bill_for, load_hardware, throughput_for
from plm_scaling.sizing.example_kinds import answer_example
from plm_scaling.sizing.law_ensemble import LawEnsemble, ensemble_of_published, text_decay
from plm_scaling.sizing.shapes import nearest_shape
from tests.reporting.page_kit import EXAMPLES, FORMS, OTHERS, ensemble, needs_node, purse_of, repeat_fit

pytestmark = needs_node


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[LawEnsemble], Path]:
    """An ensemble's page, written once."""
    folder, written = tmp_path_factory.mktemp("pages"), {}

    def page(laws: LawEnsemble) -> Path:
        if id(laws) not in written:
            out = folder / f"{len(written)}.html"
            written[id(laws)] = (write_sizing_page(out, [page_laws(laws)]), laws)
        return written[id(laws)][0]

    return page


def answers(requests: list[dict[str, Any]], page: Path) -> list[dict[str, Any]]:
    found = answer_under_node(requests, page)
    assert [one["error"] for one in found if "error" in one] == []
    return [one["answer"] for one in found]


# ---- worked examples -----------------------------------------------------------------------------------------------


def test_worked_examples_come_out_of_a_page(pages: Callable[[LawEnsemble], Path]) -> None:
    report = check_page(EXAMPLES, pages(ensemble(FORMS[:1])))
    assert [(case.example, case.case, case.differences) for case in report.cases if not case.passed] == []
    assert len(report.cases) == sum(len(e["input"]["cases"]) for e in json.loads(EXAMPLES.read_text())["examples"])


def test_a_wrong_answer_is_told_by_its_key(tmp_path: Path) -> None:
    data = json.loads(EXAMPLES.read_text())
    data["examples"] = data["examples"][:2]
    data["examples"][0]["expected"]["cases"][1]["N_params"] *= 1.0 + 3e-6
    (tmp_path / "wrong.json").write_text(json.dumps(data))
    report = check_page(tmp_path / "wrong.json")  # by the code as it is shipped
    assert len(report.cases) == 6
    (case,) = [case for case in report.cases if not case.passed]
    assert (case.case, [difference.key for difference in case.differences]) == (2, ["N_params"])


def perturbed(key: str, value: Any, rng: random.Random) -> Any:
    """Another input of the same kind: every number moved, shares and epochs kept within what they can be."""
    if isinstance(value, dict):
        moved = {k: perturbed(k, v, rng) for k, v in value.items()}
        if moved.get("form") == "chinchilla" and rng.random() < 0.3:
            moved |= {"form": "gamma", "gamma": rng.uniform(0.4, 1.2)}
        if "A" in moved and rng.random() < 0.3:
            moved |= {f"ln{name}": math.log(moved.pop(name)) for name in ("A", "B")}
        return moved
    if isinstance(value, list):
        return [perturbed(key, one, rng) for one in value]
    if isinstance(value, str):
        return value
    if key.endswith("_fraction"):
        return rng.uniform(0.05, 0.95)
    if key == "epochs":
        return 1.0 + abs(value - 1.0) * math.exp(rng.gauss(0, 0.5))
    if key.startswith("ln"):
        return value + rng.gauss(0, 0.3)
    careful = ("alpha", "beta", "gamma", "exponent", "transfer_a", "transfer_b", "penalty_delta", "penalty_kappa")
    width = 0.1 if key in careful else 0.02 if key in ("E", "target_loss_nats") else 0.7
    moved = value * math.exp(rng.gauss(0, width))
    return max(1, round(moved)) if isinstance(value, int) and value else moved


def test_questions_of_every_kind_are_answered_as_by_the_engine() -> None:
    rng, asked = random.Random(20261121), []
    for example in json.loads(EXAMPLES.read_text())["examples"]:
        shared = {key: value for key, value in example["input"].items() if key != "cases"}
        for _ in range(4):
            case = {**shared, **rng.choice(example["input"]["cases"])}
            asked.append((example, {key: perturbed(key, value, rng) for key, value in case.items()}))
    found = answer_under_node([{"kind": example["kind"], "inputs": inputs} for example, inputs in asked])
    compared = 0
    for (example, inputs), one in zip(asked, found, strict=True):
        wanted = answer_example(example["kind"], inputs)
        for key, want in wanted.items():
            near = 1e-9 if key.startswith("regret_") or key.endswith("_fraction") else 0.0
            rel = max(1e-6, 0.01 * example["rel_tol"])
            got, told = (np.array(value, dtype=float) for value in (one["answer"][key], want))
            np.testing.assert_allclose(got, told, rel, near, err_msg=f"{example['kind']} {key} {inputs}")
            compared += 1
    assert compared > 450


# ---- losses --------------------------------------------------------------------------------------------------------

REPEATS = ["none", "tokens", "data_decay", "size_decay", "decay", "penalty"]


@pytest.mark.parametrize("kind", REPEATS)
def test_every_form_has_the_losses_of_the_ensemble(kind: str, pages: Callable[[LawEnsemble], Path]) -> None:
    bases = {"data_decay": "gamma", "size_decay": "tied", "decay": "bounded+batch", "penalty": "saturating"}
    repeats = {"none": None, "tokens": text_decay()}.get(kind) if kind in ("none", "tokens") else None
    if kind in bases:
        repeats = repeat_fit(kind, bases[kind])
    laws = ensemble((*FORMS, *OTHERS), repeats=repeats, draws=5)
    rng = np.random.default_rng(3)
    N, D, U = (np.exp(rng.uniform(math.log(low), math.log(high), 40)) for low, high in
               ((1e6, 1e11), (1e8, 1e13), (1e8, 1e12)))  # fmt: skip
    points = {"objective": "mlm", "N": N.tolist(), "D": D.tolist(), "U": U.tolist()}
    (found,) = answers([{"losses": points}], pages(laws))
    np.testing.assert_allclose(found["draws"], laws.losses(N, D, U), rtol=1e-8)
    np.testing.assert_allclose(found["estimates"], laws.estimates(N, D, U), rtol=1e-8)


def test_published_laws_keep_their_losses(pages: Callable[[LawEnsemble], Path]) -> None:
    laws = ensemble_of_published([find_law(name) for name in ("besiroglu2024", "hoffmann2022", "muennighoff2023")])
    (found,) = answers([{"losses": {"objective": "text", "N": [1e9], "D": [2e10]}}], pages(laws))
    np.testing.assert_allclose(found["draws"], laws.losses(1e9, 2e10), rtol=1e-9)


# ---- decisions -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def decay_laws() -> LawEnsemble:
    return ensemble(repeats=text_decay(), draws=20)


@pytest.mark.parametrize("unique", [None, 2e10])
def test_sizes_are_exact_on_the_same_draws(
    unique: float | None, decay_laws: LawEnsemble, pages: Callable[[LawEnsemble], Path]
) -> None:
    """Losses of the ensemble itself fall just below each size the page calls best, and rise just above it."""
    C, weights = 3e21, decay_laws.draw_weights
    (found,) = answers([{"question": {"unit": "flops", "budget": C, "unique_tokens": unique}}], pages(decay_laws))

    assert ("SIZE_HELD" in found["flags"]) == (unique is not None)

    def losses(x: Any) -> Any:  # by which the size is decided: those of unlimited data
        return decay_laws.losses(np.exp(x), C / 6 * np.exp(-x))

    own = np.log(found["own_N"])
    for side in (-1e-6, 1e-6):
        up, down = (losses(own + side + step).diagonal() for step in (3e-4, -3e-4))
        assert np.all(np.sign(up - down) == np.sign(side))
        up, down = weights @ losses(math.log(found["N"]) + side + np.array([3e-4, -3e-4]))
        assert np.sign(up - down) == np.sign(side)
    at = np.log([found["N"], found["band_low"], found["band_high"], found["N_minimax"]])
    chosen, low, high, minimax = losses(at).T
    loss = weights @ decay_laws.losses(found["N"], found["D"], unique)
    assert found["loss"] == pytest.approx(float(loss[0]), rel=1e-9)
    assert [float(weights @ (edge - chosen)) for edge in (low, high)] == pytest.approx([0.01, 0.01], abs=1e-8)
    lowest = losses(own).diagonal()
    assert found["regret"] == pytest.approx(float(weights @ (chosen - lowest)), abs=1e-9)
    assert found["regret_minimax"] == pytest.approx(float((minimax - lowest).max()), abs=1e-9)


def test_no_size_has_a_lower_mean_regret_or_a_smaller_worst_one(
    decay_laws: LawEnsemble, pages: Callable[[LawEnsemble], Path]
) -> None:
    """Against brute force on a dense grid over the ensemble's own losses."""
    question = {"unit": "flops", "budget": 3e21, "unique_tokens": 9e11}
    (found,) = answers([{"question": question}], pages(decay_laws))
    N = np.geomspace(found["N"] / 20, found["N"] * 20, 6001)
    losses, weights = decay_laws.losses(N, 3e21 / (6 * N), 9e11), decay_laws.draw_weights
    regrets = losses - losses.min(axis=1, keepdims=True)
    mean, worst = weights @ regrets, regrets.max(axis=0)
    assert [found["regret"], found["regret_minimax"]] == pytest.approx([mean.min(), worst.min()], rel=2e-3)
    assert [found["N"], found["N_minimax"]] == pytest.approx([N[mean.argmin()], N[worst.argmin()]], rel=2e-3)


def test_the_bill_is_the_cost_table_s(decay_laws: LawEnsemble, pages: Callable[[LawEnsemble], Path]) -> None:
    hardware = load_hardware()
    question = {"unit": "flops", "gpu": "h100", "gpus": 4, "unique_tokens": None, "force": True}
    budgets = [10.0 ** (18.0 + 0.5 * k) for k in range(9)]
    many = answers([{"question": {**question, "budget": C}} for C in budgets], pages(decay_laws))
    assert [one["shape"]["N"] for one in many] == [nearest_shape(one["N"]).N for one in many]
    found = many[budgets.index(1e21)]
    speed = throughput_for(found["N"], hardware.gpus["h100"], hardware).flops_6nd_per_s
    bill = bill_for(1e21 / speed / 3600, hardware.gpus["h100"], hardware)
    got = [found[key] for key in ("gpu_hours", "usd", "energy_kwh", "wall_hours")]
    np.testing.assert_allclose(got, [bill.gpu_hours, bill.usd_mid, bill.energy_kwh, bill.gpu_hours / 4], rtol=1e-9)
    shape = nearest_shape(found["N"])
    built = {"layers": shape.n_layers, "width": shape.d_model, "heads": shape.n_heads, "N": shape.N}
    assert found["shape"] == built
    assert found["co2_kg"] == pytest.approx(bill.energy_kwh * hardware.kg_co2_per_kwh)


def test_tokens_are_bought_where_they_pay(decay_laws: LawEnsemble, pages: Callable[[LawEnsemble], Path]) -> None:
    def asked(price: float) -> dict[str, Any]:
        return {"question": {"unit": "usd", "budget": 20_000, "mfu": 0.4, "unique_tokens": 3e9,
                             "data_usd_per_token": price}}  # fmt: skip

    none, cheap, dear = answers([asked(0.0), asked(3e-8), asked(1e-2)], pages(decay_laws))
    assert dear["new_tokens"] == none["new_tokens"] == 0
    assert cheap["loss"] < none["loss"]
    assert cheap["usd"] == pytest.approx(20_000)
    assert cheap["data_usd"] == pytest.approx(3e-8 * cheap["new_tokens"])
    # Brute force over the tokens bought and the size, by the members' estimates.
    share = np.linspace(0, 0.9, 181)[:, None]
    N = np.geomspace(1e8, 1e11, 400)[None]
    tokens = (
        20_000
        * (1 - share)
        / 20_000
        * purse_of({"unit": "usd", "budget": 20_000, "gpu": "a100", "usd_per_gpu_hour": None, "mfu": 0.4})(N)
    )
    unique = 3e9 + share * 20_000 / 3e-8
    weights = decay_laws.member_weights
    # Where tokens repeat the size is that of unlimited data.
    fresh = decay_laws.estimates(*(axis.ravel() for axis in np.broadcast_arrays(N, tokens)))
    best = (weights @ np.log(fresh)).reshape(181, 400).argmin(axis=1)
    D = tokens[np.arange(181), best]
    repeated = unique[:, 0] < D
    points = N[0, best][repeated], D[repeated], unique[repeated, 0]
    lowest = (weights @ np.log(decay_laws.estimates(*points))).min()
    here = weights @ np.log(decay_laws.estimates(cheap["N"], cheap["D"], cheap["unique_tokens"])[:, 0])
    assert here <= lowest + 2e-4


def test_a_model_that_is_read_much_is_smaller(decay_laws: LawEnsemble, pages: Callable[[LawEnsemble], Path]) -> None:
    question = {"unit": "flops", "budget": 1e21, "unique_tokens": None}
    asked = [{"question": {**question, "serve_tokens": T}} for T in (0, 1e11, 1e13)]
    none, some, many = answers(asked, pages(decay_laws))
    assert none["lifetime"] is None
    assert many["lifetime"]["N"] < some["lifetime"]["N"] <= none["N"] * 1.01
    assert 0 <= some["lifetime"]["saving"] < many["lifetime"]["saving"] < 1
    life, weights = many["lifetime"], decay_laws.member_weights

    def estimate(N: Any, D: Any) -> Any:
        return weights @ np.log(decay_laws.estimates(N, D))

    target = float(estimate(many["N"], many["D"])[0])
    assert float(estimate(life["N"], life["D"])[0]) == pytest.approx(target, abs=1e-9)
    N, D = (axis.ravel() for axis in np.meshgrid(*(np.geomspace(x / 8, x * 8, 120) for x in (life["N"], life["D"]))))
    total = np.where(estimate(N, D) <= target, 6 * N * D + 2 * N * 1e13, np.inf)
    assert life["train_flops"] + life["serve_flops"] <= total.min() * (1 + 1e-9)


def test_far_budgets_are_flagged_and_refused(decay_laws: LawEnsemble, pages: Callable[[LawEnsemble], Path]) -> None:
    def asked(budget: float, force: bool = False) -> dict[str, Any]:
        return {"question": {"unit": "flops", "budget": budget, "unique_tokens": None, "force": force}}

    inside, far, beyond, forced, below = answers(
        [asked(1e20), asked(2e23), asked(4e23), asked(4e23, True), asked(1e16)], pages(decay_laws)
    )
    assert inside["flags"] == []
    assert "FAR_OUTSIDE_RANGE" in far["flags"]
    assert beyond["refused"]
    assert below["refused"]
    assert "N" not in beyond
    assert "FAR_OUTSIDE_RANGE" in forced["flags"]
    assert forced["N"] > far["N"]


def test_a_frontier_alone_gives_sizes_and_says_what_it_cannot(tmp_path: Path) -> None:
    law = find_law("cheng-mlm")
    page = write_sizing_page(tmp_path / "f.html", [page_laws(None, [law])])
    (found,) = answers([{"question": {"unit": "flops", "budget": 1e20}}], page)
    assert found["N"] == pytest.approx(law.optimum(1e20)[0], rel=1e-9)
    assert found["loss"] is None
    assert "NO_LOSS" in found["flags"]
