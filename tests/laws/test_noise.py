from __future__ import annotations

import math

import numpy as np
import pytest

from plm_scaling.core.run_row import IMPUTED
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.noise import (
    PAIRED_SHARE,
    LossNoise,
    law_runs,
    loss_errors,
    pooled_seed_noise,
    replicate_groups,
    unlimited_streams,
)


def row(run_id: str = "a", **values: object) -> RunRow:
    return RunRow.model_validate({"run_id": run_id, "objective": "clm", "N": 1e4, "D": 1e6, "loss": 2.0, **values})


def table(*rows: RunRow) -> RunTable:
    return RunTable(rows)


def test_pooled_variance_by_hand() -> None:
    runs = table(
        row("a", loss=1.0, seed=0),
        row("b", loss=1.2, seed=1),
        row("c", N=2e4, loss=2.0, seed=0),
        row("d", N=2e4, loss=2.1, seed=1),
        row("e", N=2e4, loss=2.2, seed=2),
        row("f", N=4e4, loss=9.0, seed=0),
    )
    noise = pooled_seed_noise(runs)
    assert noise is not None
    assert noise.df == 3
    assert noise.sd == pytest.approx(math.sqrt((0.02 + 0.02) / 3))


def test_other_settings_are_no_replicates() -> None:
    others = [row("b", seed=1, peak_lr=1e-3), row("c", seed=2, D=2e6), row("d", seed=3, mask_refresh=False)]
    assert pooled_seed_noise(table(row("a", seed=0, loss=1.0), *others)) is None


def test_runs_of_one_seed_are_no_replicates() -> None:
    assert replicate_groups(table(row("a", seed=0), row("b", seed=0))) == []
    pair = [row("a", seed=0), row("b", seed=1, D=1.01e6)]
    assert replicate_groups(table(*pair, row("c", N=2e4, seed=1))) == [pair]


def test_predicted_ends_are_no_replicates() -> None:
    runs = table(
        row("a", loss=2.00, seed=0),
        row("b", loss=2.01, seed=1, flags=IMPUTED),
        row("c", loss=2.10, seed=2, flags=f"X,{IMPUTED}"),
        row("d", loss=2.30, seed=3, final_loss="predicted"),
    )
    assert pooled_seed_noise(runs) is None
    noise = pooled_seed_noise(table(*runs, row("e", loss=2.02, seed=4)))
    assert noise is not None
    assert (noise.df, noise.sd) == (1, pytest.approx(0.02 / math.sqrt(2)))


def test_student_draws_have_the_right_spread() -> None:
    rng = np.random.default_rng(0)
    draws = LossNoise(1.0, 5.0).factors(200_000, rng) * rng.standard_normal(200_000)
    assert draws.var() == pytest.approx(5 / 3, rel=0.03)
    assert (LossNoise(1.0).factors(10, rng) == 1).all()


def test_validation_error_counts_in_full_only_between_different_sets() -> None:
    seeds, se = np.array([1.0, 4.0]), np.array([0.02, 0.02])
    same = loss_errors(table(row(validation_id="v"), row(validation_id="v")), seeds, LossNoise(0.01), se)
    np.testing.assert_allclose(same**2, (PAIRED_SHARE * 0.02) ** 2 + np.array([1e-4, 2.5e-5]))
    unknown = loss_errors(table(row(), row()), seeds, None, se)
    np.testing.assert_allclose(unknown, 0.02)
    assert (loss_errors(table(row()), seeds, None, np.array([math.nan, math.nan])) == 0).all()


def test_which_runs_a_law_is_about() -> None:
    kept = [row("a", role="isoflop,replicate"), row("b", role=""), row("c", role="transfer_scratch")]
    dropped = [
        row("d", role="repeats"),
        row("e", role="isoflop", schedule_complete=False),
        row("f", role="", source_run_id="x"),
        row("g", role="isoflop", streams='[{"unique_tokens":5000}]'),
        row("h", role="isoflop", loss=math.nan),
        row("i", role="isoflop", objective="mlm"),
    ]
    assert [r.run_id for r in law_runs(table(*kept, *dropped), "clm")] == ["a", "b", "c"]


def test_streams() -> None:
    assert unlimited_streams(row(streams='[{"start_tokens":10}]'))
    assert unlimited_streams(row(streams="not json"))
    assert not unlimited_streams(row(streams='[{"unique_tokens":1},{}]'))
