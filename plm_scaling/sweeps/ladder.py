"""Sizes between and beyond those of a spec, in its proportions: what an adaptive sweep chooses from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from plm_scaling.core.architecture import ModelShape

__all__ = ["size_ladder"]

_STEP: Final = 1.15
"""Factor between neighbouring sizes wanted; those that can be built are not as dense at the narrow end."""
_PROPORTION_WEIGHT: Final = 0.1
"""A shape twice as flat or deep as wanted is taken only where it comes 10 % nearer in N."""


def size_ladder(shapes: Sequence[ModelShape], low: float, high: float) -> list[ModelShape]:
    """Shapes of rising N from about `low` to about `high` block parameters, of the architecture of the first shape.

    Width over layers is interpolated (log-log, constant beyond the ends) between those of `shapes`, so that a choice of
    sizes does not also change how deep the models are.
    """
    known = sorted({(shape.N, shape.d_model / shape.n_layers) for shape in shapes})
    log_N, log_ratio = (np.log([pair[k] for pair in known]) for k in (0, 1))
    count = max(2, math.ceil(math.log(high / low) / math.log(_STEP)) + 1)
    found: dict[int, ModelShape] = {}
    for N in np.geomspace(low, high, count).tolist():
        shape = _nearest(N, math.exp(float(np.interp(math.log(N), log_N, log_ratio))), shapes[0])
        found[shape.N] = shape
    return [found[N] for N in sorted(found)]


def _nearest(N: float, ratio: float, like: ModelShape) -> ModelShape:
    """The shape nearest to N block parameters whose width over layers is about `ratio`.

    Block parameters are about 12 L d^2, so d = (N ratio / 12)^(1/3).
    """
    layers = max(1.0, (N * ratio / 12.0) ** (1.0 / 3.0) / ratio)
    tried = []
    for n_layers in sorted({max(1, math.floor(layers)), math.ceil(layers)}):
        width = math.sqrt(N / (12.0 * n_layers))
        step = 64 if width >= 512 else 16 if width >= 64 else 8
        for d_model in {max(step, step * math.floor(width / step)), step * math.ceil(width / step)}:
            shape = ModelShape(architecture=like.architecture, n_layers=n_layers, d_model=d_model)
            bent = abs(math.log(d_model / n_layers / ratio))
            tried.append((abs(math.log(shape.N / N)) + _PROPORTION_WEIGHT * bent, n_layers, d_model, shape))
    return min(tried, key=lambda entry: entry[:3])[3]
