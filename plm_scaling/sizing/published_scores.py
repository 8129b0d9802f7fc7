"""Published scores as what an action that trains nothing is worth."""

from __future__ import annotations

import math
from pathlib import Path

from plm_scaling.core.errors import ConfigError
from plm_scaling.sizing.action import PublicScore
from plm_scaling.sizing.assay_groups import GROUPS
from plm_scaling.sizing.downstream import downstream_view
from plm_scaling.sizing.metric_map import metric_rows
from plm_scaling.sizing.null_actions import ALIGNED
from plm_scaling.sizing.trained_models import all_trained_models

__all__ = ["measured_scores", "published_scores"]


def published_scores(metric: str) -> tuple[tuple[PublicScore, ...], bool]:
    """Scores of public models by sizing's names, the best alignment method as `alignment`; whether higher is better.

    Empty for a metric of no published group (embedding, generation, one's own): nothing is put in its place. Scores of
    suspect families are left out.

    **Source:** `plm_scaling.sizing.downstream`, every score with its own.
    """
    if metric not in GROUPS:
        return (), True
    view = downstream_view(metric)
    names = _names()
    made = [
        PublicScore(
            name=names.get(score.model.lower(), score.model.lower()),
            value=score.value,
            low=score.low,
            high=score.high,
            status=score.status,
            source=score.source,
        )
        for score in view.scores
        if not score.suspect
    ]
    floors = [floor for floor in view.floors if floor.kind in ALIGNED and not floor.split]
    if floors:
        best = floors[0]
        made.append(
            PublicScore(
                name="alignment",
                value=best.value,
                low=best.low,
                high=best.high,
                status="read",
                source=f"{best.name}: {best.source}" if best.source else best.name,
            )
        )
    return tuple(made), view.higher_is_better


def measured_scores(path: Path) -> tuple[PublicScore, ...]:
    """Public models that were measured beside one's own: rows of a metric table with a model and no loss.

    Such a score ranks the model as it is. To continue its training takes its loss on the validation set of the laws.

    Raises
    ------
    ConfigError : see `metric_map.read_metric_table`.
    """
    names, found = _names(), []
    for row, where in metric_rows(path):
        if row.get("loss") or not row.get("model"):
            continue
        value = _number(row["metric"], where)
        ends = [_number(row[end], where) if row.get(end) else None for end in ("low", "high")]
        name = names.get(row["model"].lower(), row["model"].lower())
        found.append(
            PublicScore(name=name, value=value, low=ends[0], high=ends[1], status="measured", source=path.name)
        )
    return tuple(found)


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError("a measured score and its interval are finite numbers", where=where, why=f"got {text!r}")
    return value


def _names() -> dict[str, str]:
    """Sizing's name of every public model by all that it goes by."""
    return {other.lower(): model.name for model in all_trained_models() for other in (model.name, *model.also)}
