"""Every way to spend a budget beside the others: ranked by loss, by a metric, or not ranked where nothing compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, FitError, RefusedError, did_you_mean
from plm_scaling.core.run import Objective
from plm_scaling.core.units import format_usd
from plm_scaling.laws.interval import normal_strata
from plm_scaling.sizing.action import Action, ActionTable, PublicScore
from plm_scaling.sizing.action_parts import Candidate, Situation, group_of, own_actions
from plm_scaling.sizing.adaptation_actions import adaptation_actions
from plm_scaling.sizing.metric_map import MetricMap, MetricPoint, fit_metric_map, fit_metric_maps
from plm_scaling.sizing.null_actions import alignment_action
from plm_scaling.sizing.own_sequences import own_group
from plm_scaling.sizing.public_actions import best_scored, public_actions
from plm_scaling.sizing.spending import quantile_interval

__all__ = ["compare_actions"]

FloatArray = npt.NDArray[np.float64]
Maps = dict[str | None, MetricMap]
"""By objective, None for any, or the group of a user's own sequences."""

_SAMPLES: Final = 2048
_DRAWS: Final = 128
"""Of a form: all that the shipped laws have, so that losses are those of `size`."""
_DOUBTS: Final = {
    "RATE_EXTRAPOLATED": "its exchange rate was measured at other sizes; try it with a small pair first",
    "UNTESTED_ON_REPEATS": "its exchange rate was measured on unrepeated data, and this run repeats its tokens",
    "REPEATS_UNSEEN": "it repeats its tokens more often than any published run: what they are worth is the law of "
    "repeats' word alone",
    "LOSS_OF_OTHER_SET": "its loss has to be measured on the validation set of these published laws; on a set of your "
    "own it compares with laws fitted there alone (--laws fit.json)",
    "CONTINUED_UNTESTED": "what continued training brings was read off runs from scratch; try a short run first",
    "TEXT_LAW": "its loss is by a law of text, not of proteins: the order may hold, the numbers do not",
    "MEASURED_ON_A_SHARE": "its loss was measured on less than half of your own sequences",
    "OSSIFICATION_POSSIBLE": "your own tokens may outnumber those its pre-training stands for: hold it against its "
    "shape from scratch",
    "STOPS_EARLY": "it leaves money unspent, since longer training on these tokens makes it worse",
}
"""What has to be said of an action that comes out best."""
_SCORED: Final = 3
"""Of the scores that need no training, so many are said."""
_NEAR: Final = 0.01
"""Nats: a cheaper action this near the best is named."""


def compare_actions(
    situations: Sequence[Situation],
    *,
    metric: str = "",
    points: Sequence[MetricPoint] = (),
    scores: Sequence[PublicScore] = (),
    higher_is_better: bool = True,
) -> ActionTable:
    """All actions of one or several objectives for one budget.

    Without a metric, losses rank the actions of each objective among themselves. With one, every loss goes through the
    map measured for its objective, and public models and alignments stand at their own scores: then all are ranked
    together. Where a metric is named and nothing maps to it, nothing is ranked across objectives.

    Parameters
    ----------
    situations : one for each objective that is open.
    metric : what decides: fitness, contacts, embedding, generation, or any other name.
    points : scored models, loss to metric (`read_metric_table`).
    scores : what public models, by name, and `alignment` score on the same metric.

    Raises
    ------
    ConfigError : no situation, two of one objective, or points without a metric.
    """
    _check(situations, metric, points, scores)
    situations = [_thinned(situation) for situation in situations]
    candidates = []
    for situation in situations:
        known = best_scored(scores, situation.objective, higher_is_better)
        candidates += _candidates(situation, known)
    candidates.append(Candidate(alignment_action()))
    maps, flags, notes = _maps(situations, metric, points, higher_is_better)
    own_maps, own_notes = _own_maps(situations, metric, higher_is_better)
    laws = {group_of(situation): situation.spending.laws.draw_weights for situation in situations}
    own = {own_group(one.objective): np.ones(1) for one in situations if one.own and one.own.runs_of(one.objective)}
    laws |= own
    by_metric = {c.action.name: _metric_samples(c, laws, maps | own_maps, scores) for c in candidates}
    shown = [_with_utility(c.action, by_metric[c.action.name], maps | own_maps, scores) for c in candidates]
    if maps:
        ranked = _ranked(shown, by_metric, [shown], 1.0 if higher_is_better else -1.0)
        open_ended = any(action.loss and not action.ruled_out and not action.utility for action in shown)
        comparable = not open_ended and not flags
    else:
        by_loss = {c.action.name: _loss_samples(c, laws) for c in candidates}
        groups = [[action for action in shown if action.group == group] for group in laws]
        ranked = _ranked(shown, by_loss, groups, -1.0)
        comparable = len(situations) == 1 and not metric and not own
    order = {group: k for k, group in enumerate(laws)}
    table = ActionTable(
        usd=max(situation.spending.usd for situation in situations),
        metric=metric or "loss",
        higher_is_better=higher_is_better if metric else False,
        comparable=comparable,
        groups=tuple(laws),
        actions=tuple(
            sorted(ranked, key=lambda a: (a.rank is None, 0 if maps else order.get(a.group, len(order)), a.rank or 0))
        ),
        flags=flags,
    )
    said = (*notes, *own_notes, *(() if maps else _scored_sentences(table)), *_sentences(table, bool(maps)))
    return table.model_copy(update={"sentences": said})


def _check(
    situations: Sequence[Situation], metric: str, points: Sequence[MetricPoint], scores: Sequence[PublicScore]
) -> None:
    if not situations:
        raise ConfigError("no objective to compare actions of")
    objectives = [situation.objective for situation in situations]
    if len(set(objectives)) < len(objectives):
        raise ConfigError("two situations of one objective", hint="give one for each of clm and mlm")
    if (points or scores) and not metric:
        raise ConfigError("scores need the name of their metric", hint="--for fitness, say")


def _thinned(situation: Situation) -> Situation:
    """With so many draws as a table of actions needs."""
    spending = situation.spending
    return replace(situation, spending=replace(spending, ensemble=spending.laws.thinned(_DRAWS)))


def _candidates(situation: Situation, beside: Sequence[str]) -> list[Candidate]:
    own = own_actions(situation)
    scratch = own[0].action
    found = [
        *own,
        *public_actions(situation, scratch.epochs, beside),
        *adaptation_actions(situation, scratch),
    ]
    return [_renamed(candidate, situation.objective) for candidate in found]


def _renamed(candidate: Candidate, objective: Objective) -> Candidate:
    """Names are unique over objectives: clm scratch, mlm scratch."""
    action = candidate.action
    return Candidate(action.model_copy(update={"name": f"{objective} {action.name}"}), candidate.losses)


def _maps(
    situations: Sequence[Situation], metric: str, points: Sequence[MetricPoint], higher: bool
) -> tuple[Maps, tuple[str, ...], tuple[str, ...]]:
    """The maps by objective, and what must be said where there is none."""
    if not metric:
        return {}, (), ()
    open_to = {situation.objective for situation in situations}
    if not points:
        return (
            {},
            ("NOT_COMPARABLE",),
            (
                f"not comparable: no measured map from loss to {metric}; actions are shown by objective. Score four or "
                f"more models of different losses and give the table (loss,metric,objective).{_meant(metric)}",
            ),
        )
    try:
        fitted, refused = fit_metric_maps(points, metric, higher_is_better=higher)
    except RefusedError as error:
        return (
            {},
            ("NO_DETECTABLE_GAIN",),
            (f"{error.what}: {error.why}. A lower loss is no reason to spend; the cheapest action does.",),
        )
    except FitError as error:
        return {}, ("NOT_COMPARABLE",), (f"not comparable: {error.what}; {error.why}.",)
    maps: Maps = {objective: one for objective, one in fitted.items()}
    if None in maps and len(open_to) > 1:
        del maps[None]
        refused += ("rows without an objective cannot be told apart where both objectives are open",)
    missing = sorted(objective.upper() for objective in open_to if objective not in maps and None not in maps)
    if missing:
        return maps, ("NOT_COMPARABLE",), (f"not comparable: no map for {', '.join(missing)}.", *refused)
    return maps, (), refused


def _own_maps(situations: Sequence[Situation], metric: str, higher: bool) -> tuple[Maps, tuple[str, ...]]:
    """Maps of losses on the users' own sequences, from the runs there that were scored, and why there is none."""
    found: Maps = {}
    notes = []
    for situation in situations:
        runs = situation.own.runs_of(situation.objective) if situation.own and metric else ()
        points = [MetricPoint(loss=run.loss, metric=run.metric) for run in runs if run.metric is not None]
        if not points:
            continue
        group = own_group(situation.objective)
        try:
            found[group] = fit_metric_map(points, f"{metric}, {group}", higher_is_better=higher)
        except (FitError, RefusedError) as error:
            notes.append(f"{error.what}: {error.why}.")
    return found, tuple(notes)


def _map_for(action: Action, maps: Maps) -> MetricMap | None:
    """The map on an action's own scale."""
    if _is_own(action):
        return maps.get(action.group)
    return maps.get(action.objective) or maps.get(None)


def _meant(metric: str) -> str:
    """A published group that is spelt nearly like a metric without one."""
    from plm_scaling.sizing.assay_groups import GROUPS

    hint = did_you_mean(metric, GROUPS)
    return f" For published scores, {hint}" if metric not in GROUPS and hint.startswith("did you mean") else ""


def _joint(losses: FloatArray, weights: FloatArray) -> FloatArray:
    """Losses float64[K, S] as equally likely samples float64[samples]: draws as often as they weigh, strata in turn."""
    at = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    draws = np.minimum(np.searchsorted(np.cumsum(weights), at), len(weights) - 1)
    return np.asarray(losses[draws, np.arange(_SAMPLES) % losses.shape[1]])


def _loss_samples(candidate: Candidate, laws: dict[str, FloatArray]) -> FloatArray | None:
    if candidate.losses is None or candidate.action.ruled_out:
        return None
    return _joint(candidate.losses, laws[candidate.action.group])


def _metric_samples(
    candidate: Candidate, laws: dict[str, FloatArray], maps: Maps, scores: Sequence[PublicScore]
) -> FloatArray | None:
    """The metric in every sample: from a score of its own, else through the map of its objective."""
    action = candidate.action
    score = _score_of(action, scores)
    if score is not None:
        low, high = score.low if score.low is not None else score.value, score.high or score.value
        z = np.random.default_rng(2 + scores.index(score)).permutation(normal_strata(_SAMPLES))
        return score.value + z * np.where(z > 0, high - score.value, score.value - low) / 1.959964
    found = _map_for(action, maps)
    if candidate.losses is None or found is None or action.objective is None:
        return None
    if action.ruled_out and action.key != "reuse":
        return None
    drawn = found.drawn(_joint(candidate.losses, laws[action.group])[_shuffled(action.objective)])
    return np.asarray(drawn)


def _shuffled(objective: Objective) -> npt.NDArray[np.intp]:
    """Samples of one objective's laws in an order of their own: laws of two objectives are independent."""
    return np.random.default_rng(("clm", "mlm").index(objective)).permutation(_SAMPLES)


def _score_of(action: Action, scores: Sequence[PublicScore]) -> PublicScore | None:
    if action.key not in ("reuse", "alignment"):
        return None
    model = action.name.split()[-1]
    return next((score for score in scores if score.name == model), None)


def _with_utility(action: Action, samples: FloatArray | None, maps: Maps, scores: Sequence[PublicScore]) -> Action:
    if samples is None:
        return action
    utility = quantile_interval(samples, np.full(_SAMPLES, 1.0 / _SAMPLES))
    flags = action.flags
    found = _map_for(action, maps)
    score = _score_of(action, scores)
    if score is None and found is not None and action.loss is not None and found.outside(action.loss.value):
        flags += ("OUTSIDE_MAP",)
    if score is not None and score.status == "unverified":
        flags += ("UNVERIFIED",)
    return action.model_copy(update={"utility": utility, "flags": flags, "ruled_out": ""})


def _ranked(
    actions: Sequence[Action],
    samples: dict[str, FloatArray | None],
    groups: Sequence[Sequence[Action]],
    sign: float,
) -> list[Action]:
    """Regret, probability of being best and rank within each group of actions that share a scale."""
    found = {action.name: action for action in actions}
    for group in groups:
        held = [(action, samples[action.name]) for action in group]
        rows = [(action, row) for action, row in held if row is not None and not action.ruled_out]
        if not rows:
            continue
        values = sign * np.stack([row for _, row in rows])
        top = values.max(axis=0)
        ties = values >= top - 1e-12
        regrets, shares = (top - values).mean(axis=1), (ties / ties.sum(axis=0)).mean(axis=1)
        order = np.lexsort(([action.usd for action, _ in rows], regrets.round(12)))
        for rank, k in enumerate(order, start=1):
            update = {"regret": float(regrets[k]), "p_best": float(shares[k]), "rank": rank}
            found[rows[k][0].name] = found[rows[k][0].name].model_copy(update=update)
    return list(found.values())


def _scored_sentences(table: ActionTable) -> tuple[str, ...]:
    """What can be had without training compares by its scores, even where no loss maps to the metric."""
    free = (action for action in table.actions if action.key in ("reuse", "alignment"))
    scored = [(action.utility.value, action.title) for action in free if action.utility]
    if len(scored) < 2:
        return ()
    ordered = sorted(scored, reverse=table.higher_is_better)[:_SCORED]
    parts = (f"{title.removeprefix('train nothing: ')} {value:.3f}" for value, title in ordered)
    return (f"{table.metric} without training anything: {', '.join(parts)}.",)


def _sentences(table: ActionTable, together: bool) -> tuple[str, ...]:
    """The verdict in each group (or over all), and the cheaper action that is nearly as good."""
    said = []
    unit = f"of {table.metric}" if together else "nats"
    for best in (action for action in table.actions if action.rank == 1):
        peers = [
            action
            for action in table.actions
            if action.rank not in (None, 1) and (together or action.group == best.group)
        ]
        where = "" if together or len(table.groups) == 1 else f" of {best.group}"
        if not peers:
            said.append(f"one action{where} could be ranked: {best.title}.")
        elif best.p_best is not None and best.regret is not None:
            said.append(
                f"best{where}: {best.title} (ahead in {best.p_best:.0%} of {_basis(best)}, expected regret "
                f"{best.regret:.2g} {unit})."
            )
        cheap = [action for action in peers if action.usd < 0.9 * best.usd and _nearly(action, best, together)]
        if cheap:
            one = min(cheap, key=lambda action: action.usd)
            said.append(f"nearly as good for {format_usd(one.usd)} instead of {format_usd(best.usd)}: {one.title}.")
        said += [f"{best.key}: {doubt}." for flag, doubt in _DOUBTS.items() if flag in best.flags]
        if "OUTSIDE_MAP" in best.flags:
            said.append(
                f"its loss lies beyond those that {table.metric} was measured at, where the map is held constant: "
                "score better models before you pay for it."
            )
    return tuple(said)


def _is_own(action: Action) -> bool:
    """Whether its loss is on a user's own sequences."""
    return action.objective is not None and action.group == own_group(action.objective)


def _basis(action: Action) -> str:
    """What the samples of an action are draws of."""
    return "such runs" if _is_own(action) else "the laws"


def _nearly(action: Action, best: Action, together: bool) -> bool:
    """Within a hundredth of a nat; by a metric, or on one's own sequences, where intervals hold the other's value."""
    if not together and not _is_own(action):
        return (action.regret or 0.0) - (best.regret or 0.0) < _NEAR
    a, b = (action.utility, best.utility) if together else (action.loss, best.loss)
    return a is not None and b is not None and (a.low <= b.value <= a.high or b.low <= a.value <= b.high)
