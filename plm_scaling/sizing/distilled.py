"""A student distilled from a teacher that exists, against the same student trained alone."""

from __future__ import annotations

from typing import NamedTuple

from plm_scaling.laws.two_powers import TwoPowers
from plm_scaling.laws.zoo_forms import Params, distilled_loss

__all__ = ["Distilled", "distil"]


class Distilled(NamedTuple):
    """Losses in nats per token, FLOPs of the student's training and the teacher's forward passes."""

    teacher_loss: float
    alone_loss: float
    """The student on the same tokens without a teacher."""
    loss: float
    flops: float
    """D_S (6 N_S + 2 N_T); training the teacher is not counted."""
    alone_tokens_same_flops: float
    alone_loss_same_flops: float


def distil(
    supervised: TwoPowers,
    distillation: Params,
    *,
    student: tuple[float, float],
    teacher: tuple[float, float],
) -> Distilled:
    """A student (N, D) distilled from a teacher (N, D), both laws in nats.

    Parameters
    ----------
    distillation : coefficients A B alpha beta gamma c_0 c_1 f_1 d_1.

    **Source:** Busbridge et al. 2025, eq. 8.
    """
    N, D = student
    teacher_loss, alone = supervised.loss(*teacher), supervised.loss(N, D)
    flops = D * (6.0 * N + 2.0 * teacher[0])
    alone_tokens = flops / (6.0 * N)
    return Distilled(
        teacher_loss=teacher_loss,
        alone_loss=alone,
        loss=distilled_loss(distillation, N, D, teacher_loss, alone),
        flops=flops,
        alone_tokens_same_flops=alone_tokens,
        alone_loss_same_flops=supervised.loss(N, alone_tokens),
    )
