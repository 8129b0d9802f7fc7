"""Every model of `plm_scaling.models` behind one face: runs of ours, ESM-2, ProGen2, and random weights of each.

Sequences are packed, never padded, and batches are filled to a budget of positions. Shapes as in `base`; P positions
of a batch, R rows (distinct documents), V vocabulary, A letters answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from plm_scaling.core.alphabet import CLS, EOS, FIRST_RESIDUE, MASK, STANDARD, VOCAB_SIZE
from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.evals.adapters.asking import direction_ability, need, residue_ids
from plm_scaling.evals.adapters.base import Direction, Float32Array, FloatArray, Letters, ModelInfo, Pool, Query
from plm_scaling.evals.adapters.growing import GrowingPrefixes
from plm_scaling.evals.adapters.masking import MaskedDocuments
from plm_scaling.models.base import ProteinModel
from plm_scaling.models.contacts import attention_map
from plm_scaling.models.documents import Attention
from plm_scaling.models.prefix import Branches, KeysValues, PathAttention, plan_branches

__all__ = ["OwnModel"]

Int = npt.NDArray[np.int64]
_BATCH_POSITIONS: Final = {"cpu": 8192, "cuda": 32_768}
_STANDARD_IDS: Final = range(FIRST_RESIDUE, FIRST_RESIDUE + len(STANDARD))


class OwnModel:
    """An `Adapter` for a `ProteinModel`.

    Parameters
    ----------
    model : with its weights; it is moved to `device` and used in evaluation mode.
    info : what it is; its abilities are those that are answered.
    device : None for the first CUDA device where there is one, else the CPU.
    batch_positions : positions of a batch, terminals included; a longer document has a batch of its own. None for 8,192
        on a CPU and 32,768 on a GPU.
    share_beginnings : compute beginnings that sequences share once (likelihoods of causal models).

    Attributes
    ----------
    tokens_processed : positions that have gone through the model so far.
    run : folder of the run it comes from, whose batches say what it was trained on; None for other weights.
    """

    def __init__(
        self,
        model: ProteinModel,
        info: ModelInfo,
        *,
        device: str | None = None,
        batch_positions: int | None = None,
        share_beginnings: bool = True,
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.to(self.device).eval().requires_grad_(False)
        self._info, self.share_beginnings = info, share_beginnings
        self.batch_positions = batch_positions or _BATCH_POSITIONS.get(self.device.type, _BATCH_POSITIONS["cpu"])
        self.tokens_processed = 0
        self.run: Path | None = None
        self._growing = GrowingPrefixes(self.model, self.batch_positions)

    @property
    def info(self) -> ModelInfo:
        """What it is and what it can do."""
        return self._info

    @torch.no_grad()
    def masked_logprobs(self, queries: Sequence[Query], *, letters: Letters = "20") -> list[FloatArray]:
        """Log-probabilities at the sites each query reads; the head is computed there only. See `Adapter`."""
        need(self.info, "masked")
        shown = MaskedDocuments.of(queries, self._document, mask=MASK, before=1)
        found: dict[int, FloatArray] = {}
        for batch in self._plan(shown.documents):
            sites = [shown.sites[row] for row in batch.rows]
            read_S = np.concatenate([begin + 1 + read for begin, read in zip(batch.bounds[:-1], sites, strict=True)])
            logp_SA = self._logprobs(self._stream(batch)[torch.from_numpy(read_S).to(self.device)], letters)
            found |= dict(zip(batch.rows, np.split(logp_SA, np.cumsum([*map(len, sites)])[:-1]), strict=True))
        return shown.answers(queries, found)

    @torch.no_grad()
    def residue_logprobs(
        self, sequences: Sequence[str], *, direction: Direction = "forward", letters: Letters = "20"
    ) -> list[FloatArray]:
        """Ln p of every residue given those before it; NaN at a residue that `letters` leaves out. See `Adapter`."""
        need(self.info, direction_ability(direction))
        documents = {sequence: self._document(sequence) for sequence in sequences}
        if direction == "reverse":
            documents = {sequence: document[::-1] for sequence, document in documents.items()}
        last = -1 if letters == "raw" else -2  # the last token shown predicts the end, the one before it a residue
        rows = [document[:last] for document in documents.values()]
        targets = [document[1 : len(row) + 1] for document, row in zip(documents.values(), rows, strict=True)]
        column_V = self._columns(letters)
        logp: dict[int, FloatArray] = {}
        for batch, table_SA in self._tables(self._plan(rows, share=self.share_beginnings), letters):
            for row, path in zip(batch.rows, batch.paths, strict=True):
                column = column_V[targets[row]]
                logp[row] = np.where(column < 0, np.nan, table_SA[path, column])
        answers = dict(zip(documents, (logp[row] for row in range(len(rows))), strict=True))
        return [self._in_order(answers[sequence], len(sequence), direction) for sequence in sequences]

    @torch.no_grad()
    def next_logprobs(self, prefixes: Sequence[str]) -> FloatArray:
        """Ln p of each of the 20 amino acids, and last of the end, after each prefix, float64[n, 21], rows normalised.

        A prefix that is longer by a letter than one of the call before costs one token. After nothing the end is
        impossible. Needs `causal`.
        """
        need(self.info, "causal")
        if not prefixes:
            return np.zeros((0, len(STANDARD) + 1))
        unique = {prefix: number for number, prefix in enumerate(dict.fromkeys(prefixes))}
        rows = [self._document(prefix)[:-1] if prefix else np.array([CLS]) for prefix in unique]
        x_SD, processed = self._growing.streams(rows)
        self.tokens_processed += processed
        outcomes = self._columns("raw")[[*_STANDARD_IDS, EOS]]
        logp_SA = self._logprobs(x_SD, "raw")[:, outcomes]
        logp_SA[[number for prefix, number in unique.items() if not prefix], -1] = -np.inf
        logp_SA -= np.logaddexp.reduce(logp_SA, axis=1, keepdims=True)
        return np.asarray(logp_SA[[unique[prefix] for prefix in prefixes]], dtype=np.float64)

    @torch.no_grad()
    def embed(self, sequences: Sequence[str], *, layer: int = -1, pool: Pool = "mean") -> list[Float32Array]:
        """Activations, float32[D] or [L, D], of the residues alone; layer 0 is the input. See `Adapter`."""
        need(self.info, "embed")
        n_blocks = self._blocks(layer)
        unique = {sequence: number for number, sequence in enumerate(dict.fromkeys(sequences))}
        found: dict[int, Float32Array] = {}
        for batch in self._plan([self._document(sequence) for sequence in unique]):
            x_PD = self._stream(batch, n_blocks)
            x_PD = (self.model.normed(x_PD) if n_blocks == self.model.shape.n_layers else x_PD).float()
            for row, (begin, end) in zip(batch.rows, zip(batch.bounds, batch.bounds[1:], strict=False), strict=True):
                residues_LD = x_PD[begin + 1 : end - 1]
                found[row] = (residues_LD.mean(0) if pool == "mean" else residues_LD).cpu().numpy()
        return [found[unique[sequence]] for sequence in sequences]

    @torch.no_grad()
    def attentions(self, sequence: str) -> Float32Array:
        """Attention maps between residues, layers first, float32[H, L, L]; causal ones look back only."""
        need(self.info, "attend")
        [batch] = self._plan([self._document(sequence)])
        maps: list[Tensor] = []

        def watched(q_PHK: Tensor, k_PHK: Tensor, v_PHK: Tensor, causal: bool, scale: float) -> Tensor:
            map_HTT = attention_map(q_PHK, k_PHK, causal=causal)
            maps.append(map_HTT[:, 1:-1, 1:-1].cpu())
            return torch.einsum("hqt,thk->qhk", map_HTT.to(v_PHK.dtype), v_PHK)

        self._stream(batch, attention=watched)
        whole: Float32Array = torch.cat(maps).numpy()
        return whole

    def _document(self, sequence: str) -> Int:
        ids = residue_ids(sequence)
        if self.info.context and len(ids) + 2 > self.info.context:
            raise RefusedError(
                f"a sequence of {len(ids)} residues, {self.info.name} reads up to {self.info.context - 2}",
                hint="score it in windows (the scores that take `windows`), or leave it out",
            )
        return np.concatenate([[CLS], ids, [EOS]])

    def _plan(self, rows: Sequence[Int], *, share: bool = False) -> list[Branches]:
        return plan_branches(rows, self.batch_positions, share=share)

    def _tables(self, plan: Sequence[Branches], letters: Letters) -> Iterator[tuple[Branches, FloatArray]]:
        """Of each batch the log-probabilities after every position on its paths, float64[m + P, A]."""
        past: list[KeysValues] = []
        kept_SA: FloatArray | None = None
        for batch in plan:
            attention = None if batch.plain else PathAttention(batch, past)
            table_SA = self._logprobs(self._stream(batch, attention=attention), letters)
            table_SA = table_SA if kept_SA is None else np.concatenate([kept_SA, table_SA])
            yield batch, table_SA
            past, kept_SA = [], None
            if batch.keep:
                assert attention is not None
                past, kept_SA = attention.next, table_SA[batch.paths[-1][: batch.keep]]

    def _stream(
        self,
        batch: Branches,
        n_blocks: int | None = None,
        attention: Attention | None = None,
    ) -> Tensor:
        """Residual stream of a batch, [P, D]."""
        if attention is None and self.device.type == "cuda":
            attention = PathAttention(batch)  # packed kernels are compiled anew for every size of a batch
        self.tokens_processed += len(batch.tokens_P)
        return self.model.stream(batch.documents(attention).to(self.device), n_blocks)

    def _logprobs(self, x_SD: Tensor, letters: Letters) -> FloatArray:
        """Ln p in float64, [S, A]."""
        logits_SV = self.model.logits(self.model.normed(x_SD))
        if letters == "20":
            logits_SV = logits_SV[:, self.model.model_ids(torch.tensor(_STANDARD_IDS, device=self.device))]
        logp_SA: FloatArray = torch.log_softmax(logits_SV.double(), dim=-1).cpu().numpy()
        return logp_SA

    def _columns(self, letters: Letters) -> Int:
        """Column of each id of `core.alphabet` in what `_logprobs` returns, -1 for none."""
        if letters == "raw":
            own: Int = self.model.model_ids(torch.arange(VOCAB_SIZE, device=self.device)).cpu().numpy()
            return own
        column_V = np.full(VOCAB_SIZE, -1)
        column_V[_STANDARD_IDS] = np.arange(len(STANDARD))
        return column_V

    def _blocks(self, layer: int) -> int:
        n_layers = self.model.shape.n_layers
        if not -1 <= layer <= n_layers:
            raise ConfigError(
                f"there is no layer {layer}", why=f"{self.info.name} has {n_layers} blocks; 0 is its input, -1 its end"
            )
        return n_layers if layer == -1 else layer

    @staticmethod
    def _in_order(logp: FloatArray, length: int, direction: Direction) -> FloatArray:
        if direction == "forward":
            return logp.copy()
        return np.concatenate([logp[:length][::-1], logp[length:]])
