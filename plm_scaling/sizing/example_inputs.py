"""The inputs of one worked example, read with complaints that name the example and the key."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from plm_scaling.core.errors import ConfigError, did_you_mean
from plm_scaling.laws.two_powers import TwoPowers
from plm_scaling.laws.zoo_forms import Params, two_powers

__all__ = ["ADDITIVE", "REPEATING", "Inputs"]

ADDITIVE: Final = ("chinchilla", "gamma")
REPEATING: Final = ("muennighoff",)

_TWO_POWERS: Final = {"alpha": "alpha", "beta": "beta"}
_OWN: Final[Mapping[str, Mapping[str, str]]] = {
    "chinchilla": {},
    "gamma": {"gamma": "gamma"},
    "muennighoff": {"R_D_star": "R_D", "R_N_star": "R_N"},
}
"""Coefficients of each form beside E, A, B, alpha, beta: name in an example -> name in `zoo_forms`."""
_DISTILLATION: Final = {"gamma": "gamma", "f1": "f_1", "d1": "d_1"}
_DISTILLATION_FROM_ZERO: Final = {"c0": "c_0", "c1": "c_1"}


class Inputs:
    """Values by name; `where` says which example and case they are of."""

    def __init__(self, values: Mapping[str, Any], where: str = "") -> None:
        self.values, self.where = values, where

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def given(self, key: str) -> Any:
        """The value under a key, whatever it is.

        Raises
        ------
        ConfigError : it is missing.
        """
        if key not in self.values:
            raise ConfigError(f"{key} is missing", where=self.where, hint=did_you_mean(key, self.values))
        return self.values[key]

    def number(self, key: str) -> float:
        """A finite number; whole numbers stay whole.

        Raises
        ------
        ConfigError : missing, or something else.
        """
        value = self.given(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(f"{key} must be a number", where=self.where, why=f"got {value!r:.80}")
        return value

    def positive(self, key: str) -> float:
        """A number above 0."""
        return self._checked(key, self.number(key) > 0, "must be above 0")

    def not_negative(self, key: str) -> float:
        """A number of at least 0."""
        return self._checked(key, self.number(key) >= 0, "must not be below 0")

    def at_least_one(self, key: str) -> float:
        """A number of at least 1."""
        return self._checked(key, self.number(key) >= 1, "must not be below 1")

    def share(self, key: str) -> float:
        """0 < value <= 1."""
        return self._checked(key, 0 < self.number(key) <= 1, "must be above 0 and at most 1")

    def lost(self, key: str) -> float:
        """0 <= value < 1."""
        return self._checked(key, 0 <= self.number(key) < 1, "must not be below 0 and must be below 1")

    def count(self, key: str, *, least: int = 1) -> int:
        """A whole number of at least `least`."""
        value = self.number(key)
        return int(self._checked(key, value >= least and value == int(value), f"must be a whole number >= {least}"))

    def choice(self, key: str, allowed: Sequence[str]) -> str:
        """One of some words."""
        value = self.given(key)
        if not isinstance(value, str) or value not in allowed:
            raise ConfigError(f"{key} cannot be {value!r:.80}", where=self.where, hint=f"one of {', '.join(allowed)}")
        return str(value)

    def _checked(self, key: str, ok: bool, rule: str) -> float:
        value = self.number(key)
        if not ok:
            raise ConfigError(f"{key} {rule}", where=self.where, why=f"got {value:g}")
        return value

    # ---- laws ------------------------------------------------------------------------------------------------------

    def within(self, key: str) -> Inputs:
        """The object under a key.

        Raises
        ------
        ConfigError : missing, or no object.
        """
        return self._inner(self.given(key), key)

    def _inner(self, value: Any, key: str) -> Inputs:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key} must be an object", where=self.where, why=f"got {value!r:.80}")
        return Inputs(value, f"{self.where}: {key}" if self.where else key)

    def law(self, key: str, forms: Sequence[str]) -> TwoPowers:
        """The law under a key, of one of some forms.

        Raises
        ------
        ConfigError : another form, or a coefficient missing or out of range.
        """
        return self.within(key)._law(forms)

    def laws(self, key: str, forms: Sequence[str]) -> tuple[TwoPowers, ...]:
        """The laws listed under a key, at least one; raises as `law`."""
        listed = self.given(key)
        if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
            raise ConfigError(f"{key} must be a list of laws", where=self.where, why=f"got {listed!r:.80}")
        return tuple(self._inner(one, f"{key}[{n}]")._law(forms) for n, one in enumerate(listed))

    def distillation(self, key: str) -> Params:
        """The coefficients of a distillation law under a key; raises as `law`."""
        inner = self.within(key)
        powers = {ours: inner.not_negative(theirs) for theirs, ours in _DISTILLATION_FROM_ZERO.items()}
        return {**inner._powers(), **inner._positives(_DISTILLATION), **powers}

    def _law(self, forms: Sequence[str]) -> TwoPowers:
        form = self.given("form")
        if not isinstance(form, str) or form not in _OWN:
            raise ConfigError(f"unknown law form {form!r:.80}", where=self.where, hint=did_you_mean(str(form), _OWN))
        if form not in forms:
            raise ConfigError(f"a law of form {form} answers no such question", where=self.where, hint=_one_of(forms))
        floor = {"log_E": self.number("lnE")} if self._says_log("E") else {"E": self.number("E")}
        return two_powers({**floor, **self._powers(), **self._positives(_OWN[form])})

    def _powers(self) -> dict[str, float]:
        said: dict[str, float] = {}
        for name in ("A", "B"):
            if self._says_log(name):
                said[f"log_{name}"] = self.number(f"ln{name}")
            else:
                said[name] = self.positive(name)
        return {**said, **self._positives(_TWO_POWERS)}

    def _says_log(self, name: str) -> bool:
        if name in self.values and f"ln{name}" in self.values:
            raise ConfigError(f"{name} and ln{name} are both given", where=self.where, hint="give one of them")
        return f"ln{name}" in self.values

    def _positives(self, names: Mapping[str, str]) -> dict[str, float]:
        return {ours: self.positive(theirs) for theirs, ours in names.items()}


def _one_of(forms: Sequence[str]) -> str:
    return f"a law of form {' or '.join(forms)}"
