"""Published scores and measured floors as rows: which model, which metric, which value, and where it was read."""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from plm_scaling.core.errors import RecordError
from plm_scaling.core.records import Record

__all__ = ["Baseline", "BaselineStatus", "Metric", "find_baselines", "load_baselines", "parse_metric", "read_baselines"]

BaselineStatus = Literal["read", "measured", "unverified"]
"""read: in the named source; measured: by us, on the data the source names; unverified: recalled, never a basis."""

_TABLE: Final = Path(__file__).with_name("baselines.json")
_BENCHMARKS: Final = (
    "proteingym.subs|proteingym.dms|flip.gb1|aav28|ood|contact|structure|generation|loader.sanity|training"
)
_STATISTICS: Final = r"spearman|P@L\.LR|TM|plddt|(?:mlm_|clm_)?ppl|ce_nats|flops"
_METRIC: Final = re.compile(rf"({_BENCHMARKS})\.(?:(.+?)\.)?({_STATISTICS})(?:\.(.+))?")
_LOWER_IS_BETTER: Final = frozenset({"ppl", "mlm_ppl", "clm_ppl", "ce_nats", "flops"})
_SAME_FLOPS: Final = 0.02


class Metric(Record):
    """The parts of a metric's key."""

    benchmark: str
    """proteingym.subs, proteingym.dms, aav28, flip.gb1, contact, ood, structure, generation, ..."""
    statistic: str
    """spearman, ppl, P@L.LR, TM, ..."""
    split: str = ""
    """An assay, a category, a split; empty for the whole benchmark."""

    @property
    def higher_is_better(self) -> bool:
        """False for perplexities, losses and costs."""
        return self.statistic not in _LOWER_IS_BETTER


def parse_metric(key: str) -> Metric:
    """A metric's key in its parts: `proteingym.dms.GFP_AEQVI_Sarkisyan_2016.spearman`.

    Raises
    ------
    ValueError : no known benchmark, or no known statistic.
    """
    match = _METRIC.fullmatch(key)
    if match is None:
        raise ValueError(f"{key!r} names no known benchmark and statistic")
    benchmark, before, statistic, after = match.groups()
    return Metric(benchmark=benchmark, statistic=statistic, split=before or after or "")


class Baseline(Record):
    """One score of one model."""

    model: str
    objective: str | None = None
    """clm, mlm, glm, msa, hybrid; None for what is no such model."""
    params: float | None = Field(default=None, gt=0)
    tokens: float | None = Field(default=None, ge=0)
    flops: float | None = Field(default=None, ge=0)
    """6 N D where both are known, else as published."""
    metric: str
    value: float
    stderr: float | None = Field(default=None, ge=0)
    source: str = Field(min_length=1)
    verified: bool
    note: str | None = None
    provenance: Literal["read", "measured"]

    @model_validator(mode="after")
    def _check(self) -> Self:
        parts = parse_metric(self.metric)
        if not math.isfinite(self.value):
            raise ValueError(f"{self.model}, {self.metric}: not a finite number")
        if parts.statistic == "spearman" and abs(self.value) > 1.0:
            raise ValueError(f"{self.model}, {self.metric}: no rank correlation is {self.value}")
        if self.params and self.tokens and self.flops:
            spent = 6.0 * self.params * self.tokens
            if abs(self.flops / spent - 1.0) > _SAME_FLOPS:
                raise ValueError(f"{self.model}: {self.flops:.3g} FLOPs are not 6 N D = {spent:.3g}")
        return self

    @property
    def status(self) -> BaselineStatus:
        """Where the number comes from, and whether it was checked."""
        return self.provenance if self.verified else "unverified"

    @property
    def parts(self) -> Metric:
        """The metric's key in its parts."""
        return parse_metric(self.metric)


def read_baselines(path: Path) -> tuple[Baseline, ...]:
    """The rows of a file in the format of `baselines.json`, checked one by one and for doubles.

    Raises
    ------
    RecordError : not readable, a row that cannot be, or two rows for one model and metric.
    """
    try:
        rows = TypeAdapter(tuple[Baseline, ...]).validate_python(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        where = f"{path}: row {error.errors()[0]['loc'][0]}" if isinstance(error, ValidationError) else str(path)
        raise RecordError(f"not a table of scores: {what}", where=where) from None
    seen: set[tuple[str, str]] = set()
    for row in rows:
        if (row.model, row.metric) in seen:
            raise RecordError(f"two rows for {row.model}, {row.metric}", where=str(path), hint="keep one")
        seen.add((row.model, row.metric))
    return rows


@lru_cache(maxsize=1)
def load_baselines() -> tuple[Baseline, ...]:
    """Every row that is shipped, in the file's order."""
    return read_baselines(_TABLE)


def find_baselines(
    *,
    model: str | None = None,
    benchmark: str | None = None,
    metric: str | None = None,
    split: str | None = None,
    unverified: bool = True,
) -> tuple[Baseline, ...]:
    """The shipped rows of a model, benchmark, metric key or split; all that is None is free.

    Parameters
    ----------
    unverified : keep rows nobody has checked; they say so themselves (`status`).
    """
    return tuple(
        row
        for row in load_baselines()
        if (model is None or row.model == model)
        and (metric is None or row.metric == metric)
        and (benchmark is None or row.parts.benchmark == benchmark)
        and (split is None or row.parts.split == split)
        and (unverified or row.verified)
    )
