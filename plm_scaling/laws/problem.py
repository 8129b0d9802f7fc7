"""Runs and a form made into a fitting problem: centred rows, bounds, and the lowest of several local minima."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, FitError
from plm_scaling.laws.forms import Form, Rows
from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.newton import EXACT, Problem, expand, minimise
from plm_scaling.laws.starts import guess_starts

__all__ = ["Reached", "Sample", "border_of", "make_problem", "make_sample", "solve"]

_EXPONENTS: Final = (1e-3, 4.0)
_VANISHED: Final = -9.0
"""A term below e^-9 of the smallest loss is indistinguishable from zero."""


@dataclass(frozen=True)
class Sample:
    """The runs a law is fitted to: float64[n] each; batch is NaN where the table does not state it."""

    N: FloatArray
    D: FloatArray
    loss: FloatArray
    batch: FloatArray
    weights: FloatArray

    def __len__(self) -> int:
        return len(self.N)

    def take(self, keep: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Sample:
        """Some of the runs."""
        return Sample(self.N[keep], self.D[keep], self.loss[keep], self.batch[keep], self.weights[keep])

    @property
    def C(self) -> FloatArray:
        """6 N D, FLOPs."""
        return 6.0 * self.N * self.D

    @property
    def has_batches(self) -> bool:
        """Whether every run states its batch and at least two differ."""
        return bool(np.isfinite(self.batch).all() and np.ptp(self.batch) > 0)


def make_sample(
    N: npt.ArrayLike,
    D: npt.ArrayLike,
    loss: npt.ArrayLike,
    batch_tokens: npt.ArrayLike | None = None,
    weights: npt.ArrayLike | None = None,
) -> Sample:
    """Check and gather columns [n]: parameters, tokens, nats per token, tokens per batch, weights.

    Raises
    ------
    FitError : lengths that differ, or values that are not positive and finite, naming the row.
    """
    n, d, observed = (np.asarray(v, dtype=np.float64).ravel() for v in (N, D, loss))
    w = np.ones_like(n) if weights is None else np.asarray(weights, dtype=np.float64).ravel()
    b = np.full_like(n, np.nan) if batch_tokens is None else np.asarray(batch_tokens, dtype=np.float64).ravel()
    if not len(n) == len(d) == len(observed) == len(w) == len(b):
        raise FitError(
            f"N, D, loss, weights and batch have {len(n)}, {len(d)}, {len(observed)}, {len(w)}, {len(b)} rows"
        )
    for name, column in (("N", n), ("D", d), ("loss", observed)):
        bad = ~(np.isfinite(column) & (column > 0))
        if bad.any():
            raise FitError(f"{name} of row {int(np.argmax(bad))} is not a positive number: {column[bad][0]}")
    if not np.isfinite(w).all() or (w < 0).any() or not (w > 0).any():
        raise FitError("weights must be finite, not negative, and not all zero")
    return Sample(n, d, observed, b, w)


def border_of(huber_delta: float, least: float) -> float:
    """Huber's border as asked for, or `least` where that is smaller than Newton's steps can work with.

    Raises
    ------
    ConfigError : a border that is negative or no number.
    """
    if not huber_delta >= 0:
        raise ConfigError(f"Huber's border delta must not be negative, got {huber_delta!r}", hint="1e-3, 0 or inf")
    return max(huber_delta, least)


def make_problem(form: Form, sample: Sample, delta: float) -> Problem:
    """The problem of fitting `form` to a sample.

    Raises
    ------
    FitError : too few runs for the form, no batch sizes for a batch term, or a plateau below the losses.
    """
    p = len(form.names)
    if len(sample) < p + 2:
        raise FitError(
            f"a surface of {p} parameters ({form.name}) cannot be fitted to {len(sample)} runs",
            why=f"at least {p + 2} runs are needed",
            hint="add sizes or budgets, or use the isoFLOP minima alone",
        )
    if form.has_batch and not sample.has_batches:
        raise FitError(
            f"the form {form.name} needs a batch size for every run, and at least two different ones",
            hint=f"add the column batch_tokens, or fit {form.name.partition('+')[0]}",
        )
    target = np.log(sample.loss)
    if form.plateau is not None and form.plateau <= sample.loss.max():
        raise FitError(
            f"the plateau L0 = {form.plateau:.4g} lies below a loss of these runs ({sample.loss.max():.4g} nats)",
            hint="give the loss of a model that knows only residue frequencies, or leave L0 free",
        )
    log_N, log_D = np.log(sample.N), np.log(sample.D)
    N0, D0 = float(log_N.mean()), float(log_D.mean())
    z = np.log(sample.batch) if form.has_batch else np.zeros(len(sample))
    rows = Rows(log_N - N0, log_D - D0, z, log_N0=N0, log_D0=D0)
    low, high = _bounds(form, target, rows)
    return Problem(form, rows, target, delta, low, high)


def _bounds(form: Form, target: FloatArray, rows: Rows) -> tuple[FloatArray, FloatArray]:
    bottom, top = float(target.min()), float(target.max())
    # Kaplan's inner sum is a power 1/a_D of the loss: its amplitudes span many more decades.
    amplitude = (-300.0, 300.0) if form.name.startswith("kaplan") else (bottom + _VANISHED, top + 3.0)
    boxes = {
        "floor": (bottom + _VANISHED, top),
        "amplitude": amplitude,
        "exponent": _EXPONENTS,
        "shape": (math.log(0.02), math.log(20.0)),
        "plateau": (top + 1e-4, top + 2.0),
        "batch": (float(rows.z.min()) - 5.0, float(rows.z.max()) + 7.0),
        "linear": (-1e3, 1e3),
    }
    limits = np.array([boxes[parameter.kind] for parameter in form.parameters])
    return limits[:, 0].copy(), limits[:, 1].copy()


@dataclass(frozen=True)
class Reached:
    """Where the starts ended: the best, and all of them."""

    theta: FloatArray
    """float64[p]."""
    value: float
    ends: FloatArray
    """float64[S, p]."""
    values: FloatArray
    gradient_norm: float


def solve(problem: Problem, weights: FloatArray, starts: FloatArray | int = 8, tolerance: float = EXACT) -> Reached:
    """The lowest local minimum found from `starts` guesses, or from given points float64[S, p]."""
    begin = guess_starts(problem, weights, starts) if isinstance(starts, int) else starts
    ends, values = minimise(problem, begin, weights, tolerance=tolerance)
    best = int(np.argmin(values))
    _, gradient, _, _ = expand(problem, ends[best : best + 1], weights[None])
    free = (ends[best] > problem.low) & (ends[best] < problem.high)
    slope = np.where(free, np.abs(gradient[0]), 0.0)
    return Reached(ends[best], float(values[best]), ends, values, float(slope.max()))
