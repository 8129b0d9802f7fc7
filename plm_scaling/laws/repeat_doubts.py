"""What runs with repeated data determine and what not: parameter by parameter, and as flags with a plain sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from plm_scaling.laws.law_fit import Interval
from plm_scaling.laws.repeat_fit import Identified
from plm_scaling.laws.repeat_problem import RepeatProblem, RepeatRuns, count_levels

__all__ = [
    "SENTENCES",
    "UNIDENTIFIED",
    "explain_repeats",
    "identify",
    "repeat_flags",
    "rises_within",
    "upturn_flags",
]

UNIDENTIFIED: Final = {
    "R_D": "R_D_UNIDENTIFIED",
    "R_N": "R_N_UNIDENTIFIED",
    "P0": "PENALTY_UNIDENTIFIED",
    "delta": "PENALTY_UNIDENTIFIED",
    "kappa": "PENALTY_UNIDENTIFIED",
    "offset": "OFFSET_CONFOUNDED",
}
"""Parameter -> flag raised where it is not identified."""

SENTENCES: Final[dict[str, str]] = {
    "NO_REPEATS": "No run passes over its data more than 1.1 times: nothing is known of what repeating costs.",
    "TOO_FEW_REPEATS": "Fewer repeated runs than the law of repeats has parameters and two more: none is identified, "
    "and whether more epochs ever raise the loss is open.",
    "ONE_SIZE_REPEATED": "Data were repeated at one model size only: how the cost of repeating grows with the model, "
    "and whether it ends or turns the loss upwards, cannot be told; vary unique tokens and sizes.",
    "R_D_UNIDENTIFIED": "These runs do not determine R_D, after how many repeats a token is worn out: its interval "
    "spans more than a factor of ten or has no end.",
    "R_N_UNIDENTIFIED": "These runs do not determine R_N, the worth of parameters beyond the best size for the unique "
    "tokens: its interval spans more than a factor of ten or has no end.",
    "PENALTY_UNIDENTIFIED": "The size of the penalty or one of its exponents is not determined by these runs.",
    "REPEAT_RANGE": "The decay of repeated tokens, or its interval, reaches beyond the epochs that were run: what "
    "happens there is extrapolation.",
    "MULTIMODAL": "Two different sets of parameters fit within 0.5 % of each other, or few starts agree on the best.",
    "FORMS_INDISTINGUISHABLE": "The best decay and the penalty fit these runs equally well within their noise: whether "
    "more epochs ever raise the loss is open, and plans should be made with both.",
    "NO_REPEAT_EFFECT": "Counting every repeated token as a new one fits these runs as well: no cost of repeating is "
    "seen up to the epochs that were run.",
    "NO_UPTURN_IN_DATA": "In no series of runs of equal size and unique tokens does the loss rise with the epochs: a "
    "turn upwards, if there is one, lies beyond what was run.",
    "UPTURN_NOT_IN_FORM": "In some series the loss rises with the epochs by more than the scatter, which a decay "
    "cannot describe: take the penalty form.",
    "OFFSET_CONFOUNDED": "All repeated runs come from another corpus or validation set and have the same epochs: a "
    "shift between corpora and the cost of repeating cannot be told apart, and the whole gap is given to the shift.",
    "MIXED_CORPORA": "The repeated runs come from several corpora or validation sets, and one offset serves for all.",
    "ANCHORED": "Where an unrepeated run of equal size and tokens exists, repeated runs are held against it instead of "
    "the surface; its own noise is common to them and not in the intervals.",
    "EXPONENT_AT_BOUND": "An exponent of the penalty ended at its bound.",
    "BASE_UNIDENTIFIED": "The base law was taken from a surface with doubts of its own: the law of repeats inherits "
    "them.",
}

_DECADE: Final = 10.0
_FLAT: Final = ("kappa",)
"""Exponents that may be zero: judged by the width of the interval, one power of N/U, not by a ratio."""


def identify(
    setup: RepeatProblem,
    parameters: Mapping[str, Interval],
    profiles: Mapping[str, Interval],
    runs: RepeatRuns,
) -> tuple[Identified, ...]:
    """Which of the fitted parameters of the repeats the runs determine: both of its intervals must say so."""
    out = [Identified(quantity=name, identified=False, reason=why) for name, why in setup.silent.items()]
    n = int(runs.repeated.sum())
    few = n < len([name for name in setup.own if name != "offset"]) + 2
    for name in setup.own:
        if name == "offset":
            reason = "it stands for the shift and the cost of repeating together" if setup.confounded else ""
        else:
            reason = f"only {n} runs repeat their data" if few else ""
            reason = reason or _doubt(name, parameters[name], profiles.get(name))
        out.append(Identified(quantity=name, identified=not reason, reason=reason))
    return tuple(out)


def _doubt(name: str, percentile: Interval, profile: Interval | None) -> str:
    """Why an interval is too wide to call the parameter determined; empty where it is not."""
    for kind, interval in (("bootstrap", percentile), ("profile", profile)):
        if interval is None:
            continue
        low, high = interval.low, interval.high
        if math.isinf(high) or math.isinf(low):
            return f"the {kind} interval has no {'upper' if math.isinf(high) else 'lower'} end (from {low:.3g})"
        if name in _FLAT:
            if high - low > 1.0:
                return f"the {kind} interval, {low:.2g} to {high:.2g}, is wider than one power"
        elif low <= 0 or high > _DECADE * low:
            return f"the {kind} interval, {low:.3g} to {high:.3g}, spans more than a factor of ten"
    return ""


def rises_within(runs: RepeatRuns, sd: float) -> bool | None:
    """Whether the loss rises with D in some series of equal N, U and corpus; None where there is no such series.

    A rise counts where a loss lies above an earlier one of its series by more than 2 sqrt(2) standard deviations `sd`
    of ln L.
    """
    sample = runs.sample
    key = np.stack([np.round(np.log(sample.N) / 0.02), np.round(np.log(runs.U) / 0.02), runs.shifted])
    seen = None
    for series in np.unique(key, axis=1).T:
        rows = np.flatnonzero((key == series[:, None]).all(axis=0) & runs.repeated)
        if len(rows) < 2 or count_levels(sample.D[rows]) < 2:
            continue
        log_L = np.log(sample.loss[rows[np.argsort(sample.D[rows], kind="stable")]])
        rise = float((log_L - np.minimum.accumulate(log_L)).max())
        seen = bool(seen) or rise > 2.0 * math.sqrt(2.0) * sd
    return seen


def repeat_flags(
    setup: RepeatProblem,
    runs: RepeatRuns,
    identified: Iterable[Identified],
    parameters: Mapping[str, Interval],
    sd: float,
    *,
    multimodal: bool,
) -> tuple[str, ...]:
    """Every doubt about one form by name; `SENTENCES` has what each means."""
    flags = []
    n = int(runs.repeated.sum())
    own = [name for name in setup.own if name != "offset"]
    if not n:
        flags.append("NO_REPEATS")
    elif n < max(len(own), 1) + 2:
        flags.append("TOO_FEW_REPEATS")
    if n and count_levels(runs.sample.N[runs.repeated]) == 1:
        flags.append("ONE_SIZE_REPEATED")
    flags += [UNIDENTIFIED[entry.quantity] for entry in identified if not entry.identified]
    if "R_D" in own and parameters["R_D"].high > float(runs.R.max()):
        flags.append("REPEAT_RANGE")
    if any(name in own and _at_bound(parameters[name].value, name) for name in ("delta", "kappa")):
        flags.append("EXPONENT_AT_BOUND")
    if multimodal:
        flags.append("MULTIMODAL")
    return tuple(dict.fromkeys((*flags, *upturn_flags(setup.kind, runs, sd))))


def upturn_flags(kind: str, runs: RepeatRuns, sd: float) -> tuple[str, ...]:
    """What the runs say about a turn upwards, against a scatter `sd` of ln L."""
    rises = rises_within(runs, sd)
    if rises and kind != "penalty":
        return ("UPTURN_NOT_IN_FORM",)
    return ("NO_UPTURN_IN_DATA",) if rises is False else ()


def _at_bound(value: float, name: str) -> bool:
    low, high = (0.05, 6.0) if name == "delta" else (0.0, 6.0)
    return value <= low + 1e-6 or value >= high - 1e-6


def explain_repeats(flags: Iterable[str]) -> tuple[str, ...]:
    """One sentence per flag, each once."""
    return tuple(f"{flag}: {SENTENCES[flag]}" for flag in dict.fromkeys(flags) if flag in SENTENCES)
