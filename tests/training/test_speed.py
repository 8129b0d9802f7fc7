from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from plm_scaling.core.alphabet import CLS, EOS, FIRST_RESIDUE, LAST_RESIDUE
from plm_scaling.core.run import RunConfig
from plm_scaling.training import speed
from plm_scaling.training.objectives import packed_input
from plm_scaling.training.speed import random_batch, step_seconds, time_steps

MakeConfig = Callable[..., RunConfig]


@pytest.mark.parametrize(("windows", "context"), [(1, 64), (4, 128), (3, 1024)])
def test_a_random_batch_is_full_of_whole_documents(windows: int, context: int) -> None:
    batch = random_batch(windows, context)
    assert batch.tokens.shape == (windows, context)
    starts = np.flatnonzero(batch.position.ravel() == 0)
    lengths = np.diff([*starts, windows * context])
    assert len(starts) == len(np.unique(batch.row)) == batch.row.max() + 1
    assert lengths.max() < 90
    # Only what the end of a window cuts is shorter than 20 positions.
    assert sum(lengths < 20) <= windows
    assert set(range(0, windows * context, context)) <= set(starts.tolist())
    for start, length in zip(starts, lengths, strict=True):
        document = slice(start, start + length)
        assert batch.position.ravel()[document].tolist() == list(range(length))
        assert batch.residue.ravel()[document].tolist() == list(range(-1, length - 1))
        assert len(set(batch.segment.ravel()[document])) == len(set(batch.row.ravel()[document])) == 1
        tokens = batch.tokens.ravel()[document]
        assert tokens[-1] == EOS
        assert length == 1 or tokens[0] == CLS
        assert all(FIRST_RESIDUE <= token <= LAST_RESIDUE for token in tokens[1:-1])


def test_neighbouring_documents_are_told_apart() -> None:
    batch = random_batch(3, 256)
    for segment, row in zip(batch.segment, batch.row, strict=True):
        assert np.array_equal(np.diff(segment) != 0, np.diff(row) != 0)


def test_a_random_batch_follows_its_seed() -> None:
    one, same, other = random_batch(2, 64), random_batch(2, 64), random_batch(2, 64, seed=1)
    assert np.array_equal(one.tokens, same.tokens)
    assert not np.array_equal(one.tokens, other.tokens)


@pytest.mark.parametrize(("objective", "share"), [("clm", (0.95, 1.0)), ("mlm", (0.10, 0.20))])
def test_as_many_positions_are_scored_as_in_training(objective: str, share: tuple[float, float]) -> None:
    batch = random_batch(8, 256)
    scored = packed_input(batch, objective, mask_seed=0, mask_rate=0.15).target_S  # type: ignore[arg-type]
    residues = ((batch.tokens >= FIRST_RESIDUE) & (batch.tokens <= LAST_RESIDUE)).sum()
    assert share[0] < len(scored) / (residues + (batch.tokens == EOS).sum() * (objective == "clm")) <= share[1]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("objective", ["clm", "mlm"])
def test_a_step_takes_time(make_config: MakeConfig, objective: str, dtype: str) -> None:
    config = make_config(n_layers=1, objective=objective, dtype=dtype, batch_tokens=64)
    assert 0 < step_seconds(config, seconds=0.0) < math.inf


def test_the_median_is_told_without_the_first_two_steps(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clock() -> Iterator[float]:
        now = 0.0
        for took in (50.0, 70.0, 1.0, 9.0, 2.0, 3.0, 1.0, 3.0):
            yield now
            now += took
            yield now
            now += 1000.0  # between two steps

    ticks = clock()
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(ticks))
    assert step_seconds(make_config(n_layers=1, batch_tokens=64), seconds=0.0) == 2.5
    assert next(ticks, None) is None  # eight steps were made, and no more


def test_steps_go_on_until_the_time_is_filled(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    count = itertools.count()
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(count) * 0.25)
    assert step_seconds(make_config(n_layers=1, batch_tokens=64), seconds=5.0) == 0.25
    assert next(count) == 2 * 20


def test_a_task_leaves_its_time_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[RunConfig] = []
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(speed, "step_seconds", lambda config: seen.append(config) or 0.125)
    out = tmp_path / "0.json"
    assert time_steps(3, 32, 64, 256, "mlm", "bf16", str(out)) == 0
    assert json.loads(out.read_text()) == 0.125
    (config,) = seen
    assert (config.n_layers, config.d_model, config.context, config.batch_tokens) == (3, 32, 64, 256)
    assert (config.objective, config.dtype) == ("mlm", "bf16")
    assert threads == [1]
