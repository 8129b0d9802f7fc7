"""IsoFLOP minima: a parabola in ln N per budget, and power laws through the interior minima.

Rows are few (3-5 sizes) and noisy, so every number carries the noise of the seeds: parametric draws of the mean
losses, with Student's t where the noise itself is estimated from few replicates. Where a row has no minimum inside
the sizes tried, it says so and takes no part in the exponents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from plm_scaling.core.run_table import RunTable
from plm_scaling.laws.budgets import Budget, Currency, check_runs, gather_budgets, noise_from_one_budget
from plm_scaling.laws.fit import percentile_interval
from plm_scaling.laws.forms import FloatArray, surface_loss
from plm_scaling.laws.law_fit import Interval, IsoflopFit, IsoflopRow, SurfaceFit
from plm_scaling.laws.noise import LossNoise, law_runs, pooled_seed_noise
from plm_scaling.laws.power_laws import log_lines

__all__ = ["fit_isoflop", "fit_isoflop_both"]

_VALLEY: Final = 0.01
"""nats above the minimum that `N_band` allows."""
_SD_FLOOR: Final = 0.1
"""In ln N: keeps one row with a lucky interval from deciding the exponents alone."""
_ASYMMETRY: Final = 0.005
"""Error in ln N of a parabola's vertex per squared span of ln N: a Chinchilla valley with exponents .15 apart is that
much steeper on one side. It is common to all rows, so it widens each N_opt but not the exponents."""
_WEAK: Final = frozenset({"SHALLOW_MINIMUM", "OPEN_INTERVAL"})
"""Row flags of a minimum that the noise may have made."""


@dataclass(frozen=True)
class _Minimum:
    """A row as reported, the draws of ln N_opt (None: no interior minimum), and ln D_opt."""

    row: IsoflopRow
    log_N_draws: FloatArray | None = None
    log_D: tuple[float, float] = (0.0, 0.0)
    """Value of ln D at N_opt and its slope in ln N."""


def fit_isoflop(
    table: RunTable,
    objective: str,
    *,
    currency: Currency = "C_exact",
    noise_sd: float | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> IsoflopFit:
    """Compute-optimal sizes of each budget and the power laws through them.

    Parameters
    ----------
    currency : compute by which runs are grouped into budgets.
    noise_sd : standard deviation of a loss between seeds, nats; None pools it from the table's replicates, and
        without replicates takes the scatter about the parabolas.

    Raises
    ------
    FitError : no runs of the objective, no compute in this currency, or losses on different validation sets.

    **Source:** Hoffmann et al. 2022, section 3.2 (IsoFLOP profiles); noise draws after Porian et al. 2024, section 3.
    """
    return fit_isoflop_both(table, objective, None, currency=currency, noise_sd=noise_sd, draws=draws, seed=seed)[0]


def fit_isoflop_both(
    table: RunTable,
    objective: str,
    surface: SurfaceFit | None,
    *,
    currency: Currency,
    noise_sd: float | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[IsoflopFit, IsoflopFit | None]:
    """`fit_isoflop`, and the same runs moved along `surface` to equal compute in the other currency.

    The second is None without a surface, or where the table lacks the other currency. The move is an interpolation,
    which a surface does well even where its parameters are not identified.
    """
    runs = law_runs(table, objective)
    check_runs(runs, objective, currency)
    noise = LossNoise(noise_sd) if noise_sd is not None else pooled_seed_noise(runs)
    budgets = gather_budgets(runs, currency, noise)
    from_one = noise_sd is None and noise_from_one_budget(runs, currency, budgets)
    budgets, noise, flags = _add_scatter(budgets, noise)
    flags = (*flags, "NOISE_FROM_ONE_BUDGET") if from_one else flags
    main = _power_laws(_minima(budgets, noise, draws, seed), currency, flags)
    if surface is None or any(np.isnan(budget.other_C).any() for budget in budgets):
        return main, None
    moved = _minima(_on_other_currency(budgets, surface), noise, draws, seed)
    return main, _power_laws(moved, "C_6nd" if currency == "C_exact" else "C_exact", flags)


def _minima(budgets: list[Budget], noise: LossNoise | None, draws: int, seed: int) -> list[_Minimum]:
    # One stream per row: rows can be added without changing the others' intervals.
    return [_minimum(b, noise, max(draws, 1), np.random.default_rng([seed, i])) for i, b in enumerate(budgets)]


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


def _parabola(budget: Budget, loss: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weighted least squares of loss float64[m, k] on 1, u, u^2 with u = ln N - mean; coefficients float64[m, 3]."""
    u = np.log(budget.N) - np.log(budget.N).mean()
    design = np.stack([np.ones_like(u), u, u * u], axis=1)
    root = 1.0 / budget.se if (budget.se > 0).all() else np.sqrt(budget.n_seeds)
    solver = np.linalg.pinv(design * root[:, None])
    return (loss * root) @ solver.T, design


def _add_scatter(
    budgets: list[Budget], noise: LossNoise | None
) -> tuple[list[Budget], LossNoise | None, tuple[str, ...]]:
    """Bring in the scatter about the parabolas: all there is without replicates, more evidence on the noise with them.

    Where an F test finds the scatter no larger than the seeds explain, both estimates are pooled by their degrees of
    freedom; where it is larger, the errors grow to the scatter.

    **Source:** pooled variance; else the scale factor sqrt(chi2/df) of the Particle Data Group.
    """
    fitted = [b for b in budgets if len(b.N) >= 4]
    df = sum(len(b.N) - 3 for b in fitted)
    residuals = []
    for b in fitted:
        coefficients, design = _parabola(b, b.loss[None])
        residuals.append(b.loss - (coefficients @ design.T)[0])
    known = all((b.se > 0).all() for b in budgets)
    if noise is None:
        if not df:
            return budgets, None, ("NO_REPLICATES",) if known else ("NO_REPLICATES", "NO_NOISE_ESTIMATE")
        squares = sum(float((r**2 * b.n_seeds).sum()) for r, b in zip(residuals, fitted, strict=True))
        sd = math.sqrt(squares / df)
        widened = [replace(b, se=np.sqrt(np.maximum(b.se**2, sd**2 / b.n_seeds))) for b in budgets]
        no_noise = () if sd > 0 or known else ("NO_NOISE_ESTIMATE",)
        return widened, LossNoise(sd, float(df)) if sd > 0 else None, ("NO_REPLICATES", *no_noise)
    if not df or not known:
        return budgets, noise, ()
    chi2 = sum(float(((r / b.se) ** 2).sum()) for r, b in zip(residuals, fitted, strict=True))
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


def _minimum(budget: Budget, noise: LossNoise | None, draws: int, rng: np.random.Generator) -> _Minimum:
    """The parabola of one budget, or the reason there is no minimum."""
    row = IsoflopRow(
        C=budget.C,
        N=tuple(budget.N.tolist()),
        D=tuple(budget.D.tolist()),
        loss=tuple(budget.loss.tolist()),
        n_seeds=tuple(int(n) for n in budget.n_seeds),
        batch_tokens=budget.batch_tokens,
        flags=budget.flags,
    )
    if len(budget.N) < 3:
        return _Minimum(row.model_copy(update={"flags": (*row.flags, "TOO_FEW_SIZES")}))
    log_N = np.log(budget.N)
    c, b, a = (float(value) for value in _parabola(budget, budget.loss[None])[0][0])
    vertex = float(log_N.mean() - b / (2 * a)) if a > 0 else math.nan
    depth, flags = _doubts(budget, a, vertex)
    row = row.model_copy(update={"curvature": a, "depth": depth, "flags": (*row.flags, *flags)})
    if "CONCAVE" in flags or "NO_INTERIOR_MINIMUM" in flags:
        return _Minimum(row)
    draws_of = _vertex_draws(budget, noise, draws, rng)
    asymmetry = _ASYMMETRY * float(np.ptp(log_N)) ** 2 * rng.standard_normal(draws)
    inside = np.clip(draws_of + asymmetry, log_N[0], log_N[-1])
    if max(np.mean(draws_of <= log_N[0]), np.mean(draws_of >= log_N[-1])) > 0.025:
        row = row.model_copy(update={"flags": (*row.flags, "OPEN_INTERVAL")})
    width = math.sqrt(_VALLEY / a)
    band = (max(vertex - width, float(log_N[0])), min(vertex + width, float(log_N[-1])))
    slope = float(np.polyfit(log_N, np.log(budget.D), 1)[0])
    log_D = float(np.interp(vertex, log_N, np.log(budget.D)))
    row = row.model_copy(
        update={
            "N_opt": percentile_interval(math.exp(vertex), np.exp(inside)),
            "D_opt": math.exp(log_D),
            "L_opt": c - b * b / (4 * a),
            "N_band": (math.exp(band[0]), math.exp(band[1])),
        }
    )
    return _Minimum(row, draws_of, (log_D, slope))


def _doubts(budget: Budget, curvature: float, vertex: float) -> tuple[float, list[str]]:
    """Depth of a row's valley in nats, and what is doubtful about its minimum."""
    best = int(np.argmin(budget.loss))
    edge = 0 if budget.loss[0] <= budget.loss[-1] else len(budget.N) - 1
    depth = float(budget.loss[edge] - budget.loss[best])
    flags = []
    if curvature <= 0:
        flags.append("CONCAVE")
    outside = not budget.N[0] <= math.exp(vertex) <= budget.N[-1] if curvature > 0 else False
    if best in (0, len(budget.N) - 1) or outside:
        flags.append("NO_INTERIOR_MINIMUM")
    # Where there is no minimum, its depth says nothing.
    if not flags and depth < 2.0 * math.hypot(budget.se[edge], budget.se[best]):
        flags.append("SHALLOW_MINIMUM")
    return depth, flags


def _vertex_draws(budget: Budget, noise: LossNoise | None, draws: int, rng: np.random.Generator) -> FloatArray:
    """Draws of ln N_opt under noise, float64[draws]; a draw without a minimum ends half a row beyond its lower edge.

    Without any estimate of the noise: uniform between the sizes on either side of the lowest loss.
    """
    log_N = np.log(budget.N)
    if not (budget.se > 0).all():
        best = int(np.argmin(budget.loss))
        return np.asarray(rng.uniform(log_N[best - 1], log_N[best + 1], size=draws))
    factor = (noise or LossNoise(0.0)).factors(draws, rng)
    loss = budget.loss + rng.standard_normal((draws, len(log_N))) * budget.se * factor[:, None]
    coefficients, design = _parabola(budget, loss)
    a, b = coefficients[:, 2], coefficients[:, 1]
    margin = 0.5 * float(np.ptp(log_N))
    low, high = float(log_N[0]) - margin, float(log_N[-1]) + margin
    fitted_edges = coefficients @ design[[0, -1]].T
    lower_edge = np.where(fitted_edges[:, 0] <= fitted_edges[:, 1], low, high)
    safe = np.where(a > 0, a, 1.0)
    vertex = np.where(a > 0, log_N.mean() - b / (2 * safe), lower_edge)
    return np.asarray(np.clip(vertex, low, high))


def _power_laws(minima: list[_Minimum], currency: Currency, flags: tuple[str, ...]) -> IsoflopFit:
    """N_opt = k_N C^a_N and D_opt = k_D C^a_D through the interior minima, weighted by their intervals."""
    rows = tuple(m.row for m in minima)
    interior = [m for m in minima if m.row.N_opt is not None]
    if len(interior) < 2:
        return IsoflopFit(currency=currency, rows=rows, flags=(*flags, "TOO_FEW_MINIMA"))
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
    return IsoflopFit(currency=currency, rows=rows, a_N=a_N, k_N=k_N, a_D=a_D, k_D=k_D, flags=flags)


def _line(log_C: FloatArray, value: FloatArray, draws: FloatArray, root: FloatArray) -> tuple[Interval, float]:
    """Exponent with its interval, and coefficient, of a power law by weighted log-log least squares."""
    slope, level = log_lines(log_C, value[None], root)
    drawn, _ = log_lines(log_C, draws, root)
    return percentile_interval(float(slope[0]), drawn), math.exp(float(level[0]))
