"""A law together with the runs it was fitted to: what the pictures of a fit are drawn from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from plm_scaling.core.errors import RecordError
from plm_scaling.core.run_table import RunTable
from plm_scaling.core.units import format_count
from plm_scaling.laws.combine import law_sample
from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.laws.noise import law_runs
from plm_scaling.laws.problem import Sample
from plm_scaling.laws.surface import surface_loss

__all__ = ["BatchGroup", "Drawing", "FitView", "group_levels", "view_fit"]

IntArray = npt.NDArray[np.int64]
_SLACK: Final = 1e-9
_MAX_BATCHES: Final = 5


@dataclass(frozen=True)
class Drawing:
    """A picture not yet drawn: what fills its figure, width and height in inches, and words beside its title."""

    draw: Callable[[Figure], None]
    size: tuple[float, float]
    about: str = ""


@dataclass(frozen=True)
class BatchGroup:
    """Runs of one batch, or of neighbouring batches where there are many."""

    label: str
    members: IntArray
    """Positions in the runs, int64[k]."""


@dataclass(frozen=True)
class FitView:
    """A law, the runs it was fitted to, and those of the same kind that it was not fitted to."""

    law: LawFit
    runs: RunTable
    held: RunTable

    @cached_property
    def sample(self) -> Sample:
        """Columns of the fitted runs, float64[n]."""
        return law_sample(self.runs)

    @cached_property
    def held_sample(self) -> Sample | None:
        """Columns of the runs that were left out; None where there are none."""
        return law_sample(self.held) if len(self.held) else None

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The fitted runs, then those left out if there are any."""
        return (self.sample,) if self.held_sample is None else (self.sample, self.held_sample)

    def runs_line(self) -> str:
        """64 runs, and 3 larger ones left out of the fit."""
        count = f"{len(self.runs)} runs"
        return count + (f", {len(self.held)} larger ones left out of the fit" if len(self.held) else "")

    def predicted(self, sample: Sample) -> FloatArray | None:
        """Losses of the surface at a sample's own batches, nats, float64[n]; None without a surface."""
        if self.law.surface is None:
            return None
        return surface_loss(self.law.surface, sample.N, sample.D, sample.batch)

    def deviation(self, sample: Sample) -> FloatArray | None:
        """Fitted minus measured loss in % of the measured one, float64[n]; None without a surface."""
        predicted = self.predicted(sample)
        return None if predicted is None else 100.0 * (predicted / sample.loss - 1.0)

    def batches(self) -> tuple[BatchGroup, ...]:
        """The fitted runs by batch, at most five groups; one nameless group where batches do not differ."""
        batch = self.sample.batch
        known = np.isfinite(batch)
        levels = np.unique(batch[known])
        if len(levels) < 2:
            return (BatchGroup("", np.arange(len(batch))),)
        parts = np.array_split(levels, min(len(levels), _MAX_BATCHES))
        groups = []
        for part in parts:
            label = format_count(part[0]) + (f" to {format_count(part[-1])}" if len(part) > 1 else "")
            groups.append(BatchGroup(label, np.flatnonzero((batch >= part[0]) & (batch <= part[-1]))))
        if not known.all():
            groups.append(BatchGroup("not stated", np.flatnonzero(~known)))
        return tuple(groups)


def view_fit(law: LawFit, table: RunTable) -> FitView:
    """A law with its runs, found again in the table it was fitted to.

    Raises
    ------
    RecordError : the table does not hold the runs that the law's data hash names.
    """
    runs = law_runs(table, law.objective)
    if runs.content_hash() == law.data_hash:
        return FitView(law, runs, RunTable(()))
    # Runs beyond the largest compute fitted were left out on purpose (`max_compute`).
    if law.surface is not None and law.surface.range_C_6nd is not None:
        top, inside = law.surface.range_C_6nd[1], 6.0 * runs.column("N") * runs.column("D")
    else:
        stated = runs.column(law.currency)
        top, inside = law.range_C[1], np.where(np.isfinite(stated), stated, 6.0 * runs.column("N") * runs.column("D"))
    kept = inside <= top * (1.0 + _SLACK)
    fitted = RunTable(tuple(row for row, keep in zip(runs, kept, strict=True) if keep))
    if fitted.content_hash() != law.data_hash:
        raise RecordError(
            "this table is not the one the law was fitted to",
            why=f"its {len(fitted)} runs of {law.objective.upper()} in the fitted range differ from the law's "
            f"{law.n_runs}",
            hint="fit the table again, or give the table of the fit",
        )
    return FitView(law, fitted, RunTable(tuple(row for row, keep in zip(runs, kept, strict=True) if not keep)))


def group_levels(values: FloatArray, width: float) -> list[IntArray]:
    """Positions of values [n] that lie within a relative `width` of the first of their group, rising.

    Returns
    -------
    list of int64[k].
    """
    order = np.argsort(values, kind="stable")
    groups: list[list[int]] = []
    for i in order.tolist():
        if groups and math.log(values[i] / values[groups[-1][0]]) <= math.log1p(width):
            groups[-1].append(i)
        else:
            groups.append([i])
    return [np.array(group, dtype=np.int64) for group in groups]
