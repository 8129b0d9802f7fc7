"""`MetricMap`: from a loss to a downstream metric as it was measured, rising, falling or with a turn. numpy only."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, FitError, RefusedError
from plm_scaling.core.records import Record
from plm_scaling.core.run import Objective

__all__ = [
    "MetricMap",
    "MetricPoint",
    "MetricShape",
    "fit_metric_map",
    "fit_metric_maps",
    "metric_rows",
    "read_metric_table",
]

FloatArray = npt.NDArray[np.float64]
MetricShape = Literal[
    "better with lower loss", "worse with lower loss", "best at a middle loss", "worst at a middle loss"
]

_FEWEST: Final = 4
_FEWEST_BENT: Final = 6
"""Points for a bent map: a parabola through five leaves two to judge it by."""
_SURE: Final = 0.1
"""Four models in perfect order are no clearer than this: 2 of their 24 orders are."""
_DRAWS: Final = 400
_PERMUTATIONS: Final = 2000


class MetricPoint(Record):
    """One model that was trained and scored."""

    loss: float
    """Nats per token, on the validation set that the laws are of."""
    metric: float
    objective: Objective | None = None


class MetricMap(Record):
    """Metric = c_0 + c_1 (L - L0) + c_2 (L - L0)^2 with draws of them; constant beyond the losses seen.

    **Source:** least squares; permutation test of its R2 (Fisher 1935); draws from the t distribution of the fit.
    """

    name: str
    objective: Objective | None
    higher_is_better: bool
    points: tuple[MetricPoint, ...]
    centre: float
    """L0, nats."""
    coefficients: tuple[float, ...]
    """Two of a straight line, three of a parabola."""
    draws: tuple[tuple[float, ...], ...]
    residual_sd: float
    """Of one model's metric about the map."""
    p_flat: float
    """Share of reordered points that follow a curve as closely: what chance would do."""
    range_loss: tuple[float, float]
    shape: MetricShape

    def at(self, losses: npt.ArrayLike) -> FloatArray:
        """The metric at losses of any shape, by the estimate."""
        return self._values(np.array(self.coefficients), losses)

    def drawn(self, losses: FloatArray) -> FloatArray:
        """The metric at losses float64[K, ...] of draws of laws, each by another draw of the map, float64[K, ...]."""
        rows = np.array(self.draws)[np.arange(len(losses)) * 7 % len(self.draws)]
        # A draw of the laws and a draw of the map are independent: 7 steps through the map for one through the laws.
        return self._values(rows.T.reshape(rows.shape[1], -1, *((1,) * (losses.ndim - 1))), losses)

    def outside(self, loss: float) -> bool:
        """Whether a loss lies beyond those that were measured, where the map is held constant."""
        return not self.range_loss[0] <= loss <= self.range_loss[1]

    def _values(self, coefficients: FloatArray, losses: npt.ArrayLike) -> FloatArray:
        x = np.clip(np.asarray(losses, dtype=np.float64), *self.range_loss) - self.centre
        total = np.zeros(np.broadcast_shapes(x.shape, coefficients[0].shape))
        for power, coefficient in enumerate(coefficients):
            total = total + coefficient * x**power
        return np.asarray(total)


def read_metric_table(path: Path) -> tuple[MetricPoint, ...]:
    """Points from a CSV with the columns loss, metric and, where it holds both objectives, objective.

    Rows of a model without a loss (`published_scores.measured_scores`) are passed over.

    Raises
    ------
    ConfigError : the file cannot be read, a column is missing, or a value is no number (with its line).
    """
    return tuple(_point(row, where) for row, where in metric_rows(path) if row.get("loss") or not row.get("model"))


def metric_rows(path: Path) -> tuple[tuple[dict[str, str], str], ...]:
    """Rows of a metric table by column, and where each stands; errors as `read_metric_table`, but of numbers."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            rows = [(reader.line_num, row) for row in reader]
            columns = [name.strip() for name in reader.fieldnames or ()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"cannot read the metric table: {error}", where=str(path)) from None
    for name in ("loss", "metric"):
        if name not in columns:
            raise ConfigError(
                f"no column {name}",
                where=f"{path}:1",
                why=f"the columns are {', '.join(columns) or 'none'}",
                hint="a metric table has the columns loss,metric[,objective], one scored model a row",
            )
    return tuple(
        ({(key or "").strip(): value.strip() for key, value in row.items() if isinstance(value, str)}, f"{path}:{line}")
        for line, row in rows
    )


def _point(cells: dict[str, str], where: str) -> MetricPoint:
    try:
        loss, metric = float(cells["loss"]), float(cells["metric"])
    except (KeyError, ValueError):
        raise ConfigError(
            "loss and metric must be numbers", where=where, why=f"got {cells.get('loss')!r}, {cells.get('metric')!r}"
        ) from None
    if not (math.isfinite(loss) and loss > 0 and math.isfinite(metric)):
        raise ConfigError("loss and metric must be finite, the loss positive", where=where)
    objective = cells.get("objective", "").lower() or None
    if objective not in (None, "clm", "mlm"):
        raise ConfigError(f"unknown objective {objective!r}", where=where, hint="clm or mlm, or leave it empty")
    return MetricPoint.checked(loss=loss, metric=metric, objective=objective)


def fit_metric_maps(
    points: Sequence[MetricPoint], name: str, *, higher_is_better: bool = True, seed: int = 0
) -> tuple[dict[Objective | None, MetricMap], tuple[str, ...]]:
    """A map for every objective in the table (None: for rows that name none), and why others have none.

    Raises
    ------
    FitError, RefusedError : no objective has a map (the reason of the first).
    """
    found: dict[Objective | None, MetricMap] = {}
    refused: list[FitError | RefusedError] = []
    for objective in dict.fromkeys(point.objective for point in points):
        own = [point for point in points if point.objective == objective]
        try:
            found[objective] = fit_metric_map(own, name, higher_is_better=higher_is_better, seed=seed)
        except (FitError, RefusedError) as error:
            refused.append(error)
    if not found:
        raise refused[0] if refused else FitError(f"no scored models for {name}")
    return found, tuple(f"{error.what}: {error.why}" for error in refused)


def fit_metric_map(
    points: Sequence[MetricPoint], name: str, *, higher_is_better: bool = True, seed: int = 0
) -> MetricMap:
    """A line or, from six points on and where it predicts left-out points better, a parabola of the loss.

    Raises
    ------
    FitError : fewer than four points, or points of several objectives.
    RefusedError : the metric does not follow the loss: no detectable gain.
    """
    objectives = {point.objective for point in points}
    label = f"{name} ({objective.upper()})" if (objective := next(iter(objectives), None)) else name
    if len(objectives) > 1:
        raise FitError(f"{name}: points of several objectives", why="their losses are not on one scale")
    x, y = (np.array([getattr(point, key) for point in points]) for key in ("loss", "metric"))
    if len(points) < _FEWEST or len(np.unique(x)) < _FEWEST - 1:
        raise FitError(
            f"{label}: {len(points)} scored models are too few for a map from loss to metric",
            why=f"it takes {_FEWEST} of different losses",
            hint="score more checkpoints of different sizes or tokens",
        )
    degrees = (1, 2) if len(points) >= _FEWEST_BENT and len(np.unique(x)) >= _FEWEST else (1,)
    centre = float(x.mean())
    designs = {degree: np.vander(x - centre, degree + 1, increasing=True) for degree in degrees}
    p_flat = _chance(list(designs.values()), y, seed)
    if p_flat > _SURE:
        raise RefusedError(
            f"{label}: no detectable gain",
            why=f"over {len(points)} models the metric follows the loss no more than chance does (p = {p_flat:.2g})",
            hint="score more models over a wider range of losses, or decide by cost",
        )
    degree = min(degrees, key=lambda d: _left_out(designs[d], y))
    design = designs[degree]
    coefficients, draws, sd = _least_squares(design, y, seed)
    span = (float(x.min()), float(x.max()))
    return MetricMap(
        name=name,
        objective=objective,
        higher_is_better=higher_is_better,
        points=tuple(points),
        centre=centre,
        coefficients=tuple(coefficients.tolist()),
        draws=tuple(tuple(row) for row in draws.tolist()),
        residual_sd=sd,
        p_flat=p_flat,
        range_loss=span,
        shape=_shape(coefficients, centre, span, higher_is_better),
    )


def _least_squares(design: FloatArray, y: FloatArray, seed: int) -> tuple[FloatArray, FloatArray, float]:
    """Coefficients, draws from their t distribution, and the residuals' standard deviation."""
    coefficients = np.linalg.lstsq(design, y, rcond=None)[0]
    freedom = len(y) - design.shape[1]
    sd = float(np.sqrt(((y - design @ coefficients) ** 2).sum() / freedom))
    factor = np.linalg.cholesky(np.linalg.inv(design.T @ design))
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal((_DRAWS, design.shape[1]))
    scale = sd * np.sqrt(freedom / rng.chisquare(freedom, size=(_DRAWS, 1)))
    return np.asarray(coefficients, dtype=np.float64), coefficients + scale * (normal @ factor.T), sd


def _left_out(design: FloatArray, y: FloatArray) -> float:
    """Squared error of each point predicted without it, by the hat matrix. **Source:** Allen 1974 (PRESS)."""
    hat = design @ np.linalg.pinv(design)
    return float((((y - hat @ y) / np.maximum(1.0 - np.diag(hat), 1e-9)) ** 2).sum())


def _chance(designs: Sequence[FloatArray], y: FloatArray, seed: int) -> float:
    """Share of reorderings of y whose best adjusted fit is as good: one test for all shapes together."""
    rng = np.random.default_rng(seed)
    n = len(y)
    orders = _all_orders(n) if n <= 6 else rng.permuted(np.tile(np.arange(n), (_PERMUTATIONS, 1)), axis=1)
    mixed = np.concatenate([y[None], y[orders]])
    total = ((y - y.mean()) ** 2).sum()
    if total <= 1e-24 * max(float(y @ y), 1e-300):
        return 1.0
    best = np.zeros(len(mixed))
    for design in designs:
        left = np.eye(n) - design @ np.linalg.pinv(design)
        unexplained = ((mixed @ left) ** 2).sum(axis=1) / (n - design.shape[1])
        best = np.maximum(best, 1.0 - unexplained / (total / (n - 1)))
    return float((best[1:] >= best[0] - 1e-12).mean())


def _all_orders(n: int) -> npt.NDArray[np.intp]:
    from itertools import permutations

    return np.array(list(permutations(range(n))), dtype=np.intp)


def _shape(coefficients: FloatArray, centre: float, span: tuple[float, float], higher: bool) -> MetricShape:
    sign = 1.0 if higher else -1.0
    if len(coefficients) == 3 and coefficients[2] != 0:
        turn = centre - coefficients[1] / (2.0 * coefficients[2])
        inner = (span[0] + 0.05 * (span[1] - span[0]), span[1] - 0.05 * (span[1] - span[0]))
        if inner[0] < turn < inner[1]:
            return "best at a middle loss" if sign * coefficients[2] < 0 else "worst at a middle loss"
    middle = 0.5 * (span[0] + span[1]) - centre
    slope = coefficients[1] + (2.0 * coefficients[2] * middle if len(coefficients) == 3 else 0.0)
    return "better with lower loss" if sign * slope < 0 else "worse with lower loss"
