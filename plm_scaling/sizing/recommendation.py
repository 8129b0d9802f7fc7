"""`Recommendation`: the answer to "what should I train with this budget?", as a value."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from plm_scaling.core.objective import Objective
from plm_scaling.core.records import Record
from plm_scaling.sizing.action import Action
from plm_scaling.sizing.decision_record import Decision
from plm_scaling.sizing.run_bill import RunBill

__all__ = ["LawAnswer", "LawRole", "Recommendation"]

LawRole = Literal["primary", "counted", "comparison"]
"""primary: gives N; counted: widens the band; comparison: shown only (text laws, laws too far from their data)."""


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
    """log10 of the distance between the budget and the law's range of compute, on either side (0 inside)."""
    flags: tuple[str, ...] = ()
    role: LawRole = "counted"
    caveat: str = ""
    range_C: tuple[float, float] | None = None


class Recommendation(Record):
    """Size, tokens, epochs and cost for a budget, with the disagreement between laws in the open."""

    SCHEMA_VERSION: ClassVar[int] = 3

    objective: Objective
    C: float
    """Training FLOPs the budget pays for (6 N D convention of the laws)."""
    gpu: str
    gpu_hours: float
    usd: float | None
    N: float
    N_low: float
    N_high: float
    """Band of N: the valley of the decision, or else of the law, widened by what other laws of the objective say."""
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
    """Hours every accelerator is busy: `gpu_hours` over `n_gpus`."""
    answers: tuple[LawAnswer, ...]
    disagreement_decades: float
    """log10 of the largest over the smallest N among the laws that apply."""
    flags: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """Plain sentences, most of them spelling out a flag."""
    usd_low: float | None = None
    usd_high: float | None = None
    energy_kwh: float | None = None
    n_gpus: int = 1
    wall_hours: float | None = None
    """Hours from start to end on `n_gpus` accelerators, without queue and restarts."""
    mfu: float | None = None
    C_exact: float | None = None
    """Training FLOPs with attention and head, packed documents."""
    D_built: float | None = None
    """Tokens the budget pays for at the buildable shape."""
    recipe: str = ""
    peak_lr: float | None = None
    batch_tokens: int | None = None
    n_steps: int | None = None
    state_gb: float | None = None
    """Weights, gradients and AdamW moments in mixed precision (16 bytes per parameter), 1e9 bytes."""
    effective_tokens: float | None = None
    """Fresh tokens that D would be worth if the text law of repeats held (Muennighoff et al. 2023)."""
    actions: tuple[Action, ...] = ()
    """What costs nothing to train, as `spend` shows it; that verb weighs every way to spend the budget."""
    decision: Decision | None = None
    """Draws x forms weighed; None where the law that gives N states no loss."""
    verdict: str = ""
    """The answer in one sentence; empty without a decision."""
    bill: RunBill | None = None
    """Of the buildable shape."""
    laws_sha256: str = ""
    """Content hash of the fit or published law that gives N; empty in older files."""

    @classmethod
    def migrate(cls, data: dict[str, Any], version: int) -> dict[str, Any]:
        """Version 1 knew no decision and no bill; up to 2 there were `alternatives`, which only `spend` can weigh."""
        return {key: value for key, value in data.items() if version > 2 or key != "alternatives"}
