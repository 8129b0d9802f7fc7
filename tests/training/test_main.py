from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from plm_scaling.core.errors import RunError
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.training.__main__ import main, run_one
from plm_scaling.training.loop import train
from plm_scaling.training.speed import time_steps
from plm_scaling.training.world import World

MakeRun = Callable[..., RunFolder]

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["plm_scaling.training.__main__", "pyarrow.parquet"])  # before a server starts


def test_main_trains_and_says_what_came_out(make_run: MakeRun, capfd: pytest.CaptureFixture[str]) -> None:
    folder = make_run(D=2000)
    assert main([str(folder.path), "--threads", "1"]) == 0
    out, err = capfd.readouterr()
    assert f"run {folder.path.name} complete" in out
    assert "val_iid" in out
    assert "tokens/s" in err


def test_main_reports_a_fault(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--quiet"]) == 1
    assert "no RunOrder here" in capfd.readouterr().err


def test_main_leaves_work_for_later(make_run: MakeRun, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([str(make_run().path), "--time-limit", "0"]) == 3
    assert "time limit" in capfd.readouterr().err


@pytest.mark.parametrize(("peak_lr", "code", "text"), [(1e-2, 0, ""), (1e30, 1, "not finite")])
def test_a_task_writes_to_the_attempts_log(make_run: MakeRun, peak_lr: float, code: int, text: str) -> None:
    folder = make_run(D=2000, peak_lr=peak_lr, grad_clip=1e30)
    process = PROCESSES.Process(target=_exit_with_run_one, args=(str(folder.path),))
    process.start()
    process.join(60)
    assert process.exitcode == code
    assert text in folder.attempts()[0].log_path.read_text()


def _exit_with_run_one(run_dir: str) -> None:
    raise SystemExit(run_one(run_dir))


def test_a_step_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plm_scaling.training.speed._SECONDS", 0.01)
    assert time_steps(1, 16, 32, 64, "mlm", "fp32", str(tmp_path / "t.json")) == 0
    assert 0 < json.loads((tmp_path / "t.json").read_text()) < 10


def test_options_override_the_order(make_run: MakeRun, capfd: pytest.CaptureFixture[str]) -> None:
    folder = make_run(D=2000, dtype="bf16", order={"micro_windows": 2, "recompute": "all"})
    options = ["--micro-windows", "1", "--recompute", "none", "--quiet"]
    assert main([str(folder.path), *options]) == 0
    record = folder.record()
    assert record is not None
    assert record.flags == ("MICRO_WINDOWS_CHANGED", "RECOMPUTE_CHANGED")
    said = capfd.readouterr().err
    assert "MICRO_WINDOWS_CHANGED: micro_windows 1, the order says 2" in said
    assert "RECOMPUTE_CHANGED: recompute none, the order says all" in said
    assert folder.order().micro_windows == 2


def test_what_the_order_leaves_open_is_no_change(make_run: MakeRun) -> None:
    folder = make_run(D=2000, dtype="bf16")
    assert main([str(folder.path), "--micro-windows", "1", "--recompute", "none", "--quiet"]) == 0
    record = folder.record()
    assert record is not None
    assert record.flags == ()


@pytest.mark.parametrize(
    "options", [["--micro-windows", "0"], ["--profile", "-1"], ["--recompute", "some"], ["--track", "paper"]]
)
def test_options_that_cannot_be(options: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["x", *options])
    assert caught.value.code == 2
    assert options[0] in capfd.readouterr().err


def test_trackers_are_repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, object]] = []

    def note(run_dir: Path, **options: object) -> None:
        seen.append(options)
        raise RunError("enough")

    monkeypatch.setattr("plm_scaling.training.__main__.train", note)
    assert main(["x", "--quiet", "--track", "wandb", "--track", "tensorboard", "--track", "wandb"]) == 1
    assert main(["x", "--quiet"]) == 1
    assert [options["changes"] for options in seen] == [{"trackers": ("wandb", "tensorboard")}, {}]


def test_help_names_the_exit_codes(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out = capfd.readouterr().out
    assert "3  interrupted" in out
    assert "requeue" in out


def test_only_the_first_process_prints(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(D=2000)
    train(folder.path)
    monkeypatch.setattr("plm_scaling.training.__main__.World.from_environment", lambda: nullcontext(World()))
    monkeypatch.setenv("RANK", "1")
    assert main([str(folder.path)]) == 0
    assert main([str(folder.path / "absent")]) == 1
    assert capfd.readouterr() == ("", "")
