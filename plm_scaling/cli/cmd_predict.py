"""`plm-scaling predict`: losses that a fit expects of runs not yet made, sealed before they are and scored after."""

from __future__ import annotations

from pathlib import Path

import click

from plm_scaling.cli.render import DryRun, OutputFormat, emit, next_command, say, typed_options, warn

__all__ = ["command"]

_FAR = 1.0
"""Decades: the reach of the law's own extrapolation test."""
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_ONLY = {
    "level": ("--level", "--points", "a seal holds the intervals of 50, 90 and 95 %"),
    "out": ("-o", "--points", "--format csv prints what the others show"),
    "runs": ("--runs", "--seal and --score", "the points of a CSV are no runs of a plan"),
}
"""Options that some ways of asking have no use for: which, what they go with, and why."""


@click.command("predict", epilog="Example: plm-scaling predict fit-mlm.json --points points.csv -o predicted.csv")
@click.argument("law", type=_FILE, required=False)
@click.option(
    "--points", type=_FILE, help="CSV with columns N and D (counts), and batch_tokens where the batch is known."
)
@click.option("--seal", type=_FILE, metavar="PLAN", help="Seal what LAW predicts of PLAN's runs that have not begun.")
@click.option("--score", type=click.Path(path_type=Path), metavar="PLAN", help="Score the seals of PLAN; needs no LAW.")
@click.option("--runs", type=click.Path(path_type=Path), help="Runs folder of PLAN. Default: runs/ beside it.")
@click.option(
    "--level",
    default=0.90,
    show_default=True,
    type=click.FloatRange(0.5, 0.999),
    help="Of the interval; with --points only: a seal holds those of 50, 90 and 95 %.",
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="CSV to write; with --points only. Default: print only."
)
@DryRun
@OutputFormat
@click.pass_context
def command(
    ctx: click.Context,
    law: Path | None,
    points: Path | None,
    seal: Path | None,
    score: Path | None,
    runs: Path | None,
    level: float,
    out: Path | None,
    dry_run: bool,
    output: str,
) -> None:
    """Losses that LAW (a fit.json) predicts at the points of a CSV, with the interval of a single new run.

    The interval holds the parameters' draws, the scatter of runs about the law, the choice of form, and beyond the
    budgets fitted the error that the form made in its own extrapolation test. --seal adds them, with date and hash, to
    PLAN.sealed.json for the runs that have not begun; --score, and report, hold them against what came out.
    """
    if sum(way is not None for way in (points, seal, score)) != 1:
        raise click.UsageError("give one of --points CSV, --seal PLAN and --score PLAN")
    _refuse_unused(ctx, {"runs"} if points is not None else {"level", "out"})
    if score is None and law is None:
        raise click.UsageError("Missing argument 'LAW': the fit.json to predict with")
    if score is not None:
        if law is not None:
            raise click.UsageError("--score needs no LAW: the seals hold what was predicted")
        _score(score, runs, output)
    elif seal is not None:
        assert law is not None
        _seal(law, seal, runs, dry_run, output)
    elif points is not None:
        assert law is not None
        _predict(law, points, level, None if dry_run else out, out, output)


def _refuse_unused(ctx: click.Context, names: set[str]) -> None:
    """Refuse options that were typed and would be passed over in silence.

    Raises
    ------
    UsageError : the first of them.
    """
    typed = typed_options(ctx)
    for name, (option, way, why) in _ONLY.items():
        if name in names and name in typed:
            raise click.UsageError(f"{option} goes with {way} only: {why}", ctx)


def _predict(law: Path, points: Path, level: float, out: Path | None, named: Path | None, output: str) -> None:
    from plm_scaling import api

    predicted = api.predict(law, points, out=out, level=level)
    emit(output, rows=predicted.table(), title=f"{law.name}: predicted loss, nats per token")
    _warn_far(float(predicted.prediction.decades.max()))
    if named is not None:
        say(f"{'wrote' if out else 'would write'} {named}")


def _warn_far(beyond: float) -> None:
    if beyond > _FAR:
        warn(
            f"EXTRAPOLATED: {beyond:.1f} decades of compute beyond the runs fitted: nothing tested the law so far out."
        )


def _seal(law: Path, plan: Path, runs: Path | None, dry_run: bool, output: str) -> None:
    from plm_scaling import api
    from plm_scaling.cli import seal_screen
    from plm_scaling.sweeps.left_out import by_reason
    from plm_scaling.sweeps.seal_records import seals_path

    made = api.predict_seal(law, plan, runs=runs, dry_run=dry_run)
    rows = seal_screen.sealed_rows(made)
    emit(output, rows=rows, value=made, title=f"{law.name}: predicted loss, nats per token")
    for note in made.notes:
        warn(note)
    for line in by_reason(made.left_out):
        warn(f"not sealed: {line}")
    _warn_far(max(run.decades_beyond for run in made.runs))
    path = seals_path(plan)
    if dry_run:
        say(f"would seal {len(made.runs)} runs in {path}")
        return
    say(f"sealed {len(made.runs)} runs in {path} at {made.made}: {made.sha256}")
    say("others can hold you to it from the day they have this hash: commit the file, or send them the hash")
    next_command(f"plm-scaling run {plan}")


def _score(plan: Path, runs: Path | None, output: str) -> None:
    from plm_scaling import api
    from plm_scaling.cli import seal_screen

    scores = api.predict_score(plan, runs=runs)
    emit(output, rows=[row for score in scores for row in seal_screen.score_rows(score, plain=output != "human")])
    for score in scores:
        for line in seal_screen.score_lines(score):
            say(line)
