"""How many small runs should share one device: k processes time their steps at once, and their speeds are added.

python -m plm_scaling.training.sharing --shape 2x64 --context 128 [--device cuda] [--json]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import torch

from plm_scaling.core.processor import cpu_count
from plm_scaling.core.records import Record
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_order import RunOrder
from plm_scaling.models.build import DTYPES, build_model
from plm_scaling.training.engine import ReplicatedEngine
from plm_scaling.training.feed import feed
from plm_scaling.training.memory import fitted
from plm_scaling.training.objectives import packed_input
from plm_scaling.training.speed import random_batch
from plm_scaling.training.world import World

__all__ = ["SharingReport", "SharingRow", "Stepper", "measure_sharing"]

_WARM_UP: Final = 3
_GAIN: Final = 1.05
"""More processes have to bring this much: each takes memory, and a run of its own takes longer."""


class SharingRow(Record):
    """What k processes reach together."""

    processes: int
    tokens_per_s: float | None
    """Window positions per second of all of them; None where they failed, for want of memory as a rule."""
    reason: str = ""


class SharingReport(Record):
    """Speeds measured side by side, and the number of processes to use."""

    device: str
    mps: bool
    """Whether NVIDIA's multi-process service ran: without it processes take turns on a GPU."""
    rows: tuple[SharingRow, ...]
    choice: int
    """Fewest processes that no other number beats by 5 %; 0 where none worked."""


def mps_runs() -> bool:
    """Whether the control daemon of NVIDIA's multi-process service has its pipe open on this machine."""
    return (Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")) / "control").exists()


def measure_sharing(
    config: RunConfig, device: str, candidates: Sequence[int] | None = None, *, seconds: float = 3.0
) -> SharingReport:
    """Time steps of a run like `config` in several processes at once.

    Parameters
    ----------
    device : cpu or cuda.
    candidates : numbers of processes, ascending; by default 1, 2, 4, 8, on a CPU one up to the number of cores.
    seconds : of each measurement, after a few steps that are not counted.
    """
    if candidates is None:
        candidates = range(1, cpu_count() + 1) if device == "cpu" else (1, 2, 4, 8)
    rows: list[SharingRow] = []
    for k in candidates:
        rows.append(_together(config, device, k, seconds))
        if rows[-1].tokens_per_s is None:
            break
    name = torch.cuda.get_device_name() if device == "cuda" and torch.cuda.is_available() else device
    return SharingReport(device=name, mps=device == "cuda" and mps_runs(), rows=tuple(rows), choice=_choice(rows))


def _choice(rows: Sequence[SharingRow]) -> int:
    reached = {row.processes: row.tokens_per_s for row in rows if row.tokens_per_s is not None}
    best = max(reached.values(), default=0.0)
    return min((k for k, speed in reached.items() if speed * _GAIN >= best), default=0)


def _together(config: RunConfig, device: str, k: int, seconds: float) -> SharingRow:
    order = RunOrder(config=config, corpus="", runs_per_device=k)
    context = multiprocessing.get_context("spawn")  # a CUDA device does not survive a fork
    pipes = [context.Pipe() for _ in range(k)]
    workers = [
        context.Process(target=_timed_steps, args=(order, device, seconds, theirs), daemon=True) for _, theirs in pipes
    ]
    for worker in workers:
        worker.start()
    for _, theirs in pipes:
        theirs.close()
    ours = [pipe for pipe, _ in pipes]
    try:
        _told(ours)  # all are warm
        for pipe in ours:
            pipe.send("go")
        return SharingRow(processes=k, tokens_per_s=sum(_told(ours)))
    except (EOFError, OSError, RuntimeError) as error:
        return SharingRow(processes=k, tokens_per_s=None, reason=str(error) or "a process ended without a word")
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
        for pipe in ours:
            pipe.close()


def _told(pipes: Sequence[Connection]) -> list[float]:
    answers: list[Any] = [pipe.recv() for pipe in pipes]
    if failed := [answer for answer in answers if isinstance(answer, str)]:
        raise RuntimeError(failed[0])
    return answers


def _timed_steps(order: RunOrder, device: str, seconds: float, pipe: Connection) -> None:
    """One process: say when it is warm, wait for all others, say its tokens per second."""
    try:
        torch.set_num_threads(1)
        step = Stepper(order, torch.device(device))
        for _ in range(_WARM_UP):
            step()
        step.settle()
        pipe.send(0.0)
        pipe.recv()
        begin, n = time.perf_counter(), 0
        while n == 0 or time.perf_counter() - begin < seconds:
            step()
            n += 1
        step.settle()
        pipe.send(n * order.config.batch_tokens / (time.perf_counter() - begin))
    except Exception as error:  # told to the process that measures
        pipe.send(f"{type(error).__name__}: {error}")


class Stepper:
    """Training steps on random windows: data, gradients, update."""

    def __init__(self, order: RunOrder, device: torch.device) -> None:
        config, self.order = order.config, fitted(order, World(), device)
        causal = config.objective == "clm"
        model = build_model(config.shape, causal=causal, context=config.context, dtype=DTYPES[config.dtype])
        self.config, self.device = config, device
        self.engine = ReplicatedEngine(model.to(device), config, self.order, World())
        self.batch = random_batch(config.windows_per_batch, config.context)
        self.n = 0

    def __call__(self) -> None:
        """Make one step."""
        config = self.config
        made = [packed_input(self.batch, config.objective, mask_seed=self.n, mask_rate=config.mask_rate)]
        for packed in feed(made, self.device, micro_windows=self.order.micro_windows):
            self.engine.gradients(packed, len(packed.target_S), 0)
            self.engine.update(self.n, config.peak_lr)
        self.n += 1

    def settle(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _config(given: argparse.Namespace) -> RunConfig:
    if given.config:
        return RunConfig.model_validate_json(given.config)
    n_layers, d_model = map(int, given.shape.split("x"))
    values = {"corpus_id": "", "D": given.batch_tokens, "peak_lr": 1e-4, "recipe": "small"}
    chosen = {name: getattr(given, name) for name in ("objective", "context", "batch_tokens", "dtype", "architecture")}
    return RunConfig.checked(**values, **chosen, n_layers=n_layers, d_model=d_model)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="How many runs of this shape should share one device.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--shape", help="layers x width, as in 2x64")
    what.add_argument("--config", metavar="JSON", help="a run's whole config, instead of the options below")
    parser.add_argument("--architecture", default="plm", choices=("plm", "esm2", "progen2"))
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--objective", default="mlm", choices=("clm", "mlm"))
    parser.add_argument("--dtype", default="fp32", choices=sorted(DTYPES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--processes", type=int, nargs="+", help="numbers to try, ascending")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    report = measure_sharing(_config(given), given.device, given.processes, seconds=given.seconds)
    if given.json:
        sys.stdout.write(report.model_dump_json() + "\n")
        return 0 if report.choice else 1
    lines = [f"{report.device}, multi-process service {'on' if report.mps else 'off'}", "processes  tokens/s in all"]
    for row in report.rows:
        reached = f"{row.tokens_per_s:,.0f}" if row.tokens_per_s is not None else f"failed: {row.reason}"
        lines.append(f"{row.processes:9d}  {reached}")
    lines.append(f"use {report.choice}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if report.choice else 1


if __name__ == "__main__":
    raise SystemExit(main())
