"""`plm-scaling size`: the question everybody has first."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from plm_scaling.cli.quantities import BUDGET, budget_words, quantity
from plm_scaling.cli.render import OutputFormat, emit, next_command, say, typed_options, warn
from plm_scaling.core.units import format_count

__all__ = ["command"]

_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_BUDGET: Final = frozenset(BUDGET)
_LAWS: Final = _BUDGET - {"gpu_hours", "usd", "flops", "usd_per_gpu_hour"}
_MODES: Final[dict[str, frozenset[str]]] = {
    "check": frozenset({"check", "page"}),
    "page": _BUDGET | {"page", "out", "n_gpus"},
    "nodes": _LAWS | {"nodes", "gpus_per_node", "hours", "expires", "queue_limit"},
    "sequences": _BUDGET | {"sequences", "length", "use", "passes"},
    "metric": _BUDGET | {"metric"},
}
"""What an option that asks for another answer goes with; the first that is given decides."""
_PLAIN: Final = _BUDGET | {"n_gpus", "out"}


@click.command(
    "size",
    epilog="Examples: plm-scaling size --gpu-hours 5000 --gpu a100 --unique-tokens 15e9 --objective mlm;  plm-scaling "
    "size --page -o sizing.html;  plm-scaling size --nodes 8 --gpus-per-node 4 --hours 3000 --expires 60d --objective "
    "mlm",
)
@click.option("--gpu-hours", callback=quantity, help="Budget in GPU-hours, e.g. 5000.")
@click.option("--usd", callback=quantity, help="Budget in US dollars.")
@click.option("--flops", callback=quantity, help="Budget in training FLOPs, e.g. 1e21.")
@click.option("--gpu", default="a100", show_default=True, help="GPU of configs/hardware.toml.")
@click.option("--gpus", "n_gpus", default=1, show_default=True, type=click.IntRange(1), help="GPUs used at a time.")
@click.option("--unique-tokens", callback=quantity, help="Distinct training tokens you have, e.g. 15e9.")
@click.option("--mfu", type=click.FloatRange(0, 1, min_open=True), help="Model FLOP utilisation, if you measured it.")
@click.option("--usd-per-gpu-hour", callback=quantity, help="Your price, instead of the table's low, mid and high.")
@click.option("--objective", type=click.Choice(["clm", "mlm"]), help="What the model is trained for; needed.")
@click.option(
    "--laws",
    multiple=True,
    metavar="FILE|zoo:NAME",
    help="Law to answer from: a fit.json, or a published law. May be repeated: the first gives N. Default: fits of the "
    "released logs of Cheng et al. 2024.",
)
@click.option("--force", is_flag=True, help="Answer even far outside the range of every law.")
@click.option("-o", "--out", type=_FILE, help="File to write: size.json of a study, or the page.")
@click.option("--page", is_flag=True, help="An offline page with sliders instead, written to -o.")
@click.option("--for", "metric", metavar="METRIC", help="What decides (fitness, capsid, contacts): as `spend` does.")
@click.option("--sequences", callback=quantity, help="Sequences the model reads or makes over its life: size it so.")
@click.option("--length", callback=quantity, help="Residues of each.")
@click.option("--use", default="single_pass", show_default=True, help="Or masked_marginals, pseudo_likelihood, ...")
@click.option("--passes", callback=quantity, help="Times each is read, if not what the use asks for.")
@click.option("--nodes", type=click.IntRange(1), help="Split an allocation instead: nodes used at a time.")
@click.option("--gpus-per-node", type=click.IntRange(1), help="GPUs of a node.")
@click.option("--hours", callback=quantity, help="Node-hours granted.")
@click.option("--expires", help="When the grant ends: 1400h, 60d, or a date.")
@click.option("--queue-limit", callback=quantity, default="24", show_default=True, help="Longest job, hours.")
@click.option(
    "--check",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="EXAMPLES",
    help="Hold the engine (with --page: the page's code, under node) against a file of worked examples instead; exit "
    "code 1 if a number differs.",
)
@OutputFormat
@click.pass_context
def command(ctx: click.Context, /, output: str, **asked: Any) -> int:
    """Model size, tokens, epochs and cost for a budget, with what another size would lose.

    Give exactly one of --gpu-hours, --usd and --flops. Without --laws the answer weighs fits of published runs; the
    size is the one with the least expected regret over their forms and draws.
    """
    mode = next((name for name in _MODES if asked[name]), "")
    taken = _only(ctx, mode, asked)
    if mode == "check":
        from plm_scaling.cli.check_screen import run_check

        return run_check(taken["check"], output, page=taken["page"])
    if mode == "page":
        return _page(ctx, taken)
    _need(ctx, taken, "objective", *{"nodes": ("gpus_per_node", "hours"), "sequences": ("length",)}.get(mode, ()))
    if mode:
        return {"nodes": _allocation, "sequences": _uses, "metric": _spending}[mode](taken, output)
    return _answer(taken, output)


def _only(ctx: click.Context, mode: str, asked: dict[str, Any]) -> dict[str, Any]:
    """The options of a mode.

    Raises
    ------
    UsageError : others were typed, which would be passed over in silence.
    """
    allowed = _MODES[mode] if mode else _PLAIN
    options = {p.name: p.opts[-1] for p in ctx.command.params}
    typed = [name for name in typed_options(ctx) if name in asked]
    if others := [options[name] for name in typed if name not in allowed]:
        if mode:
            raise click.UsageError(f"{options[mode]} asks its own question: leave out {', '.join(others)}", ctx)
        wanted = next(options[name] for name, taken in _MODES.items() if others[0] in [options[one] for one in taken])
        raise click.UsageError(f"{others[0]} goes with {wanted}, which is missing", ctx)
    return {name: value for name, value in asked.items() if name in allowed}


def _need(ctx: click.Context, taken: dict[str, Any], *names: str) -> None:
    for name in names:
        if taken[name] is None:
            raise click.MissingParameter(ctx=ctx, param=next(p for p in ctx.command.params if p.name == name))


def _answer(taken: dict[str, Any], output: str) -> int:
    from plm_scaling import api

    answer = api.size(**taken)
    if output == "human":
        from plm_scaling.cli.size_screen import recommendation_lines

        click.echo("\n".join(recommendation_lines(answer)))
        for warning in answer.warnings:
            warn(warning)
        next_command(f"plm-scaling spend {budget_words(taken)}   # the same budget beside every other way to spend it")
        return 0
    rows = [
        {"law": a.law_id, "status": a.status, "N": a.N, "D": a.D, "loss": a.loss, "decades": a.extrapolation_decades}
        for a in answer.answers
    ]
    emit(output, rows=rows, value=answer)
    if output == "csv":
        say(f"recommended: N {format_count(answer.N)}, D {format_count(answer.D)}")
    return 0


def _page(ctx: click.Context, taken: dict[str, Any]) -> int:
    from plm_scaling import api

    taken = {name: value for name, value in taken.items() if name != "page"}
    _need(ctx, taken, "out")
    written = api.size_page(taken.pop("out"), **taken)
    click.echo(written)
    next_command(f"open {written} in a browser; it needs no network")
    return 0


def _uses(taken: dict[str, Any], output: str) -> int:
    from plm_scaling import api
    from plm_scaling.sizing.use_plan import use_lines

    plan = api.size_uses(**taken)
    if output == "human":
        click.echo("\n".join(use_lines(plan)))
        for warning in plan.warnings:
            warn(warning)
        next_command(f"plm-scaling size {budget_words(taken)}   # the cheapest to train, with shape, recipe and bill")
        return 0
    lifetime = plan.lifetime
    pairs = (
        ("best", lifetime.best, plan.serving),
        ("trained", lifetime.trained_cheapest, plan.serving_trained_cheapest),
    )
    emit(
        output, rows=[{"size": name, **one.model_dump(), **bill.model_dump()} for name, one, bill in pairs], value=plan
    )
    return 0


def _allocation(taken: dict[str, Any], output: str) -> int:
    from plm_scaling import api
    from plm_scaling.cli.allocation_screen import allocation_lines, allocation_rows

    plan = api.size_allocation(**taken)
    if output == "human":
        click.echo("\n".join(allocation_lines(plan)))
        for warning in plan.warnings:
            warn(warning)
        sweep = plan.allocation.gpus_per_node * plan.chosen.hours_of("sweep")
        if sweep:
            cut = f"--hardware {taken['gpu']} --gpu-hours {sweep:.0f}"
            next_command(
                f"plm-scaling plan SPEC.toml --corpus CORPUS {cut}   # the sweep, cut to its share of the hours"
            )
        else:
            asked = budget_words(taken | {"gpu_hours": plan.allocation.gpus_per_node * taken["hours"]})
            next_command(f"plm-scaling spend {asked}   # the hours beside every other way to spend them")
    else:
        emit(output, rows=allocation_rows(plan), value=plan)
    return 0


def _spending(taken: dict[str, Any], output: str) -> int:
    from plm_scaling import api
    from plm_scaling.cli.spending_screen import show_spending

    asked = budget_words(taken)
    objective = taken.pop("objective")
    show_spending(api.spend(objectives=(objective,), **taken), output, asked=asked)
    return 0
