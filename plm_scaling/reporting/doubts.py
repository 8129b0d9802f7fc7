"""What one may not conclude: every flag, gap and limit of a study as a sentence."""

from __future__ import annotations

from collections import Counter
from typing import Final

from plm_scaling.core.run import Objective
from plm_scaling.core.units import format_count
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.reporting.arms import repeat_series
from plm_scaling.reporting.study import OBJECTIVES, Study
from plm_scaling.reporting.wording import join_words, percent, power_of_ten

__all__ = ["FLAG_MEANING", "limits", "named_doubts"]

FLAG_MEANING: Final[dict[str, str]] = {
    "NO_INTERIOR_MINIMUM": "the lowest loss stands at the edge of the sizes tried",
    "SHALLOW_MINIMUM": "the row is so flat that noise decides where its minimum is",
    "TOO_FEW_SIZES": "fewer than three sizes at this budget",
    "TOO_FEW_MINIMA": "fewer than two budgets with a minimum inside, so exponents are refused",
    "CONCAVE": "the parabola opens downwards",
    "DATA_EXHAUSTED": "the run needs more passes over the corpus than the plan allows unmarked",
    "FEW_WINDOWS": "few windows in the training pool",
    "FEW_STEPS": "fewer than 200 optimiser steps",
    "OUTSIDE_SCRATCH_RANGE": "the transferred loss lies outside the scratch runs",
    "NO_SCRATCH_PARTNER": "no scratch run of equal setting",
    "TOO_FEW_PAIRS_FOR_EXPONENTS": "too few pairs to fit how transfer scales",
    "E_UNIDENTIFIED": "the irreducible loss is not determined by these runs",
    "EXPONENT_AT_BOUND": "an exponent stands at the edge of its allowed range",
    "COLLINEAR_DESIGN": "N and D vary together, so their effects cannot be told apart",
    "MULTIMODAL": "several different laws fit about equally well",
    "OUT_OF_HULL": "a statement beyond the runs' range of N and D",
    "TOO_FEW_LEVELS": "too few different N or D for a surface",
}
"""Flags in words, for the marks in tables; the fits' own notes come first."""


def limits(study: Study) -> tuple[str, ...]:
    """What holds for every study of this kind, with this one's numbers."""
    sentences = [
        "A CLM loss and an MLM loss measure different things: neither objective wins by having the smaller number.",
    ]
    if study.laws:
        top = max(law.range_C[1] for law in study.laws.values())
        bottom = min(law.range_C[0] for law in study.laws.values())
        largest = max((row.N for row in study.table), default=0.0)
        sentences.append(
            f"Measured between C = {power_of_ten(bottom)} and {power_of_ten(top)} FLOPs with models up to "
            f"{format_count(largest)} parameters, on one corpus. Do not carry its exponents to larger models."
        )
    if study.plan and study.plan.scale != 1.0:
        sentences.append(f"All budgets and token counts of the spec were multiplied by {study.plan.scale:.3g}.")
    if study.table and not any(study.noise_sd(objective) for objective in OBJECTIVES):
        sentences.append("No setting was trained with two seeds: seed noise is unknown, every interval too narrow.")
    return tuple(sentences)


def named_doubts(study: Study) -> tuple[str, ...]:
    """Every doubt the fits, runs and curves raise, without repetition."""
    sentences = [sentence for objective in OBJECTIVES for sentence in _law_doubts(study, objective)]
    if study.transfer:
        sentences += _noted("Transfer", study.transfer.notes, study.transfer.flags)
        for pair in study.transfer.pairs:
            sentences += _noted(f"Transfer at N = {format_count(pair.N)}", (), pair.flags)
    sentences += _repeat_doubts(study)
    sentences += _run_doubts(study)
    return tuple(dict.fromkeys(sentences))


def _noted(what: str, notes: tuple[str, ...], flags: tuple[str, ...]) -> list[str]:
    """The notes; where there are none, the flags in words."""
    found = list(notes) or [FLAG_MEANING.get(flag, flag) for flag in flags]
    return [f"{what}: {text.rstrip('.')}." for text in found]


def _law_doubts(study: Study, objective: Objective) -> list[str]:
    law = study.laws.get(objective)
    if law is None:
        return []
    name = objective.upper()
    sentences = _noted(name, law.notes, law.flags)
    if not law.notes and law.isoflop:
        for row in law.isoflop.rows:
            sentences += _noted(f"{name} at C = {power_of_ten(row.C)}", (), row.flags)
    sentences += _currency_doubt(law)
    floor = study.floors.get(objective)
    above = [row for row in study.table.of(objective) if floor is not None and row.loss > floor]
    if above and floor is not None:
        sentences.append(
            f"{name}: {len(above)} of {len(study.table.of(objective))} runs "
            f"{'ends' if len(above) == 1 else 'end'} above the loss of residue frequencies alone ({floor:.3f}), "
            "worse than a model without context."
        )
    return sentences


def _currency_doubt(law: LawFit) -> list[str]:
    """Rows whose N_opt moves by more than 10 % when compute is counted the other way."""
    if law.isoflop is None or law.isoflop_other_currency is None:
        return []
    other = law.isoflop_other_currency
    shifts = []
    for row in law.isoflop.rows:
        twin = min(
            other.rows, key=lambda r: sum(abs(a - b) for a, b in zip(r.loss, row.loss, strict=False)), default=None
        )
        if row.N_opt and twin and twin.N_opt:
            shifts.append(abs(twin.N_opt.value / row.N_opt.value - 1))
    if not shifts or max(shifts) <= 0.10:
        return []
    return [
        f"{law.objective.upper()}: the best size moves by up to {percent(max(shifts))} when compute is counted as "
        f"{other.currency} instead of {law.isoflop.currency}."
    ]


def _repeat_doubts(study: Study) -> list[str]:
    """Runs whose validation loss was lower before the end: they overfitted."""
    sentences = []
    for series in repeat_series(study):
        noise = 2 * (study.noise_sd(series.objective) or 0.005)
        for arm in series.arms:
            curve = study.curves.get(arm.rows[0].run_id)
            if curve is None or len(curve.validation_loss) < 2:
                continue
            lowest = int(curve.validation_loss.argmin())
            rise = float(curve.validation_loss[-1] - curve.validation_loss[lowest])
            if rise > noise:
                share = float(curve.validation_D[lowest] / curve.validation_D[-1])
                sentences.append(
                    f"{series.objective.upper()}, {arm.label}: validation loss turned upwards during training, lowest "
                    f"after {percent(share)} of the tokens and {rise:.2f} nats higher at the end."
                )
    return sentences


def _run_doubts(study: Study) -> list[str]:
    sentences = list(study.missing)
    flags = Counter(flag for row in study.table for flag in row.flags.split(",") if flag)
    sentences += [
        f"{number} {'run' if number == 1 else 'runs'}: {FLAG_MEANING.get(flag, flag)} ({flag})."
        for flag, number in sorted(flags.items())
    ]
    cut = [row.run_id for row in study.table if not row.schedule_complete]
    if cut:
        sentences.append(f"{len(cut)} runs stopped before their schedule's end and are no runs of smaller D.")
    if study.plan:
        done = {row.run_id for row in study.table}
        absent = [run for run in study.plan.runs if run.run_id not in done]
        if absent:
            roles = join_words(sorted({role.replace("_", " ") for run in absent for role in run.roles}))
            verb = "is" if len(absent) == 1 else "are"
            sentences.append(f"{len(absent)} of {len(study.plan.runs)} planned runs {verb} not complete ({roles}).")
    for objective in OBJECTIVES:
        ids = {row.validation_id for row in study.table.of(objective)}
        if len(ids) > 1:
            sentences.append(f"{objective.upper()}: runs were scored on {len(ids)} different validation sets.")
    return sentences
