"""`plm-scaling transfer`: what a pre-trained source is worth in target tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plm_scaling.cli.render import DryRun, OutputFormat, emit, next_command, say, warn
from plm_scaling.core.units import format_count, format_with_error

if TYPE_CHECKING:
    from plm_scaling.laws.law_fit import Interval
    from plm_scaling.transfers.transfer_fit import SourceShare, TransferFit, TransferPair

__all__ = ["command"]

_COUNTS = 0.05


@click.command("transfer", epilog="Example: plm-scaling transfer runs.csv --laws fit-mlm.json -o transfer.json")
@click.argument("table", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--laws",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="fit.json of a target objective, once per objective. Default: fit-*.json beside TABLE; for an objective "
    "without one, forms are fitted to TABLE's scratch runs.",
)
@click.option("--validation", default="val_iid", show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Default: transfer.json beside TABLE.")
@DryRun
@OutputFormat
def command(table: Path, laws: tuple[Path, ...], validation: str, out: Path | None, dry_run: bool, output: str) -> int:
    """D_t of every scratch/transferred pair of TABLE, per source token, and net of the source's compute.

    D_t is the weighted median over forms of the scratch law and the scratch runs of the pair's own size; its interval
    holds noise and the choice between them. Exit code 4 if no pair has a D_t; the file is written all the same and
    says why.
    """
    from plm_scaling import api
    from plm_scaling.cli.main import EXIT_REFUSED
    from plm_scaling.laws.law_fit import LawFit

    found = laws or tuple(sorted(table.parent.glob("fit-*.json")))
    target = out or table.parent / "transfer.json"
    fitted = api.transfer(
        table, validation=validation, laws=[LawFit.read(path) for path in found], out=None if dry_run else target
    )
    exact = [pair.model_dump(mode="json", exclude={"flags"}) for pair in fitted.pairs]
    rows = exact if output == "csv" else _pair_rows(fitted)
    emit(output, rows=rows, value=fitted)
    if output == "human":
        _show_rest(fitted)
    if found and not laws:
        say(f"laws: {', '.join(path.name for path in found)}")
    for note in fitted.notes:
        warn(note)
    if dry_run:
        say(f"would write {target}")
    else:
        next_command(f"plm-scaling report {table.parent}")
    return 0 if fitted.answered else EXIT_REFUSED


def _pair_rows(fitted: TransferFit) -> list[dict[str, Any]]:
    """Pairs, then controls; what is left net of the controls only where there are any."""
    rows = []
    for pair in (*fitted.pairs, *fitted.controls):
        net = pair.D_t_net_of_control
        control = {"net of control": _counts(net)} if fitted.controls else {}
        if any(one.rewarmed_run_id for one in fitted.pairs):
            gap = pair.gap_over_rewarmed
            control["over re-warmed"] = "-" if gap is None else format_with_error(gap, pair.gap_over_rewarmed_se)
        rows.append(_pair_row(pair) | control | {"flags": ",".join(pair.flags)})
    return rows


def _pair_row(pair: TransferPair) -> dict[str, Any]:
    return {
        "source": pair.source_run_id,
        "target": pair.target_run_id,
        "N": format_count(pair.N),
        "D": format_count(pair.D),
        "gap (nats)": format_with_error(pair.gap, pair.gap_total_se or pair.gap_se),
        "D_t (95 %)": _tokens(pair),
        "estimators": _estimators(pair),
        "D_t / D_source": f"{pair.D_t_per_source_token:.2f}" if pair.D_t_per_source_token is not None else "-",
        "net tokens": format_count(pair.net_tokens) if pair.net_tokens is not None else "-",
        "net loss": f"{-pair.net_loss_gain:+.4f}" if pair.net_loss_gain is not None else "-",
    }


def _show_rest(fitted: TransferFit) -> None:
    """Best shares and trends, where there are any."""
    if fitted.shares:
        title = "best share of a fixed compute for the source; gains in nats over scratch runs of equal compute"
        emit("human", rows=[_share_row(share) for share in fitted.shares], title=title)
    trends = [
        {
            "direction": f"{trend.source_objective} -> {trend.objective}",
            "sizes": ", ".join(format_count(N) for N in trend.N),
            "D_t / source's worth": ", ".join(f"{rate:.2f}" for rate in trend.rate),
            "d ln / d ln N": _span(trend.slope, "{:.2f}"),
            "break-even N": _counts(trend.break_even_N),
            "flags": ",".join(trend.flags),
        }
        for trend in fitted.trends
    ]
    if trends:
        emit("human", rows=trends, title="the source's worth over size")
    laws = [
        {
            "direction": f"{law.source_objective} -> {law.objective}",
            "D_t": f"k (D_f / {format_count(law.D0)})^a (N / {format_count(law.N0)})^b",
            "k": _counts(law.k),
            "a": _span(law.a, "{:.3f}"),
            "b": _span(law.b, "{:.3f}"),
            "pairs": law.n_pairs,
            "censored": law.n_censored,
        }
        for law in fitted.laws
    ]
    if laws:
        emit("human", rows=laws, title="law of D_t")


def _share_row(share: SourceShare) -> dict[str, Any]:
    return {
        "target": share.target_run_id,
        "N": format_count(share.N),
        "C": f"{share.C:.3g}",
        "share": _span(share.share, "{:.0%}"),
        "tried up to": f"{share.share_tried:.0%}",
        "gain, same N": _span(share.gain_same_N, "{:.4f}"),
        "gain, best N": _span(share.gain_best_N, "{:.4f}"),
        "best N": format_count(share.N_best) if share.N_best else "-",
        "basis": share.law,
        "flags": ",".join(share.flags),
    }


def _span(interval: Interval | None, pattern: str) -> str:
    if interval is None:
        return "-"
    value, low, high = (pattern.format(end) for end in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"


def _counts(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    return f"{format_count(interval.value)} [{format_count(interval.low)}, {format_count(interval.high)}]"


def _estimators(pair: TransferPair) -> str:
    """Smallest and largest D_t among the estimators of at least 5 % weight, and how many: 24.1B..27.1B (5)."""
    found = [one.D_t for one in pair.estimates if one.D_t is not None and one.weight >= _COUNTS]
    if not found:
        return "-"
    ends = dict.fromkeys(format_count(end) for end in (min(found), max(found)))
    return f"{'..'.join(ends)} ({len(found)})"


def _tokens(pair: TransferPair) -> str:
    """166k [131k, 205k]; an end the scratch runs leave open is "?", and D_t beyond them is only bounded."""
    low, high = (None if end is None else format_count(end) for end in (pair.D_t_low, pair.D_t_high))
    if pair.D_t is not None:
        return format_count(pair.D_t) + (f" [{low or '?'}, {high or '?'}]" if low or high else "")
    return f"at least {low}" if low else f"at most {high}" if high else "-"
