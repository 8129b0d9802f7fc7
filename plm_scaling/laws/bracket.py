"""Roots of rising functions and lowest points by signs of a slope: bracketed, so that kinks and cliffs do no harm."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["lowest_point", "root_around", "root_of_rising"]

_STEPS = 1100
"""Halvings after which any bracket of doubles has closed."""


def root_of_rising(f: Callable[[float], float], low: float, high: float) -> float:
    """Where f turns from negative to positive in [low, high]; the end where it does so nowhere inside.

    Bisection to neighbouring doubles; only the sign of f is read, so that a jump is a root too.
    """
    if f(low) >= 0:
        return low
    if f(high) <= 0:
        return high
    for _ in range(_STEPS):
        middle = low + 0.5 * (high - low)
        if not low < middle < high:
            break
        low, high = (middle, high) if f(middle) < 0 else (low, middle)
    return low + 0.5 * (high - low)


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


def lowest_point(f: Callable[[float], float], slope: Callable[[float], float], points: Sequence[float]) -> float:
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
