from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_order import RunOrder
from plm_scaling.training import sharing
from plm_scaling.training.sharing import SharingReport, SharingRow, measure_sharing, mps_runs

MakeConfig = Callable[..., RunConfig]


def small() -> RunConfig:
    return RunConfig(
        corpus_id="", objective="mlm", n_layers=1, d_model=16, context=64, D=256, batch_tokens=256, peak_lr=1e-3,
        recipe="small",
    )  # fmt: skip


@pytest.mark.slow
def test_processes_are_timed_together() -> None:
    report = measure_sharing(small(), "cpu", (1, 2), seconds=0.1)
    assert [row.processes for row in report.rows] == [1, 2]
    assert all(row.tokens_per_s is not None and row.tokens_per_s > 0 for row in report.rows), report
    assert report.choice in (1, 2)
    assert (report.device, report.mps) == ("cpu", False)


@pytest.mark.slow
def test_a_process_that_fails_says_why_and_larger_numbers_are_not_tried() -> None:
    report = measure_sharing(small(), "meta", (1, 2), seconds=0.1)
    (row,) = report.rows
    assert row.tokens_per_s is None
    assert row.reason
    assert report.choice == 0


def rows(*speeds: float | None) -> list[SharingRow]:
    return [SharingRow(processes=2**k, tokens_per_s=speed) for k, speed in enumerate(speeds)]


@pytest.mark.parametrize(
    ("speeds", "choice"),
    [
        ((100.0,), 1),
        ((100.0, 180.0, 300.0, 310.0), 4),
        ((100.0, 104.0, 104.9), 1),
        ((100.0, 106.0, 90.0), 2),
        ((100.0, 190.0, None), 2),
        ((None,), 0),
    ],
)
def test_the_fewest_processes_that_are_about_as_fast_are_chosen(speeds: tuple[float | None, ...], choice: int) -> None:
    assert sharing._choice(rows(*speeds)) == choice


def test_the_multi_process_service_is_found_by_its_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    assert not mps_runs()
    (tmp_path / "control").touch()
    assert mps_runs()


@pytest.mark.parametrize("cores", [1, 3])
def test_a_cpu_is_shared_by_up_to_as_many_processes_as_it_has_cores(
    cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "cpu_count", lambda: cores)
    monkeypatch.setattr(sharing, "_together", lambda c, d, k, s: SharingRow(processes=k, tokens_per_s=100.0 * k))
    report = measure_sharing(small(), "cpu")
    assert [row.processes for row in report.rows] == list(range(1, cores + 1))
    assert report.choice == cores


def test_the_command_line_prints_a_table_or_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[RunConfig] = []

    def measured(config: RunConfig, device: str, k: list[int], *, seconds: float) -> SharingReport:
        seen.append(config)
        found = [
            SharingRow(processes=1, tokens_per_s=1234.6),
            SharingRow(processes=2, tokens_per_s=None, reason="full"),
        ]
        return SharingReport(device=device, mps=False, rows=tuple(found), choice=1)

    monkeypatch.setattr(sharing, "measure_sharing", measured)
    asked = ["--shape", "2x64", "--context", "128", "--device", "cpu", "--processes", "1", "2"]
    assert sharing.main(asked) == 0
    assert capsys.readouterr().out.splitlines() == [
        "cpu, multi-process service off",
        "processes  tokens/s in all",
        "        1  1,235",
        "        2  failed: full",
        "use 1",
    ]
    assert sharing.main([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][1]["reason"] == "full"
    assert (seen[0].n_layers, seen[0].d_model, seen[0].context) == (2, 64, 128)
    whole = small().model_copy(update={"weight_decay": 0.7, "d_ffn": 48})
    assert sharing.main(["--config", whole.model_dump_json(), "--device", "cpu", "--json"]) == 0
    assert seen[-1] == whole


def test_a_step_is_a_training_step() -> None:
    step = sharing.Stepper(RunOrder(config=small(), corpus=""), sharing.torch.device("cpu"))
    before = step.engine.flat.value.clone()
    step()
    step.settle()
    assert step.n == 1
    assert not sharing.torch.equal(before, step.engine.flat.value)
