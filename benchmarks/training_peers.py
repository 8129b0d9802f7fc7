"""Training steps of the peers of `bench_training`: the same documents, the same optimiser, padded as they need it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from plm_scaling.core.alphabet import MASK, PAD

Step = Callable[[], object]
Logits = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
MASK_RATE, LR, BETAS, DECAY, CLIP = 0.15, 1e-4, (0.9, 0.95), 0.1, 1.0


def padded(documents: Sequence[np.ndarray]) -> torch.Tensor:
    """int64[n, longest] tokens."""
    tokens = torch.full((len(documents), max(map(len, documents))), PAD)
    for number, document in enumerate(documents):
        tokens[number, : len(document)] = torch.from_numpy(document)
    return tokens


def step_of(model: torch.nn.Module, logits_of: Logits, tokens: torch.Tensor, *, causal: bool, autocast: bool) -> Step:
    """Forward, backward, clipping, AdamW; no attention mask where nothing is padded."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, weight_decay=DECAY, fused=True)
    visible = None if bool((tokens != PAD).all()) else tokens != PAD
    generator = torch.Generator().manual_seed(0)
    if causal:
        shown, target = tokens[:, :], tokens[:, 1:]
        scored = target != PAD
    else:
        target = tokens
        scored = (torch.rand(tokens.shape, generator=generator) < MASK_RATE) & (tokens >= 4)
        shown = tokens.masked_fill(scored, MASK)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext():
            logits = logits_of(shown, visible)
        logits = logits[:, :-1] if causal else logits
        F.cross_entropy(logits[scored].float(), target[scored]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()

    return step


def fair_esm(n_layers: int, d_model: int, heads: int, tokens: torch.Tensor) -> Step:
    """ESM-2 of fair-esm, float32."""
    from esm.model.esm2 import ESM2

    model = ESM2(num_layers=n_layers, embed_dim=d_model, attention_heads=heads, token_dropout=True)
    return step_of(model, lambda shown, _: model(shown)["logits"], tokens, causal=False, autocast=False)


def hf_esm(n_layers: int, d_model: int, heads: int, tokens: torch.Tensor, *, autocast: bool) -> Step:
    """EsmForMaskedLM as `transformers` builds it by default."""
    from transformers import EsmConfig, EsmForMaskedLM

    config = EsmConfig(
        num_hidden_layers=n_layers,
        hidden_size=d_model,
        num_attention_heads=heads,
        intermediate_size=4 * d_model,
        vocab_size=33,
        pad_token_id=PAD,
        mask_token_id=MASK,
        position_embedding_type="rotary",
        max_position_embeddings=1026,
        token_dropout=True,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = EsmForMaskedLM(config)
    return step_of(
        model, lambda shown, visible: model(shown, attention_mask=visible).logits, tokens, causal=False,
        autocast=autocast,
    )  # fmt: skip


def hf_clm(n_layers: int, d_model: int, heads: int, tokens: torch.Tensor, *, autocast: bool) -> Step:
    """GPT-NeoX with torch's attention kernel, which it is made to prove that it calls.

    Raises
    ------
    AssertionError : it computes attention otherwise.
    """
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        num_hidden_layers=n_layers,
        hidden_size=d_model,
        num_attention_heads=heads,
        intermediate_size=4 * d_model,
        vocab_size=33,
        max_position_embeddings=1024,
        rotary_pct=1.0,
        use_cache=False,
        attn_implementation="sdpa",
    )
    model: Any = GPTNeoXForCausalLM(config)
    assert model.config._attn_implementation == "sdpa"
    assert fused_calls(lambda: model(tokens[:1, :16])) == n_layers
    return step_of(
        model, lambda shown, visible: model(shown, attention_mask=visible).logits, tokens, causal=True,
        autocast=autocast,
    )  # fmt: skip


def fused_calls(function: Callable[[], object]) -> int:
    """How often `function` calls torch's attention kernel."""
    calls = 0
    kernel = F.scaled_dot_product_attention

    def counting(*args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return kernel(*args, **kwargs)

    torch.nn.functional.scaled_dot_product_attention = counting
    try:
        with torch.no_grad():
            function()
    finally:
        torch.nn.functional.scaled_dot_product_attention = kernel
    return calls
