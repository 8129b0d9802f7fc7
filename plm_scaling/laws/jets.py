"""Values with their exact first and second derivatives: a formula written once gives its own gradient and Hessian.

Forward differentiation to second order over the few atoms of a form (`plm_scaling.laws.forms`); derivatives that are
zero are not stored. Every function takes plain arrays too and then returns plain arrays. Shapes: B problems, n rows.

**Source:** Griewank & Walther 2008, Evaluating Derivatives, chapter 13 (Taylor propagation).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = [
    "FloatArray",
    "Jet",
    "Value",
    "exp",
    "log",
    "log_sum_exp",
    "minimum",
    "soft_minimum",
    "softplus",
    "value_of",
]

FloatArray = npt.NDArray[np.float64]
_Pair = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Jet:
    """A value float64[B, n] and its derivatives by atoms, keyed by atom (first) and pair i <= j (second)."""

    value: FloatArray
    first: dict[int, FloatArray]
    second: dict[_Pair, FloatArray]

    # numpy would otherwise try to add a jet to every element of an array on its left.
    __array_ufunc__ = None

    @classmethod
    def atom(cls, index: int, value: FloatArray) -> Jet:
        """The atom itself: derivative one in its own direction."""
        return cls(value, {index: _ONE}, {})

    def __add__(self, other: Value) -> Jet:
        if not isinstance(other, Jet):
            return Jet(self.value + other, self.first, self.second)
        return Jet(self.value + other.value, _sum(self.first, other.first), _sum(self.second, other.second))

    __radd__ = __add__

    def __neg__(self) -> Jet:
        return self._times(np.asarray(-1.0))

    def __sub__(self, other: Value) -> Jet:
        return self + (-other)

    def __rsub__(self, other: FloatArray | float) -> Jet:
        return -self + other

    def __mul__(self, other: Value) -> Jet:
        if not isinstance(other, Jet):
            return self._times(np.asarray(other))
        first = _sum(_scaled(self.first, other.value), _scaled(other.first, self.value))
        second = _sum(_scaled(self.second, other.value), _scaled(other.second, self.value))
        second = _sum(second, _cross(self.first, other.first))
        return Jet(self.value * other.value, first, second)

    __rmul__ = __mul__

    def _times(self, factor: FloatArray) -> Jet:
        return Jet(self.value * factor, _scaled(self.first, factor), _scaled(self.second, factor))

    def chained(self, value: FloatArray, slope: FloatArray, curvature: FloatArray) -> Jet:
        """f(self), given f, f' and f'' at the value (chain rule)."""
        second = _sum(_scaled(self.second, slope), _squares(self.first, curvature))
        return Jet(value, _scaled(self.first, slope), second)


_ONE: Final = np.ones((1, 1))
"""Derivative of an atom by itself: a product with it is the other factor."""
Value = Jet | FloatArray | float
_Key = TypeVar("_Key", int, _Pair)


def _product(a: FloatArray, b: FloatArray) -> FloatArray:
    return b if a is _ONE else a if b is _ONE else a * b


def _scaled(parts: dict[_Key, FloatArray], factor: FloatArray) -> dict[_Key, FloatArray]:
    return {key: _product(part, factor) for key, part in parts.items()}


def _sum(a: dict[_Key, FloatArray], b: dict[_Key, FloatArray]) -> dict[_Key, FloatArray]:
    out = dict(a)
    for key, part in b.items():
        out[key] = out[key] + part if key in out else part
    return out


def _squares(first: dict[int, FloatArray], factor: FloatArray) -> dict[_Pair, FloatArray]:
    """All factor * a_i a_j with i <= j."""
    left = _scaled(first, factor)
    return {(i, j): _product(a, b) for i, a in left.items() for j, b in first.items() if i <= j}


def _cross(a: dict[int, FloatArray], b: dict[int, FloatArray]) -> dict[_Pair, FloatArray]:
    """a_i b_j + a_j b_i, the second derivative that a product adds."""
    out: dict[_Pair, FloatArray] = {}
    for i, left in a.items():
        for j, right in b.items():
            key = (min(i, j), max(i, j))
            part = left * right * (2.0 if i == j else 1.0)
            out[key] = out[key] + part if key in out else part
    return out


def value_of(x: Value) -> FloatArray:
    """The value alone, float64[B, n]."""
    return x.value if isinstance(x, Jet) else np.asarray(x, dtype=np.float64)


def _unary(x: Value, f: Callable[[FloatArray], tuple[FloatArray, FloatArray, FloatArray]]) -> Value:
    value, slope, curvature = f(value_of(x))
    return x.chained(value, slope, curvature) if isinstance(x, Jet) else value


def exp(x: Value) -> Value:
    """e^x."""
    if not isinstance(x, Jet):
        return np.asarray(np.exp(x))
    top = np.exp(x.value)
    return x.chained(top, top, top)


def log(x: Value) -> Value:
    """Ln x."""
    return _unary(x, lambda v: (np.log(v), 1.0 / v, -1.0 / (v * v)))


def softplus(x: Value) -> Value:
    """ln(1 + e^x)."""

    def f(v: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        # Several times faster than numpy's logaddexp, and as far from overflow.
        share = 1.0 / (1.0 + np.exp(-np.maximum(v, -700.0)))
        return np.maximum(v, 0.0) + np.log(1.0 + np.exp(-np.abs(v))), share, share * (1.0 - share)

    return _unary(x, f)


def minimum(a: Value, b: Value) -> Value:
    """The smaller of two values with the smaller one's derivatives (one-sided where they are equal)."""
    if not (isinstance(a, Jet) or isinstance(b, Jet)):
        return np.asarray(np.minimum(a, b))
    use_a = (value_of(a) <= value_of(b)).astype(np.float64)
    chosen = a * use_a + b * (1.0 - use_a)
    assert isinstance(chosen, Jet)
    return Jet(np.minimum(value_of(a), value_of(b)), chosen.first, chosen.second)


def log_sum_exp(*terms: Value) -> Value:
    """The log of sum_k e^(term_k); with s_k the share of term k, its gradient is sum_k s_k grad term_k."""
    return _soft(terms, 1.0)


def soft_minimum(*terms: Value) -> Value:
    """-ln sum_k e^(-term_k): the log of the harmonic sum of e^term_k."""
    return _soft(terms, -1.0)


def _soft(terms: Sequence[Value], sign: float) -> Value:
    """Sign times log_sum_exp of sign times the terms."""
    values = [sign * value_of(term) for term in terms]
    top = values[0]
    for value in values[1:]:
        top = np.maximum(top, value)
    parts = [np.exp(value - top) for value in values]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    result: FloatArray = sign * (top + np.log(total))
    jets = [(term, part / total) for term, part in zip(terms, parts, strict=True) if isinstance(term, Jet)]
    if len(jets) == len(terms) == 2:
        return _of_two(result, *jets[0], *jets[1], sign)
    return _weighted(result, jets, sign) if jets else result


def _of_two(result: FloatArray, a: Jet, share_a: FloatArray, b: Jet, share_b: FloatArray, sign: float) -> Jet:
    """`_weighted` of two terms: s_a h_a + s_b h_b + sign s_a s_b (g_a - g_b)(g_a - g_b)'."""
    first = _sum(_scaled(a.first, share_a), _scaled(b.first, share_b))
    apart = _sum(a.first, {key: -part for key, part in b.first.items()})
    second = _squares(apart, sign * share_a * share_b)
    second = _sum(second, _scaled(a.second, share_a))
    return Jet(result, first, _sum(second, _scaled(b.second, share_b)))


def _weighted(result: FloatArray, jets: Sequence[tuple[Jet, FloatArray]], sign: float) -> Jet:
    """Derivatives of `_soft` from its terms and their shares: sum s h + sign (sum s g g' - (sum s g)(sum s g)')."""
    first: dict[int, FloatArray] = {}
    second: dict[_Pair, FloatArray] = {}
    for term, share in jets:
        first = _sum(first, _scaled(term.first, share))
        second = _sum(second, _squares(term.first, sign * share))
        second = _sum(second, _scaled(term.second, share))
    return Jet(result, first, _sum(second, _squares(first, np.asarray(-sign))))
