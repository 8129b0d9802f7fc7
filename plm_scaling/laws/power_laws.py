"""Power laws as straight lines in log-log space, for many draws of the same points at once."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import FitError
from plm_scaling.laws.forms import FloatArray

__all__ = ["fit_power_law", "log_lines"]


def log_lines(log_x: FloatArray, log_y: FloatArray, root: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Slopes and intercepts float64[m] of lines through log_y float64[m, k], points weighted by `root` squared."""
    centre = float(np.average(log_x, weights=root**2))
    design = np.stack([np.ones_like(log_x), log_x - centre], axis=1) * root[:, None]
    level, slope = np.linalg.pinv(design) @ (log_y * root).T
    return slope, level - slope * centre


def fit_power_law(x: npt.ArrayLike, y: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> tuple[float, float]:
    """(a, k) of y = k x^a by least squares in log space; in linear space the largest point would decide alone.

    Raises
    ------
    FitError : fewer than two different x, or values that are not positive.
    """
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if not ((xs > 0).all() and (ys > 0).all()) or len(np.unique(xs)) < 2:
        raise FitError("a power law needs positive values at two or more different x")
    log_x, log_y = np.log(xs), np.log(ys)
    root = np.ones_like(log_x) if weights is None else np.sqrt(np.asarray(weights, dtype=np.float64))
    slope, level = log_lines(log_x, log_y[None], root)
    return float(slope[0]), math.exp(float(level[0]))
