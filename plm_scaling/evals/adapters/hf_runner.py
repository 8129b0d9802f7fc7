"""What all models of `transformers` share: batches padded on the right, beginnings computed once.

Shapes: T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from plm_scaling.core.errors import ConfigError
from plm_scaling.evals.adapters.base import ModelInfo
from plm_scaling.evals.adapters.hf_prefix import beginning_of, logits_after, shared_groups

__all__ = ["HfRunner"]

Int = npt.NDArray[np.int64]
_BATCH_POSITIONS: Final = 8192
_KEPT_FOR_ONE: Final = 4
"""Positions of a beginning that take the memory of a new one."""


class HfRunner:
    """A model of `transformers`, asked in batches.

    Parameters
    ----------
    model : any. pad : id that fills up rows.
    info, device, batch_positions : see `OwnModel`; padding counts in a batch.

    Attributes
    ----------
    tokens_processed : positions that have gone through the model so far, padding included.
    """

    def __init__(
        self,
        model: Any,
        info: ModelInfo,
        *,
        pad: int = 0,
        device: str | None = None,
        batch_positions: int = _BATCH_POSITIONS,
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.to(self.device).eval().requires_grad_(False)
        self._info, self.pad, self.batch_positions = info, pad, batch_positions
        self.tokens_processed = 0

    @property
    def info(self) -> ModelInfo:
        """What it is and what it can do."""
        return self._info

    def causal_logits(self, documents: Sequence[Int]) -> Iterator[tuple[int, Tensor]]:
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
                batch = [rests[row] for row in rows]
                self.tokens_processed += len(rows) * max(map(len, batch))
                logits = logits_after(self.model, beginning, batch, pad=self.pad, device=self.device)
                yield from zip((group.numbers[row] for row in rows), logits, strict=True)
        for numbers, output in self.run([documents[number] for number in apart]):
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

    def run(self, documents: Sequence[Int], **wanted: bool) -> Iterator[tuple[list[int], Any]]:
        """Numbers of the documents of a batch, and what the model says of them."""
        for numbers in self._batches(documents):
            T = len(documents[numbers[-1]])
            tokens = np.full((len(numbers), T), self.pad)
            for row, number in enumerate(numbers):
                tokens[row, : len(documents[number])] = documents[number]
            lengths = np.array([len(documents[number]) for number in numbers])
            seen = torch.from_numpy((np.arange(T) < lengths[:, None]).astype(np.int64))
            self.tokens_processed += tokens.size
            shown = torch.from_numpy(tokens).to(self.device)
            yield numbers, self.model(input_ids=shown, attention_mask=seen.to(self.device), **wanted)

    def hidden(self, documents: Sequence[Int], layer: int) -> Iterator[tuple[int, Tensor]]:
        """Number of each document and its hidden states after block `layer`, float32[T, D], as they are ready.

        Raises
        ------
        ConfigError : there is no such layer.
        """
        for numbers, output in self.run(documents, output_hidden_states=True):
            states = output.hidden_states
            if not -1 <= layer < len(states):
                raise ConfigError(f"there is no layer {layer}", why=f"{self.info.name} has {len(states) - 1} blocks")
            for row, number in enumerate(numbers):
                yield number, states[layer][row, : len(documents[number])].float()
