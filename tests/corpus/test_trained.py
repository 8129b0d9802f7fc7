"""What a run was trained on is what its batches held, of every run it descends from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from plm_scaling.core.errors import PlanError, RecordError
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder
from plm_scaling.corpus.batches import Batches
from plm_scaling.corpus.reader import Corpus
from plm_scaling.corpus.trained import phases_of_run, trained_rows


def rows_of_batches(corpus: Corpus, config: RunConfig, steps: int) -> set[int]:
    run = Batches(corpus, config)
    return {int(row) for k in range(steps) for row in np.unique(run.at(k).row) if row >= 0}


def test_rows_are_those_of_the_batches(small: Corpus, configure: Callable[..., RunConfig]) -> None:
    first = configure(small, D=2_000)
    second = configure(small, D=3_000, seed=7, streams=({"sources": ("beta",)},), init_from=first.run_id)
    few = rows_of_batches(small, first, 5)
    assert trained_rows(small, [(first, 5)]).tolist() == sorted(few)
    assert trained_rows(small, [(first, 5), (second, 4)]).tolist() == sorted(few | rows_of_batches(small, second, 4))
    assert len(few) < len(small.rows("train"))
    assert trained_rows(small, [(first, 5000)]).tolist() == np.sort(small.rows("train")).tolist()
    with pytest.raises(PlanError):
        trained_rows(small, [])


def test_the_line_of_a_run_is_read_from_folders(
    small: Corpus, configure: Callable[..., RunConfig], tmp_path: Path
) -> None:
    first = configure(small, D=2_000)
    second = configure(small, D=3_000, seed=7, init_from=first.run_id)
    foreign = configure(small, D=1_000, init_from="sha256:" + "a" * 64)
    for config in (first, second, foreign):
        RunOrder(config=config, corpus=str(small.path), device="cpu").write(
            RunFolder(tmp_path / config.run_id).order_path
        )
    steps = [Batches(small, config).n_steps for config in (first, second, foreign)]
    assert phases_of_run(small, tmp_path / second.run_id) == ((first, steps[0]), (second, steps[1]))
    assert phases_of_run(small, tmp_path / foreign.run_id) == ((foreign, steps[2]),)
    RunFolder(tmp_path / first.run_id).order_path.unlink()
    with pytest.raises(RecordError):
        phases_of_run(small, tmp_path / second.run_id)
