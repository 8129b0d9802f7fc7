"""`plm-scaling size`: the question everybody has first."""

from __future__ import annotations

from pathlib import Path

import click

from plm_scaling.cli.render import OutputFormat, emit, next_command, say, warn
from plm_scaling.core.units import format_count, parse_quantity

__all__ = ["command"]


def _quantity(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    del ctx
    return None if value is None else parse_quantity(value, what=f"--{(param.name or '').replace('_', '-')}")


@click.command(
    "size",
    epilog="Example: plm-scaling size --gpu-hours 5000 --gpu a100 --unique-tokens 15e9 --objective mlm",
)
@click.option("--gpu-hours", callback=_quantity, help="Budget in GPU-hours, e.g. 5000.")
@click.option("--usd", callback=_quantity, help="Budget in US dollars.")
@click.option("--flops", callback=_quantity, help="Budget in training FLOPs, e.g. 1e21.")
@click.option("--gpu", default="a100", show_default=True, help="GPU of configs/hardware.toml.")
@click.option("--gpus", "n_gpus", default=1, show_default=True, type=click.IntRange(1), help="GPUs used at a time.")
@click.option("--unique-tokens", callback=_quantity, help="Distinct training tokens you have, e.g. 15e9.")
@click.option("--mfu", type=click.FloatRange(0, 1, min_open=True), help="Model FLOP utilisation, if you measured it.")
@click.option("--usd-per-gpu-hour", callback=_quantity, help="Your price, instead of the table's low, mid and high.")
@click.option("--objective", type=click.Choice(["clm", "mlm"]), help="What the model is trained for; needed.")
@click.option(
    "--laws",
    multiple=True,
    metavar="FILE|zoo:NAME",
    help="Law to answer from: a fit.json, or a published law. May be repeated: the first gives N. Default: fits of the "
    "released logs of Cheng et al. 2024.",
)
@click.option("--force", is_flag=True, help="Answer even far outside the range of every law.")
@click.option(
    "--check",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="EXAMPLES",
    help="Hold the engine against a file of worked examples instead; exit code 1 if a number differs.",
)
@OutputFormat
@click.pass_context
def command(
    ctx: click.Context,
    gpu_hours: float | None,
    usd: float | None,
    flops: float | None,
    gpu: str,
    n_gpus: int,
    unique_tokens: float | None,
    mfu: float | None,
    usd_per_gpu_hour: float | None,
    objective: str | None,
    laws: tuple[str, ...],
    force: bool,
    check: Path | None,
    output: str,
) -> int:
    """Model size, tokens, epochs and cost for a budget, with what another size would lose.

    Give exactly one of --gpu-hours, --usd and --flops. Without --laws the answer weighs fits of published runs; the
    size is the one with the least expected regret over their forms and draws.
    """
    from plm_scaling import api

    if check is not None:
        from plm_scaling.cli.check_screen import run_check

        return run_check(ctx, check, output)
    if objective is None:
        raise click.MissingParameter(ctx=ctx, param=next(p for p in ctx.command.params if p.name == "objective"))
    answer = api.size(
        objective=objective,
        gpu_hours=gpu_hours,
        usd=usd,
        flops=flops,
        gpu=gpu,
        n_gpus=n_gpus,
        unique_tokens=unique_tokens,
        mfu=mfu,
        usd_per_gpu_hour=usd_per_gpu_hour,
        laws=laws,
        force=force,
    )
    if output == "human":
        from plm_scaling.cli.size_screen import recommendation_lines

        click.echo("\n".join(recommendation_lines(answer)))
        for warning in answer.warnings:
            warn(warning)
        next_command("plm-scaling demo   # then measure your own law before you spend the budget")
        return 0
    rows = [
        {"law": a.law_id, "status": a.status, "N": a.N, "D": a.D, "loss": a.loss, "decades": a.extrapolation_decades}
        for a in answer.answers
    ]
    emit(output, rows=rows, value=answer)
    if output == "csv":
        say(f"recommended: N {format_count(answer.N)}, D {format_count(answer.D)}")
    return 0
