from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from plm_scaling.training.world import World

sys.path.insert(0, str(Path(__file__).parent))
import ranks


def test_a_process_alone_needs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with World.from_environment() as world:
        assert world == World()
        assert not dist.is_initialized()
        assert world.first
        assert world.totals([3, 4]) == [3, 4]
        assert world.any(True)
        assert not world.any(False)
        assert world.sum_(torch.ones(3)).tolist() == [1, 1, 1]
        assert world.blame("a reason") == "a reason"


def test_a_world_of_one_is_closed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(ranks.free_port()))
    with World.from_environment() as world:
        assert (world.rank, world.size, world.local_rank) == (0, 1, 0)
        assert dist.is_initialized()
    assert not dist.is_initialized()


@given(st.integers(0, 100), st.integers(1, 20))
def test_shares_are_those_of_every_nth(n: int, size: int) -> None:
    shares = [World(rank, size).share(n) for rank in range(size)]
    assert shares == [len(range(n)[rank::size]) for rank in range(size)]
    assert sum(shares) == n


def talk(out: str) -> None:
    with World.from_environment() as world:
        assert (world.rank, world.size) == (int(os.environ["RANK"]), 2)
        assert world.local_size == 2
        assert world.totals([world.rank, 5]) == [1, 10]
        assert world.any(world.rank == 1)
        assert not world.any(False)
        tensor = torch.full((3,), float(world.rank + 1), dtype=torch.float64)
        assert world.sum_(tensor) is tensor
        assert tensor.tolist() == [3, 3, 3]
        if world.rank == 1:
            assert world.blame("a full disk") == "a full disk"
        world.totals([0])
        if world.first:
            assert world.blame("lost a connection") == "process 1: a full disk (process 0 ended with it)"
        Path(f"{out}-{world.rank}").touch()


def test_two_processes_agree(tmp_path: Path) -> None:
    assert ranks.end(ranks.start(2, ranks.call, __file__, "talk", str(tmp_path / "done"))) == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["done-0", "done-1"]
