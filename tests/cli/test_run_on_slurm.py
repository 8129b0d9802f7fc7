"""`run --on slurm` without a Slurm: what it would submit, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plm_scaling.cli.executors import slurm_options
from plm_scaling.core.errors import ConfigError

Cli = Callable[..., Any]
SPEC = '[[grid]]\nsizes = ["1x16"]\nD = [2e4]\nobjectives = ["clm"]\nseeds = [0, 1, 2]\n'


@pytest.fixture
def plan(cli: Cli, write_spec: Callable[[str], Path]) -> Path:
    spec = write_spec(SPEC)
    assert cli("plan", spec).code == 0
    return spec.parent / "plan.json"


def test_a_dry_run_shows_the_very_script(cli: Cli, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    words = ["--slurm", "array_limit=2", "--slurm", "minutes=90", "--slurm", "setup=module load cuda", "--on", "slurm"]
    screen = cli("run", plan, *words, "--slurm", "extra.exclude=n7", "--dry-run")
    assert screen.code == 0, screen.err
    assert screen.out.count("not begun") == 3
    lines = screen.out.splitlines()
    for line in ("--array=0-2%2", "--time=90", "--exclude=n7", "--signal=B:USR1@120", "--requeue"):
        assert f"#SBATCH {line}" in lines
    assert "module load cuda" in lines
    assert {path.name for path in plan.parent.iterdir()} & {"runs", ".runs.slurm"} == set()
    assert "#SBATCH" not in cli("run", plan, *words, "--dry-run", "--format", "json").out


def test_without_slurm_it_says_so_and_begins_nothing(cli: Cli, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    screen = cli("run", plan, "--on", "slurm")
    assert screen.code == 2
    assert "sbatch is not on PATH" in screen.err
    assert not list((plan.parent / "runs").glob("*/attempts"))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--slurm", "cpus=2"], "--slurm without --on slurm"),
        (["--on", "slurm", "--slurm", "partitoin=x"], "did you mean partition?"),
        (["--on", "slurm", "--slurm", "cpus=many"], "cpus"),
        (["--on", "slurm", "--workers", "2"], "tasks_per_job"),
    ],
)
def test_what_cannot_be_meant_is_refused(cli: Cli, plan: Path, words: list[str], complaint: str) -> None:
    screen = cli("run", plan, "--dry-run", *words)
    assert screen.code == 2
    assert complaint in screen.err


def test_words_become_options() -> None:
    assert slurm_options("local", ()) is None
    words = [
        "setup=a=1",
        "setup=b",
        "extra.mem-per-gpu=4G",
        "tasks_per_job=3",
        "requeue=false",
        "python=apptainer exec x",
    ]
    options = slurm_options("slurm", words)
    assert options is not None
    assert (options.setup, options.extra, options.tasks_per_job) == (("a=1", "b"), {"mem-per-gpu": "4G"}, 3)
    assert (options.requeue, options.python) == (False, "apptainer exec x")
    with pytest.raises(ConfigError):
        slurm_options("slurm", ["extra=x"])
