"""The causes of a disagreement as rows: exponents of all configurations, then one switch a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plm_scaling.laws.causes import CauseTable

__all__ = ["reading_rows", "switch_rows"]

Row = dict[str, Any]


def reading_rows(found: CauseTable) -> list[Row]:
    """A line per configuration."""
    return [
        {
            "a": None if reading.a_N is None else f"{reading.a_N.value:.3f}",
            "95 %": None if reading.a_N is None else f"{reading.a_N.low:.2f} to {reading.a_N.high:.2f}",
            "minima": reading.n_minima,
            "configuration": reading.name,
            "flags": ",".join(reading.flags),
        }
        for reading in found.readings
    ]


def switch_rows(found: CauseTable, *, exact: bool = False) -> list[Row]:
    """A line per switch; rounded for people unless `exact`."""
    if exact:
        return [
            {
                **switch.model_dump(exclude={"shift"}),
                "shift": switch.shift.value,
                "shift_low": switch.shift.low,
                "shift_high": switch.shift.high,
                "resolved": switch.resolved,
            }
            for switch in found.switches
        ]
    return [
        {
            "switched": switch.cause,
            "from -> to": switch.change,
            "a": f"{switch.a_before:.3f} -> {switch.a_after:.3f}",
            "moves a by": f"{switch.shift.value:+.3f}",
            "95 %": f"{switch.shift.low:+.2f} to {switch.shift.high:+.2f}",
            "": "" if switch.resolved else "not resolved",
            "all else": switch.fixed,
        }
        for switch in found.switches
    ]
