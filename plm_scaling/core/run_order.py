"""`RunOrder`: what a training process is told to do (`run.json`), and `StatusFile`: what it says while it does it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from plm_scaling.core.layout import Parallel, Recompute
from plm_scaling.core.records import Record
from plm_scaling.core.run import RunConfig, RunStatus

__all__ = ["Device", "Parallel", "Recompute", "RunOrder", "StatusFile", "Tracker", "pause_step"]

Device = Literal["auto", "cpu", "cuda"]
Tracker = Literal["tensorboard", "wandb"]


def pause_step(n_steps: int, share: float) -> int:
    """The step at which a share of a run is done, at least 1."""
    return max(1, math.ceil(share * n_steps - 1e-9))


class RunOrder(Record):
    """A run's config and the circumstances it is carried out in (`run.json`)."""

    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset(
        {
            *("corpus", "threads", "device", "checkpoint_every_s", "roles", "init_path", "teacher_path", "trunk"),
            *("keep_steps", "micro_windows", "parallel", "recompute", "runs_per_device", "trackers", "pause_share"),
        }
    )

    config: RunConfig
    roles: tuple[str, ...] = ()
    """Why the plan holds this run; copied into its record."""
    corpus: str
    """Folder of the prepared corpus, absolute or relative to the run's folder."""
    threads: int = Field(default=1, ge=1)
    """CPU threads. Part of what makes a resume bit-exact, but not of the run's identity."""
    device: Device = "auto"
    """auto: the CPU, unless the run's process can see a CUDA device."""
    checkpoint_every_s: float = Field(default=30.0, ge=0)
    """Seconds between checkpoints, more where writing them would take over 5 % of the time; 0: after every step."""
    init_path: str | None = None
    """Foreign weights that `config.init_from` names by their hash; absolute, or relative to the run's folder."""
    teacher_path: str | None = None
    """The same for `config.teacher`."""
    trunk: str | None = None
    """Run id of a longer `wsd` run of the same config: its kept state at the start of the decay is taken over."""
    keep_steps: tuple[int, ...] = ()
    """Steps whose state is kept for other runs to branch from."""
    pause_share: float | None = Field(default=None, gt=0, lt=1)
    """Share of the steps after which an attempt ends with a checkpoint, so that somebody may decide whether the rest is
    worth its compute; an order without it goes on."""
    micro_windows: int | None = Field(default=None, gt=0)
    """Windows whose gradients one process computes at once; smaller needs less memory. None: all of its share."""
    parallel: Parallel = "auto"
    """How several processes share a model: whole copies (`replicated`), or parameters cut among them (`sharded`)."""
    recompute: Recompute = "none"
    """Blocks whose activations are computed again in the backward pass instead of kept."""
    runs_per_device: int = Field(default=1, ge=1)
    """Runs that train on this run's device at the same time: each is charged its share of the device's seconds."""
    trackers: tuple[Tracker, ...] = ()
    """Where metrics go beside `metrics.jsonl`."""

    def pause_step(self, n_steps: int) -> int | None:
        """The step after which the run is to pause; None: it goes to its end."""
        return None if self.pause_share is None else pause_step(n_steps, self.pause_share)

    def corpus_path(self, run_dir: Path) -> Path:
        """The corpus' folder, resolved from the run's."""
        return (run_dir / self.corpus).resolve()


class StatusFile(Record):
    """Where an attempt stands (`attempts/K/status.json`), rewritten about once a second."""

    status: RunStatus
    step: int = 0
    """Steps completed."""
    n_steps: int = 0
    D: int = 0
    """Training tokens seen."""
    loss: float | None = None
    """Training loss at the last log line, nats per target."""
    tokens_per_s: float | None = None
    """Over this attempt, validation excluded."""
    mfu: float | None = None
    """Exact FLOPs per second over the measured peak, over this attempt; None where no peak was measured."""
    memory_bytes: int | None = None
    """Peak so far."""
    pid: int | None = None
    host: str = ""
    reason: str = ""
    """Why the run stopped, if it did before its end."""
    seconds: float = 0.0
    """Wall seconds of this attempt so far."""
    time: float = 0.0
    """Unix time of this report. A hint for people: order attempts by number, clocks may differ."""

    def has_done(self, share: float) -> bool:
        """Whether the run stands at this share of its steps, or beyond, and is not at its end."""
        return pause_step(self.n_steps, share) <= self.step < self.n_steps
