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
from plm_scaling.training import trackers
from plm_scaling.training.loop import train

MakeRun = Callable[..., RunFolder]


class FakeWandB(ModuleType):
    """Remembers what it is told; fails at the call it is asked to."""

    def __init__(self, fail_at: str = "") -> None:
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None)
        self.fail_at, self.calls, self.logged, self.options = fail_at, list[str](), list[dict[str, float]](), {}

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
    by_step = {values["train/step"]: values for values in module.logged}
    assert sorted(by_step) == [line["step"] for line in lines]
    for line in lines:
        told = by_step[line["step"]]
        assert (told["D"], told["train/loss"], told["train/lr"]) == (line["D"], line["loss"], line["lr"])
        assert told["perf/tokens_per_s"] == line["tokens_per_s"]
        assert told.get("val/loss") == line["val_loss"]
        assert None not in told.values()
    assert by_step[record.steps]["val/loss"] == record.validation[0].per_token
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
    losses = {event.step: event.value for event in events.Scalars("train/loss")}
    assert losses == pytest.approx({line["D"]: line["loss"] for line in lines}, rel=1e-6)
    assert events.Scalars("val/loss")[-1].step == record.D
