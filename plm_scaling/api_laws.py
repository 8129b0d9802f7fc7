"""The verbs about published laws; part of `plm_scaling.api`, where they are found with the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plm_scaling.laws.causes import CauseTable
    from plm_scaling.laws.zoo_checks import CheckOutcome
    from plm_scaling.sizing.law_table import LawComparison, LawSheet, LawSummary

__all__ = ["laws_causes", "laws_check", "laws_compare", "laws_list", "laws_show"]


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


def laws_causes(
    tables: Sequence[Path] = (), *, objective: str | None = None, validation: str = "val_iid"
) -> CauseTable:
    """What moves the exponent of N_opt ~ C^a from Kaplan's to Chinchilla's, one cause at a time.

    Without tables: the minima that Porian et al. 2024 published. With two or more: runs that differ by one cause, the
    first being what the others are compared with; a runs folder is also read with all parameters counted.

    Parameters
    ----------
    tables : runs folders, CSV or Parquet files.
    objective : needed only where they hold both.
    validation : name of the validation set whose losses are compared (runs folders only).

    Raises
    ------
    FitError : no usable run in one of them, or nothing to compare.
    """
    from plm_scaling.core.errors import ConfigError
    from plm_scaling.core.run_table import RunTable
    from plm_scaling.laws.causes import causes_of_runs, published_causes
    from plm_scaling.sweeps.runs import all_parameters, collect_runs

    if not tables:
        return published_causes()
    runs = {
        _named(path): collect_runs(path, validation=validation)
        if path.is_dir()
        else RunTable.read(path, objective=objective)
        for path in tables
    }
    present = sorted({row.objective for row in next(iter(runs.values()))})
    if objective is None and len(present) != 1:
        raise ConfigError(
            f"the table holds {' and '.join(present) or 'no complete runs'}: which one?", where=str(tables[0])
        )
    counted = all_parameters(tables[0]) if tables[0].is_dir() else None
    return causes_of_runs(runs, objective or present[0], all_parameters=counted)


def _named(path: Path) -> str:
    """A study's name where its folder is called runs."""
    return path.parent.name if path.name == "runs" and path.parent.name else path.stem
