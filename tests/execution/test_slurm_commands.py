"""Slurm's commands, played by small shell scripts on PATH."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from plm_scaling.core.errors import ConfigError, RunError
from plm_scaling.execution.slurm import SlurmExecutor
from plm_scaling.execution.slurm_commands import JobState, SlurmCommands
from plm_scaling.execution.slurm_options import SlurmOptions
from plm_scaling.execution.tasks import Task

SBATCH = r"""#!/bin/bash
# Starts the script at once, as often as its array has elements; keeps a file per job for squeue.
[ -e "$PLAY/refuse" ] && { echo "sbatch: error: Batch job submission failed: Invalid account" >&2; exit 1; }
id=$(($(cat "$PLAY/last" 2>/dev/null || echo 16) + 1))
echo $id >"$PLAY/last"
cp "$1" "$PLAY/script.$id"
name=$(sed -n 's/^#SBATCH --job-name=//p' "$1")
end=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\).*/\1/p' "$1")
log=$(sed -n 's/^#SBATCH --output=//p' "$1")
for index in $(seq 0 "${end:-0}"); do
  if [ -n "$end" ]; then
    export SLURM_ARRAY_JOB_ID=$id SLURM_ARRAY_TASK_ID=$index
  else
    index=N/A
  fi
  export SLURM_JOB_ID=$id SLURMD_NODENAME=n1
  out=${log//%j/$id}; out=${out//%A/$id}; out=${out//%a/$index}
  file=$PLAY/job.$id.${index/\//-}
  echo "$id|$index|RUNNING|$name|None" >"$file"
  (
    bash "$1" >>"$out" 2>&1 </dev/null && state=COMPLETED || state=FAILED
    echo "$id|$index|$state|$name|None" >"$file.new"
    mv "$file.new" "$file"
  ) >/dev/null 2>&1 </dev/null &
done
echo "Submitted batch job $id"
"""
SQUEUE = """#!/bin/bash
echo "$@" >>"$PLAY/squeue.calls"
[ -e "$PLAY/down" ] && exit 1
cat "$PLAY"/job.*[0-9A] 2>/dev/null
true
"""
OTHER = """#!/bin/bash
echo "$@" >>"$PLAY/$(basename "$0").calls"
cat "$PLAY/$(basename "$0").answer" 2>/dev/null
true
"""


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which the played commands keep their state."""
    folder = tmp_path / "play"
    (folder / "bin").mkdir(parents=True)
    texts = {"sbatch": SBATCH, "squeue": SQUEUE, "scancel": OTHER, "scontrol": OTHER, "sacct": OTHER, "srun": OTHER}
    for name, text in texts.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("PLAY", str(folder))
    return folder


@pytest.fixture
def commands(play: Path, tmp_path: Path) -> SlurmCommands:
    return SlurmCommands(tmp_path / "jobs", SlurmOptions())


def test_tasks_pass_through_real_scripts(play: Path, targets: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    tasks = [
        *(Task(key, f"{targets}:append", (str(log), key)) for key in "ab"),
        Task("c", f"{targets}:append", (str(log), "c"), ("a", "b")),
    ]
    work = tmp_path / "work"
    assert all(r.ok for r in SlurmExecutor(work, poll_s=0.05, lag_s=30).run(tasks))
    assert sorted(log.read_text().split()[:2]) == ["a", "b"]
    assert log.read_text().split()[2:] == ["c"]
    assert sorted(path.name for path in (work / "jobs").glob("*.out")) == [
        "17_0_0_log.out",
        "17_1_0_log.out",
        "18_0_log.out",
    ]
    assert "#SBATCH --array=0-1%2" in (play / "script.17").read_text()
    assert "--array" not in (play / "script.18").read_text()
    questions = (play / "squeue.calls").read_text().splitlines()
    assert all(question.count("--name=plm-") == 1 and f"--user={os.getuid()} " in question for question in questions)


def test_options_reach_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # a script can be looked at anywhere
    options = SlurmOptions(
        partition="gpu",
        account="lab",
        qos="long",
        constraint="a100",
        minutes=90,
        memory="8G",
        cpus=4,
        gpus=2,
        extra={"nice": 100, "exclusive": True},
        setup=("module load mmseqs2",),
        array_limit=5,
        tasks_per_job=3,
        requeue=False,
    )
    tasks = [Task(f"t{i}", "m:f") for i in range(20)]
    [text] = SlurmExecutor(tmp_path / "work", options, label="prep").scripts([*tasks, Task("z", "m:f", after=("t0",))])
    lines = text.splitlines()
    for expected in (
        "--partition=gpu",
        "--account=lab",
        "--qos=long",
        "--constraint=a100",
        "--time=90",
        "--mem=8G",
        "--cpus-per-task=4",
        "--gres=gpu:2",
        "--nice=100",
        "--exclusive",
        "--no-requeue",
        "--array=0-6%5",
        "--nodes=1",
        "--job-name=prep",
    ):
        assert f"#SBATCH {expected}" in lines
    assert not any("wckey" in line for line in lines)
    command = next(number for number, line in enumerate(lines) if line.startswith("exec "))
    assert lines.index("module load mmseqs2") < command
    assert lines[command].startswith(f"exec {sys.executable} ")
    assert any(line.startswith("export PYTHONPATH=") for line in lines)
    assert not (tmp_path / "work").exists()


def test_a_script_is_one_a_shell_can_read(tmp_path: Path) -> None:
    options = SlurmOptions(gres="gpu:a100:1", python="python3", warning_s=60)
    [text] = SlurmExecutor(tmp_path / "a folder", options).scripts([Task("t", "m:f")])
    assert "--gres=gpu:a100:1" in text
    assert "exec python3 " in text
    assert "--array" not in text
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize(
    ("options", "threads"),
    [({}, 1), ({"cpus": 8}, 8), ({"cpus": 8, "workers_per_job": 3}, 2), ({"cpus": 8, "threads": 3}, 3)],
)
def test_threads_of_a_task(options: dict[str, int], threads: int) -> None:
    assert SlurmOptions(**options).task_threads == threads


@pytest.mark.parametrize("options", [{"memory": "lots"}, {"cpus": 0}, {"minutes": "long"}, {"partitoin": "x"}])
def test_wrong_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SlurmOptions.model_validate(options)


def test_states_of_jobs(commands: SlurmCommands, play: Path) -> None:
    (play / "job.1").write_text(
        "17|0|RUNNING|plm-a|None\n17|12|PENDING|plm-a|Resources\n18|N/A|FAILED|plm-b|NonZeroExitCode\n"
    )
    assert commands.states(["plm-a", "plm-b"]) == {
        ("plm-a", 0): JobState("17_0", "RUNNING", "None"),
        ("plm-a", 12): JobState("17_12", "PENDING", "Resources"),
        ("plm-b", 0): JobState("18", "FAILED", "NonZeroExitCode"),
    }
    assert "--name=plm-a,plm-b" in (play / "squeue.calls").read_text()
    (play / "down").touch()
    assert commands.states(["plm-a"]) is None


def test_history_is_a_hint_from_accounting(commands: SlurmCommands, play: Path) -> None:
    assert commands.history([]) == {}
    assert not (play / "sacct.calls").exists()
    (play / "sacct.answer").write_text("17_0|CANCELLED by 0\n17_1|OUT_OF_MEMORY\n18|\n")
    assert commands.history(["17_0", "17_1"]) == {"17_0": "CANCELLED", "17_1": "OUT_OF_MEMORY"}
    assert "--jobs=17_0,17_1" in (play / "sacct.calls").read_text()
    (play / "bin" / "sacct").unlink()
    assert commands.history(["17_0"]) == {}


@pytest.mark.parametrize("teller", ["scontrol", "sacct"])
@pytest.mark.parametrize(
    ("exit_code", "killed"),
    [("0:9", True), ("0:15", True), ("137:0", True), ("1:0", False), ("7:0", False), ("0:11", False), ("0:0", False)],
)
def test_whether_a_job_was_killed(
    commands: SlurmCommands, play: Path, teller: str, exit_code: str, killed: bool
) -> None:
    texts = {"scontrol": f"JobId=19 ArrayTaskId=1 JobName=x ExitCode={exit_code} RunTime=00:00:02", "sacct": exit_code}
    (play / f"{teller}.answer").write_text(texts[teller] + "\n")
    assert commands.was_killed("17_1") is killed
    assert "17_1" in (play / f"{teller}.calls").read_text()


def test_nobody_knows_whether_a_job_was_killed(commands: SlurmCommands, play: Path) -> None:
    for name in ("scontrol", "sacct"):
        (play / "bin" / name).write_text("#!/bin/sh\necho Invalid job id specified >&2\nexit 1\n")
    assert not commands.was_killed("17_1")


def test_cancelling_by_name_and_by_id(commands: SlurmCommands, play: Path) -> None:
    commands.cancel(names=["plm-a", "plm-b"])
    commands.cancel(job_ids=["17_0", "18"])
    user = os.getuid()
    assert (play / "scancel.calls").read_text().splitlines() == [
        f"--quiet --user={user} --name=plm-a",
        f"--quiet --user={user} --name=plm-b",
        "--quiet 17_0 18",
    ]


def test_what_sbatch_refuses_is_said_once(play: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (play / "refuse").touch()
    with pytest.raises(RunError, match="sbatch refused the jobs") as caught:
        SlurmExecutor(tmp_path / "work").run([Task("t", "m:f")])
    assert caught.value.why == "Batch job submission failed: Invalid account"
    assert capsys.readouterr().err == ""
    (play / "refuse").unlink()
    (play / "bin" / "sbatch").write_text("#!/bin/bash\necho nothing of use\n")
    with pytest.raises(RunError, match="sbatch refused"):
        SlurmExecutor(tmp_path / "work").run([Task("t", "m:f")])


def test_no_slurm_and_no_submitit(play: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "submitit.core.utils", None)
        with pytest.raises(ConfigError, match="submitit is not installed"):
            SlurmExecutor(tmp_path / "work").run([Task("t", "m:f")])
    (play / "bin" / "sbatch").unlink()
    monkeypatch.setenv("PATH", str(play / "bin"))
    with pytest.raises(ConfigError, match="sbatch is not on PATH"):
        SlurmExecutor(tmp_path / "work").run([Task("t", "m:f")])
    assert not (tmp_path / "work").exists()
