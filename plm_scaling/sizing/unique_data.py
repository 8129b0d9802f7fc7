"""When unique tokens run out: what repeats are known to do, and the other ways to spend the budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from plm_scaling.core.objective import Objective
from plm_scaling.core.units import format_count
from plm_scaling.laws.repeat_worth import worth
from plm_scaling.sizing.recommendation import Alternative

__all__ = [
    "MAX_EPOCHS",
    "MEASURED_EPOCHS",
    "REPEAT_GAPS",
    "UNSEEN_EPOCHS",
    "Spend",
    "alternatives_for",
    "effective_tokens_of",
    "repeat_findings",
    "tokens_spent_at_optimum",
]

MAX_EPOCHS: Final = 4.0
"""Epochs up to which the measured gaps between repeated and unrepeated data did not grow."""
MEASURED_EPOCHS: Final = 13.0
"""Epochs of the longest measured runs."""
UNSEEN_EPOCHS: Final = 2.0 * MEASURED_EPOCHS
"""Beyond so many the law of repeats alone decides, and no size is worth naming."""

REPEAT_GAPS: Final[dict[Objective, tuple[tuple[int, float, float], ...]]] = {
    "mlm": ((1, 0.014, 0.017), (4, 0.013, 0.017), (8, 0.019, 0.021), (13, 0.028, 0.028)),
    "clm": ((1, 0.030, 0.030), (4, 0.031, 0.031), (8, 0.037, 0.037), (13, 0.039, 0.039)),
}
"""(epochs, lowest, highest gap in nats): loss on repeated UniRef50 minus loss on the unrepeated corpus at 154M
parameters and equal tokens. The gap after one epoch is a shift of the data, not repetition.
**Source:** Cheng et al. 2024, released logs (154M runs of 200B tokens)."""

_NEGLIGIBLE_EPOCHS: Final = 1.1
_STUDY_N: Final = 154_448_288
_STUDY_UNIQUE: Final = 15.4e9
_R_D: Final = 15.387756

_STUDY_SAID: Final[dict[Objective, str]] = {
    "mlm": "the published study saw MLM overfit when UniRef was repeated",
    "clm": "the published study saw CLM lose returns when UniRef was repeated",
}


@dataclass(frozen=True)
class Spend:
    """The answer that alternatives are held against."""

    objective: Objective
    N: float
    N_high: float
    D: float
    C: float
    gpu_name: str
    cost_of: Callable[[float, float], tuple[float, float]]
    """(N, D) -> accelerator hours, US dollars at the mid price."""
    exact_hours: Callable[[float], float]
    """Exact training FLOPs of a large model -> accelerator hours."""
    range_C: tuple[float, float] | None


def effective_tokens_of(D: float, unique_tokens: float, R_D: float = _R_D) -> float:
    """Fresh tokens that D tokens over U unique ones are worth under the text law of repeats.

    D' = U + U R (1 - exp(-(D/U - 1)/R)); R = 15.39 is not well identified even for text.

    **Source:** Muennighoff et al. 2023, eq. 5.
    """
    return worth(D, unique_tokens, R_D)


def _gaps_sentence(objective: Objective) -> str:
    parts = []
    for epochs, low, high in REPEAT_GAPS[objective]:
        gap = f"{low:.3f}" if low == high else f"{low:.3f}-{high:.3f}"
        parts.append(f"{gap} at epoch {epochs}")
    return ", ".join(parts)


def repeat_findings(
    objective: Objective, N: float, D: float, unique_tokens: float, max_epochs: float = MAX_EPOCHS
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Flags and sentences about repeating: DATA_REPEATED, DATA_EXHAUSTED, EPOCHS_BEYOND_EVIDENCE.

    Parameters
    ----------
    max_epochs : epochs after which the unique tokens count as exhausted.

    **Source:** Cheng et al. 2024, abstract, and `REPEAT_GAPS`.
    """
    epochs = D / unique_tokens
    if epochs <= _NEGLIGIBLE_EPOCHS:
        return (), ()
    low, high = REPEAT_GAPS[objective][0][1:]
    last_low, last_high = REPEAT_GAPS[objective][-1][1:]
    flags: tuple[str, ...] = ("DATA_REPEATED",)
    said = f"{epochs:.1f} epochs over {format_count(unique_tokens)} unique tokens: {_STUDY_SAID[objective]}."
    growth = (last_low - high, last_high - low)
    grown = f"{growth[0]:.3f}" if math.isclose(*growth) else f"{growth[0]:.3f}-{growth[1]:.3f}"
    measured = (
        f"Measured in its 154M runs, repeated UniRef50 against the whole corpus, nats: {_gaps_sentence(objective)}; "
        f"the gap is there after one epoch (other sequences), so repeating 13 times cost about {grown}."
    )
    warnings = [said, measured]
    if epochs > max_epochs:
        flags += ("DATA_EXHAUSTED",)
        worth = format_count(effective_tokens_of(D, unique_tokens), 2)
        warnings.append(
            f"Your unique tokens are exhausted: this budget repeats them {epochs:.1f} times, more than {max_epochs:g}. "
            "Laws of fresh data are optimistic here; if repeats were worth what they are worth in text, "
            f"the {format_count(D, 2)} tokens would stand for {worth}. See the alternatives."
        )
    if epochs > MEASURED_EPOCHS:
        flags += ("EPOCHS_BEYOND_EVIDENCE",)
        warnings.append(f"No published protein run repeats its data more than {MEASURED_EPOCHS:g} times.")
    per_token, study = N / unique_tokens, _STUDY_N / _STUDY_UNIQUE
    if per_token > 3.0 * study:
        flags += ("MORE_PARAMETERS_PER_UNIQUE_TOKEN",)
        warnings.append(
            f"Your model has {format_count(per_token / study, 2)} times as many parameters per unique token as "
            f"those runs ({format_count(per_token, 2)} against {study:.2g}): expect repeats to hurt earlier than the "
            "gaps say."
        )
    return flags, tuple(warnings)


def tokens_spent_at_optimum(optimum: Callable[[float], float], D: float) -> float | None:
    """FLOPs of the compute-optimal run that sees D tokens: C / (6 N(C)) = D. None if no budget up to 1e32 does.

    Bisection in ln C; tokens at the optimum must rise with C.
    """
    low, high = math.log(1e6), math.log(1e32)

    def excess(log_c: float) -> float:
        c = math.exp(log_c)
        return c / (6.0 * optimum(c)) - D

    if excess(low) > 0 or excess(high) < 0:
        return None
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return math.exp(0.5 * (low + high))


def alternatives_for(
    spend: Spend,
    optimum: Callable[[float], float],
    unique_tokens: float | None,
    max_epochs: float = MAX_EPOCHS,
) -> tuple[Alternative, ...]:
    """Other ways to use the budget: only the null action while data lasts, all of them once it is exhausted."""
    found: list[Alternative] = []
    if unique_tokens is not None and spend.D / unique_tokens > max_epochs:
        found += [
            _stop_early(spend, unique_tokens, max_epochs),
            *_smaller_run(spend, optimum, unique_tokens, max_epochs),
            _larger_model(spend, unique_tokens, max_epochs),
            _more_data(spend, unique_tokens, max_epochs),
        ]
        if spend.objective == "mlm":
            found.append(_clm_first(spend, unique_tokens))
    return (*found, _reuse(spend))


def _alternative(
    spend: Spend, key: str, title: str, note: str, N: float, D: float, unique: float, flags: tuple[str, ...] = ()
) -> Alternative:
    hours, usd = spend.cost_of(N, D)
    return Alternative(
        key=key,
        title=title,
        note=note,
        N=N,
        D=D,
        unique_tokens=unique,
        epochs=D / unique,
        C=6.0 * N * D,
        gpu_hours=hours,
        usd=usd,
        flags=flags,
    )


def _stop_early(spend: Spend, unique: float, max_epochs: float) -> Alternative:
    D = max_epochs * unique
    return _alternative(
        spend,
        "stop_early",
        f"same size, {max_epochs:g} epochs, keep the rest of the money",
        f"spends {D / spend.D:.0%} of the compute; fewer tokens than the law wants for this size; plan the schedule "
        "for these tokens, a longer run cut short is not the same",
        spend.N,
        D,
        unique,
    )


def _smaller_run(
    spend: Spend, optimum: Callable[[float], float], unique: float, max_epochs: float
) -> tuple[Alternative, ...]:
    C = tokens_spent_at_optimum(optimum, max_epochs * unique)
    if C is None or C >= spend.C:
        return ()
    N = optimum(C)
    below = spend.range_C is not None and spend.range_C[0] > C
    return (
        _alternative(
            spend,
            "smaller_run",
            f"the compute-optimal run that needs {max_epochs:g} epochs",
            f"all the law can use of your data, {100.0 * C / spend.C:.2g} % of the budget; cheap, and a higher loss"
            + ("; below the range of the law" if below else ""),
            N,
            C / (6.0 * N),
            unique,
            ("BELOW_RANGE",) if below else (),
        ),
    )


def _larger_model(spend: Spend, unique: float, max_epochs: float) -> Alternative:
    D = max_epochs * unique
    N = spend.C / (6.0 * D)
    outside = spend.N_high < N
    return _alternative(
        spend,
        "larger_model",
        f"all the compute in {max_epochs:g} epochs of a larger model",
        f"{N / spend.N:.2g} times the size the law wants"
        + (", outside its band" if outside else "")
        + "; larger models overfit repeated data sooner, and cost more to use",
        N,
        D,
        unique,
        ("OUTSIDE_BAND",) if outside else (),
    )


def _more_data(spend: Spend, unique: float, max_epochs: float) -> Alternative:
    needed = spend.D / max_epochs
    return _alternative(
        spend,
        "more_data",
        f"the same run with {format_count(needed - unique, 2)} more unique tokens",
        f"brings the epochs down to {max_epochs:g}; the published study did this with metagenomic sequences; the price "
        "of the data is not in the cost",
        spend.N,
        spend.D,
        needed,
    )


def _clm_first(spend: Spend, unique: float) -> Alternative:
    return _alternative(
        spend,
        "clm_first",
        "about 20 % of the compute as CLM, then MLM from its weights",
        f"the MLM phase then repeats the data {0.8 * spend.D / unique:.1f} times; in the three published pairs "
        "(34M-202M, unrepeated data, CLM share 9-19 %) a CLM token was worth 1.7-3.5 MLM tokens; untested on "
        "repeated data: try it with `plm-scaling transfer` at small scale",
        spend.N,
        spend.D,
        unique,
    )


def _reuse(spend: Spend) -> Alternative:
    """The null action. **Source:** Lin et al. 2023 (ESM-2 650M), Nijkamp et al. 2023 (ProGen2); ProteinGym."""
    if spend.objective == "mlm":
        name, N, flops = "ESM-2 650M", 651e6, 4.42e21
        note = (
            "zero-shot fitness does not keep rising with size (ProteinGym Spearman .414 at 650M, .406 at 3B, .400 at "
            "15B), and on capsids alignment models beat every single-sequence model"
        )
    else:
        name, N, flops = "ProGen2-xlarge", 6.4e9, 1.34e22
        note = "ProteinGym Spearman .391, against .380 of ProGen2-large"
    share = spend.C / flops
    return Alternative(
        key="reuse",
        title=f"train nothing: reuse {name}",
        note=f"your budget is {format_count(share, 2)} times its training compute (about "
        f"{spend.exact_hours(flops):,.0f} {spend.gpu_name} hours); {note}",
        N=N,
    )
