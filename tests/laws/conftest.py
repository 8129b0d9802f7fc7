"""Simulated tables with a known law: small ones at the scale of a demo, and worlds that follow any form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.combine import fit_laws
from plm_scaling.laws.law_fit import Interval, LawFit, SurfaceFit
from plm_scaling.laws.problem import Sample, make_sample
from plm_scaling.laws.surface import surface_loss


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


# ---- surfaces of every form, and tables of a world that follows one -------------------------------------------------

PARAMETERS: dict[str, dict[str, float]] = {
    "chinchilla": {"E": 1.8, "A0": 0.38, "B0": 0.3, "alpha": 0.35, "beta": 0.4},
    "no_floor": {"A0": 1.2, "B0": 1.3, "alpha": 0.05, "beta": 0.08},
    "tied": {"E": 1.6, "A0": 0.4, "B0": 0.5, "alpha": 0.32},
    "overtraining": {"E": 1.6, "A0": 0.4, "B0": 0.5, "eta": 0.16},
    "multiplicative": {"K0": 2.4, "alpha": 0.05, "beta": 0.06},
    "log_quadratic": {"l0": 0.9, "lN": -0.05, "lD": -0.055, "lNN": 0.0087, "lND": -0.006, "lDD": 0.0094},
    "kaplan": {"A0": 2000.0, "B0": 1800.0, "r": 0.83, "a_D": 0.11},
    "gamma": {"E": 1.5, "A0": 0.4, "B0": 0.5, "alpha": 0.4, "beta": 0.45, "g": 0.8},
    "bounded": {"E": 1.3, "A0": 1.5, "B0": 1.6, "alpha": 0.3, "beta": 0.35, "L0": 2.9},
    "saturating": {"E": 1.3, "A0": 1.5, "B0": 1.6, "alpha": 0.3, "beta": 0.35, "L0": 2.9, "k": 1.6},
}


def parameters_of(name: str, plateau: float | None = None) -> dict[str, float]:
    """Plausible parameters of a form, by name; `+batch` adds B_c = 8e5 tokens."""
    plain, _, option = name.partition("+")
    chosen = {key: value for key, value in PARAMETERS[plain].items() if plateau is None or key != "L0"}
    return chosen | ({"B_c": 8e5} if option else {})


def make_surface(name: str, plateau: float | None = None, **more: Any) -> SurfaceFit:
    """A surface with those parameters, centred on N0 = 3e8 and D0 = 7e9, its draws `more["draws"]`."""
    values = {
        "form": name,
        "plateau": plateau,
        "N0": 3e8,
        "D0": 7e9,
        "parameters": {k: Interval(value=v, low=v, high=v) for k, v in parameters_of(name, plateau).items()},
        "huber_delta": 1e-3,
        "objective_value": 0.0,
        "starts": 1,
        "starts_agreeing": 1.0,
        "rms_relative_error": 0.003,
        "range_N": (3e7, 3e9),
        "range_D": (7e8, 7e10),
        "range_C_6nd": (1e18, 3e20),
        "batch_typical": 5e5,
    }
    return SurfaceFit.model_validate(values | more)


@dataclass(frozen=True)
class World:
    """A design of six isoFLOP budgets by seven sizes, and its losses by a form."""

    N: np.ndarray
    D: np.ndarray
    batch: np.ndarray
    truth: np.ndarray
    """Losses without noise."""
    loss: np.ndarray

    @property
    def C(self) -> np.ndarray:
        return 6.0 * self.N * self.D

    def sample(self) -> Sample:
        return make_sample(self.N, self.D, self.loss, self.batch)

    def table(self, objective: str = "clm") -> RunTable:
        columns = zip(self.N, self.D, self.loss, self.batch, strict=True)
        rows = (
            {"run_id": f"r{i}", "objective": objective, "N": n, "D": d, "loss": L, "batch_tokens": b, "seed": 0}
            for i, (n, d, L, b) in enumerate(columns)
        )
        return RunTable(tuple(RunRow.model_validate(row) for row in rows))


def make_world(
    name: str, *, sd: float = 0.0, seed: int = 0, batches: bool = False, plateau: float | None = None
) -> World:
    """Losses of `make_surface` with Gaussian noise of ln L."""
    N, D = [], []
    for C in np.geomspace(1e18, 3e20, 6):
        sizes = 3e8 * (C / 1e20) ** 0.5 * np.geomspace(0.15, 6.0, 7)
        N += sizes.tolist()
        D += (C / 6.0 / sizes).tolist()
    n, d = np.array(N), np.array(D)
    batch = np.where(n > 4e8, 2.0**20, 2.0**19) if batches else np.full_like(n, 2.0**19)
    batch = batch * np.where(np.arange(len(n)) % 5 == 0, 0.5 if batches else 1.0, 1.0)
    truth = surface_loss(make_surface(name, plateau), n, d, batch)
    return World(n, d, batch, truth, truth * np.exp(sd * np.random.default_rng(seed).standard_normal(len(n))))


@pytest.fixture(scope="session")
def parameters() -> Callable[..., dict[str, float]]:
    return parameters_of


@pytest.fixture(scope="session")
def surface() -> Callable[..., SurfaceFit]:
    return make_surface


@pytest.fixture(scope="session")
def world() -> Callable[..., World]:
    return make_world


@pytest.fixture(scope="session")
def bounded_law() -> LawFit:
    """`fit_laws` with form `auto` on a noisy world of the bounded law, cut at 1.1e20 FLOPs."""
    table = make_world("bounded", sd=0.002, seed=4).table()
    return fit_laws(table, "clm", max_compute=1.1e20, draws=60)
