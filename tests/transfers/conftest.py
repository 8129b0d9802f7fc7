"""Simulated scratch/transferred pairs with planted D_t."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from plm_scaling.core.run_table import RunRow, RunTable

N = 5.5e4


def scratch_loss(D: float, size: float = N) -> float:
    return float(1.0 + 40 * size**-0.4 + 300 * D**-0.4)


def make_row(run_id: str, **values: Any) -> RunRow:
    base = {"objective": "mlm", "N": N, "D": 1.5e6, "loss": 2.0, "seed": 0, "validation_id": "v", "batch_tokens": 512}
    return RunRow.model_validate({"run_id": run_id} | base | values)


def simulate_pair(
    *,
    D_t: float = 1.2e6,
    D_f: float = 1.5e6,
    D_source: float = 1e6,
    lengths: Sequence[float] = (0.75e6, 1.5e6, 3e6, 6e6),
    seeds: int = 2,
    sd: float = 0.0,
    seed: int = 0,
) -> RunTable:
    """Scratch MLM runs of several lengths and seeds, a CLM source, and a run that was spared D_t tokens by it."""
    rng = np.random.default_rng(seed)
    rows = [
        make_row(f"s{D:g}-{s}", role="transfer_scratch", D=D, seed=s, loss=scratch_loss(D) + sd * rng.standard_normal())
        for D in lengths
        for s in range(seeds)
    ]
    rows.append(make_row("src", objective="clm", role="transfer_source", D=D_source, loss=1.3))
    target = {"D": D_f, "source_run_id": "src", "source_objective": "clm", "D_source": D_source}
    loss = scratch_loss(D_f + D_t) + sd * rng.standard_normal()
    rows.append(make_row("target", role="transfer_target", loss=loss, **target))
    return RunTable(tuple(rows))


@pytest.fixture
def simulate() -> Callable[..., RunTable]:
    return simulate_pair


@pytest.fixture
def row() -> Callable[..., RunRow]:
    return make_row
