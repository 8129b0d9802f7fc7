"""Does size help downstream? Published scores of public models against parameters, with the answer 'not detectably'.

Two uncertainties are kept apart: other proteins (assays drawn anew, protein by protein, for all models alike), and
other models (the scatter of few models about a line, and of few families about their mean).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from plm_scaling.core.errors import ConfigError, RefusedError, did_you_mean
from plm_scaling.evals.assays import ASSAY_SOURCE, group_weights, load_assay_scores, resampled_weights
from plm_scaling.evals.baselines import find_baselines
from plm_scaling.evals.scored_models import ModelFamily, load_scored_models
from plm_scaling.sizing.downstream_records import (
    DownstreamView,
    Floor,
    LossMap,
    Score,
    SizeEffect,
    SizeTrend,
    TrendVerdict,
)
from plm_scaling.sizing.trained_models import TrainedModel, all_trained_models

__all__ = ["GROUPS", "LARGE", "Group", "downstream_view", "loss_map", "size_effect", "size_trend"]

FloatArray = npt.NDArray[np.float64]

LARGE: Final = 5e8
"""Parameters from which on a model is large: there another factor of size costs thousands of dollars."""
_DRAWS: Final = 2000
_LEVEL: Final = 0.95
_LEAST_SPAN: Final = 2.0
"""Families whose sizes span less say little about size: their slope is mostly noise."""
_ONE_PEAK: Final = 0.75
"""Least share of pairs of models in keeping with one peak, for scores that rise and fall to be called so."""
_CAPSID: Final = "CAPSD_AAV2S_Sinai_2021"


@dataclass(frozen=True)
class Group:
    """A set of assays, or a metric published as one number per model."""

    key: str
    title: str
    kind: Literal["all", "taxon", "depth", "function", "assay", "metric"]
    name: str = ""
    """Of the taxon, depth, function, assay, or the metric's key."""


_LISTED: Final = (
    Group("fitness", "Fitness of substitutions, all assays", "all"),
    Group("virus", "Viral proteins", "taxon", "Virus"),
    Group("capsid", "AAV2 capsid, residues 561-588", "assay", _CAPSID),
    Group("human", "Human proteins", "taxon", "Human"),
    Group("eukaryote", "Eukaryotic proteins, human ones left out", "taxon", "Eukaryote"),
    Group("prokaryote", "Prokaryotic proteins", "taxon", "Prokaryote"),
    Group("activity", "Enzyme and other activity", "function", "Activity"),
    Group("binding", "Binding", "function", "Binding"),
    Group("expression", "Expression", "function", "Expression"),
    Group("organismal", "Fitness of the organism", "function", "OrganismalFitness"),
    Group("stability", "Stability", "function", "Stability"),
    Group("shallow", "Proteins with a shallow alignment", "depth", "Low"),
    Group("medium", "Proteins with a medium alignment", "depth", "Medium"),
    Group("deep", "Proteins with a deep alignment", "depth", "High"),
    Group("contacts", "Long-range contacts, precision of the top L", "metric", "contact.large_valid.P@L.LR"),
    Group("far-proteins", "Perplexity of proteins below 50 % identity", "metric", "ood.ppl.id<0.5"),
)
GROUPS: Final = {group.key: group for group in _LISTED}
"""The groups by key."""


@dataclass(frozen=True)
class _Scored:
    """Means of a group: of every model with a score, and over proteins drawn anew where there are several."""

    values: dict[str, float]
    draws: dict[str, FloatArray]
    """float64[B] each; empty where proteins cannot be drawn."""
    higher_is_better: bool
    n_assays: int
    n_proteins: int
    source: str

    def interval(self, model: str) -> tuple[float | None, float | None]:
        """95 % over proteins."""
        return _quantiles(self.draws.get(model))


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
    if group not in GROUPS:
        raise ConfigError(f"no group of assays is called {group!r}", hint=did_you_mean(group, GROUPS))
    chosen = GROUPS[group]
    scored = _read_group(chosen, draws, seed)
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


def _read_group(group: Group, draws: int, seed: int) -> _Scored:
    if group.kind == "metric":
        rows = [row for row in find_baselines(metric=group.name, unverified=False)]
        return _Scored({row.model: row.value for row in rows}, {}, rows[0].parts.higher_is_better, 0, 0, rows[0].source)
    table = load_assay_scores()
    wanted = {} if group.kind == "all" else {group.kind: group.name}
    chosen = table.where(**wanted)
    by_function = group.kind == "all"
    means = table.scores_MA @ group_weights(table, chosen, by_function=by_function)
    n_proteins = len({p for p, use in zip(table.proteins, chosen, strict=True) if use})
    resampled: dict[str, FloatArray] = {}
    if n_proteins > 1:
        drawn = resampled_weights(table, chosen, by_function=by_function, draws=draws, seed=seed) @ table.scores_MA.T
        resampled = dict(zip(table.models, drawn.T, strict=True))
    values = {model: float(mean) for model, mean in zip(table.models, means, strict=True)}
    return _Scored(values, resampled, True, int(chosen.sum()), n_proteins, ASSAY_SOURCE)


def _with_scores(family: ModelFamily, scored: _Scored) -> ModelFamily | None:
    """The family's models that have a score; None if fewer than two do."""
    models = tuple(model for model in family.models if model.name in scored.values)
    return family.model_copy(update={"models": models}) if len(models) > 1 else None


def _scores_of(family: ModelFamily, scored: _Scored) -> list[Score]:
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


def _floors_of(group: Group, scored: _Scored) -> tuple[Floor, ...]:
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


def _gap(scored: _Scored, model: str, floor: Floor | None) -> tuple[float | None, float | None, float | None]:
    if floor is None:
        return None, None, None
    name = next(known.name for known in load_scored_models().floor if known.label == floor.name)
    drawn = scored.draws[model] - scored.draws[name] if scored.draws else None
    return scored.values[model] - floor.value, *_quantiles(drawn)


# ---- does size help ------------------------------------------------------------------------------------------------


def _trend_of(family: ModelFamily, scored: _Scored) -> SizeTrend:
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


def size_trend(
    family: str, models: Sequence[str], N: FloatArray, score: FloatArray, draws_nB: FloatArray | None = None
) -> SizeTrend:
    """A family's score against log10 N, more being better.

    It rises if the slope lies above 0 over proteins drawn anew (where they can be) and, with four models or more, over
    the scatter about the line; two or three models without scores per protein show nothing. It then levels off if the
    largest is not the best, and falls if the best model beats both the smallest and the largest over proteins and
    three quarters of the pairs of models keep to one peak.

    Parameters
    ----------
    N : float64[n], smallest first.
    score : float64[n].
    draws_nB : the scores over sets of proteins, float64[n, B].

    **Source:** least squares; Kendall's tau with its exact permutation distribution.
    """
    x = np.log10(N)
    if len(set(x)) < 2:
        return SizeTrend(family=family, models=tuple(models), slope=None, verdict="one size")
    slope, (points_low, points_high) = _line(x, score)
    low, high = _quantiles(None if draws_nB is None else _slopes(x, draws_nB))
    tau, p_rising = _kendall(x, score)
    peak = int(np.argmax(score))
    beyond = None if peak == len(score) - 1 else float(score[-1] - score[peak])
    beyond_low, beyond_high = _quantiles(None if draws_nB is None or beyond is None else draws_nB[-1] - draws_nB[peak])
    share = None if draws_nB is None else float(np.mean(np.argmax(draws_nB, axis=0) == peak))
    climbs = None if draws_nB is None or peak == 0 else _quantiles(draws_nB[peak] - draws_nB[0])[0]
    bounds = [pair for pair in ((low, high), (points_low, points_high) if len(x) > 3 else (None, None)) if pair[0]]
    verdict: TrendVerdict = "no detectable gain"
    falls_off = climbs is not None and climbs > 0 and beyond_high is not None and beyond_high < 0
    if falls_off and _one_peak(score, peak) >= _ONE_PEAK:
        verdict = "rises, then falls"
    elif bounds and all(pair[0] is not None and pair[0] > 0 for pair in bounds):
        verdict = "rises" if beyond is None else "rises, then levels off"
    elif bounds and all(pair[1] is not None and pair[1] < 0 for pair in bounds):
        verdict = "falls"
    return SizeTrend(
        family=family,
        models=tuple(models),
        slope=slope,
        low=low,
        high=high,
        points_low=points_low,
        points_high=points_high,
        kendall_tau=tau,
        p_rising=p_rising,
        peak=models[peak],
        peak_share=share,
        beyond_peak=beyond,
        beyond_peak_low=beyond_low,
        beyond_peak_high=beyond_high,
        verdict=verdict,
    )


def _effect(families: Sequence[ModelFamily], scored: _Scored, above: float) -> SizeEffect:
    """The mean slope of the families whose scores are trusted, over their models of at least `above` parameters."""
    sign = 1.0 if scored.higher_is_better else -1.0
    names, slopes, drawn = [], [], []
    for family in families:
        models = [model for model in family.models if model.params >= above]
        x = np.log10([model.params for model in models])
        if family.suspect or len(models) < 2 or models[-1].params < _LEAST_SPAN * models[0].params:
            continue
        names.append(family.name)
        slopes.append(float(_slopes(x, sign * np.array([[scored.values[model.name]] for model in models]))[0]))
        if scored.draws:
            drawn.append(_slopes(x, sign * np.array([scored.draws[model.name] for model in models])))
    return size_effect(names, slopes, np.array(drawn) if drawn else None, above=above)


def size_effect(
    families: Sequence[str], slopes: Sequence[float], draws_FB: FloatArray | None = None, *, above: float = 0.0
) -> SizeEffect:
    """Whether families of models gain from size: their mean slope, with 95 % for the mean of other such families.

    Parameters
    ----------
    slopes : score per tenfold N of each family.
    draws_FB : the same over sets of proteins, float64[families, B].

    **Source:** Student's t over families; the percentile bootstrap over proteins where it is wider.
    """
    rising = sum(slope > 0 for slope in slopes)
    told = {"above": above, "families": tuple(families), "rising": rising}
    mean = float(np.mean(slopes)) if slopes else None
    if mean is None or len(slopes) < 3:
        return SizeEffect.model_validate({**told, "slope": mean, "verdict": "too few families"})
    half = _t(len(slopes) - 1) * float(np.std(slopes, ddof=1)) / math.sqrt(len(slopes))
    low, high = mean - half, mean + half
    if draws_FB is not None:
        other_low, other_high = np.quantile(draws_FB.mean(axis=0), [0.5 - _LEVEL / 2, 0.5 + _LEVEL / 2])
        low, high = min(low, float(other_low)), max(high, float(other_high))
    verdict = "gain from size" if low > 0 else "loss from size" if high < 0 else "no detectable gain from size"
    return SizeEffect.model_validate({**told, "slope": mean, "low": low, "high": high, "verdict": verdict})


def _slopes(x: FloatArray, y_nB: FloatArray) -> FloatArray:
    """Least-squares slopes of the columns, float64[B]."""
    centred = x - x.mean()
    return np.asarray(centred @ y_nB / (centred @ centred))


def _one_peak(y: FloatArray, peak: int) -> float:
    """Share of the pairs of models that rise towards the peak before it, and fall away from it behind it."""
    pairs = [*itertools.combinations(range(peak + 1), 2), *itertools.combinations(range(peak, len(y)), 2)]
    return float(np.mean([(y[j] > y[i]) == (j <= peak) for i, j in pairs]))


def _line(x: FloatArray, y: FloatArray) -> tuple[float, tuple[float | None, float | None]]:
    """Slope, and its 95 % interval from the scatter about the line; none for two points."""
    slope = float(_slopes(x, y[:, None])[0])
    left = len(x) - 2
    if left < 1:
        return slope, (None, None)
    centred = x - x.mean()
    rest = y - y.mean() - slope * centred
    se = math.sqrt(float(rest @ rest) / left / float(centred @ centred))
    half = _t(left) * se
    return slope, (slope - half, slope + half)


def _kendall(x: FloatArray, y: FloatArray) -> tuple[float, float]:
    """Kendall's tau-a of few points, pairs of equal x left out, and the share of orders of y that reach it."""
    pairs = [(i, j) for i, j in itertools.combinations(range(len(x)), 2) if x[i] != x[j]]
    first, second = np.array(pairs).T
    orders = y[np.array(list(itertools.permutations(range(len(x)))))]  # float64[n!, n], as it is first
    agree = np.sign(orders[:, second] - orders[:, first]) @ np.sign(x[second] - x[first])
    return float(agree[0]) / len(pairs), float(np.mean(agree >= agree[0] - 1e-9))


def _t(freedom: int) -> float:
    """Student's t of the level, two-sided."""
    return float(stdtrit(freedom, 0.5 + _LEVEL / 2))


def _quantiles(draws: FloatArray | None) -> tuple[float | None, float | None]:
    if draws is None:
        return None, None
    low, high = np.quantile(draws, [0.5 - _LEVEL / 2, 0.5 + _LEVEL / 2])
    return float(low), float(high)


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
    group: Group, scored: _Scored, families: Sequence[ModelFamily], scores: Sequence[Score]
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


# ---- loss to score -------------------------------------------------------------------------------------------------


def loss_map(group: str, objective: str, *, loss_metric: str = "ood.ppl.id<0.5") -> LossMap:
    """Score gained per nat of lower loss, over public models of one objective scored on one evaluation set.

    Raises
    ------
    ConfigError : no such group.
    RefusedError : fewer than four models have both; the slope may be 0; or a family shows the opposite.
    """
    if group not in GROUPS:
        raise ConfigError(f"no group of assays is called {group!r}", hint=did_you_mean(group, GROUPS))
    scored = _read_group(GROUPS[group], 1, 0)
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
    slope, (low, high) = _line(gain, score)
    assert low is not None
    assert high is not None
    if low <= 0 <= high:
        why = (
            f"the slope is {slope:+.2f} per nat, 95 % {low:+.2f} to {high:+.2f} over {len(models)} models: it may be 0"
        )
        raise RefusedError(what, why=why, hint=hint)
    for family, names in named.items():
        own = np.array([[-loss[name], sign * scored.values[name]] for name in names])
        if len(names) > 1 and float(_slopes(own[:, 0], own[:, 1:])[0]) * slope <= 0:
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
