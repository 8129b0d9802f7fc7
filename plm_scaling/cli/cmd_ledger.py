"""`plm-scaling ledger`: which tokens of a run are new, repeated or copies, at any step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from plm_scaling.cli.render import DryRun, OutputFormat, emit, say
from plm_scaling.core.units import parse_quantity

if TYPE_CHECKING:
    from plm_scaling.corpus.ledger_count import Cause
    from plm_scaling.corpus.ledger_report import LedgerReport

__all__ = ["command"]


def _tokens(context: click.Context, param: click.Parameter, value: str | None) -> float | None:
    del context, param
    return None if value is None else parse_quantity(value, what="--at")


@click.command("ledger", epilog="Example: plm-scaling ledger --plan plan.json --run 3f2a --at 1e9 --pictures ledger/")
@click.argument("corpus", required=False, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--plan",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="plan.json that holds the run and what it starts from. CORPUS defaults to the plan's.",
)
@click.option("--run", "run_id", required=True, help="Id of the run, or how it begins.")
@click.option("--step", type=click.IntRange(0), help="Batches trained on. Default: the whole run.")
@click.option("--at", callback=_tokens, help="Tokens instead of a step: the first step that reached so many, e.g. 2B.")
@click.option("--pictures", type=click.Path(path_type=Path, file_okay=False), help="Folder to draw the curves into.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="JSON to write. Default: print only.")
@DryRun
@OutputFormat
def command(
    corpus: Path | None,
    plan: Path,
    run_id: str,
    step: int | None,
    at: float | None,
    pictures: Path | None,
    out: Path | None,
    dry_run: bool,
    output: str,
) -> None:
    """Tokens of a run by source: unique, repeated by epoch or exact copy, and near-copies among the unique ones.

    Exact at every step, before or after training: everything follows from the order of the batches. mates_90 and
    mates_50 are parts of the unique tokens: another sequence of the same cluster at 90 % (50 %) identity came before.
    seen_earlier are tokens that the runs this one starts from had seen.
    """
    if step is not None and at is not None:
        raise click.UsageError("--step and --at exclude each other")
    from plm_scaling import api

    report = api.ledger(
        plan,
        run_id,
        corpus=corpus,
        step=step,
        at=at,
        out=None if dry_run else out,
        pictures=None if dry_run else pictures,
    )
    title = f"run {report.run_id} ({report.objective}) at step {report.step:,} of {report.n_steps:,}"
    emit(output, rows=_rows(report), title=title, value=report, formats=_FORMATS)
    if output == "human":
        click.echo()
        emit(output, rows=_first_rows(report), title="tokens before the first, in the whole run")
    if not report.clusters:
        say("this corpus has no clusters: near-copies are not counted (prep --cluster makes them)")
    for target in (out, pictures):
        if target is not None:
            say(f"{'would write' if dry_run else 'wrote'} {target}")


def _exact(count: int) -> str:
    return f"{count:,}"


_COUNTS: Final = ("tokens", "residues", "unique", "mates_50", "mates_90", "repeated_epoch", "repeated_duplicate")
_EARLIER: Final = ("seen_earlier", "seen_earlier_clm", "seen_earlier_mlm")
_FORMATS: Final[dict[str, Callable[[Any], str]]] = {
    **dict.fromkeys((*_COUNTS, *_EARLIER), _exact),
    "epochs": "{:.3f}".format,
}


def _rows(report: LedgerReport) -> list[dict[str, Any]]:
    """What cannot be there is left out: clusters without clusters, earlier runs without any."""
    absent = () if report.clusters else ("mates_50", "mates_90")
    names = [name for name in _COUNTS if name not in absent] + (list(_EARLIER) if report.lineage else [])
    return [
        {
            "source": row.source,
            **{name: getattr(row, name) for name in names},
            "epochs": report.epochs.get(row.source),
        }
        for row in report.rows
    ]


_CAUSES: Final[dict[Cause, str]] = {
    "repeated_epoch": "the same record again (a later epoch)",
    "repeated_duplicate": "an exact copy",
    "mates_90": "a sequence of a known 90 % cluster",
    "mates_50": "a sequence of a known 50 % cluster",
}


def _first_rows(report: LedgerReport) -> list[dict[str, Any]]:
    absent = () if report.clusters else ("mates_50", "mates_90")
    return [
        {"cause": words, "tokens_before": _exact(before) if before is not None else "never"}
        for cause, words in _CAUSES.items()
        if cause not in absent
        for before in [report.first_tokens.get(cause)]
    ]
