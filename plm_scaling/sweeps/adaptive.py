"""The next budget of an isoFLOP sweep, its sizes chosen by what the budgets before it say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import FitError, PlanError, RefusedError
from plm_scaling.core.run import Objective, RunConfig
from plm_scaling.core.run_table import RunTable
from plm_scaling.core.units import format_count
from plm_scaling.corpus.format import VAL_IID
from plm_scaling.corpus.reader import Corpus
from plm_scaling.laws.budgets import compute_of
from plm_scaling.laws.combine import fit_laws
from plm_scaling.laws.forms import log_loss
from plm_scaling.laws.law_fit import LawFit, SurfaceFit
from plm_scaling.laws.noise import law_runs
from plm_scaling.laws.surface import form_of, rows_at, theta_draws, theta_of
from plm_scaling.sweeps.drafts import Draft, RunParts
from plm_scaling.sweeps.information import Beliefs
from plm_scaling.sweeps.ladder import size_ladder
from plm_scaling.sweeps.plan import plan_drafts, run_parts
from plm_scaling.sweeps.plan_records import SweepPlan, SweepSpec
from plm_scaling.sweeps.pools import flops_per_token
from plm_scaling.sweeps.runs import collect_runs, read_clusters

__all__ = ["Proposal", "log_optima", "plan_next", "propose"]

FloatArray = npt.NDArray[np.float64]

_DRAWS: Final = 1000
_SIZES: Final = 3
"""Sizes of a budget that make it complete: fewer have no minimum."""
_BUDGETS: Final = 2
"""Complete budgets without which nothing says how N_opt moves."""
_SAME: Final = math.log(1.1)
"""Runs of one budget: D is rounded to whole steps, which counts for more in short runs."""
_DECADE: Final = math.log(10.0)
"""Further below the next budget a run tests the form of the law, not its parameters; a wider interval is no aim."""
_REACH: Final = math.log(4.0)
"""Furthest a size lies off its budget's optimum in ln N, for the same reason; and a valley is no parabola out there."""
_BRACKET: Final = math.log(2.0)
"""Least distance of the sizes beside the optimum from it in ln N: nearer ones differ by less than the noise."""
_LEVEL: Final = (5.0, 95.0)
_Z: Final = 1.645
"""Half the width of a normal 90 % interval in standard deviations."""


@dataclass(frozen=True)
class Proposal:
    """Runs of one objective that come next.

    Attributes
    ----------
    drafts, reasons : the runs and, for each, why it was chosen.
    remark : what the choice rests on and what it is expected to bring.
    """

    drafts: tuple[Draft, ...]
    reasons: tuple[str, ...]
    remark: str


@dataclass(frozen=True)
class _Candidate:
    """A run that could be made: its config and its budget in FLOPs."""

    config: RunConfig
    C: float

    @property
    def log_N(self) -> float:
        return math.log(self.config.N)


def plan_next(
    spec: SweepSpec,
    corpus: Corpus,
    runs: Path,
    *,
    scale: float = 1.0,
    dtype: Literal["fp32", "bf16"] = "fp32",
    memory_bytes: float | None = None,
) -> SweepPlan:
    """The next budget of every objective's isoflop arms; other arguments as of `plan_sweep`.

    Parameters
    ----------
    runs : folder with the runs of the smaller budgets.

    Raises
    ------
    RefusedError : the runs do not determine where the next budget's optimum lies.
    """
    parts = run_parts(spec, corpus, scale=scale, dtype=dtype)
    table = collect_runs(runs).where(lambda row: row.corpus_id in (None, corpus.corpus_id))
    both: tuple[Objective, ...] = ("clm", "mlm")
    objectives = [o for o in both if any(o in (arm.objectives or spec.objectives) for arm in spec.isoflop)]
    if not objectives:
        raise PlanError(
            "the next budget is one of isoflop arms, and the sweep has none",
            hint="add [[isoflop]] with C and sizes for each budget",
        )
    made = [propose(parts, table, o, _law(table, o, runs, parts.spec)) for o in objectives]
    reasons = {draft.config.run_id: reason for p in made for draft, reason in zip(p.drafts, p.reasons, strict=True)}
    plan = plan_drafts([draft for p in made for draft in p.drafts], parts, memory_bytes=memory_bytes)
    chosen = tuple(run.model_copy(update={"reason": reasons[run.run_id]}) for run in plan.runs)
    return plan.model_copy(update={"runs": chosen, "remarks": tuple(p.remark for p in made)})


def _law(table: RunTable, objective: Objective, runs: Path, spec: SweepSpec) -> LawFit:
    """The law of an objective's runs so far."""
    names = [row.run_id for row in table.of(objective)]
    try:
        return fit_laws(
            table,
            objective,
            currency=spec.currency,
            draws=_DRAWS,
            clusters=read_clusters(runs, names, VAL_IID) if names else None,
        )
    except FitError as error:
        raise RefusedError(
            f"no law can be fitted to the {objective} runs so far: {error.what}",
            where=str(runs),
            why=error.why,
            hint="complete at least two budgets of three sizes: plm-scaling run",
        ) from None


def propose(
    parts: RunParts, table: RunTable, objective: Objective, law: LawFit, among: Sequence[RunConfig] | None = None
) -> Proposal:
    """The runs of the next budget: one at the predicted optimum, one on each side of it, and as many more as the spec
    has sizes there, each where the variance of ln N_opt at the target budget falls most per FLOP.

    The next budget is the smallest of the spec without three complete sizes; after its largest, one step more. The
    target is the spec's largest budget, or the next one if that is larger. The variance is over the draws of the fit,
    `sweeps.information.Beliefs`; the noise of a run is that between seeds, or the residuals' without repeated seeds.

    Parameters
    ----------
    among : the settings to choose from, at any budgets; None for all sizes in the proportions of the spec's.

    Raises
    ------
    RefusedError : fewer than two complete budgets, a fit without an interior optimum, without draws or without a noise,
        draws that leave N_opt at the next budget open by more than a factor of ten, or no setting left to choose.

    **Source:** Chaloner & Verdinelli 1995 (Bayesian design); one run after the other, each given those before it.
    """
    budgets = _budgets(parts, objective)
    done = _complete(parts, table, objective, list(budgets))
    C = _next_budget(list(budgets), done, objective)
    target = max(*budgets, C)
    surface, noise = _usable(law, objective)
    ladder = _ladder(parts, objective)
    optimum = _log_optima(parts, surface, ladder, C)
    aim = _log_optima(parts, surface, ladder, target)
    _check_determined(optimum, aim, C, target, objective)
    centre, (low, high) = float(optimum[0]), np.nanpercentile(optimum[1:], _LEVEL).tolist()
    settings = partial(_settings, parts, objective, ladder) if among is None else partial(_at, parts, among)
    candidates = _candidates(table, settings(C), C, centre)
    for budget in (c for c in done if math.log(C / c) <= _DECADE):
        here = float(_log_optima(parts, surface, ladder, budget)[0])
        candidates += _candidates(table, settings(budget), budget, here)
    if not candidates:
        raise RefusedError(
            f"{objective}: no run is left to choose at {C:.3g} FLOPs and a decade below",
            why="all settings near the optimum have been run",
            hint="allow more settings, or add a budget",
        )
    count = max(_SIZES, len(budgets.get(C, budgets[max(budgets)])))
    beliefs = _beliefs(surface, candidates, aim, noise)
    picked = _picked(candidates, beliefs, C, (low, centre, high), count)
    said = f"{format_count(math.exp(centre))} ({format_count(math.exp(low))} to {format_count(math.exp(high))} at 90 %)"
    factors = [math.exp(_Z * math.sqrt(max(b.variance, 0.0))) for b in (beliefs, beliefs.after_all(list(picked)))]
    remark = (
        f"{objective}: by {law.n_runs} runs of {len(done)} complete budgets ({surface.form}) N_opt at {C:.3g} FLOPs is "
        f"{said}; N_opt at {target:.3g} FLOPs is known within a factor {factors[0]:.4g} and expected to be within "
        f"{factors[1]:.4g} after these runs, if the form holds"
    )
    return Proposal(
        drafts=tuple(Draft(candidates[k].config, ("isoflop",)) for k in picked),
        reasons=_reasons(picked, candidates, beliefs, C, target, said),
        remark=remark + _doubt(law),
    )


# ---- where the sweep stands ------------------------------------------------------------------------------------------


def _budgets(parts: RunParts, objective: Objective) -> dict[float, tuple[str, ...]]:
    """Budgets of the spec in FLOPs, rising, with their sizes."""
    found: dict[float, tuple[str, ...]] = {}
    for arm in sorted(parts.spec.isoflop, key=lambda arm: arm.C):
        if objective in (arm.objectives or parts.spec.objectives):
            C = parts.scale * arm.C
            found[C] = tuple(dict.fromkeys((*found.get(C, ()), *arm.sizes)))
    return found


def _complete(parts: RunParts, table: RunTable, objective: Objective, budgets: Sequence[float]) -> list[float]:
    """The budgets at which three sizes are complete."""
    sizes: dict[float, set[float]] = {C: set() for C in budgets}
    for row in law_runs(table, objective):
        spent = compute_of(row, parts.spec.currency)
        for C in budgets:
            if abs(math.log(spent / C)) < _SAME:
                sizes[C].add(row.N)
    return [C for C in budgets if len(sizes[C]) >= _SIZES]


def _next_budget(budgets: Sequence[float], done: Sequence[float], objective: Objective) -> float:
    open_ = [C for C in budgets if C not in done]
    C = open_[0] if open_ else budgets[-1] * (budgets[-1] / budgets[-2] if len(budgets) > 1 else 4.0)
    below = [budget for budget in done if budget < C]
    if len(below) < _BUDGETS:
        first = ", ".join(f"{budget:.3g}" for budget in budgets[:_BUDGETS])
        raise RefusedError(
            f"{objective}: {len(below)} budgets below {C:.3g} FLOPs are complete, {_BUDGETS} are needed",
            why=f"a budget is complete with {_SIZES} sizes; one budget does not say how the optimum moves with compute",
            hint=f"plan and run the budgets {first} of the spec as they stand, then ask again",
        )
    return C


def _usable(law: LawFit, objective: Objective) -> tuple[SurfaceFit, float]:
    """The fitted surface and the standard deviation of ln L of a run that is made again."""
    surface = law.surface
    if surface is None or not surface.draws or any(refusal.code == "OUT_OF_HULL" for refusal in law.refusals):
        why = "; ".join(refusal.reason for refusal in law.refusals) or "the fit holds no surface with draws"
        raise RefusedError(
            f"{objective}: the runs so far do not say where the optimum lies", why=why, hint="run more sizes or budgets"
        )
    points = law.isoflop.rows if law.isoflop else ()
    typical = float(np.median([loss for row in points for loss in row.loss])) if points else None
    noise = law.noise_sd / typical if law.noise_sd and typical else surface.residual_sd
    if not noise:
        raise RefusedError(
            f"{objective}: nothing says how much a loss would move if the run were made again",
            hint="run one setting with a second seed",
        )
    return surface, noise


def _check_determined(optimum: FloatArray, aim: FloatArray, C: float, target: float, objective: Objective) -> None:
    for budget, drawn in ((C, optimum), (target, aim)):
        found = np.isfinite(drawn)
        if not found[0] or found[1:].mean() < 0.9:
            raise RefusedError(
                f"{objective}: the fit has no interior optimum at {budget:.3g} FLOPs",
                why=f"{found[1:].mean():.0%} of its draws have one",
                hint="run more sizes at the budgets so far",
            )
    spread = float(np.nanpercentile(optimum[1:], _LEVEL[1]) - np.nanpercentile(optimum[1:], _LEVEL[0]))
    if spread > _DECADE:
        raise RefusedError(
            f"{objective}: N_opt at {C:.3g} FLOPs is open by a factor of {math.exp(spread):.3g}",
            why="the next budget's sizes would be guesses",
            hint="run more sizes at the budgets so far, or a second seed",
        )


# ---- candidates ------------------------------------------------------------------------------------------------------


def _per_token(parts: RunParts, shape: ModelShape) -> float:
    return flops_per_token(shape, parts.cost(parts.all_streams()), parts.spec.currency)


def log_optima(parts: RunParts, objective: Objective, surface: SurfaceFit, C: float) -> FloatArray:
    """Ln N_opt of an objective at C FLOPs of the spec's currency, float64[1 + B]: the estimate, then the draws.

    NaN where the lowest loss lies at no size between a twentieth of the spec's smallest and fifty times its largest.
    """
    return _log_optima(parts, surface, _ladder(parts, objective), C)


def _ladder(parts: RunParts, objective: Objective) -> list[ModelShape]:
    """Sizes in the proportions of the spec's, and far beyond them."""
    sizes = {size for sizes in _budgets(parts, objective).values() for size in sizes}
    shapes = sorted((parts.shape(size, "isoflop") for size in sizes), key=lambda shape: shape.N)
    return size_ladder(shapes, shapes[0].N / 20.0, shapes[-1].N * 50.0)


def _log_optima(parts: RunParts, surface: SurfaceFit, ladder: Sequence[ModelShape], C: float) -> FloatArray:
    """Ln N_opt at C FLOPs of the spec's currency, float64[1 + B]: the estimate, then the draws; NaN for none inside.

    The lowest loss along D = C / (FLOPs per token), which in exact FLOPs is not 6 N D = C: a smooth curve through the
    sizes' own FLOPs per token gives D between them. The minimum of a parabola through the three lowest points.
    """
    sizes = np.log([float(shape.N) for shape in ladder])
    overhead = np.polyfit(sizes, np.log([_per_token(parts, shape) / (6.0 * shape.N) for shape in ladder]), 3)
    x = np.linspace(sizes[0], sizes[-1], 400)
    D = C / (6.0 * np.exp(x + np.polyval(overhead, x)))
    theta = np.concatenate([theta_of(surface), theta_draws(surface)])
    loss = log_loss(form_of(surface), theta, rows_at(surface, np.exp(x), D))
    lowest = loss.argmin(axis=1)
    inside = (lowest > 0) & (lowest < len(x) - 1)
    k = np.clip(lowest, 1, len(x) - 2)
    left, middle, right = (np.take_along_axis(loss, (k + step)[:, None], axis=1)[:, 0] for step in (-1, 0, 1))
    bend = left - 2.0 * middle + right
    shift = np.where(bend > 0, 0.5 * (left - right) / np.where(bend > 0, bend, 1.0), 0.0)
    return np.where(inside, x[k] + shift * (x[1] - x[0]), np.nan)


def _candidates(table: RunTable, settings: Sequence[RunConfig], C: float, centre: float) -> list[_Candidate]:
    """Runs at a budget, of sizes around its optimum, that have not been made."""
    known = {row.run_id for row in table}
    near = [config for config in settings if abs(math.log(config.N) - centre) <= _REACH]
    return [_Candidate(config, C) for config in near if config.run_id not in known]


def _settings(parts: RunParts, objective: Objective, ladder: Sequence[ModelShape], C: float) -> list[RunConfig]:
    """What could be run at C FLOPs: every size of the ladder that gets a token."""
    streams, seed = parts.all_streams(), parts.spec.seeds[0]
    tokens = [(shape, round(C / _per_token(parts, shape))) for shape in ladder]
    return [parts.config(objective, shape, D, streams, seed) for shape, D in tokens if D >= 1]


def _at(parts: RunParts, among: Sequence[RunConfig], C: float) -> list[RunConfig]:
    """Those of the given settings that take C FLOPs."""
    return [config for config in among if abs(math.log(config.D * _per_token(parts, config.shape) / C)) < _SAME]


def _beliefs(surface: SurfaceFit, candidates: Sequence[_Candidate], aim: FloatArray, noise: float) -> Beliefs:
    """Over the draws: ln N_opt at the target and ln L of every candidate."""
    N, D, batch = (
        np.array([float(getattr(c.config, name)) for c in candidates]) for name in ("N", "D", "batch_tokens")
    )
    losses = log_loss(form_of(surface), theta_draws(surface), rows_at(surface, N, D, batch))
    found = np.isfinite(aim[1:])
    return Beliefs.of(aim[1:][found], losses[found], noise)


def _picked(
    candidates: Sequence[_Candidate], beliefs: Beliefs, C: float, interval: tuple[float, float, float], count: int
) -> list[int]:
    """The optimum, its bracket, then the largest gains per FLOP given those before; positions among the candidates."""
    low, centre, high = interval
    picked: list[int] = []
    for wanted in (centre, min(low, centre - _BRACKET), max(high, centre + _BRACKET)):
        free = [k for k, c in enumerate(candidates) if c.C == C and k not in picked]
        if free:
            picked.append(min(free, key=lambda k: abs(candidates[k].log_N - wanted)))
    cost = np.array([candidate.C for candidate in candidates])
    while len(picked) < min(count, len(candidates)):
        gain = beliefs.after_all(picked).gains() / cost
        gain[picked] = -1.0
        picked.append(int(gain.argmax()))
    return picked


def _reasons(
    picked: Sequence[int], candidates: Sequence[_Candidate], beliefs: Beliefs, C: float, target: float, said: str
) -> tuple[str, ...]:
    """For every run that was picked, in order, why."""
    optimum = candidates[picked[0]].log_N
    found = []
    for place, k in enumerate(picked):
        before, after = beliefs.after_all(picked[:place]).variance, beliefs.after_all(picked[: place + 1]).variance
        share = 1.0 - after / before if before > 0 else 0.0
        side = "below" if candidates[k].log_N < optimum else "above"
        if place == 0:
            why = f"nearest to the predicted optimum at {C:.3g} FLOPs, {said}"
        elif place < _SIZES and candidates[k].C == C:
            why = f"beside the optimum, {side} it: a minimum needs runs on both sides"
        else:
            why = f"of all candidates the most information per FLOP, at {candidates[k].C:.3g} FLOPs"
        found.append(f"{why}; takes {share:.0%} off the variance of ln N_opt at {target:.3g} FLOPs")
    return tuple(found)


def _doubt(law: LawFit) -> str:
    if law.disagreement is None or law.disagreement < 1.5:
        return ""
    return f"; forms that fit as well differ by a factor {law.disagreement:.3g} a decade further up"
