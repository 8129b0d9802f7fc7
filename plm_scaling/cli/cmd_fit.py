"""`plm-scaling fit`: laws with intervals and named doubts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from plm_scaling.cli.render import DryRun, OutputFormat, emit, next_command, say, typed_options, warn
from plm_scaling.core.errors import ConfigError
from plm_scaling.core.units import parse_quantity

if TYPE_CHECKING:
    from plm_scaling.laws.completed_table import CompletedTable

__all__ = ["command"]

_NOT_BY: Final = frozenset({"plateau", "max_compute", "delta", "currency", "partial", "pictures"})
"""Options of the law of all sequences that laws by group do not take."""


def _flops(context: click.Context, param: click.Parameter, value: str | None) -> float | None:
    del context, param
    return None if value is None else parse_quantity(value, what="--max-compute")


@click.command("fit", epilog="Example: plm-scaling fit runs.csv --objective mlm --form auto -o fit-mlm.json")
@click.argument("table", type=click.Path(path_type=Path, exists=True))
@click.option("--objective", type=click.Choice(["clm", "mlm"]), help="Needed where the table holds both, or neither.")
@click.option("--schedule", type=click.Choice(["cosine", "wsd"]), help="Needed where the table holds runs of both.")
@click.option(
    "--form",
    default="auto",
    show_default=True,
    help="chinchilla, gamma, bounded, ... (+batch), or auto: the form that extrapolates best over the budgets.",
)
@click.option("--plateau", type=float, help="L0 of a bounded form in nats. Default: free.")
@click.option("--max-compute", callback=_flops, help="Leave out runs of more FLOPs (6 N D), e.g. 1e20.")
@click.option("--delta", default=1e-3, show_default=True, type=click.FloatRange(0), help="Huber's border on ln L.")
@click.option("--validation", default="val_iid", show_default=True, help="Validation set whose losses are fitted.")
@click.option(
    "--currency",
    type=click.Choice(["auto", "C_exact", "C_6nd"]),
    default="auto",
    show_default=True,
    help="Compute that the budgets were placed on.",
)
@click.option("--draws", default=4000, show_default=True, type=click.IntRange(50), help="Bootstrap draws.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--partial", is_flag=True, help="Take in unfinished runs too: their final losses predicted, with their errors."
)
@click.option(
    "--by",
    metavar="COLUMN",
    help="Laws of groups of validation sequences: source, set, taxon, cluster50, cluster90, identity, or of --groups.",
)
@click.option("--groups", type=click.Path(path_type=Path, exists=True), help="CSV or TSV: accession, COLUMN.")
@click.option("--also", multiple=True, help="With --by: one more validation set whose sequences are grouped.")
@click.option("--pictures", type=click.Path(path_type=Path, file_okay=False), help="Folder to draw the fit into.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Default: fit-OBJECTIVE.json beside TABLE.")
@DryRun
@OutputFormat
@click.pass_context
def command(
    context: click.Context,
    /,
    table: Path,
    objective: str | None,
    schedule: Literal["cosine", "wsd"] | None,
    form: str,
    plateau: float | None,
    max_compute: float | None,
    delta: float,
    validation: str,
    currency: Literal["auto", "C_exact", "C_6nd"],
    draws: int,
    seed: int,
    partial: bool,
    by: str | None,
    groups: Path | None,
    also: tuple[str, ...],
    pictures: Path | None,
    out: Path | None,
    dry_run: bool,
    output: str,
) -> int:
    """Fit IsoFLOP minima and L(N, D) to TABLE: a runs folder, a CSV or a Parquet file.

    A CSV needs the columns N, D and loss; objective, C, batch_tokens, loss_se and schedule_complete are used where
    they are there, and with --partial D_planned and the curves beside the table. Exit code 4 if a quantity is refused;
    the fit is written all the same and says why. With --by a runs folder's laws by group: groups-OBJECTIVE.json.
    """
    if by is not None:
        _check_by(context)
        from plm_scaling.cli.groups_screen import fit_by

        choices: dict[str, Any] = {"objective": objective, "schedule": schedule, "validation": validation}
        choices |= {"form": form, "draws": draws, "seed": seed}
        return fit_by(table, out, dry_run, output, by=by, groups=groups, also=also, **choices)
    if groups is not None or also:
        raise ConfigError("--groups and --also belong to --by", hint="--by COLUMN")
    from plm_scaling import api
    from plm_scaling.cli.fit_screen import form_rows, law_rows
    from plm_scaling.cli.main import EXIT_REFUSED

    completed = api.completed_runs(table, objective=objective, validation=validation) if partial else None
    fitted = api.fit(
        table,
        objective=objective,
        schedule=schedule,
        form=form,
        plateau=plateau,
        max_compute=max_compute,
        delta=delta,
        validation=validation,
        currency=currency,
        draws=draws,
        seed=seed,
        partial=completed or False,
        pictures=None if dry_run else pictures,
    )
    target = out or table.parent / f"fit-{fitted.objective}.json"
    if not dry_run:
        fitted.write(target)  # before anything is printed: whoever reads the output may leave early (`| head`)
    emit(output, rows=law_rows(fitted), title=f"{fitted.objective}, {fitted.n_runs} runs", value=fitted)
    if output == "human" and fitted.forms:
        emit(output, rows=form_rows(fitted), title="forms, by their error on larger budgets than they were fitted to")
    if output == "human" and completed:
        _say_predicted(completed)
    elif output == "human" and table.is_dir() and (halted := api.halted_runs(table, objective=fitted.objective)):
        warn(f"{len(halted)} halted runs are left out; --partial takes them in with their predicted ends")
    for note in fitted.notes:
        warn(note)
    if dry_run:
        say(f"would write {target}")
    elif table.is_dir():
        next_command(f"plm-scaling report {table.parent}")
    elif fitted.surface is not None:
        next_command(f"plm-scaling predict {target} --points points.csv -o predicted.csv")
    else:
        say(f"wrote {target}")
    return EXIT_REFUSED if fitted.refusals else 0


def _check_by(context: click.Context) -> None:
    """Refuse options that laws by group do not know, if they were typed."""
    for name, option in typed_options(context).items():
        if name in _NOT_BY:
            raise ConfigError(f"{option} and --by do not go together", hint=f"leave out {option}")


def _say_predicted(completed: CompletedTable) -> None:
    """The predicted ends, how good such predictions are, and which runs were passed over."""
    from plm_scaling.cli.fit_screen import predicted_rows

    if completed.completions:
        emit("human", rows=predicted_rows(completed), title="final losses predicted from the first part of a run")
    for check in completed.checks:
        say(
            f"from {check.share:.0%} of a run, the ends of {check.n} complete runs are predicted to "
            f"{check.mean_relative_error:.2%} (each left out in turn; {check.coverage:.0%} inside their intervals "
            "before they were widened to hold 95 %)"
        )
    for run_id, why in completed.passed_over.items():
        warn(f"{run_id} stays out: {why}")
