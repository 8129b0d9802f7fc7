"""`Adapter`: what every task asks of a model, whatever it is. Positions are counted from 0 within the residues.

Shapes: n sequences, L residues of one, S sites that are read, A the 20 amino acids (order of `core.alphabet.STANDARD`)
or the model's own letters, H attention maps, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from plm_scaling.core.alphabet import SYMBOLS
from plm_scaling.core.records import Record

__all__ = [
    "Ability",
    "Adapter",
    "Continues",
    "Direction",
    "Float32Array",
    "FloatArray",
    "GivesTotals",
    "Letters",
    "ModelInfo",
    "Pool",
    "Query",
]

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
Ability = Literal["masked", "causal", "reverse", "total", "embed", "attend", "profile"]
"""masked: fills masked sites; causal: gives sequences a likelihood, from the left, residue by residue; reverse: from
the right too; total: as a whole only, through tokens of several residues (`GivesTotals`); embed, attend: shows
activations and attention maps; profile: scores every site without looking at the others."""
Direction = Literal["forward", "reverse"]
Letters = Literal["20", "raw"]
"""20: log-probabilities renormalised over the amino acids, terminals left out; raw: over the model's own alphabet,
terminals included."""
Pool = Literal["mean", "none"]


class ModelInfo(Record):
    """What a table says beside a model's scores."""

    name: str
    family: Literal["own", "esm2", "progen2", "hf", "double"]
    objective: Literal["clm", "mlm", "none"]
    origin: str
    """Where its weights come from, in words; `generated` and `random` weights are called so."""
    abilities: tuple[Ability, ...]
    N: int = 0
    """Parameters of the blocks."""
    N_total: int = 0
    """With embeddings and head, without rows of letters that cannot occur."""
    N_dead: int = 0
    """Parameters of embedding and head rows that no letter uses."""
    D: float | None = None
    """Tokens it was trained on, where known."""
    C: float | None = None
    """6 N D of its training."""
    loss: float | None = None
    """Final validation loss of its training, nats per token, where its run is at hand; compares within one objective
    and one validation set."""
    flops_per_token: float = 0.0
    """Forward, at a document of 512 positions."""
    context: int = 0
    """Longest document, in positions, terminals included; 0 for any."""
    sha256: str = ""
    """Of the weights."""
    dtype: str = "float32"
    before: tuple[str, ...] = ()
    """Names of the tokens ahead of a sequence's first residue, of models that a tokenizer says it of."""
    symbols: tuple[str, ...] = SYMBOLS
    """Names of the columns of `raw` log-probabilities: of our own, ESM-2's and most doubles' alphabet unless said."""


@dataclass(frozen=True)
class Query:
    """A sequence that a model is shown with some sites masked, and the sites whose log-probabilities are asked for."""

    sequence: str
    masked: tuple[int, ...] = ()
    read: tuple[int, ...] = ()


class Adapter(Protocol):
    """A model. Every method answers in the order it was asked, whatever is batched together, and the same for any
    company in a batch; one that lacks an ability raises `RefusedError` and names it.
    """

    @property
    def info(self) -> ModelInfo:
        """What it is and what it can do."""
        ...

    def masked_logprobs(self, queries: Sequence[Query], *, letters: Letters = "20") -> list[FloatArray]:
        """Log-probabilities float64[S, A] at the sites each query reads. Needs `masked` or `profile`."""
        ...

    def residue_logprobs(
        self, sequences: Sequence[str], *, direction: Direction = "forward", letters: Letters = "20"
    ) -> list[FloatArray]:
        """Ln p of every residue given those before it, float64[L] in the order of the sequence; with `raw` letters
        float64[L + 1], the end of the sequence last (in reverse, its beginning). NaN where a residue is none of the
        letters: X has no probability among the 20. Beginnings that sequences share are computed once. Needs `causal`
        (`reverse` for that direction).
        """
        ...

    def embed(self, sequences: Sequence[str], *, layer: int = -1, pool: Pool = "mean") -> list[Float32Array]:
        """Activations of the residues after block `layer`, float32[D], or [L, D] unpooled.

        Layer 0 is the input of the first block; the last one, also called -1, includes the norm after it.
        """
        ...

    def attentions(self, sequence: str) -> Float32Array:
        """Attention maps of all layers and heads between residues, float32[H, L, L]; rows need not sum to 1."""
        ...


@runtime_checkable
class Continues(Protocol):
    """A causal model that remembers what it was asked last, so that drawing a residue costs one token."""

    def next_logprobs(self, prefixes: Sequence[str]) -> FloatArray:
        """Ln p of each of the 20 amino acids, and last of the end, after each prefix, float64[n, 21], rows normalised.

        After nothing the end is impossible.
        """
        ...


@runtime_checkable
class GivesTotals(Protocol):
    """A causal model over tokens of several residues, which gives whole sequences a likelihood and no residue."""

    def total_logprobs(self, sequences: Sequence[str], *, letters: Letters = "20") -> tuple[FloatArray, int]:
        """Ln p of each sequence as the model's tokenizer cuts it, float64[n], and how many tokens that are.

        A lower bound of ln p of the sequence, which other cuts spell too. `20`: over the tokens of residues alone;
        `raw`: over all, the end included. Needs `total`.
        """
        ...
