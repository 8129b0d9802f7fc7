"""How a curve ends: the level it reaches, and how it scatters about its own trend."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from numpy.polynomial.chebyshev import chebvander

__all__ = ["end_level", "end_weights", "mean_of_last", "smooth", "tail_sd"]

Float = npt.NDArray[np.float64]

_LAST: Final = 5
_END_SHARE: Final = 0.25
_END_POINTS: Final = 7
_MAX_LAG: Final = 0.9
_HALF_WINDOW: Final = 10
_BULK: Final = 5
_MIN_BULK: Final = 24
_TAIL_SHARE: Final = 0.2
_TAIL: Final = (10, 100)


def smooth(loss: Float, half: int = _HALF_WINDOW) -> Float:
    """Mean over 2 half + 1 neighbours, float64[n]; at the ends, a straight line through the last ones."""
    n, width = len(loss), 2 * half + 1
    line = _line(min(n, width))
    if n < width:
        return line @ loss
    total = np.concatenate([[0.0], np.cumsum(loss)])
    level = np.empty(n)
    level[half : n - half] = (total[width:] - total[:-width]) / width
    level[:half] = (line @ loss[:width])[:half]
    level[n - half :] = (line @ loss[-width:])[half + 1 :]
    return level


def _bulk(position: Float, loss: Float) -> Float:
    """The bulk of a learning curve: a polynomial in the logarithm of the evaluation's number."""
    degree = _BULK if len(loss) >= _MIN_BULK else 3
    span = _span(np.log(position), min(degree, len(loss) - 1))
    return np.asarray(span @ (span.T @ loss))


@lru_cache(maxsize=64)
def _line(n: int) -> Float:
    """Matrix float64[n, n] that maps n neighbours to their straight line."""
    span = _span(np.arange(n, dtype=np.float64), min(1, n - 1))
    return np.asarray(span @ span.T)


def _span(x: Float, degree: int) -> Float:
    """Orthonormal columns of the polynomials in x up to a degree, float64[n, degree + 1]."""
    centred = 2.0 * (x - x[0]) / max(float(x[-1] - x[0]), 1e-9) - 1.0
    return np.asarray(np.linalg.qr(chebvander(centred, degree))[0])


def tail_sd(loss: Float) -> float | None:
    """Scatter of a curve's last fifth about its own trend, nats; None with fewer than ten evaluations."""
    n = len(loss)
    points = min(max(round(_TAIL_SHARE * n), _TAIL[0]), _TAIL[1])
    if n < _TAIL[0]:
        return None
    bulk = _bulk(np.arange(1.0, n + 1), loss)
    left = loss - bulk - smooth(loss - bulk)
    return float(left[-points:].std(ddof=1))


def mean_of_last(loss: Float) -> tuple[float, float | None]:
    """Mean of the last five losses and its standard error from the scatter of the curve's tail; None if too short."""
    last = loss[-_LAST:]
    sd = tail_sd(loss)
    return float(last.mean()), None if sd is None else sd / float(np.sqrt(len(last)))


def end_weights(step: Float) -> Float:
    """Weights float64[n] of the losses of a curve in the level at which a parabola through its last quarter ends.

    The loss still falls while the learning rate does: a mean over the end lies too high, a straight line ends too low.

    Parameters
    ----------
    step : optimiser steps, float64[n], n >= 7.

    **Source:** ordinary least squares.
    """
    points = min(max(round(_END_SHARE * len(step)), _END_POINTS), len(step))
    weights = np.zeros(len(step))
    weights[-points:] = np.linalg.pinv(_parabola(step[-points:]))[0]
    return weights


def _parabola(step: Float) -> Float:
    x = (step - step[-1]) / max(float(step[-1] - step[0]), 1.0)
    return np.stack([np.ones(len(x)), x, x**2], axis=1)


def end_level(step: Float, loss: Float) -> tuple[float, float | None]:
    """Where a parabola through the last quarter of a curve ends, and its standard error; short curves: the mean.

    Parameters
    ----------
    step : optimiser steps, float64[n].
    loss : nats, float64[n], with noise of its own at every evaluation.

    **Source:** ordinary least squares; the error is widened by the lag-1 correlation r of the residuals,
    sqrt((1 + r) / (1 - r)).
    """
    if len(loss) < _END_POINTS:
        return mean_of_last(loss)
    weights = end_weights(step)
    points = int((weights != 0).sum())
    design = _parabola(step[-points:])
    left = loss[-points:] - design @ (np.linalg.pinv(design) @ loss[-points:])
    squares = float((left**2).sum())
    lag = min(max(float((left[1:] * left[:-1]).sum()) / squares, 0.0), _MAX_LAG) if squares > 0 else 0.0
    variance = squares / max(points - 3, 1) * float((weights**2).sum()) * (1.0 + lag) / (1.0 - lag)
    return float(weights @ loss), float(np.sqrt(variance))
