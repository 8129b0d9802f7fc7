"""Laws by group: the law of all sequences, and each group's departure from it shrunk towards the other groups'."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import RefusedError
from plm_scaling.core.files import canonical_json, sha256_text
from plm_scaling.core.run_row import RunRow
from plm_scaling.core.run_table import RunTable
from plm_scaling.laws.group_basis import GroupBasis, bases_of, law_draws, law_slopes
from plm_scaling.laws.group_fit import GroupFit, GroupLaw, HomologyEffect
from plm_scaling.laws.group_losses import GroupEvidence, GroupLosses, evidence_of
from plm_scaling.laws.group_posterior import GroupPosterior, draw_posterior
from plm_scaling.laws.interval import Interval, percentile_interval
from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.law_fit import LawFit, SurfaceFit
from plm_scaling.laws.surface import surface_loss

__all__ = ["fit_group_laws", "group_loss"]

IntArray = npt.NDArray[np.int64]

FEW_SEQUENCES: Final = 10
_LEAST_RUNS: Final = 6
_LEAST_GROUPS: Final = 2
_LINE_GROUPS: Final = 8
"""Groups from which on the line they are drawn towards may slope with their training tokens."""
_SAME_LENGTH_GROUPS: Final = 10
_CONFOUNDED: Final = 0.5

_SENTENCES: Final = {
    "FEW_SEQUENCES": f"Groups with this flag have fewer than {FEW_SEQUENCES} validation sequences: their laws are "
    "mostly those of the other groups.",
    "NO_HOMOLOGOUS_TOKENS": "Groups with this flag have no training tokens of their own kind: they are not part of the "
    "line in homologous tokens.",
    "SLOPES_NOT_TOLD_APART": "The changes with N or with D differ between groups by less than their errors: the ranks "
    "say little.",
    "BETWEEN_GROUPS_ONLY": "Homologous tokens were never varied within a group: their line compares groups, which "
    "differ in more than their tokens. It predicts; it does not say what more tokens of a group would do.",
    "CONFOUNDED": "Groups with more training tokens also have other sequence lengths, or the line moves when lengths "
    "are held equal: what looks like homologous tokens may be length.",
    "NO_HOMOLOGY": "No line in homologous tokens: they are not known for these groups, or there are fewer than "
    f"{_LINE_GROUPS} of them.",
    "LEFT_OUT": "Some groups were left out: too few validation sequences, or beyond the largest.",
}


@dataclass(frozen=True)
class _Place:
    """Where groups are compared: the largest run and the centre of the runs."""

    basis: GroupBasis
    N: float
    D: float

    @cached_property
    def functionals(self) -> FloatArray:
        """float64[3, p]: from coefficients to the loss at the largest run and the changes per doubling of N and D."""
        at = self.basis.columns(np.array([self.N]), np.array([self.D]))
        return np.concatenate([at, self.basis.doublings()])

    @cached_property
    def law(self) -> FloatArray:
        """float64[3]: the law of all sequences' own."""
        slopes, _ = law_slopes(self.basis.surface, self.basis.N0, self.basis.D0)
        return np.append(surface_loss(self.basis.surface, self.N, self.D), slopes)

    def law_draws(self, count: int, seed: int) -> FloatArray:
        """float64[count, 3]."""
        loss = law_draws(self.basis.surface, np.array([self.N]), np.array([self.D]))
        _, slopes = law_slopes(self.basis.surface, self.basis.N0, self.basis.D0)
        both = np.concatenate([loss, slopes], axis=1)
        return np.asarray(both[np.random.default_rng([seed, 3]).integers(0, len(both), size=count)])


def fit_group_laws(
    runs: RunTable,
    law: LawFit,
    losses: GroupLosses,
    *,
    by: str,
    validation: str,
    left_out: int = 0,
    draws: int = 2000,
    seed: int = 0,
) -> GroupFit:
    """The laws of groups of validation sequences.

    A group's loss, less the law of all sequences and less its share of what befell all in a run (a seed), is linear in
    the law's own cuts in N and in D, or in their logarithms: whichever leaves less; and in their bends, without which
    the change with D of a group that has exponents of its own is too sure of itself. Coefficients are shrunk towards
    the other groups' (`group_posterior`), towards a line in ln(training tokens of the group) where these are known.

    Parameters
    ----------
    runs : the runs of `losses`, in their order, with the loss of all sequences. law : fitted to them; its draws should
        resample runs and not sequences, whose noise enters by group.
    by, validation, left_out : what the groups are, for the record.
    draws : of the posterior.

    Raises
    ------
    RefusedError : too few runs or groups, no law of all sequences, or N and D that move together.
    """
    basis, evidence = _evidence(runs, law, losses)
    rows = runs.rows
    largest = max(rows, key=_compute)
    place = _Place(basis, float(largest.N), float(largest.D))
    tokens = _log_tokens(losses)
    made = draw_posterior(
        evidence.estimate,
        evidence.covariance,
        evidence.degrees,
        _line(len(losses.names), tokens),
        draws=draws,
        seed=seed,
    )
    off_law = place.law_draws(draws, seed) - place.law
    between = made.beta @ place.functionals.T
    parts = place.law + between + off_law[:, None] * evidence.loading[:, None]
    scales = np.einsum("ki,sij,kj->sk", place.functionals, made.omega, place.functionals)
    own = np.einsum("ki,gij,kj->gk", place.functionals, evidence.covariance, place.functionals)
    kept = np.median(scales, axis=0) / (np.median(scales, axis=0) + own)
    fastest = max(1, round(0.1 * len(losses.names)))
    order = np.argsort(-evidence.targets, kind="stable")
    ranks = parts[:, :, 1:].argsort(axis=1).argsort(axis=1) + 1
    groups = tuple(
        _group(losses, evidence, place, made, int(g), parts[:, g], ranks[:, g], kept[g], fastest) for g in order
    )
    homology = None
    if tokens is not None and losses.share is not None:
        homology = _homology(place, evidence, made, tokens, losses.share > 0, seed, draws)
    reliability = kept.mean(axis=0)
    flags = [*dict.fromkeys(flag for group in groups for flag in group.flags)]
    flags += ["SLOPES_NOT_TOLD_APART"] if min(reliability[1:]) < 0.5 else []
    flags += ["LEFT_OUT"] if left_out else []
    flags += homology.flags if homology else ["NO_HOMOLOGY"]
    return GroupFit(
        objective=law.objective,
        by=by,
        validation=validation,
        law=law,
        basis=basis.name,
        bends=basis.bends,
        N0=basis.N0,
        D0=basis.D0,
        N_largest=place.N,
        D_largest=place.D,
        n_runs=len(rows),
        groups=groups,
        fastest_of=fastest,
        homology=homology,
        spread=_three(np.median(between.std(axis=1, ddof=1), axis=0)),
        reliability=_three(reliability),
        run_sd=evidence.run_sd,
        left_out=left_out,
        flags=tuple(flags),
        notes=tuple(f"{flag}: {_SENTENCES[flag]}" for flag in flags),
        data_hash=_hash(runs, losses),
    )


def group_loss(
    fit: GroupFit, name: str, N: float, D: float, *, level: float = 0.95, draws: int = 4000, seed: int = 0
) -> Interval:
    """The expected loss of a group at N parameters and D tokens, nats per token: its law and the law's own draws.

    Raises
    ------
    ConfigError : no such group.
    """
    group = fit.group(name)
    surface = _surface(fit.law)
    at_N, at_D = np.array([float(N)]), np.array([float(D)])
    columns = GroupBasis(fit.basis, surface, fit.N0, fit.D0, fit.bends).columns(at_N, at_D)[0]
    rng = np.random.default_rng([seed, 4])
    estimate = float(surface_loss(surface, N, D))
    off_law = group.loading * (law_draws(surface, at_N, at_D)[:, 0] - estimate)
    spread = math.sqrt(max(float(columns @ np.array(group.covariance) @ columns), 0.0))
    value = estimate + float(columns @ group.coefficients)
    made = value + rng.choice(off_law, size=draws) + spread * rng.standard_normal(draws)
    return percentile_interval(value, made, level)


def _surface(law: LawFit) -> SurfaceFit:
    if law.surface is None:
        raise RefusedError(
            "no laws by group",
            why="the law of all sequences, from which groups depart, is refused: "
            + ("; ".join(refusal.reason for refusal in law.refusals) or "no surface was fitted"),
            hint="add sizes and budgets to the sweep",
        )
    return law.surface


def _evidence(runs: RunTable, law: LawFit, losses: GroupLosses) -> tuple[GroupBasis, GroupEvidence]:
    surface = _surface(law)
    if len(runs) < _LEAST_RUNS or len(losses.names) < _LEAST_GROUPS:
        raise RefusedError(
            "no laws by group",
            why=f"there are {len(runs)} runs and {len(losses.names)} groups with enough validation sequences; it takes "
            f"{_LEAST_RUNS} and {_LEAST_GROUPS}",
            hint="add runs, score more validation sequences, or take a coarser column",
        )
    bases = bases_of(surface, runs.column("N"), runs.column("D"))
    if not bases:
        raise RefusedError(
            "no laws by group",
            why="N and D move together over these runs, so no group's change with one can be told from the other's",
            hint="run several sizes at several numbers of tokens",
        )
    N, D = runs.column("N"), runs.column("D")
    at_law = surface_loss(surface, N, D, runs.column("batch_tokens"))
    off = runs.column("loss") - at_law
    found = [(basis, evidence_of(losses, at_law, off, basis.columns(N, D))) for basis in bases]
    return min(found, key=lambda pair: pair[1].misfit)


def _compute(row: RunRow) -> float:
    return row.C_exact or row.N * row.D


def _log_tokens(losses: GroupLosses) -> FloatArray | None:
    """Ln of each group's share of the training tokens, float64[G]; None where a line in it makes no sense.

    Groups without any stand at the others' mean: they say nothing about the slope, and a logarithm nothing of them.
    """
    if losses.share is None or int((losses.share > 0).sum()) < _LINE_GROUPS:
        return None
    known = losses.share > 0
    logs: FloatArray = np.log(np.where(known, losses.share, 1.0))
    mean = float(logs[known].mean())
    return np.where(known, logs, mean) if float(logs[known].std()) > 0.05 else None


def _line(groups: int, *columns: FloatArray | None) -> FloatArray:
    """A constant and covariates [G] about their means: float64[G, q]."""
    known = [column - column.mean() for column in columns if column is not None]
    return np.stack([np.ones(groups), *known], axis=1)


def _group(
    losses: GroupLosses,
    evidence: GroupEvidence,
    place: _Place,
    made: GroupPosterior,
    g: int,
    parts: FloatArray,
    ranks: IntArray,
    kept: FloatArray,
    fastest: int,
) -> GroupLaw:
    """Group g from its draws: `parts` float64[S, 3] in nats, `ranks` int[S, 2]."""
    beta = made.beta[:, g]
    mean = beta.mean(axis=0)
    value = place.law + place.functionals @ mean
    covariance = np.cov(beta.T)
    share = None if losses.share is None else float(losses.share[g])
    flags = ["FEW_SEQUENCES"] if evidence.sequences[g] < FEW_SEQUENCES else []
    flags += ["NO_HOMOLOGOUS_TOKENS"] if share == 0 else []
    shown = [percentile_interval(float(v), column) for v, column in zip(value, parts.T, strict=True)]
    place_of = [percentile_interval(float(np.median(column)), column.astype(np.float64)) for column in ranks.T]
    return GroupLaw(
        name=losses.names[g],
        sequences=int(evidence.sequences[g]),
        targets=int(evidence.targets[g]),
        homologous_tokens=None if share is None else share * place.D,
        loss=shown[0],
        per_doubling_N=shown[1],
        per_doubling_D=shown[2],
        alone=_three(place.law + place.functionals @ evidence.estimate[g]),
        kept=_three(kept),
        rank_N=place_of[0],
        rank_D=place_of[1],
        fastest_N=float((ranks[:, 0] <= fastest).mean()),
        fastest_D=float((ranks[:, 1] <= fastest).mean()),
        loading=float(evidence.loading[g]),
        coefficients=tuple(mean.tolist()),
        covariance=tuple(tuple(row) for row in covariance.tolist()),
        flags=tuple(flags),
    )


def _homology(
    place: _Place,
    evidence: GroupEvidence,
    made: GroupPosterior,
    tokens: FloatArray,
    known: npt.NDArray[np.bool_],
    seed: int,
    draws: int,
) -> HomologyEffect:
    """The slope of the groups' line in ln tokens, with lengths held equal beside it."""
    effects = made.gamma[:, 1] @ place.functionals.T * math.log(2.0)
    loss, of_N, of_D = (percentile_interval(float(column.mean()), column) for column in effects.T)
    length = np.log(evidence.length)
    differ = float(length[known].std()) > 0
    correlation = float(np.corrcoef(tokens[known], length[known])[0, 1]) if differ else 0.0
    given = None
    if differ and len(tokens) >= _SAME_LENGTH_GROUPS and abs(correlation) < 0.98:
        covariates = _line(len(tokens), tokens, length)
        again = draw_posterior(
            evidence.estimate, evidence.covariance, evidence.degrees, covariates, draws=draws, seed=seed
        )
        column = again.gamma[:, 1] @ place.functionals[0] * math.log(2.0)
        given = percentile_interval(float(column.mean()), column)
    moved = given is not None and abs(given.value - loss.value) > 0.25 * (loss.high - loss.low)
    return HomologyEffect(
        groups=int(known.sum()),
        loss=loss,
        per_doubling_N=of_N,
        per_doubling_D=of_D,
        loss_given_length=given,
        length_correlation=correlation,
        flags=("BETWEEN_GROUPS_ONLY", *(("CONFOUNDED",) if moved or abs(correlation) > _CONFOUNDED else ())),
    )


def _three(values: FloatArray) -> tuple[float, float, float]:
    a, b, c = (float(value) for value in values)
    return a, b, c


def _hash(runs: RunTable, losses: GroupLosses) -> str:
    """Of the runs, the groups' names and sums."""
    totals = [np.bincount(losses.label, row, len(losses.names)).tolist() for row in losses.loss_sum]
    return sha256_text(canonical_json([runs.content_hash(), list(losses.names), totals]))
