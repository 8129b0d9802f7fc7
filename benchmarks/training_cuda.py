"""The CUDA part of `bench_training`: large models against the peak of a matrix product, many small runs at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F

from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_order import RunOrder
from plm_scaling.models.build import build_model
from plm_scaling.training.engine import ReplicatedEngine
from plm_scaling.training.feed import feed
from plm_scaling.training.objectives import packed_input
from plm_scaling.training.sharing import measure_sharing
from plm_scaling.training.speed import random_batch
from plm_scaling.training.world import World

SHAPES = {"esm2_150M": (30, 640, 20), "esm2_650M": (33, 1280, 20)}
SMALL = {"20M": (6, 512, 8)}
CONTEXT, WINDOWS, STEPS = 1024, 32, 10


def seconds_of(function: Callable[[], object], n: int = STEPS) -> float:
    """Seconds per call, after three calls that are not counted."""
    for _ in range(3):
        function()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(n):
        function()
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / n


def settings(n_layers: int, d_model: int, heads: int) -> RunConfig:
    return RunConfig(
        corpus_id="", objective="mlm", n_layers=n_layers, d_model=d_model, n_heads=heads, architecture="esm2",
        context=CONTEXT, D=CONTEXT * WINDOWS, batch_tokens=CONTEXT * WINDOWS, peak_lr=1e-4, recipe="small",
        dtype="bf16",
    )  # fmt: skip


def mlp_share(d_model: int, peak: float) -> float:
    """What the two products of a feed-forward layer reach of the peak, forward and backward."""
    P = CONTEXT * WINDOWS
    x_PD = torch.randn(P, d_model, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weights = [torch.randn(s, device="cuda", dtype=torch.bfloat16, requires_grad=True) for s in
               ((4 * d_model, d_model), (d_model, 4 * d_model))]  # fmt: skip

    def step() -> None:
        F.linear(F.gelu(F.linear(x_PD, weights[0])), weights[1]).sum().backward()

    return 3 * 2 * P * 8 * d_model**2 / seconds_of(step) / peak


def of_hf(config: RunConfig) -> tuple[str, float]:
    """Which attention `transformers` has here, and its seconds per step on as many positions, nothing padded."""
    from transformers import EsmConfig, EsmForMaskedLM

    kind = "flash_attention_2" if find_spec("flash_attn") else "sdpa"
    shape = {"num_hidden_layers": config.n_layers, "hidden_size": config.d_model}
    shape |= {"num_attention_heads": config.shape.heads}
    shape |= {"intermediate_size": 4 * config.d_model, "vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32}
    model = EsmForMaskedLM(
        EsmConfig(**shape, position_embedding_type="rotary", token_dropout=True, attn_implementation=kind)
    )
    model = model.to("cuda", torch.bfloat16)
    tokens = torch.randint(4, 24, (WINDOWS, CONTEXT), device="cuda")
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        F.cross_entropy(model(tokens).logits.float().flatten(0, 1), tokens.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

    return kind, seconds_of(step)


def row_of(name: str, config: RunConfig, peak: float) -> dict[str, Any]:
    """One model: ours, transformers, shares of the peak."""
    device = torch.device("cuda")
    model = build_model(config.shape, causal=False, context=CONTEXT, dtype=torch.bfloat16).to(device)
    engine = ReplicatedEngine(model, config, RunOrder(config=config, corpus=""), World())
    batch = packed_input(random_batch(WINDOWS, CONTEXT), "mlm", mask_seed=0, mask_rate=0.15)
    inputs = feed(iter(lambda: batch, None), device)

    def step() -> None:
        engine.gradients(next(inputs), len(batch.target_S), 0)
        engine.update(0, 1e-4)

    mine = seconds_of(step)
    kind, theirs = of_hf(config)
    squared = float(batch.documents.bounds.diff().double().square().sum())
    exact = config.shape.training_flops(positions=config.batch_tokens, sum_length_squared=squared)
    return {
        "model": name,
        "tokens_per_s": round(config.batch_tokens / mine),
        "mfu": round(6.0 * config.N * config.batch_tokens / mine / peak, 3),
        "mfu_exact": round(exact / mine / peak, 3),
        "vs_hf": round(theirs / mine, 2),
        "hf_attention": kind,
        "mlp_share_of_peak": round(mlp_share(config.d_model, peak), 3),
    }


def on_cuda(*, quick: bool) -> Iterator[dict[str, Any]]:
    """Rows, or one that says why there are none."""
    if not torch.cuda.is_available():
        yield {"device": "cuda", "skipped": "torch sees no CUDA device"}
        return
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    peak = 2 * 8192**3 / seconds_of(lambda: a @ a)
    yield {"device": torch.cuda.get_device_name(), "bf16_peak_tflops": round(peak / 1e12)}
    for name, shape in SHAPES.items():
        yield row_of(name, settings(*shape), peak)
    for name, shape in SMALL.items():
        report = measure_sharing(settings(*shape), "cuda", (1, 2) if quick else (1, 2, 4, 8))
        yield {"model": name, "sharing": report.model_dump()}
