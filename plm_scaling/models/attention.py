"""Attention of packed documents behind one function. Shapes: P positions, H heads, K width of a head, n of a document.

One table (`kernel_for`) says what carries it out where; whatever does, no document sees another.
"""

from __future__ import annotations

import math
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from plm_scaling.core.processor import has_bf16
from plm_scaling.models.cpu_documents import attend_explicitly
from plm_scaling.models.documents import Documents

__all__ = ["Kernel", "attend", "kernel_for"]

Kernel = Literal["fused", "fused_float32", "explicit", "varlen", "flash_attn", "flex"]
"""fused: torch's fused kernel, one document at a time; fused_float32: the same in float32, whatever the input.
explicit: matrix products (`cpu_documents`). varlen, flash_attn, flex: one kernel for all documents, of torch or of the
flash-attn package."""
_EXPLICIT_UP_TO: Final = 1024
"""Longest document, in positions, whose probabilities are kept."""
_HALF: Final = (torch.bfloat16, torch.float16)


def kernel_for(device: str, dtype: torch.dtype, head_dim: int, longest: int) -> Kernel:
    """What carries out attention.

    Parameters
    ----------
    device : type of the device. dtype : of queries, keys and values.
    head_dim : K. longest : positions of the longest document, or a bound on it.
    """
    if device == "cpu" and dtype in _HALF:
        if dtype == torch.float16 or not _bf16_instructions():
            return "fused_float32"  # emulated half precision is slower
        return "explicit" if longest <= _EXPLICIT_UP_TO else "fused"
    if device == "cuda" and dtype in _HALF and head_dim % 8 == 0 and head_dim <= 256:
        if _has("torch.nn.attention.varlen"):
            return "varlen"
        if _has("flash_attn"):
            return "flash_attn"
    # torch's flex kernels are for heads of 16 and more.
    return "flex" if device == "cuda" and head_dim >= 16 and dtype != torch.float64 else "fused"


@cache
def _bf16_instructions() -> bool:
    return has_bf16()


@cache
def _has(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def attend(
    q_PHK: Tensor, k_PHK: Tensor, v_PHK: Tensor, documents: Documents, *, causal: bool, scale: float | None = None
) -> Tensor:
    """Mix the values of each document, [P, H, K].

    Parameters
    ----------
    q_PHK, k_PHK, v_PHK : queries, keys, values, already turned by position.
    causal : whether a position sees only itself and what is before it in its document.
    scale : factor on the scores, 1 / sqrt(K) by default.
    """
    scale = 1.0 / math.sqrt(q_PHK.shape[-1]) if scale is None else scale
    if documents.attention is not None:
        return documents.attention(q_PHK, k_PHK, v_PHK, causal, scale)
    kernel = kernel_for(q_PHK.device.type, q_PHK.dtype, q_PHK.shape[-1], documents.longest)
    if kernel == "varlen" or kernel == "flash_attn":
        return _one_kernel(kernel, q_PHK, k_PHK, v_PHK, documents, causal=causal, scale=scale)
    if kernel == "flex":
        return _flex(q_PHK, k_PHK, v_PHK, documents, causal=causal, scale=scale)
    if kernel == "explicit":
        return attend_explicitly(q_PHK, k_PHK, v_PHK, documents.spans, causal=causal, scale=scale)
    if kernel == "fused_float32":
        q_wide, k_wide, v_wide = (x_PHK.float() for x_PHK in (q_PHK, k_PHK, v_PHK))
        return _one_by_one(q_wide, k_wide, v_wide, documents, causal=causal, scale=scale).to(q_PHK.dtype)
    return _one_by_one(q_PHK, k_PHK, v_PHK, documents, causal=causal, scale=scale)


def _one_by_one(
    q_PHK: Tensor, k_PHK: Tensor, v_PHK: Tensor, documents: Documents, *, causal: bool, scale: float
) -> Tensor:
    """Torch's kernel for every document. It is the fused one for four dimensions only: hence the batch of one."""
    lengths = [end - begin for begin, end in documents.spans]
    # Split, not sliced: its backward pass is one copy, that of slices fills and adds all positions for each document.
    parts = (torch.split(x_PHK, lengths) for x_PHK in (q_PHK, k_PHK, v_PHK))
    mixed = []
    for of_document in zip(*parts, strict=True):
        q_1HnK, k_1HnK, v_1HnK = (x_nHK.transpose(0, 1)[None] for x_nHK in of_document)
        mixed_1HnK = F.scaled_dot_product_attention(q_1HnK, k_1HnK, v_1HnK, is_causal=causal, scale=scale)
        mixed.append(mixed_1HnK[0].transpose(0, 1))
    return torch.cat(mixed)


def _one_kernel(
    kernel: Kernel, q_PHK: Tensor, k_PHK: Tensor, v_PHK: Tensor, documents: Documents, *, causal: bool, scale: float
) -> Tensor:
    bounds, longest = documents.bounds, documents.longest
    if kernel == "varlen":
        from torch.nn.attention.varlen import varlen_attn

        window = (-1, 0) if causal else (-1, -1)
        mixed_PHK = varlen_attn(q_PHK, k_PHK, v_PHK, bounds, bounds, longest, longest, scale=scale, window_size=window)
        assert isinstance(mixed_PHK, Tensor)
        return mixed_PHK
    flash: Tensor = import_module("flash_attn").flash_attn_varlen_func(
        q_PHK, k_PHK, v_PHK, bounds, bounds, longest, longest, softmax_scale=scale, causal=causal
    )
    return flash


@cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _flex(q_PHK: Tensor, k_PHK: Tensor, v_PHK: Tensor, documents: Documents, *, causal: bool, scale: float) -> Tensor:
    q_1HPK, k_1HPK, v_1HPK = (x_PHK.transpose(0, 1)[None] for x_PHK in (q_PHK, k_PHK, v_PHK))
    mask = _block_mask(documents, causal=causal)
    mixed_1HPK: Tensor = _compiled_flex()(q_1HPK, k_1HPK, v_1HPK, block_mask=mask, scale=scale)
    return mixed_1HPK[0].transpose(0, 1)


def _block_mask(documents: Documents, *, causal: bool) -> Any:
    """Who sees whom, in blocks; made once for all layers."""
    from torch.nn.attention.flex_attention import create_block_mask

    made: dict[bool, Any] = documents.__dict__.setdefault("_block_masks", {})
    if causal not in made:
        number_P, P = documents.number_P, len(documents.tokens_P)

        def visible(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
            del b, h
            same = number_P[query] == number_P[key]
            return same & (key <= query) if causal else same

        made[causal] = create_block_mask(visible, None, None, P, P, device=number_P.device)
    return made[causal]
