"""`Interval`: an estimate with its interval, the unit every law states its numbers in."""

from __future__ import annotations

from plm_scaling.core.records import Record

__all__ = ["Interval"]


class Interval(Record):
    """An estimate and its interval."""

    value: float
    low: float
    high: float
    level: float = 0.95
