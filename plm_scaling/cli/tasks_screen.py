"""The tasks of `evaluate ls` as lines for a terminal: the parts of a family stand together."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from plm_scaling.evals.task import Task

__all__ = ["task_lines"]

_NAME: Final = 22
_METRIC: Final = 11
_ASKED_ON: Final = {"likelihood": "--sequences FASTA", "generation": "no data"}
"""What tasks of a kind are asked on; `--data FOLDER` for the others."""


def task_lines(tasks: Sequence[Task], width: int = 100) -> list[str]:
    """A heading for every kind, then name, metric, what it is, what it needs and reads.

    Parameters
    ----------
    width : most characters of a line.
    """
    lines = []
    for kind, of_kind in groupby(tasks, key=lambda task: task.kind):
        lines.append(f"{kind} ({_ASKED_ON.get(kind, '--data FOLDER')})")
        for _, family in groupby(of_kind, key=_family):
            lines += _lines(tuple(family), width)
    return lines


def _family(task: Task) -> tuple[object, ...]:
    """What tasks share that are listed as one: all but their last word."""
    group, _, part = task.name.rpartition(".")
    about = task.about.removesuffix(f", {part}")
    return (group, about, task.metric, task.needs) if group and about != task.about else (task.name,)


def _lines(family: tuple[Task, ...], width: int) -> list[str]:
    first = family[0]
    group, _, part = first.name.rpartition(".")
    parts = [task.name.rpartition(".")[2] for task in family]
    if len(family) > 1:
        name, about = f"{group}.*", f"{first.about.removesuffix(f', {part}')}: {', '.join(parts)}"
        files = dict.fromkeys(
            file.replace(own, "PART") for task, own in zip(family, parts, strict=True) for file in task.files
        )
    else:
        name, about, files = first.name, first.about, dict.fromkeys(first.files)
    asks = [f"needs {' or '.join(first.needs)}"] if first.needs else []
    asks += [f"reads {', '.join(files)}"] if files else []
    indent = 2 + _NAME + _METRIC
    texts = [textwrap.wrap(text, max(width - indent, 30)) for text in (about, "; ".join(asks)) if text]
    shown = [line for text in texts for line in text]
    return [f"  {name:<{_NAME}}{first.metric:<{_METRIC}}{shown[0]}", *(" " * indent + line for line in shown[1:])]
