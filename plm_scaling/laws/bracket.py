"""Roots of rising functions and lowest points by signs of a slope: bracketed, so that kinks and cliffs do no harm."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

__all__ = ["lowest_bracketed", "root_around", "root_of_rising"]

_STEPS: Final = 2500
"""More than any bracket of doubles needs to close."""
_PATIENCE: Final = 3
"""Steps in which a bracket must have halved; otherwise it is halved."""
_EPSILON: Final = 2.0**-52


def root_of_rising(f: Callable[[float], float], low: float, high: float) -> float:
    """Where f turns from negative to positive in [low, high]; the end where it does so nowhere inside.

    To neighbouring doubles, nearly. Inverse quadratic interpolation where the last three points bear it, else halves;
    a jump is a root too, and infinite values count by their sign.

    **Source:** Chandrupatla 1997, Advances in Engineering Software 28, 145.
    """
    f_low, f_high = f(low), f(high)
    if f_low >= 0:
        return low
    if f_high <= 0:
        return high
    a, b, c, f_a, f_b, f_c = high, low, low, f_high, f_low, f_low
    t, widths = 0.5, [high - low] * _PATIENCE
    for _ in range(_STEPS):
        x = a + t * (b - a)
        f_x = f(x)
        if (f_x > 0) == (f_a > 0):
            c, f_c = a, f_a
        else:
            c, f_c, b, f_b = b, f_b, a, f_a
        a, f_a = x, f_x
        width, least = abs(b - a), 2.0 * _EPSILON * min(abs(a), abs(b))
        if f_x == 0 or width <= least:
            break
        stuck = width > 0.5 * widths[-_PATIENCE]
        widths.append(width)
        t = 0.5 if stuck else _inverse_quadratic(a, b, c, f_a, f_b, f_c)
        t = min(max(t, 0.5 * least / width), 1.0 - 0.5 * least / width)
    return a if abs(f_a) <= abs(f_b) else b


def _inverse_quadratic(a: float, b: float, c: float, f_a: float, f_b: float, f_c: float) -> float:
    """Share of the way from a to b at which the parabola x(f) through three points is at f = 0; 0.5 if it is bent."""
    if not (math.isfinite(f_a) and math.isfinite(f_b) and math.isfinite(f_c)) or f_c in (f_a, f_b) or c == b:
        return 0.5
    xi, phi = (a - b) / (c - b), (f_a - f_b) / (f_c - f_b)
    if not (phi**2 < xi and (1.0 - phi) ** 2 < 1.0 - xi):
        return 0.5
    return f_a / (f_b - f_a) * f_c / (f_b - f_c) + (c - a) / (b - a) * f_a / (f_c - f_a) * f_b / (f_c - f_b)


def root_around(f: Callable[[float], float], start: float, reach: float = 1e4) -> float:
    """The root of a rising f near `start`: the bracket doubles until it holds one, or is `reach` wide on that side."""
    step, rising = 1.0, f(start)
    if rising == 0:
        return start
    sign = -1.0 if rising > 0 else 1.0
    near = start
    while step < reach and f(far := start + sign * step) * rising > 0:
        near, step = far, 2.0 * step
    return root_of_rising(f, min(near, far), max(near, far))


def lowest_bracketed(f: Callable[[float], float], slope: Callable[[float], float], points: Sequence[float]) -> float:
    """The x of the lowest f on [points[0], points[-1]].

    Every valley between two neighbouring points, where `slope` turns from negative to positive, is followed to its
    bottom; the points themselves are tried too, so that ends, cusps and steps among them are found. Of equals the
    first is taken.
    """
    slopes = [slope(x) for x in points]
    tried = list(points)
    for left, right, falling, rising in zip(points, points[1:], slopes, slopes[1:], strict=False):
        if falling < 0 < rising:
            tried.append(root_of_rising(slope, left, right))
    return min(tried, key=lambda x: (f(x), x))
