"""What one may not conclude: every flag, gap and limit of a study as a sentence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from plm_scaling.core.run import Objective
from plm_scaling.core.units import format_count
from plm_scaling.corpus.format import VAL_IID
from plm_scaling.laws.doubts import explain, explain_row
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.reporting.arms import repeat_series
from plm_scaling.reporting.study import OBJECTIVES, Study, fitted_set, is_on_page, pair_set
from plm_scaling.reporting.wording import flag_words, join_words, percent, power_of_ten, split_flags
from plm_scaling.transfers.doubts import explain_pair

__all__ = ["RUN_FLAGS", "limits", "merged", "named_doubts"]

RUN_FLAGS: Final[dict[str, str]] = {
    "DATA_EXHAUSTED": "more passes over the corpus than the plan allows unmarked",
    "FEW_WINDOWS": "fewer windows in a training pool than one batch draws",
    "FEW_STEPS": "fewer than 200 optimiser steps, so the schedule says more than the size",
    "MEMORY": "an estimated peak above 80 % of the machine's memory",
    "DAMAGED_CHECKPOINT": "resumed from an older checkpoint, the newest being damaged",
    "FORCED_RESUME": "resumed by force under other threads, number format or versions",
    "WORLD_CHANGED": "resumed by another number of processes: the same batches, summed in another order",
    "STARTED_ANEW": "computed again from the start, no checkpoint being whole",
    "BRANCHED": "the steps before its decay taken over from a longer run, so that device_s leaves them out",
    "MICRO_WINDOWS_CHANGED": "gradients summed in other pieces than the order says, so not bit-exact with it",
    "RECOMPUTE_CHANGED": "other blocks recomputed than the order says, so not bit-exact with it",
    "TRACKER_LOST": "a tracker failed; metrics.parquet is complete",
    "SPIKES_SKIPPED": "updates left out after spikes of the gradient norm",
    "LOSS_SPIKE": "the training loss rose by more than 0.5 nats over its minimum",
    "FOREIGN_SOURCE": "descends from weights made elsewhere: what those were trained on is in no ledger here",
}
"""What a run's flag or a plan's note says of it; flags of fits have their sentences from the fits."""


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
    sentences = _fit_doubts(study)
    sentences += [sentence for objective in OBJECTIVES for sentence in _law_doubts(study, objective)]
    if study.transfer:
        pairs = study.transfer.pairs
        notes = study.transfer.notes or tuple(note for pair in pairs for note in explain_pair(pair))
        sentences += [_spoken("Transfer", note) for note in merged(notes)]
        sets = sorted({pair_set(study, pair) for pair in pairs} - {study.validation})
        sentences += [f"Transfer: judged on {name}, not on this page's {study.validation}." for name in sets]
    sentences += _repeat_doubts(study)
    sentences += _run_doubts(study)
    return tuple(dict.fromkeys(sentences))


def merged(notes: Iterable[str]) -> tuple[str, ...]:
    """Notes of the same flag as one sentence; where their words differ (budgets, runs, numbers), all stand in turn.

    A note is "FLAG: sentence"; those without a flag, or that do not run word by word alike, stay as they are.
    """
    groups: list[list[list[str]]] = []
    for note in dict.fromkeys(notes):
        words = note.split()
        alike = next((group for group in groups if _alike(group[0], words)), None)
        if alike is None:
            groups.append([words])
        else:
            alike.append(words)
    return tuple(" ".join(_in_turn(column) for column in zip(*group, strict=True)) for group in groups)


def _alike(first: list[str], words: list[str]) -> bool:
    """Same flag, same length, and no more than two words in five differ."""
    if not words or first[:1] != words[:1] or len(first) != len(words) or not _is_flag(words[0]):
        return False
    return sum(a != b for a, b in zip(first, words, strict=True)) <= 0.4 * len(words)


def _is_flag(word: str) -> bool:
    return word.endswith(":") and word[:-1].replace("_", "").isalnum() and word.isupper()


def _in_turn(words: tuple[str, ...]) -> str:
    """One word if all are equal, else each in the order of the notes: 1.5e+11 / 5.9e+11."""
    if len(set(words)) == 1:
        return words[0]
    marks = words[-1][len(words[-1].rstrip(",;:.")) :]
    return " / ".join(word.rstrip(",;:.") for word in words) + marks


def _spoken(who: str, note: str) -> str:
    """Who it is about, the sentence, the flag at its end."""
    flag, _, text = note.partition(" ")
    if not _is_flag(flag):
        return f"{who}: {note.rstrip('.')}."
    return f"{who}: {text.rstrip('.')} ({flag[:-1]})."


def _fit_doubts(study: Study) -> list[str]:
    """The fits' own notes; one that two objectives share is said once."""
    who: dict[str, list[str]] = {}
    for objective in OBJECTIVES:
        law = study.laws.get(objective)
        for note in merged(_notes(law)) if law else ():
            if note.startswith("CURRENCY_SHIFT:") and law and _currency_doubt(law):
                continue  # said with its size
            who.setdefault(note, []).append(objective.upper())
    return [_spoken(" and ".join(names), note) for note, names in who.items()]


def _notes(law: LawFit) -> tuple[str, ...]:
    rows = law.isoflop.rows if law.isoflop else ()
    return law.notes or (*explain(law.flags, law.surface), *(note for row in rows for note in explain_row(row)))


def _law_doubts(study: Study, objective: Objective) -> list[str]:
    law = study.laws.get(objective)
    if law is None:
        return []
    name = objective.upper()
    sentences = _currency_doubt(law)
    if not is_on_page(study, law):
        made = fitted_set(study, law) or f"another validation set (id {law.validation_id})"
        sentences.append(
            f"{name}: the laws were fitted on {made}, while this page shows losses on {study.validation}: "
            f"fit again with --validation {study.validation} before comparing."
        )
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
            if rise > noise:  # curves are of val_iid, whatever set the page shows
                share = float(curve.validation_D[lowest] / curve.validation_D[-1])
                sentences.append(
                    f"{series.objective.upper()}, {arm.label}: loss on {VAL_IID} turned upwards during training, "
                    f"lowest after {percent(share)} of the tokens and {rise:.2f} nats higher at the end."
                )
    return sentences


def _flagged(study: Study) -> list[str]:
    """Flags of runs and notes of the plan, each with the number of its runs."""
    runs: dict[str, set[str]] = {}
    for row in study.table:
        for flag in split_flags(row.flags):
            runs.setdefault(flag, set()).add(row.run_id)
    for planned in study.plan.runs if study.plan else ():
        for flag in planned.notes:
            runs.setdefault(flag, set()).add(planned.run_id)
    all_runs = {row.run_id for row in study.table} | {run.run_id for run in (study.plan.runs if study.plan else ())}
    return [
        f"{len(ids)} of {len(all_runs)} runs: {RUN_FLAGS.get(flag, flag_words((flag,)))} ({flag})."
        for flag, ids in sorted(runs.items())
    ]


def _run_doubts(study: Study) -> list[str]:
    sentences = [*study.missing, *_flagged(study)]
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
