"""What the fit of laws is compared with: the many-starts recipe on scipy, and packages where they are installed."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

__all__ = [
    "ALL_STARTS",
    "PACKAGES",
    "Peer",
    "Runs",
    "bfgs",
    "descend",
    "find_peers",
    "huber_sum",
    "missing_peers",
    "recipe_starts",
]

Array = npt.NDArray[np.float64]
ALL_STARTS = 4500
DELTA = 1e-3
PACKAGES = {"chinchilla": "chinchilla", "simple-scaling-laws": "simple_scaling_laws", "vpnls": "vpnls"}


@dataclass(frozen=True)
class Runs:
    """N parameters, D tokens, loss in nats, float64[n] each."""

    name: str
    N: Array
    D: Array
    loss: Array

    @property
    def logs(self) -> tuple[Array, Array, Array]:
        """Logarithms of N, D and the loss."""
        return np.log(self.N), np.log(self.D), np.log(self.loss)


def huber_sum(predicted: Array, loss: Array) -> float:
    """Sum of Huber losses on ln L."""
    size = np.abs(np.log(predicted) - np.log(loss))
    capped = np.minimum(size, DELTA)
    return float((capped * (size - 0.5 * capped)).sum())


def log_terms(theta: Array, log_N: Array, log_D: Array) -> tuple[Array, Array]:
    """Shares of the three terms float64[3, n] and ln L float64[n]; several times faster than numpy's logaddexp."""
    a, b, e, alpha, beta = theta
    terms = np.empty((3, len(log_N)))
    terms[0], terms[1], terms[2] = a - alpha * log_N, b - beta * log_D, e
    top = terms.max(axis=0)
    parts = np.exp(terms - top)
    total = parts.sum(axis=0)
    return parts / total, top + np.log(total)


def recipe_objective(theta: Array, log_N: Array, log_D: Array, target: Array, weights: Array) -> float:
    """Hoffmann et al. 2022, eq. 10, summed as Besiroglu et al. 2024 do: no gradient."""
    size = np.abs(log_terms(theta, log_N, log_D)[1] - target)
    capped = np.minimum(size, DELTA)
    return float(weights @ (capped * (size - 0.5 * capped)))


def with_gradient(theta: Array, log_N: Array, log_D: Array, target: Array, weights: Array) -> tuple[float, Array]:
    """The same with its gradient."""
    shares, log_L = log_terms(theta, log_N, log_D)
    residual = log_L - target
    size = np.abs(residual)
    capped = np.minimum(size, DELTA)
    by_a, by_b, by_e = shares * (weights * np.copysign(capped, residual))
    gradient = np.array([by_a.sum(), by_b.sum(), by_e.sum(), -(by_a @ log_N), -(by_b @ log_D)])
    return float(weights @ (capped * (size - 0.5 * capped))), gradient


def recipe_starts() -> Array:
    """The grid of 4,500 starting points, float64[4500, 5]."""
    wide, shares = np.arange(0, 26, 5), np.arange(0, 2.1, 0.5)
    return np.array(list(product(wide, wide, np.arange(-1, 1.1, 0.5), shares, shares)), dtype=np.float64)


def descend(runs: Runs, starts: Array, *, gradient: bool = False) -> list[tuple[float, Array]]:
    """One L-BFGS-B from each start: objective and point."""
    data = (*runs.logs, np.ones(len(runs.N)))
    ends = [
        minimize(with_gradient if gradient else recipe_objective, s, args=data, jac=gradient or None, method="L-BFGS-B")
        for s in starts
    ]
    return [(float(end.fun), end.x) for end in ends]


def bfgs(runs: Runs, start: Array, weights: Array) -> None:
    """One BFGS with finite differences for each resample, weights float64[B, n], from the published point."""
    for w in weights:
        minimize(recipe_objective, start, args=(*runs.logs, w), method="BFGS")


@dataclass(frozen=True)
class Peer:
    """A package: a fit alone, and a fit with draws where it has them; both return predicted losses."""

    name: str
    what: str
    fit: Callable[[], Array]
    draw: Callable[[int], Array] | None = None
    interval: Callable[[float], tuple[Array, Array, Array]] | None = None
    """Loss and the ends of the interval of a new run, at a level, where it has them."""


def missing_peers() -> list[str]:
    """Packages that are not installed."""
    return [name for name, module in PACKAGES.items() if importlib.util.find_spec(module) is None]


def find_peers(runs: Runs, *, quick: bool = False, at: Runs | None = None) -> list[Peer]:
    """The installed packages, ready to fit these runs and to predict their losses, or those of other runs.

    Parameters
    ----------
    quick : packages that start from grids start from smaller ones.
    at : runs whose losses are predicted.
    """
    there = runs if at is None else at
    makers = {
        "chinchilla": lambda: _chinchilla(runs, there, 2 if quick else 3),
        "simple-scaling-laws": lambda: _simple_scaling_laws(runs, there),
        "vpnls": lambda: _vpnls(runs, there),
    }
    return [make() for name, make in makers.items() if name not in missing_peers()]


def _additive(runs: Runs, E: float, A: float, B: float, alpha: float, beta: float) -> Array:
    return np.asarray(E + A * runs.N ** -float(alpha) + B * runs.D ** -float(beta), dtype=np.float64)


def _chinchilla(runs: Runs, at: Runs, levels: int) -> Peer:
    """BFGS in extended precision from a grid of levels^5 starts; without its pictures."""
    import pandas
    from chinchilla import Chinchilla
    from chinchilla._metrics import log_huber

    limits = {"e": (-0.5, 0.5), "a": (0, 20), "b": (0, 20), "alpha": (0.2, 0.8), "beta": (0.2, 0.8)}
    grid = {name: tuple(np.linspace(*ends, levels)) for name, ends in limits.items()}

    def fit() -> Array:
        with tempfile.TemporaryDirectory() as folder:
            model = Chinchilla(folder, param_grid=grid, loss_fn=lambda y, p: log_huber(y, p, DELTA), log_level=50)
            model.database.df = pandas.DataFrame(
                {"C": 6 * runs.N * runs.D, "N": runs.N, "D": runs.D, "loss": runs.loss}
            )
            model.visualizer.optim = lambda *_, **__: None
            model.fit(parallel=False)
            p = model.params
        return _additive(at, p["E"], p["A"], p["B"], p["alpha"], p["beta"])

    return Peer("chinchilla", f"{levels**5} starts, Huber on ln L", fit)


def _simple_scaling_laws(runs: Runs, at: Runs) -> Peer:
    import polars
    import simple_scaling_laws

    def points(of: Runs) -> polars.DataFrame:
        return polars.DataFrame({"model_size__n": of.N, "dataset_size__d": of.D})

    ids = polars.Series("training_run_id", [f"r{i}" for i in range(len(runs.N))])
    frame = points(runs).with_columns(ids, polars.Series("test_loss__nats", runs.loss))

    def draw(count: int) -> Array:
        predicted = simple_scaling_laws.fit(frame, n_draws=count).predict(points(at))
        return predicted["test_loss__nats__median"].to_numpy()

    def interval(level: float) -> tuple[Array, Array, Array]:
        ends = [(1 - level) / 2, 0.5, (1 + level) / 2]
        predicted = simple_scaling_laws.fit(frame).predict(points(at), kind="new-run", quantiles=ends)
        columns = [name for name in predicted.columns if name.startswith("test_loss__nats__")]
        low, loss, high = (predicted[name].to_numpy() for name in columns)
        return loss, low, high

    return Peer("simple-scaling-laws", "squared error of L, wild bootstrap", lambda: draw(1), draw, interval)


def _vpnls(runs: Runs, at: Runs) -> Peer:
    from vpnls.api import fit_vpnls, huber

    def fit() -> Array:
        found = fit_vpnls(runs.N / 1e6, runs.D / 1e9, runs.loss.copy(), resolution=0.01, loss=huber(DELTA))
        scaled = Runs(at.name, at.N / 1e6, at.D / 1e9, at.loss)
        return _additive(scaled, found.E, found.A, found.B, found.alpha, found.beta)

    return Peer("vpnls", "exponents to .01, Huber on L", fit)
