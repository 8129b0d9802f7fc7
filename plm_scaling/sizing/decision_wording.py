"""A decision in sentences: the verdict, and why a published frontier says another size."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final

from plm_scaling.core.units import format_count
from plm_scaling.sizing.answers import VALLEY_NATS, SizingLaw
from plm_scaling.sizing.decision_record import Decision
from plm_scaling.sizing.unique_data import MEASURED_EPOCHS, UNSEEN_EPOCHS

__all__ = [
    "chance",
    "chance_clause",
    "chance_doubts",
    "difference_sentence",
    "unseen_repeats",
    "verdict_sentence",
]

_SAME: Final = 1.25
"""Factor in N below which two laws say the same."""
_SURE_DECADES: Final = 0.5
"""Beyond so many decades outside the runs a share of the draws says little of the chance that it holds."""


def verdict_sentence(made: Decision) -> str:
    """What to train, what to expect of it, and how sure that is."""
    count = format_count
    epochs = "" if made.epochs is None else f" ({count(made.epochs, 2)} epochs)"
    kept = ""
    if made.useful_C is not None:
        kept = f" and keep {100.0 * (1.0 - made.C / made.C_budget):.0f} % of the budget"
    interval = f"{100.0 * made.level:.0f} % interval {made.loss_low:.3f} to {made.loss_high:.3f}"
    return (
        f"Train {count(made.N, 2)} parameters on {count(made.D, 2)} tokens{epochs}{kept}: expected loss "
        f"{made.loss:.3f} nats ({interval}); {_standing(made)}; any size from {count(made.N_band[0], 2)} to "
        f"{count(made.N_band[1], 2)} loses less than {VALLEY_NATS} nats on average."
    ) + (f" But {unseen}" if (unseen := unseen_repeats(made.epochs)) else "")


def _standing(made: Decision) -> str:
    doubts = chance_doubts(made.extrapolation_decades, made.form_factor, made.flags)
    return chance_clause(made.probability, doubts, known="NO_DRAWS" not in made.flags)


def chance_clause(share: float, doubts: Collection[str], *, known: bool = True) -> str:
    """How often a size is near the best: a share of the laws' draws, which is a chance only if one of them holds.

    Parameters
    ----------
    share : of the draws, by weight.
    doubts : why the laws may all be wrong (`chance_doubts`); known : whether the laws state any uncertainty.
    """
    if not known:
        best = f"how probable it is that this size is within {VALLEY_NATS} nats of the best for this budget"
        return f"{best} cannot be said, for the laws state no uncertainty"
    best = f"if one of these laws holds, this size is within {VALLEY_NATS} nats of the best for this budget"
    said = f"{best} with probability {chance(share)}"
    return f"{said} (and that is in doubt: {'; '.join(doubts)})" if doubts else said


def chance_doubts(decades: float, form_factor: float, flags: Collection[str]) -> list[str]:
    """What a share of draws leaves out: that the laws agree does not make them right."""
    said = []
    if decades > _SURE_DECADES:
        said.append(f"they are asked {decades:.1f} decades outside their runs")
    if "FORMS_DISAGREE" in flags:
        said.append(f"their forms disagree on N by a factor {form_factor:.1f}")
    if "TEXT_REPEATS" in flags:
        said.append("what repeats are worth is taken from text")
    return said


def unseen_repeats(epochs: float | None) -> str:
    """That nobody has repeated data so often; empty where somebody has, or nobody says how often they are repeated."""
    if epochs is None or epochs < UNSEEN_EPOCHS:
        return ""
    return (
        f"no published protein run repeats its data more than {MEASURED_EPOCHS:g} times: what so many are worth "
        "is the law of repeats' word alone; read it as too few tokens for a model of your own."
    )


def chance(share: float) -> str:
    """A share of draws in words; neither certainty nor its contrary is theirs to give."""
    if share > 0.99:
        return "over 99 %"
    return "under 1 %" if share < 0.01 else f"{math.floor(100.0 * share + 0.5)} %"


def difference_sentence(
    frontier: SizingLaw, ensemble: SizingLaw, C: float, N: float | None = None, *, repeats: bool = False
) -> str:
    """Why a published frontier and fits of the same runs name different sizes at C; empty if they hardly do.

    Parameters
    ----------
    frontier : a power law N ~ C^a through the lowest losses at equal compute.
    N : size that the fits give, where it is known better than by their estimates.
    repeats : the plan repeats its data, which neither law is asked about here.
    """
    said, here = frontier.optimum(C), N or ensemble.optimum(C)
    if max(said / here, here / said) < _SAME or frontier.range_C is None:
        return ""
    top, count = frontier.range_C[1], format_count
    slopes = [math.log(law.optimum(C * 1.1) / law.optimum(C / 1.1)) / math.log(1.21) for law in (frontier, ensemble)]
    text = (
        f"{frontier.law_id} says {count(said, 2)}, {ensemble.law_id} {count(here, 2)}"
        f"{', both for data without repeats' if repeats else ''}: the frontier is a straight "
        f"line, N ~ C^{slopes[0]:.2f}, through the lowest loss seen at each of a few budgets; the fits weigh every run "
        "of the same study at once, with losses that have a ceiling and a floor, and their N grows as "
        f"C^{slopes[1]:.2f}"
    )
    if top < C:
        text += (
            f"; at the largest budget that was run, {top:.0e} FLOPs, they say {count(frontier.optimum(top), 2)} and "
            f"{count(ensemble.optimum(top), 2)}, and {math.log10(C / top):.1f} decades beyond it no run tells which is "
            "right"
        )
    return text + "."
