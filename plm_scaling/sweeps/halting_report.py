"""What came of halting runs whose ends cannot move N_opt: verdicts, compute saved, the optima that are left."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from plm_scaling.laws.completion import Completion
from plm_scaling.laws.law_fit import Interval
from plm_scaling.sweeps.left_out import LeftOut, by_reason

__all__ = ["TOLERANCE_OF_INTERVAL", "HaltingReport", "Optimum", "Verdict", "why_not_halted"]

TOLERANCE_OF_INTERVAL: Final = 0.1
"""Of the half-width of the interval of ln N_opt: what the ends of all halted runs of a budget may account for."""
_NUMBER: Final = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")


@dataclass(frozen=True)
class Verdict:
    """Whether the rest of one paused run is worth its compute."""

    run_id: str
    halt: bool
    reason: str
    effect: float | None = None
    """Standard deviation of ln N_opt of its budget that its end accounts for; None where that could not be said."""
    half_width: float | None = None
    """Half of the interval of ln N_opt of its budget, as if all runs had gone to their ends."""
    completion: Completion | None = None
    """Its predicted end."""


@dataclass(frozen=True)
class Optimum:
    """The isoFLOP minimum of one budget, halted runs taken in with their predicted ends (as by `fit --partial`)."""

    objective: str
    C: float
    """FLOPs, in the plan's currency."""
    n_sizes: int
    n_halted: int
    N_opt: Interval | None
    """None: no minimum inside the sizes tried."""


@dataclass(frozen=True)
class HaltingReport:
    """Of a whole plan, runs halted by earlier calls included."""

    n_runs: int
    n_halted: int
    C_planned: float
    """Exact training FLOPs of the plan."""
    C_saved: float
    seconds_saved: float | None
    """Device seconds; None where a halted run's speed is not known."""
    optima: tuple[Optimum, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    """Those of this call."""
    remarks: tuple[str, ...] = ()
    """Why something was not halted, or could not be said."""


def why_not_halted(verdicts: Iterable[Verdict]) -> list[str]:
    """A line per reason for which runs go on, with their number and some of their ids.

    Most reasons name a run's own numbers: those that differ in nothing else count as one, told as of the first run.
    """
    groups: defaultdict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        if not verdict.halt:
            groups[_NUMBER.sub("", verdict.reason)].append(verdict)
    lines = []
    for alike in groups.values():
        reason = alike[0].reason
        told = (
            reason if {verdict.reason for verdict in alike} == {reason} else f"{reason} (the first; the others alike)"
        )
        [line] = by_reason(LeftOut(run_id=verdict.run_id, reason=told) for verdict in alike)
        lines.append(f"{len(alike)} not halted: {line}")
    return lines
