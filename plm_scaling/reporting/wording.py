"""Numbers as a reader wants them: rounded by their errors, with powers of ten and multiplication signs."""

from __future__ import annotations

import math
import re
from typing import Final

from markupsafe import Markup, escape

from plm_scaling.core.units import format_count, format_with_error
from plm_scaling.laws.law_fit import FormScore, Interval, SurfaceFit
from plm_scaling.transfers.transfer_fit import TransferPair

__all__ = [
    "MINUS",
    "PLUS_MINUS",
    "TIMES",
    "chip_line",
    "count",
    "count_interval",
    "count_range",
    "flag_words",
    "form_words",
    "interval_se",
    "join_words",
    "measured",
    "number_interval",
    "passes",
    "percent",
    "power_of_ten",
    "signed",
    "split_flags",
    "token_gain",
    "typeset",
]

PLUS_MINUS: Final = "\u00b1"
TIMES: Final = "\u00d7"
MINUS: Final = "\u2212"
_NO_BREAK: Final = "\u00a0"
_RAISED: Final = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")
_Z95: Final = 1.959964


_LETTERS: Final = {"alpha": "\u03b1", "beta": "\u03b2", "eta": "\u03b7"}


def typeset(text: str) -> Markup:
    """Plain text as HTML: N_opt, D_t, A0 with lowered indices, ^-alpha raised, Greek letters, 1.5e+11 in full."""
    html = str(escape(text))
    html = re.sub(r"\b([NDCBa])_(opt|t|exact|6nd|c|N|D)\b", r"\1<sub>\2</sub>", html)
    html = re.sub(r"\b([ABNDLK])0\b", r"\1<sub>0</sub>", html)
    html = re.sub(r"\b(alpha|beta|eta)\b", lambda m: _LETTERS[m[1]], html)
    html = re.sub(r"\b(\d(?:\.\d+)?)e\+(\d\d)\b", lambda m: power_of_ten(float(m[0])), html)
    html = re.sub(r"\^\(([^()]*)\)", r"<sup>\1</sup>", html)
    html = re.sub(r"\^(-?)(\w)", lambda m: f"<sup>{MINUS if m[1] else ''}{m[2]}</sup>", html)
    return Markup(html)


def _marks(text: str) -> str:
    return text.replace("+/-", PLUS_MINUS).replace(" ", _NO_BREAK).replace("-", MINUS)


def chip_line(objective: str, text: str, *args: object) -> Markup:
    """A line that starts with the objective's chip; `text` is our own HTML, `args` are escaped."""
    chip = Markup('<b class="chip {}">{}</b> ').format(objective, objective.upper())
    return chip + Markup(text).format(*args)


def flag_words(flags: tuple[str, ...]) -> str:
    """Flags as words: shallow minimum, E unidentified."""
    words = (flag.replace("_", " ").lower() for flag in flags)
    return ", ".join(text.replace("e unidentified", "E unidentified") for text in words)


def split_flags(flags: str) -> tuple[str, ...]:
    """The flags of a run, which commas or spaces separate."""
    return tuple(flag for flag in re.split(r"[,\s]+", flags) if flag)


def form_words(fit: SurfaceFit | FormScore) -> str:
    """Name of a fit's form: bounded with a batch term, L0 = 2.88."""
    plain, _, batch = fit.form.partition("+")
    words = plain.replace("_", " ") + (" with a batch term" if batch else "")
    return words if fit.plateau is None else f"{words}, L0 = {fit.plateau:.4g}"


def measured(value: float, se: float | None) -> str:
    """0.479 +/- 0.012 with its real sign; without an error three decimals."""
    return _marks(format_with_error(value, se) if se else f"{value:.3f}")


def signed(value: float, se: float | None) -> str:
    """A difference: always with a sign."""
    return ("+" if value > 0 else "") + measured(value, se)


def interval_se(interval: Interval) -> float:
    """Standard error of a normal estimate with the same interval width (95 % assumed as its level)."""
    return (interval.high - interval.low) / (2 * _Z95)


def number_interval(interval: Interval) -> str:
    """0.68 (0.55 to 0.85), all rounded by the interval's width.

    **Source:** Particle Data Group: two digits of an error that begins with 1, 2 or up to 3.54, else one.
    """
    se = interval_se(interval)
    decimals = 3
    if se > 0 and math.isfinite(se):
        exponent = math.floor(math.log10(se))
        decimals = min(6, max(0, -exponent + (se / 10.0**exponent < 3.55)))
    value, low, high = (f"{x:.{decimals}f}" for x in (interval.value, interval.low, interval.high))
    return _marks(f"{value} ({low} to {high})")


def count(value: float) -> str:
    """1.96M, with a real sign where it is negative."""
    return _marks(format_count(value))


def token_gain(pair: TransferPair) -> str | None:
    """D_t with its interval, or the side on which the scratch runs bound it; None where they do not."""
    low, high = pair.D_t_low, pair.D_t_high
    if pair.D_t is None:
        if low is not None:
            return f"at least {count(low)}"
        return f"at most {count(high)}" if high is not None else None
    if low is not None and high is not None:
        return f"{count(pair.D_t)} ({count_range(low, high)})"
    if low is not None:
        return f"{count(pair.D_t)} (at least {count(low)})"
    return count(pair.D_t) + (f" (at most {count(high)})" if high is not None else "")


def count_range(low: float, high: float) -> str:
    """95.2k to 140k."""
    return _marks(f"{format_count(low, 2)} to {format_count(high, 2)}")


def count_interval(interval: Interval) -> str:
    """117k (95k to 140k)."""
    return _marks(f"{format_count(interval.value)} (") + count_range(interval.low, interval.high) + ")"


def power_of_ten(value: float, digits: int = 3) -> str:
    """1.25 x 10^11 with a raised exponent; plain counts below a million."""
    if not math.isfinite(value) or value < 1e6:
        return format_count(value)
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    raised = f"10{str(int(exponent)).translate(_RAISED)}"
    short = mantissa.rstrip("0").rstrip(".")
    return raised if short == "1" else f"{short}{TIMES}{raised}"


def passes(epochs: float) -> str:
    """Passes over the data: 0.5, 4.2, 13, 120."""
    return f"{epochs:.2g}" if epochs < 99.5 else f"{epochs:,.0f}"


def percent(share: float) -> str:
    """12 %, 0.3 %: whole numbers from 10 % on."""
    points = 100 * share
    return f"{points:.0f}{_NO_BREAK}%" if points >= 10 or points == 0 else f"{points:.1f}{_NO_BREAK}%"


def join_words(words: list[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
