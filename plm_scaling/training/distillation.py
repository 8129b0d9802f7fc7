"""Learning from a teacher's predictions beside the data.

Shapes: B windows, T positions of one, S scored, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from plm_scaling.models.base import ProteinModel
from plm_scaling.models.documents import Documents
from plm_scaling.training.objectives import PackedInput
from plm_scaling.training.steps import LossFunction, cross_entropy

__all__ = ["DistillationLoss", "teacher_flops"]


class DistillationLoss:
    """(1 - share) cross entropy + share T^2 KL(teacher || student), both at temperature T, at each scored position.

    The teacher is shown what the student is shown, masks included. A run's logged training loss is this mixture;
    its validation losses are cross entropies, as those of every run.

    Parameters
    ----------
    teacher : frozen and in evaluation mode from here on; of the student's objective, vocabulary and device.
    share : weight of the teacher's part.
    temperature : T; T^2 keeps the size of the teacher's gradients, whatever T.

    **Source:** Hinton et al. 2015, section 2.
    """

    def __init__(self, teacher: ProteinModel, *, share: float, temperature: float) -> None:
        self.teacher = teacher.requires_grad_(False).eval()
        self.share, self.temperature = share, temperature

    def __call__(self, logits_SV: Tensor, batch: PackedInput, target_S: Tensor) -> Tensor:
        """Loss of each target, float32[S] nats."""
        with torch.no_grad():
            teacher_SV = F.log_softmax(self.teacher(_documents(batch), batch.scored_S) / self.temperature, dim=-1)
        student_SV = F.log_softmax(logits_SV / self.temperature, dim=-1)
        divergence_S = F.kl_div(student_SV, teacher_SV, reduction="none", log_target=True).sum(dim=-1)
        taught = self.share * self.temperature**2
        return (1.0 - self.share) * cross_entropy(logits_SV, batch, target_S) + taught * divergence_S


def _documents(batch: PackedInput) -> Documents:
    """`batch.documents`, on whatever device the batch is."""
    segment_BT = batch.segment_BT
    ends_BT = torch.ones_like(segment_BT, dtype=torch.bool)
    ends_BT[:, :-1] = segment_BT[:, 1:] != segment_BT[:, :-1]
    ends = ends_BT.reshape(-1).nonzero()[:, 0] + 1
    bounds = F.pad(ends, (1, 0)).to(torch.int32)
    return Documents(batch.tokens_BT.reshape(-1), batch.position_BT.reshape(-1), bounds, longest=segment_BT.shape[1])


def teacher_flops(loss: LossFunction, *, positions: float, sum_length_squared: float) -> float | None:
    """Forward FLOPs of the teacher over a run, the head charged at every position; None without a teacher.

    Parameters
    ----------
    positions, sum_length_squared : see `ModelShape.training_flops`, of which a forward pass is a third.
    """
    if not isinstance(loss, DistillationLoss):
        return None
    shape = loss.teacher.shape
    return shape.training_flops(positions=positions, sum_length_squared=sum_length_squared) / 3.0
