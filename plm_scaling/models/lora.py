"""Low-rank additions to frozen weights (LoRA). L layers, D width, F feed-forward width, r rank."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from plm_scaling.models.base import ProteinModel

__all__ = ["LowRankAddition", "add_lora", "merged_state"]

_INSIDE, _BASE = ".parametrizations.", ".original"
"""How torch names what a parametrized weight is made of: OWNER.parametrizations.WEIGHT.original, ...WEIGHT.0.down."""


class LowRankAddition(nn.Module):
    """W + (alpha / r) B A in the place of W.

    Parameters
    ----------
    n_out, n_in : shape of W.
    rank : r.
    alpha : the addition is scaled by alpha / r.
    generator : draws A.

    Attributes
    ----------
    down : A, float32[r, n_in], normal with sd 1 / sqrt(n_in), so that A x is of the order of x.
    up : B, float32[n_out, r], zero: W is exact before the first step.

    **Source:** Hu et al. 2022 (LoRA), section 4.1; the sd of A is not given there.
    """

    def __init__(self, n_out: int, n_in: int, *, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.down = nn.Parameter(torch.empty(rank, n_in))
        self.up = nn.Parameter(torch.zeros(n_out, rank))
        nn.init.normal_(self.down, std=1.0 / math.sqrt(n_in), generator=generator)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with its addition."""
        return torch.addmm(weight, self.up, self.down, alpha=self.scale)


def add_lora(model: ProteinModel, rank: int, alpha: float, seed: int) -> None:
    """Freeze a model on the CPU and add trainable low-rank matrices to every matrix of its blocks, in place.

    L r (8 D + 2 F) parameters are trained: r (n_in + n_out) for each of qkv, attention_out, mlp_in and mlp_out.
    Embedding, head, norms and biases are frozen too: the original adapts attention only, later practice all matrices
    of the blocks and nothing around them. Weight decay acts on A and B, not on the weights they are added to.

    It saves the moments and gradients of the frozen weights, not arithmetic: each step adds B A to W and goes back
    through W, so a step costs what one of the whole model does.

    Parameters
    ----------
    rank : r.
    alpha : the additions are scaled by alpha / rank.
    seed : of the matrices A.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for block in model.blocks:
        for name, weight in list(block.named_parameters(recurse=False)):
            if weight.dim() == 2:
                addition = LowRankAddition(*weight.shape, rank=rank, alpha=alpha, generator=generator)
                parametrize.register_parametrization(block, name, addition)


@torch.no_grad()
def merged_state(model: ProteinModel) -> dict[str, Tensor]:
    """All parameters by the names of the plain model, additions added in; of a plain model its parameters."""
    state = {}
    for name, parameter in model.named_parameters():
        owner, inside, part = name.partition(_INSIDE)
        if not inside:
            state[name] = parameter.detach()
        elif part.endswith(_BASE):
            weight = part.removesuffix(_BASE)
            state[f"{owner}.{weight}"] = getattr(model.get_submodule(owner), weight).detach()
    return state
