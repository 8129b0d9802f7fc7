"""D_t: how many tokens of its own objective a run was spared by starting from the other objective's weights.

A transferred run ends at loss L_t; a scratch run of equal size needs D_f + D_t tokens for it. L_t is the scratch
level at D_f plus the paired gap, so that a run without any gap was spared no tokens. What those tokens are depends on
the form of the scratch law more than on noise: several forms and the runs of the same size are asked, D_t is their
weighted median, and its interval is drawn from all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.law_fit import Interval, LawFit, Refusal
from plm_scaling.laws.noise import LossNoise, law_runs, pooled_seed_noise
from plm_scaling.laws.surface import surface_loss
from plm_scaling.transfers.controls import over_rewarmed, tuning_flags
from plm_scaling.transfers.curves import ScratchCurve, curve_of
from plm_scaling.transfers.doubts import explain_pair, explain_shares, explain_trends
from plm_scaling.transfers.exchange import exchange_trends
from plm_scaling.transfers.exponents import transfer_laws
from plm_scaling.transfers.gaps import (
    FEW_REPLICATES,
    Gap,
    GapNoise,
    GapOf,
    Sampling,
    draw_noise,
    measure_gap,
    run_scatter,
)
from plm_scaling.transfers.joint import joint_fits
from plm_scaling.transfers.mixture import MeasuredPair, combine, interval_or_none
from plm_scaling.transfers.pairs import RunPair, control_of, find_pairs, near_partner, scratch_curve
from plm_scaling.transfers.readings import Anchor, Question, Reading, read_member, read_runs
from plm_scaling.transfers.scratch_laws import ScratchLaw, ScratchLaws
from plm_scaling.transfers.share import source_shares
from plm_scaling.transfers.transfer_fit import Overlap, TransferFit, TransferPair

__all__ = ["GapOf", "transferred_tokens"]

_REPLAYED: Final = 0.5
"""Beyond this share of tokens seen by the source, a transfer is as much a second pass as it is a transfer."""
_SAME_COMPUTE: Final = 0.01


@dataclass(frozen=True)
class _Setting:
    """What every pair of a table is read with."""

    table: RunTable
    scratch_laws: ScratchLaws
    given: Mapping[str, LawFit]
    gap_of: GapOf | None
    sampling: Sampling


def transferred_tokens(
    table: RunTable,
    laws: Mapping[str, LawFit] | None = None,
    gap_of: GapOf | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> TransferFit:
    """Effectively transferred tokens of every scratch/transferred pair, and what follows from them.

    Parameters
    ----------
    laws : fitted laws by objective: their forms, by their weights, are the estimators beside the scratch runs of the
        pair's own size. Without one, several forms are fitted to the table's scratch runs.
    gap_of : paired gap of two runs from their per-sequence losses; None takes the difference of the table's losses.
    draws : samples of noise, of the laws' parameters and of the form behind each interval.

    **Source:** Hernandez et al. 2021, section 2 (effective data transferred); read at the end of matched schedules.
    """
    setting = _Setting(table, ScratchLaws(table, laws, seed=seed), laws or {}, gap_of, Sampling(draws, seed))
    found = find_pairs(table)
    refused: list[Refusal] = []
    read: list[MeasuredPair] = []
    for pair in found:
        measured = _measure(setting, pair)
        if measured is None:
            refused.append(_no_partner(pair.target))
        else:
            read.append(measured)
    pairs = [one for one in read if one.target.source_control is None]
    controls = [one for one in read if one.target.source_control is not None]
    pairs = [_net_of_control(one, controls) for one in pairs]
    if not pairs and not refused:
        refused.append(Refusal(quantity="D_t", code="NO_PAIRS", reason="the table holds no complete transferred run"))
    trends, no_trend = exchange_trends(pairs)
    fitted, no_law = transfer_laws(pairs, seed=seed)
    joint = joint_fits(table, setting.scratch_laws, seed=seed)
    shares, no_share = source_shares(pairs, fitted, setting.scratch_laws)
    return TransferFit(
        pairs=tuple(one.pair for one in pairs),
        controls=tuple(one.pair for one in controls),
        trends=trends,
        shares=shares,
        laws=tuple(one.law for one in fitted),
        joint=joint,
        flags=tuple(dict.fromkeys((*_flags(pairs, refused), *(r.code for r in no_law)))),
        notes=(*_notes(pairs, (*refused, *no_law, *no_trend)), *explain_trends(trends), *explain_shares(shares)),
        refusals=(*refused, *no_law, *no_trend, *no_share),
        data_hash=table.content_hash(),
    )


def _no_partner(target: RunRow) -> Refusal:
    reason = (
        f"transferred run {target.run_id} has no scratch run of equal N, D, batch and data, and the table's scratch "
        "runs determine no law; add one to read its D_t"
    )
    return Refusal(quantity=f"D_t of {target.run_id}", code="NO_SCRATCH_PARTNER", reason=reason)


def _flags(pairs: Sequence[MeasuredPair], refused: Sequence[Refusal]) -> list[str]:
    return [*(refusal.code for refusal in refused), *(flag for one in pairs for flag in one.pair.flags)]


def _notes(pairs: Sequence[MeasuredPair], refusals: Sequence[Refusal]) -> tuple[str, ...]:
    notes = [note for one in pairs for note in explain_pair(one.pair)]
    # One pair has no trend over sizes, and nobody asked for one.
    told = {(r.quantity, r.reason): r for r in reversed(refusals) if r.code != "TOO_FEW_SIZES"}
    return (*notes, *(f"{r.code}: {r.quantity} refused: {r.reason}." for r in reversed(told.values())))


def _measure(setting: _Setting, pair: RunPair) -> MeasuredPair | None:
    """One pair read by every estimator; None without a scratch partner and without a scratch law."""
    law = setting.scratch_laws.of(pair.target)
    if pair.scratch is None and not law.members:
        return None
    noise = pooled_seed_noise(law_runs(setting.table, pair.target.objective))
    given = setting.given.get(pair.target.objective)
    if noise is None and given is not None and given.noise_sd:
        noise = LossNoise(given.noise_sd)
    runs = scratch_curve(setting.table, pair.target)
    curve = curve_of(runs) if pair.scratch else None
    question = _question(setting, pair, curve, noise, _most_noise(law, pair.target.loss))
    measured = combine(question, _readings(question, law, curve), _plain_pair(question, pair, law), curve)
    if noise is not None:
        fixed = combine(still := question.without_seeds(), _readings(still, law, curve), measured.pair, curve)
        update = {"D_t_fixed_seeds": interval_or_none(measured.pair.D_t, fixed.draws)}
        measured = replace(measured, pair=measured.pair.model_copy(update=update))
    mixed = {(row.batch_tokens, row.peak_lr) for row in runs} if pair.scratch else set()
    flags = [*pair.flags, *law.flags, *_gap_flags(question), *measured.pair.flags]
    if pair.scratch is None:
        flags = ["LAW_ONLY", *(flag for flag in flags if flag != "NO_SCRATCH_PARTNER")]
    if noise is None or noise.df < FEW_REPLICATES:
        flags.append("FEW_REPLICATES" if noise else "NO_SEED_NOISE")
    flags += tuning_flags(setting.table, pair.target, pair.scratch, noise)
    flags += ["SHUFFLED_SOURCE"] if pair.target.source_control is not None else []
    flags += ["MIXED_BATCH"] if len(mixed) > 1 else []
    flags += ["SOURCE_DATA_REPLAYED"] if (measured.pair.replayed_share or 0.0) > _REPLAYED else []
    flags += ["BEYOND_LAW_RANGE"] if _beyond(measured.pair, law) else []
    about = over_rewarmed(setting.table, pair.target, noise, setting.gap_of)
    return replace(measured, pair=measured.pair.model_copy(update=about | {"flags": tuple(dict.fromkeys(flags))}))


def _readings(question: Question, law: ScratchLaw, curve: ScratchCurve | None) -> list[Reading]:
    """Every form's reading, then that of the runs of the pair's size, which count as much as the best form."""
    readings = [read_member(question, member) for member in law.members]
    if curve is not None:
        weight = max((reading.weight for reading in readings), default=1.0)
        readings.append(read_runs(question, curve, law.best, weight))
    return readings


def _most_noise(law: ScratchLaw, loss: float) -> float:
    """What the seeds' standard deviation cannot exceed, nats: runs scatter about curves and laws by more."""
    scatter = run_scatter(law.runs) if law.runs else None
    if scatter is None and law.best is not None:
        scatter = law.best.residual_sd or law.best.rms_relative_error
    return scatter * loss if scatter else math.inf


def _question(
    setting: _Setting, pair: RunPair, curve: ScratchCurve | None, noise: LossNoise | None, most: float
) -> Question:
    """What is known of the scratch level, the gap and its noise; `most` bounds the seeds' standard deviation."""
    target, scratch = pair.target, pair.scratch
    worth = _source_worth(target, pair.source)
    if scratch is not None and curve is not None:
        gap = measure_gap(target, scratch, noise, setting.gap_of)
        at = curve.nearest(math.log(scratch.D))  # the curve's point that the partner is part of
        anchor = Anchor("paired", float(curve.log_D[at]), float(curve.loss[at]), scratch.run_id)
    elif near := near_partner(setting.table, target):
        gap = measure_gap(target, near, noise, setting.gap_of)
        anchor = Anchor("near", math.log(near.D), near.loss, near.run_id)
    else:
        anchor = Anchor("law", math.log(target.D), target.loss)
        gap = Gap(0.0, target.loss_se, noise)
    drawn = draw_noise(gap, target, anchor.scratch_id, setting.sampling, most)
    if anchor.kind == "law":
        drawn = GapNoise(drawn.sd, drawn.gap + drawn.partner, drawn.validation, np.zeros_like(drawn.partner))
    return Question(target, anchor, gap, drawn, worth, setting.sampling)


def _gap_flags(question: Question) -> list[str]:
    if question.anchor.kind != "paired":
        return []
    if abs(question.gap.value) < 2.0 * question.gap.known_se:
        return ["GAP_WITHIN_NOISE"]
    return ["TRANSFER_HURTS"] if question.gap.value > 0 else []


def _plain_pair(question: Question, pair: RunPair, law: ScratchLaw) -> TransferPair:
    """The pair's facts, D_t not yet read."""
    target, gap, noise = question.target, question.gap, question.gap.noise
    overlap, replayed = _overlap(target)
    if pair.scratch is not None:
        loss_scratch, value, se, total = pair.scratch.loss, gap.value, gap.se, gap.known_se if noise else None
    else:
        loss_scratch = _law_level(question, law)
        value, se, total = target.loss - loss_scratch, None, _law_error(question, law)
    return TransferPair(
        source_run_id=target.source_run_id or "",
        target_run_id=target.run_id,
        scratch_run_id=question.anchor.scratch_id,
        source_objective=target.source_objective or ("mlm" if target.objective == "clm" else "clm"),
        objective=target.objective,
        N=target.N,
        D=target.D,
        D_source=target.D_source or (pair.source.D if pair.source else 0.0),
        loss_scratch=loss_scratch,
        loss_transfer=target.loss,
        gap=value,
        gap_se=se,
        gap_total_se=total,
        overlap=overlap,
        replayed_share=replayed,
        source_worth=question.source_worth,
    )


def _law_level(question: Question, law: ScratchLaw) -> float:
    """The best form's scratch loss at the target's N and D, moved to the near partner's level if there is one."""
    assert law.best is not None
    target, anchor = question.target, question.anchor
    D = np.array([target.D, math.exp(anchor.log_D)])
    here, there = surface_loss(law.best, target.N, D, target.batch_tokens)
    return float(here if anchor.kind == "law" else here * anchor.level / there)


def _law_error(question: Question, law: ScratchLaw) -> float:
    """Standard error of that level with the transferred run's own, nats."""
    assert law.best is not None
    scatter = law.best.residual_sd or law.best.rms_relative_error
    if question.anchor.kind == "near":
        scatter *= min(1.0, abs(question.anchor.log_D - math.log(question.target.D)))
    return math.hypot(question.gap.known_se, scatter * question.target.loss)


def _overlap(target: RunRow) -> tuple[Overlap, float | None]:
    """Whether the target saw its source's data again, and the share of its distinct tokens that it had seen."""
    seen = target.seen_earlier
    if seen is None:
        return "unknown", None
    return "shared" if seen > 0 else "disjoint", seen / target.D_unique if target.D_unique else None


def _source_worth(target: RunRow, source: RunRow | None) -> float | None:
    """Target tokens that the source's compute would have paid for, both in one currency of compute.

    Exact FLOPs where both sides have them. A stated C_source that is 6 N D of the source, as a budget in a name is,
    is held against 6 N D of the target: exact FLOPs there would make the source look cheaper than it was.
    """
    exact = target.C_exact / target.D if target.C_exact is not None else None
    plain = 6.0 * target.N
    N = target.N_source or (source.N if source else target.N)
    D = target.D_source or (source.D if source else 0.0)
    if target.C_source is not None:
        nominal = abs(target.C_source - 6.0 * N * D) <= _SAME_COMPUTE * target.C_source
        return target.C_source / (plain if nominal or exact is None else exact)
    if source is None:
        return None
    if exact is not None and source.C_exact is not None:
        return source.C_exact / exact
    return 6.0 * source.N * source.D / plain


def _beyond(pair: TransferPair, law: ScratchLaw) -> bool:
    """Whether D_f + D_t lies beyond the tokens that the law's runs saw."""
    return law.best is not None and pair.D_t is not None and pair.D + pair.D_t > 1.05 * law.best.range_D[1]


def _net_of_control(one: MeasuredPair, controls: Sequence[MeasuredPair]) -> MeasuredPair:
    """The pair with what trained weights are worth whatever they learnt from taken off, where a control says so."""
    control = control_of(one.target, [other.target for other in controls])
    if control is None:
        return one
    other = next(found for found in controls if found.target.run_id == control.run_id)
    update: dict[str, object] = {"control_run_id": control.run_id, "D_t_control": other.pair.D_t}
    with np.errstate(invalid="ignore"):
        difference = one.draws - other.draws
    # Both draws beyond the scratch runs say nothing about their difference.
    if one.pair.D_t is not None and other.pair.D_t is not None and np.isfinite(difference).mean() > 0.95:
        value = one.pair.D_t - other.pair.D_t
        low, high = np.quantile(difference[np.isfinite(difference)], [0.025, 0.975])
        update["D_t_net_of_control"] = Interval(value=value, low=min(float(low), value), high=max(float(high), value))
    return replace(one, pair=one.pair.model_copy(update=update))
