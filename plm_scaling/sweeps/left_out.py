"""`LeftOut`: a run that something is not done to, and why."""

from __future__ import annotations

from collections.abc import Iterable

from plm_scaling.core.records import Record

__all__ = ["LeftOut", "by_reason"]


class LeftOut(Record):
    """A planned run that is not sealed, halted or waited for, and why."""

    run_id: str
    reason: str


def by_reason(left_out: Iterable[LeftOut], most: int = 4) -> list[str]:
    """A line per reason, with the names of at most so many of its runs."""
    groups: dict[str, list[str]] = {}
    for run in left_out:
        groups.setdefault(run.reason, []).append(run.run_id)
    return [
        ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") + f": {reason}"
        for reason, names in groups.items()
    ]
