"""Everything a table of runs says about one objective: minima, surface, noise, and the doubts in plain words."""

from __future__ import annotations

import math

from plm_scaling.core.run_table import RunTable
from plm_scaling.laws.budgets import Currency, batch_range, check_runs, compute_of
from plm_scaling.laws.doubts import explain, explain_row
from plm_scaling.laws.fit import MIN_RUNS, fit_surface
from plm_scaling.laws.isoflop import fit_isoflop_both
from plm_scaling.laws.law_fit import IsoflopFit, LawFit, SurfaceFit
from plm_scaling.laws.noise import law_runs, pooled_seed_noise

__all__ = ["fit_laws"]


def fit_laws(
    table: RunTable,
    objective: str,
    *,
    currency: Currency = "C_exact",
    draws: int = 1000,
    seed: int = 0,
) -> LawFit:
    """Fit the laws of one objective.

    Parameters
    ----------
    table : runs of any roles; only complete runs from scratch on uncut data enter.
    objective : clm or mlm.
    currency : compute that defines the budgets; falls back to 6 N D, with a flag, where exact FLOPs are missing.
    draws : bootstrap draws behind every interval.

    Raises
    ------
    FitError : no usable run, or runs scored on different validation sets.

    **Source:** Hoffmann et al. 2022, approaches 2 and 3.
    """
    runs = law_runs(table, objective)
    flags = []
    if len(runs) and any(math.isnan(compute_of(row, currency)) for row in runs):
        currency = "C_6nd"
        flags.append("CURRENCY_MISSING")
    if any(row.C_6nd is not None and abs(row.C_6nd / (6.0 * row.N * row.D) - 1.0) > 0.02 for row in runs):
        flags.append("FLOPS_MISMATCH")
    if any(not row.schedule_complete for row in table.of(objective)):
        flags.append("TRUNCATED_SCHEDULE")
    check_runs(runs, objective, currency)
    surface = _surface(runs, draws, seed)
    isoflop, other = fit_isoflop_both(runs, objective, surface, currency=currency, draws=draws, seed=seed)
    compute = [compute_of(row, currency) for row in runs]
    flags += _flags_between(isoflop, other, surface)
    noise = pooled_seed_noise(runs)
    parts = (*flags, *isoflop.flags, *(surface.flags if surface else ("TOO_FEW_RUNS",)))
    notes = [*explain(parts, surface.batch_tokens if surface else None)]
    # Without a single row of three sizes one sentence says it all.
    rows = () if "NO_ISOFLOP" in flags else isoflop.rows
    notes += [note for row in rows for note in explain_row(row)]
    return LawFit(
        objective="mlm" if objective == "mlm" else "clm",
        currency=currency,
        n_runs=len(runs),
        validation_id=next((row.validation_id for row in runs if row.validation_id), None),
        noise_sd=noise.sd if noise else None,
        isoflop=isoflop if isoflop.rows else None,
        isoflop_other_currency=other if other and other.rows else None,
        surface=surface,
        range_C=(min(compute), max(compute)),
        flags=tuple(dict.fromkeys((*parts, *(flag for row in rows for flag in row.flags)))),
        notes=tuple(notes),
        data_hash=runs.content_hash(),
    )


def _surface(runs: RunTable, draws: int, seed: int) -> SurfaceFit | None:
    """The surface through all runs, None below the number of runs that one needs."""
    if len(runs) < MIN_RUNS:
        return None
    fit = fit_surface(runs.column("N"), runs.column("D"), runs.column("loss"), draws=draws, seed=seed)
    batch = batch_range(runs)
    mixed = ("MIXED_BATCH",) if batch and batch[0] < batch[1] else ()
    return fit.model_copy(update={"batch_tokens": batch, "flags": (*fit.flags, *mixed)})


def _flags_between(isoflop: IsoflopFit, other: IsoflopFit | None, surface: SurfaceFit | None) -> list[str]:
    """Doubts that only show when two fits are held against each other."""
    flags = ["NO_ISOFLOP"] if all("TOO_FEW_SIZES" in row.flags for row in isoflop.rows) else []
    pairs = zip(isoflop.rows, other.rows, strict=True) if other else ()
    shifts = [math.log(b.N_opt.value / a.N_opt.value) for a, b in pairs if a.N_opt and b.N_opt]
    if any(abs(shift) > math.log(1.1) for shift in shifts):
        flags.append("CURRENCY_SHIFT")
    # beta / (alpha + beta) is the exponent at 6 N D = C, so it is held against the minima in that currency.
    a = next((fit.a_N for fit in (isoflop, other) if fit and fit.currency == "C_6nd"), None)
    b = surface.a_N if surface else None
    if a and b and (a.high < b.low or b.high < a.low):
        flags.append("ISOFLOP_SURFACE_DISAGREE")
    return flags
