"""What `plm-scaling ledger` answers about one run at one step, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from plm_scaling.core.errors import PlanError
from plm_scaling.core.records import Record
from plm_scaling.core.run import LedgerRow, Objective
from plm_scaling.core.weight_identity import is_foreign
from plm_scaling.corpus.ledger import Ledger, Phase, open_ledger
from plm_scaling.corpus.ledger_count import CAUSES, Cause
from plm_scaling.corpus.reader import Corpus

__all__ = ["LedgerPoint", "LedgerReport", "ledger_curve", "ledger_report", "trace_lineage"]


class LedgerPoint(Record):
    """The ledger of all sources together after some step."""

    step: int
    total: LedgerRow

    @property
    def unique_share(self) -> float:
        """Share of the tokens that nobody in the lineage had seen before; 1 before the first."""
        return self.total.unique / self.total.tokens if self.total.tokens else 1.0


class LedgerReport(Record):
    """The ledger of one run at one step."""

    SCHEMA_VERSION: ClassVar[int] = 1

    run_id: str
    objective: Objective
    corpus_id: str
    lineage: tuple[str, ...]
    """Runs that this one descends from, oldest first."""
    step: int
    n_steps: int
    """Of the whole run."""
    rows: tuple[LedgerRow, ...]
    """One per source that gave tokens, then "*" for all."""
    epochs: dict[str, float | None]
    """Effective number of epochs by source (and "*"): tokens over the different tokens first seen among them. None
    for a source that gave only copies of other sources' sequences."""
    first_tokens: dict[Cause, int | None]
    """Tokens drawn before the first of each cause, to the token; None if the whole run has none."""
    clusters: bool
    """Whether the corpus has clusters: without them nothing is known of mates."""
    curve: tuple[LedgerPoint, ...]
    """From step 0 to the end of the run."""

    @property
    def total(self) -> LedgerRow:
        """All sources together."""
        return self.rows[-1]


def trace_lineage(runs: Mapping[str, Phase], run_id: str) -> list[str]:
    """Ids of the runs that a run descends from, oldest first, and its own; weights made elsewhere end the line.

    Parameters
    ----------
    runs : run id -> its config and steps; the runs of one plan.

    Raises
    ------
    PlanError : a run starts from weights of no run here, or from itself.
    """
    found = [run_id]
    while (source := runs[found[0]][0].init_from) is not None and not is_foreign(source):
        if source not in runs or source in found:
            raise PlanError(
                f"run {found[0]} starts from {source}, which is no run of this plan",
                why="what that run has seen is part of this ledger",
                hint="use the plan that holds both",
            )
        found.insert(0, source)
    return found


def ledger_report(
    corpus: Corpus,
    runs: Mapping[str, Phase],
    run_id: str,
    *,
    step: int | None = None,
    at: float | None = None,
    points: int = 200,
) -> LedgerReport:
    """The ledger of a run at a step, or at its end.

    Parameters
    ----------
    runs : run id -> its config and steps.
    step : number of batches trained on.
    at : tokens; instead of `step`, the first step before which at least so many were drawn.
    points : steps of the curve.

    Raises
    ------
    PlanError : a step or tokens beyond the end of the run, or an unknown source of the lineage.
    CorpusError : the run was planned for another corpus.
    """
    lineage = trace_lineage(runs, run_id)
    config, n_steps = runs[run_id]
    if step is not None and at is not None:
        raise PlanError("both a step and tokens", hint="give one of them")
    if step is not None and not 0 <= step <= n_steps:
        raise PlanError(f"run {run_id} has no step {step:,}", why=f"it has {n_steps:,}, counted from 0")
    found = open_ledger(corpus, [runs[name] for name in lineage])
    end = found.tokens(n_steps)
    if at is not None and not 0 <= at <= end:
        raise PlanError(f"run {run_id} never draws {at:,.0f} tokens", why=f"its {n_steps:,} steps draw {end:,}")
    chosen = n_steps if step is None else step
    if at is not None:
        chosen = found.step_at(at)
    rows = found.rows(chosen)
    return LedgerReport(
        run_id=run_id,
        objective=config.objective,
        corpus_id=corpus.corpus_id,
        lineage=tuple(lineage[:-1]),
        step=chosen,
        n_steps=n_steps,
        rows=rows,
        epochs={row.source: _epochs(row) for row in rows if row.tokens},
        first_tokens=_first_tokens(found, end),
        clusters=corpus.manifest.clusters is not None,
        curve=ledger_curve(found, n_steps, points=points),
    )


def ledger_curve(found: Ledger, n_steps: int, *, points: int = 200) -> tuple[LedgerPoint, ...]:
    """The ledger of all sources together at steps evenly spread over a run, first and last included.

    Parameters
    ----------
    n_steps : of the run.
    points : intervals between steps; fewer where the run has fewer steps.
    """
    count = max(1, min(points, n_steps))
    steps = sorted({round(n_steps * number / count) for number in range(count + 1)})
    return tuple(LedgerPoint(step=step, total=found.rows(step)[-1]) for step in steps)


def _epochs(row: LedgerRow) -> float | None:
    different = row.unique + row.seen_earlier
    return row.tokens / different if different else None


def _first_tokens(found: Ledger, end: int) -> dict[Cause, int | None]:
    """A table may reach beyond the end of this run."""
    known = {cause: found.first_tokens.get(cause) for cause in CAUSES}
    return {cause: before if before is not None and before < end else None for cause, before in known.items()}
