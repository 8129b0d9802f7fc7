"""IsoFLOP minima: a parabola or cubic in ln N per budget, and power laws through the interior minima.

Rows are few (3-5 sizes) and noisy, so every number carries the noise of the seeds: parametric draws of the mean
losses, with Student's t where the noise itself is estimated from few replicates. Where a row has no minimum inside
the sizes tried, it says so and takes no part in the exponents.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import numpy as np

from plm_scaling.core.run_table import RunTable
from plm_scaling.laws.budgets import TOLERANCE, Budget, Currency, check_runs, gather_budgets, noise_from_one_budget
from plm_scaling.laws.fit import percentile_interval
from plm_scaling.laws.forms import FloatArray
from plm_scaling.laws.isoflop_minimum import CurveKind, CurveRule, Valley, fit_valley, scatter_about_curve
from plm_scaling.laws.law_fit import Interval, IsoflopFit, SurfaceFit
from plm_scaling.laws.noise import LossNoise, law_runs, pooled_seed_noise
from plm_scaling.laws.power_laws import log_lines
from plm_scaling.laws.surface import surface_loss

__all__ = ["ISOFLOP_WINDOW", "fit_isoflop", "fit_isoflop_both"]

ISOFLOP_WINDOW: Final = 1.2
"""Sizes within this |ln N| of a row's lowest loss make its parabola: further out the valley is no parabola, and a wide
row would put its minimum where the far sizes want it."""
_SD_FLOOR: Final = 0.1
"""In ln N: keeps one row with a lucky interval from deciding the exponents alone."""
_WEAK: Final = frozenset({"SHALLOW_MINIMUM", "OPEN_INTERVAL"})
"""Row flags of a minimum that the noise may have made."""


def fit_isoflop(
    table: RunTable,
    objective: str,
    *,
    currency: Currency = "C_exact",
    curve: CurveKind = "parabola",
    window: float | None = None,
    tolerance: float = TOLERANCE,
    band_nats: float = 0.01,
    band_share: float | None = None,
    noise_sd: float | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> IsoflopFit:
    """Compute-optimal sizes of each budget and the power laws through them.

    Parameters
    ----------
    currency : compute by which runs are grouped into budgets.
    curve, window, band_nats, band_share : how each minimum and its `N_band` are found, see `CurveRule`.
    tolerance : share by which a run's compute may differ from its budget's, see `gather_budgets`.
    noise_sd : standard deviation of a loss between seeds, nats; None pools it from the table's replicates, and
        without replicates takes the scatter about the curves.

    Raises
    ------
    FitError : no runs of the objective, no compute in this currency, or losses on different validation sets.

    **Source:** Hoffmann et al. 2022, section 3.2 (IsoFLOP profiles); noise draws after Porian et al. 2024, section 3.
    """
    return fit_isoflop_both(
        table,
        objective,
        None,
        currency=currency,
        curve=curve,
        window=window,
        tolerance=tolerance,
        band_nats=band_nats,
        band_share=band_share,
        noise_sd=noise_sd,
        draws=draws,
        seed=seed,
    )[0]


def fit_isoflop_both(
    table: RunTable,
    objective: str,
    surface: SurfaceFit | None,
    *,
    currency: Currency,
    curve: CurveKind = "parabola",
    window: float | None = None,
    tolerance: float = TOLERANCE,
    band_nats: float = 0.01,
    band_share: float | None = None,
    noise_sd: float | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[IsoflopFit, IsoflopFit | None]:
    """`fit_isoflop`, and the same runs moved along `surface` to equal compute in the other currency.

    The second is None without a surface, or where the table lacks the other currency. The move is an interpolation,
    which a surface does well even where its parameters are not identified.
    """
    rule = CurveRule(curve, window, band_nats, band_share)
    runs = law_runs(table, objective)
    check_runs(runs, objective, currency)
    noise = LossNoise(noise_sd) if noise_sd is not None else pooled_seed_noise(runs)
    budgets = gather_budgets(runs, currency, noise, tolerance)
    from_one = noise_sd is None and noise_from_one_budget(runs, currency, budgets, tolerance)
    budgets, noise, flags = _add_scatter(budgets, rule, noise)
    flags = (*flags, "NOISE_FROM_ONE_BUDGET") if from_one else flags
    own = _valleys(budgets, rule, noise, draws, seed)
    main = _power_laws(own, rule, currency, flags)
    if surface is None or any(np.isnan(budget.other_C).any() for budget in budgets):
        return main, None
    moved = _valleys(_on_other_currency(budgets, surface), rule, noise, draws, seed)
    # A row that is refused where its runs were made is no evidence where they were moved to.
    moved = [other if valley.row.N_opt else _refused_too(other) for valley, other in zip(own, moved, strict=True)]
    return main, _power_laws(moved, rule, "C_6nd" if currency == "C_exact" else "C_exact", flags)


def _refused_too(valley: Valley) -> Valley:
    flags = tuple(dict.fromkeys((*valley.row.flags, "NO_INTERIOR_MINIMUM")))
    nothing = {"N_opt": None, "D_opt": None, "L_opt": None, "N_band": None, "flags": flags}
    return Valley(valley.row.model_copy(update=nothing))


def _valleys(budgets: list[Budget], rule: CurveRule, noise: LossNoise | None, draws: int, seed: int) -> list[Valley]:
    # One stream per row: rows can be added without changing the others' intervals.
    return [
        fit_valley(budget, rule, noise, max(draws, 1), np.random.default_rng([seed, i]))
        for i, budget in enumerate(budgets)
    ]


def _on_other_currency(budgets: list[Budget], surface: SurfaceFit) -> list[Budget]:
    """The rows with each loss moved, at its N, to the tokens of equal compute in the other currency."""
    moved = []
    for budget in budgets:
        centre = float(budget.other_C[int(np.argmin(budget.loss))])
        # At fixed N compute is proportional to tokens, up to the little that attention depends on their lengths.
        D = budget.D * centre / budget.other_C
        loss = budget.loss * surface_loss(surface, budget.N, D) / surface_loss(surface, budget.N, budget.D)
        moved.append(replace(budget, C=centre, D=D, loss=loss))
    return moved


def _add_scatter(
    budgets: list[Budget], rule: CurveRule, noise: LossNoise | None
) -> tuple[list[Budget], LossNoise | None, tuple[str, ...]]:
    """Bring in the scatter about the curves: all there is without replicates, more evidence on the noise with them.

    Where an F test finds the scatter no larger than the seeds explain, both estimates are pooled by their degrees of
    freedom; where it is larger, the errors grow to the scatter.

    **Source:** pooled variance; else the scale factor sqrt(chi2/df) of the Particle Data Group.
    """
    fitted = [scatter for b in budgets if (scatter := scatter_about_curve(b, rule)).df > 0]
    df = sum(scatter.df for scatter in fitted)
    known = all((b.se > 0).all() for b in budgets)
    if noise is None:
        if not df:
            return budgets, None, ("NO_REPLICATES",) if known else ("NO_REPLICATES", "NO_NOISE_ESTIMATE")
        sd = math.sqrt(sum(float((f.residual**2 * f.near.n_seeds).sum()) for f in fitted) / df)
        widened = [replace(b, se=np.sqrt(np.maximum(b.se**2, sd**2 / b.n_seeds))) for b in budgets]
        no_noise = () if sd > 0 or known else ("NO_NOISE_ESTIMATE",)
        return widened, LossNoise(sd, float(df)) if sd > 0 else None, ("NO_REPLICATES", *no_noise)
    if not df or not known:
        return budgets, noise, ()
    chi2 = sum(float(((f.residual / f.near.se) ** 2).sum()) for f in fitted)
    poor = _tail(chi2 / df, df, noise.df) < 0.05
    pooled = (1.0 + chi2 / noise.df) / (1.0 + df / noise.df)  # (df_seeds + chi2) / (df_seeds + df), also for inf
    scale = math.sqrt(max(chi2 / df, 1.0) if poor else pooled)
    widened = [replace(b, se=b.se * scale) for b in budgets]
    return widened, LossNoise(noise.sd * scale, noise.df + df), ("POOR_PARABOLA",) if poor else ()


def _tail(ratio: float, df: float, df_below: float) -> float:
    """Probability that a variance ratio of equal variances exceeds `ratio` (chi-squared where `df_below` is inf)."""
    from scipy import stats  # here: the import takes longer than answering a sizing question

    if math.isinf(df_below):
        return float(stats.chi2.sf(ratio * df, df))
    return float(stats.f.sf(ratio, df, df_below))


def _power_laws(valleys: list[Valley], rule: CurveRule, currency: Currency, flags: tuple[str, ...]) -> IsoflopFit:
    """N_opt = k_N C^a_N and D_opt = k_D C^a_D through the interior minima, weighted by their intervals."""
    rows = tuple(m.row for m in valleys)
    interior = [m for m in valleys if m.row.N_opt is not None]
    if len(interior) < 2:
        return IsoflopFit(currency=currency, curve=rule.curve, rows=rows, flags=(*flags, "TOO_FEW_MINIMA"))
    if len(interior) == 2:
        flags = (*flags, "TWO_MINIMA")
    if sum(not _WEAK.intersection(m.row.flags) for m in interior) < 2:
        flags = (*flags, "WEAK_MINIMA")
    log_C = np.array([math.log(m.row.C) for m in interior])
    log_N = np.log([m.row.N_opt.value for m in interior if m.row.N_opt])
    log_N_draws = np.stack([m.log_N_draws for m in interior if m.log_N_draws is not None], axis=1)
    log_D = np.array([m.log_D[0] for m in interior])
    log_D_draws = log_D + (log_N_draws - log_N) * np.array([m.log_D[1] for m in interior])
    root = 1.0 / np.hypot(log_N_draws.std(axis=0), _SD_FLOOR)
    a_N, k_N = _line(log_C, log_N, log_N_draws, root)
    a_D, k_D = _line(log_C, log_D, log_D_draws, root)
    return IsoflopFit(currency=currency, curve=rule.curve, rows=rows, a_N=a_N, k_N=k_N, a_D=a_D, k_D=k_D, flags=flags)


def _line(log_C: FloatArray, value: FloatArray, draws: FloatArray, root: FloatArray) -> tuple[Interval, float]:
    """Exponent with its interval, and coefficient, of a power law by weighted log-log least squares."""
    slope, level = log_lines(log_C, value[None], root)
    drawn, _ = log_lines(log_C, draws, root)
    return percentile_interval(float(slope[0]), drawn), math.exp(float(level[0]))
