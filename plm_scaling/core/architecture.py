"""The shape of a model: its parameters and FLOPs, counted exactly, for the three architectures. No torch.

`plm`: the study block, no biases, untied head. `esm2`: ESM-2. `progen2`: ProGen2. L layers, D width, F feed-forward
width, H heads, V vocabulary.
"""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import Field, model_validator

from plm_scaling.core.alphabet import VOCAB_SIZE
from plm_scaling.core.records import Record

__all__ = [
    "PROGEN2_VOCAB",
    "Architecture",
    "ModelShape",
    "block_parameters_of",
    "contact_parameters_of",
    "head_dim_for",
    "head_flops_of",
    "outside_parameters_of",
]

Architecture = Literal["plm", "esm2", "progen2"]

PROGEN2_VOCAB: Final = 32
"""Rows of ProGen2's embedding; its tokenizer has 30 entries."""
_HEAD_DIMS: Final = (48, 32, 24, 16, 8, 4, 2)


def head_dim_for(d_model: int) -> int:
    """Width of a `plm` head: 64 where it divides `d_model`, one head below 64, else the largest of 48, 32, ... .

    Raises
    ------
    ValueError : `d_model` is odd, so no head can be rotated.
    """
    if d_model % 64 == 0:
        return 64
    if d_model < 64 and d_model % 2 == 0:
        return d_model
    for head_dim in _HEAD_DIMS:
        if d_model % head_dim == 0:
            return head_dim
    raise ValueError(f"d_model {d_model} is odd: rotary positions turn pairs of features")


def block_parameters_of(architecture: Architecture, d_model: int, d_ffn: int) -> int:
    """Parameters of one block, norms and biases included; see `ModelShape.N`."""
    D, F = d_model, d_ffn
    extra = {"plm": 2 * D, "esm2": 4 * D + F + D + 4 * D, "progen2": F + D + 2 * D}[architecture]
    return 4 * D * D + 2 * D * F + extra


def outside_parameters_of(architecture: Architecture, d_model: int, vocab: int) -> int:
    """Parameters outside the blocks, without ESM-2's contact head; see `ModelShape.N_total`."""
    D, V = d_model, vocab
    return {
        "plm": 2 * V * D + D,  # embedding, head, final norm gain
        "esm2": V * D + 2 * D + (D * D + D + 2 * D + V),  # tied head: dense, norm, bias
        "progen2": 2 * V * D + V + 2 * D,
    }[architecture]


def contact_parameters_of(n_layers: int, n_heads: int) -> int:
    """Parameters of ESM-2's contact head: a weight for every attention map, and a bias. **Source:** Rao et al. 2021."""
    return n_layers * n_heads + 1


def head_flops_of(architecture: Architecture, d_model: int, vocab: int) -> int:
    """Forward FLOPs of the output head at one position."""
    dense = 2 * d_model**2 if architecture == "esm2" else 0
    return dense + 2 * d_model * vocab


class ModelShape(Record):
    """Everything that decides how many parameters a model has and what a token costs."""

    architecture: Architecture = "plm"
    n_layers: int = Field(gt=0)
    d_model: int = Field(gt=0)
    n_heads: int | None = Field(default=None, gt=0)
    """None: heads of `head_dim_for(d_model)`."""
    d_ffn: int | None = Field(default=None, gt=0)
    """None: 4 x d_model."""
    rotary_dim: int | None = Field(default=None, gt=0)
    """Features of a head that are turned by position (`progen2`); None for all of them."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.d_model % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.d_model}")
        if self.turned % 2 or self.turned > self.head_dim:
            raise ValueError(f"{self.turned} of {self.head_dim} features cannot be turned in pairs")
        return self

    @property
    def heads(self) -> int:
        """H."""
        return self.n_heads or self.d_model // head_dim_for(self.d_model)

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.d_model // self.heads

    @property
    def ffn(self) -> int:
        """F."""
        return self.d_ffn or 4 * self.d_model

    @property
    def turned(self) -> int:
        """Features of a head that are turned by position."""
        return self.rotary_dim or self.head_dim

    @property
    def vocab(self) -> int:
        """V."""
        return PROGEN2_VOCAB if self.architecture == "progen2" else VOCAB_SIZE

    @property
    def N(self) -> int:
        """Parameters of the blocks, norms and biases included; no embedding, final norm or head.

        **Source:** the layers of Lin et al. 2023 (ESM-2, biases everywhere, two norms) and Nijkamp et al. 2023
        (ProGen2, biases in the feed-forward part only, one norm); `plm` has two norm gains and no biases.
        """
        return self.n_layers * block_parameters_of(self.architecture, self.d_model, self.ffn)

    @property
    def N_total(self) -> int:
        """All parameters but those of ESM-2's contact head, which is no part of the language model."""
        return self.N + outside_parameters_of(self.architecture, self.d_model, self.vocab)

    def lora_parameters(self, rank: int) -> int:
        """Parameters of low-rank additions to every matrix of the blocks, L r (8 D + 2 F).

        **Source:** Hu et al. 2022 (LoRA), section 4.1: r (n_in + n_out) for each matrix.
        """
        return self.n_layers * rank * (8 * self.d_model + 2 * self.ffn)

    @property
    def head_flops(self) -> float:
        """Forward FLOPs of the output head at one position."""
        return float(head_flops_of(self.architecture, self.d_model, self.vocab))

    def training_flops(
        self, *, positions: float, sum_length_squared: float, head_positions: float | None = None
    ) -> float:
        """C_exact: training FLOPs of packed documents, every matrix product, backward counted as twice forward.

        Forward = positions L (8 D^2 + 4 D F) + 4 L D sum(len^2) + head. Causal and bidirectional models are charged
        the same whole score matrix and the head at every position, so that equal C means equal work for both.

        Parameters
        ----------
        positions : processed positions, `<cls>` included, padding excluded.
        sum_length_squared : sum over documents of their squared length in positions.
        head_positions : positions at which the head is computed; None charges all of them.

        **Source:** Hoffmann et al. 2022, appendix F, with attention restricted to documents.
        """
        L, D, F = self.n_layers, self.d_model, self.ffn
        blocks = positions * L * (8.0 * D * D + 4.0 * D * F) + 4.0 * L * D * sum_length_squared
        scored = positions if head_positions is None else head_positions
        return 3.0 * (blocks + scored * self.head_flops)
