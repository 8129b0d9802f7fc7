from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from plm_scaling.core.errors import RecordError, TakenOver
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder, StatusFile


def order(**changes: object) -> RunOrder:
    config = RunConfig(
        corpus_id="c",
        objective="clm",
        n_layers=1,
        d_model=16,
        context=8,
        D=9,
        batch_tokens=8,
        peak_lr=1,
        recipe="small",
    )
    return RunOrder.model_validate({"config": config, "corpus": "../corpus"} | changes)


def attempt(folder: RunFolder, status: str, *lines: dict[str, float]) -> None:
    made = folder.new_attempt()
    StatusFile.model_validate({"status": status, "step": 3}).write(made.status_path)
    made.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_an_order_is_its_config(tmp_path: Path) -> None:
    one, other = order(), order(corpus="/elsewhere", threads=3, device="cpu", roles=("grid",), checkpoint_every_s=1)
    assert one.content_hash() == other.content_hash()
    one.write(RunFolder(tmp_path).order_path)
    assert RunFolder(tmp_path).order() == one
    assert one.corpus_path(tmp_path / "run") == (tmp_path / "corpus").resolve()
    assert other.corpus_path(tmp_path) == Path("/elsewhere")


def test_without_an_order_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RecordError):
        RunFolder(tmp_path).order()


def test_status_of_a_folder_follows_from_its_files(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.status().status == "planned"
    assert folder.record() is None
    attempt(folder, "running")
    gone = folder.status()
    assert (gone.status, gone.reason) == ("interrupted", "the process is gone")
    with folder.locked():
        assert folder.status().status == "running"
    attempt(folder, "diverged")
    assert folder.status().status == "diverged"
    folder.new_attempt()  # it died before its first report
    assert folder.status().status == "interrupted"
    folder.record_path.write_text("{}")
    assert folder.status().status == "complete"
    assert [a.number for a in folder.attempts()] == [1, 2, 3]


def test_the_last_attempt_wins_and_torn_lines_are_skipped(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.latest_metrics() is None
    attempt(folder, "running", {"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.5}, {"step": 4, "loss": 9.0})
    with folder.attempts()[0].metrics_path.open("a") as handle:
        handle.write('{"step": 5, "lo')
    attempt(folder, "running", {"step": 2, "loss": 2.0}, {"step": 3, "loss": 1.0})
    assert [(line["step"], line["loss"]) for line in folder.metrics()] == [(1, 3.0), (2, 2.0), (3, 1.0), (4, 9.0)]
    assert folder.latest_metrics() == {"step": 4, "loss": 9.0}


def test_siblings_share_a_parent(tmp_path: Path) -> None:
    assert RunFolder(tmp_path / "runs" / "a").sibling("b").path == tmp_path / "runs" / "b"


def test_a_lock_is_free_again_afterwards(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert not folder.is_running()
    with folder.locked():
        assert folder.is_running()
    assert not folder.is_running()
    assert os.listdir(tmp_path) == ["lock"]


def test_the_latest_attempt_owns_the_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    first = folder.new_attempt()
    folder.check_owner(first)
    second = folder.new_attempt()
    assert (first.number, second.number) == (1, 2)
    folder.check_owner(second)
    with pytest.raises(TakenOver, match="attempt 1 of this run was overtaken") as caught:
        folder.check_owner(first)
    assert caught.value.why == "attempt 2 has begun since"
    assert caught.value.exit_code == 5
    shutil.rmtree(folder.path)
    with pytest.raises(TakenOver) as caught:
        folder.check_owner(second)
    assert caught.value.why == "its folder was deleted"


def test_attempts_that_begin_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    """Without the lock, as on a file system that has none: twenty times four of them, one owner each time."""
    for trial in range(20):
        folder = RunFolder(tmp_path / str(trial))
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda _, f=folder: f.new_attempt(), range(4)))
        assert sorted(one.number for one in made) == [1, 2, 3, 4]
        assert sum(one.token == folder.owner_path.read_text() for one in made) == 1
