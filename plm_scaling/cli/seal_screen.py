"""Seals and their scores as rows and sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plm_scaling.core.units import format_count
from plm_scaling.sweeps.seal_records import LEVELS

if TYPE_CHECKING:
    from plm_scaling.sweeps.seal_records import Seal
    from plm_scaling.sweeps.seal_scores import SealScore

__all__ = ["score_lines", "score_rows", "sealed_rows"]


def sealed_rows(seal: Seal) -> list[dict[str, Any]]:
    """What is sealed, a row per run."""
    return [
        {
            "run": run.run_id,
            "N": run.N,
            "D": run.D,
            "loss": run.loss,
            "lo90": run.interval_90[0],
            "hi90": run.interval_90[1],
            "decades_beyond": run.decades_beyond,
        }
        for run in seal.runs
    ]


def score_rows(score: SealScore, *, plain: bool) -> list[dict[str, Any]]:
    """Every sealed run with its loss, or why it has none that counts; plain: numbers as they are."""
    measured = {run.sealed.run_id: run for run in score.scored}
    reasons = {run.run_id: run.reason for run in (*score.waiting, *score.not_counted)}
    rows = []
    for sealed in score.seal.runs:
        run = measured.get(sealed.run_id)
        counts = {"N": sealed.N, "D": sealed.D}
        error = run.error if run else None
        rows.append(
            {
                "sealed": score.seal.made,
                "run": sealed.run_id,
                "objective": score.seal.objective,
                **(counts if plain else {name: format_count(value) for name, value in counts.items()}),
                "predicted": sealed.loss,
                "lo90": sealed.interval_90[0],
                "hi90": sealed.interval_90[1],
                "measured": run.measured if run else None,
                "error": error if plain or error is None else _error(error),
                **{f"in_{100 * level:g}": _word(run.is_inside(level) if run else None, plain) for level in LEVELS},
                "why not": reasons.get(sealed.run_id, ""),
            }
        )
    return rows


def _word(value: bool | None, plain: bool) -> bool | str | None:
    return value if plain or value is None else "yes" if value else "no"


def score_lines(score: SealScore) -> list[str]:
    """One seal in sentences."""
    seal = score.seal
    head = f"{seal.objective}, sealed {seal.made} ({seal.sha256[:16]}): {len(score.scored)} of {len(seal.runs)} scored"
    tail = "".join(
        f", {len(runs)} {what}"
        for runs, what in ((score.waiting, "waiting"), (score.not_counted, "not counted"))
        if runs
    )
    lines = [head + tail, *(f"  {note}" for note in seal.notes)]
    if score.scored:
        low, high = score.mean_error_expected
        lines.append(
            f"  error {100 * score.mean_absolute_error:.2f} % on average; mean {_error(score.mean_error)}, "
            f"the seal expected {_error(low)} to {_error(high)} (90 %)"
        )
        for level in LEVELS:
            cover = score.coverage(level)
            low, high = cover.interval
            lines.append(
                f"  {100 * level:g} % intervals: {cover.inside} of {cover.of} inside ({_whole(cover.share)}, "
                f"95 % interval {_whole(low)} to {_whole(high)})"
            )
    return lines


def _whole(share: float) -> str:
    return f"{100 * share:.0f} %"


def _error(share: float) -> str:
    return f"{100 * share:+.2f} %"
