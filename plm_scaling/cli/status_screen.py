"""How `status` and `watch` show a sweep: a line per run, a line of totals."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from plm_scaling.core.units import format_count

if TYPE_CHECKING:
    from plm_scaling.sweeps.halting_report import Optimum
    from plm_scaling.sweeps.isoflop_view import IsoflopLine
    from plm_scaling.sweeps.status import RunLine
    from plm_scaling.sweeps.totals import SweepStatus, SweepTotals

__all__ = [
    "duration",
    "isoflop_rows",
    "json_text",
    "live_rows",
    "optima_rows",
    "plain_rows",
    "screen_rows",
    "totals_row",
    "totals_text",
]

_URGENT = ("running", "failed", "diverged", "damaged", "interrupted", "planned", "halted", "complete")
_UNTOLD = ("the process is gone", "")


def duration(seconds: float | None) -> str:
    """Seconds as 45 s, 12 min, 3.4 h or 2.1 d."""
    if seconds is None:
        return "-"
    for unit, size, limit in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if seconds < limit * size:
            shown = seconds / size
            return f"{shown:.0f} {unit}" if shown >= 10 or unit == "s" else f"{shown:.1f} {unit}"
    return f"{seconds / 86400:.1f} d"


def screen_rows(lines: Sequence[RunLine]) -> list[dict[str, Any]]:
    """What people see."""
    return [
        {
            **_shown(line),
            "tokens/s": format_count(line.tokens_per_s) if line.tokens_per_s else "-",
            "MFU": "-" if line.mfu is None else f"{100 * line.mfu:.0f} %",
            "ETA": duration(line.seconds_left),
            "reason": _reason(line),
        }
        for line in lines
    ]


def plain_rows(lines: Sequence[RunLine]) -> list[dict[str, Any]]:
    """What programs see: the columns there have always been, then exact numbers."""
    return [
        {
            **_shown(line),
            "tokens/s": format_count(line.tokens_per_s) if line.tokens_per_s else "-",
            "reason": line.reason,
            "last_error": line.last_error,
            "step": line.step,
            "n_steps": line.n_steps,
            "attempts": line.attempts,
            "N": line.N,
            "D_planned": line.D,
            "D_done": line.D_done,
            "D_unique": line.D_unique,
            "C_exact": line.C_exact,
            "C_planned": line.C_planned,
            "device_s": line.device_s,
            "tokens_per_s": line.tokens_per_s,
            "mfu": line.mfu,
            "seconds_left": line.seconds_left,
        }
        for line in lines
    ]


def _shown(line: RunLine) -> dict[str, Any]:
    return {
        "run": line.run_id,
        "roles": line.roles,
        "objective": line.objective,
        "shape": line.shape,
        "D": format_count(line.D) if line.D else "-",
        "status": line.status,
        "progress": f"{100 * line.step / line.n_steps:.0f} %" if line.n_steps else "-",
        "loss": line.val_loss if line.val_loss is not None else line.loss,
    }


def _reason(line: RunLine) -> str:
    """Why a run stopped, and the last words of its log where they say more."""
    if not line.last_error or line.last_error in line.reason:
        return line.reason
    if line.status == "failed" and line.reason not in _UNTOLD:
        return line.reason
    return "; ".join(text for text in (line.reason, f"log: {line.last_error}") if text)


def live_rows(lines: Sequence[RunLine], room: int) -> tuple[list[dict[str, Any]], int]:
    """The rows that matter most right now, at most `room` of them, and how many are left out."""
    order = sorted(lines, key=lambda line: _URGENT.index(line.status))
    return screen_rows(order[: max(1, room)]), max(0, len(order) - max(1, room))


def totals_text(totals: SweepTotals) -> str:
    """Totals in one line for people."""
    counts = ", ".join(f"{count} {state}" for state, count in totals.counts.items() if count)
    planned = f" of {totals.C_planned:.3g}" if totals.C_planned else ""
    parts = [
        counts or "no runs",
        f"{totals.C_exact:.3g}{planned} FLOPs",
        f"{duration(totals.device_s)} of devices" + (f", ${totals.usd:,.2f}" if totals.usd is not None else ""),
        f"{format_count(totals.D_unique)} unique and {format_count(totals.D_repeated)} repeated tokens",
    ]
    if totals.seconds_left is not None:
        parts.append(f"{duration(totals.seconds_left)} left at this rate")
    return "; ".join(parts)


def totals_row(totals: SweepTotals) -> dict[str, Any]:
    """Totals as one flat row."""
    row = dataclasses.asdict(totals)
    return {**row.pop("counts"), **row}


def isoflop_rows(lines: Sequence[IsoflopLine]) -> list[dict[str, Any]]:
    """The early IsoFLOP view as a table; the least loss of each budget so far is marked."""
    return [
        {
            "objective": line.objective,
            "C": f"{line.C:.3g}",
            "shape": line.shape,
            "N": format_count(line.N),
            "D": format_count(line.D),
            "complete": f"{line.complete} of {line.runs}",
            "loss": line.val_loss,
            "best": "<" if line.is_best else "",
        }
        for line in lines
    ]


def optima_rows(optima: Sequence[Optimum]) -> list[dict[str, Any]]:
    """IsoFLOP minima after runs were halted."""
    return [
        {
            "objective": line.objective,
            "C": f"{line.C:.3g}",
            "sizes": line.n_sizes,
            "halted": line.n_halted,
            "N_opt": format_count(line.N_opt.value) if line.N_opt else "-",
            "95 %": f"{format_count(line.N_opt.low)} to {format_count(line.N_opt.high)}" if line.N_opt else "-",
        }
        for line in optima
    ]


def json_text(found: SweepStatus, isoflop: Sequence[IsoflopLine] | None = None) -> str:
    """One object with the totals, the runs, remarks, and the IsoFLOP view if there is one."""
    value: dict[str, Any] = {
        "totals": dataclasses.asdict(found.totals),
        "remarks": list(found.remarks),
        "runs": plain_rows(found.lines),
    }
    if isoflop is not None:
        value["isoflop"] = [dataclasses.asdict(line) for line in isoflop]
    return json.dumps(value, indent=1)
