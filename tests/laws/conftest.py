"""Simulated tables with a known law: L = E + A N^-alpha + B D^-beta at the scale of a demo."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from plm_scaling.core.run_table import RunRow, RunTable


@dataclass(frozen=True)
class Truth:
    E: float = 1.0
    A: float = 40.0
    B: float = 120.0
    alpha: float = 0.5
    beta: float = 0.45

    def loss(self, N: float, D: float) -> float:
        return float(self.E + self.A * N**-self.alpha + self.B * D**-self.beta)

    def N_opt(self, C: float) -> float:
        gain = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        return float(gain * (C / 6) ** self.a_N)

    @property
    def a_N(self) -> float:
        return self.beta / (self.alpha + self.beta)


def simulate_isoflop(
    truth: Truth,
    *,
    seed: int = 0,
    sd: float = 0.0,
    seeds: int = 1,
    sizes: int = 4,
    budgets: Sequence[float] = (1.25e11, 5e11, 2e12),
    step: float = 1.9,
    offset: float = 0.3,
    objective: str = "clm",
    exact: Callable[[float], float] = lambda N: 1.2,
) -> RunTable:
    """Budgets x sizes x seeds around each optimum, off centre by up to `offset` in ln N; `exact`: C_exact / 6ND."""
    rng = np.random.default_rng(seed)
    rows = []
    for C in budgets:
        shift = rng.uniform(-offset, offset)
        for j in range(sizes):
            N = truth.N_opt(C) * math.exp((j - (sizes - 1) / 2) * math.log(step) + shift)
            D = C / 6 / N
            for s in range(seeds):
                loss = truth.loss(N, D) + sd * rng.standard_normal()
                values = {"C_6nd": C, "C_exact": C * exact(N), "seed": s, "validation_id": "v", "role": "isoflop"}
                row = {"run_id": f"{C:g}-{j}-{s}", "objective": objective, "N": N, "D": D, "loss": loss}
                rows.append(RunRow.model_validate(row | values))
    return RunTable(tuple(rows))


@pytest.fixture
def truth() -> Truth:
    return Truth()


@pytest.fixture
def simulate() -> Callable[..., RunTable]:
    return simulate_isoflop
