"""Ensembles of every form and every law of repeats, for the tests of the sizing page."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plm_scaling.laws.forms import find_form
from plm_scaling.laws.interval import Interval
from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.repeat_fit import RepeatFit
from plm_scaling.laws.repeat_forms import base_form, repeat_parameters
from plm_scaling.sizing.costs import load_hardware, throughput_for
from plm_scaling.sizing.law_ensemble import LawEnsemble, LawMember, TokenDecay

EXAMPLES = Path(__file__).parents[1] / "certified" / "sizing_examples.json"
needs_node = pytest.mark.skipif(
    shutil.which("node") is None and shutil.which("nodejs") is None,
    reason="no node on PATH: the page's code is not run here",
)
N0, D0 = 3e8, 3e10
_SIZES = {"E": 1.7, "A0": 0.25, "B0": 0.35, "alpha": 0.34, "beta": 0.31, "eta": 0.17, "g": 0.7, "L0": 2.9, "k": 1.6}
_OWN = {
    "kaplan": {"A0": 1.1e4, "B0": 2.2e4, "r": 0.8, "a_D": 0.08},
    "multiplicative": {"K0": 2.4, "alpha": 0.04, "beta": 0.05},
    "log_quadratic": {"l0": 0.87, "lN": -0.05, "lD": -0.06, "lNN": 0.011, "lND": -0.004, "lDD": 0.012},
}
_REPEATS = {"R_D": 12.0, "R_N": 4.0, "P0": 0.03, "delta": 1.2, "kappa": 0.6}
FORMS = (
    *(("bounded", 2.9), ("bounded+batch", None), ("saturating", None), ("gamma+batch", None), ("kaplan", None)),
    *(("chinchilla", None), ("tied+batch", None), ("no_floor", None), ("overtraining", None)),
)
"""(form, plateau) of the forms that have a best size."""
OTHERS = (("multiplicative+batch", None), ("log_quadratic", None), ("kaplan+batch", None), ("saturating", 2.9))


def member(name: str, plateau: float | None, weight: float, draws: int, rng: np.random.Generator) -> LawMember:
    """A form with draws scattered about plausible values, centred in the middle of a protein study."""
    form = find_form(name, plateau)
    values = {**_SIZES, "B_c": 4e5, **_OWN.get(name.partition("+")[0], {})}
    theta = form.theta(np.array([[values[parameter] for parameter in form.names]]))
    spread = np.array([0.01 if p.kind in ("floor", "plateau") else 0.004 if p.kind == "linear" else 0.03
                       for p in form.parameters])  # fmt: skip
    scattered = theta + spread * rng.standard_normal((draws, len(form.names)))
    return LawMember(name, weight, form, np.concatenate([theta, scattered]), np.log(N0), np.log(D0), np.log(5e5))


def ensemble(
    forms: tuple[tuple[str, float | None], ...] = FORMS,
    *,
    repeats: RepeatFit | TokenDecay | None = None,
    draws: int = 7,
    objective: str = "mlm",
    seed: int = 0,
) -> LawEnsemble:
    """Forms of unequal weights."""
    rng = np.random.default_rng(seed)
    weights = np.arange(1.0, len(forms) + 1.0) / sum(range(1, len(forms) + 1))
    members = tuple(member(*form, float(w), draws, rng) for form, w in zip(forms, weights, strict=True))
    return LawEnsemble(objective, "made: for tests", "own fit", members, (1e18, 1e22), 0.004, 0.003, repeats)


def repeat_fit(kind: str, base: str = "bounded", *, draws: int = 3, seed: int = 1, P0: float = 0.03) -> RepeatFit:
    """A fitted law of repeats on one of the base forms; P0 is what three repeats cost where they are a penalty."""
    rng = np.random.default_rng(seed)
    parameters = (*base_form(base, None).parameters, *repeat_parameters(kind))
    values = {p.name: {**_SIZES, "B_c": 4e5, **_REPEATS, "P0": P0}[p.name] for p in parameters}
    estimate = np.array(list(values.values()))
    drawn: FloatArray = estimate * np.exp(0.03 * rng.standard_normal((draws, len(values))))
    return RepeatFit(
        form=kind, base=base, fitted=tuple(p.name for p in repeat_parameters(kind)), N0=N0, D0=D0, R0=3.0, ratio0=0.02,
        parameters={name: Interval(value=value, low=value, high=value) for name, value in values.items()},
        profiles={}, draws=tuple(map(tuple, drawn.tolist())), identified=(), huber_delta=1e-3, objective_value=0.0,
        R2=1.0, rms_relative_error=0.0, residual_sd=0.003, starts=1, starts_agreeing=1.0, n_runs=40, n_repeated=20,
        range_N=(1e7, 1e9), range_U=(1e9, 1e10), range_epochs=(1.0, 30.0), range_ratio=(1e-3, 1e-1),
        batch_typical=5e5,
    )  # fmt: skip


def questions(count: int) -> list[dict[str, Any]]:
    rng, asked = random.Random(7), []
    for _ in range(count):
        unit = rng.choice(["flops", "gpu_hours", "usd"])
        size = {"flops": (19, 23), "gpu_hours": (1, 5), "usd": (1.5, 5)}[unit]
        asked.append({
            "unit": unit, "budget": 10 ** rng.uniform(*size), "gpu": rng.choice(["a100", "h100", "v100", "cpu"]),
            "unique_tokens": rng.choice([None, 10 ** rng.uniform(9, 11.5)]), "gpus": rng.choice([1, 8]), "force": True,
            "usd_per_gpu_hour": rng.choice([None, 2.2]), "mfu": 0.37,
        })  # fmt: skip
    return asked


def purse_of(question: dict[str, Any]) -> Any:
    """Parameters -> tokens that the question's budget pays for, by the engine's own speeds and prices."""
    hardware = load_hardware()
    gpu = hardware.gpus[question["gpu"]]
    price = question["usd_per_gpu_hour"] or gpu.usd_per_hour.mid
    hours = question["budget"] / price if question["unit"] == "usd" else question["budget"]
    if question["unit"] == "flops":
        return lambda N: question["budget"] / (6.0 * N)

    def tokens(N: Any) -> Any:
        speeds = [throughput_for(n, gpu, hardware, mfu=question["mfu"]).flops_6nd_per_s for n in np.ravel(N)]
        return 3600.0 * hours * np.array(speeds) / (6.0 * np.ravel(N))

    return tokens
