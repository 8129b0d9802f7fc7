"""Training speed on one CPU thread against fair-esm and transformers on the same documents, and of small models.

    python benchmarks/bench_training.py [--quick] [--json] [--seconds 120] [--device cuda]

Competitors take turns in one process and are compared by process CPU time, so that a busy machine slows all alike.
`--quick` takes two of the six layers and the best of three rounds. Ours is the faster of float32 and bf16; where a
processor has no bf16 instructions, no implementation in float32 can beat `bound_vs_fair_esm`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from training_cuda import on_cuda
from training_peers import BETAS, CLIP, DECAY, LR, MASK_RATE, Step, fair_esm, hf_clm, hf_esm, padded

from plm_scaling.core.alphabet import CLS, EOS, PAD
from plm_scaling.core.processor import has_bf16
from plm_scaling.core.run import Objective, RunConfig
from plm_scaling.core.run_order import RunOrder
from plm_scaling.corpus.batches import Batch
from plm_scaling.models import attention
from plm_scaling.models.build import DTYPES, build_model
from plm_scaling.training.engine import ReplicatedEngine
from plm_scaling.training.objectives import packed_input
from plm_scaling.training.speed import random_batch
from plm_scaling.training.steps import AutogradStep
from plm_scaling.training.world import World

REAL_TOKENS, LONGEST, EQUAL = 2048, 1024, 256
CONTEXT = REAL_TOKENS  # one window of them, 99 % full: what packing reaches on a corpus
WIDTH, HEADS = 320, 20
SMALL = ((2, 16), (2, 32), (2, 64), (3, 96))
PEAK_SIZE = 768


def take_turns(steps: dict[str, Step], seconds: float, rounds: int = 3) -> dict[str, list[float]]:
    """CPU seconds per call of each, called in turn for at least `rounds` rounds after a first one, and `seconds`.

    The first round is left out where there are three others.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    begin = time.perf_counter()
    while len(next(iter(times.values()))) <= rounds or time.perf_counter() - begin < seconds:
        for name, step in steps.items():
            start = time.process_time()
            step()
            times[name].append(time.process_time() - start)
    return times if rounds < 3 else {name: values[1:] for name, values in times.items()}


def sequences(seed: int = 0) -> list[np.ndarray]:
    """Random proteins with log-normal lengths of mean about 280, REAL_TOKENS positions in all."""
    rng = np.random.default_rng(seed)
    out: list[np.ndarray] = []
    left = REAL_TOKENS
    while left > 60:
        length = int(np.clip(rng.lognormal(5.45, 0.6), 40, min(LONGEST, left) - 2))
        out.append(np.concatenate([[CLS], rng.integers(4, 24, length), [EOS]]))
        left -= length + 2
    return out


def equal_sequences() -> list[np.ndarray]:
    """As many positions in documents of one length, so that nothing is padded."""
    rng = np.random.default_rng(0)
    return [np.concatenate([[CLS], rng.integers(4, 24, EQUAL - 2), [EOS]]) for _ in range(REAL_TOKENS // EQUAL)]


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


def config(n_layers: int, d_model: int, context: int, batch: int, **changes: Any) -> RunConfig:
    values = {"corpus_id": "", "objective": "mlm", "D": batch, "peak_lr": LR, "recipe": "small"}
    values |= {"beta1": BETAS[0], "beta2": BETAS[1], "weight_decay": DECAY, "grad_clip": CLIP}
    values |= {"n_layers": n_layers, "d_model": d_model, "context": context, "batch_tokens": batch}
    return RunConfig.model_validate(values | changes)


def ours(batch: Batch, settings: RunConfig, *, autograd: bool = False, kernel: str | None = None) -> Step:
    """A training step: data, gradients, update."""
    causal = settings.objective == "clm"
    model = build_model(settings.shape, causal=causal, context=settings.context, dtype=DTYPES[settings.dtype])
    engine = ReplicatedEngine(model, settings, RunOrder(config=settings, corpus=""), World())
    gradients = AutogradStep(model).gradients if autograd else engine.gradients

    def step() -> None:
        made = packed_input(batch, settings.objective, mask_seed=0, mask_rate=MASK_RATE)
        chosen = attention.kernel_for
        if kernel:
            attention.kernel_for = lambda *_: kernel  # type: ignore[assignment,return-value]
        try:
            gradients(made, len(made.target_S), 0)
        finally:
            attention.kernel_for = chosen
        engine.update(0, LR)

    return step


def product(dtype: torch.dtype) -> Step:
    a = torch.randn(PEAK_SIZE, PEAK_SIZE).to(dtype)
    return lambda: [a @ a for _ in range(8)]


def competitors(n_layers: int, *, quick: bool) -> tuple[dict[str, Step], RunConfig]:
    """Every step that is timed, and the config of ours."""
    documents, same = sequences(), equal_sequences()
    batch, batch_same = packed(documents), packed(same)
    tokens, tokens_same = padded(documents), padded(same)
    esm2 = {"architecture": "esm2", "n_heads": HEADS}
    settings = config(n_layers, WIDTH, CONTEXT, batch.tokens.size, **esm2)
    settings_same = config(n_layers, WIDTH, CONTEXT, batch_same.tokens.size, **esm2)
    shape = (n_layers, WIDTH, HEADS)
    steps: dict[str, Step] = {
        "peak_fp32": product(torch.float32),
        "ours_fp32": ours(batch, settings),
        "ours_plm_fp32": ours(batch, config(n_layers, WIDTH, CONTEXT, batch.tokens.size)),
        "ours_unpadded_fp32": ours(batch_same, settings_same),
        "ours_clm_fp32": ours(batch, settings.model_copy(update={"objective": "clm"})),
        "fair_esm": fair_esm(*shape, tokens),
        "hf": hf_esm(*shape, tokens, autocast=False),
        "hf_bf16": hf_esm(*shape, tokens, autocast=True),
        "hf_bf16_unpadded": hf_esm(*shape, tokens_same, autocast=True),
        "hf_clm": hf_clm(*shape, tokens, autocast=False),
        "peak_bf16": product(torch.bfloat16),
    }
    if has_bf16() or not quick:
        half = {"dtype": "bf16"}
        steps |= {
            "ours_bf16": ours(batch, settings.model_copy(update=half)),
            "ours_plm_bf16": ours(batch, config(n_layers, WIDTH, CONTEXT, batch.tokens.size, **half)),
            "ours_unpadded_bf16": ours(batch_same, settings_same.model_copy(update=half)),
            "ours_clm_bf16": ours(batch, settings.model_copy(update={"objective": "clm", **half})),
        }
    if not quick:
        steps |= {
            "hf_unpadded": hf_esm(*shape, tokens_same, autocast=False),
            "ours_explicit_fp32": ours(batch, settings, kernel="explicit"),
        }
    return steps, settings


def against_peers(seconds: float, *, quick: bool) -> dict[str, Any]:
    """Ratios to the peers, shares of the matrix product's peak, and what the gain is made of."""
    n_layers = 2 if quick else 6
    steps, settings = competitors(n_layers, quick=quick)
    # Three rounds have no median worth the name: their best is what the machine does undisturbed.
    times = take_turns(steps, 0.0 if quick else seconds, rounds=2 if quick else 5)
    s = {name: min(values) if quick else statistics.median(values) for name, values in times.items()}
    spread = {name: round((max(values) - min(values)) / s[name], 2) for name, values in times.items()}
    best = {
        name: min((f"ours_{name}{d}" for d in ("fp32", "bf16") if f"ours_{name}{d}" in s), key=s.__getitem__)
        for name in ("", "plm_", "unpadded_", "clm_")
    }
    mine, dtype = s[best[""]], best[""].removeprefix("ours_")
    lengths = [len(document) for document in sequences()]
    exact = settings.shape.training_flops(
        positions=sum(lengths), sum_length_squared=sum(n * n for n in lengths), head_positions=MASK_RATE * sum(lengths)
    )
    six_n = 6.0 * settings.N * sum(lengths)
    peak = {name: 8 * 2.0 * PEAK_SIZE**3 / s[f"peak_{name}"] for name in ("fp32", "bf16")}
    top = max(peak.values())
    found: dict[str, Any] = {
        "shape": f"{n_layers}x{WIDTH}, {HEADS} heads",
        "has_bf16": has_bf16(),
        "ours_is": dtype,
        "real_share_of_padded": round(sum(lengths) / padded(sequences()).numel(), 2),
        "vs_fair_esm": s["fair_esm"] / mine,
        "vs_hf": s["hf"] / mine,
        "vs_hf_bf16": s["hf_bf16"] / mine,
        "vs_hf_bf16_unpadded": s["hf_bf16_unpadded"] / s[best["unpadded_"]],
        "clm_vs_hf": s["hf_clm"] / s[best["clm_"]],
        "plm_vs_hf": s["hf"] / s[best["plm_"]],
        "mfu": six_n / mine / peak[dtype],
        "mfu_exact": exact / mine / peak[dtype],
        "mfu_of_best_peak": six_n / mine / top,
        "peak_gflops": {name: round(value / 1e9) for name, value in peak.items()},
        "bound_vs_fair_esm": s["fair_esm"] * top / exact,
        "bound_vs_hf": s["hf"] * top / exact,
    }
    if not quick:
        found |= {
            "gain_padding": s["hf"] / s["hf_unpadded"],
            "gain_precision": s["ours_fp32"] / s["ours_bf16"],
            "gain_fused_over_explicit": s["ours_explicit_fp32"] / s["ours_fp32"],
            "gain_unpadded_fp32": s["hf_unpadded"] / s["ours_unpadded_fp32"],
        }
    found = {name: round(value, 3) if isinstance(value, float) else value for name, value in found.items()}
    return found | {"seconds": {name: round(value, 3) for name, value in s.items()}, "spread": spread}


def small_models(batch_tokens: int, objective: Objective, seconds: float) -> list[dict[str, object]]:
    """GFLOP/s (6ND) of the demo's models at context 128, and times autograd's speed."""
    rows: list[dict[str, object]] = []
    for n_layers, d_model in SMALL:
        settings = config(n_layers, d_model, 128, batch_tokens, objective=objective)
        batch = random_batch(settings.windows_per_batch, 128)
        both: dict[str, Step] = {"ours": ours(batch, settings), "autograd": ours(batch, settings, autograd=True)}
        found = {name: statistics.median(values) for name, values in take_turns(both, seconds, rounds=7).items()}
        rows.append(
            {
                "model": f"{n_layers}x{d_model}",
                "batch": batch_tokens,
                "objective": objective,
                "ms_per_step": round(1e3 * found["ours"], 2),
                "gflops_6nd": round(6 * settings.N * batch_tokens / found["ours"] / 1e9, 1),
                "times_autograd": round(found["autograd"] / found["ours"], 2),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="of the comparison with the peers")
    parser.add_argument("--quick", action="store_true", help="two layers, three rounds, no small models")
    parser.add_argument("--json", action="store_true", help="one object only: the comparison with the peers")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    given = parser.parse_args()
    if given.device == "cuda":
        for row in on_cuda(quick=given.quick):
            print(json.dumps(row), flush=True)
        return
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if not (given.quick or given.json):
        tables: Callable[[int, Objective], list[dict[str, object]]]
        tables = lambda tokens, objective: small_models(tokens, objective, given.seconds / 80)  # noqa: E731
        for row in (row for tokens in (512, 2048) for o in ("clm", "mlm") for row in tables(tokens, o)):  # type: ignore[arg-type]
            print(json.dumps(row), flush=True)
    print(json.dumps(against_peers(given.seconds, quick=given.quick)), flush=True)


if __name__ == "__main__":
    main()
