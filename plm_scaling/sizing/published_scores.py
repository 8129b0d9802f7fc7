"""Published scores as what an action that trains nothing is worth."""

from __future__ import annotations

from plm_scaling.sizing.action import PublicScore
from plm_scaling.sizing.assay_groups import GROUPS
from plm_scaling.sizing.downstream import downstream_view
from plm_scaling.sizing.null_actions import ALIGNED
from plm_scaling.sizing.trained_models import all_trained_models

__all__ = ["published_scores"]


def published_scores(metric: str) -> tuple[tuple[PublicScore, ...], bool]:
    """Scores of public models by sizing's names, the best alignment method as `alignment`; whether higher is better.

    Empty for a metric of no published group (embedding, generation, one's own): nothing is put in its place. Scores of
    suspect families are left out.

    **Source:** `plm_scaling.sizing.downstream`, every score with its own.
    """
    if metric not in GROUPS:
        return (), True
    view = downstream_view(metric)
    names = {other.lower(): model.name for model in all_trained_models() for other in (model.name, *model.also)}
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
