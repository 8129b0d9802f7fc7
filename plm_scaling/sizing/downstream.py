"""Does size help downstream? Published scores of public models against parameters, with the answer 'not detectably'.

Two uncertainties are kept apart: other proteins (assays drawn anew, protein by protein, for all models alike), and
other models (the scatter of few models about a line, and of few families about their mean).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from plm_scaling.evals.baselines import find_baselines
from plm_scaling.evals.scored_models import ModelFamily, load_scored_models
from plm_scaling.laws.lines import slopes_of
from plm_scaling.sizing.assay_groups import GROUPS, Group, GroupScores, find_group, group_scores
from plm_scaling.sizing.downstream_records import DownstreamView, Floor, Score, SizeEffect, SizeTrend
from plm_scaling.sizing.loss_to_score import loss_map
from plm_scaling.sizing.size_trends import quantiles_of, size_effect, size_trend
from plm_scaling.sizing.trained_models import TrainedModel, all_trained_models

__all__ = ["GROUPS", "LARGE", "downstream_view", "loss_map"]

LARGE: Final = 5e8
"""Parameters from which on a model is large: there another factor of size costs thousands of dollars."""
_DRAWS: Final = 2000
_LEAST_SPAN: Final = 2.0
"""Families whose sizes span less say little about size: their slope is mostly noise."""


def downstream_view(group: str, *, above: float = LARGE, draws: int = _DRAWS, seed: int = 0) -> DownstreamView:
    """What public models score on a group of assays against their size, floors, and whether size helps.

    Parameters
    ----------
    group : a key of `GROUPS`: fitness, virus, capsid, activity, ..., contacts.
    above : parameters from which on models count as large.
    draws : sets of proteins drawn anew.

    Raises
    ------
    ConfigError : no such group.

    **Source:** scores per assay of ProteinGym (Notin et al. 2023); every other number with its own in `evals`.
    """
    chosen = find_group(group)
    scored = group_scores(chosen, draws=draws, seed=seed)
    listed = load_scored_models()
    families = [family for family in (_with_scores(f, scored) for f in listed.family) if family is not None]
    trends = tuple(_trend_of(family, scored) for family in families)
    overall, large = (_effect(families, scored, least) for least in (0.0, above))
    scores = tuple(score for family in families for score in _scores_of(family, scored))
    floors = _floors_of(chosen, scored)
    best = _best([s for s in scores if not s.suspect], scored.higher_is_better)
    beside = next((floor for floor in floors if not floor.split), None)
    gap, gap_low, gap_high = _gap(scored, best.model, beside)
    flags, warnings = _findings(chosen, scored, families, scores)
    return DownstreamView(
        group=group,
        title=chosen.title,
        metric=chosen.name if chosen.kind == "metric" else "Spearman, zero-shot",
        higher_is_better=scored.higher_is_better,
        n_assays=scored.n_assays,
        n_proteins=scored.n_proteins,
        scores=scores,
        floors=floors,
        trends=trends,
        overall=overall,
        large=large,
        best_model=best.model,
        best_floor=beside.name if beside else "",
        floor_gap=gap,
        floor_gap_low=gap_low,
        floor_gap_high=gap_high,
        answer=_answer(chosen, overall, large, best, beside, gap_low, gap_high),
        flags=flags,
        warnings=warnings,
    )


# ---- scores --------------------------------------------------------------------------------------------------------


def _with_scores(family: ModelFamily, scored: GroupScores) -> ModelFamily | None:
    """The family's models that have a score; None if fewer than two do."""
    models = tuple(model for model in family.models if model.name in scored.values)
    return family.model_copy(update={"models": models}) if len(models) > 1 else None


def _scores_of(family: ModelFamily, scored: GroupScores) -> list[Score]:
    made = []
    for model in family.models:
        low, high = scored.interval(model.name)
        trained = _training_of(model.name)
        made.append(
            Score(
                model=model.name,
                family=family.name,
                label=model.label,
                objective=family.objective,
                N=model.params,
                D=trained.D if trained else None,
                C=6.0 * trained.N * trained.D if trained and trained.D else None,
                value=scored.values[model.name],
                low=low,
                high=high,
                status="read",
                tokens_status=trained.status if trained else "unknown",
                source=scored.source,
                suspect=bool(family.suspect),
            )
        )
    return made


def _training_of(model: str) -> TrainedModel | None:
    return next((known for known in all_trained_models() if model in (known.name, *known.also)), None)


def _floors_of(group: Group, scored: GroupScores) -> tuple[Floor, ...]:
    """Floors with a score on the same assays, best first; for the capsid also those trained on labels of its splits."""
    found = []
    for floor in load_scored_models().floor:
        if floor.name in scored.values:
            low, high = scored.interval(floor.name)
            found.append(
                Floor(
                    name=floor.label,
                    kind=floor.kind,
                    value=scored.values[floor.name],
                    low=low,
                    high=high,
                    source=scored.source,
                )
            )
    found.sort(key=lambda floor: floor.value, reverse=scored.higher_is_better)
    if group.key == "capsid":
        found += [
            Floor(name=row.model, kind="supervised", value=row.value, split=row.parts.split, source=row.source)
            for row in find_baselines(benchmark="aav28")
        ]
    return tuple(found)


def _best(scores: Sequence[Score], higher: bool) -> Score:
    return max(scores, key=lambda score: score.value if higher else -score.value)


def _gap(scored: GroupScores, model: str, floor: Floor | None) -> tuple[float | None, float | None, float | None]:
    if floor is None:
        return None, None, None
    name = next(known.name for known in load_scored_models().floor if known.label == floor.name)
    drawn = scored.draws[model] - scored.draws[name] if scored.draws else None
    return scored.values[model] - floor.value, *quantiles_of(drawn)


# ---- does size help ------------------------------------------------------------------------------------------------


def _trend_of(family: ModelFamily, scored: GroupScores) -> SizeTrend:
    sign = 1.0 if scored.higher_is_better else -1.0
    values = np.array([scored.values[model.name] for model in family.models])
    drawn = np.array([scored.draws[m.name] for m in family.models]) if scored.draws else None
    found = size_trend(
        family.name,
        [model.name for model in family.models],
        np.array([model.params for model in family.models]),
        sign * values,
        None if drawn is None else sign * drawn,
    )
    return found.model_copy(update={"suspect": family.suspect})


def _effect(families: Sequence[ModelFamily], scored: GroupScores, above: float) -> SizeEffect:
    """The mean slope of the families whose scores are trusted, over their models of at least `above` parameters."""
    sign = 1.0 if scored.higher_is_better else -1.0
    names, slopes, drawn = [], [], []
    for family in families:
        models = [model for model in family.models if model.params >= above]
        x = np.log10([model.params for model in models])
        if family.suspect or len(models) < 2 or models[-1].params < _LEAST_SPAN * models[0].params:
            continue
        names.append(family.name)
        slopes.append(float(slopes_of(x, sign * np.array([[scored.values[model.name]] for model in models]))[0]))
        if scored.draws:
            drawn.append(slopes_of(x, sign * np.array([scored.draws[model.name] for model in models])))
    return size_effect(names, slopes, np.array(drawn) if drawn else None, above=above)


# ---- what is said --------------------------------------------------------------------------------------------------


def _answer(
    group: Group,
    overall: SizeEffect,
    large: SizeEffect,
    best: Score,
    floor: Floor | None,
    gap_low: float | None,
    gap_high: float | None,
) -> str:
    """One sentence: size, size where it is expensive, and the floor."""
    parts = [f"{group.title}: {_effect_words(overall)}"]
    if overall.verdict != "too few families":
        parts.append(f"from {large.above / 1e6:,.0f}M parameters on {_effect_words(large)}")
    if floor is not None:
        beats = "is ahead of" if best.value > floor.value else "is behind"
        sure = gap_low is not None and gap_high is not None and gap_low * gap_high > 0
        doubt = "" if sure else ", on one protein" if gap_low is None else ", not beyond doubt"
        parts.append(
            f"the best single-sequence model ({best.family} {best.label}, {best.value:.2f}) {beats} "
            f"{floor.name} ({floor.kind}, {floor.value:.2f}){doubt}"
        )
    return "; ".join(parts) + "."


def _effect_words(effect: SizeEffect) -> str:
    if effect.verdict == "too few families" or effect.slope is None or effect.low is None or effect.high is None:
        return "too few families to say whether size helps"
    counted = f"{effect.rising} of {len(effect.families)} families rise"
    return f"{effect.verdict} ({effect.slope:+.3f} per tenfold N, {effect.low:+.3f} to {effect.high:+.3f}; {counted})"


def _findings(
    group: Group, scored: GroupScores, families: Sequence[ModelFamily], scores: Sequence[Score]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    found = [(f"SUSPECT:{f.name}", f"{f.name}: {f.suspect}; it does not count.") for f in families if f.suspect]
    found += [("CAVEAT", f"{f.name}: {f.caveat}.") for f in families if f.caveat]
    if scored.n_proteins == 1:
        found.append(
            ("ONE_PROTEIN", f"{group.title}: one assay of one protein, so other proteins cannot be judged from it.")
        )
    if not scored.draws and not scored.n_assays:
        found.append(("NO_ASSAYS", "no scores per protein are published: intervals come from the few models alone."))
    if scored.draws and scored.n_proteins < 15:
        found.append(("FEW_PROTEINS", f"{scored.n_proteins} proteins: intervals over proteins are rough."))
    if any(score.tokens_status == "unverified" for score in scores):
        named = ", ".join(score.model for score in scores if score.tokens_status == "unverified")
        found.append(("TOKENS_UNVERIFIED", f"training tokens recalled, not checked: {named}."))
    found.append(
        (
            "SIZE_AND_RECIPE",
            "within a family larger models also saw other batches, tokens or corpora: size is not alone.",
        )
    )
    flags, warnings = zip(*found, strict=True)
    return tuple(dict.fromkeys(flags)), tuple(warnings)
