"""How many runs share a GPU: with programs that stand in for the driver's tool and for the measurement."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plm_scaling.core.errors import ConfigError, RunError
from plm_scaling.core.gpus import count_gpus
from plm_scaling.core.run import RunConfig
from plm_scaling.execution.inline import InlineExecutor
from plm_scaling.execution.slurm import SlurmExecutor
from plm_scaling.execution.slurm_options import SlurmOptions
from plm_scaling.sweeps import devices
from plm_scaling.sweeps.devices import Placement, placement
from plm_scaling.sweeps.plan_records import PlannedRun, SweepPlan


def plan() -> SweepPlan:
    runs = []
    for n_layers in (1, 2, 3):
        config = RunConfig.checked(
            corpus_id="c", objective="clm", n_layers=n_layers, d_model=16, context=32, D=1000, batch_tokens=64,
            peak_lr=1e-3, recipe="small",
        )  # fmt: skip
        planned = {"C_exact": 9.0, "unique_tokens": 1, "epochs": 1.0, "steps": 1, "memory_bytes": n_layers}
        runs.append(PlannedRun(run_id=config.run_id, config=config, roles=("grid",), **planned))
    return SweepPlan(name="p", corpus="c", corpus_id="c", currency="C_exact", runs=tuple(runs))


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: one (UUID: a)'\necho 'GPU 1: two (UUID: b)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def answer(monkeypatch: pytest.MonkeyPatch, said: str) -> list[list[str]]:
    """Let the measurement say something; returns the list its calls are added to."""
    calls: list[list[str]] = []
    real = subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        if command[0] != sys.executable:
            return real(command, **options)
        calls.append(command)
        return subprocess.CompletedProcess(command, 0, said, "the reason")

    monkeypatch.setattr(devices.subprocess, "run", run)
    return calls


def test_without_a_gpu_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match="no GPU on this machine"):
        placement(plan(), per_device=2)
    assert placement(plan()) == Placement("auto", None)


@pytest.mark.usefixtures("two_gpus")
def test_a_given_number_is_for_each_gpu() -> None:
    assert placement(plan(), per_device=3) == Placement("cuda", 6, 3)


@pytest.mark.usefixtures("two_gpus")
def test_by_default_each_gpu_has_one_run_and_a_cpu_none_of_this() -> None:
    assert placement(plan()) == Placement("auto", 2)
    assert placement(plan(), device="cpu") == Placement("cpu", None)
    assert placement(plan(), workers=3) == Placement("auto", 3, 2)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(("visible", "count"), [("0", 1), ("", 0), ("-1", 0), ("0, 1", 2), ("1,-1,0", 1), ("0,1,2", 2)])
def test_gpus_that_a_scheduler_hides_do_not_count(visible: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert count_gpus() == count


@pytest.mark.usefixtures("two_gpus")
def test_the_largest_run_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = answer(monkeypatch, '{"choice": 4, "rows": []}')
    assert placement(plan(), per_device="auto") == Placement("cuda", 8, 4)
    assert calls[0][3] == "--config"
    assert RunConfig.model_validate_json(calls[0][4]) == plan().runs[2].config


@pytest.mark.usefixtures("two_gpus")
def test_nothing_is_measured_for_a_dry_run_or_an_empty_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = answer(monkeypatch, '{"choice": 4, "rows": []}')
    assert placement(plan(), per_device="auto", dry_run=True) == Placement("cuda", 2)
    assert placement(plan().model_copy(update={"runs": ()}), per_device="auto") == Placement("cuda", 2)
    assert not calls


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("said", "complaint"),
    [('{"choice": 0, "rows": [{"reason": "out of memory"}]}', "not even one run"), ("oh", "could not be measured")],
)
def test_a_measurement_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, said: str, complaint: str) -> None:
    answer(monkeypatch, said)
    with pytest.raises(RunError, match=complaint):
        placement(plan(), per_device="auto")


def test_two_numbers_are_one_too_many(tmp_path: Path) -> None:
    from plm_scaling import api

    path = plan().write(tmp_path / "plan.json")
    with pytest.raises(ConfigError, match="both workers and per_device"):
        api.run(path, workers=2, per_device="auto")
    with pytest.raises(ConfigError, match="per_device is about GPUs"):
        api.run(path, device="cpu", per_device=2)


def test_the_measurement_is_a_module_that_takes_these_options() -> None:
    done = subprocess.run(
        [sys.executable, "-m", devices._MEASURE, "--help"], capture_output=True, text=True, check=True
    )
    for option in ("--shape", "--config", "--device", "--json"):
        assert option in done.stdout


def test_jobs_of_a_cluster_have_what_their_options_say(tmp_path: Path) -> None:
    executor = SlurmExecutor(tmp_path, SlurmOptions(cpus=8, workers_per_job=4, gpus=2))
    assert placement(plan(), executor=executor) == Placement("auto", None, 2, 2)
    assert placement(plan(), executor=InlineExecutor(), device="cpu") == Placement("cpu", None)
    for asked in ({"workers": 2}, {"per_device": "auto"}):
        with pytest.raises(ConfigError, match="about this machine"):
            placement(plan(), executor=executor, **asked)
