"""Faults on the runs folder that controllers, runs and readers share: never two writers, never a lost complete run."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plm_scaling.corpus.reader import Corpus
from plm_scaling.execution.local import TaskEvent
from plm_scaling.sweeps import reconcile
from plm_scaling.sweeps.plan import plan_sweep
from plm_scaling.sweeps.plan_records import GridArm, SweepPlan, SweepSpec
from plm_scaling.sweeps.reconcile import SweepOutcome, run_plan
from plm_scaling.sweeps.status import sweep_status

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["plm_scaling.sweeps.reconcile"])


@pytest.fixture
def plan(corpus: Corpus, tmp_path: Path) -> SweepPlan:
    """Three runs; the plan lies in the test's folder."""
    grid = GridArm(sizes=("1x16", "1x24", "1x32"), D=(2e4,))
    made = plan_sweep(SweepSpec(name="t", corpus="c", context=64, objectives=("clm",), grid=(grid,)), corpus)
    made.write(tmp_path / "plan.json")
    return made


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def run(plan: SweepPlan, tmp_path: Path, **options: Any) -> SweepOutcome:
    return run_plan(plan, tmp_path / "plan.json", tmp_path / "runs", workers=1, **options)


# ---- files cut short, folders deleted ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "state", "starts"),
    [
        ("run.json", "complete", False),  # the record says all there is to say
        ("record.json", "failed", False),
        ("attempts/0001/status.json", "complete", False),
    ],
)
def test_a_file_of_a_complete_run_cut_short(
    plan: SweepPlan, tmp_path: Path, trainer: str, name: str, state: str, starts: bool
) -> None:
    assert run(plan, tmp_path).all_complete
    hurt, *others = (tmp_path / "runs" / planned.run_id for planned in plan.runs)
    text = (hurt / name).read_text()
    (hurt / name).write_text(text[: len(text) // 2])
    before = {other: files_of(other) for other in others}
    outcome = run(plan, tmp_path)
    assert outcome.lines[0].state == state
    assert bool(outcome.started) == starts
    assert {other: files_of(other) for other in others} == before
    if state == "failed":  # nothing is trained again until somebody says so, by deleting what cannot be read
        assert "record.json" in outcome.lines[0].reason
        assert sweep_status(tmp_path / "runs", plan)[0].status == "damaged"
        (hurt / name).unlink()
        again = run(plan, tmp_path)
        assert again.all_complete
        assert list(again.started) == [hurt.name]
    assert {other: files_of(other) for other in others} == before


@pytest.mark.parametrize("name", ["run.json", "attempts/0001/status.json"])
def test_a_file_of_an_unfinished_run_cut_short(plan: SweepPlan, tmp_path: Path, trainer: str, name: str) -> None:
    hurt = tmp_path / "runs" / plan.runs[0].run_id
    hurt.mkdir(parents=True)
    (hurt / "behave").write_text("stop ok")
    assert run(plan, tmp_path).n_complete == 2
    text = (hurt / name).read_text()
    (hurt / name).write_text(text[: len(text) // 2])
    outcome = run(plan, tmp_path)
    assert outcome.all_complete
    assert list(outcome.started) == [hurt.name]
    assert len(list((hurt / "attempts").iterdir())) == 2


def test_a_run_folder_deleted_in_the_middle_of_a_sweep(plan: SweepPlan, tmp_path: Path, trainer: str) -> None:
    first, second, third = (tmp_path / "runs" / planned.run_id for planned in plan.runs)
    deleted = []

    def delete(event: TaskEvent) -> None:
        if event.kind != "started" and event.key == first.name:
            shutil.rmtree(third)  # not begun yet: with one worker the second is next
            deleted.append(third)

    outcome = run(plan, tmp_path, on_event=delete)
    assert deleted == [third]
    assert outcome.complete == (first.name, second.name)
    assert outcome.exit_code == 3
    assert [line.status for line in sweep_status(tmp_path / "runs", plan)][:2] == ["complete", "complete"]
    before = files_of(first) | files_of(second)
    again = run(plan, tmp_path, retry_failed=True)
    assert again.all_complete
    assert list(again.started) == [third.name]
    assert files_of(first) | files_of(second) == before


# ---- a folder that cannot be written -------------------------------------------------------------------------------

FAULTY_DISK = """
import json, os, shutil, subprocess, sys
from pathlib import Path
from plm_scaling import api
from plm_scaling.cli.main import main

def verb(*words):
    sys.argv = ["plm-scaling", *map(str, words)]
    try:
        main()
    except SystemExit as stop:
        return stop.code

study, disk, fault = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", disk], check=True)
shutil.copytree(study / "runs", disk / "runs")
found = {}
if fault == "read-only":
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
else:
    handle = os.open(disk / "other", os.O_WRONLY | os.O_CREAT)
    try:
        while os.write(handle, bytes(4096)):
            pass
    except OSError as error:
        found["fault"] = error.errno
    os.close(handle)
try:
    (disk / "runs" / "probe").mkdir()
except OSError as error:
    found["fault"] = error.errno
found["run"] = verb("run", study / "plan.json", "-o", disk / "runs")
found["status"] = [line.status for line in api.status(disk / "runs", plan=study / "plan.json")]
found["rows"] = api.runs_sql(disk / "runs", "select count(*) from runs where status = 'complete'").rows[0][0]
found["left"] = sorted(str(path.relative_to(disk)) for path in disk.rglob("*.tmp"))
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "number"), [("read-only", 30), ("full", 28)])
def test_a_disk_that_takes_nothing(plan: SweepPlan, tmp_path: Path, trainer: str, fault: str, number: int) -> None:
    """Two runs are complete; the third cannot begin. The command says so in a line, and both stay readable."""
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        pytest.skip("a small file system can only be mounted by root")
    short = plan.model_copy(update={"runs": plan.runs[:2]})
    assert run(short, tmp_path).all_complete
    (tmp_path / "disk").mkdir()
    # A mount namespace of its own: the small file system is gone with the process, however that ends.
    command = [unshare, "--mount", sys.executable, "-c", FAULTY_DISK, str(tmp_path), str(tmp_path / "disk"), fault]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if "unshare failed" in done.stderr or "permission denied" in done.stderr.lower():
        pytest.skip("no mount namespaces here")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["fault"] == number  # the disk really took nothing
    assert found["run"] == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert found["status"] == ["complete", "complete", "planned"]
    assert (found["rows"], found["left"]) == (2, [])


# ---- two controllers at once ---------------------------------------------------------------------------------------

ONE_WRITER = '''
import json, os, random, sys, time
from pathlib import Path
from plm_scaling.core.errors import PlmScalingError
from plm_scaling.core.files import write_atomic
from plm_scaling.core.run_folder import RunFolder
from fake_trainer import write_record

def run_one(run_dir):
    """As training does it: one look, the lock, a second look. Says so if another one writes at the same time."""
    folder = RunFolder(Path(run_dir))
    try:
        if folder.record():
            return 0
        with folder.locked():
            if folder.record():
                return 0
            attempt = folder.new_attempt()
            try:
                os.close(os.open(folder.path / "writing", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                (folder.path / "two-writers").touch()
            time.sleep(random.random() * 0.03)
            write_record(folder.path)
            (folder.path / "writing").unlink(missing_ok=True)
    except PlmScalingError as error:
        print(error, file=sys.stderr)
        return error.exit_code
'''


def _controller(path: list[str], study: Path, barrier: Any, started: Any) -> None:
    """One of two that carry out the same plan."""
    sys.path[:] = path
    reconcile.TRAINER = "one_writer:run_one"
    reconcile.preloaded_modules = lambda: ("one_writer",)
    plan = SweepPlan.read(study / "plan.json")
    barrier.wait()
    outcome = run_plan(plan, study / "plan.json", study / "runs", workers=2)
    started.put(sorted(outcome.started))


@pytest.mark.slow
def test_two_controllers_at_once(
    plan: SweepPlan, tmp_path: Path, trainer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one_writer.py").write_text(ONE_WRITER)
    monkeypatch.syspath_prepend(str(tmp_path))
    contended = rounds = 0
    while rounds < 6 or (contended < 6 and rounds < 30):
        rounds += 1
        barrier, started = PROCESSES.Barrier(2), PROCESSES.Queue()
        arguments = (list(sys.path), tmp_path, barrier, started)
        both = [PROCESSES.Process(target=_controller, args=arguments) for _ in range(2)]
        for process in both:
            process.start()
        first, second = started.get(timeout=60), started.get(timeout=60)
        for process in both:
            process.join()
        assert [process.exitcode for process in both] == [0, 0]
        contended += len(set(first) & set(second))
        folders = [tmp_path / "runs" / planned.run_id for planned in plan.runs]
        assert not any((folder / "two-writers").exists() for folder in folders)
        assert [len(list((folder / "attempts").iterdir())) for folder in folders] == [1, 1, 1]
        before = files_of(tmp_path / "runs")
        again = run(plan, tmp_path)
        assert (again.all_complete, again.started) == (True, {})
        assert files_of(tmp_path / "runs") == before
        shutil.rmtree(tmp_path / "runs")
    assert contended >= 6, "the controllers hardly ever wanted the same run: nothing was tested"
