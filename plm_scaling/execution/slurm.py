"""Tasks as jobs of a Slurm cluster. Files say what was done; the queue only tells that nothing more will come."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from plm_scaling.core.errors import ConfigError, RunError
from plm_scaling.execution.board import Board
from plm_scaling.execution.slurm_commands import Scheduler, SlurmCommands, submission_script
from plm_scaling.execution.slurm_folder import WorkFolder
from plm_scaling.execution.slurm_limits import batches
from plm_scaling.execution.slurm_options import SlurmOptions
from plm_scaling.execution.slurm_session import Session, Terms
from plm_scaling.execution.tasks import Cause, EventHandler, Task, TaskResult

__all__ = ["SlurmExecutor"]


@dataclass(frozen=True)
class SlurmExecutor:
    """Runs tasks as Slurm jobs: an array for all that are ready, each job one task or `tasks_per_job` in turn.

    Tasks that are ready at the same time become one array. A task that is killed from outside is submitted again; one
    that fails by itself is not. Ctrl-C cancels the jobs. If this process dies otherwise, its jobs go on; `run` with the
    same tasks and folder finds their results and waits for those that still run, instead of submitting them again.
    A result is found again only until a `run` has returned it: what is asked for after that runs anew.

    Parameters
    ----------
    work : folder that all nodes see; tasks' logs are under `work/tasks/KEY/attempts`.
    options : resources of a job and how tasks are spread over jobs.
    label : beginning of the jobs' names.
    preload : modules that a job imports once, ahead of its tasks.
    max_starts : starts of a task in all, if each is lost to one of `restart_after`.
    restart_after : causes after which a task is submitted again. Add "time limit" and "stopped" for tasks that resume.
    backoff_s : seconds that a task rests before its second start, twice as long before the third, at most an hour.
    poll_s : seconds between looks at the queue.
    lag_s : a job that has ended may take so long to show its results (network file systems).
    patience_s : seconds for which the scheduler may be out of reach.
    grace_s : seconds for cancelled jobs to leave the queue.
    """

    work: Path
    options: SlurmOptions = field(default_factory=SlurmOptions)
    label: str = "plm"
    preload: tuple[str, ...] = ()
    max_starts: int = 3
    restart_after: frozenset[Cause] = frozenset({"killed", "preempted", "node failure", "vanished"})
    poll_s: float = 5.0
    lag_s: float = 30.0
    patience_s: float = 900.0
    grace_s: float = 60.0
    backoff_s: float = 0.0
    scheduler: Scheduler | None = None
    """Instead of this machine's cluster."""

    def run(self, tasks: Sequence[Task], on_event: EventHandler | None = None) -> list[TaskResult]:
        """Run tasks; one result per task, in the order given.

        Raises
        ------
        ConfigError : there is no Slurm here.
        RunError : the tasks are no graph that can be carried out; sbatch refuses them; another process submits from
            this folder; the scheduler is out of reach for too long.
        """
        if self.max_starts < 1:
            raise ConfigError(f"max_starts = {self.max_starts}", hint="a task needs at least one start")
        board = Board(tasks, on_event)
        if board.finished:
            return []
        folder = WorkFolder(self.work)
        scheduler = self.scheduler or SlurmCommands(folder.jobs_dir, self.options)
        terms = Terms(
            self.label,
            self.preload,
            self.max_starts,
            self.restart_after,
            self.lag_s,
            self.patience_s,
            self.grace_s,
            self.backoff_s,
        )
        with folder.locked(), Session(board, folder, scheduler, self.options, terms) as session:
            session.adopt()
            while not board.finished:
                session.submit_ready()
                time.sleep(self.poll_s)
                session.look()
        return board.results()

    def held(self) -> frozenset[str]:
        """Keys of the tasks that an earlier call left in the scheduler's hands, which the next `run` takes over.

        Raises
        ------
        ConfigError : there is no Slurm here, though an earlier call used one.
        RunError : the scheduler does not answer.
        """
        folder = WorkFolder(self.work)
        left = folder.open_submissions()
        if not left:
            return frozenset()
        scheduler = self.scheduler or SlurmCommands(folder.jobs_dir, self.options)
        states = scheduler.states(sorted(submission.name for submission in left))
        if states is None:
            raise RunError("the scheduler does not answer", hint="jobs go on; run this again once squeue works")
        return frozenset(
            attempt.key
            for submission in left
            for element, attempts in zip(submission.elements, submission.jobs, strict=True)
            if element in states and not states[element].ended
            for attempt in attempts
        )

    def scripts(self, tasks: Sequence[Task]) -> list[str]:
        """The batch scripts that `run` would submit for those of `tasks` that wait for no other; needs no Slurm."""
        ready = batches([task for task in tasks if not task.after], self.options)
        limits = [min(self.options.array_limit or len(batch.jobs), len(batch.jobs)) for batch in ready]
        return [
            submission_script(
                WorkFolder(self.work).jobs_dir, self.options, self.label, len(batch.jobs), limit, batch.minutes
            )
            for batch, limit in zip(ready, limits, strict=True)
        ]
