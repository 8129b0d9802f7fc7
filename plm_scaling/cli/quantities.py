"""Numbers on the command line: 15e9, 15B, 2.5M or 40_000."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, Final

import click

from plm_scaling.core.units import parse_quantity

__all__ = ["BUDGET", "budget_words", "quantity"]

BUDGET: Final = (
    *("gpu_hours", "usd", "flops", "usd_per_gpu_hour"),
    *("objective", "gpu", "unique_tokens", "mfu", "laws", "force"),
)
"""Options about a budget that `size` and `spend` share."""


def quantity(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Callback of an option that takes a positive number; its errors name the option.

    Raises
    ------
    QuantityError : not a positive number.
    """
    del ctx
    return None if value is None else parse_quantity(value, what=f"--{(param.name or '').replace('_', '-')}")


def budget_words(asked: Mapping[str, Any]) -> str:
    """A question about a budget as `size` and `spend` take it; other options are left out."""
    words: list[str] = []
    for name in BUDGET:
        given = asked.get(name)
        for value in given if isinstance(given, tuple) else (given,):
            if value:
                words += [f"--{name.replace('_', '-')}", *([] if value is True else [_said(value)])]
    return shlex.join(words)


def _said(value: object) -> str:
    """A number as short as it is read back the same."""
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return repr(value) if isinstance(value, float) and float(short) != value else short
