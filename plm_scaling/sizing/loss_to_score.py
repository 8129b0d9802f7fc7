"""What a nat of loss is worth downstream, where published numbers show it; elsewhere refused."""

from __future__ import annotations

import math

import numpy as np

from plm_scaling.core.errors import RefusedError
from plm_scaling.evals.baselines import find_baselines
from plm_scaling.evals.scored_models import load_scored_models
from plm_scaling.laws.lines import fitted_line, slopes_of
from plm_scaling.sizing.assay_groups import find_group, group_scores
from plm_scaling.sizing.downstream_records import LossMap

__all__ = ["loss_map"]


def loss_map(group: str, objective: str, *, loss_metric: str = "ood.ppl.id<0.5") -> LossMap:
    """Score gained per nat of lower loss, over public models of one objective scored on one evaluation set.

    Raises
    ------
    ConfigError : no such group.
    RefusedError : fewer than four models have both; the slope may be 0; or a family shows the opposite.
    """
    scored = group_scores(find_group(group), draws=1)
    loss = {row.model: math.log(row.value) for row in find_baselines(metric=loss_metric, unverified=False)}
    families = [f for f in load_scored_models().family if f.objective == objective and not f.suspect]
    named = {
        family.name: [m.name for m in family.models if m.name in loss and m.name in scored.values]
        for family in families
    }
    models = [name for names in named.values() for name in names]
    what = f"no map from loss to {group} for {objective.upper()} models"
    hint = "compare actions within one objective by loss, or measure scores of your own models"
    if len(models) < 4:
        raise RefusedError(what, why=f"{len(models)} models have a published loss and a score; 4 are needed", hint=hint)
    sign = 1.0 if scored.higher_is_better else -1.0
    gain = np.array([-loss[name] for name in models])
    score = sign * np.array([scored.values[name] for name in models])
    slope, (low, high) = fitted_line(gain, score)
    assert low is not None
    assert high is not None
    if low <= 0 <= high:
        why = (
            f"the slope is {slope:+.2f} per nat, 95 % {low:+.2f} to {high:+.2f} over {len(models)} models: it may be 0"
        )
        raise RefusedError(what, why=why, hint=hint)
    for family, names in named.items():
        own = np.array([[-loss[name], sign * scored.values[name]] for name in names])
        if len(names) > 1 and float(slopes_of(own[:, 0], own[:, 1:])[0]) * slope <= 0:
            raise RefusedError(what, why=f"within {family} the score moves the other way", hint=hint)
    return LossMap(
        group=group,
        objective=objective,
        loss_metric=loss_metric,
        models=tuple(models),
        slope=slope,
        low=low,
        high=high,
        range_loss=(float(-gain.max()), float(-gain.min())),
    )
