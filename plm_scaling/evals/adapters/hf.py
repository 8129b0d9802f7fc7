"""Any masked or causal protein model of `transformers` whose tokenizer gives one token to one residue.

Documents of similar length are padded to one on the right; a beginning that many share is computed once, where the
model keeps keys and values. Shapes as in `base`; T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from plm_scaling.core.alphabet import STANDARD, decode
from plm_scaling.core.errors import ConfigError, CorpusError, RefusedError
from plm_scaling.evals.adapters.asking import direction_ability, need, residue_ids
from plm_scaling.evals.adapters.base import Direction, Float32Array, FloatArray, Letters, ModelInfo, Pool, Query
from plm_scaling.evals.adapters.hf_prefix import beginning_of, logits_after, shared_groups
from plm_scaling.evals.adapters.masking import MaskedDocuments

__all__ = ["HfModel", "LetterIds"]

Int = npt.NDArray[np.int64]
_BATCH_POSITIONS: Final = 8192
_KEPT_FOR_ONE: Final = 4
"""Positions of a beginning that take the memory of a new one."""


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


class HfModel:
    """An `Adapter` for a model of `transformers`.

    Parameters
    ----------
    model : a masked or a causal language model.
    letters : how its tokenizer writes sequences.
    info, device, batch_positions : see `OwnModel`; padding counts in a batch.

    Attributes
    ----------
    tokens_processed : positions that have gone through the model so far, padding included.
    """

    def __init__(
        self,
        model: Any,
        letters: LetterIds,
        info: ModelInfo,
        *,
        device: str | None = None,
        batch_positions: int = _BATCH_POSITIONS,
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.letters, self._info, self.batch_positions = letters, info, batch_positions
        self.tokens_processed = 0

    @property
    def info(self) -> ModelInfo:
        """What it is and what it can do."""
        return self._info

    @torch.no_grad()
    def masked_logprobs(self, queries: Sequence[Query], *, letters: Letters = "20") -> list[FloatArray]:
        """Log-probabilities at the sites each query reads. See `Adapter`."""
        need(self.info, "masked")
        assert self.letters.mask is not None
        before = len(self.letters.before)
        shown = MaskedDocuments.of(queries, self._document, mask=self.letters.mask, before=before)
        found: dict[int, FloatArray] = {}
        for numbers, output in self._run(shown.documents):
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
        for number, logits_TV in self._causal_logits(documents):
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
        for numbers, output in self._run([self._document(x) for x in unique], output_hidden_states=True):
            states = output.hidden_states
            if not -1 <= layer < len(states):
                raise ConfigError(f"there is no layer {layer}", why=f"{self.info.name} has {len(states) - 1} blocks")
            for row, number in enumerate(numbers):
                residues_LD = states[layer][row, before : before + lengths[number]].float()
                found[number] = (residues_LD.mean(0) if pool == "mean" else residues_LD).cpu().numpy()
        return [found[unique[sequence]] for sequence in sequences]

    @torch.no_grad()
    def attentions(self, sequence: str) -> Float32Array:
        """Attention maps between residues, layers first, float32[H, L, L]. See `Adapter`."""
        need(self.info, "attend")
        [(_, output)] = self._run([self._document(sequence)], output_attentions=True)
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

    def _causal_logits(self, documents: Sequence[Int]) -> Iterator[tuple[int, Tensor]]:
        """Number of each document and its logits, [T, V], as they are ready."""
        apart: list[int] = []
        for group in shared_groups(documents):
            shared = documents[group.numbers[0]][: group.length]
            beginning = beginning_of(self.model, shared, self.device) if group.length else None
            if beginning is None:
                apart += group.numbers
                continue
            self.tokens_processed += group.length
            rests = [documents[number][group.length :] for number in group.numbers]
            for rows in self._batches(rests, kept=group.length):
                pad, batch = self.letters.pad or 0, [rests[row] for row in rows]
                self.tokens_processed += len(rows) * max(map(len, batch))
                logits = logits_after(self.model, beginning, batch, pad=pad, device=self.device)
                yield from zip((group.numbers[row] for row in rows), logits, strict=True)
        for numbers, output in self._run([documents[number] for number in apart]):
            for row, number in enumerate(numbers):
                yield apart[number], output.logits[row, : len(documents[apart[number]])]

    def _batches(self, documents: Sequence[Int], *, kept: int = 0) -> Iterator[list[int]]:
        """Numbers of the documents of each batch, the shortest first; kept positions are cheaper than new ones."""
        order = sorted(range(len(documents)), key=lambda number: len(documents[number]))
        begin = 0
        while begin < len(order):
            end = begin + 1
            while end < len(order) and (
                (len(documents[order[end]]) + kept / _KEPT_FOR_ONE) * (end + 1 - begin) <= self.batch_positions
            ):
                end += 1
            yield order[begin:end]
            begin = end

    def _run(self, documents: Sequence[Int], **wanted: bool) -> Iterator[tuple[list[int], Any]]:
        """Numbers of the documents of a batch, and what the model says of them."""
        for numbers in self._batches(documents):
            T = len(documents[numbers[-1]])
            tokens = np.full((len(numbers), T), self.letters.pad or 0)
            for row, number in enumerate(numbers):
                tokens[row, : len(documents[number])] = documents[number]
            lengths = np.array([len(documents[number]) for number in numbers])
            seen = torch.from_numpy((np.arange(T) < lengths[:, None]).astype(np.int64))
            self.tokens_processed += tokens.size
            shown = torch.from_numpy(tokens).to(self.device)
            yield numbers, self.model(input_ids=shown, attention_mask=seen.to(self.device), **wanted)

    def _logprobs(self, logits_SV: Tensor, letters: Letters) -> FloatArray:
        if letters == "20":
            logits_SV = logits_SV[:, torch.tensor(self.letters.standard(), device=self.device)]
        logp_SA: FloatArray = torch.log_softmax(logits_SV.double(), dim=-1).cpu().numpy()
        return logp_SA
