"""The report's section on the corpus: what it is made of, and how near its held-out sequences are to training."""

from __future__ import annotations

from plm_scaling.corpus.statistics import VIRAL_CHOICE, CorpusStatistics
from plm_scaling.reporting.corpus_figures import corpus_panels
from plm_scaling.reporting.figures import Section
from plm_scaling.reporting.study import Study
from plm_scaling.reporting.tables import Table
from plm_scaling.reporting.wording import percent

__all__ = ["corpus_sections"]


def corpus_sections(study: Study) -> tuple[Section, ...]:
    """The section, where the corpus is at hand."""
    found = study.statistics
    if found is None:
        return ()
    tables = (_tabulate_composition(found), _tabulate_leakage(found))
    return (
        Section(
            key="corpus",
            short="Corpus",
            title="What the corpus is made of",
            reading=_reading(found),
            panels=corpus_panels(found),
            tables=tuple(table for table in tables if table),
        ),
    )


def _reading(found: CorpusStatistics) -> str:
    total = found.total
    text = (
        f"{total.unique_sequences:,} different sequences of {total.sequences:,}. A sequence is unique where it occurs "
        "first, in the order of the sources; copies add no tokens to learn from."
    )
    if total.entropy_per_residue is not None:
        text += (
            f" Knowing only how often each residue occurs, a model loses {total.entropy_per_residue:.4f} nats per "
            f"residue (MLM: {total.mlm_plateau:.4f} per target): the plateau L0 of a bounded law."
        )
    if found.overlap50:
        text += " The map counts a sequence as shared where the other source has one in its 50 % cluster."
    if found.has_flags and total.train.tokens:
        text += f" {percent(total.viral.tokens / total.train.tokens)} of the training tokens are viral. {VIRAL_CHOICE}"
    return " ".join((text, *found.notes))


def _tabulate_composition(found: CorpusStatistics) -> Table:
    """Lengths and plateaus of each source."""
    rows = []
    for source in (*found.sources, found.total) if len(found.sources) > 1 else found.sources:
        lengths = source.lengths
        nats = (source.entropy_per_residue, source.entropy_per_token, source.mlm_plateau)
        rows.append(
            (
                source.name,
                f"{source.sequences:,}",
                f"{source.different_sequences:,}",
                "\u2013" if source.effective_sequences is None else f"{source.effective_sequences:,.0f}",
                *(("\u2013",) * 3 if lengths is None else (f"{lengths.quantiles[i]:,}" for i in (1, 3, 5))),
                *("\u2013" if value is None else f"{value:.4f}" for value in nats),
            )
        )
    header = (
        "Source",
        "Sequences",
        "Different",
        "Effective (50 %)",
        *("Length, 5 %", "median", "95 %"),
        *("Nats per residue", "per token", "MLM target"),
    )
    return Table("Lengths, and the loss of residue frequencies alone", header, tuple(rows))


def _tabulate_leakage(found: CorpusStatistics) -> Table | None:
    """Held-out splits: how many sequences have a training sequence at 50 % identity, before and after."""
    if not found.leakage:
        return None
    rows = [
        (
            leak.split,
            f"{leak.sequences:,}",
            percent(leak.hits_before / max(1, leak.sequences)),
            f"{leak.dropped.sequences:,}",
            percent(leak.hits_after / max(1, sum(leak.bins))),
        )
        for leak in found.leakage
    ]
    header = ("Split", "Searched", "Near training", "Dropped", "Still near")
    return Table("Sequences with a training sequence at 50 % identity or more", header, tuple(rows))
