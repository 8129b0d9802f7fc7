"""`Recommendation`: the answer to "what should I train with this budget?", as a value."""

from __future__ import annotations

from typing import ClassVar

from plm_scaling.core.records import Record
from plm_scaling.core.run import Objective

__all__ = ["LawAnswer", "Recommendation"]


class LawAnswer(Record):
    """What one law says at the budget."""

    law_id: str
    source: str
    status: str
    """read, measured, own fit or unverified."""
    N: float
    D: float
    N_low: float | None = None
    N_high: float | None = None
    """Band of N this law itself allows (interval of its fit, or its valley), None if it states none."""
    loss: float | None = None
    extrapolation_decades: float = 0.0
    """log10 of the budget over the law's largest compute (0 inside its range)."""
    flags: tuple[str, ...] = ()


class Recommendation(Record):
    """Size, tokens, epochs and cost for a budget, with the disagreement between laws in the open."""

    SCHEMA_VERSION: ClassVar[int] = 1

    objective: Objective
    C: float
    """Training FLOPs the budget pays for (6 N D convention of the laws)."""
    gpu: str
    gpu_hours: float
    usd: float | None
    N: float
    N_low: float
    N_high: float
    """Band of N: this law's valley widened by what the other laws of the objective say."""
    D: float
    unique_tokens: float | None
    epochs: float | None
    tokens_per_parameter: float
    n_layers: int
    d_model: int
    n_heads: int
    """Nearest buildable shape."""
    N_built: float
    hours_per_gpu: float
    answers: tuple[LawAnswer, ...]
    disagreement_decades: float
    """log10 of the largest over the smallest N among the laws that apply."""
    flags: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
