"""Documents that begin alike, for causal models of `transformers`: their beginning once, then each one's rest.

Shapes: n documents, T positions of a beginning, B documents of a batch, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["SharedGroup", "beginning_of", "logits_after", "shared_groups"]

Int = npt.NDArray[np.int64]
_WORTH_SHARING: Final = 16
_STILL_ALIKE: Final = 0.8
"""A document joins a group if this share of the group's beginning is its own."""


@dataclass(frozen=True)
class SharedGroup:
    """Documents with a common beginning; each goes on for one token at least.

    Attributes
    ----------
    numbers : which documents. length : T, 0 for a document that shares nothing worth it.
    """

    numbers: tuple[int, ...]
    length: int


def shared_groups(documents: Sequence[Int]) -> list[SharedGroup]:
    """Groups of documents, every document in one."""
    order = sorted(range(len(documents)), key=lambda number: documents[number].tolist())
    groups: list[SharedGroup] = []
    for number in order:
        last = groups[-1] if groups else None
        if last is not None:
            common = min(last.length or len(documents[number]), _common(documents[last.numbers[0]], documents[number]))
            least = _WORTH_SHARING if len(last.numbers) == 1 else max(_WORTH_SHARING, _STILL_ALIKE * last.length)
            if common >= least:
                groups[-1] = SharedGroup((*last.numbers, number), common)
                continue
        groups.append(SharedGroup((number,), 0))
    return groups


def _common(a: Int, b: Int) -> int:
    """Length of the common beginning, less than either."""
    n = min(len(a), len(b)) - 1
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if different.size else n


def beginning_of(model: Any, tokens_T: Int, device: torch.device) -> Any | None:
    """What a model says of a beginning, with its keys and values; None where it keeps none that can be repeated."""
    output = model(input_ids=torch.from_numpy(tokens_T)[None].to(device), use_cache=True)
    past = getattr(output, "past_key_values", None)
    return output if hasattr(past, "batch_repeat_interleave") else None


def logits_after(model: Any, beginning: Any, rests: Sequence[Int], *, pad: int, device: torch.device) -> list[Tensor]:
    """Logits at every position of each document, beginning and rest, [T + its rest, V].

    Parameters
    ----------
    model : causal. beginning : of all of them, from `beginning_of`.
    rests : int64[at least 1] each. pad : id that fills up rows.
    """
    T, lengths = beginning.logits.shape[1], np.array([len(rest) for rest in rests])
    tokens = np.full((len(rests), lengths.max()), pad)
    for row, rest in enumerate(rests):
        tokens[row, : len(rest)] = rest
    past = copy.deepcopy(beginning.past_key_values)
    past.batch_repeat_interleave(len(rests))
    seen = np.arange(T + tokens.shape[1]) < (T + lengths)[:, None]
    output = model(
        input_ids=torch.from_numpy(tokens).to(device),
        attention_mask=torch.from_numpy(seen.astype(np.int64)).to(device),
        past_key_values=past,
        use_cache=True,
    )
    return [torch.cat([beginning.logits[0], output.logits[row, :n]]) for row, n in enumerate(lengths)]
