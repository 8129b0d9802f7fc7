"""The zoo against its own sources: every number a source prints, and every optimum against a search of its loss."""

from __future__ import annotations

import math
from typing import Final

from plm_scaling.core.records import Record
from plm_scaling.laws.zoo import PublishedLaw, all_laws
from plm_scaling.laws.zoo_forms import lowest_over_sizes

__all__ = ["CheckOutcome", "check_zoo"]

_SEARCH_BUDGETS: Final = (1e18, 1e21, 1e24)
# A minimum is found to the square root of the precision of the loss: the loss is flat there.
_SEARCH_WITHIN: Final = 1e-4


class CheckOutcome(Record):
    """One number checked."""

    law_id: str
    given: str
    """What the law was asked, e.g. "C=1e+21"."""
    quantity: str
    expected: float
    """What the source prints, or a numerical search finds."""
    got: float
    """What the shipped law says; nan where it says nothing."""
    relative_difference: float
    within: float
    ok: bool


def check_zoo(laws: tuple[PublishedLaw, ...] | None = None) -> tuple[CheckOutcome, ...]:
    """Evaluate every law at the points its source prints, and search the minimum of every stated loss.

    Parameters
    ----------
    laws : by default every law of the zoo; unverified ones state no points, so that only their algebra is checked.

    **Source:** the `check` entries of `zoo.toml`.
    """
    found: list[CheckOutcome] = []
    for law in all_laws() if laws is None else laws:
        for point in law.check:
            said = law.answer(point.given)
            given = ", ".join(f"{name}={value:.10g}" for name, value in point.given.items()) or "the law"
            for name, printed in point.prints.items():
                found.append(_outcome(law.id, given, name, printed, said.get(name, math.nan), point.within))
        if law.form_of.loss is not None:
            found += [_searched(law, C) for C in _SEARCH_BUDGETS]
    return tuple(found)


def _searched(law: PublishedLaw, C: float) -> CheckOutcome:
    """The stated optimum against the lowest loss on 6 N D = C."""

    def loss(N: float) -> float:
        stated = law.loss(N, C / (6.0 * N))
        return math.inf if stated is None else stated

    N = law.optimum(C)[0]
    return _outcome(law.id, f"C={C:.10g}", "N of the lowest loss", lowest_over_sizes(loss), N, _SEARCH_WITHIN)


def _outcome(law_id: str, given: str, quantity: str, expected: float, got: float, within: float) -> CheckOutcome:
    difference = got / expected - 1.0
    return CheckOutcome(
        law_id=law_id,
        given=given,
        quantity=quantity,
        expected=expected,
        got=got,
        relative_difference=difference,
        within=within,
        ok=abs(difference) <= within,  # nan: False
    )
