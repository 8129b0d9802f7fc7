"""`python -m plm_scaling.training RUN_DIR`: one run in this process. Also the entry for a pool of processes."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, get_args

from plm_scaling.core.errors import PlmScalingError
from plm_scaling.core.run_folder import Attempt
from plm_scaling.core.run_order import Recompute, StatusFile, Tracker
from plm_scaling.training.attempt_log import Progress
from plm_scaling.training.loop import train
from plm_scaling.training.world import World

__all__ = ["main", "run_one"]

_EXIT_CODES: Final = """exit codes:
  0  the run is complete (record.json is written), or waits where its order has it pause
  1  a fault: diverged, out of memory, disk full, a damaged file; starting again alone does not help
  2  a command line that cannot be used
  3  interrupted by a signal, Ctrl-C or the time limit, with a checkpoint: start it again, requeue it
  5  another process trains this run, or took it over: nothing to do

Under torchrun only the first process prints. --micro-windows, --recompute and --track change the order for this
attempt alone."""


def run_one(run_dir: str) -> int:
    """Carry out one run as a task of a pool, or as one of its processes; what the first prints is logged.

    Returns
    -------
    exit code : 0 complete, or paused as ordered, 3 interrupted (start it again), 5 trained by another process, else a
        fault; `status.json` says which.
    """
    try:
        with World.from_environment() as world:
            train(Path(run_dir), on_attempt=_redirect_to_log, world=world)
    except PlmScalingError as error:
        print(error, file=sys.stderr, flush=True)
        return error.exit_code
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        raise
    return 0


def _redirect_to_log(attempt: Attempt) -> None:
    """Point this process' standard output and error, those of libraries in C included, to the log."""
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(attempt.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m plm_scaling.training",
        description="Train, or continue, one run.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="folder that holds run.json")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: the order's)")
    parser.add_argument("--time-limit", type=float, default=None, metavar="S", help="stop with a checkpoint after S s")
    parser.add_argument("--force-resume", action="store_true", help="continue a checkpoint made under other conditions")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument(
        "--micro-windows", type=_count, metavar="W", help="windows whose gradients are computed at once: less memory"
    )
    parser.add_argument("--recompute", choices=get_args(Recompute), help="activations computed again instead of kept")
    parser.add_argument(
        "--track", action="append", choices=get_args(Tracker), metavar="NAME", help="tensorboard or wandb; repeatable"
    )
    parser.add_argument(
        "--profile", type=_count, default=0, metavar="N", help="trace N steps into the attempt's trace.json"
    )
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _changes(given: argparse.Namespace) -> dict[str, Any]:
    """Fields of the order that the command line overrides."""
    trackers = tuple(dict.fromkeys(given.track)) if given.track else None
    values = {"micro_windows": given.micro_windows, "recompute": given.recompute, "trackers": trackers}
    return {name: value for name, value in values.items() if value is not None}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse arguments, train with a progress bar on standard error, return the exit code."""
    given = _parser().parse_args(argv)
    speaks = os.environ.get("RANK", "0") == "0"
    with ExitStack() as stack:
        try:
            with World.from_environment() as world:
                record = train(
                    given.run_dir,
                    on_progress=_progress_bar(stack) if speaks and not given.quiet else None,
                    threads=given.threads,
                    time_limit_s=given.time_limit,
                    force_resume=given.force_resume,
                    world=world,
                    changes=_changes(given),
                    profile=given.profile,
                )
        except PlmScalingError as error:
            stack.close()
            if speaks:
                print(error, file=sys.stderr)
            return error.exit_code
    if speaks:
        losses = ", ".join(f"{v.set_name} {v.per_token:.4f}" for v in record.validation)
        print(f"run {record.config.run_id} complete: {record.D} tokens, {losses} nats/token")
    return 0


def _progress_bar(stack: ExitStack) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = stack.enter_context(
        Progress(
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[speed]} tokens/s  loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
    )
    task = bar.add_task("train", total=None, start=True, speed="-", loss="-")

    def show(status: StatusFile) -> None:
        bar.update(
            task,
            total=status.n_steps or None,
            completed=status.step,
            speed=f"{status.tokens_per_s:,.0f}" if status.tokens_per_s else "-",
            loss=f"{status.loss:.3f}" if status.loss is not None else "-",
        )

    return show


if __name__ == "__main__":
    sys.exit(main())
