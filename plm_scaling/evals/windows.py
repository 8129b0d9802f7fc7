"""Windows on proteins that are longer than a model's context. L residues, W residues of a window, S sites."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Cut", "Span", "WindowKind", "covering_windows", "edge_weights", "optimal_window", "room"]

Span = tuple[int, int]
"""[begin, end) of residues, from 0."""
Cut = Literal["both", "left", "right"]
WindowKind = Literal["whole", "one", "per site", "per variant", "overlapping"]
"""whole: the protein fits; one: one window holds all sites of the library; per site, per variant: one around each;
overlapping: windows over the whole protein, half a window apart, whose values are averaged by weights."""


def room(context: int, length: int) -> int:
    """Residues that fit into a context of so many positions with both terminals; 0 stands for any."""
    return max(1, context - 2) if context else length


def optimal_window(sites: Sequence[int], length: int, width: int) -> Span:
    """The window of `width` residues about the mean of the sites, as far as the protein's ends allow.

    Where sites would fall out of it that fit into one, it lies about the middle of the first and the last.

    Parameters
    ----------
    sites : at least one.
    length, width : residues of the protein and of the window.

    **Source:** Notin et al. 2022 (Tranception), the "optimal" scoring window, also of ProteinGym.
    """
    if length <= width:
        return 0, length
    first, last = min(sites), max(sites)
    for middle in (sum(sites) // len(sites), (first + last) // 2):
        begin = min(max(0, middle - width // 2), length - width)
        if begin <= first and last < begin + width:
            break
    return begin, begin + width


def covering_windows(length: int, width: int) -> tuple[Span, ...]:
    """Windows of `width` residues that cover a protein, each beginning half a window after the one before."""
    if length <= width:
        return ((0, length),)
    step = max(1, width // 2)
    begins = [*range(0, length - width, step), length - width]
    return tuple((begin, begin + width) for begin in begins)


def edge_weights(spans: Sequence[Span], length: int, cut: Cut = "both") -> list[npt.NDArray[np.float64]]:
    """Weight of every residue of every window, float64[W] each; they sum to 1 over the windows that hold a residue.

    Weights fall to nearly 0 where a window was cut and context is missing. True ends of the protein are no cuts.

    Parameters
    ----------
    cut : the side on which context counts: a model that reads from the left misses what was cut there alone.

    **Source:** Brandes et al. 2023 (ESM1b, variant effects), Methods: sigmoid weights in overlapping windows.
    """
    if len(spans) == 1:
        return [np.ones(length)]
    raw = []
    for begin, end in spans:
        rise = _rise(end - begin)
        weights = rise if begin > 0 and cut != "right" else np.ones(end - begin)
        raw.append(weights * rise[::-1] if end < length and cut != "left" else weights)
    total = np.zeros(length)
    for (begin, end), weights in zip(spans, raw, strict=True):
        total[begin:end] += weights
    return [weights / total[begin:end] for (begin, end), weights in zip(spans, raw, strict=True)]


def _rise(width: int) -> npt.NDArray[np.float64]:
    """From .02 at the edge over .5 at an eighth of the window to .98 at a quarter."""
    quarter = max(1.0, width / 4.0)
    return np.asarray(1.0 / (1.0 + np.exp(-8.0 * (np.arange(width) / quarter - 0.5))))
