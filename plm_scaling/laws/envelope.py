"""Approach 1: the lower envelope of losses over compute, and power laws of the sizes and tokens on it.

Only losses at a decayed learning rate are comparable, so a size's curve runs through the end points of its complete
runs; points along the way of a cosine enter on demand, with a flag. The envelope is a staircase over the sizes tried:
only points that have a smaller and a larger size beside them say something about the optimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import FitError
from plm_scaling.core.records import Record
from plm_scaling.core.run_table import RunTable
from plm_scaling.laws.budgets import Currency, check_runs
from plm_scaling.laws.curves import Curves
from plm_scaling.laws.envelope_curves import EndPoint, SizeCurve, curves_along_runs, curves_through_ends, end_points
from plm_scaling.laws.fit import percentile_interval
from plm_scaling.laws.forms import FloatArray
from plm_scaling.laws.law_fit import Interval
from plm_scaling.laws.noise import law_runs
from plm_scaling.laws.power_laws import FitSpace, fit_power_law

__all__ = ["ENVELOPE_SENTENCES", "EnvelopeFit", "EnvelopePoint", "fit_envelope"]

ENVELOPE_SENTENCES: Final[dict[str, str]] = {
    "UNDECAYED": "The envelope uses losses along the way of schedules whose learning rate was not yet decayed: they "
    "stand above what a run ended there would reach, which shifts the sizes on it.",
    "ENVELOPE_AT_SMALLEST": "At its lower end the envelope runs along the smallest size tried: a smaller one may be "
    "better there, and that stretch is left out of the power laws.",
    "ENVELOPE_AT_LARGEST": "At its upper end the envelope runs along the largest size tried: a larger one may be "
    "better there, and that stretch is left out of the power laws.",
    "FEW_SIZES_ON_ENVELOPE": "Fewer than three sizes on the envelope have both a smaller and a larger one beside them: "
    "there is no check that a power law holds, or no exponent at all.",
    "ENVELOPE_UNSTABLE": "More than one in ten resamples of the runs leave fewer than two sizes on the envelope: the "
    "interval of its exponents comes from the others and is too narrow.",
}


class EnvelopePoint(Record):
    """The size of lowest loss at one compute."""

    C: float
    N: float
    D: float
    loss: float
    bracketed: bool
    """Whether a smaller and a larger size were there to compare with; only such points enter the power laws."""


class EnvelopeFit(Record):
    """N_opt = k_N C^a_N and D_opt = k_D C^a_D along the lower envelope."""

    currency: Currency
    method: FitSpace = "log"
    intermediate: bool = False
    n_runs: int
    points: tuple[EnvelopePoint, ...]
    """In rising order of C."""
    sizes: tuple[float, ...]
    """Sizes of the bracketed points, parameters."""
    a_N: Interval | None = None
    k_N: float | None = None
    a_D: Interval | None = None
    k_D: float | None = None
    flags: tuple[str, ...] = ()
    """UNDECAYED, ENVELOPE_AT_SMALLEST, ENVELOPE_AT_LARGEST, FEW_SIZES_ON_ENVELOPE, ENVELOPE_UNSTABLE."""


def fit_envelope(
    table: RunTable,
    objective: str,
    curves: Curves | None = None,
    *,
    currency: Currency = "C_6nd",
    intermediate: bool = False,
    method: FitSpace = "log",
    grid: int = 150,
    draws: int = 200,
    seed: int = 0,
) -> EnvelopeFit:
    """Sizes and tokens of lowest loss over compute, and the power laws through them.

    Parameters
    ----------
    curves : losses along the way; without `intermediate` only those of runs flagged WSD are used.
    currency : compute of the grid; along a run it grows in proportion to its tokens.
    intermediate : use the points along the way of every run, complete or not.
    method : space the power laws are fitted in, see `fit_power_law`.
    grid : number of computes, evenly spaced in ln C over all that was run.
    draws : resamples of the runs behind the intervals, which are wide: a resample lacks a third of the runs.

    Raises
    ------
    FitError : no usable run, no compute in this currency, or `intermediate` without curves.

    **Source:** Hoffmann et al. 2022, section 3.1 (approach 1).
    """
    if intermediate and curves is None:
        raise FitError("there are no curves to take points along the way from", hint="give curves, or use end points")
    runs = _usable(table, objective, intermediate)
    check_runs(runs, objective, currency)
    ends = () if intermediate else end_points(runs, currency)
    none = Curves.joined(())
    log_C, along = curves_along_runs(runs, curves or none, currency, every=intermediate, grid=grid, ends=ends)
    if not len(log_C):
        raise FitError("none of the curves belongs to a run of the table", hint="their run_id must be the table's")
    best = _envelope(ends, along, log_C)
    parts: list[EndPoint | SizeCurve] = [*ends, *along]
    fit = EnvelopeFit(
        currency=currency,
        method=method,
        intermediate=intermediate,
        n_runs=len({part.run_id for part in parts}),
        points=best.points(),
        sizes=tuple(np.unique(best.N[best.bracketed]).tolist()),
        flags=_flags(best, intermediate, [part.N for part in parts]),
    )
    laws = _exponents(best, method)
    if laws is None:
        return fit
    drawn = _resampled(ends, along, log_C, method, max(draws, 1), seed)
    return _with_laws(fit, laws, drawn, max(draws, 1))


def _usable(table: RunTable, objective: str, intermediate: bool) -> RunTable:
    """The runs of a law; points along the way need no complete schedule."""
    if not intermediate:
        return law_runs(table, objective)
    return law_runs(RunTable(tuple(row.model_copy(update={"schedule_complete": True}) for row in table)), objective)


@dataclass(frozen=True)
class _Envelope:
    """The lowest loss at every compute that has one, arrays [g]."""

    C: FloatArray
    N: FloatArray
    D: FloatArray
    loss: FloatArray
    bracketed: npt.NDArray[np.bool_]

    def points(self) -> tuple[EnvelopePoint, ...]:
        """The envelope as records."""
        rows = zip(self.C, self.N, self.D, self.loss, self.bracketed, strict=True)
        return tuple(
            EnvelopePoint(C=float(c), N=float(n), D=float(d), loss=float(loss), bracketed=bool(b))
            for c, n, d, loss, b in rows
        )


def _envelope(ends: Sequence[EndPoint], along: Sequence[SizeCurve], log_C: FloatArray) -> _Envelope:
    lines = [*curves_through_ends(ends, log_C), *along]
    sizes = np.array([line.N for line in lines])
    loss = np.stack([line.log_loss for line in lines])
    winner = np.argmin(loss, axis=0)
    N = sizes[winner]
    there = np.isfinite(loss)
    smaller = (there & (sizes[:, None] < N)).any(axis=0)
    larger = (there & (sizes[:, None] > N)).any(axis=0)
    keep = there.any(axis=0)
    D = np.exp(log_C + np.array([line.log_D_over_C for line in lines])[winner])
    lowest = np.exp(loss[winner, np.arange(len(log_C))][keep])
    return _Envelope(np.exp(log_C)[keep], N[keep], D[keep], lowest, (smaller & larger)[keep])


def _flags(best: _Envelope, intermediate: bool, sizes: Sequence[float]) -> tuple[str, ...]:
    flags = ["UNDECAYED"] if intermediate else []
    if best.N[0] == min(sizes):
        flags.append("ENVELOPE_AT_SMALLEST")
    if best.N[-1] == max(sizes):
        flags.append("ENVELOPE_AT_LARGEST")
    if len(np.unique(best.N[best.bracketed])) < 3:
        flags.append("FEW_SIZES_ON_ENVELOPE")
    return tuple(flags)


def _exponents(best: _Envelope, method: FitSpace) -> tuple[float, float, float, float] | None:
    """(a_N, k_N, a_D, k_D) through the bracketed points, None with fewer than two sizes."""
    use = best.bracketed
    if len(np.unique(best.N[use])) < 2:
        return None
    C = best.C[use]
    return (*fit_power_law(C, best.N[use], method=method), *fit_power_law(C, best.D[use], method=method))


def _resampled(
    ends: Sequence[EndPoint],
    along: Sequence[SizeCurve],
    log_C: FloatArray,
    method: FitSpace,
    draws: int,
    seed: int,
) -> FloatArray:
    """Exponents (a_N, a_D) of envelopes through resampled runs, float64[m, 2], without draws that have none."""
    rng = np.random.default_rng(seed)
    runs = np.array(sorted({end.run_id for end in ends} | {curve.run_id for curve in along}))
    found = []
    for _ in range(draws):
        chosen = set(runs[rng.integers(len(runs), size=len(runs))].tolist())
        kept_ends = [end for end in ends if end.run_id in chosen]
        kept_along = [curve for curve in along if curve.run_id in chosen]
        laws = _exponents(_envelope(kept_ends, kept_along, log_C), method)
        if laws is not None:
            found.append((laws[0], laws[2]))
    return np.array(found, dtype=np.float64).reshape(-1, 2)


def _with_laws(fit: EnvelopeFit, laws: tuple[float, float, float, float], drawn: FloatArray, draws: int) -> EnvelopeFit:
    """The fit completed by its power laws; without a single usable resample it keeps its points alone."""
    flags = (*fit.flags, "ENVELOPE_UNSTABLE") if len(drawn) < 0.9 * draws else fit.flags
    if not len(drawn):
        return fit.model_copy(update={"flags": flags})
    a_N, k_N, a_D, k_D = laws
    intervals = {"a_N": percentile_interval(a_N, drawn[:, 0]), "a_D": percentile_interval(a_D, drawn[:, 1])}
    return fit.model_copy(update={**intervals, "k_N": k_N, "k_D": k_D, "flags": flags})
