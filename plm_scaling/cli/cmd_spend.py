"""`plm-scaling spend`: every way to spend a budget, side by side."""

from __future__ import annotations

from pathlib import Path

import click

from plm_scaling.cli.quantities import budget_words, quantity
from plm_scaling.cli.render import OutputFormat

__all__ = ["command"]

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


def _losses(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    found = {}
    for value in values:
        name, _, loss = value.partition("=")
        try:
            found[name.strip()] = float(loss)
        except ValueError:
            raise click.BadParameter(f"{value!r} is not MODEL=LOSS, e.g. esm2-650m=2.41", ctx, param) from None
    return found


@click.command("spend", epilog="Example: plm-scaling spend --usd 20000 --gpu h100 --unique-tokens 15e9 --objective any")
@click.option("--gpu-hours", callback=quantity, help="Budget in GPU-hours, e.g. 5000.")
@click.option("--usd", callback=quantity, help="Budget in US dollars.")
@click.option("--flops", callback=quantity, help="Budget in training FLOPs, e.g. 1e21.")
@click.option("--gpu", default="a100", show_default=True, help="GPU of configs/hardware.toml.")
@click.option("--unique-tokens", callback=quantity, help="Distinct training tokens you have, e.g. 15e9.")
@click.option("--mfu", type=click.FloatRange(0, 1, min_open=True), help="Model FLOP utilisation, if you measured it.")
@click.option("--usd-per-gpu-hour", callback=quantity, help="Your price, instead of the table's low, mid and high.")
@click.option(
    "--objective", type=click.Choice(["clm", "mlm", "any"]), required=True, help="any: both, as far as they compare."
)
@click.option("--laws", multiple=True, metavar="FILE|zoo:NAME", help="A fit.json, or a published law with a loss.")
@click.option("--sources", type=_FILE, help="TOML of [[source]] tables: more tokens, price, exchange rate.")
@click.option("--usd-per-token", callback=quantity, help="Price of a new unique token, e.g. 1e-7.")
@click.option("--for", "metric", default="", metavar="METRIC", help="What decides: fitness, capsid, contacts, ...")
@click.option(
    "--metrics", "metric_table", type=_FILE, help="CSV loss,metric[,objective,...]: `evaluate frontier --table`."
)
@click.option("--lower-is-better", is_flag=True, help="The metric is an error.")
@click.option(
    "--public",
    "public_losses",
    multiple=True,
    callback=_losses,
    metavar="MODEL=LOSS",
    help="Loss on your validation set.",
)
@click.option("--transfer", type=_FILE, help="transfer.json of your own pairs.")
@click.option("--teacher", default="", help="Public model to distil.")
@click.option("--teacher-costs", is_flag=True, help="The teacher would have to be trained first.")
@click.option("--unverified", is_flag=True, help="Rank what rests on coefficients nobody has checked.")
@click.option("--proprietary-tokens", callback=quantity, help="Distinct tokens of your own sequences, e.g. 7e7.")
@click.option("--proprietary-length", callback=quantity, help="Tokens of one of them, e.g. 736 for a capsid.")
@click.option("--proprietary-runs", type=_FILE, help="CSV model,method,tokens,loss[,metric] measured on them.")
@click.option("--usd-per-nat", callback=quantity, help="What a nat is worth to you, for the value of pilots.")
@click.option("--no-pilots", is_flag=True, help="Leave the value of pilot runs out.")
@click.option("--force", is_flag=True, help="Answer even far outside the range of the laws.")
@OutputFormat
def command(
    gpu_hours: float | None,
    usd: float | None,
    flops: float | None,
    gpu: str,
    unique_tokens: float | None,
    mfu: float | None,
    usd_per_gpu_hour: float | None,
    objective: str,
    laws: tuple[str, ...],
    sources: Path | None,
    usd_per_token: float | None,
    metric: str,
    metric_table: Path | None,
    lower_is_better: bool,
    public_losses: dict[str, float],
    transfer: Path | None,
    teacher: str,
    teacher_costs: bool,
    unverified: bool,
    proprietary_tokens: float | None,
    proprietary_length: float | None,
    proprietary_runs: Path | None,
    usd_per_nat: float | None,
    no_pilots: bool,
    force: bool,
    output: str,
) -> int:
    """Train from scratch, start with the other objective, buy, sequence or generate tokens, continue, distil or reuse a
    public model, fine-tune it on your own sequences, or use an alignment: what each leads to, and what one more dollar
    buys.

    Losses rank actions of one objective only. Across objectives, and against public models, the metric of --for decides
    through the models you scored; without them nothing is compared.
    """
    from plm_scaling import api
    from plm_scaling.cli.spending_screen import show_spending

    view = api.spend(
        objectives=("mlm", "clm") if objective == "any" else (objective,),
        gpu_hours=gpu_hours,
        usd=usd,
        flops=flops,
        gpu=gpu,
        unique_tokens=unique_tokens,
        mfu=mfu,
        usd_per_gpu_hour=usd_per_gpu_hour,
        laws=laws,
        sources=sources,
        usd_per_token=usd_per_token,
        metric=metric,
        metric_table=metric_table,
        lower_is_better=lower_is_better,
        public_losses=public_losses,
        transfer=transfer,
        teacher=teacher,
        teacher_free=not teacher_costs,
        unverified=unverified,
        proprietary_tokens=proprietary_tokens,
        proprietary_length=proprietary_length,
        proprietary_runs=proprietary_runs,
        usd_per_nat=usd_per_nat,
        pilots=not no_pilots,
        force=force,
    )
    found = next((one.objective for one in view.actions.actions if one.objective), "mlm")
    asked = budget_words(
        {
            "gpu_hours": gpu_hours,
            "usd": usd,
            "flops": flops,
            "gpu": gpu,
            "unique_tokens": unique_tokens,
            "mfu": mfu,
            "usd_per_gpu_hour": usd_per_gpu_hour,
            "objective": found if objective == "any" else objective,
            "laws": () if objective == "any" else laws,  # a law answers for its own objective only
            "force": force,
        }
    )
    show_spending(view, output, asked=asked)
    return 0
