"""`plm-scaling run`: train what a plan still lacks."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from plm_scaling.cli.executors import On, Slurm, slurm_options
from plm_scaling.cli.render import DryRun, OutputFormat, emit, next_command, say, typed_options, warn

if TYPE_CHECKING:
    from plm_scaling.sweeps.halting_report import HaltingReport

__all__ = ["command"]


def _per_device(context: click.Context, param: click.Parameter, value: str | None) -> int | Literal["auto"] | None:
    del context, param
    if value is None:
        return None
    if value == "auto":
        return "auto"
    if not value.isdigit() or int(value) < 1:
        raise click.BadParameter(f"{value!r} is neither a number of runs nor auto")
    return int(value)


@click.command("run", epilog="Example: plm-scaling run study/plan.json   # again after an interruption: it resumes")
@click.argument("plan", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Runs folder; default runs/ beside PLAN.")
@click.option("--workers", type=click.IntRange(1), help="Processes at a time; default one per GPU, else per core.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--per-device",
    callback=_per_device,
    metavar="K|auto",
    help="Runs that share each GPU of this machine; auto measures how many do best.",
)
@click.option("--only", multiple=True, metavar="ID", help="Only these runs (and the sources they start from).")
@click.option("--retry-failed", is_flag=True, help="Start failed runs again.")
@click.option("--max-attempts", type=click.IntRange(1), default=3, show_default=True, help="Starts of a killed run.")
@click.option("--checkpoint-every", type=click.FloatRange(0), default=30.0, show_default=True, metavar="SECONDS")
@On
@Slurm
@click.option("--watch", is_flag=True, help="Go on until every run is complete or has failed.")
@click.option(
    "--stop-dominated",
    is_flag=True,
    help="Pause the runs of the larger budgets, and halt those whose predicted ends cannot move N_opt.",
)
@click.option(
    "--pause-share",
    type=click.FloatRange(0.3, 1, max_open=True),
    default=0.5,
    show_default=True,
    help="Share of its steps at which a run waits for that decision.",
)
@click.option(
    "--halt-tolerance",
    type=click.FloatRange(0, min_open=True),
    default=0.1,
    show_default=True,
    help="Of the half-width of N_opt's interval (in ln N): what all halted runs of a budget may account for.",
)
@click.option("--resume-halted", is_flag=True, help="Go on with halted runs.")
@DryRun
@OutputFormat
def command(
    plan: Path,
    out: Path | None,
    workers: int | None,
    device: Literal["auto", "cpu", "cuda"],
    per_device: int | Literal["auto"] | None,
    only: tuple[str, ...],
    retry_failed: bool,
    max_attempts: int,
    checkpoint_every: float,
    place: str,
    slurm: tuple[str, ...],
    watch: bool,
    stop_dominated: bool,
    pause_share: float,
    halt_tolerance: float,
    resume_halted: bool,
    dry_run: bool,
    output: str,
) -> int:
    """Train the runs of PLAN that are not complete, one per GPU or core, or as Slurm jobs; code 3 if some remain."""
    from plm_scaling import api
    from plm_scaling.cli.main import EXIT_INCOMPLETE
    from plm_scaling.cli.sweep_progress import SweepProgress

    if not stop_dominated:
        _refuse_without_halting(click.get_current_context())
    runs = out or plan.parent / "runs"
    run = partial(
        api.run,
        plan,
        out,
        workers=workers,
        device=device,
        per_device=per_device,
        only=only,
        retry_failed=retry_failed,
        max_attempts=max_attempts,
        checkpoint_every_s=checkpoint_every,
        slurm=slurm_options(place, slurm),
        watch=watch,
        stop_dominated=stop_dominated,
        pause_share=pause_share,
        halt_tolerance=halt_tolerance,
        resume_halted=resume_halted,
    )
    if dry_run:
        outcome = run(dry_run=True)
    else:
        with SweepProgress(runs) as progress:
            outcome = run(on_event=progress.on_event)
    rows = [{"run": line.run_id, "state": line.state, "reason": line.reason} for line in outcome.lines]
    emit(output, rows=rows)
    if dry_run:
        for script in outcome.scripts if output == "human" else ():
            click.echo(f"\n{script.rstrip()}")
        return 0
    say(f"{outcome.n_complete} of {len(outcome.lines)} runs complete")
    if outcome.halting is not None:
        _say_halting(outcome.halting, output)
    elif outcome.halted:
        say(f"{len(outcome.halted)} halted: plm-scaling run {plan} --resume-halted goes on with them")
    if not outcome.all_complete:
        retry = " --retry-failed" if outcome.failed else ""
        say(f"see why: plm-scaling status {runs}; then: plm-scaling run {plan}{retry}")
        return EXIT_INCOMPLETE
    partial_ = " --partial" if outcome.halted else ""
    next_command(f"plm-scaling fit {runs} --objective {api.status(runs, plan=plan)[0].objective}{partial_}")
    return 0


def _refuse_without_halting(context: click.Context) -> None:
    """Refuse what only `--stop-dominated` heeds: it would be passed over in silence."""
    for name, option in typed_options(context).items():
        if name in ("pause_share", "halt_tolerance"):
            raise click.UsageError(f"{option} goes with --stop-dominated, which is missing", context)


def _say_halting(report: HaltingReport, output: str) -> None:
    """What halting saved, why it left the other runs alone, and the minima that are left."""
    from plm_scaling.cli.status_screen import duration, optima_rows
    from plm_scaling.sweeps.halting_report import why_not_halted

    saved = f"{report.C_saved:.3g} of {report.C_planned:.3g} FLOPs ({report.C_saved / report.C_planned:.1%})"
    time = "" if report.seconds_saved is None else f", {duration(report.seconds_saved)} of devices"
    say(f"{report.n_halted} of {report.n_runs} runs halted; saved {saved}{time}")
    for line in why_not_halted(report.verdicts):
        say(line)
    if output == "human" and report.optima:
        emit(output, rows=optima_rows(report.optima), title="minima, halted runs taken in with their predicted ends")
    for remark in report.remarks:
        warn(remark)
