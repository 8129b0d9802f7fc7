"""How well scores order measurements: the numbers of ProteinGym's tables, and accuracy and correlation for other tasks.

Higher is better, of measurements, scores and metrics alike. What a metric is not defined for (a score that is not a
number, a constant) is refused by `RefusedError`, or comes back from `measure` as a named flag: never as nan.

n: rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, RefusedError, did_you_mean
from plm_scaling.core.records import Record

__all__ = [
    "METRICS",
    "Measured",
    "MetricName",
    "accuracy",
    "auc",
    "find_metric",
    "mcc",
    "measure",
    "midranks",
    "ndcg",
    "paired_columns",
    "pearson",
    "spearman",
    "top_recall",
]

FloatArray = npt.NDArray[np.float64]
MetricName = Literal["spearman", "pearson", "ndcg", "top_recall", "auc", "mcc", "accuracy"]
MetricFlag = Literal["not_finite", "constant_truth", "constant_scores", "one_class", "too_few", "ties"]
MetricFunction = Callable[..., float]

_LEAST: Final = 3
_NEEDS_CLASSES: Final = ("auc", "mcc")


class Measured(Record):
    """A metric of one set of scores, or why there is none."""

    metric: MetricName
    value: float | None
    """None where it is not defined; then a flag says why."""
    n: int
    """Rows."""
    flags: tuple[MetricFlag, ...] = ()
    """not_finite, too_few, constant_truth, constant_scores, one_class: not defined. ties: more than half of the rows
    share their score with another row."""
    why: str = ""
    """The flags in words."""


def spearman(truth: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Rank correlation in [-1, 1]; equal values share their mean rank.

    Raises
    ------
    RefusedError : fewer than 3 rows, a constant, or a value that is no finite number.

    **Source:** Spearman 1904; Pearson's correlation of mid-ranks, as scipy.stats.spearmanr.
    """
    truth_n, scores_n = _defined("spearman", truth, scores)
    return _correlation(midranks(truth_n), midranks(scores_n))


def pearson(truth: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Linear correlation in [-1, 1]. Raises as `spearman`."""
    return _correlation(*_defined("pearson", truth, scores))


def ndcg(truth: npt.ArrayLike, scores: npt.ArrayLike, *, top: float = 0.1) -> float:
    """Normalised discounted cumulative gain of the best-scored share of rows, in [0, 1].

    The gain of a row is its measurement scaled to [0, 1] over all rows, the discount log2(rank + 1), the cut-off
    floor(top n). Rows of equal score count with the mean gain of them all, which is what any order of them gives on
    average: the value does not depend on the order of the file, and is ProteinGym's where no score occurs twice.

    Parameters
    ----------
    top : share of the rows that counts.

    Raises
    ------
    RefusedError : as `spearman`, or too few rows for the cut-off to hold one.

    **Source:** Jarvelin & Kekalainen 2002; gain and cut-off as ProteinGym's script (Notin et al. 2023).
    """
    truth_n, scores_n = _defined("ndcg", truth, scores, constant_scores=False)
    cut = math.floor(len(truth_n) * top)
    if cut < 1:
        raise RefusedError(
            f"ndcg at the best {top:.0%} of {len(truth_n)} rows",
            why="that is not even one row",
            hint=f"give at least {math.ceil(1 / top)} rows",
        )
    gain_n = (truth_n - truth_n.min()) / (truth_n.max() - truth_n.min())
    discount = 1.0 / np.log2(np.arange(cut) + 2.0)
    _, group_n, size = np.unique(-scores_n, return_inverse=True, return_counts=True)
    mean_gain = np.bincount(group_n, gain_n) / size
    best = np.sort(gain_n)[::-1][:cut]
    return float(np.repeat(mean_gain, size)[:cut] @ discount / (best @ discount))


def top_recall(truth: npt.ArrayLike, scores: npt.ArrayLike, *, top: float = 0.1) -> float:
    """Share of the best-measured rows that are among the best-scored, both cut at the 1 - `top` percentile, in [0, 1].

    Raises
    ------
    RefusedError : as `spearman`.

    **Source:** ProteinGym's script (Notin et al. 2023): values equal to the percentile belong to the top.
    """
    truth_n, scores_n = _defined("top_recall", truth, scores, constant_scores=False)
    best = truth_n >= np.percentile(truth_n, 100.0 * (1.0 - top))
    found = scores_n >= np.percentile(scores_n, 100.0 * (1.0 - top))
    return float((best & found).sum() / best.sum())


def auc(classes: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Chance that a row of class 1 outscores one of class 0, an equal score counting half, in [0, 1].

    Raises
    ------
    RefusedError : as `spearman`, or only one class.
    ConfigError : a class that is neither 0 nor 1.

    **Source:** Mann & Whitney 1947; Hanley & McNeil 1982.
    """
    class_n, scores_n = _defined("auc", classes, scores, constant_scores=False)
    positives = int(_two_classes("auc", class_n).sum())
    rank_sum = float(midranks(scores_n)[class_n == 1.0].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * (len(class_n) - positives))


def mcc(classes: npt.ArrayLike, scores: npt.ArrayLike, *, cut: float | None = None) -> float:
    """Matthews' correlation of the classes with "scored at or above the cut", in [-1, 1].

    Parameters
    ----------
    cut : the median of the scores by default.

    Raises
    ------
    RefusedError, ConfigError : as `auc`, or all scores on one side of the cut.

    **Source:** Matthews 1975; the cut at the model's own median is ProteinGym's (Notin et al. 2023).
    """
    class_n, scores_n = _defined("mcc", classes, scores)
    positive = _two_classes("mcc", class_n)
    called = scores_n >= (np.median(scores_n) if cut is None else cut)
    if called.all() or not called.any():
        raise _refused("mcc", "constant_scores", "all scores lie on one side of the cut")
    return _correlation(positive.astype(np.float64), called.astype(np.float64))


def accuracy(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Share of rows whose class is predicted, in [0, 1]. Raises RefusedError without rows."""
    truth_n, predicted_n = np.asarray(truth), np.asarray(predicted)
    _same_length("accuracy", truth_n, predicted_n)
    if not len(truth_n):
        raise _refused("accuracy", "too_few", "there are no rows")
    return float((truth_n == predicted_n).mean())


METRICS: Final[Mapping[MetricName, MetricFunction]] = MappingProxyType(
    {
        "spearman": spearman,
        "pearson": pearson,
        "ndcg": ndcg,
        "top_recall": top_recall,
        "auc": auc,
        "mcc": mcc,
        "accuracy": accuracy,
    }
)
"""By name. The first argument is the truth: measurements, or classes 0 and 1 for `auc` and `mcc`."""


def find_metric(name: str) -> MetricFunction:
    """The metric of a name.

    Raises
    ------
    ConfigError : there is none, with the nearest name.
    """
    for known, function in METRICS.items():
        if known == name:
            return function
    raise ConfigError(f"no metric is called {name!r}", hint=did_you_mean(name, METRICS))


def measure(metric: MetricName, truth: npt.ArrayLike, scores: npt.ArrayLike, **options: float) -> Measured:
    """A metric as a value with flags: what it is not defined for is named instead of raised.

    Parameters
    ----------
    options : those of the metric (`top`, `cut`).

    Raises
    ------
    ConfigError : truth and scores of different lengths, classes other than 0 and 1, or an unknown metric.
    """
    function, n = find_metric(metric), len(np.asarray(scores))
    try:
        value = function(truth, scores, **options)
    except RefusedError as refusal:
        flag = next((flag for flag in get_args(MetricFlag) if refusal.where == f"{metric}: {flag}"), "too_few")
        return Measured(metric=metric, value=None, n=n, flags=(flag,), why=refusal.why)
    if metric != "accuracy" and (alone := _alone(np.asarray(scores, dtype=np.float64))) < n / 2:
        return Measured(
            metric=metric, value=value, n=n, flags=("ties",), why=f"only {alone} of {n} rows have a score of their own"
        )
    return Measured(metric=metric, value=value, n=n)


def midranks(values: FloatArray) -> FloatArray:
    """Ranks from 1, float64[n]; equal values share the mean of theirs."""
    _, group_n, size = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(size)
    return np.asarray((last - (size - 1) / 2.0)[group_n])


def paired_columns(what: str, truth: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Both as float64[n], checked to be of one length and finite.

    Raises
    ------
    ConfigError : two lengths.
    RefusedError : a value that is no finite number, with its row.
    """
    truth_n, scores_n = np.asarray(truth, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    _same_length(what, truth_n, scores_n)
    for name, column in (("measurements", truth_n), ("scores", scores_n)):
        bad = np.flatnonzero(~np.isfinite(column))
        if len(bad):
            first = f"the first in row {bad[0]} ({column[bad[0]]})"
            raise _refused(
                what,
                "not_finite",
                f"{len(bad)} of {len(column)} {name} are not finite numbers, {first}",
                hint="leave such rows out of every model's scores alike, or mend the model that gave them",
            )
    return truth_n, scores_n


def _defined(
    metric: MetricName, truth: npt.ArrayLike, scores: npt.ArrayLike, *, constant_scores: bool = True
) -> tuple[FloatArray, FloatArray]:
    """Checked columns; scores may be constant for a metric that such scores are merely bad at."""
    truth_n, scores_n = paired_columns(metric, truth, scores)
    if len(truth_n) < _LEAST:
        raise _refused(metric, "too_few", f"there are {len(truth_n)} rows, and {_LEAST} are the least")
    if truth_n.min() == truth_n.max():
        kind: MetricFlag = "one_class" if metric in _NEEDS_CLASSES else "constant_truth"
        raise _refused(metric, kind, f"all {len(truth_n)} measurements are {truth_n[0]:g}")
    if constant_scores and scores_n.min() == scores_n.max():
        raise _refused(metric, "constant_scores", f"all {len(scores_n)} scores are {scores_n[0]:g}")
    return truth_n, scores_n


def _two_classes(metric: MetricName, class_n: FloatArray) -> npt.NDArray[np.bool_]:
    odd = class_n[(class_n != 0.0) & (class_n != 1.0)]
    if len(odd):
        raise ConfigError(f"{metric} needs classes 0 and 1", why=f"one is {odd[0]:g}", hint="cut the measurements")
    return np.asarray(class_n == 1.0)


def _same_length(what: str, truth: npt.NDArray[np.generic], scores: npt.NDArray[np.generic]) -> None:
    if truth.ndim != 1 or truth.shape != scores.shape:
        raise ConfigError(
            f"{what} of {truth.shape} measurements and {scores.shape} scores", why="there must be one score per row"
        )


def _refused(what: str, flag: MetricFlag, why: str, hint: str = "") -> RefusedError:
    return RefusedError(f"{what} is not defined here", where=f"{what}: {flag}", why=why, hint=hint)


def _correlation(x_n: FloatArray, y_n: FloatArray) -> float:
    x, y = x_n - x_n.mean(), y_n - y_n.mean()
    return float(np.clip((x @ y) / math.sqrt((x @ x) * (y @ y)), -1.0, 1.0))


def _alone(values: FloatArray) -> int:
    return int((np.unique(values, return_counts=True)[1] == 1).sum())
