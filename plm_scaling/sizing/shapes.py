"""The nearest model that can be built: whole layers, one narrow head or whole ones of 64, published proportions."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from plm_scaling.core.architecture import head_dim_for
from plm_scaling.core.errors import ConfigError
from plm_scaling.core.units import block_parameters

__all__ = ["HEAD_WIDTH", "Shape", "nearest_shape", "size_of_width", "typical_width", "width_per_layer"]

HEAD_WIDTH: Final = 64
_NARROW: Final = (16, 24, 32, 48)
"""Of one head: what sweeps on a laptop are made of, and their decisions."""
_WIDTHS: Final = (*_NARROW, *range(64, 1024, 64), *range(1024, 2048, 128), *range(2048, 32_769, 256))
"""From 64 on as published shapes take them: steps that grow, whole heads that split over accelerators."""
_PROPORTION_WEIGHT: Final = 0.05
"""A shape twice too flat or too deep is taken only if it is 5 % nearer in N than a well-proportioned one."""

_RATIO: Final = 4.443
_RATIO_POWER: Final = 0.1341


class Shape(NamedTuple):
    """Layers, width and heads of a `plm` model."""

    n_layers: int
    d_model: int

    @property
    def n_heads(self) -> int:
        """Heads of 64, or a narrower one."""
        return self.d_model // head_dim_for(self.d_model)

    @property
    def N(self) -> int:
        """Block parameters."""
        return block_parameters(self.n_layers, self.d_model)


def width_per_layer(N: float) -> float:
    """Width over layers that published models of N block parameters have: 4.44 N^0.134.

    **Source:** log-log least squares through the 21 shapes of Cheng et al. 2024 (8x192 to 47x4352) for which
    N = 12 L d^2 identifies layers and width; residuals within a factor 1.6.
    """
    return _RATIO * math.pow(N, _RATIO_POWER)


def typical_width(N: float) -> float:
    """Width of a model of N block parameters in published proportions, not rounded to heads.

    N = 12 L d^2 with L = d / r gives d = (N r / 12)^(1/3).
    """
    return float((N * width_per_layer(N) / 12.0) ** (1.0 / 3.0))


def size_of_width(d_model: float) -> float:
    """Block parameters of a model of this width in published proportions: the inverse of `typical_width`.

    d = (4.443 N^1.1341 / 12)^(1/3).
    """
    return float((12.0 * d_model**3 / _RATIO) ** (1.0 / (1.0 + _RATIO_POWER)))


def nearest_shape(N: float) -> Shape:
    """The buildable shape nearest to N block parameters: closeness in ln N, then published proportions.

    Parameters
    ----------
    N : block parameters asked for.

    Raises
    ------
    ConfigError : N is so small or so large that no shape comes within 20 %.
    """
    target = width_per_layer(N)
    best: tuple[float, Shape] | None = None
    for d_model in _WIDTHS:
        layers = N / block_parameters(1, d_model)
        for n_layers in {max(1, math.floor(layers)), max(1, math.ceil(layers))}:
            shape = Shape(n_layers, d_model)
            skew = math.log(d_model / n_layers / target, 2.0)
            score = abs(math.log(shape.N / N)) + _PROPORTION_WEIGHT * skew**2
            if best is None or (score, shape) < best:
                best = (score, shape)
    assert best is not None
    if abs(math.log(best[1].N / N)) > 0.2:
        raise ConfigError(
            f"no shape comes near N = {N:.3g}",
            why=f"the smallest is 1x{_NARROW[0]}, with {block_parameters(1, _NARROW[0]):,} block parameters",
            hint="ask for a larger budget",
        )
    return best[1]
