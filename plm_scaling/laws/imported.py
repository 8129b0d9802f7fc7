"""`Imported`: runs brought in from somebody's logs, with every defect that was found on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from plm_scaling.core.records import Record
from plm_scaling.core.run_table import RunTable
from plm_scaling.laws.curves import Curves
from plm_scaling.laws.denoise import NoiseReport

__all__ = ["FINDINGS", "Finding", "ImportReport", "Imported", "finding_rows"]

FINDINGS: Final[dict[str, tuple[str, str]]] = {
    "DUPLICATE": ("the same bytes filed more than once", "read once; every place it lies in adds its role"),
    "OTHER_AXIS": ("a run exported again over tokens, samples or as perplexity", "used to check D, then merged"),
    "D_DISAGREES": ("two exports of one run differ in D by more than 1e-6", "the export over tokens is believed"),
    "WRONG_AXIS_N": ("the FLOP axis was computed with another size's N", "N from the folder, C = 6 N D recomputed"),
    "MISLABELLED": ("filed under a size that the FLOP axis contradicts", "row kept at the axis' N, left out of fits"),
    "TRUNCATED_SCHEDULE": ("ended before 95 % of its budget or label", "schedule_complete = false: left out of fits"),
    "STUCK": ("the loss never left the plateau of residue frequencies", "row kept, left out of fits"),
    "LABEL_OFF": ("the epochs in the name fit neither the tokens nor the budget", "D from the axis; label ignored"),
    "BUDGET_OFF": ("compute more than 3 % from the budget in the name", "row kept with its true C"),
    "TRAINING_LOSS": ("training loss, not validation", "not read"),
    "STRAY_POINTS": ("points of another start, off the grid of evaluations", "dropped"),
    "CAPPED": (
        "evaluations missing: exports are cut to 1,000 points",
        "D from the axis, never from the number of points",
    ),
    "NICKNAME": ("a name that states another size than the one trained", "N from the axis or the published sizes"),
    "UNKNOWN_SIZE": ("no published size near the axis' or the name's N", "N of the axis; without one, not read"),
    "UNREADABLE": ("no table of Wall time, Step, Value, or a name without objective or axis", "not read"),
    "NOT_FINITE": ("values that are no positive numbers", "dropped"),
    "NO_NUMBERS": ("a run without a loss, or without two of N, D and C", "not read"),
    "UNFINISHED": ("a run that its logger calls crashed, killed or running", "schedule_complete = false"),
}
"""What a kind of finding means, and what was done about it."""


class Finding(Record):
    """One defect: its kind (a key of `FINDINGS`), what was seen, and the files that show it."""

    kind: str
    what: str
    files: tuple[str, ...] = ()
    run_ids: tuple[str, ...] = ()


class ImportReport(Record):
    """Where a table came from and what was wrong with it; `NAME.import.json` beside the table."""

    importer: str
    source: str
    """File or folder, as given."""
    table_hash: str
    """Content hash of the run table."""
    counts: dict[str, int]
    findings: tuple[Finding, ...]
    noise: NoiseReport | None = None
    """None where the source holds no curves."""
    ignored_columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Imported:
    """Clean runs, their curves, what was wrong, and how many files and runs there were of each sort."""

    table: RunTable
    curves: Curves
    findings: tuple[Finding, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    noise: NoiseReport | None = None
    """What removing shared noise did, once that was asked for."""

    def of_kind(self, kind: str) -> tuple[Finding, ...]:
        """The findings of one kind."""
        return tuple(finding for finding in self.findings if finding.kind == kind)

    def report(self, importer: str, source: str) -> ImportReport:
        """All but the runs and curves themselves, for a file."""
        return ImportReport(
            importer=importer,
            source=source,
            table_hash=self.table.content_hash(),
            counts=self.counts,
            findings=self.findings,
            noise=self.noise,
            ignored_columns=self.table.ignored,
        )


def finding_rows(findings: Iterable[Finding]) -> list[dict[str, str | int]]:
    """Kind, count, meaning and treatment of the findings, in the order of `FINDINGS`."""
    counts = Counter(finding.kind for finding in findings)
    return [
        {"finding": kind, "count": counts[kind], "what it means": meaning, "what was done": done}
        for kind, (meaning, done) in FINDINGS.items()
        if counts[kind]
    ]
