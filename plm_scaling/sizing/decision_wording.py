"""A decision in sentences: the verdict, and why a published frontier says another size."""

from __future__ import annotations

import math
from typing import Final

from plm_scaling.core.units import format_count
from plm_scaling.sizing.answers import VALLEY_NATS, SizingLaw
from plm_scaling.sizing.decision_record import Decision
from plm_scaling.sizing.unique_data import MEASURED_EPOCHS, UNSEEN_EPOCHS

__all__ = ["difference_sentence", "verdict_sentence"]

_SAME: Final = 1.25
"""Factor in N below which two laws say the same."""


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
        f"{made.loss:.3f} nats ({interval}), within {VALLEY_NATS} nats of the best for this budget with probability "
        f"{_percent(made.probability)} by these laws; so is, on average, any size from {count(made.N_band[0], 2)} to "
        f"{count(made.N_band[1], 2)}."
    ) + _repeats_unseen(made)


def _repeats_unseen(made: Decision) -> str:
    """That nobody has repeated data so often."""
    if made.epochs is None or made.epochs < UNSEEN_EPOCHS:
        return ""
    return (
        f" But no published protein run repeats its data more than {MEASURED_EPOCHS:g} times, so that the size is the "
        "repeat law's alone: read it as too few tokens for a model of your own."
    )


def _percent(share: float) -> str:
    """A share of draws; certainty is not theirs to give."""
    return "over 99 %" if share > 0.99 else f"{100.0 * share:.0f} %"


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
