"""Ridge regression in closed form: every penalty and every target from one factorisation.

n: rows, p: features, T: targets, R: penalties, k: steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy  # its parts load when they are used

from plm_scaling.core.errors import ConfigError
from plm_scaling.evals.metrics import measure

__all__ = ["PENALTIES", "Features", "RidgeFit", "RidgePath", "fit_ridge", "held_out_rows", "ridge_path"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Features: TypeAlias = "npt.NDArray[Any] | scipy.sparse.csr_array"

PENALTIES: Final = tuple(10.0**power for power in range(-3, 6))
_EXACT: Final = 3000
_STEPS: Final = 120
_SOLVED: Final = 1e-3
_LEAST_HELD_OUT: Final = 20


@dataclass(frozen=True)
class RidgePath:
    """Solutions of min ||y - mean - (X - centre) w||^2 + penalty ||w||^2 for several penalties.

    Attributes
    ----------
    penalties : float64[R].
    weights : float64[R, p, T].
    centre : float64[p], 0 where features were not centred.
    mean : float64[T].
    error : relative residual of the normal equations of every penalty, float64[R]; 0 where solved exactly.
    left_out : mean squared error of leaving out one row at a time, float64[R], where the factorisation gives it.
    """

    penalties: FloatArray
    weights: FloatArray
    centre: FloatArray
    mean: FloatArray
    error: FloatArray
    left_out: FloatArray | None = None

    def predict(self, features: Features) -> FloatArray:
        """Predictions of every penalty, float64[R, rows, T]."""
        R, p, T = self.weights.shape
        flat = self.weights.transpose(1, 0, 2).reshape(p, R * T)
        found = np.asarray(features @ flat, dtype=np.float64) - self.centre @ flat
        return np.asarray(found.reshape(-1, R, T).transpose(1, 0, 2) + self.mean)

    def only(self, index: int) -> RidgePath:
        """One of the penalties."""
        one = slice(index, index + 1)
        return replace(
            self,
            penalties=self.penalties[one],
            weights=self.weights[one],
            error=self.error[one],
            left_out=None if self.left_out is None else self.left_out[one],
        )


@dataclass(frozen=True)
class RidgeFit:
    """A ridge regression whose penalty was chosen on rows that it was not fitted to.

    Attributes
    ----------
    path : of one penalty.
    penalty : chosen.
    chosen_by : in words.
    """

    path: RidgePath
    penalty: float
    chosen_by: str

    def predict(self, features: Features) -> FloatArray:
        """float64[rows, T], or float64[rows] for a single target."""
        found = self.path.predict(features)[0]
        return np.asarray(found[:, 0] if found.shape[1] == 1 else found)


def ridge_path(
    features: Features,
    targets: FloatArray,
    penalties: Sequence[float] = PENALTIES,
    *,
    centre: bool = True,
    leave_out: bool = False,
) -> RidgePath:
    """All penalties and targets from one factorisation.

    Of X' X or of X X', whichever is smaller, in float64. Sparse features with more than 3000 rows and columns go
    through 120 steps of Golub and Kahan's bidiagonalisation instead, one for all penalties and for each target;
    `error` says how well each is solved.

    Parameters
    ----------
    features : [n, p], dense of any float, or sparse, which is never centred.
    targets : float64[n] or [n, T]; their means are taken off first.
    centre : take off the means of the features.
    leave_out : also the error of leaving out each row, which costs as much again.

    Raises
    ------
    ConfigError : no row, rows of different number, a penalty that is not positive, or a number that is not finite.

    **Source:** Hoerl & Kennard 1970; the dual as Saunders, Gammerman & Vovk 1998; leaving out one row by the diagonal
    of the hat matrix as Allen 1974; Golub & Kahan 1965 as LSQR (Paige & Saunders 1982) uses it.
    """
    y_nT = np.asarray(targets, dtype=np.float64)
    y_nT = y_nT[:, None] if y_nT.ndim == 1 else y_nT
    penalty_R = np.asarray(penalties, dtype=np.float64)
    _check(features, y_nT, penalty_R)
    mean = y_nT.mean(axis=0)
    if isinstance(features, scipy.sparse.csr_array):
        used = np.flatnonzero(np.bincount(features.indices, minlength=features.shape[1]))
        X: Any = scipy.sparse.csr_array(features[:, used])
        shift = np.zeros(features.shape[1])
        centre = False
    else:
        used = np.arange(features.shape[1])
        X = np.asarray(features, dtype=np.float64)
        shift = X.mean(axis=0) if centre else np.zeros(X.shape[1])
        X = X - shift if centre else X
    if isinstance(X, scipy.sparse.csr_array) and min(X.shape) > _EXACT:
        each = [_by_steps(X, y_n, penalty_R) for y_n in (y_nT - mean).T]
        weights, left_out = np.concatenate([one for one, _ in each], axis=2), None
        error = np.max([one for _, one in each], axis=0)
    else:
        weights, *turned = _by_eigenvectors(X, y_nT - mean, penalty_R)
        error = np.zeros(len(penalty_R))
        left_out = _left_out(X, y_nT - mean, weights, *turned, centred=centre) if leave_out else None
    full = np.zeros((len(penalty_R), features.shape[1], y_nT.shape[1]))
    full[:, used] = weights
    return RidgePath(penalty_R, full, shift, mean, error, left_out)


def _by_eigenvectors(X: Any, y_nT: FloatArray, penalty_R: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Weights float64[R, p, T]; eigenvectors of the smaller of X' X and X X'; 1 / (eigenvalue + penalty), [R, .]."""
    wide = _is_wide(X)
    gram = _dense(X @ X.T) if wide else _dense(X.T @ X)
    value, vector = np.linalg.eigh(gram)
    shrink = 1.0 / (np.maximum(value, 0.0) + penalty_R[:, None])
    turned = vector.T @ (y_nT if wide else np.asarray(X.T @ y_nT))
    back = np.asarray(X.T @ vector) if wide else vector
    return np.stack([back @ (one[:, None] * turned) for one in shrink]), vector, shrink


def _left_out(
    X: Any, r_nT: FloatArray, weights: FloatArray, vector: FloatArray, shrink: FloatArray, *, centred: bool
) -> FloatArray:
    """Mean squared error of leaving out one row at a time, float64[R], of targets r less their mean.

    Centred features move with the row that is left out, as an intercept does: it adds 1 / n to every leverage. Of
    others only the mean of the targets moves, by r_i / (n - 1).
    """
    n = len(r_nT)
    scaled = np.asarray(X @ (X.T @ vector)) if _is_wide(X) else np.asarray(X @ vector)
    left = vector if _is_wide(X) else scaled
    errors = []
    for weight, one in zip(weights, shrink, strict=True):  # the hat matrix is scaled diag(one) left'
        wrong, leverage = r_nT - X @ weight, (scaled * left) @ one
        if centred:
            leverage += 1.0 / n
        else:
            wrong += r_nT / max(n - 1, 1) * (1.0 - scaled @ (one * left.sum(axis=0)))[:, None]
        errors.append(float(((wrong / np.maximum(1.0 - leverage, 1e-9)[:, None]) ** 2).mean()))
    return np.array(errors)


def _is_wide(X: Any) -> bool:
    return bool(X.shape[1] > X.shape[0])


def _by_steps(X: scipy.sparse.csr_array, y_n: FloatArray, penalty_R: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weights float64[R, p, 1] in the space of the first steps, and the relative residual of each penalty."""
    n, p = X.shape
    steps = min(_STEPS, n, p)
    U, V = np.zeros((steps + 1, n)), np.zeros((steps, p))
    lower = np.zeros((steps + 1, steps))
    norm = float(np.linalg.norm(y_n))
    if norm == 0.0:
        return np.zeros((len(penalty_R), p, 1)), np.zeros(len(penalty_R))
    U[0] = y_n / norm
    Xt = scipy.sparse.csr_array(X.T)
    done = steps
    for k in range(steps):
        v = Xt @ U[k]
        v -= V[:k].T @ (V[:k] @ v)
        v -= V[:k].T @ (V[:k] @ v)
        lower[k, k] = np.linalg.norm(v)
        if lower[k, k] <= 1e-12 * lower[0, 0]:
            done = k
            break
        V[k] = v / lower[k, k]
        u = X @ V[k]
        u -= U[: k + 1].T @ (U[: k + 1] @ u)
        u -= U[: k + 1].T @ (U[: k + 1] @ u)
        lower[k + 1, k] = np.linalg.norm(u)
        U[k + 1] = u / max(lower[k + 1, k], np.finfo(float).tiny)
    if not done:
        return np.zeros((len(penalty_R), p, 1)), np.zeros(len(penalty_R))
    left, value, right = np.linalg.svd(lower[: done + 1, :done], full_matrices=False)
    small = (value / (value**2 + penalty_R[:, None])) * (norm * left[0])
    weights = np.asarray((small @ right) @ V[:done])
    gradient = np.asarray(Xt @ (y_n[:, None] - X @ weights.T)) - penalty_R * weights.T
    error = np.linalg.norm(gradient, axis=0) / np.linalg.norm(Xt @ y_n)
    return weights[:, :, None], error


def fit_ridge(
    features: Features,
    targets: FloatArray,
    *,
    validation: IntArray | None = None,
    penalties: Sequence[float] = PENALTIES,
    centre: bool = True,
    seed: int = 0,
) -> RidgeFit:
    """Ridge with the penalty that orders held-out rows best.

    Parameters
    ----------
    features, targets : as `ridge_path`.
    validation : rows the choice is made on, not fitted to; by default a seeded tenth (`held_out_rows`).

    The choice is by Spearman's correlation for one target and by squared error for several. Where fewer than 20 rows
    would be held out, all are fitted to and the error of leaving out one row at a time decides. Penalties that were
    not solved to a residual of 0.001 are not chosen from.
    """
    n = features.shape[0]
    y_nT = np.asarray(targets, dtype=np.float64)
    held = held_out_rows(n, seed) if validation is None or len(validation) < _LEAST_HELD_OUT else validation
    if len(held) < _LEAST_HELD_OUT:
        path = ridge_path(features, y_nT, penalties, centre=centre, leave_out=True)
        if path.left_out is not None:
            best = int(np.argmin(path.left_out))
            return RidgeFit(path.only(best), float(path.penalties[best]), "leaving out one row at a time")
    fitted = np.setdiff1d(np.arange(n), held)
    path = ridge_path(features[fitted], y_nT[fitted], penalties, centre=centre)
    best, chosen_by = _best(path, features[held], y_nT[held])
    return RidgeFit(path.only(best), float(path.penalties[best]), f"{chosen_by} of {len(held)} held-out rows")


def held_out_rows(n: int, seed: int, share: float = 0.1) -> IntArray:
    """A seeded share of n rows, int64, ascending."""
    return np.sort(np.random.default_rng(seed).permutation(n)[: int(n * share)])


def _best(path: RidgePath, features: Features, y: FloatArray) -> tuple[int, str]:
    found = path.predict(features)
    solved = path.error <= max(_SOLVED, float(path.error.min()))
    if found.shape[2] == 1:
        value = [measure("spearman", y.reshape(-1), one[:, 0]).value for one in found]
        if any(one is not None and ok for one, ok in zip(value, solved, strict=True)):
            ranked = [one if one is not None and ok else -2.0 for one, ok in zip(value, solved, strict=True)]
            return int(np.argmax(np.round(ranked, 12))), "rank correlation"
    wrong = ((found - y.reshape(len(y), -1)) ** 2).mean(axis=(1, 2))
    return int(np.argmin(np.where(solved, wrong, np.inf))), "squared error"


def _check(features: Features, y_nT: FloatArray, penalty_R: FloatArray) -> None:
    if features.shape[0] != len(y_nT) or not len(y_nT):
        raise ConfigError(f"{features.shape[0]} rows of features and {len(y_nT)} of targets", why="one each is needed")
    if not (penalty_R > 0.0).all():
        raise ConfigError(f"penalties of {list(penalty_R)}", why="each must be positive")
    values = features.data if isinstance(features, scipy.sparse.csr_array) else features
    for name, column in (("features", values), ("targets", y_nT)):
        if not np.isfinite(column).all():
            raise ConfigError(f"{name} hold a number that is not finite", hint="mend the model or table they came from")


def _dense(gram: Any) -> FloatArray:
    return np.asarray(gram.toarray() if hasattr(gram, "toarray") else gram, dtype=np.float64)
