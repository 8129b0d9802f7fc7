"""Is a trained model too large for what its training cost? Judged by every law, each with its doubts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, get_args

from plm_scaling.core.errors import ConfigError
from plm_scaling.core.objective import Objective
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.laws.zoo import PublishedLaw, load_zoo
from plm_scaling.sizing.answers import (
    FLAG_DECADES,
    REFUSE_DECADES,
    SizingLaw,
    answer_of,
    decades_outside,
    laws_of_fit,
    published_sizing_law,
    with_valley,
)
from plm_scaling.sizing.audit_records import Audit, AuditLine, AuditTable, AuditVerdict
from plm_scaling.sizing.chosen_laws import default_sizing_law
from plm_scaling.sizing.trained_models import TrainedModel

__all__ = ["audit_models", "audit_under", "compute_for_loss", "compute_for_size", "laws_for_audit"]

_WIDEST: Final = 12
"""Decades of compute either side that are searched for a size or a loss."""
_ROUNDS: Final = 48
"""Of bisection: ln C to the last digits of a float."""

_SENTENCES: Final = {
    "ABOVE_RANGE": "asked above the compute of its runs",
    "BELOW_RANGE": "asked below the compute of its runs",
    "FAR_OUTSIDE_RANGE": "over a decade outside its runs, where the best size is an order of magnitude",
    "RANGE_UNKNOWN": "does not say for which compute it holds, so extrapolation cannot be judged",
    "RANGE_OF_N_AND_D": "its range of compute is taken from those of N and D, the widest it can be",
    "TEXT_LAW": "a law of text, not of proteins",
    "UNVERIFIED": "numbers not checked against their source",
    "FIT_FAR_OUTSIDE_RANGE": "the tokens that fit lie over a decade of compute outside its runs",
    "FIT_REFUSED": f"the tokens that fit lie over {REFUSE_DECADES} decades outside its runs and are not said",
    "NO_TOKENS_FIT": "calls this size best at no compute",
}

Laws = Sequence[PublishedLaw | LawFit]


def audit_models(models: Sequence[TrainedModel], laws: Laws | None = None, *, force: bool = False) -> AuditTable:
    """Every model under the laws: those given, or all that a budget of its objective is sized by or held against.

    Parameters
    ----------
    laws : published laws and fits of one's own; a law of another protein objective judges no model.
    force : answer even more than 1.5 decades of compute outside a law's range.

    Raises
    ------
    ConfigError : a law that sizes no budget, or laws none of which speaks of a model's objective.
    """
    audits = tuple(_audited(model, laws_for_audit(model.objective, laws), force) for model in models)
    notes = []
    if len(audits) > 1:
        notes.append("losses and sizes of different objectives cannot be ranked against each other")
    if any(line.verdict == "refused" for audit in audits for line in audit.lines):
        notes.append(
            f"refused: more than {REFUSE_DECADES} decades of compute beyond the runs behind a law; --force answers"
        )
    return AuditTable(audits=audits, notes=tuple(notes))


def laws_for_audit(objective: str, laws: Laws | None = None) -> tuple[SizingLaw, ...]:
    """The laws that judge a model of this objective, its own before those of text.

    Raises
    ------
    ConfigError : a law that sizes no budget, or none that speaks of the objective.
    """
    chosen: Laws = laws if laws is not None else _published_for(objective)
    found = [with_valley(default_sizing_law(objective))] if laws is None and objective in get_args(Objective) else []
    for law in chosen:
        if law.objective not in (objective, "text"):
            continue
        if isinstance(law, LawFit):
            found += _quick_laws_of_fit(law)
        elif law.sizes_a_budget:
            found.append(_with_range(published_sizing_law(law), law))
        else:
            raise ConfigError(f"{law.id} does not say which size is best for a budget", why=law.form_of.formula)
    if not found:
        raise ConfigError(
            f"none of these laws speaks of {objective.upper()} models", hint="leave --laws out for the published ones"
        )
    return tuple(found)


def _published_for(objective: str) -> Laws:
    """Laws of the objective, those a recommendation uses first, then the text laws it uses for comparison."""
    own = sorted((law for law in load_zoo() if law.objective == objective), key=lambda law: not law.default)
    text = [law for law in load_zoo() if law.objective == "text" and law.default and objective != "text"]
    return (*own, *text)


def _with_range(law: SizingLaw, published: PublishedLaw) -> SizingLaw:
    """A law whose source states ranges of N and D alone reaches at most from the smallest to the largest of both."""
    N, D = published.range_N, published.range_D
    if law.range_C is not None or N is None or D is None:
        return law
    return replace(law, range_C=(6.0 * N[0] * D[0], 6.0 * N[1] * D[1]), flags=(*law.flags, "RANGE_OF_N_AND_D"))


def _quick_laws_of_fit(fit: LawFit) -> list[SizingLaw]:
    """The laws of a fit; their optimum, which is asked for hundreds of times, without its thousands of draws."""
    if fit.surface is None:
        return list(laws_of_fit(fit))
    bare = fit.model_copy(update={"surface": fit.surface.model_copy(update={"draws": ()})})
    return [replace(law, optimum=quick.optimum) for law, quick in zip(laws_of_fit(fit), laws_of_fit(bare), strict=True)]


# ---- one model under one law ---------------------------------------------------------------------------------------


def audit_under(law: SizingLaw, N: float, D: float | None, *, force: bool = False) -> AuditLine:
    """A model of N parameters after D tokens (None: not known) under one law.

    At the model's own compute C = 6 N D: the best size and how far N is from it. On the curve of best models: the
    tokens for which N is the best size, and, where the law states a loss, the cheapest model of the same loss.

    **Source:** Hoffmann et al. 2022, section 3 (the best size for a compute budget); the rest is its inversion.
    """
    said: dict[str, float | str | tuple[str, ...] | None] = {"verdict": "tokens unknown"}
    flags: tuple[str, ...] = law.flags + (("RANGE_UNKNOWN",) if law.range_C is None else ())
    if D is not None:
        C = 6.0 * N * D
        outside = decades_outside(C, law.range_C)
        said["decades_outside"] = outside
        if outside > REFUSE_DECADES and not force:
            said |= {"verdict": "refused", "reason": _refusal(law, C, outside)}
        else:
            judged, flags = _judged(law, N, D)
            said |= judged
    tokens, more = _tokens_for(law, N, force=force)
    return AuditLine.model_validate(
        {
            "law_id": law.law_id,
            "source": law.source,
            "status": law.status,
            "range_C": law.range_C,
            "caveat": law.caveat,
            "D_fit": tokens,
            **said,
            "flags": tuple(dict.fromkeys((*flags, *more))),
        }
    )


def _refusal(law: SizingLaw, C: float, outside: float) -> str:
    low, high = law.range_C or (C, C)
    side = "above" if high < C else "below"
    return f"{C:.2e} FLOPs is {outside:.1f} decades {side} the runs behind {law.law_id} ({low:.0e} to {high:.0e})"


def _judged(law: SizingLaw, N: float, D: float) -> tuple[dict[str, float | str | None], tuple[str, ...]]:
    """What a law says at the model's own compute, and its doubts."""
    C = 6.0 * N * D
    best = answer_of(law, C, "primary")
    if not math.isfinite(best.N):
        return {"verdict": "refused", "reason": f"{law.law_id} has no best size at {C:.2e} FLOPs"}, best.flags
    low, high = best.N_low or best.N, best.N_high or best.N
    verdict: AuditVerdict = "too small" if low > N else "about right" if high >= N else "too large"
    said: dict[str, float | str | None] = {
        "verdict": verdict,
        "N_opt": best.N,
        "D_opt": best.D,
        "N_low": best.N_low,
        "N_high": best.N_high,
        "size_factor": N / best.N,
    }
    loss = law.loss(N, D)
    if loss is None or best.loss is None:
        return said, best.flags
    said |= {"loss": loss, "loss_gap": max(0.0, loss - best.loss)}
    C_equal = compute_for_loss(law, loss, C)
    if C_equal is not None:
        N_equal = law.optimum(C_equal)
        said |= {
            "C_equal": C_equal,
            "N_equal": N_equal,
            "D_equal": C_equal / (6.0 * N_equal),
            "wasted": 1.0 - C_equal / C,
            "serving_saving": 1.0 - N_equal / N,
        }
    return said, best.flags


def _tokens_for(law: SizingLaw, N: float, *, force: bool) -> tuple[float | None, tuple[str, ...]]:
    """Tokens for which N is the best size, unless they lie too far outside the law's range."""
    C = compute_for_size(law, N)
    if C is None:
        return None, ("NO_TOKENS_FIT",)
    outside = decades_outside(C, law.range_C)
    if outside > REFUSE_DECADES and not force:
        return None, ("FIT_REFUSED",)
    return C / (6.0 * N), ("FIT_FAR_OUTSIDE_RANGE",) if outside > FLAG_DECADES else ()


def compute_for_size(law: SizingLaw, N: float) -> float | None:
    """The compute, FLOPs, for which N parameters are the best size; None where the law has none."""
    return _solve(law.optimum, N, 6.0 * N * 20.0 * N)


def compute_for_loss(law: SizingLaw, loss: float, at_most: float) -> float | None:
    """The least compute, FLOPs, up to `at_most`, whose best model reaches a loss; None where none does."""

    def best(C: float) -> float:
        N = law.optimum(C)
        reached = law.loss(N, C / (6.0 * N))
        return math.nan if reached is None else -reached

    if not best(at_most) > -loss:
        return at_most  # the model is the best one, up to rounding
    return _solve(best, -loss, at_most)


def _solve(rising: Callable[[float], float], target: float, start: float) -> float | None:
    """The C at which a rising function of compute meets a target, searched outwards from a start; None beyond."""

    def below(C: float) -> bool:
        return rising(C) < target

    if not math.isfinite(rising(start)):
        return None
    step = 10.0 if below(start) else 0.1
    near, far = start, start * step
    for _ in range(_WIDEST):
        if not math.isfinite(rising(far)):
            return None
        if below(far) != below(near):
            break
        near, far = far, far * step
    else:
        return None
    low, high = sorted((math.log(near), math.log(far)))
    for _ in range(_ROUNDS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if below(math.exp(middle)) else (low, middle)
    return math.exp(0.5 * (low + high))


# ---- one model under all laws --------------------------------------------------------------------------------------


def _audited(model: TrainedModel, laws: Sequence[SizingLaw], force: bool) -> Audit:
    N, D = model.N, model.D
    lines = tuple(audit_under(law, N, D, force=force) for law in laws)
    if model.objective == "text":
        lines = tuple(line.model_copy(update={"flags": _without_text(line.flags)}) for line in lines)
    flags, warnings = _findings(model, lines)
    return Audit(
        model=model.name,
        objective=model.objective,
        N=N,
        D=D,
        C=None if D is None else 6.0 * N * D,
        tokens_status=model.status,
        tokens_source=model.source,
        lines=lines,
        flags=flags,
        warnings=warnings,
    )


def _without_text(flags: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(flag for flag in flags if flag != "TEXT_LAW")


def _findings(model: TrainedModel, lines: Sequence[AuditLine]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Doubts about the model's numbers, then about the laws: a flag and a sentence each."""
    found = [*_doubts_of_model(model), *_doubts_of_laws(lines)]
    judged = [line for line in lines if line.size_factor is not None]
    if {"too large", "too small"} <= {line.verdict for line in judged}:
        said = ", ".join(f"{line.law_id} {line.verdict}" for line in judged)
        found.append(("LAWS_DISAGREE", f"the laws do not even agree on the side: {said}."))
    priced = [line for line in judged if line.wasted is not None]
    if judged and model.objective != "text" and not [line for line in priced if "TEXT_LAW" not in line.flags]:
        what = "only laws of text do" if priced else "what the size costs is not known"
        found.append(("COST_NOT_STATED", f"no {model.objective.upper()} law that answers states a loss: {what}."))
    flags, warnings = zip(*found, strict=True) if found else ((), ())
    return tuple(dict.fromkeys(flags)), tuple(dict.fromkeys(warnings))


def _doubts_of_model(model: TrainedModel) -> list[tuple[str, str]]:
    found = []
    if model.status == "unknown":
        found.append(
            ("TOKENS_UNKNOWN", f"the training tokens of {model.name} are not known here: give them (--tokens).")
        )
    if model.status == "unverified":
        found.append(("TOKENS_UNVERIFIED", f"the tokens of {model.name} are recalled, not checked: {model.source}."))
    if model.note:
        found.append(("TOKENS_NOT_NEW", f"{model.name}: {model.note}; every law here counts D as new tokens."))
    return found


def _doubts_of_laws(lines: Sequence[AuditLine]) -> list[tuple[str, str]]:
    """One sentence per flag, naming the laws it belongs to; the caveat of the first that answers."""
    found = []
    if refused := [f"{line.law_id} ({line.decades_outside:.1f})" for line in lines if line.verdict == "refused"]:
        found.append(("REFUSED", f"{', '.join(refused)}: so many decades of compute outside its runs, not answered."))
    for flag in dict.fromkeys(flag for line in lines for flag in line.flags):
        those = [line for line in lines if flag in line.flags]
        named = ", ".join(line.law_id for line in those)
        if flag in ("ABOVE_RANGE", "BELOW_RANGE"):
            named = ", ".join(f"{line.law_id} ({10**line.decades_outside:,.1f}x)" for line in those)
        found.append((flag, f"{named}: {_SENTENCES.get(flag, flag)}."))
    first = next((line for line in lines if line.N_opt is not None or line.D_fit is not None), None)
    if first is not None and first.caveat:
        found.append(("CAVEAT", f"{first.law_id}: {first.caveat}."))
    return found
