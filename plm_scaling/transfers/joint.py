"""Scratch and transferred runs on one surface: a transferred run stands at D_f + D_t tokens, with or without partner.

Such a fit uses the transferred runs that no scratch run matches. It reads levels, not paired gaps, so that whatever
the form misses of a size's level goes into D_t: it stands beside the law from the pairs, never in its place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.fit import percentile_interval
from plm_scaling.laws.forms import Atom, FloatArray, Form, Parameter, Rows
from plm_scaling.laws.jets import Value, softplus
from plm_scaling.laws.law_fit import Interval, SurfaceFit
from plm_scaling.laws.newton import Problem, minimise
from plm_scaling.laws.problem import make_problem, make_sample
from plm_scaling.laws.surface import form_of, theta_of
from plm_scaling.transfers.exponents import design_refusals
from plm_scaling.transfers.pairs import find_pairs
from plm_scaling.transfers.scratch_laws import ScratchLaw, ScratchLaws
from plm_scaling.transfers.transfer_fit import JointFit

__all__ = ["joint_fits", "joint_form"]

_DRAWS: Final = 200
_STARTS: Final = ((-1.5, 0.0, 0.0), (-0.5, 0.3, 0.0), (0.5, 0.3, 0.3), (-1.5, 0.6, -0.3))
"""ln k in units of the mean tokens, a, b."""


def joint_form(base: Form, transferred: FloatArray) -> Form:
    """A form whose D is D + k (D / D0)^a (N / N0)^b in some rows.

    Parameters
    ----------
    base : a form with a term B D^-beta.
    transferred : 1 where a row is of a transferred run, else 0, float64[n].

    **Source:** Hernandez et al. 2021, eq. 1.1 and 1.2 (D_E = D_F + D_T).
    """

    def formula(a: Mapping[str, Value], rows: Rows, form: Form) -> Value:
        # B (D + D_T)^-beta = B D^-beta (1 + D_T / D)^-beta, and ln(D_T / D) is linear in ln D and ln N.
        moved = dict(a)
        moved["D"] = a["D"] - a["beta"] * (softplus(a["T"]) * transferred)
        return base.formula(moved, rows, form)

    slope = () if any(atom.name == "beta" for atom in base.atoms) else (Atom("beta", (("beta", "1"),)),)
    added = tuple(Parameter(name, "linear") for name in ("T_k", "T_a", "T_b"))
    return Form(
        f"{base.name}+transfer",
        f"{base.equation}, D -> D + k D^a N^b where transferred",
        (*base.parameters, *added),
        (*base.atoms, *slope, Atom("T", (("T_k", "1"), ("T_a", "y"), ("T_b", "x")))),
        formula,
        base.source,
        base.inner,
        base.has_batch,
        base.plateau,
    )


def joint_fits(table: RunTable, laws: ScratchLaws, *, seed: int = 0) -> tuple[JointFit, ...]:
    """The joint fit of every direction whose transferred runs, matched or not, identify k, a and b; none else."""
    groups: dict[tuple[str, str], list[RunRow]] = {}
    for pair in find_pairs(table):
        row = pair.target
        if row.source_control is None and row.source_objective:
            groups.setdefault((row.source_objective, row.objective), []).append(row)
    fits = []
    for rows in groups.values():
        if design_refusals([(row.D, row.N) for row in rows], ""):
            continue
        law = laws.of(rows[0])
        same = [row for row in rows if laws.of(row) is law]
        surface = _base(law)
        if surface is None or law.runs is None or design_refusals([(row.D, row.N) for row in same], ""):
            continue
        fits.append(_fit(surface, law.runs, same, seed))
    return tuple(fits)


def _base(law: ScratchLaw) -> SurfaceFit | None:
    """The heaviest form that has a term in D of its own."""
    fits = [member.surface for member in law.members]
    return next((fit for fit in fits if {"B0", "beta"} <= set(fit.parameters)), None)


def _fit(surface: SurfaceFit, scratch: RunTable, rows: Sequence[RunRow], seed: int) -> JointFit:
    every = RunTable((*scratch, *rows))
    sample = make_sample(*(every.column(name) for name in ("N", "D", "loss", "batch_tokens")))
    moved = np.concatenate([np.zeros(len(scratch)), np.ones(len(rows))])
    base = form_of(surface)
    plain = make_problem(base, sample, surface.huber_delta)
    form = joint_form(base, moved)
    # ln k is ln(D_T / D) at the centre; a enters as a - 1.
    low, high = np.concatenate([plain.low, [-12.0, -4.0, -4.0]]), np.concatenate([plain.high, [6.0, 3.0, 4.0]])
    problem = Problem(form, plain.rows, plain.target, plain.delta, low, high)
    begin = np.array([[*_recentred(surface, plain), k, a - 1.0, b] for k, a, b in _STARTS])
    ends, values = minimise(problem, begin, sample.weights)
    theta = ends[int(np.argmin(values))]
    rng = np.random.default_rng([seed, 13])
    # Scratch and transferred runs are resampled apart: the design stays what it is.
    parts = [rng.multinomial(n, np.full(n, 1.0 / n), size=_DRAWS) for n in (len(scratch), len(rows))]
    weights = np.concatenate(parts, axis=1).astype(np.float64)
    drawn, _ = minimise(problem, np.repeat(theta[None], _DRAWS, axis=0), weights, tolerance=1e-9)
    residual = problem.residual(theta[None])[0]
    D0 = math.exp(plain.rows.log_D0)
    k, a, b = (percentile_interval(float(theta[-3 + i]), drawn[:, -3 + i]) for i in range(3))
    first = rows[0]
    return JointFit(
        source_objective=first.source_objective or first.objective,
        objective=first.objective,
        form=base.name,
        D0=D0,
        N0=math.exp(plain.rows.log_N0),
        k=Interval(value=D0 * math.exp(k.value), low=D0 * math.exp(k.low), high=D0 * math.exp(k.high)),
        a=Interval(value=a.value + 1.0, low=a.low + 1.0, high=a.high + 1.0),
        b=b,
        n_scratch=len(scratch),
        n_transferred=len(rows),
        rms_relative_error=float(np.sqrt(np.mean(np.expm1(residual) ** 2))),
    )


def _recentred(surface: SurfaceFit, problem: Problem) -> FloatArray:
    """The surface's theta with its amplitudes at the centre of the problem's rows."""
    form = form_of(surface)
    theta: FloatArray = theta_of(surface)[0].copy()
    shift = {"A0": problem.rows.log_N0 - math.log(surface.N0), "B0": problem.rows.log_D0 - math.log(surface.D0)}
    for name, slope in (("A0", "alpha"), ("B0", "beta")):
        if name in form.names and slope in form.names:
            theta[form.index(name)] -= theta[form.index(slope)] * shift[name]
    return theta
