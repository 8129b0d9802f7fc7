"""Heads that turn features into classes: logistic regression with either penalty, and the nearest neighbour.

n: rows, p: features, K: classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import scipy  # its parts load when they are used

from plm_scaling.core.errors import ConfigError
from plm_scaling.evals.ridge import Features

__all__ = ["Logistic", "fit_logistic", "l1_logistic", "l2_logistic", "nearest_labels"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_BLOCK: Final = 512
_FINE: Final = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-12, "gtol": 1e-6}
_ROUGH: Final = {"maxiter": 300, "maxfun": 600, "ftol": 1e-9, "gtol": 1e-5}


@dataclass(frozen=True)
class Logistic:
    """Log odds that are linear in the features.

    Attributes
    ----------
    classes : int64[K], ascending.
    weights : float64[p, K]; [p, 1], the log odds of the second class, where there are two.
    offset : float64[K], or [1].
    converged : False where the optimiser stopped early.
    """

    classes: IntArray
    weights: FloatArray
    offset: FloatArray
    converged: bool = True

    def log_odds(self, features: Features) -> FloatArray:
        """float64[rows, K], or [rows, 1] for two classes."""
        return np.asarray(features @ self.weights + self.offset, dtype=np.float64)

    def predict(self, features: Features) -> IntArray:
        """The likeliest class of every row, int64[rows]."""
        odds = self.log_odds(features)
        likeliest = (odds[:, 0] > 0.0).astype(np.int64) if odds.shape[1] == 1 else odds.argmax(axis=1)
        return np.asarray(self.classes[likeliest])

    def probabilities(self, features: Features) -> FloatArray:
        """Of every class, float64[rows, K]."""
        odds = self.log_odds(features)
        if odds.shape[1] == 1:
            second = scipy.special.expit(odds[:, 0])
            return np.stack([1.0 - second, second], axis=1)
        return np.asarray(scipy.special.softmax(odds, axis=1))


def l1_logistic(features: npt.NDArray[Any], labels: npt.ArrayLike, penalty: float) -> Logistic:
    """Two classes: min sum_n -ln p(label_n) + penalty sum |w|; the offset is free of it.

    Parameters
    ----------
    features : [n, p], of any float.
    labels : two different integers or booleans, [n].
    penalty : 1 / C of the usual parametrisation.

    Raises
    ------
    ConfigError : not two classes, or penalty <= 0.

    **Source:** Tibshirani 1996; w as a difference of positive parts makes it smooth with bounds (L-BFGS-B, Byrd et al.
    1995).
    """
    X, classes, place = _checked(features, labels, penalty)
    if len(classes) != 2:
        raise ConfigError(f"{len(classes)} classes", why="this head tells two apart")
    p, n = X.shape[1], X.shape[0]
    truth = place.astype(np.float64)

    def cost(theta: FloatArray) -> tuple[float, FloatArray]:
        odds = np.asarray(X @ (theta[:p] - theta[p : 2 * p]).astype(X.dtype), dtype=np.float64) + theta[-1]
        wrong = scipy.special.expit(odds) - truth
        slope = np.asarray(X.T @ wrong.astype(X.dtype), dtype=np.float64)
        gradient = np.concatenate([slope + penalty, penalty - slope, [wrong.sum()]])
        loss = float((np.logaddexp(0.0, odds) - truth * odds).sum() + penalty * theta[: 2 * p].sum())
        return loss / n, gradient / n

    start = np.zeros(2 * p + 1)
    start[-1] = scipy.special.logit(truth.mean())
    bounds = [(0.0, None)] * (2 * p) + [(None, None)]
    found = _lowest(cost, start, {**_FINE, "gtol": 1e-9}, bounds)
    weights = (found.x[:p] - found.x[p : 2 * p])[:, None]
    return Logistic(classes, weights, found.x[-1:], bool(found.success))


def l2_logistic(
    features: Features, labels: npt.ArrayLike, penalty: float, *, start: Logistic | None = None, rough: bool = False
) -> Logistic:
    """K classes: min sum_n -ln p(label_n) + penalty / 2 sum w^2; offsets are free of it.

    Parameters
    ----------
    features : [n, p], dense or sparse.
    labels : integers, [n].
    start : of another penalty on the same rows, to begin from.
    rough : enough for predictions, not for the last digits of the weights.

    Raises
    ------
    ConfigError : fewer than two classes, or penalty <= 0.
    """
    X, classes, place = _checked(features, labels, penalty)
    n, p = X.shape
    K = 1 if len(classes) == 2 else len(classes)
    truth = np.zeros((n, K))
    truth[np.arange(n), place if K > 1 else 0] = 1.0 if K > 1 else place

    def cost(theta: FloatArray) -> tuple[float, FloatArray]:
        weights, offset = theta[: p * K].reshape(p, K), theta[p * K :]
        odds = np.asarray(X @ weights, dtype=np.float64) + offset
        if K == 1:
            total, chance = np.logaddexp(0.0, odds[:, 0]).sum(), scipy.special.expit(odds)
        else:
            log_sum = scipy.special.logsumexp(odds, axis=1)
            total, chance = log_sum.sum(), np.exp(odds - log_sum[:, None])
        wrong = chance - truth
        slope = np.asarray(X.T @ wrong, dtype=np.float64) + penalty * weights
        loss = float(total - (truth * odds).sum() + 0.5 * penalty * (weights * weights).sum())
        return loss / n, np.concatenate([slope.ravel(), wrong.sum(axis=0)]) / n

    theta = np.zeros(p * K + K) if start is None else np.concatenate([start.weights.ravel(), start.offset])
    found = _lowest(cost, theta, _ROUGH if rough else _FINE)
    return Logistic(classes, found.x[: p * K].reshape(p, K), found.x[p * K :], bool(found.success))


def fit_logistic(
    features: npt.NDArray[Any],
    labels: IntArray,
    validation: IntArray,
    penalties: tuple[float, ...] = (100.0, 10.0, 1.0, 0.1),
) -> tuple[Logistic, float]:
    """Logistic regression on standardised features, with the penalty that names most held-out rows rightly.

    Parameters
    ----------
    features : [n, p].
    validation : rows the choice is made on, not fitted to.
    penalties : descending, each begun from the one before.

    Returns the regression in the features' own units, and the penalty.
    """
    fitted = np.setdiff1d(np.arange(len(labels)), validation)
    X = np.asarray(features, dtype=np.float64)
    mean, scale = X[fitted].mean(axis=0), X[fitted].std(axis=0)
    scale[scale == 0.0] = 1.0
    Z = (X - mean) / scale
    found: Logistic | None = None
    best: tuple[float, float, Logistic] | None = None
    for penalty in penalties:
        found = l2_logistic(Z[fitted], labels[fitted], penalty, start=found, rough=True)
        right = float((found.predict(Z[validation]) == labels[validation]).mean()) if len(validation) else 0.0
        if best is None or right > best[0]:
            best = (right, penalty, found)
    assert best is not None
    weights = best[2].weights / scale[:, None]
    return Logistic(best[2].classes, weights, best[2].offset - mean @ weights, best[2].converged), best[1]


def nearest_labels(
    train: Features, labels: npt.ArrayLike, features: Features, *, by: Literal["angle", "distance"] = "angle"
) -> npt.NDArray[Any]:
    """Label of the nearest training row, [rows]; the first of several equally near.

    Parameters
    ----------
    train, features : [n, p] and [rows, p], dense or sparse.
    labels : [n].
    by : angle, for which a row of zeros is equally far from all, or Euclidean distance.

    **Source:** Cover & Hart 1967.
    """
    names = np.asarray(labels)
    near: Any = _unit(train) if by == "angle" else train
    other: Any = _unit(features) if by == "angle" else features
    half: Any = 0.0 if by == "angle" else 0.5 * np.asarray((near * near).sum(axis=1), dtype=np.float64).ravel()
    nearest = [
        np.argmax(_plain(other[begin : begin + _BLOCK] @ near.T) - half, axis=1)
        for begin in range(0, other.shape[0], _BLOCK)
    ]
    return np.asarray(names[np.concatenate(nearest)]) if nearest else names[:0]


def _lowest(
    cost: Callable[[FloatArray], tuple[float, FloatArray]], start: FloatArray, options: Any, bounds: Any = None
) -> scipy.optimize.OptimizeResult:
    return scipy.optimize.minimize(cost, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)


def _unit(features: Features) -> Any:
    if isinstance(features, scipy.sparse.csr_array):
        length = np.sqrt(np.asarray(features.multiply(features).sum(axis=1)).ravel())
        return scipy.sparse.csr_array(scipy.sparse.diags_array(1.0 / np.where(length > 0.0, length, 1.0)) @ features)
    X = np.asarray(features, dtype=np.float64)
    length = np.linalg.norm(X, axis=1)
    return X / np.where(length > 0.0, length, 1.0)[:, None]


def _plain(product: Any) -> FloatArray:
    return np.asarray(product.toarray() if hasattr(product, "toarray") else product)


def _checked(features: Features, labels: npt.ArrayLike, penalty: float) -> tuple[Any, IntArray, IntArray]:
    names = np.asarray(labels).astype(np.int64)
    if penalty <= 0.0:
        raise ConfigError(f"a penalty of {penalty}", why="it must be positive")
    if features.shape[0] != len(names):
        raise ConfigError(f"{features.shape[0]} rows of features and {len(names)} labels", why="one each is needed")
    classes, place = np.unique(names, return_inverse=True)
    if len(classes) < 2:
        raise ConfigError("labels of fewer than two classes", why="there is nothing to tell apart")
    X = features if isinstance(features, scipy.sparse.csr_array) else np.asarray(features)
    return X, classes, place
