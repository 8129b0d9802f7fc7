"""Long statistics: whether intervals hold the truth as often as they promise."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).resolve().parents[2] / "benchmarks" / "bench_coverage.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_coverage", BENCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_coverage"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("world", ["chinchilla", "log_quadratic"])
def test_intervals_of_the_exponent_hold_it_as_often_as_they_say(bench: ModuleType, world: str) -> None:
    """100 studies: of a coverage of 95 %, 90 % is more than two binomial standard errors away.

    More worlds, and more studies, are measured by `benchmarks/bench_coverage.py`.
    """
    found = bench.measure(world, studies=100, draws=400, profiles=False)
    assert found.no_interval == 0
    assert found.within_2_se >= 0.90
    assert 0.90 <= found.percentile <= 0.995


@pytest.mark.slow
def test_a_noise_twice_as_loud_is_twice_as_wide(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = bench.measure("log_quadratic", studies=20, draws=200, profiles=False).width
    monkeypatch.setattr(bench, "SD_RUN", 2 * bench.SD_RUN)
    assert bench.measure("log_quadratic", studies=20, draws=200, profiles=False).width == pytest.approx(
        2 * plain, rel=0.2
    )
