"""What one run of the Cheng et al. 2024 logs truly was: N, batch and D from the spacing of its axis, and its defects.

The axis in GFLOPs is 1e-9 * 6 N tokens and an evaluation comes every 300 steps, so neighbouring points lie
6 N * 300 * batch * 1,024 FLOPs apart: the spacing tells N and batch, the last point tells D, whatever the name says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.laws.cheng_logs import Log, RunLogs
from plm_scaling.laws.cheng_names import SIZES, NamedLog
from plm_scaling.laws.imported import Finding

__all__ = ["CONTEXT", "CORPUS_TOKENS", "EVALUATION_STEPS", "CleanRun", "clean_run"]

Float = npt.NDArray[np.float64]

CONTEXT: Final = 1024
"""Tokens of a training sequence."""

EVALUATION_STEPS: Final = 300
"""Optimiser steps between evaluations."""

CORPUS_TOKENS: Final = 2.0e11
"""Tokens that the epochs in the names are fractions of."""

_MASK_RATIO_BATCH: Final = 512
_BATCHES: Final = (512, 1024, 256)
_NEAR: Final = 0.006
"""The axis counts norms and biases that the size table leaves out: up to .45 % at the smallest sizes."""

_COMPLETE: Final = 0.95
_BUDGET_TOLERANCE: Final = 0.03
_IMPLIED_N: Final = 0.06
_STUCK_FALL: Final = 0.05
"""A run whose whole training took off less than this, nats, has learnt residue frequencies and nothing else."""

_TAIL: Final = 5
_CANDIDATES: Final = 40
_NEARLY_ALL: Final = 0.9


@dataclass(frozen=True, eq=False)
class _Grid:
    """Positions of the kept points in units of the evaluation interval, and the interval in units of the axis."""

    k: Float
    spacing: float
    keep: npt.NDArray[np.intp]
    """Rows of the log."""
    stray: int


@dataclass(eq=False)
class CleanRun:
    """One run with its true N, batch and D, the defects found, and its curve by evaluation."""

    logs: RunLogs
    name: NamedLog
    N: int
    size: str
    batch_sequences: int
    k: Float
    """Evaluations in units of 300 steps, float64[n]; the last may be a fraction."""
    loss: Float
    """Nats, float64[n]."""
    schedule_complete: bool = True
    flags: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def batch_tokens(self) -> int:
        """Tokens of an optimiser step."""
        return self.batch_sequences * CONTEXT

    @property
    def step(self) -> Float:
        """Optimiser steps at every evaluation, float64[n]."""
        return np.round(self.k * EVALUATION_STEPS)

    @property
    def D(self) -> Float:
        """Tokens trained on at every evaluation, float64[n]."""
        return self.step * self.batch_tokens

    def found(self, kind: str, what: str, *, flag: bool = True) -> None:
        """Note a defect, as a finding and, unless told otherwise, as a flag of the row."""
        self.findings.append(Finding(kind=kind, what=what, files=self.logs.files))
        if flag:
            self.flags.append(kind)


def clean_run(logs: RunLogs) -> CleanRun | Finding:
    """Measure one run and name its defects; a finding alone where nothing tells N.

    **Source:** Cheng et al. 2024 logs: axis = 1e-9 * 6 N tokens, an evaluation every 300 steps.
    """
    first = logs.logs[0]
    grid = _grid(first)
    run = _from_flops(logs, first, grid) if first.named.axis == "gigaflops" else _from_tokens(logs, first, grid)
    if run is None:
        return Finding(kind="UNKNOWN_SIZE", what=f"nothing tells N of {first.named.name}", files=logs.files)
    if grid.stray:
        run.found("STRAY_POINTS", f"{grid.stray} points off the grid of evaluations dropped", flag=False)
    if len(run.k) < math.ceil(run.k[-1]):
        run.found("CAPPED", f"{len(run.k)} points exported of {math.ceil(run.k[-1])} evaluations", flag=False)
    _check_tokens(run)
    _check_schedule(run)
    _check_loss(run)
    return run


def _grid(log: Log) -> _Grid:
    """The spacing of evaluations, and which points lie on it; the last may end a run between two."""
    later = np.minimum.accumulate(log.axis[::-1])[::-1]
    forward = np.flatnonzero(log.axis <= later)  # a restart writes some steps again: the later points count
    axis = log.axis[forward]
    spacing = _spacing(axis)
    anchors = axis[:-1][_on_grid(axis[:-1] / spacing)]
    if len(anchors):  # the farther out, the less the rounding of the axis matters
        spacing = float(anchors[-1] / round(anchors[-1] / spacing))
    k = np.round(axis / spacing * EVALUATION_STEPS) / EVALUATION_STEPS
    good = _on_grid(k)
    good[-1] = True
    return _Grid(k=k[good], spacing=spacing, keep=forward[good], stray=len(log.axis) - int(good.sum()))


def _spacing(axis: Float) -> float:
    """The largest step of which nearly all points are multiples: exports cut to 1,000 points skip evaluations."""
    inner = axis[:-1]
    if len(inner) < 2:
        return float(axis[0])
    steps = np.unique(np.diff(inner))
    candidates = np.unique(np.concatenate([steps[:_CANDIDATES] / m for m in (1, 2, 3)]))[::-1]
    for step in candidates.tolist():
        if _on_grid(inner / step).mean() >= _NEARLY_ALL:
            return float(step)
    return float(np.median(np.diff(inner)))


def _on_grid(k: Float) -> npt.NDArray[np.bool_]:
    """Whether these numbers of evaluations are whole, to half an optimiser step."""
    return np.asarray((np.abs(k - np.round(k)) < 0.5 / EVALUATION_STEPS) & (k > 0.5))


def _from_tokens(logs: RunLogs, log: Log, grid: _Grid) -> CleanRun | None:
    """Axes without N: the batch comes from the spacing, N from the name."""
    size = next((name.named_size for name in logs.names if name.named_size), None)
    if size is None:
        return None
    if log.named.axis == "steps":
        batch = _MASK_RATIO_BATCH
    else:
        tokens = grid.spacing * (CONTEXT if log.named.axis == "samples" else 1)
        batch = round(tokens / EVALUATION_STEPS / CONTEXT)
    return CleanRun(logs, log.named, SIZES[size], size, batch, grid.k, log.loss[grid.keep])


def _from_flops(logs: RunLogs, log: Log, grid: _Grid) -> CleanRun:
    """The size whose spacing this is; the names only break ties between N and the batch."""
    names = logs.names
    per_batch = {b: grid.spacing * 1e9 / (6.0 * EVALUATION_STEPS * b * CONTEXT) for b in _BATCHES}
    near = {b: min(SIZES, key=lambda s, N=N: abs(math.log(N / SIZES[s]))) for b, N in per_batch.items()}  # type: ignore[misc]
    fits = {b: s for b, s in near.items() if abs(math.log(per_batch[b] / SIZES[s])) < _NEAR}
    wanted = {name.named_size for name in names}
    stated = {name.batch_sequences for name in names} - {None}
    best = min(fits, key=lambda b: _rank(b, fits[b], wanted, stated), default=None)
    if best is None:
        batch = next(iter(stated), 512) or 512
        run = CleanRun(logs, names[0], round(per_batch[batch]), f"{per_batch[batch] / 1e6:.4g}M", batch, grid.k,
                       log.loss[grid.keep])  # fmt: skip
        run.found("UNKNOWN_SIZE", f"axis N = {per_batch[batch]:.4g} at batch {batch}: no published size within .6 %")
        return run
    size = fits[best]
    name = next((name for name in names if name.named_size == size), names[0])
    run = CleanRun(logs, name, SIZES[size], size, best, grid.k, log.loss[grid.keep])
    named = name.named_size
    if named is not None and named != size:
        _contradicted(run, named)
    elif name.nickname and name.nickname.upper() != size:
        run.found("NICKNAME", f"{name.nickname} in the name stands for {size}", flag=False)
    return run


def _rank(batch: int, size: str, wanted: set[str | None], stated: set[int | None]) -> tuple[bool, bool, bool]:
    usual = 1024 if SIZES[size] >= 1e9 else 512
    return (size not in wanted, bool(stated) and batch not in stated, batch != usual)


def _contradicted(run: CleanRun, named: str) -> None:
    """The axis says one size, the folder another: the budget over the tokens decides which of them is wrong."""
    budget = run.name.budget
    implied = budget / (6.0 * float(run.D[-1])) if budget else None
    if implied and abs(math.log(implied / SIZES[named])) < _IMPLIED_N:
        what = f"axis N = {run.size}, but budget / 6 D = {implied:.4g} and the name say {named}"
        run.N, run.size = SIZES[named], named
        run.found("WRONG_AXIS_N", what)
        return
    run.found("MISLABELLED", f"filed as {named}, but the spacing of its axis is that of {run.size}")


def _check_tokens(run: CleanRun) -> None:
    """D against every export of the same run that counts tokens itself."""
    D = float(run.D[-1])
    for log in run.logs.logs[1:]:
        if log.named.axis in ("tokens", "samples"):
            other = float(log.axis[-1]) * (CONTEXT if log.named.axis == "samples" else 1)
            if abs(D / other - 1.0) > 1e-6:
                run.found("D_DISAGREES", f"D {D:.10g} from the FLOP axis, {other:.10g} from the export over tokens")


def _check_schedule(run: CleanRun) -> None:
    """How far the run came against the budget and the epochs it was named for."""
    name, D = run.name, float(run.D[-1])
    planned = name.budget / (6.0 * run.N) if name.budget else None
    label = float(name.label) * CORPUS_TOKENS if name.label else None
    goal = planned or label
    ended = not _on_grid(run.k[-1:])[0]  # a run evaluates once more when its schedule is through
    at_label = label is not None and abs(D / label - 1.0) <= 1.0 - _COMPLETE
    if goal and goal * _COMPLETE > D and not (ended and at_label):
        run.schedule_complete = False
        run.found("TRUNCATED_SCHEDULE", f"{100 * D / goal:.0f} % of {'its budget' if planned else 'its epochs'}")
    elif planned and abs(math.log(D / planned)) > _BUDGET_TOLERANCE:
        run.found("BUDGET_OFF", f"6 N D = {6.0 * run.N * D:.4g}, {100 * (D / planned - 1):+.1f} % from the budget")
    if label and run.schedule_complete and not _label_fits(name.label or "", D):
        run.found("LABEL_OFF", f"{name.label} epochs in the name, {D / CORPUS_TOKENS:.3f} by the axis")


def _label_fits(label: str, D: float) -> bool:
    """Whether D is what the label rounds or cuts off: one unit of its last digit, but at most a twentieth epoch."""
    digits = len(label.partition(".")[2])
    unit = min(10.0**-digits, 0.05)
    return abs(D / CORPUS_TOKENS - float(label)) <= unit * 1.001


def _check_loss(run: CleanRun) -> None:
    fall = float(run.loss[0] - run.loss[-_TAIL:].mean())
    if len(run.loss) > _TAIL and fall < _STUCK_FALL and run.name.source_objective is None:
        run.found("STUCK", f"flat at {run.loss[-_TAIL:].mean():.3f} nats from the first evaluation to the last")
