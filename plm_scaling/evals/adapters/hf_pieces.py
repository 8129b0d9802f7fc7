"""Models of `transformers` whose tokens are pieces of several residues, as byte-pair encodings learn them.

Such a model gives a text a probability through one way of cutting it, that of its tokenizer. Other cuts spell the same
protein, so this is a lower bound of the protein's own probability, and no residue has a probability by itself. Shapes
as in `base`; T tokens, V vocabulary.

**Source:** Cao and Rimell 2021, "You should evaluate your language model on marginal likelihood over tokenisations".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch

from plm_scaling.core.alphabet import STANDARD, UNUSUAL, decode
from plm_scaling.core.errors import CorpusError, RefusedError
from plm_scaling.evals.adapters.asking import need, residue_ids
from plm_scaling.evals.adapters.base import Direction, Float32Array, FloatArray, Letters, ModelInfo, Pool, Query
from plm_scaling.evals.adapters.hf_runner import HfRunner

__all__ = ["HfPieces", "Pieces", "PieceWriter"]

Int = npt.NDArray[np.int64]
_NO_RESIDUES = "its tokens are pieces of several residues, and a single one has no probability"


@dataclass(frozen=True)
class Pieces:
    """A sequence as tokens.

    Attributes
    ----------
    ids : int64[T], what stands around the sequence included.
    owner : int64[L], place in `ids` of the token that each residue lies in.
    begin, end : the tokens of the sequence itself are ids[begin:end].
    """

    ids: Int
    owner: Int
    begin: int
    end: int


@dataclass(frozen=True)
class PieceWriter:
    """How a tokenizer cuts sequences.

    Attributes
    ----------
    tokenizer : a fast one, which says where its tokens lie.
    before, after : ids around a sequence. close : id that ends the text of a causal model, None for none.
    line : residues of a line where the model was trained on lines of FASTA; 0 for no lines.
    """

    tokenizer: Any
    before: tuple[int, ...]
    after: tuple[int, ...]
    close: int | None = None
    line: int = 0

    def pieces(self, sequence: str) -> Pieces:
        """The canonical tokens of a sequence.

        Raises
        ------
        CorpusError : a letter that no protein has, or that this tokenizer does not know.
        """
        letters = decode(residue_ids(sequence))
        lines = [letters[k : k + self.line] for k in range(0, len(letters), self.line)] if self.line else [letters]
        text = "\n".join(lines)
        written = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, first = list(written["input_ids"]), len(self.before)
        owner = np.full(len(text), -1, dtype=np.int64)
        for place, (begin, end) in enumerate(written["offset_mapping"]):
            owner[begin:end] = first + place
        lost = next((k for k in range(len(text)) if owner[k] < 0), None)
        if lost is None and self.tokenizer.unk_token_id in ids and self.tokenizer.unk_token_id not in self.around:
            lost = int(np.argmax(owner == first + ids.index(self.tokenizer.unk_token_id)))
        if lost is not None:
            raise CorpusError(f"this model's tokenizer does not know the letter {text[lost]!r}", where=sequence[:24])
        owner = owner[np.array([letter != "\n" for letter in text])]
        return Pieces(np.array([*self.before, *ids, *self.after], dtype=np.int64), owner, first, first + len(ids))

    @property
    def around(self) -> tuple[int | None, ...]:
        """Ids that a sequence is begun and ended with."""
        return (*self.before, *self.after, self.close)

    @cached_property
    def of_residues(self) -> Int:
        """Ids of all tokens that hold residues alone, and ends of lines where there are any."""
        letters = set(STANDARD + UNUSUAL + ("\n" if self.line else ""))
        special = set(self.tokenizer.all_special_ids)
        texts = [self.tokenizer.decode([number]).strip(" ").removeprefix("##") for number in range(len(self.tokenizer))]
        held = [n for n, text in enumerate(texts) if text and n not in special and set(text) <= letters]
        return np.array(held, dtype=np.int64)


class HfPieces(HfRunner):
    """An `Adapter` for a model of `transformers` over pieces: totals of causal ones, and activations.

    Parameters
    ----------
    model : a masked or a causal language model. writer : how its tokenizer cuts sequences.
    info, more : see `HfRunner`.
    """

    def __init__(self, model: Any, writer: PieceWriter, info: ModelInfo, **more: Any) -> None:
        super().__init__(model, info, **more)
        self.writer = writer

    @torch.no_grad()
    def total_logprobs(self, sequences: Sequence[str], *, letters: Letters = "20") -> tuple[FloatArray, int]:
        """Ln p of each sequence as it is cut, and how many tokens that are; see `base.GivesTotals`."""
        need(self.info, "total")
        close = self.writer.close
        if letters == "raw" and close is None:
            raise RefusedError(f"{self.info.name} has no token that ends a sequence", hint="ask for the 20 letters")
        unique = {sequence: number for number, sequence in enumerate(dict.fromkeys(sequences))}
        cut = [self._pieces(sequence) for sequence in unique]
        totals = np.zeros(len(cut))
        known = torch.from_numpy(self.writer.of_residues).to(self.device)
        for number, logits_TV in self.causal_logits([one.ids[: one.end] for one in cut]):
            one = cut[number]
            target, after = one.ids[one.begin : one.end], logits_TV[one.begin - 1 :].double()
            if letters == "raw" and close is not None:
                target = np.append(target, close)
                logp_T = torch.log_softmax(after, dim=-1)[torch.arange(len(target)), torch.from_numpy(target)]
            else:
                chosen = after[torch.arange(len(target)), torch.from_numpy(target)]
                logp_T = chosen - torch.logsumexp(after[: len(target), known], dim=-1)
            totals[number] = float(logp_T.sum())
        whole = totals[[unique[sequence] for sequence in sequences]] if len(sequences) else totals
        return whole, sum(one.end for one in cut)

    @torch.no_grad()
    def embed(self, sequences: Sequence[str], *, layer: int = -1, pool: Pool = "mean") -> list[Float32Array]:
        """Hidden states float32[D] or [L, D]: every residue has that of its token. See `Adapter`."""
        need(self.info, "embed")
        unique = {sequence: number for number, sequence in enumerate(dict.fromkeys(sequences))}
        cut = [self._pieces(sequence) for sequence in unique]
        found: dict[int, Float32Array] = {}
        for number, states_TD in self.hidden([one.ids for one in cut], layer):
            residues_LD = states_TD[torch.from_numpy(cut[number].owner).to(self.device)]
            found[number] = (residues_LD.mean(0) if pool == "mean" else residues_LD).cpu().numpy()
        return [found[unique[sequence]] for sequence in sequences]

    def masked_logprobs(self, queries: Sequence[Query], *, letters: Letters = "20") -> list[FloatArray]:
        """Refused: a residue has no probability."""
        self._refuse("fill masked sites")

    def residue_logprobs(
        self, sequences: Sequence[str], *, direction: Direction = "forward", letters: Letters = "20"
    ) -> list[FloatArray]:
        """Refused: a residue has no probability."""
        self._refuse("give residues a probability")

    def attentions(self, sequence: str) -> Float32Array:
        """Refused: its maps are between tokens."""
        self._refuse("show attention between residues")

    def _refuse(self, what: str) -> NoReturn:
        raise RefusedError(
            f"{self.info.name} cannot {what}",
            why=_NO_RESIDUES,
            hint="ask for totals of whole sequences (clm scores, perplexity.clm), or for activations",
        )

    def _pieces(self, sequence: str) -> Pieces:
        pieces = self.writer.pieces(sequence)
        if self.info.context and len(pieces.ids) > self.info.context:
            raise RefusedError(
                f"a sequence of {len(pieces.ids)} tokens, {self.info.name} reads up to {self.info.context}",
                why="a window would be cut into other tokens than the whole sequence",
                hint="leave it out",
            )
        return pieces
