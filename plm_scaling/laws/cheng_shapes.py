"""Exact training FLOPs of the Cheng et al. 2024 models, whose logs count 6 N D."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from plm_scaling.core.units import exact_training_flops

__all__ = ["SHAPES", "exact_flops"]

SHAPES: Final[dict[str, tuple[int, int]]] = {
    "3M": (8, 192),
    "6M": (8, 256),
    "10M": (8, 320),
    "20M": (8, 448),
    "25M": (8, 512),
    "40M": (10, 576),
    "47M": (12, 576),
    "85M": (12, 768),
    "106M": (15, 768),
    "200M": (21, 896),
    "230M": (24, 896),
    "393M": (20, 1280),
    "470M": (24, 1280),
    "550M": (28, 1280),
    "680M": (24, 1536),
    "880M": (23, 1792),
    "1.2B": (24, 2048),
    "1.5B": (24, 2304),
    "1.7B": (28, 2304),
    "2B": (26, 2560),
    "2.4B": (30, 2560),
    "3.4B": (36, 2816),
    "4B": (36, 3072),
    "6B": (40, 3584),
    "7B": (36, 4096),
    "10B": (47, 4352),
}
"""(layers, width) of the sizes whose N is 12 L d^2, or nearly.

**Source:** Cheng et al. 2024, model sizes of the authors' repository, solved for L and d."""

_CONTEXT: Final = 1024
_VOCABULARY: Final = 128


def exact_flops(N: float, D: float) -> float:
    """Training FLOPs of D tokens with attention over whole windows of 1,024 and the head counted.

    A width that is not known lies between its neighbours' on a log-log line; N stands for the blocks' products.
    """
    sizes = np.array([12.0 * layers * width**2 for layers, width in SHAPES.values()])
    widths = np.array([float(width) for _, width in SHAPES.values()])
    width = math.exp(float(np.interp(math.log(N), np.log(sizes), np.log(widths))))
    layers = N / (12.0 * width**2)
    # Linear in the number of layers and in the positions: fractional values interpolate.
    one, none = (
        exact_training_flops(count, round(width), positions=D, sum_length_squared=D * _CONTEXT, vocab_size=_VOCABULARY)
        for count in (1, 0)
    )
    return none + layers * (one - none)
