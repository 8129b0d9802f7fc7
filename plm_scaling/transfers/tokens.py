"""D_t: how many tokens of its own objective a run was spared by starting from the other objective's weights.

A transferred run ends at loss L_t; a scratch run of equal size needs D_f + D_t tokens for it. L_t is the scratch
curve's level at D_f plus the paired gap, so that a run without any gap was spared no tokens.
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
from plm_scaling.transfers.doubts import doubts_of_exponents, explain_pair
from plm_scaling.transfers.pairs import RunPair, find_pairs, scratch_curve
from plm_scaling.transfers.transfer_fit import Overlap, TransferFit, TransferPair

__all__ = ["GapOf", "transferred_tokens"]

GapOf = Callable[[str, str], tuple[float, float]]
"""(target run id, scratch run id) -> paired (loss of target - loss of scratch, its standard error), nats."""

_REPLAYED: Final = 0.5
"""Beyond this share of tokens seen by the source, a transfer is as much a second pass as it is a transfer."""


@dataclass(frozen=True)
class _Gap:
    """The transferred loss against scratch, nats: paired gap, its validation error, and the seeds' noise of one run."""

    value: float
    se: float | None
    noise: LossNoise | None

    @property
    def known_se(self) -> float:
        """Standard error of the gap from all that is known: validation, and the seeds of both runs."""
        return math.hypot(self.se or 0.0, math.sqrt(2.0) * (self.noise.sd if self.noise else 0.0))


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
        notes += explain_pair(fitted)
        flags += fitted.flags
    exponent_flags, exponent_notes = doubts_of_exponents(pairs)
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
    scratch_runs = scratch_curve(table, target)
    curve = curve_of(scratch_runs)
    # The curve's point that the partner is part of.
    log_D = float(curve.log_D[curve.nearest(math.log(scratch.D))])
    at_D = curve.loss_at(log_D)
    fallback = surface_curve(law.surface, target.N, log_D, at_D) if law and law.surface else None
    values, doubts = _extra_tokens(curve, fallback, log_D, gap, sampling)
    overlap, replayed = _overlap(target)
    flags = [*pair.flags, *doubts]
    flags += [] if noise else ["NO_SEED_NOISE"]
    flags += ["MIXED_BATCH"] if len({(row.batch_tokens, row.peak_lr) for row in scratch_runs}) > 1 else []
    flags += ["SOURCE_DATA_REPLAYED"] if replayed is not None and replayed > _REPLAYED else []
    D_source = target.D_source or (pair.source.D if pair.source else 0.0)
    D_t = values["D_t"]
    net_tokens, net_loss = _net(target, pair.source, D_t, curve, fallback, (log_D, at_D + gap.value))
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
        gap_total_se=gap.known_se if noise else None,
        overlap=overlap,
        replayed_share=replayed,
        D_t=D_t,
        D_t_low=values["low"],
        D_t_high=values["high"],
        D_t_per_source_token=D_t / D_source if D_t is not None and D_source > 0 else None,
        net_tokens=net_tokens,
        net_loss_gain=net_loss,
        method=_method(curve, values),
        flags=tuple(dict.fromkeys(flags)),
    )


def _overlap(target: RunRow) -> tuple[Overlap, float | None]:
    """Whether the target saw its source's data again, and the share of its distinct tokens that it had seen."""
    seen = target.seen_earlier
    if seen is None:
        return "unknown", None
    return "shared" if seen > 0 else "disjoint", seen / target.D_unique if target.D_unique else None


def _gap(target: RunRow, scratch: RunRow, noise: LossNoise | None, gap_of: GapOf | None) -> _Gap:
    """The paired gap where per-sequence losses exist, else the difference of two losses on the same sequences."""
    if gap_of is not None:
        value, se = gap_of(target.run_id, scratch.run_id)
        return _Gap(value, None if math.isnan(se) else se, noise)
    errors = [row.loss_se for row in (target, scratch) if row.loss_se is not None]
    return _Gap(target.loss - scratch.loss, PAIRED_SHARE * max(errors) if errors else None, noise)


def _extra_tokens(
    curve: ScratchCurve, fallback: ScratchCurve | None, log_D: float, gap: _Gap, sampling: tuple[int, int]
) -> tuple[dict[str, float | None], list[str]]:
    """D_t with its interval, the second estimate, and the doubts; exp(log_D) are the partner's tokens."""
    flags = []
    if abs(gap.value) < 2.0 * gap.known_se:
        flags.append("GAP_WITHIN_NOISE")
    elif gap.value > 0:
        flags.append("TRANSFER_HURTS")
    by_runs = _tokens(curve, curve.loss, log_D, gap.value)
    by_surface = _tokens(fallback, fallback.loss, log_D, gap.value) if fallback else math.inf
    used, estimate = curve, by_runs
    if not math.isfinite(by_runs):
        flags.append("OUTSIDE_SCRATCH_RANGE")
        if fallback is not None:
            used, estimate = fallback, by_surface
    elif math.isfinite(by_surface) and not 1 / 1.5 <= (by_surface / by_runs if by_runs else 1.0) <= 1.5:
        flags.append("METHODS_DISAGREE")
    drawn = _draws(used, log_D, gap, sampling)
    low, high = (float(q) for q in np.quantile(drawn, [0.025, 0.975], method="inverted_cdf"))
    # A draw beyond the runs is known to lie beyond them, and no more: that end of the interval is their last point.
    ends = np.exp(used.log_D[[0, -1]]) - math.exp(used.log_D[used.nearest(log_D)])
    if math.isfinite(estimate) and (math.isinf(low) or math.isinf(high)):
        flags.append("OPEN_INTERVAL")
    low = float(ends[1]) if low == math.inf else low
    high = float(ends[0]) if high == -math.inf else high
    finite = {"D_t": estimate, "low": low, "high": high, "surface": by_surface, "runs": by_runs}
    return {name: value if math.isfinite(value) else None for name, value in finite.items()}, flags


def _tokens(curve: ScratchCurve, loss: FloatArray, log_D: float, gap: float) -> float:
    """D_t for one set of curve losses: -inf or inf where the curve does not reach the loss.

    Both ends are read off the curve, so that no gap is no D_t, on a flat stretch too.
    """
    level = float(curve.monotone(loss)[curve.nearest(log_D)])
    found = curve.log_D_for(level + gap, loss)
    return found if math.isinf(found) else math.exp(found) - math.exp(curve.log_D_for(level, loss))


def _draws(curve: ScratchCurve, log_D: float, gap: _Gap, sampling: tuple[int, int]) -> FloatArray:
    """D_t under the noise of the gap and of the curve's points, float64[draws].

    The scratch partner is in the gap and, as one of its seeds, in the curve's point at its D: its noise is drawn once.
    """
    draws, seed = sampling
    rng = np.random.default_rng(seed)
    sd = gap.noise.sd * gap.noise.factors(draws, rng) if gap.noise else np.zeros(draws)
    transferred, partner = rng.standard_normal((2, draws)) * sd
    gaps = gap.value + rng.standard_normal(draws) * (gap.se or 0.0) + transferred - partner
    n_seeds = np.maximum(curve.n_seeds, 1.0)
    noise = rng.standard_normal((draws, len(n_seeds))) * sd[:, None] / np.sqrt(n_seeds)
    at = curve.nearest(log_D)
    noise[:, at] = partner / n_seeds[at] + noise[:, at] * math.sqrt(1.0 - 1.0 / n_seeds[at])
    noise *= curve.n_seeds > 0
    return np.array([_tokens(curve, curve.loss + e, log_D, drawn) for e, drawn in zip(noise, gaps, strict=True)])


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
