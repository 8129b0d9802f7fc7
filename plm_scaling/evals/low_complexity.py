"""How much of a sequence is of low complexity: windows of few kinds of residues."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

__all__ = ["low_complexity_share"]

_WINDOW: Final = 20
_LOW_ENTROPY: Final = 1.5


def low_complexity_share(sequence: str) -> float:
    """Share of windows of 20 residues whose composition has an entropy below 1.5 nats.

    A sequence shorter than a window is one.
    """
    windows = [sequence[i : i + _WINDOW] for i in range(max(1, len(sequence) - _WINDOW + 1))]
    low = 0
    for window in windows:
        share = np.array([window.count(letter) for letter in set(window)]) / len(window)
        # A window that is cut short cannot have more entropy than its length allows.
        low += -float(share @ np.log(share)) < min(_LOW_ENTROPY, 0.75 * math.log(max(len(window), 2)))
    return low / len(windows)
