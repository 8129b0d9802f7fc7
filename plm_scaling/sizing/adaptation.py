"""What training on a user's own sequences costs, and what a public model's pre-training is worth to it. numpy only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.model_sizes import model_size
from plm_scaling.core.objective import Objective
from plm_scaling.core.records import Record
from plm_scaling.laws.interval import Interval
from plm_scaling.laws.zoo import PublishedLaw, find_law
from plm_scaling.sizing.action import Coefficient
from plm_scaling.sizing.answers import SizingLaw
from plm_scaling.sizing.own_sequences import AdaptationMethod, OwnSequences
from plm_scaling.sizing.trained_models import TrainedModel

__all__ = [
    "EPOCH_CHOICES",
    "LORA_RANK",
    "Adaptation",
    "BalancedSizes",
    "adaptation_of",
    "balanced_sizes",
    "transfer_laws",
    "transferred_tokens",
]

FloatArray = npt.NDArray[np.float64]

EPOCH_CHOICES: Final = (1.0, 4.0, 16.0)
LORA_RANK: Final = 8
_STATE: Final = 16.0
"""Bytes per trained parameter: the weight, its gradient and two moments, float32."""
_FROZEN: Final = 4.0
_LAWS: Final[dict[Objective, tuple[str, ...]]] = {
    "mlm": ("hernandez2021-python", "hernandez2021-text-and-code", "cheng-transfer"),
    "clm": ("hernandez2021-python", "hernandez2021-text-and-code"),
}
_BUDGETS: Final = np.linspace(math.log(1e12), math.log(1e30), 109)


class Adaptation(Record):
    """One training on a user's own sequences, and its bill."""

    model: str
    method: AdaptationMethod
    tokens: float
    """Distinct ones."""
    epochs: float
    flops: float
    """Exact: every matrix product of the model's own shape, attention by the length of the sequences."""
    gpu_hours: float
    usd: float
    """At the mid price."""
    state_gb: float
    """Weights, and gradients and moments of what is trained, 1e9 bytes."""


def adaptation_of(
    model: TrainedModel, method: AdaptationMethod, own: OwnSequences, tokens: float, epochs: float
) -> Adaptation:
    """The bill of training a public model, or its shape, on so many of one's own tokens.

    Low-rank additions cost the same arithmetic, since gradients go back through the frozen weights; they save the
    gradients and moments of what is frozen. A model as it is costs one pass over the tokens, a third of training.

    Raises
    ------
    ConfigError : a model whose layers and width are not known.

    **Source:** `ModelShape.training_flops`; Hu et al. 2022, section 4.2, for what low-rank additions save.
    """
    shape = model_size(model.size or model.name)
    positions = tokens * epochs
    flops = shape.training_flops(positions=positions, sum_length_squared=positions * own.length)
    if method == "as is":
        flops /= 3.0
    hours, usd = own.cost_of(flops, shape.d_model)
    return Adaptation(
        model=model.name,
        method=method,
        tokens=tokens,
        epochs=epochs,
        flops=flops,
        gpu_hours=hours,
        usd=usd,
        state_gb=_state_bytes(shape, method) / 1e9,
    )


def _state_bytes(shape: ModelShape, method: AdaptationMethod) -> float:
    if method == "as is":
        return _FROZEN * shape.N_total
    if method == "lora":
        return _FROZEN * shape.N_total + _STATE * shape.lora_parameters(LORA_RANK)
    return _STATE * shape.N_total


def transfer_laws(objective: Objective) -> tuple[PublishedLaw, ...]:
    """Published laws of effectively transferred tokens; none was measured on a family of proteins."""
    return tuple(find_law(name) for name in _LAWS[objective])


def transferred_tokens(
    model: TrainedModel, objective: Objective, tokens: float
) -> tuple[Interval, tuple[Coefficient, ...]]:
    """D_T: tokens of one's own that pre-training stands for, by each law, and the laws' coefficients.

    D_T = k D_F^a N^b, never more than the tokens the model was trained on. The value is the geometric mean over the
    laws and the ends are theirs: a range of analogies, not an interval of anything measured here.

    Parameters
    ----------
    tokens : D_F, distinct tokens of one's own; a residue counts as a character of the laws of text.

    **Source:** Hernandez et al. 2021, eq. 1.1; Cheng et al. 2024 for CLM to MLM (coefficients unverified).
    """
    most = model.D or math.inf
    laws = transfer_laws(objective)
    found = [min(law.answer({"N": model.N, "D_f": tokens})["D_t"], most) for law in laws]
    value = math.exp(math.fsum(math.log(one) for one in found) / len(found))
    coefficients = tuple(
        Coefficient(name=f"{name} of {law.id}", value=law.params[name], status=law.status, source=law.source)
        for law in laws
        for name in ("k", "a", "b")
    )
    return Interval(value=value, low=min(found), high=max(found), level=1.0), coefficients


@dataclass(frozen=True)
class BalancedSizes:
    """Sizes and tokens that are best for one compute by a law of fresh data, both rising."""

    log_N: FloatArray
    log_D: FloatArray

    def tokens_for(self, N: float) -> float | None:
        """D for which N is the best size; None beyond where the law has best sizes."""
        return _read(math.log(N), self.log_N, self.log_D)

    def size_for(self, D: float) -> float | None:
        """The size for which D are the best tokens; None beyond where the law has best sizes."""
        return _read(math.log(D), self.log_D, self.log_N)


def balanced_sizes(law: SizingLaw) -> BalancedSizes:
    """Best sizes of a law from 1e12 to 1e30 FLOPs, straight in logarithms between a sixth of a decade.

    **Source:** Hoffmann et al. 2022, section 3: N and D that are best for one C belong together.
    """
    log_N = np.array([math.log(law.optimum(math.exp(C))) for C in _BUDGETS])
    log_D = _BUDGETS - math.log(6.0) - log_N
    kept = (np.diff(log_N, append=math.inf) > 0) & (np.diff(log_D, append=math.inf) > 0)
    return BalancedSizes(log_N[kept], log_D[kept])


def _read(at: float, x: FloatArray, y: FloatArray) -> float | None:
    if len(x) < 2 or not x[0] <= at <= x[-1]:
        return None
    return math.exp(float(np.interp(at, x, y)))
