from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plm_scaling.core.errors import RecordError
from plm_scaling.laws.curves import Curve, Curves, curves_path


def curve(name: str, n: int = 3) -> Curve:
    step = 100.0 * np.arange(1, n + 1)
    return Curve(name, step, 512 * step, 3.0 - step / 1e4, np.array([f"v{k}" for k in range(n)]))


def test_curves_come_apart_as_they_were_joined() -> None:
    together = Curves.joined([curve("b", 2), curve("a", 4), curve("c", 1)])
    assert len(together) == 7
    assert [(c.run_id, len(c)) for c in together] == [("b", 2), ("a", 4), ("c", 1)]
    found = together.of("a")
    assert found is not None
    np.testing.assert_array_equal(found.loss, curve("a", 4).loss)
    np.testing.assert_array_equal(found.validation_batch_id, ["v0", "v1", "v2", "v3"])
    assert together.of("d") is None


def test_rows_of_a_run_keep_their_order_when_runs_are_interleaved() -> None:
    mixed = Curves(
        np.array(["x", "y", "x", "y"]), np.arange(4.0), np.arange(4.0), np.array([4.0, 3, 2, 1]), np.full(4, "")
    )
    x, y = list(mixed)
    assert (x.run_id, x.loss.tolist(), y.loss.tolist()) == ("x", [4, 2], [3, 1])


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    path = curves_path(tmp_path / "runs.csv")
    assert path.name == "runs.curves.parquet"
    together = Curves.joined([curve("b", 2), curve("a", 4)])
    back = Curves.read(together.write(path))
    for name in ("run_id", "step", "D", "loss", "validation_batch_id"):
        np.testing.assert_array_equal(getattr(back, name), getattr(together, name))


def test_no_runs_are_no_rows(tmp_path: Path) -> None:
    nothing = Curves.joined([])
    assert not len(nothing)
    assert not list(nothing)
    assert not len(Curves.read(nothing.write(tmp_path / "c.parquet")))


def test_batches_may_be_unknown_but_losses_may_not(tmp_path: Path) -> None:
    columns = {"run_id": ["a"], "step": [1.0], "D": [2.0], "loss": [3.0]}
    pq.write_table(pa.table(columns), tmp_path / "c.parquet")
    assert Curves.read(tmp_path / "c.parquet").validation_batch_id.tolist() == [""]
    del columns["loss"]
    pq.write_table(pa.table(columns), tmp_path / "c.parquet")
    with pytest.raises(RecordError, match="lack the column loss"):
        Curves.read(tmp_path / "c.parquet")


@pytest.mark.parametrize("content", [None, b"PAR1 but not really"])
def test_a_file_that_is_none_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "c.parquet").write_bytes(content)
    with pytest.raises(RecordError) as caught:
        Curves.read(tmp_path / "c.parquet")
    assert caught.value.where == str(tmp_path / "c.parquet")


def test_columns_are_of_one_length() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        Curves(np.array(["a"]), np.ones(2), np.ones(1), np.ones(1), np.array([""]))
