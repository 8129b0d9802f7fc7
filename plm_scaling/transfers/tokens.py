"""D_t: how many tokens of its own objective a run was spared by starting from the other objective's weights.

A transferred run ends at loss L_t; a scratch run of equal size needs D_f + D_t tokens for it. L_t is the scratch
partner's loss plus the paired gap: both are read on the same sequences, as is every point of the scratch curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.core.units import format_count
from plm_scaling.laws.forms import FloatArray
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.laws.noise import PAIRED_SHARE, LossNoise, law_runs, pooled_seed_noise
from plm_scaling.transfers.curves import ScratchCurve, curve_of, surface_curve
from plm_scaling.transfers.pairs import RunPair, find_pairs, scratch_curve
from plm_scaling.transfers.transfer_fit import TransferFit, TransferPair

__all__ = ["GapOf", "transferred_tokens"]

GapOf = Callable[[str, str], tuple[float, float]]
"""(target run id, scratch run id) -> paired (loss of target - loss of scratch, its standard error), nats."""

_MIN_PAIRS: Final = 6
_MAX_CONDITION: Final = 10.0

_SENTENCES: Final = {
    "OUTSIDE_SCRATCH_RANGE": "the scratch runs of this size do not bracket the transferred loss: D_t is read off the "
    "fitted surface if there is one, else only bounded on the side that the runs show.",
    "OPEN_INTERVAL": "the noise allows a D_t beyond the scratch runs of this size: the interval has no end there.",
    "GAP_WITHIN_NOISE": "the gap is less than twice its noise: no detectable effect of the transfer.",
    "TRANSFER_HURTS": "the transferred run ended worse than its scratch partner by more than twice the noise.",
    "SEED_DIFFERS": "the scratch partner has another seed: the gap carries the full noise of the seeds.",
    "NO_SEED_NOISE": "no replicates of this objective: the interval leaves out the noise of the seeds.",
    "NO_SOURCE_COMPUTE": "the source's compute is unknown: no net gain is given.",
    "METHODS_DISAGREE": "same-size runs and the fitted surface differ by more than a factor of 1.5 in D_t.",
}


@dataclass(frozen=True)
class _Gap:
    """The transferred loss against scratch, nats: paired gap, its validation error, and the seeds' noise of one run."""

    value: float
    se: float | None
    noise: LossNoise | None

    def sd(self, n_runs: int) -> float:
        """Noise of validation, and of the seeds of one run (the transferred one) or of two (the gap)."""
        return math.hypot(self.se or 0.0, math.sqrt(n_runs) * (self.noise.sd if self.noise else 0.0))


def transferred_tokens(
    table: RunTable,
    laws: Mapping[str, LawFit] | None = None,
    gap_of: GapOf | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> TransferFit:
    """Effectively transferred tokens of every scratch/transferred pair.

    Parameters
    ----------
    laws : fitted laws by objective; their surface is the second estimate, and the only one beyond the scratch runs.
    gap_of : paired gap of two runs from their per-sequence losses; None takes the difference of the table's losses.
    draws : noise draws behind each interval.

    **Source:** Hernandez et al. 2021, section 2 (effective data transferred); read at the end of matched schedules.
    """
    pairs, notes, flags = [], [], []
    for index, pair in enumerate(find_pairs(table)):
        if pair.scratch is None:
            flags.append("NO_SCRATCH_PARTNER")
            notes.append(
                f"NO_SCRATCH_PARTNER: transferred run {pair.target.run_id} has no scratch run of equal N, D, batch "
                "and data; add one to read its D_t."
            )
            continue
        law = (laws or {}).get(pair.target.objective)
        fitted = _pair(table, pair, pair.scratch, law, gap_of, (draws, seed + index))
        pairs.append(fitted)
        notes += [f"{f}: {fitted.target_run_id}: {_SENTENCES[f]}" for f in fitted.flags if f in _SENTENCES]
        flags += fitted.flags
    exponent_flags, exponent_notes = _exponent_doubts(pairs)
    return TransferFit(
        pairs=tuple(pairs),
        flags=tuple(dict.fromkeys((*flags, *exponent_flags))),
        notes=(*notes, *exponent_notes),
        data_hash=table.content_hash(),
    )


def _pair(
    table: RunTable,
    pair: RunPair,
    scratch: RunRow,
    law: LawFit | None,
    gap_of: GapOf | None,
    sampling: tuple[int, int],
) -> TransferPair:
    target = pair.target
    noise = pooled_seed_noise(law_runs(table, target.objective))
    if noise is None and law is not None and law.noise_sd:
        noise = LossNoise(law.noise_sd)
    gap = _gap(target, scratch, noise, gap_of)
    curve = curve_of(scratch_curve(table, target))
    log_D = math.log(scratch.D)
    at_D = curve.loss_at(log_D)
    fallback = surface_curve(law.surface, target.N, log_D, at_D) if law and law.surface else None
    wanted = scratch.loss + gap.value
    values, doubts = _extra_tokens(curve, fallback, (log_D, wanted), gap, sampling)
    flags = [*pair.flags, *doubts, *([] if noise else ["NO_SEED_NOISE"])]
    D_source = target.D_source or (pair.source.D if pair.source else 0.0)
    D_t = values["D_t"]
    net_tokens, net_loss = _net(target, pair.source, D_t, curve, fallback, (log_D, wanted))
    if net_tokens is None and D_t is not None:
        flags.append("NO_SOURCE_COMPUTE")
    source_objective = target.source_objective or ("mlm" if target.objective == "clm" else "clm")
    return TransferPair(
        source_run_id=target.source_run_id or "",
        target_run_id=target.run_id,
        scratch_run_id=scratch.run_id,
        source_objective=source_objective,
        objective=target.objective,
        N=target.N,
        D=target.D,
        D_source=D_source,
        loss_scratch=scratch.loss,
        loss_transfer=target.loss,
        gap=gap.value,
        gap_se=gap.se,
        D_t=D_t,
        D_t_low=values["low"],
        D_t_high=values["high"],
        D_t_per_source_token=D_t / D_source if D_t is not None and D_source > 0 else None,
        net_tokens=net_tokens,
        net_loss_gain=net_loss,
        method=_method(curve, values),
        flags=tuple(dict.fromkeys(flags)),
    )


def _gap(target: RunRow, scratch: RunRow, noise: LossNoise | None, gap_of: GapOf | None) -> _Gap:
    """The paired gap where per-sequence losses exist, else the difference of two losses on the same sequences."""
    if gap_of is not None:
        return _Gap(*gap_of(target.run_id, scratch.run_id), noise)
    errors = [row.loss_se for row in (target, scratch) if row.loss_se is not None]
    return _Gap(target.loss - scratch.loss, PAIRED_SHARE * max(errors) if errors else None, noise)


def _extra_tokens(
    curve: ScratchCurve,
    fallback: ScratchCurve | None,
    reached: tuple[float, float],
    gap: _Gap,
    sampling: tuple[int, int],
) -> tuple[dict[str, float | None], list[str]]:
    """D_t with its interval, the second estimate, and the doubts; `reached` is (ln D_f, transferred loss)."""
    flags = []
    if abs(gap.value) < 2.0 * gap.sd(2):
        flags.append("GAP_WITHIN_NOISE")
    elif gap.value > 0:
        flags.append("TRANSFER_HURTS")
    by_runs = _tokens(curve, curve.loss, *reached)
    by_surface = _tokens(fallback, fallback.loss, *reached) if fallback else math.inf
    used, estimate = curve, by_runs
    if not math.isfinite(by_runs):
        flags.append("OUTSIDE_SCRATCH_RANGE")
        if fallback is not None:
            used, estimate = fallback, by_surface
    elif math.isfinite(by_surface) and not 1 / 1.5 <= (by_surface / by_runs if by_runs else 1.0) <= 1.5:
        flags.append("METHODS_DISAGREE")
    drawn = _draws(used, reached, gap, sampling)
    low, high = (float(q) for q in np.quantile(drawn, [0.025, 0.975], method="inverted_cdf"))
    # A draw beyond the runs is known to lie beyond them, and no more: that end of the interval is their last point.
    ends = np.exp(used.log_D[[0, -1]]) - math.exp(reached[0])
    if math.isfinite(estimate) and (math.isinf(low) or math.isinf(high)):
        flags.append("OPEN_INTERVAL")
    low = float(ends[1]) if low == math.inf else low
    high = float(ends[0]) if high == -math.inf else high
    finite = {"D_t": estimate, "low": low, "high": high, "surface": by_surface, "runs": by_runs}
    return {name: value if math.isfinite(value) else None for name, value in finite.items()}, flags


def _tokens(curve: ScratchCurve, loss: FloatArray, log_D: float, wanted: float) -> float:
    """D_t for one set of curve losses: -inf or inf where the curve does not reach the loss."""
    found = curve.log_D_for(wanted, loss)
    return found if math.isinf(found) else math.exp(found) - math.exp(log_D)


def _draws(curve: ScratchCurve, reached: tuple[float, float], gap: _Gap, sampling: tuple[int, int]) -> FloatArray:
    """D_t under noise of the transferred run and of the curve's points, float64[draws]."""
    draws, seed = sampling
    log_D, wanted = reached
    rng = np.random.default_rng(seed)
    factor = gap.noise.factors(draws, rng) if gap.noise else np.ones(draws)
    losses = wanted + rng.standard_normal(draws) * gap.sd(1) * factor
    seed_sd = gap.noise.sd if gap.noise else 0.0
    point = np.where(curve.n_seeds > 0, seed_sd / np.sqrt(np.maximum(curve.n_seeds, 1.0)), 0.0)
    noise = rng.standard_normal((draws, len(point))) * point * factor[:, None]
    return np.array([_tokens(curve, curve.loss + e, log_D, loss) for e, loss in zip(noise, losses, strict=True)])


def _net(
    target: RunRow,
    source: RunRow | None,
    D_t: float | None,
    curve: ScratchCurve,
    fallback: ScratchCurve | None,
    reached: tuple[float, float],
) -> tuple[float | None, float | None]:
    """D_t less the tokens the source's compute would have bought, and the loss those tokens would have given up.

    `reached` is (ln D_f, transferred loss on the scratch curve's level). Compute is exact where the table has it.
    """
    log_D, transferred = reached
    exact = target.C_exact is not None
    C_source = target.C_source if target.C_source is not None else _compute(source, exact)
    if C_source is None:
        return None, None
    per_token = target.C_exact / target.D if target.C_exact is not None else 6.0 * target.N
    bought = C_source / per_token
    wanted = math.log(math.exp(log_D) + bought)
    instead = curve.loss_at(wanted)
    if math.isnan(instead) and fallback is not None:
        instead = fallback.loss_at(wanted)
    return None if D_t is None else D_t - bought, None if math.isnan(instead) else instead - transferred


def _compute(source: RunRow | None, exact: bool) -> float | None:
    if source is None:
        return None
    return source.C_exact if exact and source.C_exact is not None else 6.0 * source.N * source.D


def _method(curve: ScratchCurve, values: dict[str, float | None]) -> str:
    """Both estimates in words, the one used first."""

    def shown(value: float | None) -> str:
        return "out of range" if value is None else f"{'-' if value < 0 else ''}{format_count(abs(value))}"

    runs = f"same-N scratch runs ({len(curve.loss)} lengths): {shown(values['runs'])}"
    surface = f"fitted surface: {shown(values['surface'])}"
    return f"{surface}; {runs}" if values["runs"] is None and values["surface"] is not None else f"{runs}; {surface}"


def _exponent_doubts(pairs: list[TransferPair]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Why D_t = k D_f^a N^b is not fitted: too few pairs, or ln D_f and ln N move together."""
    if not pairs:
        return ("NO_PAIRS",), ("NO_PAIRS: the table holds no transferred run with a scratch partner.",)
    settings = np.unique(np.array([[math.log(p.D), math.log(p.N)] for p in pairs]), axis=0)
    condition = math.inf
    if len(settings) >= 3 and (np.ptp(settings, axis=0) > 0).all():
        r = abs(float(np.corrcoef(settings.T)[0, 1]))
        condition = math.sqrt((1.0 + r) / max(1.0 - r, 1e-12))
    if len(settings) >= _MIN_PAIRS and condition <= _MAX_CONDITION:
        return (), ()
    flags = ["TOO_FEW_PAIRS_FOR_EXPONENTS"] if len(settings) < _MIN_PAIRS else []
    flags += ["COLLINEAR_DESIGN"] if condition > _MAX_CONDITION else []
    sentence = (
        f"{flags[0]}: the exponents of D_t = k D_f^a N^b are refused: {len(settings)} different (N, D_f), condition "
        f"number of ln D_f and ln N {condition:.3g}; at least {_MIN_PAIRS} settings with a condition number below "
        f"{_MAX_CONDITION:.0f} would identify them."
    )
    return tuple(flags), (sentence,)
