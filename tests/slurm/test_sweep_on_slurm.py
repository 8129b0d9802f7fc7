"""A sweep on a real Slurm that loses jobs in every way there is, and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from data_prep.pipeline import PrepSpec, SourceInput, prepare_corpus
from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.corpus.reader import Corpus
from plm_scaling.execution.slurm_options import SlurmOptions
from plm_scaling.execution.tasks import TaskEvent
from plm_scaling.sweeps import reconcile
from plm_scaling.sweeps.on_slurm import sweep_executor, work_folder
from plm_scaling.sweeps.plan import plan_sweep
from plm_scaling.sweeps.plan_records import GridArm, SweepPlan, SweepSpec
from plm_scaling.sweeps.reconcile import SweepOutcome, run_plan
from plm_scaling.training.checkpoint import load_weights

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm"), pytest.mark.usefixtures("slurm_cluster")]

FAULTS = ("timeout", "requeue", "kill", "node", "oom", "controller", "preempt")
TRAINER = '''
import json, os, signal, time
from pathlib import Path
from plm_scaling.training import attempt_log
from plm_scaling.training.__main__ import _redirect_to_log
from plm_scaling.training.loop import Interrupted, train

def run_one(run_dir):
    """Train; where a file says so, something happens to the run at its fifth step, the first time it comes there."""
    order = Path(run_dir).parents[1] / "faults" / Path(run_dir).name
    fault = order.read_text() if order.exists() else ""
    reached = order.with_suffix(".reached")
    if reached.exists() and fault != "oom":
        fault = ""
    attempt_log._STATUS_EVERY_S = 0.0

    def strike(status):
        if not fault or status.step < 5 or status.status != "running":
            return
        names = ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_ID", "SLURMD_NODENAME")
        text = json.dumps({"pid": os.getpid(), **{name: os.environ.get(name) for name in names}})
        if not reached.exists() or fault == "oom":
            tmp = reached.with_suffix(".tmp")
            tmp.write_text(text)
            tmp.rename(reached)
            with reached.with_suffix(".count").open("a") as handle:
                handle.write("x")
            happen(fault, order.with_suffix(".go"))

    try:
        train(Path(run_dir), on_attempt=_redirect_to_log, on_progress=strike)
    except Interrupted:
        return 3
    return 0

def happen(fault, go):
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "oom":
        memory = bytearray(3 << 30)
        for start in range(0, len(memory), 64 << 20):
            memory[start : start + (64 << 20) : 4096] = b"x" * len(range(start, start + (64 << 20), 4096))
    asked, old = [], signal.getsignal(signal.SIGTERM)
    if fault == "timeout":
        signal.signal(signal.SIGTERM, lambda number, frame: (old(number, frame), asked.append(number)))
    while not asked and not go.exists():
        time.sleep(0.05)
'''
CONTROLLER = """
import sys
sys.path[:] = {path!r}
from pathlib import Path
from plm_scaling.execution.slurm_options import SlurmOptions
from plm_scaling.sweeps import reconcile
from plm_scaling.sweeps.on_slurm import sweep_executor
from plm_scaling.sweeps.plan_records import SweepPlan
reconcile.TRAINER = "stricken_trainer:run_one"
runs, plan = Path({runs!r}), Path({plan!r})
executor = sweep_executor(runs, SlurmOptions(**{options!r}), backoff_s=0.5, poll_s=0.2, lag_s=1.0)
reconcile.run_plan(SweepPlan.read(plan), plan, runs, checkpoint_every_s=0.0, executor=executor, device="cpu")
"""
OPTIONS: dict[str, Any] = {
    "partition": "low",
    "cpus": 3,  # of four: a node has one job, so that a fault of a node hits one run
    "threads": 1,
    "memory": "2G",
    "minutes": 30,
    "warning_s": 100,
    "array_limit": 2,
}


def planned(folder: Path) -> tuple[SweepPlan, Path]:
    """Ten runs that take a second each."""
    rng = random.Random(0)
    records = ("".join(rng.choices(STANDARD, k=rng.randrange(5, 60))) for _ in range(300))
    (folder / "a.fasta").write_text("".join(f">{k}\n{s}\n" for k, s in enumerate(records)))
    prepare_corpus([SourceInput("a", (folder / "a.fasta",))], folder / "corpus", PrepSpec(val_share=0.1))
    spec = SweepSpec(
        name="faults",
        corpus="corpus",
        context=32,
        seeds=tuple(range(5)),
        batch_tokens=96,
        validation_tokens=500,
        dtype="fp32",
        grid=(GridArm(sizes=("1x8",), D=(2400,)),),
    )
    plan = plan_sweep(spec, Corpus.open(folder / "corpus"))
    runs = tuple(run.model_copy(update={"predicted_seconds": 60.0}) for run in plan.runs)
    plan = plan.model_copy(update={"corpus": "corpus", "runs": runs})
    return plan, plan.write(folder / "plan.json")


def command(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def wait_until(condition: Callable[[], object], what: str, seconds: float = 200.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.05)


def array_job(facts: dict[str, Any]) -> str:
    return f"{facts['SLURM_ARRAY_JOB_ID']}_{facts['SLURM_ARRAY_TASK_ID']}"


def come_to_the_limit(job: str) -> None:
    """Its time limit becomes one 40 to 100 s ahead, for which the warning is due; then the old one again.

    A job that Slurm starts again keeps its limit, and would be warned before it has begun.
    """
    minutes, seconds = (int(part) for part in command("squeue", "-h", "-j", job, "-o", "%M").split(":"))
    command("scontrol", "update", f"JobId={job}", f"TimeLimit={(60 * minutes + seconds + 40) // 60 + 1}")
    wait_until(lambda: command("squeue", "-h", "-j", job, "-o", "%T") != "RUNNING", "the end of a job at its limit")
    command("scontrol", "update", f"JobId={job}", f"TimeLimit={OPTIONS['minutes']}")


def stop_node(home: Path, facts: dict[str, Any]) -> None:
    """The power of a node fails, somebody notices, and it is switched on again."""
    node = facts["SLURMD_NODENAME"]
    lines = (home / "pids").read_text().split("\n")
    daemon = next(int(line.split()[1]) for line in reversed(lines) if line.startswith(f"slurmd.{node} "))
    process = psutil.Process(facts["pid"])
    lost = [one for one in (process, *process.parents()) if one.pid not in (1, daemon, os.getpid())]
    lost = lost[: 1 + next(i for i, one in enumerate(lost) if one.name().startswith("slurmstepd"))]
    psutil.Process(daemon).kill()
    for one in reversed(lost):
        one.kill()
    command("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    start = f"slurmd -D -N {node} </dev/null >>{home}/log/slurmd.{node}.out 2>&1 & echo slurmd.{node} $! >>{home}/pids"
    subprocess.run(["bash", "-c", f"PATH=$PATH:/usr/sbin; {start}"], check=True)
    # Refused if the node has registered again in between, which makes it usable as well.
    subprocess.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"], capture_output=True, check=False)


class Striker(threading.Thread):
    """Does to the runs what they wait for, and counts."""

    def __init__(self, folder: Path, home: Path, runs: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self.folder, self.home, self.runs = folder, home, runs
        self.struck: list[str] = []
        self.trouble: list[BaseException] = []
        self.over = threading.Event()

    def run(self) -> None:
        waiting = {fault for fault in self.runs if fault in ("timeout", "requeue", "node", "preempt")}
        while waiting and not self.over.wait(0.1):
            for fault in sorted(waiting):
                if (reached := self.folder / f"{self.runs[fault]}.reached").exists():
                    waiting.remove(fault)
                    try:
                        self.strike(fault, json.loads(reached.read_text()))
                        self.struck.append(fault)
                    except BaseException as error:
                        self.trouble.append(error)

    def strike(self, fault: str, facts: dict[str, Any]) -> None:
        if fault == "timeout":
            come_to_the_limit(array_job(facts))
        elif fault == "requeue":
            command("scontrol", "requeue", array_job(facts))
        elif fault == "preempt":
            words = ("-w", facts["SLURMD_NODENAME"], "-c", "4", "-t", "1", "-o", "/dev/null", "--wrap", "true")
            command("sbatch", *words)
        else:
            stop_node(self.home, facts)


def outcome_of(folder: RunFolder) -> tuple[Any, ...]:
    """What a run came to: weights, losses, gradient norms, validation, and every token it saw."""
    record = folder.record()
    assert record is not None
    weights = {name: t.numpy().tobytes() for name, t in load_weights(folder.weights_path).items()}
    table = pq.read_table(folder.metrics_path, columns=["step", "D", "loss", "lr", "grad_norm", "val_loss"])
    steps, D = table["step"].to_pylist(), table["D"].to_pylist()
    assert steps == sorted(set(steps))
    assert (steps[-1], D[-1]) == (record.steps, record.D)
    assert record.ledger[-1].tokens == record.D
    return weights, table.to_pylist(), record.validation, record.ledger, record.steps


@pytest.mark.timeout(900)
def test_a_sweep_with_every_fault_ends_as_without(
    tmp_path: Path, slurm_cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, plan_path = planned(tmp_path)
    ids = [run.run_id for run in plan.runs]
    assert len(ids) == 10
    assert run_plan(plan, plan_path, tmp_path / "undisturbed", workers=2, device="cpu").all_complete
    runs, faults, code = tmp_path / "study" / "runs", tmp_path / "study" / "faults", tmp_path / "code"
    for path in (faults, code):
        path.mkdir(parents=True)
    (code / "stricken_trainer.py").write_text(TRAINER)
    monkeypatch.setattr(sys, "path", [*sys.path, str(code)])
    victims = dict(zip(FAULTS, ids[:7], strict=True))
    for fault, run_id in victims.items():
        (faults / run_id).write_text(fault)
    striker = Striker(faults, slurm_cluster, victims)
    striker.start()
    try:
        outcome, killed, events = swept(plan, plan_path, runs, faults / victims["controller"], monkeypatch)
    finally:
        striker.over.set()
        striker.join()
    assert striker.trouble == []
    assert killed == -9

    # Every fault happened, once.
    assert sorted(striker.struck) == ["node", "preempt", "requeue", "timeout"]
    counts = {fault: len((faults / f"{run_id}.count").read_text()) for fault, run_id in victims.items()}
    assert counts == dict.fromkeys(FAULTS, 1)
    attempts = {fault: len(RunFolder(runs / run_id).attempts()) for fault, run_id in victims.items()}
    assert attempts == dict.fromkeys(FAULTS, 2) | {"oom": 1, "controller": 1}
    [controlled] = [event for event in events if event.key == victims["controller"] and event.kind == "started"]
    facts = json.loads((faults / f"{victims['controller']}.reached").read_text())
    assert controlled.place.split()[1] == array_job(facts)
    assert "SIGTERM" in stop_reason(runs / victims["timeout"])
    # Slurm started the same job again, or a new one was submitted.
    starts = {fault: started(work_folder(runs) / "tasks" / run_id) for fault, run_id in victims.items()}
    again_by_slurm = dict.fromkeys(("timeout", "requeue", "node", "preempt"), (1, 1))
    assert starts == {**again_by_slurm, "kill": (2, 0), "oom": (1, 0), "controller": (1, 0)}

    # What cannot be helped has failed, the rest is complete, bit for bit as if nothing had happened.
    assert set(outcome.failed) == {victims["oom"]}
    assert "more memory than the job was given" in outcome.failed[victims["oom"]]
    assert set(outcome.complete) == set(ids) - {victims["oom"]}
    for run_id in outcome.complete:
        assert outcome_of(RunFolder(runs / run_id)) == outcome_of(RunFolder(tmp_path / "undisturbed" / run_id))

    scripts = [path.read_text() for path in (work_folder(runs) / "jobs").glob("*.sh")]
    assert any("--array=0-9%2" in text and "--time=15" in text for text in scripts)
    again = run_plan(plan, plan_path, runs, executor=sweep_executor(runs, SlurmOptions(**OPTIONS)), dry_run=True)
    assert again.started == {}


def started(task: Path) -> tuple[int, int]:
    """Submissions of a task, and how often Slurm has started the last of them again."""
    attempts = sorted((task / "attempts").iterdir())
    return len(attempts), json.loads((attempts[-1] / "started.json").read_text())["restart"]


def stop_reason(run: Path) -> str:
    """Why the first attempt of a run ended."""
    status = RunFolder(run).attempts()[0].status()
    assert status is not None
    return status.reason


def swept(
    plan: SweepPlan, plan_path: Path, runs: Path, controlled: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[SweepOutcome, int, Sequence[TaskEvent]]:
    """Run the plan by a controller that is killed, then by another; its exit code and the other's events."""
    events: list[TaskEvent] = []
    text = CONTROLLER.format(path=sys.path, runs=str(runs), plan=str(plan_path), options=OPTIONS)
    first = subprocess.Popen([sys.executable, "-c", text])
    wait_until(lambda: controlled.with_suffix(".reached").exists() or first.poll() is not None, "the run to be watched")
    first.kill()
    code = first.wait()

    def on_event(event: TaskEvent) -> None:
        events.append(event)
        if event.key == controlled.name and event.kind == "started":
            controlled.with_suffix(".go").touch()

    monkeypatch.setattr(reconcile, "TRAINER", "stricken_trainer:run_one")
    executor = sweep_executor(runs, SlurmOptions(**OPTIONS), backoff_s=0.5, poll_s=0.2, lag_s=1.0)
    options: dict[str, Any] = {"checkpoint_every_s": 0.0, "executor": executor, "device": "cpu"}
    return run_plan(plan, plan_path, runs, on_event=on_event, **options), code, events
