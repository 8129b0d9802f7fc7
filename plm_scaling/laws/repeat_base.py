"""The base law of a law of repeats: known from a surface or from published values, or the name of a form to fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from plm_scaling.core.errors import ConfigError, did_you_mean
from plm_scaling.laws.forms import Form
from plm_scaling.laws.law_fit import Interval, SurfaceFit
from plm_scaling.laws.repeat_forms import base_form
from plm_scaling.laws.surface import form_of, theta_draws, theta_of

__all__ = ["BaseLaw", "make_base"]


@dataclass(frozen=True)
class BaseLaw:
    """The law of unrepeated runs: known values (theta by name), or None where it is fitted with the repeats."""

    form: Form
    theta: dict[str, float] | None = None
    centre: tuple[float, float] = (0.0, 0.0)
    """ln N0, ln D0 of known values."""
    draws: tuple[dict[str, float], ...] = ()
    """The same, of resampled runs."""
    intervals: dict[str, Interval] = field(default_factory=dict)
    source: str = ""
    """Hash of the surface it was taken from."""
    batch_typical: float | None = None


def make_base(base: str | SurfaceFit | Mapping[str, float], plateau: float | None = None) -> BaseLaw:
    """A base law from the name of a form (fitted with the repeats), a fitted surface, or published values.

    Parameters
    ----------
    base : values are E, A, B, alpha, beta (or log_E, log_A, log_B), with L0 for a bounded law; others are ignored.
    plateau : L0 of a bounded form given by name, nats.

    Raises
    ------
    ConfigError : a form that repeats cannot be added to, or values that are missing.
    """
    if isinstance(base, str):
        return BaseLaw(base_form(base, plateau))
    if isinstance(base, SurfaceFit):
        base_form(base.form, base.plateau)
        form = form_of(base)
        rows = theta_draws(base) if base.draws else np.empty((0, len(form.names)))
        return BaseLaw(
            form,
            dict(zip(form.names, theta_of(base)[0].tolist(), strict=True)),
            (math.log(base.N0), math.log(base.D0)),
            tuple(dict(zip(form.names, row, strict=True)) for row in rows.tolist()),
            dict(base.parameters),
            base.content_hash(),
            base.batch_typical,
        )
    form = base_form("bounded" if "L0" in base else "chinchilla", base.get("L0"))
    theta = {name: _published(base, name) for name in form.names}
    values = form.natural(np.array([theta[name] for name in form.names])).tolist()
    intervals = {name: Interval(value=v, low=v, high=v) for name, v in zip(form.names, values, strict=True)}
    return BaseLaw(form, theta, intervals=intervals)


def _published(values: Mapping[str, float], name: str) -> float:
    """Theta of a parameter of the additive law, uncentred: A or its logarithm log_A."""
    plain = name.removesuffix("0")
    if f"log_{plain}" in values:
        return float(values[f"log_{plain}"])
    if plain not in values:
        raise ConfigError(f"the base law lacks {plain}", hint=did_you_mean(plain, values))
    value = float(values[plain])
    if plain in ("alpha", "beta"):
        return value
    if value < 0 or (value == 0 and plain != "E"):
        raise ConfigError(f"{plain} of the base law must be positive, got {value!r}")
    return math.log(max(value, 1e-300))
