"""How long a training step takes on this machine, without a corpus: what a forecast needs before it trains."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Final

import numpy as np
import torch

from plm_scaling.core.alphabet import CLS, EOS, FIRST_RESIDUE, STANDARD
from plm_scaling.core.files import write_atomic
from plm_scaling.core.run import Objective, RunConfig
from plm_scaling.core.run_order import RunOrder
from plm_scaling.corpus.batches import Batch
from plm_scaling.models.build import DTYPES, build_model
from plm_scaling.training.engine import ReplicatedEngine
from plm_scaling.training.objectives import packed_input
from plm_scaling.training.world import World

__all__ = ["random_batch", "step_seconds", "time_steps"]

_SECONDS: Final = 0.4
_LENGTHS: Final = (20, 90)


def random_batch(windows: int, context: int, *, seed: int = 0) -> Batch:
    """Full windows of random documents of 20 to 90 positions, shaped like a real batch."""
    rng = np.random.default_rng(seed)
    shape = (windows, context)
    tokens = rng.integers(FIRST_RESIDUE, FIRST_RESIDUE + len(STANDARD), shape).astype(np.uint8)
    segment, position = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int32)
    row = np.zeros(shape, dtype=np.int64)
    n_rows = 0
    for window in range(windows):
        begin = 0
        for number in range(context):
            end = min(context, begin + int(rng.integers(*_LENGTHS)))
            here = (window, slice(begin, end))
            segment[here], position[here], row[here] = number, np.arange(end - begin), n_rows
            tokens[window, begin], tokens[window, end - 1] = CLS, EOS
            n_rows += 1
            begin = end
            if end == context:
                break
    return Batch(tokens, segment, position, row, position - 1, np.zeros(windows, dtype=np.int64))


def step_seconds(config: RunConfig, *, seconds: float = _SECONDS) -> float:
    """Seconds per training step (data, gradients, update) of a run like `config`: the median over `seconds`."""
    model = build_model(
        config.shape,
        causal=config.objective == "clm",
        context=config.context,
        dtype=DTYPES[config.dtype],
        dropout=config.dropout,
    )
    engine = ReplicatedEngine(model, config, RunOrder(config=config, corpus=""), World())
    batch = random_batch(config.windows_per_batch, config.context)
    times: list[float] = []
    while sum(times) < seconds or len(times) < 8:
        begin = time.perf_counter()
        packed = packed_input(batch, config.objective, mask_seed=0, mask_rate=config.mask_rate)
        engine.gradients(packed, len(packed.target_S), 0)
        engine.update(len(times), 1e-4)
        times.append(time.perf_counter() - begin)
    return float(np.median(times[2:]))


def time_steps(
    n_layers: int,
    d_model: int,
    context: int,
    batch_tokens: int,
    objective: Objective,
    dtype: str,
    out: str,
    others: str = "{}",
) -> int:
    """Write the seconds per step of such a run to the JSON file `out`; a task for a pool of processes.

    Parameters
    ----------
    others : JSON of further fields of the run's config.
    """
    torch.set_num_threads(1)
    config = RunConfig.model_validate(
        json.loads(others)
        | {
            "corpus_id": "",
            "objective": objective,
            "n_layers": n_layers,
            "d_model": d_model,
            "context": context,
            "D": batch_tokens,
            "batch_tokens": batch_tokens,
            "peak_lr": 1e-4,
            "recipe": "small",
            "dtype": dtype,
        }
    )
    write_atomic(Path(out), json.dumps(step_seconds(config)))
    return 0
