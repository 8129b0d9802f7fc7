"""Training speed on one CPU thread: our packed step against padded ESM-2 on the same sequences, and small models.

    python benchmarks/bench_training.py [--seconds 3] [--quick]

Competitors take turns in one process and are compared by process CPU time, so that a busy machine slows all alike.
Prints one JSON object per line. `transformers` is used where it is installed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from plm_scaling.core.alphabet import CLS, EOS, MASK, PAD
from plm_scaling.core.run import Objective, RunConfig
from plm_scaling.core.units import block_parameters
from plm_scaling.corpus.batches import Batch
from plm_scaling.training.model import FlatParameters, Transformer
from plm_scaling.training.objectives import packed_input
from plm_scaling.training.speed import random_batch
from plm_scaling.training.steps import AdamW, AutogradStep, GradientStep, gradient_step

REAL_TOKENS, CONTEXT, MASK_RATE = 2048, 1024, 0.15
SMALL = ((2, 16), (2, 32), (2, 64), (3, 96))
Step = Callable[[], object]


def take_turns(steps: dict[str, Step], seconds: float) -> dict[str, float]:
    """Median CPU seconds per call of each, called in turn."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds * len(steps) or len(next(iter(times.values()))) < 7:
        for name, step in steps.items():
            start = time.process_time()
            step()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def sequences(seed: int = 0) -> list[np.ndarray]:
    """Random proteins with log-normal lengths of mean about 280, REAL_TOKENS positions in all."""
    rng = np.random.default_rng(seed)
    out: list[np.ndarray] = []
    left = REAL_TOKENS
    while left > 60:
        length = int(np.clip(rng.lognormal(5.45, 0.6), 40, min(CONTEXT - 2, left - 2)))
        out.append(np.concatenate([[CLS], rng.integers(4, 24, length), [EOS]]))
        left -= length + 2
    return out


def packed(documents: Sequence[np.ndarray]) -> Batch:
    """The sequences laid into windows of CONTEXT, first fit."""
    windows: list[list[np.ndarray]] = []
    for document in sorted(documents, key=len, reverse=True):
        home = next((w for w in windows if sum(map(len, w)) + len(document) <= CONTEXT), None)
        if home is None:
            windows.append(home := [])
        home.append(document)
    shape = (len(windows), CONTEXT)
    tokens, segment = np.full(shape, PAD, dtype=np.uint8), np.full(shape, -1, dtype=np.int32)
    position, row = np.zeros(shape, dtype=np.int32), np.full(shape, -1, dtype=np.int64)
    for w, window in enumerate(windows):
        at = 0
        for number, document in enumerate(window):
            here = (w, slice(at, at + len(document)))
            tokens[here], segment[here], position[here] = document, number, np.arange(len(document))
            row[here] = 100 * w + number
            at += len(document)
    return Batch(tokens, segment, position, row, position - 1, np.zeros(len(windows), dtype=np.int64))


def padded(documents: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """int64[n, longest] tokens and the mask of MLM targets."""
    tokens = torch.full((len(documents), max(map(len, documents))), PAD)
    for number, document in enumerate(documents):
        tokens[number, : len(document)] = torch.from_numpy(document)
    generator = torch.Generator().manual_seed(0)
    return tokens, (torch.rand(tokens.shape, generator=generator) < MASK_RATE) & (tokens >= 4)


def config(n_layers: int, d_model: int, context: int, batch: int, objective: Objective = "mlm") -> RunConfig:
    return RunConfig(
        corpus_id="",
        objective=objective,
        n_layers=n_layers,
        d_model=d_model,
        context=context,
        D=batch,
        batch_tokens=batch,
        peak_lr=1e-4,
        recipe="small",
    )


def ours(batch: Batch, settings: RunConfig, by: str = "fastest") -> Step:
    """A training step: data, gradients, update."""
    model = Transformer(
        settings.n_layers, settings.d_model, causal=settings.objective == "clm", context=settings.context
    )
    flat = FlatParameters.of(model)
    windows = len(batch.tokens)
    gradients: GradientStep = (
        gradient_step(model, flat, windows, settings.context) if by == "fastest" else AutogradStep(model, flat)
    )
    optimiser = AdamW(flat, settings)

    def step() -> None:
        gradients.gradients(packed_input(batch, settings.objective, mask_seed=0, mask_rate=MASK_RATE))
        optimiser.update(0, 1e-4)

    return step


def peer(
    model: torch.nn.Module, logits_of: Callable[[torch.Tensor], torch.Tensor], tokens: torch.Tensor, mask: torch.Tensor
) -> Step:
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        logits = logits_of(tokens.masked_fill(mask, MASK))
        F.cross_entropy(logits[mask], tokens[mask]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

    return step


def against_esm(n_layers: int, d_model: int, heads: int, seconds: float) -> dict[str, object]:
    """CPU seconds per step of 2,048 real positions, and how many times as fast we are."""
    from esm.model.esm2 import ESM2

    documents = sequences()
    tokens, mask = padded(documents)
    esm = ESM2(num_layers=n_layers, embed_dim=d_model, attention_heads=heads, token_dropout=False)
    batch = packed(documents)
    steps = {
        "ours": ours(batch, config(n_layers, d_model, CONTEXT, batch.tokens.size)),
        "fair_esm": peer(esm, lambda shown: esm(shown)["logits"], tokens, mask),
    }
    try:
        from transformers import EsmConfig, EsmForMaskedLM
    except ImportError:
        pass
    else:
        shape = {"num_hidden_layers": n_layers, "hidden_size": d_model, "num_attention_heads": heads}
        shape |= {"intermediate_size": 4 * d_model, "vocab_size": 33, "pad_token_id": PAD, "mask_token_id": MASK}
        hf = EsmForMaskedLM(
            EsmConfig(**shape, position_embedding_type="rotary", max_position_embeddings=1026, token_dropout=False)
        )
        visible = tokens != PAD
        steps["hf"] = peer(hf, lambda shown: hf(shown, attention_mask=visible).logits, tokens, mask)
    found = take_turns(steps, seconds)
    ratios = {f"times_{name}": round(found[name] / found["ours"], 2) for name in found if name != "ours"}
    return {"shape": f"{n_layers}x{d_model}", "real_fill": round(sum(map(len, documents)) / tokens.numel(), 2)} | {
        **{f"{name}_s": round(value, 4) for name, value in found.items()},
        **ratios,
    }


def small_models(batch_tokens: int, objective: Objective, seconds: float) -> list[dict[str, object]]:
    """GFLOP/s (6ND) of the demo's models at context 128, and times autograd's speed."""
    rows: list[dict[str, object]] = []
    for n_layers, d_model in SMALL:
        settings = config(n_layers, d_model, 128, batch_tokens, objective)
        batch = random_batch(settings.windows_per_batch, 128)
        found = take_turns(
            {"ours": ours(batch, settings), "autograd": ours(batch, settings, by="autograd")}, seconds / 4
        )
        flops = 6 * block_parameters(n_layers, d_model) * batch_tokens
        rows.append(
            {
                "model": f"{n_layers}x{d_model}",
                "batch": batch_tokens,
                "objective": objective,
                "ms_per_step": round(1e3 * found["ours"], 2),
                "gflops_6nd": round(flops / found["ours"] / 1e9, 1),
                "times_autograd": round(found["autograd"] / found["ours"], 2),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="per competitor")
    parser.add_argument("--quick", action="store_true", help="small models only")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for batch_tokens in (512, 2048):
        for objective in ("clm", "mlm"):
            for row in small_models(batch_tokens, objective, given.seconds):
                print(json.dumps(row), flush=True)
    if not given.quick:
        for shape in ((4, 128, 8), (6, 320, 20)):
            print(json.dumps(against_esm(*shape, given.seconds)), flush=True)


if __name__ == "__main__":
    main()
