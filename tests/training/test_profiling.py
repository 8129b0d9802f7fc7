from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from plm_scaling.core.run_folder import RunFolder
from plm_scaling.training.__main__ import main
from plm_scaling.training.checkpoint import load_weights
from plm_scaling.training.loop import train
from plm_scaling.training.profiling import profiled_steps

MakeRun = Callable[..., RunFolder]


def weights(folder: RunFolder) -> dict[str, bytes]:
    return {name: t.numpy().tobytes() for name, t in load_weights(folder.weights_path).items()}


def traced(path: Path, operator: str) -> int:
    return sum(event.get("name") == operator for event in json.loads(path.read_text())["traceEvents"])


def test_a_profile_changes_nothing(make_run: MakeRun, capfd: pytest.CaptureFixture[str]) -> None:
    plain, other = make_run(D=2000), make_run(parent="other", D=2000)
    train(plain.path)
    assert main([str(other.path), "--quiet", "--profile", "2"]) == 0
    assert weights(other) == weights(plain)
    # Two calls a step: one for matrices, one for gains.
    assert traced(other.attempts()[0].path / "trace.json", "aten::_fused_adamw_") == 2 * 2
    out = capfd.readouterr().out
    assert "aten::mm" in out
    assert "trace of 2 steps" in out
    assert not (plain.attempts()[0].path / "trace.json").exists()


@pytest.mark.parametrize(("steps", "done", "expected"), [(2, 9, 2), (5, 6, 3), (4, 7, 4), (4, 2, 0), (0, 9, 0)])
def test_what_is_traced(tmp_path: Path, steps: int, done: int, expected: int) -> None:
    path, said = tmp_path / "trace.json", list[str]()
    with profiled_steps(steps, path, said.append) as after_step:
        for _ in range(done):
            torch.ones(2, 2).mm(torch.ones(2, 2))
            after_step()
    assert path.exists() == (len(said) == 1) == bool(expected)
    if expected:
        assert traced(path, "aten::mm") == expected


def test_a_run_that_fails_leaves_its_trace(tmp_path: Path) -> None:
    def fail(after_step: Callable[[], None]) -> None:
        for _ in range(5):
            after_step()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), profiled_steps(9, tmp_path / "trace.json", str) as after_step:
        fail(after_step)
    assert (tmp_path / "trace.json").exists()
