"""The verbs about published laws; part of `plm_scaling.api`, where they are found with the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plm_scaling.laws.zoo_checks import CheckOutcome
    from plm_scaling.sizing.law_table import LawComparison, LawSheet, LawSummary

__all__ = ["laws_check", "laws_compare", "laws_list", "laws_show"]


def laws_list(*, objective: str | None = None, unverified: bool = False) -> tuple[LawSummary, ...]:
    """The published laws, of one objective if given; those nobody has checked only if `unverified`."""
    from plm_scaling.sizing.law_table import law_summaries

    return law_summaries(objective=objective, unverified=unverified)


def laws_show(name: str, *, flops: Sequence[float] = ()) -> LawSheet:
    """One published law: formula, coefficients, source, and what it says at budgets (default: over its range)."""
    from plm_scaling.sizing.law_table import law_sheet

    return law_sheet(name, flops)


def laws_compare(
    flops: float,
    names: Sequence[str] = (),
    *,
    fits: Sequence[Path] = (),
    objective: str | None = None,
    unverified: bool = False,
) -> LawComparison:
    """Published laws and fits of one's own (fit.json files) side by side at one budget of training FLOPs."""
    from plm_scaling.laws.law_fit import LawFit
    from plm_scaling.sizing.law_table import compare_laws

    own = [LawFit.read(path) for path in fits]
    return compare_laws(flops, names, own, objective=objective, unverified=unverified)


def laws_check() -> tuple[CheckOutcome, ...]:
    """Every number that a published law's source prints, beside what the shipped law says."""
    from plm_scaling.laws.zoo_checks import check_zoo

    return check_zoo()
