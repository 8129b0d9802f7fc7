from __future__ import annotations

import pytest

from plm_scaling.sizing.costs import Budget, load_hardware, throughput_for
from plm_scaling.sizing.findings import (
    data_findings,
    law_findings,
    machine_findings,
    money_findings,
    recipe_findings,
)
from plm_scaling.sizing.recommendation import LawAnswer
from plm_scaling.sizing.shapes import Shape

HARDWARE = load_hardware()


def answer(law_id: str, N: float, **more: object) -> LawAnswer:
    return LawAnswer.model_validate(
        {"law_id": law_id, "source": "s", "status": "read", "N": N, "D": 1e10, "range_C": (1e18, 3e20), **more}
    )


def test_a_law_inside_its_range_with_nothing_to_doubt() -> None:
    shape = Shape(12, 768)
    assert law_findings([answer("a", shape.N, role="primary")], shape) == ((), ())


def test_every_doubt_about_a_law_has_a_sentence() -> None:
    shape = Shape(12, 768)
    primary = answer(
        "a",
        shape.N * 1.2,
        role="primary",
        flags=("ABOVE_RANGE", "TEXT_LAW", "UNVERIFIED"),
        extrapolation_decades=1.2,
        caveat="made in a hurry",
    )
    flags, warnings = law_findings([primary, answer("b", shape.N * 4.8), answer("c", 1e3, role="comparison")], shape)
    assert flags == ("ABOVE_RANGE", "TEXT_LAW", "UNVERIFIED", "LAWS_DISAGREE", "SHAPE_NOT_CLOSE")
    text = "\n".join(warnings)
    assert "16x above the runs behind a (1e+18 to 3e+20 FLOPs): 1.2 decades of extrapolation" in text
    assert "a is a law of text" in text
    assert "were not checked" in text
    assert "a: made in a hurry." in text
    assert "by a factor 4.0: a says 100M, b says 410M" in text
    assert "-17% parameters" in text


def test_an_unknown_range_is_said() -> None:
    flags, warnings = law_findings([answer("a", 1e8, range_C=None, flags=("RANGE_UNKNOWN",))], Shape(14, 768))
    assert "RANGE_UNKNOWN" in flags
    assert "cannot be judged" in warnings[0]


def test_without_unique_tokens_the_assumption_is_said() -> None:
    flags, warnings = data_findings("mlm", 1e9, 2e10, None, 4.0)
    assert flags == ("UNIQUE_TOKENS_UNKNOWN",)
    assert "assumes 20B tokens that differ" in warnings[0]


def test_the_tiny_recipe_is_not_for_billions_of_tokens() -> None:
    assert recipe_findings("small", 1e7, 2048) == ((), ())
    assert recipe_findings("cheng", 1e12, 2**19) == ((), ())
    assert recipe_findings("small", 1e10, 2048)[0] == ("RECIPE_UNCHECKED",)
    flags, (sentence,) = recipe_findings("cheng", 8e6, 2**19)
    assert flags == ("FEW_STEPS",)
    assert "leaves 15 optimiser steps" in sentence


def test_money_is_turned_into_hours_at_every_price() -> None:
    gpu = HARDWARE.gpus["a100"]
    flags, warnings = money_findings(Budget(usd=3000), gpu, None)
    assert flags == ("PRICE_ASSUMED",)
    assert "2,308 A100 SXM 80GB hours at $1.3, 1,000 at $3, 3,750 at $0.8" in warnings[0]
    assert money_findings(Budget(usd=3000), gpu, 1.0) == ((), ())
    assert money_findings(Budget(gpu_hours=3000), gpu, None) == ((), ())


@pytest.mark.parametrize(("n_gpus", "said"), [(1, "you gave 1"), (8, "over at least 3.")])
def test_a_state_too_large_for_one_accelerator(n_gpus: int, said: str) -> None:
    gpu = HARDWARE.gpus["a100"]
    flags, warnings = machine_findings(
        gpu, HARDWARE, throughput_for(1e10, gpu, HARDWARE), N=1e10, state_gb=160.0, hours=100.0, n_gpus=n_gpus
    )
    assert flags == ("STATE_EXCEEDS_ONE_GPU",)
    assert "160 GB, one A100 SXM 80GB has 80, of which 70% may be filled" in warnings[0]
    assert said in warnings[0]


def test_a_narrow_model_on_unchecked_hardware_for_months() -> None:
    gpu = HARDWARE.gpus["v100"]
    speed = throughput_for(1e7, gpu, HARDWARE)
    flags, warnings = machine_findings(gpu, HARDWARE, speed, N=1e7, state_gb=0.2, hours=7200.0, n_gpus=2)
    assert flags == ("LONG_WALL_TIME", "MFU_GUESSED", "HARDWARE_UNVERIFIED")
    assert "150 days on 2 GPUs; 10 would finish in a month." in warnings[0]
    assert "put in your own" in warnings[2]


def test_a_measured_mfu_is_not_called_a_guess() -> None:
    gpu = HARDWARE.gpus["a100"]
    speed = throughput_for(1e7, gpu, HARDWARE, mfu=0.5)
    assert machine_findings(gpu, HARDWARE, speed, N=1e7, state_gb=0.2, hours=1.0, n_gpus=1) == ((), ())
