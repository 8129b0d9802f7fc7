"""What to ask of Slurm for the jobs that run tasks."""

from __future__ import annotations

import os
import shlex
import site
import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from plm_scaling.core.records import Record

__all__ = ["SlurmOptions"]

Positive = Annotated[int, Field(ge=1)]


class SlurmOptions(Record):
    """Resources of a job and how tasks are spread over jobs; what is left out is the cluster's default."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodes: Positive = 1
    """Of a job. More than one: each task is started on all of them (srun, torchrun); memory, cpus and gpus are of a
    node, and a task is one that torchrun can start, as a run is."""
    processes: Positive | None = None
    """Of a task on each of several nodes; None: one per GPU, or one."""
    minutes: Positive = 60
    """Time limit of a job, which runs `tasks_per_job` tasks."""
    memory: Annotated[str, Field(pattern=r"^\d+[KMGT]?B?$")] | None = None
    """Of a job, as Slurm writes it: "8G"."""
    cpus: Positive = 1
    """Of a job."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """Of a job."""
    gres: str | None = None
    """Instead of `gpus`, in Slurm's words: "gpu:a100:1"."""
    extra: dict[str, str | int | bool] = Field(default_factory=dict)
    """Further options of sbatch without their dashes: {"nice": 100, "exclude": "n7"}."""
    setup: tuple[str, ...] = ()
    """Shell lines ahead of the job: "module load mmseqs2"."""
    python: str | None = None
    """Shell command that starts Python on a node; None for the interpreter of the submitting process."""
    array_limit: Positive | None = None
    """Jobs at a time."""
    array_size: Positive = 1000
    """Largest array the cluster takes (`MaxArraySize` - 1)."""
    tasks_per_job: Positive = 1
    """Tasks that a job runs: many small ones are not worth a job each."""
    workers_per_job: Positive = 1
    """Of these, how many at a time."""
    threads: Positive | None = None
    """Threads of numerical libraries in a task; None for `cpus` / `workers_per_job`."""
    requeue: bool = True
    """Whether Slurm itself starts a job again after preemption or the loss of a node."""
    warning_s: Annotated[int, Field(ge=0)] = 0
    """Seconds ahead of the time limit at which tasks are asked to stop; those that saved their work go on in the same
    job, started again (`requeue`). 0: they are not asked. Slurm may be up to a minute early."""

    @property
    def task_threads(self) -> int:
        """Threads of numerical libraries in a task."""
        return self.threads or max(1, self.cpus // self.workers_per_job)

    @property
    def shape(self) -> dict[str, int]:
        """Nodes of a task, and processes and cpus of each."""
        processes = self.processes or self.gpus or 1
        return {"nodes": self.nodes, "processes": processes, "cpus": self.cpus}

    @property
    def launcher(self) -> str:
        """Shell command that turns the batch script's shell into Python: signals then reach it, not a shell."""
        return f"exec {self.python or shlex.quote(sys.executable)}"

    def sbatch(self, job_name: str, limit: int, minutes: int | None = None) -> dict[str, Any]:
        """The options in submitit's words, for an array of which `limit` elements run at a time.

        Parameters
        ----------
        minutes : time limit, if another than `minutes`.
        """
        gres = self.gres or (f"gpu:{self.gpus}" if self.gpus else None)
        extra: dict[str, Any] = {"requeue" if self.requeue else "no-requeue": True}
        setup = [*self.setup, _python_path()]
        if self.warning_s:
            extra["signal"] = f"B:USR1@{self.warning_s}"
            setup.append("trap '' USR1")  # Python is not killed by it before it knows what to do
        return {
            "job_name": job_name,
            "nodes": self.nodes,
            **({"ntasks_per_node": 1} if self.nodes > 1 else {}),  # submitit cannot be told None
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "time": minutes or self.minutes,
            "mem": self.memory,
            "cpus_per_task": self.cpus,
            "gres": gres,
            "array_parallelism": limit,
            "setup": [line for line in setup if line],
            "additional_parameters": extra | self.extra,
            "stderr_to_stdout": True,
            "use_srun": False,  # a job is one process on one node: a step of its own would only cost time
            "wckey": None,  # submitit's default is refused where keys are enforced
        }


def _python_path() -> str:
    """A shell line by which a node finds what this process has imported from outside its interpreter's folders."""
    import submitit

    roots = {Path(__file__).parents[2], Path(submitit.__file__).parents[1]} - {Path(p) for p in site.getsitepackages()}
    known = [Path(entry or os.getcwd()).resolve() for entry in sys.path]
    ours = [str(path) for path in dict.fromkeys(known) if path in roots]
    return f"export PYTHONPATH={shlex.quote(os.pathsep.join(ours))}${{PYTHONPATH:+:$PYTHONPATH}}" if ours else ""
