"""`LawFit`: the laws of one objective as a value, with draws, intervals and named doubts."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plm_scaling.core.records import Record
from plm_scaling.core.run import Objective

__all__ = ["Interval", "IsoflopFit", "IsoflopRow", "LawFit", "SurfaceFit"]


class Interval(Record):
    """An estimate and its interval."""

    value: float
    low: float
    high: float
    level: float = 0.95


class IsoflopRow(Record):
    """One compute budget: the parabola of loss in ln N, or the reason there is no minimum."""

    C: float
    """Median compute of the row's runs, in the fit's currency."""
    N: tuple[float, ...]
    D: tuple[float, ...]
    loss: tuple[float, ...]
    """Mean over seeds, one entry per size."""
    n_seeds: tuple[int, ...]
    """Different seeds behind each mean."""
    batch_tokens: tuple[float, float] | None = None
    """Smallest and largest batch of the row's runs, tokens."""
    curvature: float | None = None
    """a of L = a (ln N - ln N_opt)^2 + L_opt."""
    N_opt: Interval | None = None
    D_opt: float | None = None
    L_opt: float | None = None
    N_band: tuple[float, float] | None = None
    """Sizes within +0.01 nats of the minimum, inside the sizes tried."""
    depth: float | None = None
    """How far the shallower edge of the row lies above its lowest loss, nats."""
    flags: tuple[str, ...] = ()
    """NO_INTERIOR_MINIMUM, SHALLOW_MINIMUM (depth below 2x the noise), TOO_FEW_SIZES, CONCAVE, MIXED_BATCH, ..."""


class IsoflopFit(Record):
    """N_opt = k_N C^a_N and D_opt = k_D C^a_D through the interior minima (log-log least squares)."""

    currency: Literal["C_exact", "C_6nd"]
    rows: tuple[IsoflopRow, ...]
    a_N: Interval | None = None
    k_N: float | None = None
    a_D: Interval | None = None
    k_D: float | None = None
    flags: tuple[str, ...] = ()


class SurfaceFit(Record):
    """L(N, D) = E + A N^-alpha + B D^-beta by summed Huber loss on ln L.

    Parameters are keyed E, A0, B0, alpha, beta with A = A0 N0^alpha, B = B0 D0^beta: the centred coefficients are
    what the data determine. **Source:** Hoffmann et al. 2022, eq. 10; Besiroglu et al. 2024.
    """

    form: Literal["chinchilla"] = "chinchilla"
    N0: float
    D0: float
    parameters: dict[str, Interval]
    draws: tuple[tuple[float, ...], ...] = ()
    """Bootstrap draws over runs, columns in the order of `parameters`."""
    covariance: tuple[tuple[float, ...], ...] = ()
    huber_delta: float
    objective_value: float
    """Sum of Huber losses at the optimum."""
    starts: int
    starts_agreeing: float
    """Share of starts that end within 1e-3 relative of the best objective."""
    rms_relative_error: float
    a_N: Interval
    """Exponent of N_opt(C) = beta / (alpha + beta)."""
    range_N: tuple[float, float]
    range_D: tuple[float, float]
    batch_tokens: tuple[float, float] | None = None
    """Smallest and largest batch of the runs, tokens."""
    flags: tuple[str, ...] = ()


class LawFit(Record):
    """What a table of runs says about one objective (`fit-clm.json`, `fit-mlm.json`)."""

    SCHEMA_VERSION: ClassVar[int] = 1

    objective: Objective
    currency: Literal["C_exact", "C_6nd"]
    n_runs: int
    validation_id: str | None = None
    noise_sd: float | None = None
    """Standard deviation of the loss between seeds at equal settings, nats; None without replicates."""
    isoflop: IsoflopFit | None = None
    isoflop_other_currency: IsoflopFit | None = None
    """The same rows with the optimum placed on the other compute currency."""
    surface: SurfaceFit | None = None
    range_C: tuple[float, float]
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = Field(default=())
    """A plain sentence for every flag."""
    data_hash: str
