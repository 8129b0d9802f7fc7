"""The diversity experiment: the same runs judged on the whole validation set and on each source's sequences alone.

A second source does two things at once: it replaces repeats, and it moves the training mix towards the validation
mix. Only the sequences of a single source tell the two apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plm_scaling.core.run import Objective, Stream
from plm_scaling.core.units import format_count
from plm_scaling.reporting.arms import Arm, make_arm, rows_alike, split_rows, streams_of
from plm_scaling.reporting.study import SET_PART, Study, on_set, source_set
from plm_scaling.reporting.wording import percent

__all__ = ["DiversityGroup", "DiversityView", "diversity_groups", "diversity_sources", "diversity_views"]


@dataclass(frozen=True)
class DiversityGroup:
    """One objective, N and D; the arms differ in where the tokens come from."""

    objective: Objective
    N: float
    D: float
    reference: Arm
    """The first source alone, repeated."""
    arms: tuple[Arm, ...]
    sources: tuple[str, ...]
    """Names of the sources drawn from, that of the reference first."""


@dataclass(frozen=True)
class DiversityView:
    """A group judged on the page's whole validation set, and on the sequences of each of its sources."""

    pooled: DiversityGroup
    parts: tuple[tuple[str, DiversityGroup], ...]
    """(source, the same arms on its sequences); empty where the runs were not scored by source."""
    mix: tuple[tuple[str, float], ...]
    """(source, its share of the scored targets of the whole set)."""

    def on_source(self, source: str, arm: Arm) -> Arm | None:
        """The same runs on the sequences of one source."""
        group = dict(self.parts).get(source)
        return next((twin for twin in group.arms if twin.label == arm.label), None) if group else None


def diversity_groups(study: Study) -> tuple[DiversityGroup, ...]:
    """The diversity arms on the page's set. The reference is the run on a limited range of one source."""
    rows = [row for row in study.table if row.has_role("diversity")]
    found = []
    for group in rows_alike(rows):
        labelled = split_rows(group, lambda row: _mixture_label(streams_of(study, row)))
        reference = next((m for m in labelled if _one_limited_source(streams_of(study, m[0]))), None)
        if reference is None or len(labelled) < 2:
            continue
        base = make_arm(study, reference, _mixture_label(streams_of(study, reference[0])), None)
        others = [
            make_arm(study, m, _mixture_label(streams_of(study, m[0])), base) for m in labelled if m is not reference
        ]
        others.sort(key=lambda arm: -len(streams_of(study, arm.rows[0])))
        first = group[0]
        sources = _sources(study, (base, *others))
        found.append(DiversityGroup(first.objective, first.N, first.D, base, tuple(others), sources))
    return tuple(found)


def diversity_sources(study: Study) -> tuple[str, ...]:
    """Names of all sources that the diversity arms compare."""
    return tuple(dict.fromkeys(source for group in diversity_groups(study) for source in group.sources))


def diversity_views(study: Study) -> tuple[DiversityView, ...]:
    """Every diversity group with its per-source twins."""
    sets = {source: source_set(study, source) for source in diversity_sources(study)}
    seen = {source: diversity_groups(on_set(study, name)) for source, name in sets.items() if name}
    views = []
    for group in diversity_groups(study):
        run_id = group.reference.rows[0].run_id
        parts = [
            (source, twin)
            for source in group.sources
            for twin in seen.get(source, ())
            if any(row.run_id == run_id for row in twin.reference.rows)
        ]
        views.append(DiversityView(group, tuple(parts), _mix(study, run_id)))
    return tuple(views)


def _sources(study: Study, arms: Sequence[Arm]) -> tuple[str, ...]:
    names = (name for arm in arms for stream in streams_of(study, arm.rows[0]) for name in stream.sources)
    return tuple(dict.fromkeys(names))


def _mix(study: Study, run_id: str) -> tuple[tuple[str, float], ...]:
    """Shares of the sources among the targets of the page's set, as one run's record tells them."""
    if alone := study.only_source:
        return ((alone, 1.0),)
    record = study.records.get(run_id)
    targets = {loss.set_name: loss.n_targets for loss in record.validation} if record else {}
    whole, prefix = targets.get(study.validation, 0), f"{study.validation}{SET_PART}"
    parts = {name.removeprefix(prefix): count for name, count in targets.items() if name.startswith(prefix)}
    return tuple((source, count / whole) for source, count in parts.items()) if whole else ()


def _one_limited_source(streams: Sequence[Stream]) -> bool:
    return len(streams) == 1 and streams[0].unique_tokens is not None


def _mixture_label(streams: Sequence[Stream]) -> str:
    if not streams:
        return "unknown mixture"
    if len(streams) == 1:
        return f"{_pool_label(streams[0])} alone"
    total = sum(stream.weight for stream in streams)
    return " + ".join(f"{percent(stream.weight / total)} {_pool_label(stream)}" for stream in streams)


def _pool_label(stream: Stream) -> str:
    name = "/".join(stream.sources) or "all sources"
    return f"{name} ({format_count(stream.unique_tokens)} unique)" if stream.unique_tokens else name
