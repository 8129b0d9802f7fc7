"""Everything a table of runs says about one objective: minima, surface, noise, and the doubts in plain words."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final, Literal

import numpy as np

from plm_scaling.core.run_row import RECIPE
from plm_scaling.core.run_table import RunTable
from plm_scaling.laws.budgets import Currency, check_runs, compute_of, gather_budgets
from plm_scaling.laws.clusters import ResampledLosses
from plm_scaling.laws.doubts import explain, explain_rows
from plm_scaling.laws.ensemble import AUTO, Surfaces, fit_surfaces
from plm_scaling.laws.frontier import frontier_of
from plm_scaling.laws.isoflop import ISOFLOP_WINDOW, fit_isoflop_both
from plm_scaling.laws.law_fit import FormScore, IsoflopFit, LawFit, Optimum, Recipe, Refusal, SurfaceFit
from plm_scaling.laws.noise import law_runs, pooled_seed_noise
from plm_scaling.laws.optima import budget_levels, disagreement, optimum_at, with_profile
from plm_scaling.laws.plateau import composition_plateau
from plm_scaling.laws.problem import Sample, make_sample
from plm_scaling.laws.repeat_table import repeats_of_table
from plm_scaling.laws.tuning import explain_tuning, lr_corners

__all__ = ["fit_laws", "law_sample"]

_MISMATCH: Final = 0.02
"""Share by which a stated compute may differ from 6 N D: rounding, and nothing that is counted in another way."""
_KEPT_DRAWS: Final = 1000
"""Draws that a fit stores; its intervals rest on all that were asked for."""


def law_sample(runs: RunTable) -> Sample:
    """The columns of a table that a surface is fitted to."""
    return make_sample(runs.column("N"), runs.column("D"), runs.column("loss"), runs.column("batch_tokens"))


def fit_laws(
    table: RunTable,
    objective: str,
    *,
    form: str = AUTO,
    plateau: float | None = None,
    max_compute: float | None = None,
    huber_delta: float = 1e-3,
    currency: Currency | Literal["auto"] = "auto",
    draws: int = 4000,
    seed: int = 0,
    clusters: ResampledLosses | None = None,
) -> LawFit:
    """Fit the laws of one objective.

    Parameters
    ----------
    table : runs of any roles; only complete runs from scratch on uncut data enter.
    objective : clm or mlm.
    form : a name of `plm_scaling.laws.forms.FORM_NAMES` (or NAME+batch), or `auto`: the best extrapolator.
    plateau : L0 of bounded forms in nats. None leaves it free; `auto` then also tries the loss of a model that knows
        only how often each residue occurs, where all runs lie below it.
    max_compute : runs of more than this many FLOPs (6 N D) are left out, as a test of extrapolation needs.
    huber_delta : border of the quadratic zone in units of ln L; inf is least squares, 0 least absolute deviations.
    currency : compute that defines the budgets. `auto`: exact FLOPs, or 6 N D where the runs' budgets lie on that;
        falls back to 6 N D, with a flag, where exact FLOPs are missing.
    draws : bootstrap draws behind every interval.
    clusters : losses that are resampled together with the runs: by validation sequence, or predicted ones.

    Raises
    ------
    FitError : no usable run, or runs scored on different validation sets.

    **Source:** Hoffmann et al. 2022, approaches 2 and 3.
    """
    runs = law_runs(table, objective)
    if max_compute is not None:
        runs = runs.where(lambda row: compute_of(row, "C_6nd") <= max_compute)
    flags, currency = _table_flags(table.of(objective), runs, currency)
    check_runs(runs, objective, currency)
    sample = law_sample(runs)
    if form == AUTO and plateau is None:
        plateau = composition_plateau(objective)
    names = [row.run_id for row in runs]
    found = fit_surfaces(
        sample,
        names,
        form=form,
        plateau=plateau,
        huber_delta=huber_delta,
        draws=draws,
        seed=seed,
        clusters=clusters,
    )
    found = _with_batch_flag(found)
    surface = found.surface
    isoflop, other = fit_isoflop_both(
        runs, objective, surface, currency=currency, window=ISOFLOP_WINDOW, draws=min(draws, _KEPT_DRAWS), seed=seed
    )
    flags += _flags_between(isoflop, other, surface)
    surface, optima, refusals = _optima(found, sample, isoflop)
    parts = (*flags, *isoflop.flags, *(surface.flags if surface else (found.refusals[0].code,)))
    repeats = repeats_of_table(table, objective, surface, huber_delta=huber_delta, draws=min(draws, 400), seed=seed)
    # Without a single row of three sizes one sentence says it all.
    rows = () if "NO_ISOFLOP" in flags else isoflop.rows
    notes = [*explain(parts, surface), *explain_rows(rows)]
    notes += repeats.notes if repeats else ()
    noise = pooled_seed_noise(runs)
    corners = lr_corners(table, objective, noise, seed=seed)
    notes += explain_tuning(corners)
    notes += [f"REFUSED: {refusal.quantity}: {refusal.reason}." for refusal in refusals]
    compute = [compute_of(row, currency) for row in runs]
    return LawFit(
        objective="mlm" if objective == "mlm" else "clm",
        currency=currency,
        n_runs=len(runs),
        validation_id=next((row.validation_id for row in runs if row.validation_id), None),
        corpus_id=_corpus_of(runs),
        recipe=_recipe_of(runs),
        noise_sd=noise.sd if noise else None,
        isoflop=isoflop if isoflop.rows else None,
        isoflop_other_currency=other if other and other.rows else None,
        surface=_thinned(surface),
        chosen="extrapolation" if form == AUTO and found.forms else "asked for",
        forms=tuple(_thinned_score(score, surface) for score in found.forms),
        disagreement=disagreement(found.forms, 10.0 * float(sample.C.max())) if surface else None,
        optima=optima,
        frontier=frontier_of(isoflop, min(draws, _KEPT_DRAWS), seed),
        repeats=repeats,
        lr_corners=corners,
        range_C=(min(compute), max(compute)),
        flags=tuple(dict.fromkeys((*parts, *(flag for row in rows for flag in row.flags)))),
        notes=tuple(notes),
        refusals=refusals,
        data_hash=runs.content_hash(),
    )


def _corpus_of(runs: RunTable) -> str | None:
    """The corpus of runs that passed `check_runs`; None where one does not name it."""
    found = {row.corpus_id or None for row in runs}
    return found.pop() if len(found) == 1 else None


def _recipe_of(runs: RunTable) -> Recipe | None:
    """The recipe of runs that passed `check_runs`; None where one does not state it.

    Schedule and architecture are believed only of rows that name their corpus: others may come from anywhere, and a
    column they never had reads as its default.
    """
    stated = all(row.corpus_id and (row.objective != "mlm" or row.mask_ratio is not None) for row in runs)
    return Recipe(**{name: getattr(runs.rows[0], name) for name in RECIPE}) if stated else None


def _table_flags(table: RunTable, runs: RunTable, wanted: Currency | Literal["auto"]) -> tuple[list[str], Currency]:
    """Doubts about the table itself, and the currency its budgets can be placed on."""
    flags = []
    missing = any(math.isnan(compute_of(row, "C_exact")) for row in runs)
    currency: Currency = "C_6nd" if missing else "C_exact" if wanted == "auto" else wanted
    if missing and wanted != "C_6nd":
        flags.append("CURRENCY_MISSING")
    elif wanted == "auto":
        currency = _currency_of(runs)
    stated = np.array([row.C_6nd / (6.0 * row.N * row.D) for row in runs if row.C_6nd is not None])
    if (np.abs(stated - 1.0) > _MISMATCH).any():
        flags.append("FLOPS_MISMATCH")
    if (len(stated) and stated.max() / stated.min() > 1.0 + _MISMATCH) or len({row.mask_ratio for row in runs}) > 1:
        flags.append("MIXED_CONVENTION")
    if any(row.is_imputed for row in runs):
        flags.append("IMPUTED_RUNS")
    if any(not row.schedule_complete for row in table):
        flags.append("TRUNCATED_SCHEDULE")
    return flags, currency


def _with_batch_flag(found: Surfaces) -> Surfaces:
    """Batches that differ are a doubt unless the form has a term for them."""
    fit = found.surface
    if fit is None or fit.batch_tokens is None or fit.batch_tokens[0] == fit.batch_tokens[1] or "+batch" in fit.form:
        return found
    return replace(found, surface=fit.model_copy(update={"flags": (*fit.flags, "MIXED_BATCH")}))


def _currency_of(runs: RunTable) -> Currency:
    """The compute on which more runs share a budget with others; exact FLOPs on a tie."""

    def in_rows(currency: Currency) -> int:
        return sum(len(budget.N) for budget in gather_budgets(runs, currency, None) if len(budget.N) >= 3)

    return "C_6nd" if in_rows("C_6nd") > in_rows("C_exact") else "C_exact"


def _optima(
    found: Surfaces, sample: Sample, isoflop: IsoflopFit
) -> tuple[SurfaceFit | None, tuple[Optimum, ...], tuple[Refusal, ...]]:
    """The surface, its optima, and what is refused: an optimum that no budget holds inside the runs is no optimum."""
    surface = found.surface
    if surface is None:
        more = () if isoflop.a_N else (_no_exponent("neither a surface nor two interior minima of isoFLOP rows"),)
        return None, (), (*found.refusals, *more)
    levels = budget_levels(sample.C)
    optima = [optimum for C in levels if (optimum := optimum_at(surface, float(C), found.forms)) is not None]
    inside = [optimum for optimum in optima if not optimum.flags]
    if inside:
        largest = optima.index(inside[-1])
        optima[largest] = with_profile(optima[largest], surface, sample)
        return surface, tuple(optima), ()
    if not optima:
        why = f"the form {surface.form} has no minimum of the loss at fixed compute"
    else:
        N = np.array([optimum.N.value for optimum in optima[:-1] or optima])
        edge = "below the smallest" if N.max() < surface.range_N[0] else "beyond the sizes or tokens"
        why = f"at every budget the surface's minimum lies {edge} that were run; widen the sweep"
    refused: tuple[Refusal, ...] = (Refusal(quantity="N_opt of the surface", code="OUT_OF_HULL", reason=why),)
    if isoflop.a_N is None:
        refused = (*refused, _no_exponent(why))
    return surface.model_copy(update={"a_N": None}), (), refused


def _no_exponent(why: str) -> Refusal:
    return Refusal(quantity="exponents of N_opt and D_opt", code="NO_INTERIOR_MINIMUM", reason=why)


def _thinned(surface: SurfaceFit | None) -> SurfaceFit | None:
    return surface.model_copy(update={"draws": surface.draws[:_KEPT_DRAWS]}) if surface else None


def _thinned_score(score: FormScore, surface: SurfaceFit | None) -> FormScore:
    """The score with its fit, the chosen form's draws left to `LawFit.surface`."""
    if score.surface is None or surface is None or (score.form, score.plateau) != (surface.form, surface.plateau):
        return score
    return score.model_copy(update={"surface": surface.model_copy(update={"draws": surface.draws[:400]})})


def _flags_between(isoflop: IsoflopFit, other: IsoflopFit | None, surface: SurfaceFit | None) -> list[str]:
    """Doubts that only show when two fits are held against each other."""
    flags = ["NO_ISOFLOP"] if all("TOO_FEW_SIZES" in row.flags for row in isoflop.rows) else []
    pairs = zip(isoflop.rows, other.rows, strict=True) if other else ()
    shifts = [math.log(b.N_opt.value / a.N_opt.value) for a, b in pairs if a.N_opt and b.N_opt]
    if any(abs(shift) > math.log(1.1) for shift in shifts):
        flags.append("CURRENCY_SHIFT")
    # The surface's exponent is the one at 6 N D = C, so it is held against the minima in that currency.
    a = next((fit.a_N for fit in (isoflop, other) if fit and fit.currency == "C_6nd"), None)
    b = surface.a_N if surface else None
    if a and b and (a.high < b.low or b.high < a.low):
        flags.append("ISOFLOP_SURFACE_DISAGREE")
    # Percentile and profile interval: one rests on resampled runs, the other on the shape of the objective.
    profile = surface.profiles.get("a_N") if surface else None
    if b and profile and not 0.4 <= _width(profile.low, profile.high) / max(_width(b.low, b.high), 1e-12) <= 2.5:
        flags.append("INTERVALS_DISAGREE")
    return flags


def _width(low: float, high: float) -> float:
    return high - low if math.isfinite(low) and math.isfinite(high) else 1e12
