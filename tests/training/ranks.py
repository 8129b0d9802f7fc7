"""Several processes that train together, and what they do in the tests."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import multiprocessing
import os
import runpy
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_order import RunOrder
from plm_scaling.corpus.batches import Batches
from plm_scaling.corpus.reader import Corpus
from plm_scaling.models.build import DTYPES, build_model
from plm_scaling.training.engine import Engine, ReplicatedEngine
from plm_scaling.training.objectives import PackedInput, packed_inputs
from plm_scaling.training.sharded import ShardedEngine
from plm_scaling.training.world import World

PROCESSES = multiprocessing.get_context("forkserver")
PRELOADED = [
    *("plm_scaling.training.__main__", "pyarrow.parquet", "pyarrow.dataset", "pandas", "torch._dynamo"),
    *("torch.distributed.fsdp", "torch.distributed.checkpoint"),
]
CPU = torch.device("cpu")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(size: int, target: Callable[..., Any], *args: Any) -> list[BaseProcess]:
    """Start `target(*args)` in processes that see what torchrun would tell them; a process alone is told nothing."""
    PROCESSES.set_forkserver_preload(PRELOADED)  # without effect once the server runs; all of this takes seconds
    port = free_port()
    processes = [PROCESSES.Process(target=_enter, args=(rank, size, port, target, args)) for rank in range(size)]
    for process in processes:
        process.start()
    return processes


def end(processes: Iterable[BaseProcess]) -> list[int | None]:
    """Wait for processes; a test must not leave any behind. Returns their exit codes."""
    deadline = time.monotonic() + 100
    try:
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        return [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _enter(rank: int, size: int, port: int, target: Callable[..., Any], args: tuple[Any, ...]) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    if size > 1:
        os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1")
    torch.set_num_threads(1)
    sys.exit(target(*args))


def train_main(run_dir: str, seen: str, at: dict[str, int]) -> int:
    """`python -m plm_scaling.training` that writes down what every process is shown, and meets with faults.

    Parameters
    ----------
    seen : folder for a file of each process: a line of JSON per step, and what goes to standard error.
    at : `rank` is hit at `step` of the run, just before its update: by the signal `kill`, by a full disk (`full`) or
        by a gradient that is no number (`nan`).
    """
    from plm_scaling.training.__main__ import main

    rank = int(os.environ.get("RANK", "0"))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    lines = Path(seen, f"{os.getpid()}.jsonl")
    for kind in (ReplicatedEngine, ShardedEngine):
        kind.gradients = _watched(kind.gradients, rank)  # type: ignore[method-assign]
        kind.update = _struck(kind.update, rank, world, at, lines)  # type: ignore[method-assign]
    with Path(seen, f"errors-{rank}").open("a") as handle, contextlib.redirect_stderr(handle):
        return main([run_dir, "--quiet"])


def _watched(gradients: Callable[..., Tensor], rank: int) -> Callable[..., Tensor]:
    def watched(engine: Any, batch: PackedInput, n_targets: int, key: int) -> Tensor:
        engine.shown = batch.tokens_BT.tolist()
        return gradients(engine, batch, n_targets, key)

    return watched


def _struck(
    update: Callable[..., Tensor], rank: int, world: int, at: dict[str, int], lines: Path
) -> Callable[..., Tensor]:
    def struck(engine: Any, step: int, lr: float) -> Tensor:
        with lines.open("a") as handle:
            print(json.dumps({"step": step, "rank": rank, "world": world, "shown": engine.shown}), file=handle)
        if (rank, step) == (at.get("rank"), at.get("step")):
            if "kill" in at:
                os.kill(os.getpid(), at["kill"])
            if "full" in at:
                raise OSError(errno.ENOSPC, "no space left")
            if "nan" in at:
                engine.flat.value.fill_(math.nan)
        return update(engine, step, lr)

    return struck


def shown(seen: Path) -> dict[int, list[list[int]]]:
    """The windows of every global batch, in order; a step that was taken twice was shown the same twice."""
    parts: dict[int, dict[tuple[int, int], list[list[int]]]] = {}
    for path in seen.glob("*.jsonl"):
        for line in map(json.loads, path.read_text().splitlines()):
            key, found = (line["world"], line["rank"]), parts.setdefault(line["step"], {})
            assert found.setdefault(key, line["shown"]) == line["shown"]
    whole = {}
    for step, found in sorted(parts.items()):
        for world in {world for world, _ in found}:
            shares = [found[world, rank] for rank in range(world)]
            windows = [shares[i % world][i // world] for i in range(sum(map(len, shares)))]
            assert whole.setdefault(step, windows) == windows
    return whole


def engine_for(config: RunConfig, world: World, **order: Any) -> Engine:
    model = build_model(
        config.shape,
        causal=config.objective == "clm",
        context=config.context,
        seed=config.seed,
        dtype=DTYPES[config.dtype],
        dropout=config.dropout,
    )
    given = RunOrder(config=config, corpus="", device="cpu", **order)
    if given.parallel == "sharded":
        return ShardedEngine(model, config, given, world, CPU)
    return ReplicatedEngine(model, config, given, world)


def inputs(batches: Batches, world: World, begin: int, stop: int) -> list[PackedInput]:
    shares = [batches.at(step, world.rank, world.size) for step in range(begin, stop)]
    return packed_inputs(shares, batches.config.objective, mask_seed=0, mask_rate=0.15)


def steps(engine: Engine, batches: Batches, world: World, begin: int, stop: int) -> dict[str, Tensor]:
    """Losses, gradient norms and, in the first process, the weights after some steps."""
    losses, norms = [], []
    for step, batch in enumerate(inputs(batches, world, begin, stop), start=begin):
        n_targets = world.totals([len(batch.target_S)])[0]
        loss = engine.gradients(batch, n_targets, key=1000 * world.rank + step)
        losses.append(world.sum_(loss.clone()) / n_targets)
        norms.append(engine.update(step, 1e-2).clone())
    return {"losses": torch.stack(losses), "norms": torch.stack(norms)} | engine.weights()


def trajectories(
    world: World, corpus: Path, cases: dict[str, tuple[dict[str, Any], dict[str, Any]]]
) -> dict[str, dict[str, Tensor]]:
    """Five steps of every case: a config and what its order says."""
    found = {}
    opened = Corpus.open(corpus)
    for name, (values, order) in cases.items():
        config = RunConfig.model_validate(values)
        found[name] = steps(engine_for(config, world, **order), Batches(opened, config), world, 0, 5)
    return found


def trajectories_of_ranks(corpus: str, cases: str, out: str) -> None:
    """The same in several processes; the first leaves a file."""
    with World.from_environment() as world:
        found = trajectories(world, Path(corpus), json.loads(cases))
        if world.first:
            torch.save(found, out)


def checkpoint_checks(values: str, folder: str, corpus: str) -> None:
    """What a checkpoint of cut parameters survives; every process checks for itself."""
    from plm_scaling.core.errors import CheckpointError
    from plm_scaling.training.checkpoint import LoopState

    place = Path(folder)
    config = RunConfig.model_validate_json(values)
    batches = Batches(Corpus.open(Path(corpus)), config)
    state = LoopState(run_id=config.run_id, step=0, threads=1, device="cpu", dtype="fp32", torch="")
    with World.from_environment() as world:

        def engine() -> Engine:
            return engine_for(config, world, parallel="sharded", keep_steps=(1,))

        def meet(action: Callable[[], Any] | None = None) -> None:
            world.totals([0])
            if action and world.first:
                action()
            world.totals([0])

        def load_into(other: Engine, expected_step: int, n_damaged: int) -> Engine:
            damage: list[CheckpointError] = []
            found = other.load_newest(place, damage.append)
            assert (found.step if found else 0, len(damage)) == (expected_step, n_damaged), (found, damage)
            meet()
            return other

        first = engine()
        load_into(first, 0, 0)
        for step in range(1, 5):
            steps(first, batches, world, step - 1, step)
            # Training goes on while the state is written: what is written must be that of the call.
            first.save(place, state.model_copy(update={"step": step}))
        expected = steps(first, batches, world, 4, 6)
        first.settle()
        meet()
        assert sorted(p.name for p in place.iterdir()) == [
            *("kept-0000000001.dcp", "step-0000000003.dcp", "step-0000000004.dcp")
        ]
        again = steps(load_into(engine(), 4, 0), batches, world, 4, 6)
        assert all(torch.equal(expected[key], again[key]) for key in expected)
        _check_damage(place, load_into, engine, meet)
        meet(lambda: (place / "step-0000000001.safetensors").touch())
        with pytest.raises(CheckpointError, match="whole copies"):
            engine().load_newest(place, print)


def _check_damage(
    place: Path,
    load_into: Callable[[Engine, int, int], Engine],
    engine: Callable[[], Engine],
    meet: Callable[..., None],
) -> None:
    newest, older = place / "step-0000000004.dcp", place / "step-0000000003.dcp"

    def flip() -> None:
        path = newest / "__1_0.distcp"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def cut() -> None:
        with (newest / "__0_0.distcp").open("r+b") as handle:
            handle.truncate(100)

    def recover() -> None:
        (place / "damaged-0000000004.dcp").rename(newest)
        for path in place.glob("spare/*"):
            (newest / path.name).write_bytes(path.read_bytes())

    meet(lambda: shutil.copytree(newest, place / "spare"))
    for damage in (flip, cut, lambda: (newest / "complete.json").write_text("{"), (newest / ".metadata").unlink):
        meet(damage)
        load_into(engine(), 3, 1)
        assert not newest.exists()
        meet(recover)
    load_into(engine(), 4, 0)
    meet((newest / "complete.json").unlink)  # as after a kill: not damaged, not finished
    load_into(engine(), 3, 0)
    assert not newest.exists()
    meet(lambda: shutil.rmtree(older))
    load_into(engine(), 0, 0)


def call(path: str, name: str, *args: Any) -> Any:
    """A function of a test file."""
    return runpy.run_path(path)[name](*args)
