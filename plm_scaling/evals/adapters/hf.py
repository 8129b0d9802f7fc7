"""Any masked or causal protein model of `transformers` whose tokenizer gives one token to one residue.

Documents of similar length are padded to one on the right; a beginning that many share is computed once, where the
model keeps keys and values. Shapes as in `base`; T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from plm_scaling.core.alphabet import STANDARD, decode
from plm_scaling.core.errors import CorpusError, RefusedError
from plm_scaling.evals.adapters.asking import direction_ability, need, residue_ids
from plm_scaling.evals.adapters.base import Direction, Float32Array, FloatArray, Letters, ModelInfo, Pool, Query
from plm_scaling.evals.adapters.hf_runner import HfRunner
from plm_scaling.evals.adapters.masking import MaskedDocuments

__all__ = ["HfModel", "LetterIds"]

Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LetterIds:
    """How a tokenizer writes a sequence.

    Attributes
    ----------
    ids : id of each letter it knows, the 20 amino acids at least.
    before, after : ids ahead of the first residue, and behind the last.
    mask, pad, end : ids, None where there is none; `end` closes a sequence of a causal model.
    """

    ids: Mapping[str, int]
    before: tuple[int, ...]
    after: tuple[int, ...]
    mask: int | None = None
    pad: int | None = None
    end: int | None = None

    def document(self, sequence: str) -> Int:
        """Ids of a sequence with what stands around it, int64[T].

        Raises
        ------
        CorpusError : a letter that no protein has, or that this tokenizer does not know.
        """
        letters = decode(residue_ids(sequence))
        if unknown := next((x for x in letters if x not in self.ids), None):
            raise CorpusError(f"this model's tokenizer does not know the letter {unknown!r}", where=sequence[:24])
        return np.array([*self.before, *(self.ids[x] for x in letters), *self.after], dtype=np.int64)

    def standard(self) -> list[int]:
        """Ids of the 20 amino acids."""
        return [self.ids[letter] for letter in STANDARD]


class HfModel(HfRunner):
    """An `Adapter` for a model of `transformers` that gives one token to one residue.

    Parameters
    ----------
    model : a masked or a causal language model, or an encoder that only shows activations.
    letters : how its tokenizer writes sequences.
    info, more : see `HfRunner`.
    """

    def __init__(self, model: Any, letters: LetterIds, info: ModelInfo, **more: Any) -> None:
        super().__init__(model, info, pad=letters.pad or 0, **more)
        self.letters = letters

    @torch.no_grad()
    def masked_logprobs(self, queries: Sequence[Query], *, letters: Letters = "20") -> list[FloatArray]:
        """Log-probabilities at the sites each query reads. See `Adapter`."""
        need(self.info, "masked")
        assert self.letters.mask is not None
        before = len(self.letters.before)
        shown = MaskedDocuments.of(queries, self._document, mask=self.letters.mask, before=before)
        found: dict[int, FloatArray] = {}
        for numbers, output in self.run(shown.documents):
            for row, number in enumerate(numbers):
                found[number] = self._logprobs(output.logits[row, before + shown.sites[number]], letters)
        return shown.answers(queries, found)

    @torch.no_grad()
    def residue_logprobs(
        self, sequences: Sequence[str], *, direction: Direction = "forward", letters: Letters = "20"
    ) -> list[FloatArray]:
        """Ln p of every residue given those before it; NaN at a residue that `letters` leaves out. See `Adapter`."""
        need(self.info, direction_ability(direction))
        if letters == "raw" and self.letters.end is None:
            raise RefusedError(f"{self.info.name} has no token that ends a sequence", hint="ask for the 20 letters")
        first = len(self.letters.before)
        column = {token: place for place, token in enumerate(self.letters.standard())}
        unique = {sequence: number for number, sequence in enumerate(dict.fromkeys(sequences))}
        documents = [self._document(sequence)[: first + len(sequence)] for sequence in unique]
        found: dict[int, FloatArray] = {}
        for number, logits_TV in self.causal_logits(documents):
            target = documents[number][first:]
            logp_SA = self._logprobs(logits_TV[first - 1 :], letters)
            if letters == "raw":
                found[number] = logp_SA[np.arange(len(target) + 1), [*target, self.letters.end]]
            else:
                place = np.array([column.get(int(token), -1) for token in target])
                found[number] = np.where(place < 0, np.nan, logp_SA[np.arange(len(target)), place])
        return [found[unique[sequence]].copy() for sequence in sequences]

    @torch.no_grad()
    def embed(self, sequences: Sequence[str], *, layer: int = -1, pool: Pool = "mean") -> list[Float32Array]:
        """Hidden states of the residues, float32[D] or [L, D]; layer 0 is the input. See `Adapter`."""
        need(self.info, "embed")
        unique = {sequence: number for number, sequence in enumerate(dict.fromkeys(sequences))}
        before = len(self.letters.before)
        lengths = [len(sequence) for sequence in unique]
        found: dict[int, Float32Array] = {}
        for number, states_TD in self.hidden([self._document(x) for x in unique], layer):
            residues_LD = states_TD[before : before + lengths[number]]
            found[number] = (residues_LD.mean(0) if pool == "mean" else residues_LD).cpu().numpy()
        return [found[unique[sequence]] for sequence in sequences]

    @torch.no_grad()
    def attentions(self, sequence: str) -> Float32Array:
        """Attention maps between residues, layers first, float32[H, L, L]. See `Adapter`."""
        need(self.info, "attend")
        [(_, output)] = self.run([self._document(sequence)], output_attentions=True)
        residues = slice(len(self.letters.before), len(self.letters.before) + len(sequence))
        maps: Float32Array = torch.cat([a[0, :, residues, residues] for a in output.attentions]).float().cpu().numpy()
        return maps

    def _document(self, sequence: str) -> Int:
        document = self.letters.document(sequence)
        if self.info.context and len(document) > self.info.context:
            around = len(self.letters.before) + len(self.letters.after)
            raise RefusedError(
                f"a sequence of {len(sequence)} residues, {self.info.name} reads up to {self.info.context - around}",
                hint="score it in windows (the scores that take `windows`), or leave it out",
            )
        return document

    def _logprobs(self, logits_SV: Tensor, letters: Letters) -> FloatArray:
        if letters == "20":
            logits_SV = logits_SV[:, torch.tensor(self.letters.standard(), device=self.device)]
        logp_SA: FloatArray = torch.log_softmax(logits_SV.double(), dim=-1).cpu().numpy()
        return logp_SA
