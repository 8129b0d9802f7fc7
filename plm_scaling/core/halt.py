"""`Halt` (`halted.json`): why a run was left at a share of its schedule, and what that saved."""

from __future__ import annotations

from plm_scaling.core.records import Record

__all__ = ["Halt"]


class Halt(Record):
    """A run whose end, as predicted, says too little about N_opt to be worth the rest of its compute."""

    reason: str
    """A sentence."""
    share: float
    """Of its schedule that was trained."""
    step: int
    loss: float
    """Final loss predicted when it was halted, nats per token."""
    loss_low: float
    loss_high: float
    """95 % interval of it."""
    n_known: int
    """Complete runs it was predicted from."""
    effect: float
    """Standard deviation of ln N_opt of its budget that its end accounts for."""
    half_width: float
    """Half of the interval of ln N_opt of its budget, were every run to go to its end."""
    C_saved: float
    """Exact training FLOPs of the rest."""
    seconds_saved: float | None = None
    """Device seconds of the rest at the run's own speed; None where that is not known."""
