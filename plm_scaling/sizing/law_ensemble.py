"""`LawEnsemble`: draws of several forms with their weights, all asked for losses at once. numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import RefusedError
from plm_scaling.laws.forms import Form, Rows, find_form, log_loss, paired_log_loss
from plm_scaling.laws.interval import normal_strata
from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.law_fit import LawFit, SurfaceFit
from plm_scaling.laws.predict import extrapolation_sd
from plm_scaling.laws.repeat_answers import log_repeat_effect
from plm_scaling.laws.repeat_fit import RepeatFit
from plm_scaling.laws.surface import form_of, theta_draws, theta_of
from plm_scaling.laws.zoo import PublishedLaw, find_law

__all__ = [
    "LawEnsemble",
    "LawMember",
    "TokenDecay",
    "ensemble_of_fit",
    "ensemble_of_published",
    "normal_quantiles",
    "text_decay",
]

_LEAST_WEIGHT: Final = 0.02
_DECAY_STRATA: Final = 16
"""Draws of R_D are read at so many quantiles: losses at one R_D share their rows."""
_PAIRED: Final = 100_000
"""Up to so many losses every draw is paired with its tokens: fewer and larger steps than one for each R_D."""
_PUBLISHED_NOISE: Final = 0.004
"""Run noise of ln L where a law states none. **Source:** released logs of Cheng et al. 2024, replicates .3 to .5 %."""


@dataclass(frozen=True)
class LawMember:
    """One form of an ensemble: its estimate and its draws, and where it is centred."""

    name: str
    weight: float
    """Share in the ensemble; they sum to one."""
    form: Form
    theta: FloatArray
    """float64[1 + K, p]: the estimate, then K draws (the estimate again where a law has none)."""
    log_N0: float
    log_D0: float
    log_batch: float = 0.0
    """ln of the batch in tokens at which losses are asked for."""

    def log_losses(self, log_N: FloatArray, log_D: FloatArray, which: slice = slice(None)) -> FloatArray:
        """Ln L float64[rows, n] at points [n], for some rows of theta."""
        batch = np.full(len(log_N), self.log_batch)
        rows = Rows(log_N - self.log_N0, log_D - self.log_D0, batch, log_N0=self.log_N0, log_D0=self.log_D0)
        return np.asarray(log_loss(self.form, self.theta[which], rows))

    def paired_log_losses(self, log_N: FloatArray, log_D: FloatArray) -> FloatArray:
        """Ln L float64[1 + K, n] at sizes [n] and tokens [1 + K, n], every row of theta at its own."""
        D = log_D.ravel() - self.log_D0
        N, batch = np.tile(log_N - self.log_N0, len(self.theta)), np.full(len(D), self.log_batch)
        rows = Rows(N, D, batch, log_N0=self.log_N0, log_D0=self.log_D0)
        return np.asarray(paired_log_loss(self.form, np.repeat(self.theta, len(log_N), axis=0), rows)).reshape(
            log_D.shape
        )


@dataclass(frozen=True)
class TokenDecay:
    """What repeated tokens are worth: D' = U + U R_D (1 - exp(-(D/U - 1)/R_D)), R_D log-normal.

    **Source:** Muennighoff et al. 2023, eq. 5.
    """

    R_D: float
    log_sd: float
    source: str
    status: Literal["read", "measured", "unverified", "own fit"] = "read"

    def log_worth(self, log_D: FloatArray, log_U: FloatArray, z: float) -> FloatArray:
        """Ln D' at points [n] for R_D z standard deviations above its median."""
        R_D = self.R_D * math.exp(z * self.log_sd)
        repeats = np.expm1(np.maximum(log_D - log_U, 0.0))
        return np.minimum(log_D, log_U) + np.log1p(-R_D * np.expm1(-repeats / R_D))


@dataclass(frozen=True)
class LawEnsemble:
    """Laws of one objective on one validation set as weighted draws; losses in nats per token.

    Draw k of every member is an equally likely law of that form; a form counts by its weight.
    """

    objective: str
    source: str
    status: str
    """own fit, measured, read or unverified."""
    members: tuple[LawMember, ...]
    range_C: tuple[float, float] | None
    """6 N D of the runs behind it, FLOPs."""
    noise_sd: float = _PUBLISHED_NOISE
    """Of ln L: what one run differs from the law by."""
    drift_sd: float = 0.0
    """Of ln L, per root of a decade beyond `range_C`: the error its extrapolations were seen to make."""
    repeats: RepeatFit | TokenDecay | None = None
    validation_id: str | None = None
    flags: tuple[str, ...] = ()

    @property
    def draw_weights(self) -> FloatArray:
        """float64[K], one per draw of `losses`; they sum to one."""
        return np.concatenate([np.full(len(m.theta) - 1, m.weight / (len(m.theta) - 1)) for m in self.members])

    @property
    def draw_members(self) -> npt.NDArray[np.intp]:
        """Which member each draw of `losses` is of, [K]."""
        return np.concatenate([np.full(len(m.theta) - 1, k) for k, m in enumerate(self.members)])

    @property
    def member_weights(self) -> FloatArray:
        """float64[m]."""
        return np.array([member.weight for member in self.members])

    def losses(self, N: npt.ArrayLike, D: npt.ArrayLike, unique_tokens: npt.ArrayLike | None = None) -> FloatArray:
        """Losses of every draw at points [n] of N parameters and D tokens, float64[K, n].

        Parameters
        ----------
        unique_tokens : tokens that are not repeats, scalar or [n]; None for as many as D.
        """
        return np.concatenate([block[1:] for block in self._blocks(N, D, unique_tokens)])

    def estimates(self, N: npt.ArrayLike, D: npt.ArrayLike, unique_tokens: npt.ArrayLike | None = None) -> FloatArray:
        """Losses by the estimate of every member at points [n], float64[m, n]."""
        return np.stack([block[0] for block in self._without_draws._blocks(N, D, unique_tokens)])

    @cached_property
    def _without_draws(self) -> LawEnsemble:
        """Every member with its estimate as its only draw."""
        return replace(self, members=tuple(replace(m, theta=m.theta[[0, 0]]) for m in self.members))

    def loss(self, N: float, D: float, unique_tokens: float | None = None) -> float:
        """The ensemble's loss at one point: the weighted mean of the members' ln L, as `predict_losses` has it."""
        return float(np.exp(self.member_weights @ np.log(self.estimates(N, D, unique_tokens)[:, 0])))

    def thinned(self, draws: int) -> LawEnsemble:
        """The same ensemble with at most `draws` draws of each member and of the repeats, evenly spaced."""

        def thin(member: LawMember) -> LawMember:
            count = len(member.theta) - 1
            if count <= draws:
                return member
            return replace(member, theta=member.theta[np.concatenate([[0], 1 + _spread(count, draws)])])

        repeats = self.repeats
        if isinstance(repeats, RepeatFit) and len(repeats.draws) > draws:
            kept = tuple(repeats.draws[k] for k in _spread(len(repeats.draws), draws))
            repeats = repeats.model_copy(update={"draws": kept})
        return replace(self, members=tuple(thin(member) for member in self.members), repeats=repeats)

    def _blocks(self, N: npt.ArrayLike, D: npt.ArrayLike, unique: npt.ArrayLike | None) -> list[FloatArray]:
        """Losses by member, float64[1 + K, n] each."""
        U = D if unique is None else unique
        points = np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, dtype=np.float64)) for v in (N, D, U)))
        log_N, log_D, log_U = (np.log(v) for v in points)
        if not np.any(log_U < log_D) or self.repeats is None:
            return [np.exp(member.log_losses(log_N, log_D)) for member in self.members]
        if isinstance(self.repeats, TokenDecay):
            return [np.exp(_decayed(member, self.repeats, log_N, log_D, log_U)) for member in self.members]
        effect = log_repeat_effect(self.repeats, *points)
        return [np.exp(member.log_losses(log_N, log_D) + _rows_of(effect, member)) for member in self.members]


def _spread(count: int, kept: int) -> npt.NDArray[np.intp]:
    """Indices of `kept` of `count` things, evenly spaced."""
    return np.linspace(0, count - 1, kept).round().astype(np.intp)


def _decayed(
    member: LawMember, decay: TokenDecay, log_N: FloatArray, log_D: FloatArray, log_U: FloatArray
) -> FloatArray:
    """Ln L of a member at tokens worth what `decay` says, its draws dealt out over the quantiles of R_D."""
    worths = np.stack([decay.log_worth(log_D, log_U, float(z)) for z in (0.0, *normal_quantiles())])
    draws = len(member.theta) - 1
    stratum = np.concatenate([[0], 1 + np.arange(draws) % _DECAY_STRATA])
    if stratum.size * log_N.size <= _PAIRED:
        return member.paired_log_losses(log_N, worths[stratum])
    found = np.empty((1 + draws, len(log_N)))
    for k, worth in enumerate(worths):
        which = slice(0, 1) if k == 0 else slice(k, None, _DECAY_STRATA)
        if len(member.theta) > which.start:
            found[which] = member.log_losses(log_N, worth, which)
    return found


def normal_quantiles() -> FloatArray:
    """Middle of each of the strata of a standard normal, in an order that any few draws spread over."""
    order = np.argsort(np.modf(np.arange(_DECAY_STRATA) * (math.sqrt(5.0) - 1.0) / 2.0)[0])
    return normal_strata(_DECAY_STRATA)[order]


def _rows_of(effect: FloatArray, member: LawMember) -> FloatArray:
    """The repeats' effect float64[1 + B, n] dealt out to a member's 1 + K rows, the estimate to the estimate."""
    draws = np.arange(len(member.theta) - 1) % max(len(effect) - 1, 1) + (len(effect) > 1)
    return np.asarray(effect[np.concatenate([[0], draws])])


def text_decay() -> TokenDecay:
    """The text law of repeats: R_D 15.4, its lower 95 % end 6.5; its upper end is open, so that this is cautious.

    **Source:** Muennighoff et al. 2023, eq. 5; pairs bootstrap of the published table.
    """
    law = find_law("muennighoff2023")
    low = find_law("muennighoff2023-refit").ci95["R_D"][0]
    R_D = law.params["R_D"]
    return TokenDecay(R_D, math.log(R_D / low) / 1.96, law.source)


def ensemble_of_fit(fit: LawFit, *, source: str = "", status: str = "own fit", draws: int = 2000) -> LawEnsemble:
    """The forms of a fit with their weights and draws; the text law of repeats where the fit identifies none.

    A form that has no lowest loss at a fixed compute, or that turns upwards beyond its runs because it is a quadratic,
    is left out where others are there: it says nothing about sizes that were not run.

    Parameters
    ----------
    draws : most draws of a form.

    Raises
    ------
    RefusedError : the fit holds no surface, so that it predicts no losses.
    """
    if fit.surface is None:
        reason = "; ".join(refusal.reason for refusal in fit.refusals) or "no surface could be fitted"
        raise RefusedError(
            f"this {fit.objective.upper()} fit predicts no losses", why=reason, hint="add sizes and budgets"
        )
    held = [(score.surface, score.weight) for score in fit.forms if score.surface and score.weight >= _LEAST_WEIGHT]
    held = [(surface, weight) for surface, weight in held if form_of(surface).inner is not None] or held
    total = sum(weight for _, weight in held)
    own_repeats = fit.repeats if fit.repeats and fit.repeats.form != "none" else None
    shares = [(surface, weight / total) for surface, weight in held] if total > 0 else [(fit.surface, 1.0)]
    return LawEnsemble(
        objective=fit.objective,
        source=source or f"own fit of {fit.n_runs} runs",
        status=status,
        members=tuple(_member(surface, weight) for surface, weight in shares),
        range_C=fit.surface.range_C_6nd or fit.range_C,
        noise_sd=fit.surface.residual_sd or fit.surface.rms_relative_error,
        drift_sd=extrapolation_sd(fit),
        repeats=own_repeats or text_decay(),
        validation_id=fit.validation_id,
        flags=() if own_repeats else ("TEXT_REPEATS",),
    ).thinned(draws)


def _member(surface: SurfaceFit, weight: float) -> LawMember:
    return LawMember(
        name=surface.form if surface.plateau is None else f"{surface.form}, L0 = {surface.plateau:.4g}",
        weight=weight,
        form=form_of(surface),
        theta=np.concatenate([theta_of(surface), theta_draws(surface)]),
        log_N0=math.log(surface.N0),
        log_D0=math.log(surface.D0),
        log_batch=math.log(surface.batch_typical or 1.0),
    )


def ensemble_of_published(laws: Sequence[PublishedLaw]) -> LawEnsemble:
    """Published laws of one objective that state a loss, equally weighted; each is one draw, without an interval.

    Raises
    ------
    RefusedError : none of them states a loss.
    """
    stated = [law for law in laws if _theta_of_published(law) is not None]
    if not stated:
        names = ", ".join(law.id for law in laws)
        raise RefusedError(f"no loss is stated by {names}", why="a frontier says which N, not how far others are off")
    ranges = [law.range_C for law in stated if law.range_C]
    return LawEnsemble(
        objective=stated[0].objective,
        source="; ".join(law.id for law in stated),
        status="unverified" if any(law.status == "unverified" for law in stated) else stated[0].status,
        members=tuple(_published_member(law, 1.0 / len(stated)) for law in stated),
        range_C=(min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else None,
        repeats=text_decay(),
        flags=("NO_DRAWS", "TEXT_REPEATS", *(("TEXT_LAW",) if stated[0].objective == "text" else ())),
    )


def _published_member(law: PublishedLaw, weight: float) -> LawMember:
    found = _theta_of_published(law)
    assert found is not None
    form, theta = found
    return LawMember(law.id, weight, form, np.stack([theta, theta]), 0.0, 0.0)


def _theta_of_published(law: PublishedLaw) -> tuple[Form, FloatArray] | None:
    """A published law as a form's theta, centred at N0 = D0 = 1; None for a law without a loss."""

    def value(name: str) -> float:
        return math.exp(law.params[f"log_{name}"]) if f"log_{name}" in law.params else law.params[name]

    if law.form in ("chinchilla", "repeats"):
        form, natural = find_form("chinchilla"), [value(name) for name in ("E", "A", "B", "alpha", "beta")]
    elif law.form == "gamma":
        form, natural = find_form("gamma"), [value(name) for name in ("E", "A", "B", "alpha", "beta", "gamma")]
    elif law.form == "kaplan":
        r = value("a_N") / value("a_D")
        form, natural = find_form("kaplan"), [value("N_c") ** r, value("D_c"), r, value("a_D")]
    else:
        return None
    return form, form.theta(np.array([natural]))[0]
