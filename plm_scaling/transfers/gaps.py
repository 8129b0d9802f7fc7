"""The gap between a transferred and a scratch loss, and what noise could have made of it."""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.forms import FloatArray
from plm_scaling.laws.noise import PAIRED_SHARE, LossNoise

__all__ = ["FEW_REPLICATES", "Gap", "GapNoise", "GapOf", "Sampling", "draw_noise", "measure_gap", "run_scatter"]

FEW_REPLICATES: Final = 5
"""Degrees of freedom from which replicates alone say how large the noise of the seeds may be."""
_PARABOLA: Final = 3

GapOf = Callable[[str, str], tuple[float, float]]
"""(target run id, scratch run id) -> paired (loss of target - loss of scratch, its standard error), nats."""


@dataclass(frozen=True)
class Sampling:
    """How many draws and from which seed; what pairs share is drawn once for all of them."""

    draws: int
    seed: int

    def stream(self, *names: str) -> np.random.Generator:
        """The generator of one cause of noise: the same name, the same noise, in whichever pair it occurs."""
        return np.random.default_rng([self.seed, *(zlib.crc32(name.encode()) for name in names)])


@dataclass(frozen=True)
class Gap:
    """The transferred loss against scratch, nats: paired gap, its validation error, and the seeds' noise of one run."""

    value: float
    se: float | None
    noise: LossNoise | None

    @property
    def known_se(self) -> float:
        """Standard error of the gap from all that is known: validation, and the seeds of both runs."""
        return math.hypot(self.se or 0.0, math.sqrt(2.0) * (self.noise.sd if self.noise else 0.0))


@dataclass(frozen=True)
class GapNoise:
    """float64[draws] each, nats."""

    sd: FloatArray
    """Plausible standard deviations of a run's loss between seeds."""
    gap: FloatArray
    """Of the gap: validation, the transferred run's seed, and the scratch partner's."""
    validation: FloatArray
    """The validation sequences' part of it."""
    partner: FloatArray
    """The scratch partner's own part of it."""


def measure_gap(target: RunRow, scratch: RunRow, noise: LossNoise | None, gap_of: GapOf | None) -> Gap:
    """The paired gap where per-sequence losses exist, else the difference of two losses on the same sequences."""
    if gap_of is not None:
        value, se = gap_of(target.run_id, scratch.run_id)
        return Gap(value, None if math.isnan(se) else se, noise)
    errors = [row.loss_se for row in (target, scratch) if row.loss_se is not None]
    return Gap(target.loss - scratch.loss, PAIRED_SHARE * max(errors) if errors else None, noise)


def draw_noise(gap: Gap, target: RunRow, scratch_id: str, sampling: Sampling, most: float = math.inf) -> GapNoise:
    """Noise of a gap; runs that several pairs share keep theirs in all of them.

    Few replicates leave the seeds' standard deviation open: it is drawn from what they allow, but no larger than
    `most`, nats, the scatter of single runs about a smooth curve, which contains it.
    """
    n = sampling.draws
    sd = gap.noise.factors(n, sampling.stream("sd", target.objective)) * gap.noise.sd if gap.noise else np.zeros(n)
    if gap.noise and gap.noise.df < FEW_REPLICATES:
        sd = np.minimum(sd, max(most, gap.noise.sd))
    own = sampling.stream("target", target.run_id)
    transferred, validation = own.standard_normal((2, n)) * np.stack([sd, np.full(n, gap.se or 0.0)])
    partner = sampling.stream("scratch", scratch_id).standard_normal(n) * sd
    return GapNoise(sd, validation + transferred - partner, validation, partner)


def run_scatter(runs: RunTable) -> float | None:
    """Scatter of ln loss of single runs about a parabola in ln D at each size and batch; None from fewer than four
    degrees of freedom.

    It holds the noise of the seeds and what of the curve is no parabola: an upper bound of the former.
    """
    groups: defaultdict[tuple[float, float | None, str | None], list[RunRow]] = defaultdict(list)
    for row in runs:
        groups[round(math.log(row.N), 3), row.batch_tokens, row.validation_id].append(row)
    squares, df = 0.0, 0
    for group in groups.values():
        x, y = (np.log([getattr(row, name) for row in group]) for name in ("D", "loss"))
        if len(np.unique(np.round(x, 2))) > _PARABOLA:
            x = x - x.mean()
            squares += float(((y - np.polyval(np.polyfit(x, y, 2), x)) ** 2).sum())
            df += len(group) - _PARABOLA
    return math.sqrt(squares / df) if df >= FEW_REPLICATES - 1 else None
