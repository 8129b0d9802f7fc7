"""Laws by group as rows for a terminal, and what `fit --by` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plm_scaling.cli.fit_screen import Row, with_interval
from plm_scaling.cli.render import emit, next_command, say, warn
from plm_scaling.core.units import format_count
from plm_scaling.laws.group_fit import GroupFit, GroupLaw

__all__ = ["fit_by", "group_rows", "homology_rows"]

_SHOWN = 40
"""Groups on the screen; the file holds all."""


def fit_by(runs: Path, out: Path | None, dry_run: bool, output: str, **choices: Any) -> int:
    """Fit the laws of groups, show them and write them beside the runs; exit code 0."""
    from plm_scaling import api

    fitted = api.fit_groups(runs, tell=say, **choices)
    target = out or runs.parent / f"groups-{fitted.objective}.json"
    if not dry_run:
        fitted.write(target)  # before anything is printed: whoever reads the output may leave early
    rows = group_rows(fitted)
    title = f"{fitted.objective} by {fitted.by}, {len(fitted.groups)} groups, {fitted.n_runs} runs"
    emit(output, rows=rows[:_SHOWN] if output == "human" else rows, title=title, value=fitted)
    if output == "human":
        if len(rows) > _SHOWN:
            say(f"{len(rows) - _SHOWN} smaller groups are in the file")
        emit(output, rows=homology_rows(fitted), title="between groups")
    for note in fitted.notes:
        warn(note)
    if dry_run:
        say(f"would write {target}")
    else:
        say(f"wrote {target}")
        next_command(f"plm-scaling report {runs.parent}")
    return 0


def group_rows(fit: GroupFit) -> list[Row]:
    """One row per group, by falling number of targets."""
    return [_row(group, fit) for group in fit.groups]


def _row(group: GroupLaw, fit: GroupFit) -> Row:
    tokens = "-" if group.homologous_tokens is None else format_count(group.homologous_tokens)
    top = f"of the {fit.fastest_of} fastest" if fit.fastest_of > 1 else "fastest"
    return {
        "group": group.name,
        "sequences": str(group.sequences),
        "tokens of its own": tokens,
        "loss, largest run": with_interval(group.loss),
        "per doubling of N": with_interval(group.per_doubling_N),
        f"{top}, N": f"{group.fastest_N:.0%}",
        "per doubling of D": with_interval(group.per_doubling_D),
        f"{top}, D": f"{group.fastest_D:.0%}",
        "flags": ",".join(group.flags),
    }


def homology_rows(fit: GroupFit) -> list[Row]:
    """How far groups differ, how well they can be told apart, and their line in homologous tokens."""
    names = ("loss, largest run", "per doubling of N", "per doubling of D")
    line = fit.homology
    slopes = (line.loss, line.per_doubling_N, line.per_doubling_D) if line else (None, None, None)
    return [
        {
            "quantity": name,
            "sd between groups": f"{sd:.2g}",
            "own data weigh": f"{weight:.0%}",
            "per doubling of a group's tokens": with_interval(slope) if slope else "-",
        }
        for name, sd, weight, slope in zip(names, fit.spread, fit.reliability, slopes, strict=True)
    ]
