from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.errors import PlanError
from plm_scaling.core.run import RunConfig
from plm_scaling.sweeps import forecast
from plm_scaling.sweeps.forecast import START_S, StepShape, fit_to_time, measure_steps, predicted_seconds, step_shape
from plm_scaling.sweeps.plan_records import PlannedRun, SweepPlan


def planned(run_id: str, steps: int, *, after: str | None = None, **changes: Any) -> PlannedRun:
    values = {
        "corpus_id": "c",
        "objective": "clm",
        "n_layers": 1,
        "d_model": 16,
        "context": 64,
        "D": 1,
        "recipe": "small",
    }
    config = RunConfig.model_validate(values | {"batch_tokens": 256, "peak_lr": 1e-3, "init_from": after} | changes)
    return PlannedRun(
        run_id=run_id, config=config, roles=(), C_exact=1, unique_tokens=1, epochs=1, steps=steps, memory_bytes=1
    )


def plan(*runs: PlannedRun) -> SweepPlan:
    return SweepPlan(name="t", corpus="c", corpus_id="c", currency="C_exact", runs=runs)


SMALL, LARGE = {"d_model": 16}, {"d_model": 64}
SECONDS = {(1, 16, 64, 256, "clm", "fp32", "{}"): 0.01, (1, 64, 64, 256, "clm", "fp32", "{}"): 0.1}


@pytest.mark.parametrize(
    "change",
    [
        {"n_layers": 2},
        {"d_model": 32},
        {"context": 128},
        {"batch_tokens": 512},
        {"objective": "mlm"},
        {"dtype": "bf16"},
        {"architecture": "esm2"},
        {"n_heads": 2},
        {"dropout": 0.1},
    ],
)
def test_what_a_step_costs_depends_on(change: dict[str, Any]) -> None:
    assert step_shape(planned("a", 1, **change).config) != step_shape(planned("a", 1).config)


def test_and_what_not() -> None:
    other = planned("a", 9, D=99, peak_lr=1.0, seed=3, after="b", streams=[{"unique_tokens": 5}])
    assert step_shape(other.config) == step_shape(planned("a", 1).config)


def test_runs_are_taken_in_order_by_whoever_is_free() -> None:
    runs = plan(planned("a", 100, **LARGE), planned("b", 100), planned("c", 300), planned("d", 200))
    # One worker has a (10 s); the other has b (1 s), c (3 s), d (2 s).
    assert predicted_seconds(runs, SECONDS, workers=2) == pytest.approx(10 + START_S)
    assert predicted_seconds(runs, SECONDS, workers=1) == pytest.approx(16 + 4 * START_S)
    assert predicted_seconds(runs, SECONDS, workers=9) == pytest.approx(10 + START_S)


def test_a_run_waits_for_its_source() -> None:
    runs = plan(planned("source", 100, **LARGE), planned("target", 200, after="source"))
    assert predicted_seconds(runs, SECONDS, workers=2) == pytest.approx(12 + 2 * START_S)


def test_a_student_waits_for_its_teacher_and_a_branch_for_its_trunk_whose_steps_it_spares() -> None:
    taught = planned("student", 100, teacher="teacher")
    assert predicted_seconds(plan(planned("teacher", 100, **LARGE), taught), SECONDS, workers=2) == pytest.approx(
        11 + 2 * START_S
    )
    branch = planned("branch", 100).model_copy(update={"trunk": "trunk", "begin_step": 80})
    assert predicted_seconds(plan(planned("trunk", 200), branch), SECONDS, workers=2) == pytest.approx(
        2.2 + 2 * START_S
    )


def test_foreign_weights_are_not_waited_for() -> None:
    run = planned("a", 100, after="sha256:" + "0" * 64)
    assert predicted_seconds(plan(run), SECONDS, workers=1) == pytest.approx(1 + START_S)


def test_a_source_of_another_plan_is_not_waited_for() -> None:
    assert predicted_seconds(plan(planned("target", 200, after="x")), SECONDS, workers=1) == pytest.approx(2 + START_S)


def test_an_empty_plan_takes_no_time() -> None:
    assert predicted_seconds(plan(), SECONDS, workers=2) == 0.0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 1000), st.booleans()), min_size=1, max_size=12), st.integers(1, 5))
def test_a_forecast_lies_between_perfect_sharing_and_no_sharing(runs: list[tuple[int, bool]], workers: int) -> None:
    made = [planned(str(k), steps, **(LARGE if large else SMALL)) for k, (steps, large) in enumerate(runs)]
    each = [START_S + run.steps * SECONDS[step_shape(run.config)] for run in made]
    seconds = predicted_seconds(plan(*made), SECONDS, workers=workers)
    assert max(each) <= seconds * (1 + 1e-9)
    assert sum(each) / workers <= seconds * (1 + 1e-9)
    # Graham's bound for taking tasks in any fixed order.
    assert seconds <= (sum(each) / workers + (1 - 1 / workers) * max(each)) * (1 + 1e-9)


Measured = list[tuple[set[StepShape], int]]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    """Step times come from the table above; which shapes were asked for, and with how many workers."""
    calls: Measured = []

    def measure(shapes: set[StepShape], *, workers: int) -> dict[StepShape, float]:
        calls.append((shapes, workers))
        return {shape: SECONDS[shape] for shape in shapes}

    monkeypatch.setattr(forecast, "measure_steps", measure)
    return calls


def scaled(factor: float) -> SweepPlan:
    """10 s of training at scale 1."""
    return plan(planned("a", round(100 * factor), **LARGE))


@pytest.mark.parametrize(("seconds", "scale"), [(100.0, 1.0), (10 + START_S, 1.0), (9 + START_S, 0.9), (8.2, 0.9**3)])
def test_the_largest_scale_that_fits_is_chosen(measured: Measured, seconds: float, scale: float) -> None:
    assert fit_to_time(scaled, seconds=seconds, workers=1) == scale
    assert predicted_seconds(scaled(scale), SECONDS, workers=1) <= seconds


def test_each_shape_is_timed_once_with_the_workers_of_the_sweep(measured: Measured) -> None:
    def growing(factor: float) -> SweepPlan:
        """A smaller sweep may need another batch, hence another shape."""
        shape = LARGE if factor > 0.8 else SMALL
        return plan(planned("a", round(1e5 * factor), **shape), planned("b", 1, **LARGE))

    fit_to_time(growing, seconds=500.0, workers=3)
    large, small = (step_shape(planned("a", 1, **shape).config) for shape in (LARGE, SMALL))
    assert measured == [({large}, 3), ({small}, 3)]


def test_without_a_number_of_workers_there_is_one_per_core(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "default_workers", lambda: 7)
    fit_to_time(scaled, seconds=100.0)
    assert [workers for _, workers in measured] == [7]


def test_a_plan_that_cannot_be_made_to_fit_is_refused(measured: Measured) -> None:
    with pytest.raises(PlanError, match=r"cannot train the plan in 0 s even at 0\.02 of its budgets") as caught:
        fit_to_time(scaled, seconds=0.1, workers=1)
    assert "minutes" in caught.value.hint


TIMER = """
import json, pathlib
def time_steps(n_layers, d_model, context, batch_tokens, objective, dtype, out, others):
    assert "architecture" in json.loads(others) if n_layers == 9 else others == "{}"
    if d_model == 13:
        raise ValueError("unlucky")
    pathlib.Path(out).write_text(json.dumps(n_layers * 1000.0 + d_model))
"""


@pytest.fixture
def timer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that answer at once, without torch."""
    (tmp_path / "quick_timer.py").write_text(TIMER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(forecast, "TIMER", "quick_timer:time_steps")


def test_every_shape_gets_its_own_time(timer: None) -> None:
    shapes: set[StepShape] = {(k, d, 64, 256, "mlm", "fp32", "{}") for k in (1, 2) for d in (16, 32)}
    shapes.add(step_shape(planned("a", 1, n_layers=9, architecture="esm2").config))
    assert measure_steps(shapes, workers=2) == {shape: shape[0] * 1000.0 + shape[1] for shape in shapes}


def test_a_shape_that_cannot_be_timed_is_named_with_the_reason(timer: None) -> None:
    with pytest.raises(PlanError, match=r"could not time .*13") as caught:
        measure_steps({(1, 13, 64, 256, "mlm", "fp32", "{}"), (1, 16, 64, 256, "mlm", "fp32", "{}")}, workers=1)
    assert "unlucky" in caught.value.why


def test_a_real_step_is_timed_in_a_process_of_its_own() -> None:
    shape: StepShape = (1, 16, 64, 64, "clm", "fp32", '{"architecture":"esm2"}')
    (seconds,) = measure_steps({shape}, workers=1).values()
    assert 0 < seconds < math.inf
