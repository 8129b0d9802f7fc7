"""AdamW on the flat parameters: clipping, decay of matrices, and the choice to leave out an update after a spike."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from plm_scaling.core.run import RunConfig
from plm_scaling.training.flat import FlatParameters

__all__ = ["AdamW"]

_MEAN_OVER: Final = 50
"""Updates over which the running mean of the gradient norm forgets."""


class AdamW:
    """AdamW with gradient clipping; weight decay on matrices only.

    Attributes
    ----------
    exp_avg, exp_avg_sq : float32[n], first and second moments.
    spikes : float32[2], running mean of the gradient norm and number of updates left out; with the moments and the
        step number all the state there is.

    **Source:** Loshchilov and Hutter 2019, algorithm 2; clipping by the global norm, Pascanu et al. 2013.
    """

    def __init__(self, flat: FlatParameters, config: RunConfig) -> None:
        self.flat, self.config = flat, config
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(flat.value), torch.zeros_like(flat.value)
        self.spikes = torch.zeros(2, device=flat.value.device)
        self._step = torch.zeros((), device=flat.value.device)
        parts = (slice(0, flat.n_matrix), slice(flat.n_matrix, None))
        self._groups = [
            ([flat.value[p]], [flat.grad[p]], [self.exp_avg[p]], [self.exp_avg_sq[p]], decay)
            for p, decay in zip(parts, (config.weight_decay, 0.0), strict=True)
            if flat.value[p].numel()
        ]

    @torch.inference_mode()
    def update(self, step: int, lr: float) -> Tensor:
        """Change the parameters by their gradients.

        Parameters
        ----------
        step : updates made before this one.
        lr : learning rate.

        Returns
        -------
        norm : global gradient norm before clipping, a scalar tensor; the running mean in place of an infinite one whose
            update was left out.
        """
        norm: Tensor = torch.linalg.vector_norm(self.flat.grad)
        too_long = (norm / self.config.grad_clip).clamp_(min=1.0)
        spike, shown = self._spike(norm)
        self._step.fill_(step + 1)
        for value, grad, exp_avg, exp_avg_sq, decay in self._groups:
            # What torch.optim.AdamW(fused=True) calls; its own bookkeeping costs more than the update of a tiny model.
            torch._fused_adamw_(
                value,
                grad,
                exp_avg,
                exp_avg_sq,
                [],
                [self._step],
                lr=lr,
                beta1=self.config.beta1,
                beta2=self.config.beta2,
                weight_decay=decay,
                eps=1e-8,
                amsgrad=False,
                maximize=False,
                grad_scale=too_long,
                found_inf=spike,
            )
        return shown

    def _spike(self, norm: Tensor) -> tuple[Tensor | None, Tensor]:
        """1 where the update is to be left out, 0 where not, and the norm to tell of; without waiting for the device.

        An infinite norm is a spike like any other. One that is no number is none: no update mends what made it, so
        the run has to end as diverged instead of skipping for ever. Neither enters the mean.
        """
        factor = self.config.spike_factor
        if factor is None:
            return None, norm
        mean, left_out = self.spikes
        spike = (mean > 0) & (norm > factor * mean)
        grown = torch.where(mean > 0, mean + (norm - mean) / _MEAN_OVER, norm)
        kept = torch.where(spike | ~norm.isfinite(), mean, grown)
        shown = torch.where(spike & norm.isinf(), mean, norm)
        self.spikes.copy_(torch.stack([kept, left_out + spike]))
        return spike.to(norm.dtype), shown
