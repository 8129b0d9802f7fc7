"""`Alarm`: a named reason not to believe a result, with its sentence. A model can be bad, and so can its scoring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import RefusedError
from plm_scaling.core.records import Record
from plm_scaling.evals.adapters.base import Adapter, ModelInfo
from plm_scaling.evals.metrics import spearman

__all__ = [
    "Alarm",
    "AlarmCode",
    "SizeScore",
    "dead_row_alarms",
    "piece_alarms",
    "score_alarms",
    "size_alarms",
    "task_token_alarms",
    "terminal_alarms",
]

AlarmCode = Literal[
    "SCORES_NOT_FINITE",
    "SCORES_CONSTANT",
    "SCORE_IS_LENGTH",
    "SCORE_IS_MUTATION_COUNT",
    "SIGN_FLIP",
    "FALLS_WITH_SIZE",
    "ENDS_UNKNOWN",
    "STARTS_UNKNOWN",
    "TASK_TOKEN_MISSING",
    "DEAD_ROWS",
    "CONTAMINATED_EXACT",
    "CONTAMINATED_90",
    "CONTAMINATED_50",
    "CONTAMINATION_UNSEARCHED",
    "MEMORISED",
    "CANONICAL_TOKENS",
]

_TOO_ALIKE: Final = 0.9
_CLEARLY: Final = 0.05
"""Difference of rank correlations that counts where no interval says what chance does."""
_RARER: Final = 10.0
_START: Final = 0.1
_BEGIN_ALIKE: Final = 0.8
_DEAD_SHARE: Final = 0.01
_TASK_TOKENS: Final = tuple(f"{a}{kind}mask{b}" for kind in "gst" for a, b in ("[]", "<>"))
"""General language models' names for what is to be filled in: the rest of a text, a sentence, a token."""


class Alarm(Record):
    """One of the named reasons."""

    code: AlarmCode
    sentence: str
    value: float | None = None
    """The number it was raised by: a correlation, a share, a difference."""
    where: str = ""
    """Task, assay, family or model."""


@dataclass(frozen=True)
class SizeScore:
    """A model of a family on one task."""

    name: str
    N: float
    """Parameters."""
    value: float
    """Higher is better."""
    low: float | None = None
    high: float | None = None


def score_alarms(
    scores: npt.ArrayLike,
    *,
    lengths: Sequence[int] = (),
    mutations: Sequence[int] = (),
    where: str = "",
) -> tuple[Alarm, ...]:
    """Whether scores say anything beyond how long a sequence is, or how many residues differ from the wild type.

    Parameters
    ----------
    scores : float64[n].
    lengths, mutations : [n] each, or nothing; what does not vary cannot explain scores and is passed over.
    where : task or assay, for the sentence.
    """
    score_n = np.asarray(scores, dtype=np.float64)
    bad = int((~np.isfinite(score_n)).sum())
    if bad:
        sentence = f"{bad} of {len(score_n)} scores are not finite numbers: no metric of them is defined."
        return (Alarm(code="SCORES_NOT_FINITE", sentence=sentence, value=bad / len(score_n), where=where),)
    if len(score_n) and np.ptp(score_n) == 0.0:
        sentence = f"All {len(score_n)} scores are {score_n[0]:g}: the model does not tell the sequences apart."
        return (Alarm(code="SCORES_CONSTANT", sentence=sentence, where=where),)
    found = []
    explanations: tuple[tuple[AlarmCode, str, Sequence[int], str], ...] = (
        ("SCORE_IS_LENGTH", "length", lengths, "a total has been divided by the length, or the model is near uniform"),
        ("SCORE_IS_MUTATION_COUNT", "number of mutations", mutations, "counting mutations would score as well"),
    )
    for code, what, values, cause in explanations:
        rho = _correlation(score_n, values)
        if rho is not None and abs(rho) > _TOO_ALIKE:
            sentence = f"The scores follow the {what} (rank correlation {rho:+.2f}): {cause}."
            found.append(Alarm(code=code, sentence=sentence, value=rho, where=where))
    return tuple(found)


def size_alarms(sizes: Sequence[SizeScore], *, where: str = "") -> tuple[Alarm, ...]:
    """Whether the models of one family contradict each other: a sign that flips, or a score that only ever falls.

    With intervals only what they exclude counts; without, differences of rank correlations above 0.05.
    """
    ordered = sorted(sizes, key=lambda one: one.N)
    found = []
    above = [one for one in ordered if _lowest(one) > 0.0]
    below = [one for one in ordered if _highest(one) < 0.0]
    if above and below:
        worst, best = min(below, key=lambda one: one.value), max(above, key=lambda one: one.value)
        sentence = (
            f"{worst.name} scores {worst.value:+.3f} and {best.name} {best.value:+.3f}: a model of one family cannot "
            "rank the same variants the other way round; look at how they were scored before at how good they are."
        )
        found.append(Alarm(code="SIGN_FLIP", sentence=sentence, value=best.value - worst.value, where=where))
    steps = np.diff([one.value for one in ordered])
    if len(ordered) >= 3 and (steps < 0.0).all() and _highest(ordered[-1]) < _lowest(ordered[0]):
        sentence = (
            f"Every larger model scores lower, from {ordered[0].value:.3f} ({ordered[0].name}) to "
            f"{ordered[-1].value:.3f} ({ordered[-1].name}): overtrained for the task, or scored without what the "
            "larger ones need (terminals, task tokens, precision)."
        )
        fall = ordered[-1].value - ordered[0].value
        found.append(Alarm(code="FALLS_WITH_SIZE", sentence=sentence, value=fall, where=where))
    return tuple(found)


def terminal_alarms(adapter: Adapter, sequences: Sequence[str]) -> tuple[Alarm, ...]:
    """Whether a causal model knows where proteins begin and end, asked of a few whole ones.

    A model that knew nothing but the mean length L would end a protein at any residue with probability 1 / (L + 1).
    One to which a true end is ten times less likely has never been shown ends, or is not shown them here. Likewise a
    model of whole proteins knows that most begin with M; that is asked where 80 % of `sequences` do.

    Parameters
    ----------
    sequences : complete proteins, not fragments.

    Raises
    ------
    RefusedError : no sequence; the model gives no likelihoods from the left.
    """
    if not sequences:
        raise RefusedError("no protein to ask about ends", hint="give a few complete ones")
    raw = adapter.residue_logprobs(sequences, letters="raw")
    found = []
    end = float(np.mean([logp[-1] for logp in raw]))
    by_length = -math.log(float(np.mean([len(sequence) for sequence in sequences])) + 1.0)
    if end < by_length - math.log(_RARER):
        sentence = (
            f"{adapter.info.name} expects the end of a protein where it is with a probability of {math.exp(end):.1e}, "
            f"which knowing the mean length alone makes {math.exp(by_length):.1e}: it was trained without ends, or "
            "they are not where it was trained to see them. Compare sequences of one length only."
        )
        found.append(Alarm(code="ENDS_UNKNOWN", sentence=sentence, value=end, where=adapter.info.name))
    begins = [logp[0] for sequence, logp in zip(sequences, raw, strict=True) if sequence.startswith("M")]
    if len(begins) >= _BEGIN_ALIKE * len(sequences):
        start = math.exp(float(np.mean(begins)))
        if start < _START:
            sentence = (
                f"{adapter.info.name} expects the M that {len(begins)} of {len(sequences)} proteins begin with with a "
                f"probability of {start:.3f}: it is not told that a protein begins, or has not learnt it."
            )
            found.append(Alarm(code="STARTS_UNKNOWN", sentence=sentence, value=start, where=adapter.info.name))
    return tuple(found)


def task_token_alarms(info: ModelInfo) -> tuple[Alarm, ...]:
    """Whether a model that was trained with a token that says what to do is asked without one."""
    known = [name for name in info.symbols if name.lower() in _TASK_TOKENS]
    if not known or set(known) & set(info.before):
        return ()
    sentence = (
        f"{info.name} knows {', '.join(known)}, which tell it what to do, and is shown "
        f"{' '.join(info.before) or 'nothing'} ahead of a sequence: its likelihoods may be those of another task."
    )
    return (Alarm(code="TASK_TOKEN_MISSING", sentence=sentence, where=info.name),)


def piece_alarms(info: ModelInfo) -> tuple[Alarm, ...]:
    """Whether a model's likelihoods are those of one cut of a sequence into tokens of several residues."""
    if "total" not in info.abilities:
        return ()
    sentence = (
        f"{info.name} reads tokens of several residues: its likelihood of a protein is that of the cut its tokenizer "
        "makes, a lower bound of the protein's own, and a substitution may change the cut."
    )
    return (Alarm(code="CANONICAL_TOKENS", sentence=sentence, where=info.name),)


def dead_row_alarms(info: ModelInfo) -> tuple[Alarm, ...]:
    """Whether more than 1 % of a model's parameters belong to tokens that no sequence has."""
    whole = info.N_total + info.N_dead
    share = info.N_dead / whole if whole else 0.0
    if share <= _DEAD_SHARE:
        return ()
    sentence = (
        f"{info.N_dead:.3g} of {whole:.3g} parameters of {info.name} ({share:.0%}) are rows of tokens that no protein "
        f"has: it counts as {info.N_total:.3g}, and its raw probabilities must be renormalised over the amino acids."
    )
    return (Alarm(code="DEAD_ROWS", sentence=sentence, value=share, where=info.name),)


def _correlation(score_n: npt.NDArray[np.float64], values: Sequence[int]) -> float | None:
    if len(values) != len(score_n) or len(set(values)) < 2:
        return None
    try:
        return spearman(values, score_n)
    except RefusedError:
        return None


def _lowest(one: SizeScore) -> float:
    return one.value - _CLEARLY if one.low is None else one.low


def _highest(one: SizeScore) -> float:
    return one.value + _CLEARLY if one.high is None else one.high
