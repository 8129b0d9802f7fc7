"""The forms of an ensemble in words."""

from __future__ import annotations

__all__ = ["form_name"]

_PLATEAU = ", L0 = "


def form_name(member: str) -> str:
    """Name of an ensemble's member for a reader: `bounded+batch, L0 = 2.713` in words."""
    form, _, plateau = member.partition(_PLATEAU)
    words = form.replace("+batch", " with a batch term").replace("_", " ")
    return f"{words}, at most {float(plateau):.2f} nats" if plateau else words
