"""The ledger: which training tokens were new, repeated, copies, or seen by an earlier run of the lineage. Exact.

It follows from the order in which a run draws its windows, so it can be worked out before a run or long after it.
The run is gone through once, without its tokens, and what every batch adds is kept beside the windows
(`ledger_table`); any question after that is a sum of at most 1,024 rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from plm_scaling.core.errors import CorpusError, PlanError
from plm_scaling.core.files import canonical_json, sha256_text
from plm_scaling.core.run import LedgerRow, RunConfig
from plm_scaling.corpus.batches import Batches
from plm_scaling.corpus.ledger_count import COUNTS, Earlier, RecordFacts, StepCounter
from plm_scaling.corpus.ledger_table import StepTable, cached_table, locked_table, write_table
from plm_scaling.corpus.ledger_visits import Schedule
from plm_scaling.corpus.packing import PACKER_VERSION
from plm_scaling.corpus.reader import Corpus

__all__ = ["LEDGER_VERSION", "Ledger", "Phase", "ledger", "open_ledger"]

LEDGER_VERSION: Final = 1
"""Part of the cache key: raise it when the same run would be counted differently."""

Phase = tuple[RunConfig, int]
"""A run and the number of batches it was trained on."""


@dataclass(frozen=True)
class Ledger:
    """The ledger of one run, at any step.

    Attributes
    ----------
    source_names : of the sources that the run draws from, in the manifest's order.
    table : what every batch adds.
    """

    source_names: tuple[str, ...]
    table: StepTable

    @property
    def steps(self) -> int:
        """The last step that can be asked for; at least the run's own."""
        return self.table.card.steps

    def rows(self, step: int) -> tuple[LedgerRow, ...]:
        """The ledger after the batches before `step`: a row per source that gave tokens, then "*" for all.

        Raises
        ------
        PlanError : a step that is negative or beyond the table.
        """
        if not 0 <= step <= self.steps:
            raise PlanError(f"no step {step:,}", why=f"this ledger covers the steps 0 to {self.steps:,}")
        counts = self.table.counts(step)
        rows = [self._row(name, counts[number]) for number, name in enumerate(self.source_names)]
        return (*(row for row in rows if row.tokens), self._row("*", counts.sum(axis=0)))

    def _row(self, source: str, counts: Any) -> LedgerRow:
        values = dict.fromkeys(COUNTS, 0) | dict(zip(self.table.card.columns, counts.tolist(), strict=True))
        parts = ("unique", "repeated_epoch", "repeated_duplicate", "seen_earlier")
        return LedgerRow(source=source, tokens=sum(values[name] for name in parts), **values)

    def tokens(self, step: int) -> int:
        """Tokens of the batches before `step`."""
        return self.table.tokens(step)

    def step_at(self, tokens: float) -> int:
        """The first step before which at least so many tokens were drawn.

        Raises
        ------
        PlanError : more tokens than the table covers.
        """
        step = self.table.step_at(int(np.ceil(tokens)))
        if step is None:
            raise PlanError(
                f"{tokens:,.0f} tokens are never reached",
                why=f"the {self.steps:,} steps of the ledger draw {self.tokens(self.steps):,}",
            )
        return step

    @property
    def first_tokens(self) -> dict[str, int]:
        """Tokens drawn before the first repeat by epoch or copy, and before the first cluster mate, where there are."""
        return self.table.card.first_tokens


def ledger(corpus: Corpus, phases: Sequence[Phase]) -> tuple[LedgerRow, ...]:
    """The ledger of a run at a step, given the runs it descends from.

    A visit of a token is its first in this run or a later one. A first visit is `unique`, or `seen_earlier` if an
    earlier phase visited the token. A later one is `repeated_epoch` if this stream has visited this record's token
    before, else `repeated_duplicate`: another record (an exact copy) or another stream brought the token first.
    Each visit counts for the source of its record. Unique tokens of a sequence after the run has visited another one
    of its 50 % (90 %) identity cluster are `mates_50` (`mates_90`) too.

    Parameters
    ----------
    phases : (config, step) of each run of the lineage, oldest first; the last is the run itself. `step` is the
        number of batches trained on.

    Returns
    -------
    rows : one per source that gave tokens, in the manifest's order, then "*" for all.

    Raises
    ------
    PlanError : no phase, or a negative step.
    CorpusError : a phase was trained on another corpus.
    """
    return open_ledger(corpus, phases).rows(phases[-1][1])


def open_ledger(corpus: Corpus, phases: Sequence[Phase]) -> Ledger:
    """The ledger of the last phase at every step up to the run's end (or its `step`, if that is later).

    Counted on first use, in one pass over the run, then read from the disk. Processes may call this at once: one
    counts, the others wait. Where the corpus folder is read-only, the table goes to the machine's temporary folder.

    Parameters
    ----------
    phases : (config, step) of each run of the lineage, oldest first, as for `ledger`.

    Raises
    ------
    PlanError : no phase, or a negative step.
    CorpusError : a phase was trained on another corpus.
    """
    if not phases or min(step for _, step in phases) < 0:
        raise PlanError("a ledger needs at least one run, and steps that are not negative")
    for config, _ in phases:
        _check_corpus(corpus, config)
    config, step = phases[-1]
    key = _key(corpus, phases)
    found = cached_table(corpus.path, key, step)
    if found is None:
        with locked_table(corpus.path, key) as folder:
            # Another process may have counted while this one waited.
            found = cached_table(corpus.path, key, step)
            if found is None:
                batches = Batches(corpus, config)
                counter = _counter(batches, phases[:-1])
                found = write_table(folder, counter, max(step, batches.n_steps), _sources(corpus, config))
    names = tuple(corpus.manifest.sources[number].name for number in found.card.sources)
    return Ledger(names, found)


def _check_corpus(corpus: Corpus, config: RunConfig) -> None:
    if config.corpus_id != corpus.corpus_id:
        raise CorpusError(
            "the run was planned for another corpus",
            where=str(corpus.path),
            why=f"run {config.run_id} wants {config.corpus_id[:12]}, this one is {corpus.corpus_id[:12]}",
            hint="point to the corpus of the plan, or plan again on this one",
        )


def _key(corpus: Corpus, phases: Sequence[Phase]) -> str:
    identity = {
        "corpus": corpus.corpus_id,
        "packer": PACKER_VERSION,
        "ledger": LEDGER_VERSION,
        "run": _order_identity(phases[-1][0]),
        "earlier": [{"objective": c.objective, "step": step, **_order_identity(c)} for c, step in phases[:-1] if step],
    }
    return sha256_text(canonical_json(identity))[:20]


def _order_identity(config: RunConfig) -> dict[str, Any]:
    """What decides the order of a run's tokens."""
    return {
        "context": config.context,
        "windows_per_batch": config.windows_per_batch,
        "seed": config.seed,
        "streams": [stream.identity() for stream in config.streams],
    }


def _counter(batches: Batches, earlier: Sequence[Phase]) -> StepCounter:
    facts = RecordFacts.of(batches.corpus)
    past = [
        Earlier.of(Schedule.of(Batches(batches.corpus, old)), old.objective, facts, step)
        for old, step in earlier
        if step
    ]
    return StepCounter(
        schedule=Schedule.of(batches),
        facts=facts,
        streams=batches.config.streams,
        context=batches.config.context,
        n_sources=len(batches.corpus.manifest.sources),
        earlier=past,
    )


def _sources(corpus: Corpus, config: RunConfig) -> tuple[int, ...]:
    """Positions of the sources that any stream draws from."""
    return tuple(sorted({number for stream in config.streams for number in corpus.source_ids(stream.sources)}))
