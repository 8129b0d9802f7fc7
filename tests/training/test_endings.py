"""What a run keeps and says when it is broken off, and what is left of that at its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from plm_scaling.core.run_folder import RunFolder
from plm_scaling.training import loop
from plm_scaling.training.loop import Interrupted, next_checkpoint, train

MakeRun = Callable[..., RunFolder]


def test_a_run_that_is_asked_to_stop_says_how_far_it_came(make_run: MakeRun) -> None:
    folder = make_run()
    with pytest.raises(Interrupted, match="after step 1 of"):
        train(folder.path, time_limit_s=0.0)
    status = folder.status()
    assert (status.status, status.step) == ("interrupted", 1)
    assert status.D > 0


def test_the_speed_of_a_run_killed_while_it_was_scored_is_the_one_last_logged(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real = make_run(), loop.write_val
    monkeypatch.setattr("plm_scaling.training.meter.known_peak", lambda *args: 1e9)

    def killed(*args: Any) -> None:
        monkeypatch.setattr(loop, "write_val", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "write_val", killed)
    with pytest.raises(KeyboardInterrupt):
        train(folder.path)
    record = train(folder.path)
    assert record.attempts == 2
    assert folder.status().tokens_per_s is None  # of the last attempt, which trained nothing
    last = folder.metrics()[-1]
    assert record.tokens_per_s == last["tokens_per_s"] > 0
    assert record.mfu == last["mfu"] > 0


@pytest.mark.parametrize(
    ("every_s", "took_s", "due"), [(30.0, 1.0, 130.0), (30.0, 2.0, 140.0), (0.0, 5.0, 100.0), (1e-9, 5.0, 200.0)]
)
def test_checkpoints_take_a_twentieth_of_the_time_at_most(every_s: float, took_s: float, due: float) -> None:
    assert next_checkpoint(every_s, 100.0 - took_s, 100.0) == pytest.approx(due)


@pytest.mark.parametrize(("every_s", "often"), [(1e-9, False), (0.0, True)])
def test_slow_checkpoints_are_rare_unless_asked_for_after_every_step(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, every_s: float, often: bool
) -> None:
    folder, real, saved = make_run(D=2000, order={"checkpoint_every_s": every_s}), loop.save_run, list[int]()

    def slow(run: Any, log: Any) -> None:
        saved.append(run.step)
        real(run, log)
        time.sleep(0.0 if often else 0.3)

    monkeypatch.setattr(loop, "save_run", slow)
    record = train(folder.path)
    assert record.steps >= 7
    assert saved == (list(range(1, record.steps + 1)) if often else [1, record.steps])
