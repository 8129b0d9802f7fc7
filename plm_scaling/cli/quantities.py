"""Numbers on the command line: 15e9, 15B, 2.5M or 40_000."""

from __future__ import annotations

import click

from plm_scaling.core.units import parse_quantity

__all__ = ["quantity"]


def quantity(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Callback of an option that takes a positive number; its errors name the option.

    Raises
    ------
    QuantityError : not a positive number.
    """
    del ctx
    return None if value is None else parse_quantity(value, what=f"--{(param.name or '').replace('_', '-')}")
