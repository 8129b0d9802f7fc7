from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.combine import fit_laws
from plm_scaling.laws.noise import LossNoise, law_runs
from plm_scaling.laws.tuning import lr_corners

FACTORS = (0.5, 1.0, 2.0)


def probes(
    *,
    best: float = 1.6,
    curvature: float = 0.02,
    factors: tuple[float, ...] = FACTORS,
    seeds: tuple[int, ...] = (0,),
    noise: Callable[[], float] = lambda: 0.0,
    loss_se: float | None = None,
    **update: Any,
) -> RunTable:
    """Losses on a parabola in the log of the rate, lowest at `best` times the recipe's rate of 3e-3."""
    rows = []
    for factor in factors:
        for seed in seeds:
            loss = 2.5 + curvature * (math.log(factor) - math.log(best)) ** 2 + noise()
            role = "grid,lr_probe" if factor == 1.0 else "lr_probe"
            fields = {"run_id": f"{factor}-{seed}", "objective": "clm", "role": role, "N": 1e4, "D": 1e6 + seed}
            rows.append(
                RunRow.model_validate(
                    fields
                    | {"loss": loss, "loss_se": loss_se, "peak_lr": 3e-3 * factor, "batch_tokens": 512, "seed": seed}
                    | {"C_6nd": 6e10, "validation_id": "v"}
                    | update
                )
            )
    return RunTable(tuple(rows))


def test_what_the_recipes_rate_costs_is_read_off_the_parabola() -> None:
    (corner,) = lr_corners(probes(best=1.6), "clm", LossNoise(1e-5))
    assert corner.best_factor == pytest.approx(1.6, rel=1e-6)
    assert corner.lost.value == pytest.approx(0.02 * math.log(1.6) ** 2, rel=1e-6)
    assert corner.factors == pytest.approx(FACTORS)
    assert (corner.peak_lr, corner.flags) == (3e-3, ())


@pytest.mark.parametrize("best", [3.0, 0.2])
def test_a_best_rate_beyond_those_tried_is_a_lower_bound_and_named(best: float) -> None:
    (corner,) = lr_corners(probes(best=best), "clm", LossNoise(1e-5))
    end = 2.0 if best > 1 else 0.5
    assert corner.flags == ("LR_EDGE",)
    assert corner.best_factor == pytest.approx(end)
    assert corner.lost.value == pytest.approx(0.02 * (math.log(best) ** 2 - math.log(best / end) ** 2))
    concave = lr_corners(probes(best=0.9, curvature=-0.02), "clm", LossNoise(1e-5))[0]
    assert concave.flags == ("LR_EDGE",)
    assert concave.best_factor == pytest.approx(2.0)


def test_two_rates_tell_which_is_better_and_no_more() -> None:
    (corner,) = lr_corners(probes(best=0.5, factors=(0.5, 1.0)), "clm", None)
    assert corner.lost.value == pytest.approx(0.02 * math.log(2) ** 2)
    assert corner.flags == ("LR_TWO_RATES", "LR_NO_NOISE")


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    truth, inside = 0.02 * math.log(1.6) ** 2, 0
    rng = np.random.default_rng(0)
    for trial in range(200):
        table = probes(noise=lambda: 0.0005 * rng.standard_normal())
        (corner,) = lr_corners(table, "clm", LossNoise(0.0005), seed=trial)
        inside += corner.lost.low <= truth <= corner.lost.high
    assert 180 <= inside <= 199


def test_seeds_are_averaged_and_unpaired_ones_left_out() -> None:
    values = iter([0.001, -0.001] * 3)
    table = probes(seeds=(0, 1), noise=lambda: next(values))
    other = [row.model_copy(update={"run_id": "x", "seed": 7, "loss": 9.0}) for row in table if row.role != "lr_probe"]
    (corner,) = lr_corners(RunTable((*table, *other[:1])), "clm", LossNoise(1e-3))
    assert corner.lost.value == pytest.approx(0.02 * math.log(1.6) ** 2, rel=1e-6)
    (alone,) = lr_corners(probes(), "clm", LossNoise(1e-3))
    assert corner.lost.high - corner.lost.low < alone.lost.high - alone.lost.low


def test_without_replicates_the_validation_error_stands_in() -> None:
    (corner,) = lr_corners(probes(loss_se=0.002), "clm", None)
    assert corner.flags == ()
    assert corner.lost.high > corner.lost.value > corner.lost.low


@pytest.mark.parametrize(
    "table",
    [
        probes(role="grid"),
        probes(role="lr_probe"),
        probes(source_run_id="s"),
        probes(schedule_complete=False),
        RunTable(()),
    ],
    ids=["no probe", "no run at the recipe's rate", "transferred", "cut short", "empty"],
)
def test_groups_that_say_nothing_of_the_recipe_are_left_out(table: RunTable) -> None:
    assert lr_corners(table, "clm", None) == ()


def test_probes_enter_no_law_and_the_fit_states_what_they_found(truth: Any, simulate: Callable[..., RunTable]) -> None:
    study = simulate(truth, sd=0.001, seeds=2, sizes=5)
    table = RunTable((*study, *probes()))
    assert {row.run_id for row in law_runs(table, "clm")} - {row.run_id for row in study} == {"1.0-0"}
    fit = fit_laws(
        table.where(lambda row: row.N != 1e4 or row.has_role("lr_probe")), "clm", form="chinchilla", draws=20
    )
    (corner,) = fit.lr_corners
    assert corner.lost.low <= 0.02 * math.log(1.6) ** 2 <= corner.lost.high
    (note,) = (note for note in fit.notes if note.startswith("LOST_TO_TUNING"))
    assert f"{corner.lost.value:.4f} nats" in note
    from plm_scaling.cli.fit_screen import law_rows

    shown = {row["quantity"]: row["estimate"] for row in law_rows(fit)}
    assert shown["lost to tuning at N = 10k, D = 1M"].endswith("best at 1.6 x")
