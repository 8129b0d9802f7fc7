"""What a stopped run's own files say last: the line of its log that names the error, its last logged numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from plm_scaling.core.run_folder import Attempt, RunFolder

__all__ = ["has_flag", "last_error_line", "last_metrics", "merged_metrics"]

_TAIL: Final = 16_384
"""Bytes looked at, from the end: a log may hold gigabytes of anything."""
_LONGEST: Final = 200
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_UNPRINTED: Final = re.compile(r"[^\x20-\x7e\u00a0-\ud7ff]+")
_ERROR: Final = re.compile(
    r"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)\b|\b(?:error|killed|oom)\b", re.IGNORECASE
)


def last_error_line(attempt: Attempt) -> str:
    """The last line of an attempt's log that speaks of an error, else its last line; at most 200 characters.

    Colours and what cannot be printed are left out. Empty without a log that can be read.
    """
    lines = [_printed(line) for line in _tail(attempt.log_path).replace("\r", "\n").split("\n")]
    spoken = [line for line in lines if line]
    if not spoken:
        return ""
    return next((line for line in reversed(spoken) if _ERROR.search(line)), spoken[-1])


def last_metrics(attempt: Attempt) -> dict[str, Any]:
    """The last whole line with a step that an attempt logged; empty if there is none."""
    for line in reversed(_tail(attempt.metrics_path).split("\n")):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and "step" in value:
            return value
    return {}


def merged_metrics(folder: RunFolder) -> list[dict[str, Any]]:
    """`RunFolder.metrics`, faster: lines that are all whole are parsed in one call."""
    merged: dict[Any, dict[str, Any]] = {}
    for attempt in folder.attempts():
        merged |= {line["step"]: line for line in _lines(attempt) if isinstance(line["step"], int)}
    return [merged[step] for step in sorted(merged)]


def _lines(attempt: Attempt) -> list[dict[str, Any]]:
    try:
        lines = attempt.metrics_path.read_text().splitlines()
        values = json.loads(f"[{','.join(lines)}]")
    except FileNotFoundError:
        return []
    except (OSError, ValueError):
        values = []
    whole = [value for value in values if isinstance(value, dict)]
    if not values or len(whole) < len(lines):
        return attempt.metrics()
    return [value for value in whole if "step" in value]


def has_flag(attempt: Attempt, flag: str) -> bool:
    """Whether an attempt's first remarks carry this flag."""
    try:
        with attempt.metrics_path.open("rb") as handle:
            return f'"flag": "{flag}"'.encode() in handle.read(_TAIL)
    except OSError:
        return False


def _printed(line: str) -> str:
    return _UNPRINTED.sub(" ", _ESCAPES.sub("", line)).strip()[:_LONGEST]


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, path.stat().st_size - _TAIL))
            return handle.read(_TAIL).decode(errors="replace")
    except OSError:
        return ""
