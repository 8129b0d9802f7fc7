"""`plm-scaling laws`: the published laws, several at one budget, their self-check, and what an analyst's choices do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from plm_scaling.cli.render import OutputFormat, emit, next_command, say, warn
from plm_scaling.core.errors import ConfigError
from plm_scaling.core.units import format_count, parse_quantity

if TYPE_CHECKING:
    from plm_scaling.sizing.law_table import LawPoint, LawSheet

__all__ = ["command"]


def _budgets(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> tuple[float, ...]:
    del ctx, param
    return tuple(parse_quantity(value, what="--flops") for value in values)


def _budget(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    return None if value is None else _budgets(ctx, param, (value,))[0]


def Objective(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--objective clm|mlm|text`."""
    kinds = click.Choice(["clm", "mlm", "text"])
    return click.option("--objective", type=kinds, help="Laws of one objective; text: language models.")(verb)


@click.group("laws", epilog="Example: plm-scaling laws compare --flops 1e20 --objective mlm")
def command() -> None:
    """Published scaling laws: which there are, what they say at a budget, whether they still say it."""


@command.command("list", epilog="Example: plm-scaling laws list --objective clm")
@Objective
@click.option("--all", "unverified", is_flag=True, help="Also laws whose numbers nobody has checked.")
@OutputFormat
def list_laws(objective: str | None, unverified: bool, output: str) -> None:
    """Every law: form, exponents of N and D in C, the compute it was fitted on, status."""
    from plm_scaling import api

    laws = api.laws_list(objective=objective, unverified=unverified)
    if output != "human":
        spans = ((law, law.range_C or (None, None)) for law in laws)
        exact = [law.model_dump(exclude={"range_C"}) | {"C_low": low, "C_high": high} for law, (low, high) in spans]
        emit(output, rows=exact)
        return
    rows = [
        {
            "law": law.id,
            "objective": law.objective,
            "form": law.form,
            "N ~ C^": law.a_N,
            "D ~ C^": law.a_D,
            "range of C": _span(law.range_C, "{:.3g}"),
            "status": law.status,
        }
        for law in laws
    ]
    emit(output, rows=rows, formats={"N ~ C^": "{:.3f}".format, "D ~ C^": "{:.3f}".format})
    next_command(f"plm-scaling laws show {laws[0].id}" if laws else "plm-scaling laws list --all")


@command.command("show", epilog="Example: plm-scaling laws show besiroglu2024 --flops 1e21 --flops 1e23")
@click.argument("name")
@click.option("--flops", multiple=True, callback=_budgets, help="Budget in training FLOPs, e.g. 1e21; repeatable.")
@OutputFormat
def show_law(name: str, flops: tuple[float, ...], output: str) -> None:
    """One law: formula, coefficients, source, caveat; N, D and loss at budgets, or over its range."""
    from plm_scaling import api

    sheet = api.laws_show(name, flops=flops)
    if output != "human":
        emit(output, rows=_exact(sheet.points), value=sheet)
        return
    click.echo("\n".join(_sheet_lines(sheet)))
    if sheet.points:
        click.echo()
        emit(output, rows=_rows(sheet.points, what="C"), formats=_FORMATS)
    if sheet.law.status == "unverified":
        warn(f"UNVERIFIED: the numbers of {sheet.law.id} are recalled and not checked; decide nothing by them.")
    if sheet.law.caveat:
        warn(f"{sheet.law.caveat}.")


@command.command("compare", epilog="Example: plm-scaling laws compare --flops 1e20 cheng-mlm study/fit-mlm.json")
@click.argument("laws", nargs=-1, metavar="[NAME | FIT.json]...")
@click.option("--flops", required=True, callback=_budget, help="Budget in training FLOPs, e.g. 1e20.")
@Objective
@click.option("--all", "unverified", is_flag=True, help="Also laws whose numbers nobody has checked.")
@OutputFormat
def compare(laws: tuple[str, ...], flops: float, objective: str | None, unverified: bool, output: str) -> None:
    """Laws side by side at one budget: the named ones and fits of your own, or all of one objective."""
    from plm_scaling import api

    names, fits = _sorted_out(laws)
    found = api.laws_compare(flops, names, fits=fits, objective=objective, unverified=unverified)
    if output != "human":
        emit(output, rows=_exact(found.points), value=found)
        return
    emit(output, rows=_rows(found.points, what="law"), title=f"at {flops:.3g} FLOPs", formats=_FORMATS)
    for note in found.notes:
        warn(f"{note}.")


@command.command("choices", epilog="Example: plm-scaling laws choices runs.csv --objective mlm --flops 1e20")
@click.argument("table", type=click.Path(path_type=Path, exists=True))
@click.option("--objective", type=click.Choice(["clm", "mlm"]), help="Needed where the table holds both, or neither.")
@click.option("--flops", callback=_budget, help="Budget at which N_opt is given, e.g. 1e22. Default: the largest.")
@click.option(
    "--currency",
    type=click.Choice(["C_6nd", "C_exact"]),
    default="C_6nd",
    show_default=True,
    help="Compute that the budgets were placed on.",
)
@click.option(
    "--laws",
    "law",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="fit.json of the same objective, to stand beside the rest.",
)
@click.option("--draws", default=200, show_default=True, type=click.IntRange(1), help="Resamples behind the envelope.")
@click.option("--validation", default="val_iid", show_default=True, help="Validation set (runs folders only).")
@OutputFormat
def choices(
    table: Path,
    objective: str | None,
    flops: float | None,
    currency: Literal["C_6nd", "C_exact"],
    law: Path | None,
    draws: int,
    validation: str,
    output: str,
) -> int:
    """How far N_opt depends on choices nobody can defend: TABLE analysed in every way, beside other readings.

    Which loss is final (with curves beside TABLE), how a budget's minimum is found, how equal compute must be, and
    the space of the power law. Exit code 4 if no way gives an exponent.
    """
    from plm_scaling import api
    from plm_scaling.cli.choices_screen import exact_rows, mover_rows, range_lines, reading_rows, summary_rows
    from plm_scaling.cli.main import EXIT_REFUSED

    found = api.laws_choices(
        table, objective, flops=flops, currency=currency, law=law, draws=draws, validation=validation
    )
    if output != "human":
        emit(output, rows=exact_rows(found), value=found)
    else:
        if found.choices is not None and found.choices.a_N is not None:
            title = f"{found.objective}: {len(found.choices.rows)} ways to analyse the same runs"
            emit(output, rows=mover_rows(found.choices), title=title)
            click.echo("\n".join(["", *range_lines(found), ""]))
        if found.readings:
            emit(output, rows=reading_rows(found.readings, found.C))
            click.echo()
        if found.choices is not None:
            emit(output, rows=summary_rows(found.choices))
        for note in found.notes:
            warn(note)
        if law is None:
            next_command(f"plm-scaling fit {table} --objective {found.objective}")
    return 0 if found.answered else EXIT_REFUSED


@command.command("causes", epilog="Example: plm-scaling laws causes tuned/runs constant/runs warmup/runs")
@click.argument("tables", nargs=-1, type=click.Path(path_type=Path, exists=True), metavar="[RUNS...]")
@click.option("--objective", type=click.Choice(["clm", "mlm"]), help="Needed where a table holds both, or neither.")
@click.option("--validation", default="val_iid", show_default=True, help="Validation set (runs folders only).")
@OutputFormat
def causes(tables: tuple[Path, ...], objective: str | None, validation: str, output: str) -> None:
    """Why Kaplan and Chinchilla disagree: the exponent of N_opt as one cause at a time is switched.

    Without RUNS, on the minima that Porian et al. 2024 published; with two or more runs folders or tables that differ
    by one cause each, on these, the first being what the others are compared with.
    """
    from plm_scaling import api
    from plm_scaling.cli.causes_screen import reading_rows, switch_rows

    found = api.laws_causes(tables, objective=objective, validation=validation)
    if output == "json":
        emit(output, rows=(), value=found)
        return
    if output == "human":
        emit(output, rows=reading_rows(found), title=f"N_opt ~ C^a: {found.source}")
        click.echo()
    emit(output, rows=switch_rows(found, exact=output == "csv"))
    for note in found.notes:
        warn(f"{note}.")


@command.command("check")
@OutputFormat
def check(output: str) -> int:
    """Compare every law with the numbers its source prints; exit code 1 if one differs."""
    from plm_scaling import api

    outcomes = api.laws_check()
    wrong = [outcome for outcome in outcomes if not outcome.ok]
    if output == "human":
        rows = [
            {
                "law": o.law_id,
                "given": o.given,
                "quantity": o.quantity,
                "expected": f"{o.expected:.6g}",
                "got": f"{o.got:.6g}",
                "off by": f"{o.relative_difference:+.1e}",
                "allowed": f"{o.within:.0e}",
                "": "ok" if o.ok else "WRONG",
            }
            for o in outcomes
        ]
        emit(output, rows=rows)
        say(f"{len(outcomes) - len(wrong)} of {len(outcomes)} numbers are as they should be")
    else:
        emit(output, rows=[outcome.model_dump(mode="json") for outcome in outcomes])
    return 1 if wrong else 0


def _sorted_out(words: Sequence[str]) -> tuple[list[str], list[Path]]:
    """Names of published laws, and files of fits."""
    names = [word for word in words if not word.endswith(".json")]
    fits = [Path(word) for word in words if word.endswith(".json")]
    for word in names:
        if Path(word).is_file():
            raise ConfigError("a fit of one's own is a .json file", where=word, hint="the output of plm-scaling fit")
    return names, fits


def _span(span: tuple[float, float] | None, form: str) -> str | None:
    return None if span is None else f"{form.format(span[0])} to {form.format(span[1])}"


# ---- tables --------------------------------------------------------------------------------------------------------


def _count(value: float) -> str:
    return format_count(value)


def _ratio(value: float) -> str:
    """4,850 or 0.034 tokens per parameter."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


_FORMATS: dict[str, Callable[[Any], str]] = {
    "C": "{:.3g}".format,
    "N": _count,
    "D": _count,
    "D / N": _ratio,
    "6ND / C": "{:.3f}".format,
    "loss": "{:.4f}".format,
}


def _exact(points: Sequence[LawPoint]) -> list[dict[str, Any]]:
    return [{**point.model_dump(mode="json"), "flags": ",".join(point.flags)} for point in points]


def _rows(points: Sequence[LawPoint], *, what: str) -> list[dict[str, Any]]:
    """Lines that begin with the law or with the budget; the band only where a line has one."""
    banded = any(point.N_low is not None for point in points)
    return [
        {
            what: point.law_id if what == "law" else point.C,
            "N": point.N,
            **({"band of N": _band(point)} if banded else {}),
            "D": point.D,
            "D / N": point.tokens_per_parameter,
            "6ND / C": point.six_ND_over_C,
            "loss": point.loss,
            "flags": _flags(point),
        }
        for point in points
    ]


def _band(point: LawPoint) -> str | None:
    if point.N_low is None or point.N_high is None:
        return None
    return f"{format_count(point.N_low, 2)} to {format_count(point.N_high, 2)}"


def _flags(point: LawPoint) -> str:
    """The flags, with the distance behind EXTRAPOLATION."""
    far = f"{point.decades_outside:.1f}" if point.decades_outside >= 0.05 else "<0.1"
    distance = f"EXTRAPOLATION({far} decades)"
    return ",".join(distance if flag == "EXTRAPOLATION" else flag for flag in point.flags)


def _sheet_lines(sheet: LawSheet) -> list[str]:
    law = sheet.law
    lines = [
        f"{law.id}: {law.objective} law, {'UNVERIFIED' if law.status == 'unverified' else law.status}",
        f"  formula       {sheet.formula}",
        "  coefficients  " + ", ".join(f"{name} {value:.12g}" for name, value in law.params.items()),
    ]
    if law.ci95:
        intervals = (f"{name} {low:.6g} to {high:.6g}" for name, (low, high) in law.ci95.items())
        lines.append("  95 %          " + ", ".join(intervals))
    if sheet.a_N is not None or sheet.a_D is not None:
        stated = ((name, a) for name, a in (("N", sheet.a_N), ("D", sheet.a_D)) if a is not None)
        lines.append("  optimum       " + ", ".join(f"{name} ~ C^{a:.3f}" for name, a in stated))
    if law.convention:
        lines.append(f"  convention    {law.convention}")
    if law.range_C is not None:
        lines.append(f"  range of C    {_span(law.range_C, '{:.3g}')} FLOPs")
    for name, span in (("N", law.range_N), ("D", law.range_D)):
        if span is not None:
            lines.append(f"  range of {name}    {format_count(span[0])} to {format_count(span[1])}")
    return [*lines, f"  source        {law.source}"]
