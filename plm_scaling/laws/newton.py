"""Summed Huber loss on ln L, minimised for many weightings of the same rows at once: damped Newton, numpy only.

The Hessian is exact (quadratic zone plus psi times the curvature of ln L); the damping is the IRLS matrix, which is
positive where the exact one is not. Atoms are linear in theta with row features shared by all problems, so that every
entry of every Hessian comes from products of a (B, n) with a (n, k) matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.laws.forms import Form, Rows, log_loss
from plm_scaling.laws.jets import FloatArray, Jet

__all__ = ["EXACT", "Problem", "Pull", "expand", "minimise"]

Keep = npt.NDArray[np.bool_] | npt.NDArray[np.intp] | slice

_CHUNK: Final = 32_000
"""Residuals per batch: enough to spread the cost of a step, few enough for the processor's cache."""
_MAX_STEPS: Final = 200
_FEW_STEPS: Final = (9, 24, 60)
"""Steps of a problem solved to a tolerance, for all and for those left: what still crawls along a flat valley then
gains nothing that shows."""
EXACT: Final = 1e-15
_ZERO: Final = np.zeros((1, 1))


@dataclass(frozen=True)
class Problem:
    """A form, the rows all problems share, target = ln L float64[n], the Huber border, and box bounds float64[p]."""

    form: Form
    rows: Rows
    target: FloatArray
    delta: float
    """Border of the quadratic zone in units of ln L; inf: least squares."""
    low: FloatArray
    high: FloatArray

    def residual(self, theta: FloatArray) -> FloatArray:
        """Ln L_hat - ln L, float64[B, n]."""
        return np.asarray(log_loss(self.form, theta, self.rows) - self.target)

    def value(self, theta: FloatArray, weights: FloatArray) -> FloatArray:
        """Sum over rows of weight times Huber loss, float64[B], for theta float64[B, p], weights float64[B, n].

        **Source:** Huber 1964; Hoffmann et al. 2022, eq. 10 (sum over runs).
        """
        residual = self.residual(theta)
        size = np.minimum(np.abs(residual), self.delta)
        # inside: r^2/2; outside: delta (|r| - delta/2); both are s (|r| - s/2) with s = min(|r|, delta).
        return np.asarray((weights * size * (np.abs(residual) - 0.5 * size)).sum(axis=1))

    @cached_property
    def columns(self) -> tuple[list[int], ...]:
        """Columns of theta in each atom."""
        return tuple([self.form.index(name) for name, _ in atom.terms] for atom in self.form.atoms)

    @cached_property
    def constant(self) -> tuple[bool, ...]:
        """Whether each atom is one parameter, the same for all rows."""
        return tuple(len(atom.terms) == 1 and atom.terms[0][1] == "1" for atom in self.form.atoms)

    @cached_property
    def layout(self) -> tuple[tuple[FloatArray, ...], dict[tuple[int, int], FloatArray], FloatArray]:
        """Row features of each atom float64[n, k]; of each pair of atoms their products float64[n, k k'].

        The last is the 0/1 matrix that sends every column of those products to its entries of the Hessian.
        """
        features = self.rows.features()
        own = tuple(np.stack([features[name] for _, name in atom.terms], axis=1) for atom in self.form.atoms)
        columns = self.columns
        p = len(self.form.names)
        pairs, scatter = {}, []
        for i in range(len(own)):
            for j in range(i, len(own)):
                pairs[i, j] = (own[i][:, :, None] * own[j][:, None, :]).reshape(len(own[i]), -1)
                for a, b in product(columns[i], columns[j]):
                    target = np.zeros(p * p)
                    target[a * p + b] += 1.0
                    if i != j:
                        target[b * p + a] += 1.0
                    scatter.append(target)
        return own, pairs, np.array(scatter)


@dataclass(frozen=True)
class Pull:
    """Adds strength/2 (q(theta) - target)^2 to each problem.

    Whatever the strength, the minimiser is also the minimiser of the objective alone among all theta of equal q: a
    set of pulls traces the profile of q.
    """

    quantity: Callable[[FloatArray], FloatArray]
    """theta float64[B, p] -> q float64[B]."""
    target: FloatArray
    """float64[B]."""
    strength: float

    def take(self, keep: Keep) -> Pull:
        """The pulls of some problems."""
        return Pull(self.quantity, self.target[keep], self.strength)

    def slopes(self, theta: FloatArray) -> FloatArray:
        """dq/dtheta float64[B, p] by central differences."""
        step = 1e-6 * np.eye(theta.shape[1])
        moved = (theta[:, None, :] + np.stack([step, -step])[:, None]).reshape(-1, theta.shape[1])
        up, down = self.quantity(moved).reshape(2, *theta.shape)
        return np.asarray(np.nan_to_num((up - down) / 2e-6))


def minimise(
    problem: Problem,
    start: FloatArray,
    weights: FloatArray,
    *,
    targets: FloatArray | None = None,
    pull: Pull | None = None,
    tolerance: float = EXACT,
) -> tuple[FloatArray, FloatArray]:
    """Local minima from every start.

    Parameters
    ----------
    start : float64[B, p].
    weights : float64[B, n] row weights of each problem, or float64[n] for all.
    targets : ln L float64[B, n] where every problem has its own; None for the problem's.
    pull : draws a quantity of each problem towards a value of its own; its term is part of the objective returned.
    tolerance : a step that gains less than this share of the objective is the last.

    Returns
    -------
    theta float64[B, p] and the objective float64[B].

    **Source:** Levenberg 1944, Marquardt 1963 (accept/reject damping), with the Huber loss's own Hessian.
    """
    theta = np.clip(start, problem.low, problem.high)
    weights = np.broadcast_to(weights, (len(theta), len(problem.target)))
    value = np.empty(len(theta))
    data = _Data(weights, targets, pull)
    left = np.arange(len(theta))
    size = max(_CHUNK // len(problem.target), 16)
    _keep_memory()
    # Few problems need many steps: those are gathered again, so that the others' batches end early.
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        for steps in (_MAX_STEPS,) if tolerance <= EXACT else _FEW_STEPS:
            unfinished = []
            for first in range(0, len(left), size):
                part = left[first : first + size]
                ended = _minimise_chunk(problem, theta[part], data.take(part), tolerance, steps)
                theta[part], value[part] = ended[:2]
                unfinished.append(part[ended[2]])
            left = np.concatenate(unfinished) if unfinished else left
    return theta, value


@cache
def _keep_memory() -> None:
    """Free one large block, so that glibc keeps later ones: handing pages back and forth took half of the time.

    **Source:** mallopt(3), dynamic adjustment of M_MMAP_THRESHOLD and M_TRIM_THRESHOLD (blocks up to 32 MiB).
    """
    np.empty(3_500_000)


@dataclass(frozen=True)
class _Data:
    """What differs between the problems of a batch."""

    weights: FloatArray
    targets: FloatArray | None
    pull: Pull | None

    def take(self, keep: Keep) -> _Data:
        targets = None if self.targets is None else self.targets[keep]
        return _Data(self.weights[keep], targets, self.pull and self.pull.take(keep))


def _minimise_chunk(
    problem: Problem, theta: FloatArray, data: _Data, tolerance: float, steps: int
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.intp]]:
    """Up to `steps` steps of every problem: theta, objective, and which problems are not done."""
    patience = 12 if tolerance <= EXACT else 5
    value, *local = _expand(problem, theta, data)
    damping = np.full(len(theta), 1e-2)
    stalled = np.zeros(len(theta), dtype=np.int64)
    active = np.arange(len(theta))
    for _ in range(steps):
        if not active.size:
            break
        step = _step(problem, theta[active], [part[active] for part in local], damping[active])
        trial = np.clip(theta[active] + step, problem.low, problem.high)
        new, *there = _expand(problem, trial, data if len(active) == len(theta) else data.take(active))
        better = new < value[active]
        # A small gain under strong damping is a short step, not an optimum.
        settled = (damping[active] <= 1e-2) | (tolerance <= EXACT)
        done = better & settled & (value[active] - new <= tolerance * value[active])
        # Twelve rejections in a row raise the damping by 6^12: no descent is left at double precision.
        stalled[active] = np.where(better, 0, stalled[active] + 1)
        done |= (stalled[active] >= patience) | (np.abs(trial - theta[active]).max(axis=1) < 1e-13)
        accepted = active[better]
        theta[accepted], value[accepted] = trial[better], new[better]
        for old, part in zip(local, there, strict=True):
            old[accepted] = part[better]
        damping[active] = np.clip(np.where(better, damping[active] * 0.2, damping[active] * 6.0), 1e-12, 1e12)
        active = active[~done]
    return theta, value, active


def _step(problem: Problem, theta: FloatArray, parts: Sequence[FloatArray], damping: FloatArray) -> FloatArray:
    """Damped Newton step; parameters held by a bound that the gradient points out of stay where they are."""
    gradient, exact, irls = parts
    held = ((theta <= problem.low) & (gradient > 0)) | ((theta >= problem.high) & (gradient < 0))
    matrix = exact + damping[:, None, None] * irls
    diagonal = np.arange(theta.shape[1])
    scale = np.abs(irls[:, diagonal, diagonal])
    matrix[:, diagonal, diagonal] += 1e-12 * scale.max(axis=1, keepdims=True) + damping[:, None] * scale + 1e-300
    free = ~held
    matrix *= free[:, :, None] & free[:, None, :]
    matrix[:, diagonal, diagonal] += held
    right = np.where(held, 0.0, -gradient)
    bad = ~(np.isfinite(matrix).all(axis=(1, 2)) & np.isfinite(right).all(axis=1))
    matrix[bad], right[bad] = np.eye(theta.shape[1]), 0.0
    try:
        solution = np.asarray(np.linalg.solve(matrix, right[:, :, None])[:, :, 0])
    except np.linalg.LinAlgError:
        solution = np.einsum("bij,bj->bi", np.linalg.pinv(matrix, hermitian=True), right)
    # A step of more than 2 in log units or exponents leaves the region where the expansion means anything.
    longest = np.abs(solution).max(axis=1, keepdims=True)
    return np.asarray(
        np.where(np.isfinite(solution), solution, 0.0) * np.minimum(1.0, 2.0 / np.maximum(longest, 1e-300))
    )


def _jet(problem: Problem, theta: FloatArray) -> Jet:
    """Ln L with its derivatives by the atoms."""
    own = problem.layout[0]
    atoms = {}
    for i, atom in enumerate(problem.form.atoms):
        here = theta[:, problem.columns[i]]
        atoms[atom.name] = Jet.atom(i, here if problem.constant[i] else here @ own[i].T)
    out = problem.form.formula(atoms, problem.rows, problem.form)
    assert isinstance(out, Jet)
    return out


def _expand(problem: Problem, theta: FloatArray, data: _Data) -> tuple[FloatArray, ...]:
    """`expand` with the pull's term."""
    value, gradient, exact, irls = expand(problem, theta, data.weights, data.targets)
    if data.pull is None:
        return value, gradient, exact, irls
    distance, slopes = data.pull.quantity(theta) - data.pull.target, data.pull.slopes(theta)
    bend = data.pull.strength * slopes[:, :, None] * slopes[:, None, :]
    gradient = gradient + data.pull.strength * distance[:, None] * slopes
    return value + 0.5 * data.pull.strength * distance**2, gradient, exact + bend, irls + bend


def expand(
    problem: Problem, theta: FloatArray, weights: FloatArray, targets: FloatArray | None = None
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Objective float64[B], gradient float64[B, p], exact Hessian and IRLS matrix float64[B, p, p] at theta."""
    log_L = _jet(problem, theta)
    residual = log_L.value - (problem.target if targets is None else targets)
    size = np.abs(residual)
    capped = np.minimum(size, problem.delta)
    value = np.einsum("bn,bn->b", weights, capped * (size - 0.5 * capped))
    robust = weights * (capped / np.maximum(size, 1e-300))
    quadratic = robust * (size <= problem.delta)
    psi = robust * residual
    own, pairs, scatter = problem.layout
    gradient = np.zeros(theta.shape)
    for i, part in log_L.first.items():
        moments = (psi * part) @ own[i]
        for k, column in enumerate(problem.columns[i]):
            gradient[:, column] += moments[:, k]
    products = []
    both = np.empty((2, *residual.shape))
    first = [log_L.first.get(i, _ZERO) for i in range(len(own))]
    left = [(quadratic * part, robust * part) for part in first]
    for (i, j), features in pairs.items():
        for out, part in zip(both, left[i], strict=True):
            np.multiply(part, first[j], out=out)
        if (i, j) in log_L.second:
            both[0] += psi * log_L.second[i, j]
        products.append(both.reshape(-1, residual.shape[1]) @ features)
    exact, irls = (np.concatenate(products, axis=1) @ scatter).reshape(2, len(theta), *theta.shape[1:] * 2)
    return value, gradient, exact, irls
