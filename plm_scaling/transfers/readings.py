"""One estimator's reading of a pair: how many scratch tokens the transferred loss would have cost.

Every estimator is a curve of ln loss in ln D at the pair's size. A form of the scratch law is shifted, in ln loss, to
pass through the scratch partner; curves through runs of the same size pass through it anyway. Both ends of D_t are
read off the curve, so that no gap is no D_t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from plm_scaling.core.run_table import RunRow
from plm_scaling.laws.forms import FloatArray
from plm_scaling.laws.law_fit import SurfaceFit
from plm_scaling.transfers.curves import LossCurves, ScratchCurve, curves_through, surface_curves
from plm_scaling.transfers.gaps import Gap, GapNoise, Sampling
from plm_scaling.transfers.scratch_laws import LawMember

__all__ = ["SAME_SIZE", "Anchor", "Question", "Reading", "anchor_shift", "read_member", "read_runs"]

SAME_SIZE: Final = "same-N runs"
"""Name of the estimator that interpolates between scratch runs of the pair's size."""


@dataclass(frozen=True)
class Anchor:
    """Where the scratch level of a pair is known.

    paired: at the target's D. near: at another D, moved along the law. law: nowhere, the law's own level is taken.
    """

    kind: Literal["paired", "near", "law"]
    log_D: float
    level: float
    """Scratch loss at exp(log_D) tokens, nats; of the kind `law`: the transferred loss itself (a gap of zero)."""
    scratch_id: str = ""


@dataclass(frozen=True)
class Question:
    """What every estimator of a pair is asked."""

    target: RunRow
    anchor: Anchor
    gap: Gap
    """Of the kinds `near` and `law`: transferred loss minus the anchor's level, at different D."""
    noise: GapNoise
    source_worth: float | None
    """Target tokens that the source's compute would have bought."""
    sampling: Sampling

    def law_draws(self, n: int) -> npt.NDArray[np.intp]:
        """Which of a form's n bootstrap draws is behind every sample: the same resample of runs in all pairs."""
        share = self.sampling.stream("law", self.target.objective).random(self.sampling.draws)
        return (share * n).astype(np.intp)

    def without_seeds(self) -> Question:
        """The same question were every run of another seed to end at the same loss."""
        validation = self.noise.validation
        none = np.zeros_like(validation)
        return replace(self, noise=GapNoise(none, validation, validation, none))


@dataclass(frozen=True)
class Reading:
    """D_t by one estimator: the estimate, and float64[draws] under noise."""

    name: str
    weight: float
    D_t: float
    """-inf or inf where the curve is never that bad or that good."""
    net_loss: float
    """Loss with the source's compute spent on scratch tokens, minus the transferred loss; NaN where unknown."""
    draws: FloatArray


def read_member(question: Question, member: LawMember) -> Reading:
    """D_t by one form of the scratch law."""
    target = question.target
    estimate, drawn = surface_curves(member.surface, target.N, math.log(target.D), target.batch_tokens)
    D_t, net_loss = _read(question, estimate, np.array([anchor_shift(question.anchor, question.gap.value)]))
    drawn = LossCurves(drawn.log_D, drawn.log_loss[question.law_draws(len(drawn.log_loss))])
    level = question.anchor.level + question.gap.value + question.noise.gap
    shift = np.log(np.maximum(level, 1e-9) / question.anchor.level) + _level_noise(question, member.surface)
    draws, _ = _read(question, drawn, shift)
    return Reading(member.name, member.weight, float(D_t[0]), float(net_loss[0]), draws)


def read_runs(question: Question, curve: ScratchCurve, shape: SurfaceFit | None, weight: float) -> Reading:
    """D_t by the scratch runs of the pair's own size, with `shape` between them; only for a paired anchor."""
    target, anchor = question.target, question.anchor
    through = [curve.loss[None], curve.loss + _curve_noise(question, curve)]
    curves = [curves_through(curve, loss, shape, target.N, target.batch_tokens) for loss in through]
    results = []
    for part, noise in zip(curves, (np.zeros(1), question.noise.gap), strict=True):
        level = np.exp(part.at(anchor.log_D))
        results.append(_read(question, part, np.log(np.maximum(level + question.gap.value + noise, 1e-9) / level)))
    (D_t, net_loss), (draws, _) = results
    return Reading(SAME_SIZE, weight, float(D_t[0]), float(net_loss[0]), draws)


def anchor_shift(anchor: Anchor, gap: float) -> float:
    """Ln of the transferred loss over the anchor's level."""
    return math.log(max(anchor.level + gap, 1e-9) / anchor.level)


def _read(question: Question, curves: LossCurves, shift: FloatArray) -> tuple[FloatArray, FloatArray]:
    """D_t and the net loss float64[B], given ln(transferred loss / level of the anchor) float64[B]."""
    anchor, log_D_f = question.anchor, math.log(question.target.D)
    if anchor.kind == "law":
        wanted = math.log(anchor.level) + shift
        base = np.full(len(curves.log_loss), log_D_f)
    else:
        level = curves.at(anchor.log_D)
        wanted = level + shift
        base = curves.log_D_for(level) if anchor.kind == "paired" else np.full(len(level), log_D_f)
    D_t = np.exp(curves.log_D_for(wanted)) - np.exp(base)
    D_t = np.where(np.isneginf(curves.log_D_for(wanted)), -np.inf, D_t)
    if question.source_worth is None:
        return D_t, np.full(len(D_t), np.nan)
    instead = curves.at(np.log(np.exp(base) + question.source_worth))
    return D_t, np.expm1(instead - wanted) * (anchor.level + question.gap.value)


def _level_noise(question: Question, surface: SurfaceFit) -> FloatArray | float:
    """What a law misses of a size's level, in ln loss: nothing at the anchor, all of it e-fold away or without."""
    anchor = question.anchor
    if anchor.kind == "paired":
        return 0.0
    distance = 1.0 if anchor.kind == "law" else min(1.0, abs(anchor.log_D - math.log(question.target.D)))
    scatter = surface.residual_sd or surface.rms_relative_error
    stream = question.sampling.stream("level", f"{question.target.objective} {question.target.N:.6g}")
    return stream.standard_normal(question.sampling.draws) * scatter * distance


def _curve_noise(question: Question, curve: ScratchCurve) -> FloatArray:
    """Seed noise of the curve's points float64[draws, k]; the partner's own is in the gap and in its point alike."""
    noise = question.noise
    n_seeds = np.maximum(curve.n_seeds, 1.0)
    stream = question.sampling.stream("curve", question.anchor.scratch_id)
    drawn = stream.standard_normal((len(noise.sd), len(n_seeds))) * noise.sd[:, None] / np.sqrt(n_seeds)
    at = curve.nearest(question.anchor.log_D)
    drawn[:, at] = noise.partner / n_seeds[at] + drawn[:, at] * math.sqrt(1.0 - 1.0 / n_seeds[at])
    return np.asarray(drawn)
