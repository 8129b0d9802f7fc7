"""Laws of repeated data fitted to runs: decays and the penalty on one base law, compared, with what is identified."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.laws.fit import LAD_DELTA, percentile_interval, robust_sd
from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.law_fit import SurfaceFit
from plm_scaling.laws.repeat_base import make_base
from plm_scaling.laws.repeat_doubts import UNIDENTIFIED, explain_repeats, identify, repeat_flags, upturn_flags
from plm_scaling.laws.repeat_fit import Identified, RepeatFit, RepeatScore
from plm_scaling.laws.repeat_forms import repeat_parameters
from plm_scaling.laws.repeat_intervals import natural_of, percentiles_of, profiles_of
from plm_scaling.laws.repeat_problem import RepeatRuns, make_runs
from plm_scaling.laws.repeat_search import Asked, Found, find_optimum, resample_repeats, second_optimum

__all__ = ["compare_on", "compare_repeat_forms", "fit_on", "fit_repeats"]

Base = str | SurfaceFit | Mapping[str, float]
_AGREE: Final = 1e-3
_COMPARED: Final = ("none", "data_decay", "decay", "penalty")


def fit_repeats(
    N: npt.ArrayLike,
    D: npt.ArrayLike,
    U: npt.ArrayLike,
    loss: npt.ArrayLike,
    *,
    form: str = "decay",
    base: Base = "chinchilla",
    plateau: float | None = None,
    batch_tokens: npt.ArrayLike | None = None,
    shifted: npt.ArrayLike | None = None,
    held: Mapping[str, float] | None = None,
    weights: npt.ArrayLike | None = None,
    huber_delta: float = 1e-3,
    draws: int = 1000,
    seed: int = 0,
) -> RepeatFit:
    """Fit a law of repeated data to runs, those without repeats among them.

    Parameters
    ----------
    N : parameters, [n]. D : tokens trained on, repeats included, [n]. U : unique tokens, [n]; at most D counts.
    loss : nats per token, [n]. batch_tokens : tokens per batch, [n].
    form : none, data_decay, size_decay, decay or penalty (`plm_scaling.laws.repeat_forms.REPEAT_FORMS`).
    base : the law of unrepeated runs: a fitted surface or published values {E, A, B, alpha, beta} as they are, or the
        name of a form (chinchilla, bounded, ...) whose parameters are fitted together with those of the repeats.
    plateau : L0 of a bounded form given by name, nats; None leaves it free.
    shifted : true for runs on another corpus or validation set, [n]: a common offset of their ln L is fitted.
    held : parameters of the repeats (R_D, R_N, P0, delta, kappa, offset) that are given, in their own unit.
    weights : weight of each run, [n]; None for equal weights.
    huber_delta : border of the quadratic zone, in units of ln L; inf is least squares, 0 least absolute deviations.
    draws : bootstrap resamples of runs; a base surface with draws of its own is drawn too.

    Raises
    ------
    FitError : too few runs, or values that are not positive and finite.
    ConfigError : no such form or parameter.

    **Source:** Muennighoff et al. 2023, eq. 5-6; Lovelace et al. 2026; Hoffmann et al. 2022, eq. 10 (objective).
    """
    runs = make_runs(N, D, U, loss, batch_tokens, shifted, weights)
    asked = _asked(form, base, plateau, runs, held, huber_delta)
    return fit_on(asked, runs, draws=draws, seed=seed)


def compare_repeat_forms(
    N: npt.ArrayLike,
    D: npt.ArrayLike,
    U: npt.ArrayLike,
    loss: npt.ArrayLike,
    *,
    forms: Sequence[str] = _COMPARED,
    base: Base = "chinchilla",
    plateau: float | None = None,
    batch_tokens: npt.ArrayLike | None = None,
    shifted: npt.ArrayLike | None = None,
    weights: npt.ArrayLike | None = None,
    huber_delta: float = 1e-3,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[RepeatFit, ...]:
    """Fit several laws of repeats to the same runs: best first by Akaike's criterion, too rich ones last.

    All forms share the resampled runs, so that `RepeatFit.rivals` says how certain their order is. Parameters and
    errors as in `fit_repeats`.

    **Source:** Akaike 1974; differences over paired bootstrap draws, Efron 1979.
    """
    runs = make_runs(N, D, U, loss, batch_tokens, shifted, weights)
    asked = [_asked(form, base, plateau, runs, None, huber_delta) for form in forms]
    return compare_on(asked, runs, draws=draws, seed=seed)


def _asked(
    form: str, base: Base, plateau: float | None, runs: RepeatRuns, held: Mapping[str, float] | None, delta: float
) -> Asked:
    law = make_base(base, plateau)
    return Asked(form, law, dict(held or {}), bool(runs.shifted.any()), max(delta, LAD_DELTA))


def fit_on(asked: Asked, runs: RepeatRuns, *, draws: int = 1000, seed: int = 0) -> RepeatFit:
    """`fit_repeats` on columns already checked."""
    found = find_optimum(asked, runs, resample_repeats(runs, draws, seed))
    return _record(asked, runs, found, keep_draws=draws > 0)


def compare_on(asked: Sequence[Asked], runs: RepeatRuns, *, draws: int = 1000, seed: int = 0) -> tuple[RepeatFit, ...]:
    """`compare_repeat_forms` on columns already checked."""
    weights = resample_repeats(runs, draws, seed)
    found = [find_optimum(one, runs, weights) for one in asked]
    fits = [_record(one, runs, there, keep_draws=draws > 0) for one, there in zip(asked, found, strict=True)]
    aic = np.array([_aic(runs, there) for there in found])
    drawn = np.stack([_drawn_aic(runs, there) for there in found])
    # A form with nearly as many parameters as there are repeated runs describes them whatever they are: it stands last.
    # Forms that come to the same thing, as where nothing is identified, stand in the order of their parameters.
    few = ["TOO_FEW_REPEATS" in fit.flags for fit in fits]
    order = np.lexsort(([len(fit.parameters) for fit in fits], np.round(aic - aic.min(), 6), few))
    best = int(order[0])
    rivals = tuple(_score(fits[k], float(aic[k] - aic[best]), drawn[k] - drawn[best]) for k in order)
    common = _between(fits, best, aic, drawn) if not found[0].setup.confounded else []
    # A form that misses the shape of the data counts its own misfit as scatter.
    sd = min(fit.residual_sd for fit in fits)
    compared = []
    for k in order:
        kept = [flag for flag in fits[k].flags if flag not in ("UPTURN_NOT_IN_FORM", "NO_UPTURN_IN_DATA")]
        known = _also_unidentified(fits[k], fits)
        raised = [UNIDENTIFIED[entry.quantity] for entry in known]
        every = (*kept, *raised, *upturn_flags(fits[k].form, runs, sd), *common)
        flags = tuple(dict.fromkeys(every))
        identified = (*fits[k].identified, *known)
        update = {"rivals": rivals, "identified": identified, "flags": flags, "notes": explain_repeats(flags)}
        compared.append(fits[k].model_copy(update=update))
    return tuple(compared)


def _also_unidentified(fit: RepeatFit, fits: Sequence[RepeatFit]) -> tuple[Identified, ...]:
    """Where repeats cost nothing that can be seen: R_D of the form that has it."""
    if fit.form != "none":
        return ()
    entries = [entry for other in fits if other.form == "data_decay" for entry in other.identified]
    return tuple(entry for entry in entries if entry.quantity == "R_D" and not entry.identified)


def _record(asked: Asked, runs: RepeatRuns, found: Found, *, keep_draws: bool) -> RepeatFit:
    setup, reached, rows = found.setup, found.reached, found.setup.rows
    natural, drawn = natural_of(found, found.theta), natural_of(found, found.draws)
    parameters = percentiles_of(found, runs, natural, drawn)
    profiles = profiles_of(found, runs)
    residual = setup.problem.residual(reached.theta[None])[0]
    sd = robust_sd(residual, len(setup.problem.form.names))
    second = second_optimum(found)
    agree = float((reached.values <= reached.value * (1.0 + _AGREE)).mean())
    identified = identify(setup, parameters, profiles, runs)
    flags = repeat_flags(
        setup,
        runs,
        identified,
        parameters,
        sd,
        multimodal=second is not None or agree * len(reached.values) < 1.5 < len(reached.values),
    )
    which = runs.repeated if runs.repeated.any() else np.ones(len(runs), dtype=bool)
    sample = runs.sample
    known = sample.batch[np.isfinite(sample.batch)]
    return RepeatFit(
        form=setup.kind,
        base=asked.base.form.name,
        plateau=asked.base.form.plateau,
        base_from=asked.base.source,
        fitted=setup.problem.form.names,
        N0=math.exp(rows.log_N0),
        D0=math.exp(rows.log_D0),
        R0=math.exp(rows.log_R0),
        ratio0=math.exp(rows.log_ratio0),
        parameters=parameters,
        profiles=profiles,
        draws=tuple(tuple(row) for row in drawn.tolist()) if keep_draws else (),
        identified=identified,
        huber_delta=asked.delta,
        objective_value=reached.value,
        gradient_norm=reached.gradient_norm,
        R2=_R2(runs, residual),
        rms_relative_error=float(np.sqrt(np.average(np.expm1(residual) ** 2, weights=sample.weights))),
        residual_sd=sd,
        starts=len(reached.values),
        starts_agreeing=agree,
        second_objective=second[0] if second else None,
        second_optimum=second[1] if second else None,
        n_runs=len(runs),
        n_repeated=int(runs.repeated.sum()),
        range_N=_range(sample.N[which]),
        range_U=_range(runs.U[which]),
        range_epochs=_range(1.0 + runs.R[which]),
        range_ratio=_range(sample.N[which] / runs.U[which]),
        batch_typical=float(np.median(known)) if len(known) else asked.base.batch_typical,
        flags=flags,
        notes=explain_repeats(flags),
    )


def _range(values: FloatArray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _R2(runs: RepeatRuns, residual: FloatArray) -> float:
    loss, w = runs.sample.loss, runs.sample.weights
    error = loss * np.expm1(residual)
    spread = float((w * (loss - np.average(loss, weights=w)) ** 2).sum())
    return 1.0 - float((w * error**2).sum()) / max(spread, 1e-300)


# --- forms against each other --------------------------------------------------------------------------------------


def _aic(runs: RepeatRuns, found: Found) -> float:
    """Akaike's criterion with Laplace errors of ln L, up to a constant."""
    residual = found.setup.problem.residual(found.reached.theta[None])[0]
    scale = float(np.average(np.abs(residual), weights=runs.sample.weights))
    return 2.0 * len(runs) * math.log(max(scale, 1e-300)) + 2.0 * len(found.setup.problem.form.names)


def _drawn_aic(runs: RepeatRuns, found: Found) -> FloatArray:
    """`_aic` of every resample at its own optimum, float64[B]."""
    scale = np.log(np.maximum(found.scales, 1e-300))
    return np.asarray(2.0 * len(runs) * scale + 2.0 * len(found.setup.problem.form.names))


def _score(fit: RepeatFit, aic: float, drawn: FloatArray) -> RepeatScore:
    own = {parameter.name for parameter in repeat_parameters(fit.form, offset=True)}
    return RepeatScore(
        form=fit.form,
        n_parameters=len(fit.fitted),
        objective_value=fit.objective_value,
        R2=fit.R2,
        aic=aic,
        behind=percentile_interval(aic, drawn) if np.ptp(drawn) > 0 else None,
        parameters={name: interval for name, interval in fit.parameters.items() if name in own},
    )


def _between(fits: Sequence[RepeatFit], best: int, aic: FloatArray, drawn: FloatArray) -> list[str]:
    """Doubts that only show when the forms are held against each other."""

    def open_order(a: int, b: int) -> bool:
        difference = percentile_interval(float(aic[a] - aic[b]), drawn[a] - drawn[b])
        return difference.low <= 0.0 <= difference.high

    place = {fit.form: k for k, fit in enumerate(fits)}
    if not fits[0].n_repeated:
        return []
    flags = []
    decays = [place[form] for form in ("data_decay", "size_decay", "decay") if form in place]
    if decays and "penalty" in place and open_order(min(decays, key=lambda k: aic[k]), place["penalty"]):
        flags.append("FORMS_INDISTINGUISHABLE")
    if "none" in place and len(fits) > 1 and open_order(place["none"], best):
        flags.append("NO_REPEAT_EFFECT")
    return flags
