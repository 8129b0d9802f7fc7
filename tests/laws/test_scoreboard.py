from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plm_scaling.core.run_table import RunTable

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"):
        monkeypatch.setenv(name, "1")  # set by the script for good, put back here
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("scoreboard", FOLDER / "scoreboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "scoreboard", module)
    spec.loader.exec_module(module)
    return module


def test_a_table_is_cut_by_rule_and_what_fails_is_said(board: Any, world: Callable[..., Any]) -> None:
    table = world("chinchilla", sd=0.002).table()
    splits, left_out = board.split_table("made", table)
    for split in splits:
        below, above = (6 * part.column("N") * part.column("D") for part in (split.fitted, split.tested))
        assert below.max() < above.min()
        assert len(below) + len(above) == len(table)
        assert split.decades == pytest.approx(np.log10(above.max() / below.max()))
    assert [split.cut for split in splits] == list(board.CUTS)[: len(splits)]
    assert not board.split_table("small", RunTable(table.rows[:20]))[0]
    first = splits[0]
    loss = first.tested.column("loss")

    def peer_that_fails() -> Any:
        raise ValueError("no law today\nsecond line")

    answers = {
        "good": lambda: (1.01 * loss, 0.9 * loss, 1.1 * loss),
        "bad": lambda: (0.97 * loss, None, None),
        "fails": peer_that_fails,
        "endless": lambda: (np.full_like(loss, np.inf), None, None),
    }
    scores = [board.score_tool(first, name, predict) for name, predict in answers.items()]
    good, bad, fails, endless = scores
    assert (good.error, good.bias, good.inside) == (pytest.approx(0.01), pytest.approx(0.01), len(loss))
    assert good.width == pytest.approx(1.1 / 0.9 - 1)
    assert (bad.bias, bad.inside) == (pytest.approx(-0.03), None)
    assert fails.failure == "ValueError: no law today"
    assert endless.failure == "predicted no finite losses"
    page = board.page(scores, [f"{text}." for text in left_out], 10)
    assert "| good | **1.00 %** | +1.00 % | 100 %" in page
    assert "| bad | 3.00 % | -3.00 % | - | - |" in page
    assert "| fails | failed: ValueError: no law today |" in page
    assert "No table on which every tool answered." in page
    assert "| good | 1.00 % | 1 |" in board.page(scores[:2], [], 10)
