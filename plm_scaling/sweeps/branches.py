"""Runs under `wsd` that are one run until the shorter ones decay: who branches off from whom, and where."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from plm_scaling.core.run import RunConfig
from plm_scaling.core.schedule import Schedule

__all__ = ["Branching", "find_branches"]


@dataclass(frozen=True)
class Branching:
    """A run's place among those it shares steps with.

    Attributes
    ----------
    trunk : id of the run whose state it takes over; None for a trunk, and for a run that shares nothing.
    begin_step : steps it takes over.
    keep_steps : of a trunk: where the others branch off, rising.
    """

    trunk: str | None = None
    begin_step: int = 0
    keep_steps: tuple[int, ...] = ()


def find_branches(
    configs: Iterable[RunConfig], schedule_of: Callable[[RunConfig], Schedule]
) -> Mapping[str, Branching]:
    """The runs that share steps, by id: of those that differ by D alone the longest is the trunk of all others.

    Until its decay nothing of a run depends on D, so the result is that of a run from scratch.

    Parameters
    ----------
    schedule_of : the schedule that training will work out for a config.

    **Source:** Hagele et al. 2024, section 5.
    """
    groups: dict[str, list[RunConfig]] = {}
    for config in configs:
        if config.schedule == "wsd":
            groups.setdefault(config.model_copy(update={"D": 1}).content_hash(), []).append(config)
    found: dict[str, Branching] = {}
    for group in groups.values():
        trunk, *others = sorted(group, key=lambda config: -config.D)
        last = schedule_of(trunk).decay_begins
        begins = {config.run_id: _begin(schedule_of(config), last) for config in others}
        found |= {run_id: Branching(trunk.run_id, begin) for run_id, begin in begins.items() if begin}
        found[trunk.run_id] = Branching(keep_steps=tuple(sorted({begin for begin in begins.values() if begin})))
    return found


def _begin(schedule: Schedule, last: int) -> int:
    """Where a run leaves the trunk, which itself decays from step `last` on; 0 if their steps are not the same."""
    begin = schedule.decay_begins
    return begin if schedule.warmup_steps <= begin <= last else 0
