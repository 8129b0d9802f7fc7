"""A straight line through few points: its slope, and the interval that the scatter about it allows."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["fitted_line", "slopes_of", "student_t"]

FloatArray = npt.NDArray[np.float64]
_LEVEL: Final = 0.95


def slopes_of(x: FloatArray, y_nB: FloatArray) -> FloatArray:
    """Least-squares slopes of the columns, float64[B]."""
    centred = x - x.mean()
    return np.asarray(centred @ y_nB / (centred @ centred))


def fitted_line(x: FloatArray, y: FloatArray) -> tuple[float, tuple[float | None, float | None]]:
    """Slope, and its 95 % interval from the scatter about the line; none for two points.

    **Source:** least squares with Student's t of n - 2.
    """
    slope = float(slopes_of(x, y[:, None])[0])
    left = len(x) - 2
    if left < 1:
        return slope, (None, None)
    centred = x - x.mean()
    rest = y - y.mean() - slope * centred
    se = math.sqrt(float(rest @ rest) / left / float(centred @ centred))
    half = student_t(left) * se
    return slope, (slope - half, slope + half)


def student_t(freedom: int) -> float:
    """Student's t of 95 %, two-sided."""
    from scipy.special import stdtrit  # three times the import of numpy: only where a trend is judged

    return float(stdtrit(freedom, 0.5 + _LEVEL / 2))
