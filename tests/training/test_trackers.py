"""TensorBoard and Weights & Biases: what they are told, and that none of their failures reaches a run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest

from plm_scaling.core.errors import RunError
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import StatusFile
from plm_scaling.training import trackers
from plm_scaling.training.loop import train

MakeRun = Callable[..., RunFolder]


class FakeWandB(ModuleType):
    """Remembers what it is told; fails at the call it is asked to."""

    def __init__(self, fail_at: str = "") -> None:
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None)
        self.fail_at, self.calls, self.logged, self.options = fail_at, list[str](), list[dict[str, float]](), {}
        self.summary: dict[str, float] = {}  # the last value of everything, also of earlier attempts

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fail_at:
            raise ConnectionError("no network")

    def init(self, **options: Any) -> FakeWandB:
        self.options = options
        self._called("init")
        return self

    def define_metric(self, name: str, *, step_metric: str) -> None:
        self._called("define_metric")
        assert (name, step_metric) == ("*", "D")

    def log(self, values: dict[str, float]) -> None:
        self._called("log")
        self.logged.append(values)
        self.summary |= values

    def finish(self) -> None:
        self._called("finish")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], FakeWandB]:
    def install(fail_at: str = "") -> FakeWandB:
        module = FakeWandB(fail_at)
        monkeypatch.setitem(sys.modules, "wandb", module)
        return module

    return install


def test_a_run_is_tracked(make_run: MakeRun, fake: Callable[..., FakeWandB]) -> None:
    module = fake()
    folder = make_run(D=2000, order={"trackers": ["wandb"]})
    record = train(folder.path)
    lines = folder.metrics()
    assert module.options["id"] == record.config.run_id
    assert module.options["config"]["D"] == 2000
    assert module.calls[-1] == "finish"
    by_D: dict[float, dict[str, float]] = {}
    for values in module.logged:
        by_D.setdefault(values["D"], {}).update(values)
    assert sorted(by_D) == [line["D"] for line in lines]
    for line in lines:
        told = by_D[line["D"]]
        assert (told["train/step"], told["train/loss"], told["train/lr"]) == (line["step"], line["loss"], line["lr"])
        assert told["perf/tokens_per_s"] == line["tokens_per_s"]
        assert told.get("val/loss") == line["val_loss"]
        assert None not in told.values()
    assert by_D[record.D]["val/loss"] == record.validation[0].per_token
    assert record.flags == ()


@pytest.mark.parametrize("fail_at", ["init", "define_metric", "log", "finish"])
def test_a_tracker_that_fails_does_not_end_a_run(
    make_run: MakeRun, fake: Callable[..., FakeWandB], fail_at: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = fake(fail_at)
    folder = make_run(D=2000, order={"trackers": ["wandb"]})
    record = train(folder.path)
    assert module.calls.count(fail_at) == 1  # it is not asked again
    said = capsys.readouterr().err
    assert said.count("TRACKER_LOST: the tracker wandb failed and is left out: ConnectionError: no network") == 1
    if fail_at != "finish":  # that comes after the record
        assert record.flags == ("TRACKER_LOST",)


def test_a_package_that_is_missing_is_said_before_the_first_step(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    folder = make_run(D=2000, order={"trackers": ["tensorboard"]})
    with pytest.raises(RunError, match="tensorboard, which is not installed") as caught:
        train(folder.path)
    assert "pip install tensorboard" in caught.value.hint
    assert folder.status().step == 0
    assert folder.status().status == "failed"


def test_nothing_is_imported_unasked(make_run: MakeRun, fake: Callable[..., FakeWandB]) -> None:
    module = fake()
    train(make_run(D=2000).path)
    assert module.calls == []


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_events(make_run: MakeRun) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = make_run(D=2000, order={"trackers": ["tensorboard"]})
    record = train(folder.path)
    events = EventAccumulator(str(folder.path / "tensorboard"))
    events.Reload()
    lines = folder.metrics()
    losses = [event.value for event in events.Scalars("train/loss")]
    assert losses == pytest.approx([line["loss"] for line in lines], rel=1e-6)
    assert [event.step for event in events.Scalars("train/loss")] == [line["D"] for line in lines]
    assert events.Scalars("val/loss")[-1].step == record.D


def killed_after(folder: RunFolder, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train as far as this step, and lose what came after the last checkpoint."""
    monkeypatch.setattr("plm_scaling.training.attempt_log._STATUS_EVERY_S", 0.0)

    def kill(status: StatusFile) -> None:
        if status.step == step and status.status == "running":
            raise SystemError("killed")

    with pytest.raises(SystemError):
        train(folder.path, on_progress=kill)


def killed_while_scored(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(*args: Any) -> None:
        raise SystemError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("plm_scaling.training.loop.write_val", kill)
        with pytest.raises(SystemError):
            train(folder.path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
@pytest.mark.parametrize("resumed_from", [0, 4])
def test_a_resumed_run_has_every_point_once(
    make_run: MakeRun,
    fake: Callable[..., FakeWandB],
    monkeypatch: pytest.MonkeyPatch,
    tracker: str,
    resumed_from: int,
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.summary.writer import event_file_writer

    # Files of one process and second are told apart by this counter, and read in the order of their names: 10 before 9.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(100))
    module = fake()
    keep = [resumed_from] if resumed_from else []
    folder = make_run(D=2000, order={"trackers": [tracker], "keep_steps": keep, "checkpoint_every_s": 1e6})
    killed_after(folder, 6, monkeypatch)
    killed_while_scored(folder, monkeypatch)
    record = train(folder.path)
    assert record.attempts == 3
    lines = {line["D"]: line["loss"] for line in folder.metrics()}
    scored = [line["D"] for line in folder.metrics() if line["val_loss"] is not None]
    if tracker == "wandb":
        losses = [(values["D"], values["train/loss"]) for values in module.logged if "train/loss" in values]
        places = [values["D"] for values in module.logged if "val/loss" in values]
    else:
        events = EventAccumulator(str(folder.path / "tensorboard"))
        events.Reload()
        losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
        places = [event.step for event in events.Scalars("val/loss")]
    assert [D for D, _ in losses] == list(lines)
    assert [loss for _, loss in losses] == pytest.approx(list(lines.values()), rel=1e-6)
    assert places == scored
