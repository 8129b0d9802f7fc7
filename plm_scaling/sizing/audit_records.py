"""`AuditTable`: were these models the right size for what their training cost? As values."""

from __future__ import annotations

from typing import Literal

from plm_scaling.core.records import Record
from plm_scaling.sizing.trained_models import TokensStatus

__all__ = ["Audit", "AuditLine", "AuditTable", "AuditVerdict"]

AuditVerdict = Literal["too large", "too small", "about right", "refused", "tokens unknown"]
"""too large, too small: N outside the sizes the law allows at the model's own compute."""


class AuditLine(Record):
    """One model under one law; what the law does not say, or is refused, is None."""

    law_id: str
    source: str
    status: str
    """Of the law: read, measured, own fit or unverified."""
    verdict: AuditVerdict
    reason: str = ""
    """Why it is refused."""
    N_opt: float | None = None
    """Best size at the model's own compute, parameters."""
    D_opt: float | None = None
    """Tokens that compute pays for at that size."""
    N_low: float | None = None
    N_high: float | None = None
    """Sizes the law allows: its 0.01-nat valley, its interval, or the band of a published frontier."""
    size_factor: float | None = None
    """N over N_opt: 4 is four times too large, 0.25 four times too small."""
    D_fit: float | None = None
    """Tokens at which N would be the best size."""
    loss: float | None = None
    """At (N, D), nats per token."""
    loss_gap: float | None = None
    """How far that lies above the lowest loss for the same compute, nats per token."""
    C_equal: float | None = None
    """Least compute that reaches the same loss, FLOPs."""
    N_equal: float | None = None
    D_equal: float | None = None
    """The model that reaches it."""
    wasted: float | None = None
    """Share of the training compute beyond the least for the same loss: 1 - C_equal / C."""
    serving_saving: float | None = None
    """Share of the inference FLOPs, 2 N per token, that the model of N_equal saves; below 0 it costs more to serve."""
    decades_outside: float = 0.0
    """log10 of the distance of the model's compute to the law's range."""
    flags: tuple[str, ...] = ()
    range_C: tuple[float, float] | None = None
    caveat: str = ""


class Audit(Record):
    """One model under every law asked."""

    model: str
    objective: Literal["clm", "mlm", "text"]
    N: float
    """Block parameters; all parameters for a text model."""
    D: float | None
    """Training tokens, None where no source states them."""
    C: float | None
    """6 N D, FLOPs."""
    tokens_status: TokensStatus
    tokens_source: str = ""
    lines: tuple[AuditLine, ...]
    flags: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """Plain sentences, one for every flag of the model and of its lines."""

    @property
    def answered(self) -> bool:
        """Whether any law says anything about the model."""
        return any(line.N_opt is not None or line.D_fit is not None for line in self.lines)

    @property
    def first(self) -> AuditLine | None:
        """The first law that judges the model, None if none does."""
        return next((line for line in self.lines if line.N_opt is not None), None)


class AuditTable(Record):
    """Models beside each other."""

    audits: tuple[Audit, ...]
    notes: tuple[str, ...] = ()
    """What must be said of the table as a whole."""

    @property
    def answered(self) -> bool:
        """Whether any law says anything about any of the models."""
        return any(audit.answered for audit in self.audits)
