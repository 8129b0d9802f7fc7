"""The learning rate of every step. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from plm_scaling.core.recipe import ScheduleName
from plm_scaling.core.run import RunConfig

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    """Warm-up and decay over the steps of one run. Its horizon is the run's own token budget.

    A run stopped early is not a run with a smaller D: under `cosine` no step of a longer run is one of a shorter, under
    `wsd` all steps before the decay are.

    Attributes
    ----------
    n_steps, warmup_steps, decay_steps : decay_steps counts for `wsd` only.
    peak_lr, final_fraction : the last step is taken at peak_lr x final_fraction.

    **Source:** `cosine`: Hoffmann et al. 2022, section 3.1; Cheng et al. 2024 (to a tenth, 2.5 % warm-up).
    `wsd`: Hu et al. 2024 (MiniCPM), section 4.2; decay 1 - sqrt(x): Hagele et al. 2024, equation 2.
    """

    kind: ScheduleName
    n_steps: int
    warmup_steps: int
    decay_steps: int
    peak_lr: float
    final_fraction: float

    @classmethod
    def of(cls, config: RunConfig, n_steps: int, tokens_per_step: float) -> Self:
        """The schedule of a run.

        Parameters
        ----------
        n_steps : optimiser steps of the run.
        tokens_per_step : mean training tokens of a batch.
        """
        if config.warmup_tokens is None:
            warmup = round(config.warmup_fraction * n_steps)
        else:
            warmup = round(config.warmup_tokens / tokens_per_step)
        return cls(
            kind=config.schedule,
            n_steps=n_steps,
            warmup_steps=min(max(1, warmup), n_steps),
            decay_steps=max(1, round(config.decay_fraction * n_steps)),
            peak_lr=config.peak_lr,
            final_fraction=config.final_lr_fraction,
        )

    @property
    def decay_begins(self) -> int:
        """First step of the decay: before it, the runs of all horizons are one run under `wsd`."""
        return self.n_steps - self.decay_steps if self.kind == "wsd" else self.warmup_steps

    def at(self, step: int) -> float:
        """Learning rate of 0-based `step`."""
        if step < self.warmup_steps:
            return self.peak_lr * (step + 1) / self.warmup_steps
        begin = self.decay_begins
        progress = min(1.0, max(0.0, (step - begin + 1) / max(1, self.n_steps - begin)))
        left = 0.5 * (1.0 + math.cos(math.pi * progress)) if self.kind == "cosine" else 1.0 - math.sqrt(progress)
        return self.peak_lr * (self.final_fraction + (1.0 - self.final_fraction) * left)
