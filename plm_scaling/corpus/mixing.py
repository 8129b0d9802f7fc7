"""Counter-based hashing: every choice of the data order and of the masks is a pure function of integers.

**Source:** Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators" (SplitMix64 finaliser).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["GOLDEN", "mix64", "mix_key"]

GOLDEN: Final = 0x9E3779B97F4A7C15
"""Odd step of the SplitMix64 counter: consecutive inputs land far apart."""

_MASK: Final = (1 << 64) - 1
_C1: Final = 0xBF58476D1CE4E5B9
_C2: Final = 0x94D049BB133111EB
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)
_M1, _M2 = np.uint64(_C1), np.uint64(_C2)


def mix64(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64 finaliser, a bijection of the 64-bit integers, element by element (wraps modulo 2^64).

    **Source:** Steele, Lea and Flood 2014, section 5 (variant 13 constants).
    """
    x = x ^ (x >> _S30)
    x *= _M1
    x ^= x >> _S27
    x *= _M2
    x ^= x >> _S31
    return x


def mix_key(*parts: int) -> int:
    """One 64-bit key of several integers; their order matters."""
    key = 0
    for part in parts:
        x = (key + GOLDEN + (part & _MASK)) & _MASK
        x = ((x ^ (x >> 30)) * _C1) & _MASK
        x = ((x ^ (x >> 27)) * _C2) & _MASK
        key = x ^ (x >> 31)
    return key
