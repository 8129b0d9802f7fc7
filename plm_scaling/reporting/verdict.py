"""The answers on top of the report: plain sentences made from the fits, each with its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup, escape

from plm_scaling.core.run import Objective
from plm_scaling.core.units import format_count
from plm_scaling.laws.law_fit import IsoflopFit, LawFit
from plm_scaling.reporting.arm_verdicts import say_repeats, say_second_source, say_transfer
from plm_scaling.reporting.arms import repeat_series
from plm_scaling.reporting.evals_view import summary, task_views
from plm_scaling.reporting.mixtures import diversity_views
from plm_scaling.reporting.study import OBJECTIVES, WEAK_ROW, Study, fitted_set, is_on_page, weak_exponents
from plm_scaling.reporting.wording import (
    chip_line,
    count_interval,
    flag_words,
    number_interval,
    percent,
    power_of_ten,
)

__all__ = ["Answer", "answers"]

_CURRENCY = {"C_exact": "exactly counted C", "C_6nd": "6ND"}


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
        *_tasks(study),
    )


def _tasks(study: Study) -> tuple[Answer, ...]:
    """Asked only where something was evaluated."""
    if not study.scores:
        return ()
    lines = summary(task_views(study)) or ("No run of this study has answered a task.",)
    more = Markup('<a href="#evaluations">Every task with floors and random weights</a>')
    return (Answer("What is a lower loss worth on tasks?", (*(escape(line) for line in lines), more)),)


def _growth(study: Study) -> tuple[Markup, ...]:
    lines = [_growth_of(law) + _elsewhere(study, law) for law in _laws(study)]
    return tuple(lines) or (Markup("No law has been fitted yet."),)


def _laws(study: Study) -> list[LawFit]:
    return [law for objective in OBJECTIVES if (law := study.laws.get(objective))]


def _elsewhere(study: Study, law: LawFit) -> Markup:
    """Said of every statement that rests on a law of another validation set than the page's."""
    if is_on_page(study, law):
        return Markup("")
    name = fitted_set(study, law) or "another validation set"
    return Markup(" <b>Fitted on {}, not on this page's {}.</b>").format(name, study.validation)


def _growth_of(law: LawFit) -> Markup:
    fit = law.isoflop
    if fit is None or fit.a_N is None:
        return _refused(law)
    weak = weak_exponents(law)
    text = "N<sub>opt</sub> grows as C<sup>a</sup> with " + ("a = {}" if weak else "<b>a = {}</b>")
    args: list[object] = [number_interval(fit.a_N)]
    if fit.a_D:
        text += ", D<sub>opt</sub> with exponent {}"
        args.append(number_interval(fit.a_D))
    text += ", on {}. Ten times the compute: {} times the parameters{}. "
    more = f" and {10**fit.a_D.value:.1f} times the tokens" if fit.a_D else ""
    args += [_CURRENCY[fit.currency], f"{10**fit.a_N.value:.1f}", more]
    if weak:
        text += "This rests on minima no deeper than the noise: an illustration, not a finding."
        return chip_line(law.objective, text, *args)
    return chip_line(law.objective, text + "<b>{}</b>", *args, _which_grows(fit))


def _refused(law: LawFit) -> Markup:
    found = sum(1 for row in law.isoflop.rows if row.N_opt) if law.isoflop else 0
    text = "Exponents are <b>refused</b>: fewer than two budgets have a minimum inside the sizes tried ({} found)."
    if law.surface is None or law.surface.a_N is None:
        why = "; ".join(f"{refusal.quantity}: {refusal.reason}" for refusal in law.refusals)
        return chip_line(law.objective, text + "{}", found, f" Refused too: {why}." if why else "")
    text += " The surface alone would give a = {} on 6ND{}."
    doubt = f", itself doubtful: {flag_words(law.surface.flags)}" if law.surface.flags else ""
    return chip_line(law.objective, text, found, number_interval(law.surface.a_N), doubt)


def _which_grows(fit: IsoflopFit) -> str:
    """Model or tokens, by whether a_N differs from the equal share (a_N + a_D) / 2; on exact C the sum is not 1."""
    if fit.a_N is None or fit.a_D is None:
        return ""
    equal = (fit.a_N.value + fit.a_D.value) / 2
    if fit.a_N.low > equal:
        return "The larger share of new compute belongs in the model."
    if fit.a_N.high < equal:
        return "The larger share of new compute belongs in tokens."
    return "Whether model or tokens should grow faster is open: growing both equally is within the interval."


def _bigger(study: Study) -> tuple[Markup, ...]:
    lines = [line + _elsewhere(study, law) for law in _laws(study) if (line := _bigger_of(study, law))]
    return tuple(lines) or (Markup("Not answered: no budget has a minimum in model size."),)


def _bigger_of(study: Study, law: LawFit) -> Markup | None:
    rows = [row for row in law.isoflop.rows if row.N_opt and row.D_opt] if law.isoflop else []
    if not rows or rows[-1].N_opt is None or rows[-1].D_opt is None:
        return None
    row, N_opt, D_opt = rows[-1], rows[-1].N_opt, rows[-1].D_opt
    objective: Objective = law.objective
    weak = bool(WEAK_ROW & set(row.flags))
    text = "At C = {}, the largest budget with a minimum, {} parameters and {} tokens are best"
    doubt = " (a weak minimum)" if weak else ""
    args: list[object] = [power_of_ten(row.C), count_interval(N_opt), format_count(D_opt), doubt]
    unique = study.unique_train_tokens
    if unique is None:
        return chip_line(objective, text + "{}.", *args)
    start, end = ("", "") if weak else ("<b>", "</b>")
    passes = D_opt / unique
    if passes > 1:
        text += "{}: {} passes over the {} unique training tokens. "
        text += start + "Data are scarce: new sequences first." + end
        return chip_line(objective, text, *args, f"{passes:.1f}", format_count(unique))
    text += "{}: {} of the {} unique training tokens. " + start + "Compute is the limit here, not data"
    text += (", which are nearly used up." if passes > 0.5 else ".") + end + "{}"
    return chip_line(objective, text, *args, percent(passes), format_count(unique), _exhaustion(law, unique))


def _exhaustion(law: LawFit, unique: int) -> str:
    """Where D_opt(C) reaches the unique tokens, if that is less than 100 times beyond the measured range."""
    fit = law.isoflop
    if fit is None or fit.a_D is None or fit.k_D is None or fit.a_D.low <= 0 or weak_exponents(law):
        return ""
    C = (unique / fit.k_D) ** (1 / fit.a_D.value)
    top = fit.rows[-1].C
    if not top < C < 100 * top:
        return ""
    return f" By the fitted line, one pass over them is used up near C = {power_of_ten(C, 1)} (extrapolated)."


def _repeats(study: Study) -> tuple[Markup, ...]:
    lines = [say_repeats(series) for series in repeat_series(study)]
    return tuple(lines) or (Markup("Not measured: the study has no repeats arm with complete runs."),)


def _second_source(study: Study) -> tuple[Markup, ...]:
    lines = [line for view in diversity_views(study) for line in say_second_source(study, view)]
    return tuple(lines) or (Markup("Not measured: the study has no diversity arm with complete runs."),)


def _transfer(study: Study) -> tuple[Markup, ...]:
    pairs = study.transfer.pairs if study.transfer else ()
    return tuple(say_transfer(study, pair) for pair in pairs) or (Markup("Not measured: no complete transfer pair."),)
