"""`DownstreamView`: what public models score against their size, and whether size helps. As values."""

from __future__ import annotations

from typing import Literal

from plm_scaling.core.records import Record

__all__ = ["DownstreamView", "Floor", "LossMap", "Score", "SizeEffect", "SizeTrend", "TrendVerdict"]

TrendVerdict = Literal[
    "rises", "rises, then levels off", "rises, then falls", "falls", "no detectable gain", "one size"
]
EffectVerdict = Literal["gain from size", "no detectable gain from size", "loss from size", "too few families"]


class Score(Record):
    """What one model scores."""

    model: str
    family: str
    label: str
    objective: str
    N: float
    """All parameters."""
    D: float | None = None
    C: float | None = None
    """Training tokens and 6 N D FLOPs, where a source states them."""
    value: float
    low: float | None = None
    high: float | None = None
    """95 % over proteins drawn anew; None where no scores per protein are published, or there is one protein."""
    status: str
    """Of the score: read, measured or unverified."""
    tokens_status: str = "unknown"
    """Of D: read, unverified or unknown."""
    source: str
    suspect: bool = False
    """Its family's scores may not be those of the models: it does not count."""


class Floor(Record):
    """A method that needs no large model, or control, on the same assays unless `split` says otherwise."""

    name: str
    kind: str
    """site-independent, alignment, retrieval, structure and alignment; supervised: trained on labels of a split."""
    value: float
    low: float | None = None
    high: float | None = None
    split: str = ""
    source: str = ""


class SizeTrend(Record):
    """One family's score against log10 N. Better is up: where lower scores are better, slopes have the other sign."""

    family: str
    models: tuple[str, ...]
    """Smallest first."""
    slope: float | None
    """Score per tenfold N, least squares; None for one size."""
    low: float | None = None
    high: float | None = None
    """95 % over proteins drawn anew, the models as they are."""
    points_low: float | None = None
    points_high: float | None = None
    """95 % from the scatter of the few models about the line (t, n - 2), for another model of the family."""
    kendall_tau: float | None = None
    p_rising: float | None = None
    """Share of orders of these models that rise as clearly with N: exact, one-sided."""
    peak: str = ""
    """The model that scores best."""
    peak_share: float | None = None
    """How often it does so over the proteins drawn anew."""
    beyond_peak: float | None = None
    beyond_peak_low: float | None = None
    beyond_peak_high: float | None = None
    """The largest model's score minus the best one's, with 95 % over proteins; None if the largest is best."""
    verdict: TrendVerdict
    suspect: str = ""


class SizeEffect(Record):
    """The families together: would another family gain from size?"""

    above: float
    """Of the models of at least so many parameters; 0 for all."""
    slope: float | None
    """Mean over families of the score gained per tenfold N; families count alike, if their sizes span a factor of 2."""
    low: float | None = None
    high: float | None = None
    """95 % from the spread of the families (t, families - 1), and over proteins drawn anew, whichever is wider."""
    families: tuple[str, ...]
    rising: int
    """Families whose slope is above 0."""
    verdict: EffectVerdict


class DownstreamView(Record):
    """Published scores of a group of assays against size, floors beside them, and the answer to 'does size help?'"""

    group: str
    title: str
    metric: str
    higher_is_better: bool
    n_assays: int
    n_proteins: int
    """0 where no scores per assay are published."""
    scores: tuple[Score, ...]
    floors: tuple[Floor, ...]
    """Best first."""
    trends: tuple[SizeTrend, ...]
    overall: SizeEffect
    large: SizeEffect
    """Of the large models alone: what more parameters bring where they are expensive."""
    best_model: str
    best_floor: str = ""
    floor_gap: float | None = None
    floor_gap_low: float | None = None
    floor_gap_high: float | None = None
    """Best model minus best floor, above 0 if the model is better, with 95 % over proteins."""
    answer: str
    """One sentence."""
    flags: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def near(self, N: float, *, factor: float = 3.0) -> tuple[Score, ...]:
        """Scores of public models within a factor of N parameters: what a model of this size may reach."""
        return tuple(s for s in self.scores if not s.suspect and N / factor <= s.N <= N * factor)


class LossMap(Record):
    """Score against loss over public models of one objective and one evaluation set."""

    group: str
    objective: str
    loss_metric: str
    models: tuple[str, ...]
    slope: float
    """Score gained per nat of lower loss."""
    low: float
    high: float
    """95 % from the scatter of the models."""
    range_loss: tuple[float, float]
    """Nats; outside nothing is said."""
