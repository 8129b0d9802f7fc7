"""The answers on top of the report: plain sentences made from the fits, each with its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from plm_scaling.core.units import format_count
from plm_scaling.laws.law_fit import Interval, LawFit
from plm_scaling.reporting.arms import Arm, DiversityGroup, RepeatSeries, diversity_groups, repeat_series
from plm_scaling.reporting.study import OBJECTIVES, Study
from plm_scaling.reporting.wording import (
    count_interval,
    join_words,
    measured,
    number_interval,
    percent,
    power_of_ten,
    signed,
)
from plm_scaling.transfers.transfer_fit import TransferPair

__all__ = ["Answer", "answers"]


@dataclass(frozen=True)
class Answer:
    """One question of the user and what the study says."""

    question: str
    lines: tuple[Markup, ...]


def answers(study: Study) -> tuple[Answer, ...]:
    """All questions, also those the study cannot answer: they get the sentence that says why."""
    return (
        Answer("How do the best model and the best amount of data grow with compute?", _growth(study)),
        Answer("A bigger model or more data here?", _bigger(study)),
        Answer("What do repeated tokens cost?", _repeats(study)),
        Answer("What does the second source give?", _second_source(study)),
        Answer("What does transfer gain, net of its cost?", _transfer(study)),
    )


def _chip(objective: str) -> Markup:
    return Markup('<b class="chip {}">{}</b> ').format(objective, objective.upper())


def _say(objective: str, text: str, *args: object) -> Markup:
    """A line that starts with the objective's chip; `text` is our own HTML, `args` are escaped."""
    return _chip(objective) + Markup(text).format(*args)


def _growth(study: Study) -> tuple[Markup, ...]:
    lines = [_growth_of(law) for objective in OBJECTIVES if (law := study.laws.get(objective))]
    return tuple(lines) or (Markup("No law has been fitted yet."),)


def _growth_of(law: LawFit) -> Markup:
    fit = law.isoflop
    if fit is None or fit.a_N is None:
        found = sum(1 for row in fit.rows if row.N_opt and not row.flags) if fit else 0
        text = "The exponents are <b>refused</b>: they need minima inside the sizes tried at two budgets or more"
        if law.surface:
            text += "; the fitted surface alone would give N<sub>opt</sub> \u221d C<sup>a</sup> with a = {1}"
        seen = f"{found} clean minimum" if found == 1 else f"{found} clean minima"
        second = number_interval(law.surface.a_N) if law.surface else ""
        return _say(law.objective, text + " (this study has {0}).", seen, second)
    text = "N<sub>opt</sub> grows as C<sup>a</sup> with <b>a = {}</b>"
    args: list[object] = [number_interval(fit.a_N)]
    if fit.a_D:
        text += ", D<sub>opt</sub> with exponent {}"
        args.append(number_interval(fit.a_D))
    text += ". Ten times the compute: {} times the parameters{}. <b>{}</b>"
    more = f" and {10**fit.a_D.value:.1f} times the tokens" if fit.a_D else ""
    return _say(law.objective, text, *args, f"{10**fit.a_N.value:.1f}", more, _which_grows(fit.a_N))


def _which_grows(a_N: Interval) -> str:
    if a_N.low > 0.5:
        return "The larger share of new compute belongs in the model."
    if a_N.high < 0.5:
        return "The larger share of new compute belongs in tokens."
    return "Whether model or tokens should grow faster is open: growing both equally is within the interval."


def _bigger(study: Study) -> tuple[Markup, ...]:
    lines = [line for objective in OBJECTIVES if (line := _bigger_of(study, objective))]
    return tuple(lines) or (Markup("Not answered: no budget has a minimum in model size."),)


def _bigger_of(study: Study, objective: str) -> Markup | None:
    laws = [law for name, law in study.laws.items() if name == objective and law.isoflop]
    rows = [row for law in laws if law.isoflop for row in law.isoflop.rows if row.N_opt and row.D_opt]
    if not rows or rows[-1].N_opt is None or rows[-1].D_opt is None:
        return None
    row, N_opt, D_opt = rows[-1], rows[-1].N_opt, rows[-1].D_opt
    text = "At C = {}, the largest budget with a minimum, {} parameters and {} tokens are best"
    doubt = " (a weak minimum)" if row.flags else ""
    args: list[object] = [power_of_ten(row.C), count_interval(N_opt), format_count(D_opt)]
    unique = study.unique_train_tokens
    if unique is None:
        return _say(objective, text + "{}.", *args, doubt)
    passes = D_opt / unique
    if passes > 1:
        text += "{}: {} passes over the {} unique training tokens. <b>Data are scarce: new sequences first.</b>"
        return _say(objective, text, *args, doubt, f"{passes:.1f}", format_count(unique))
    text += "{}: {} of the {} unique training tokens. <b>Compute is the limit here, not data"
    text += ", which are nearly used up.</b>{}" if passes > 0.5 else ".</b>{}"
    return _say(objective, text, *args, doubt, percent(passes), format_count(unique), _exhaustion(laws[0], unique))


def _exhaustion(law: LawFit, unique: int) -> str:
    """Where D_opt(C) reaches the unique tokens, if that is less than 100 times beyond the measured range."""
    fit = law.isoflop
    if fit is None or fit.a_D is None or fit.k_D is None or fit.a_D.low <= 0:
        return ""
    C = (unique / fit.k_D) ** (1 / fit.a_D.value)
    top = fit.rows[-1].C
    if not top < C < 100 * top:
        return ""
    return f" By the fitted line, one pass over them is used up near C = {power_of_ten(C, 1)} (extrapolated)."


def _repeats(study: Study) -> tuple[Markup, ...]:
    lines = [_repeats_of(series) for series in repeat_series(study)]
    return tuple(lines) or (Markup("Not measured: the study has no repeats arm with complete runs."),)


def _repeats_of(series: RepeatSeries) -> Markup:
    where = f"At N = {format_count(series.N)} and D = {format_count(series.D)}, "
    if series.reference is None:
        return _say(series.objective, "{}the run on unlimited data is missing, so no cost can be stated.", where)
    harmless = [arm for arm in series.arms if arm.change and not _costs(arm)]
    harmful = [arm for arm in series.arms if arm.change and _costs(arm)]
    parts = []
    if harmless:
        parts.append(f"{join_words([arm.label for arm in harmless])} cost nothing that can be told from noise")
    if harmful:
        costs = [f"{arm.label} {signed(arm.change.value, arm.change.se)}" for arm in harmful if arm.change]
        parts.append(f"{join_words(costs)} nats against unlimited data")
    text = "; ".join(parts)
    if all(arm.change is None or arm.change.se is None for arm in series.arms):
        text += " (no error is known: neither replicates nor paired losses)"
    return _say(series.objective, "{}{}.", where, text)


def _costs(arm: Arm) -> bool:
    """A rise that can be told from noise; any rise where no error is known."""
    change = arm.change
    return change is not None and change.value > 0 and change.clear is not False


def _second_source(study: Study) -> tuple[Markup, ...]:
    lines = [_second_source_of(group) for group in diversity_groups(study)]
    return tuple(lines) or (Markup("Not measured: the study has no diversity arm with complete runs."),)


def _second_source_of(group: DiversityGroup) -> Markup:
    parts = []
    for arm in group.arms:
        if arm.change is None:
            continue
        clear = arm.change.clear
        effect = "better" if arm.change.value < 0 else "worse"
        verdict = {True: effect, False: "no detectable difference", None: f"{effect}, error unknown"}[clear]
        parts.append(f"{arm.label}: {signed(arm.change.value, arm.change.se)} nats ({verdict})")
    text = "Against {} ({:.3g} passes), at equal N = {} and D = {}: {}."
    reference = group.reference
    return _say(
        group.objective,
        text,
        reference.label,
        reference.epochs,
        format_count(group.N),
        format_count(group.D),
        "; ".join(parts),
    )


def _transfer(study: Study) -> tuple[Markup, ...]:
    pairs = study.transfer.pairs if study.transfer else ()
    return tuple(_transfer_of(pair) for pair in pairs) or (Markup("Not measured: no complete transfer pair."),)


def _transfer_of(pair: TransferPair) -> Markup:
    way = f"{pair.source_objective.upper()} \u2192 {pair.objective.upper()}"
    text = "{} at N = {}: the loss changes from {} to {}, <b>{} nats</b>"
    args: list[object] = [way, format_count(pair.N), measured(pair.loss_scratch, None)]
    args += [measured(pair.loss_transfer, None), signed(pair.gap, pair.gap_se)]
    if pair.D_t is None:
        return _say(
            pair.objective, text + ". Its worth in tokens is refused: the scratch runs do not bracket it.", *args
        )
    text += ". That is worth {} further tokens from scratch{}"
    args.append(format_count(pair.D_t))
    extra = []
    if pair.D_t_low is not None and pair.D_t_high is not None:
        extra.append(f"{format_count(pair.D_t_low, 2)} to {format_count(pair.D_t_high, 2)}")
    if pair.D_t_per_source_token is not None:
        extra.append(f"{pair.D_t_per_source_token:.2g} per source token")
    args.append(f" ({'; '.join(extra)})" if extra else "")
    if pair.net_tokens is None:
        return _say(pair.objective, text + "; the source's cost is unknown.", *args)
    text += ". The source's compute would have bought {}: <b>{}</b>."
    args += [format_count(pair.D_t - pair.net_tokens), _pays(pair)]
    return _say(pair.objective, text, *args)


def _pays(pair: TransferPair) -> str:
    """The net gain in words; undecided where its interval holds zero."""
    net = pair.net_tokens or 0.0
    cost = (pair.D_t or 0.0) - net
    amount = f"net {'+' if net > 0 else ''}{format_count(net)} tokens"
    low, high = pair.D_t_low, pair.D_t_high
    if low is not None and high is not None and low < cost < high:
        return f"{amount}, within its error; whether transfer pays is open unless the source model exists anyway"
    return f"{amount}, transfer pays" if net > 0 else f"{amount}, transfer pays only if the source model exists anyway"
