"""The decision under uncertainty: the size with the least expected regret over draws and forms, and what is at stake.

Regret of a size under one law is its loss at the budget minus the lowest loss that law allows at the budget. A budget
is an upper bound: where repeats turn the loss upwards the plan stops before it is spent. Where only the worth of
repeated tokens is known, sizes and their regrets are those of unlimited data, losses those of the tokens at hand.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.core.units import format_count
from plm_scaling.laws.interval import normal_strata, quantiles, weighted_quantiles
from plm_scaling.laws.repeat_fit import RepeatFit
from plm_scaling.sizing.answers import FLAG_DECADES, REFUSE_DECADES, VALLEY_NATS, decades_outside
from plm_scaling.sizing.decision_record import Decision, FormSize, LossSplit, Regret, Valley
from plm_scaling.sizing.decision_search import FloatArray, Purse, Search, search_sizes
from plm_scaling.sizing.law_ensemble import LawEnsemble, TokenDecay
from plm_scaling.sizing.size_limit import deciding_tokens, largest_claimed

__all__ = ["decide", "refuse_far"]

LOW_REGRET: Final = 0.005
_DISAGREE: Final = 2.0
_COUNTED_FORM: Final = 0.05
_VALLEY_POINTS: Final = 41
_VALLEY_DRAWS: Final = 1000
_VALLEY_REACH: Final = math.log(10.0)
_QUANTILES: Final = (0.1, 0.5, 0.9)
_NEGLIGIBLE_EPOCHS: Final = 1.1


def decide(
    ensemble: LawEnsemble,
    budget: float | Purse,
    *,
    unique_tokens: float | None = None,
    level: float = 0.8,
    force: bool = False,
) -> Decision:
    """The size to train with a budget when the laws are uncertain.

    Parameters
    ----------
    budget : training FLOPs, spent as 6 N D at most; or a function from parameters float64[n] to the tokens the budget
        pays for at that size, for exact FLOPs, hours or money.
    unique_tokens : tokens that are not repeats; None for as many as are wanted.
    level : of the interval of the loss.
    force : answer even more than 1.5 decades of compute outside the runs behind the laws.

    Raises
    ------
    ConfigError : a budget, level or number of tokens that cannot be.
    RefusedError : no size is best, or the plan lies too far outside the runs (unless `force`).

    **Source:** expected and minimax regret (Savage 1951); law of total variance.
    """
    tokens = _purse(budget)
    if unique_tokens is not None and not (math.isfinite(unique_tokens) and unique_tokens > 0):
        raise ConfigError("unique_tokens must be a positive number", why=f"got {unique_tokens!r}")
    if not 0 < level < 1:
        raise ConfigError(f"the level of an interval is a share between 0 and 1, got {level!r}", hint="0.8")
    search = search_sizes(ensemble, tokens, deciding_tokens(ensemble, tokens, unique_tokens))
    plan = _Plan(search, unique_tokens)
    refuse_far(ensemble.source, ensemble.range_C, 6.0 * plan.N * plan.D, force)
    return _assembled(search, plan, level)


def refuse_far(name: str, range_C: tuple[float, float] | None, C: float, force: bool = False) -> None:
    """Refuse a law that is asked more than 1.5 decades of compute outside its runs, unless forced.

    Raises
    ------
    RefusedError : so far outside.
    """
    decades = decades_outside(C, range_C)
    if decades <= REFUSE_DECADES or force or range_C is None:
        return
    side = "above" if range_C[1] < C else "below"
    edge = range_C[1] if side == "above" else range_C[0]
    raise RefusedError(
        f"{C:.2e} FLOPs is {decades:.1f} decades {side} the runs behind {name} ({range_C[0]:.0e} to {range_C[1]:.0e})",
        why=f"beyond {REFUSE_DECADES} decades N can be wrong by more than its band says",
        hint=f"a budget nearer {edge:.0e} FLOPs, a law fitted nearer to your budget, or force the answer (--force)",
    )


class _Plan:
    """The size and stop of the lowest expected loss, and the exact losses of all draws there and nearby."""

    def __init__(self, search: Search, unique_tokens: float | None) -> None:
        self.x, stop = search.best_plan()
        x = self.x + np.array([0.0, math.log(2.0), -math.log(2.0), search.minimax_size() - self.x])
        stops = np.append(stop, search.best_stops(np.clip(x[1:], search.x[0], search.x[-1])))
        self.others_N: FloatArray = np.exp(x)
        """The plan, twice and half its size, and the minimax size."""
        self.others_D: FloatArray = search.tokens_at(self.others_N, stops)
        self.others: FloatArray = (
            search.losses_along(x)
            if search.stops is None
            else search.ensemble.losses(self.others_N, self.others_D, search.unique_tokens)
        )
        """float64[K, 4]; interpolated where that is good to 1e-6 nats: evaluating would cost as much as the search."""
        self.unique_tokens, self.held = unique_tokens, search.unique_tokens != unique_tokens
        """Held: regrets are of unlimited data, `losses` of the unique tokens at hand."""
        self.N, self.D = float(self.others_N[0]), float(self.others_D[0])
        self.D_full = float(search.tokens(self.others_N[:1])[0])
        self.lowest: FloatArray = np.minimum(search.own_best[1], self.others[:, 0])
        """Of every draw: the lowest loss the budget allows, float64[K]."""
        self.losses: FloatArray = (
            search.ensemble.losses(self.N, self.D, unique_tokens)[:, 0] if self.held else self.others[:, 0]
        )


def _purse(budget: float | Purse) -> Purse:
    if callable(budget):
        return budget
    if not (math.isfinite(budget) and budget > 0):
        raise ConfigError("a budget must be a positive number of FLOPs", why=f"got {budget!r}")
    return lambda N: budget / (6.0 * N)


def _assembled(search: Search, plan: _Plan, level: float) -> Decision:
    ensemble, weights, unique = search.ensemble, search.weights, plan.unique_tokens
    own_x, _, at_edge = search.own_best
    lowest = plan.lowest
    C, decades = 6.0 * plan.N * plan.D, decades_outside(6.0 * plan.N * plan.D, ensemble.range_C)
    split = _split(ensemble, plan.losses, decades)
    low, high = _interval(plan.losses, weights, split, level)
    mean = search.mean
    forms = _forms(search, plan)
    saves = plan.D / plan.D_full < 0.995
    made = Decision(
        objective=ensemble.objective,
        source=ensemble.source,
        status=ensemble.status,
        C=C,
        C_budget=6.0 * plan.N * plan.D_full,
        N=plan.N,
        D=plan.D,
        unique_tokens=unique,
        epochs=None if unique is None else plan.D / unique,
        N_quantiles=_three(np.exp(weighted_quantiles(own_x, weights, _QUANTILES))),
        N_minimax=float(plan.others_N[-1]),
        N_band=_within(search.x, mean, float(mean.min()) + VALLEY_NATS, plan.x),
        N_low_regret=_low_regret(search, mean - float(weights @ lowest), plan.x),
        regrets=_regrets(search, plan),
        probability=float(weights @ (plan.others[:, 0] - lowest <= VALLEY_NATS)),
        loss=float(weights @ plan.losses),
        loss_low=low,
        loss_high=high,
        level=level,
        split=split,
        forms=forms,
        form_factor=_form_factor(forms),
        draw_factor=math.exp(sum(form.weight * math.log(form.N_high / form.N_low) for form in forms)),
        valley=_valley(search, plan, float(weights @ lowest)),
        extrapolation_decades=decades,
        range_C=ensemble.range_C,
        useful_C=C if saves else None,
        repeats=_repeats_of(ensemble),
    )
    flags = _doubts(made, ensemble, float(weights @ at_edge), held=plan.held)
    return made.model_copy(update={"flags": tuple(flags), "warnings": tuple(flags.values())})


def _three(values: FloatArray) -> tuple[float, float, float]:
    low, middle, high = values.tolist()
    return low, middle, high


def _split(ensemble: LawEnsemble, losses: FloatArray, decades: float) -> LossSplit:
    """Variances of ln L: within forms, between forms, of a run, and of what the ensemble was seen to be off by."""
    logs, members, shares = np.log(losses), ensemble.draw_members, ensemble.member_weights
    means = np.array([logs[members == k].mean() for k in range(len(shares))])
    within = float(shares @ [logs[members == k].var() for k in range(len(shares))])
    between = float(shares @ (means - shares @ means) ** 2)
    noise, drift = ensemble.noise_sd**2, ensemble.drift_sd**2 * decades
    return LossSplit(
        parameters=within, form=between, noise=noise, extrapolation=drift, total=within + between + noise + drift
    )


def _interval(losses: FloatArray, weights: FloatArray, split: LossSplit, level: float) -> tuple[float, float]:
    """Central interval of a new run's loss: every draw blurred by noise and extrapolation, by quantiles of both."""
    centres = weighted_quantiles(np.log(losses), weights, (np.arange(400) + 0.5) / 400)
    normal = normal_strata(64)
    blurred = centres[:, None] + math.sqrt(split.noise + split.extrapolation) * normal / normal.std()
    low, high = np.exp(quantiles(blurred.ravel(), [(1.0 - level) / 2.0, (1.0 + level) / 2.0]))
    # The mean of a few draws far above all others lies beyond the quantiles; an interval holds what is expected.
    mean = float(weights @ losses)
    return min(float(low), mean), max(float(high), mean)


def _forms(search: Search, plan: _Plan) -> tuple[FormSize, ...]:
    members, own = search.ensemble.draw_members, search.own_best[0]
    found = []
    for k, member in enumerate(search.ensemble.members):
        here = members == k
        low, mid, high = np.exp(quantiles(own[here], _QUANTILES)).tolist()
        loss = float(plan.losses[here].mean())
        found.append(FormSize(name=member.name, weight=member.weight, N_low=low, N_mid=mid, N_high=high, loss=loss))
    return tuple(found)


def _form_factor(forms: tuple[FormSize, ...]) -> float:
    sizes = [form.N_mid for form in forms if form.weight >= _COUNTED_FORM]
    return max(sizes) / min(sizes)


def _within(x: FloatArray, values: FloatArray, top: float, centre: float) -> tuple[float, float]:
    """Sizes around ln N = `centre` whose value is at most `top`, straight lines between grid points."""
    start = int(np.abs(x - centre).argmin())

    def edge(path: range) -> float:
        inside = start
        for k in path:
            if values[k] > top:
                share = (top - values[inside]) / (values[k] - values[inside])
                return float(x[inside] + min(max(share, 0.0), 1.0) * (x[k] - x[inside]))
            inside = k
        return float(x[inside])

    low, high = edge(range(start - 1, -1, -1)), edge(range(start + 1, len(x)))
    return math.exp(min(low, centre)), math.exp(max(high, centre))


def _low_regret(search: Search, regret: FloatArray, centre: float) -> tuple[float, float] | None:
    return _within(search.x, regret, LOW_REGRET, centre) if float(regret.min()) < LOW_REGRET else None


def _regrets(search: Search, plan: _Plan) -> tuple[Regret, ...]:
    regrets = np.maximum(plan.others - plan.lowest[:, None], 0.0)
    columns = (plan.others_N, plan.others_D, search.weights @ regrets, regrets.max(axis=0))
    labels = ("plan", "twice as large", "half as large", "minimax")
    return tuple(
        Regret(label=label, N=N, D=D, mean=mean, worst=worst)
        for label, N, D, mean, worst in zip(labels, *(column.tolist() for column in columns), strict=True)
    )


def _valley(search: Search, plan: _Plan, lowest: float) -> Valley:
    low = max(plan.x - _VALLEY_REACH, float(search.x[0]))
    x = np.linspace(low, min(plan.x + _VALLEY_REACH, float(search.x[-1])), _VALLEY_POINTS)
    N, few = np.exp(x), np.arange(0, len(search.weights), math.ceil(len(search.weights) / _VALLEY_DRAWS))
    mean, D = search.mean_along(x), search.tokens_at(N, search.best_stops(x))
    losses, shares = search.losses_along(x, few), search.weights[few]
    if plan.held:
        some = search.ensemble.thinned(_VALLEY_DRAWS // len(search.ensemble.members))
        losses, shares = some.losses(N, D, plan.unique_tokens), some.draw_weights
    shares = shares / shares.sum()
    ends = np.array([weighted_quantiles(column, shares, (0.1, 0.9)) for column in losses.T])
    return Valley(
        N=tuple(N.tolist()),
        D=tuple(D.tolist()),
        loss=tuple((shares @ losses if plan.held else mean).tolist()),
        loss_low=tuple(ends[:, 0].tolist()),
        loss_high=tuple(ends[:, 1].tolist()),
        regret=tuple((mean - lowest).tolist()),
    )


def _repeats_of(ensemble: LawEnsemble) -> str:
    if isinstance(ensemble.repeats, RepeatFit):
        return f"own fit, {ensemble.repeats.form}"
    return ensemble.repeats.source if isinstance(ensemble.repeats, TokenDecay) else ""


def _doubts(made: Decision, ensemble: LawEnsemble, at_edge: float, *, held: bool) -> dict[str, str]:
    """Flags with their sentences."""
    found: dict[str, str] = {}
    if made.range_C is None:
        found["RANGE_UNKNOWN"] = "the laws do not say for which compute they hold: extrapolation cannot be judged."
    elif made.extrapolation_decades > FLAG_DECADES:
        found["FAR_OUTSIDE_RANGE"] = (
            f"{made.extrapolation_decades:.1f} decades of compute outside the runs behind the laws: treat N as an "
            "order of magnitude."
        )
    if made.useful_C is not None:
        found["BUDGET_NOT_ALL_USEFUL"] = (
            f"your unique data cannot use more than about {made.useful_C:.2g} FLOPs, "
            f"{made.useful_C / made.C_budget:.0%} of the budget at this size: further repeats raise the loss; "
            f"stop after {format_count(made.D, 2)} tokens (with a schedule planned for them), or add tokens."
        )
    if made.form_factor > _DISAGREE:
        found["FORMS_DISAGREE"] = (
            f"the forms' best sizes differ by a factor {made.form_factor:.1f}, the draws of one form by "
            f"{made.draw_factor:.1f}: no more runs of the same kind will settle it, larger ones would."
        )
    if "TEXT_REPEATS" in ensemble.flags and (made.epochs or 0.0) > _NEGLIGIBLE_EPOCHS:
        found["TEXT_REPEATS"] = (
            "what repeated tokens are worth is taken from text: no protein runs identify it. The other half of that "
            "law, parameters that few unique tokens cannot fill, is identified nowhere: between two sizes of the band "
            "take the smaller."
        )
    if held:
        found["SIZE_HELD"] = (
            "N, its band and its regrets are those of unlimited data, the loss is that of your tokens: where repeats "
            "lose their worth and parameters do not, the laws would send the rest of the budget into a larger model, "
            "and published runs that were short of data went the other way, to more epochs."
        )
    if "NO_DRAWS" in ensemble.flags:
        found["NO_DRAWS"] = "the law states no uncertainty: its interval holds the noise of a run alone."
    cap = largest_claimed(ensemble, made.unique_tokens)
    if cap is not None and math.log(made.N) > cap - 0.01:
        found["SIZE_CAPPED"] = (
            "the laws would spend more budget on a larger model rather than on repeats; sizes beyond ten times the "
            "largest they have seen are not claimed."
        )
    elif at_edge > 0.01:
        found["DRAWS_WITHOUT_OPTIMUM"] = (
            f"{at_edge:.0%} of the draws have their lowest loss at an end of the search: their N is a bound."
        )
    return found
