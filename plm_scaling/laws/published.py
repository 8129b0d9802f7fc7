"""Published scaling laws as values: the zoo that answers sizing questions before any run is trained."""

from __future__ import annotations

import math
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import model_validator

from plm_scaling.core.errors import ConfigError, did_you_mean
from plm_scaling.core.records import Record

__all__ = ["PublishedForm", "PublishedLaw", "PublishedStatus", "find_law", "load_zoo"]

PublishedForm = Literal["power_frontier", "chinchilla", "gamma", "kaplan", "repeats"]
PublishedStatus = Literal["read", "measured", "unverified"]

_PARAMETERS: Final[dict[str, frozenset[str]]] = {
    "power_frontier": frozenset({"k_N", "a_N", "k_D", "a_D"}),
    "chinchilla": frozenset({"E", "A", "B", "alpha", "beta"}),
    "gamma": frozenset({"E", "A", "B", "alpha", "beta", "gamma"}),
    "kaplan": frozenset({"N_c", "a_N", "D_c", "a_D"}),
    "repeats": frozenset({"log_E", "log_A", "log_B", "alpha", "beta", "R_D", "R_N"}),
}
_ZOO: Final = Path(__file__).with_name("zoo.toml")


class PublishedLaw(Record):
    """One published law: its form, its numbers, where they were read, and what to doubt.

    Forms: `power_frontier` N = k_N C^a_N, D = k_D C^a_D; `chinchilla` L = E + A N^-alpha + B D^-beta; `gamma`
    L = E + (A N^-alpha + B D^-beta)^gamma; `kaplan` L = [(N_c/N)^(a_N/a_D) + D_c/D]^a_D; `repeats` is `chinchilla`
    with exponential decay of the value of repeated tokens and excess parameters.
    """

    id: str
    objective: Literal["clm", "mlm", "text"]
    form: PublishedForm
    status: PublishedStatus
    """read: seen in the named source; measured: fitted by us to published data; unverified: never used by default."""
    source: str
    params: dict[str, float]
    range_C: tuple[float, float] | None = None
    """Training FLOPs the law was fitted on; None where the source does not say."""
    convention: str = ""
    """How the law counts N and C, where this differs from block parameters and 6 N D."""
    default: bool = True
    """Whether a recommendation uses the law unasked; False: kept for comparison, `caveat` says why."""
    caveat: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if set(self.params) != _PARAMETERS[self.form]:
            raise ValueError(f"law {self.id!r}: form {self.form} takes {sorted(_PARAMETERS[self.form])}")
        return self

    def optimum(self, C: float) -> tuple[float, float]:
        """Compute-optimal (N parameters, D tokens) for C FLOPs and unlimited unique data.

        A `power_frontier` states N and D separately, so 6 N D need not be C exactly (within 11 % for the protein
        laws over their range); every other form spends C = 6 N D.

        **Source:** Hoffmann et al. 2022, eq. 4 (closed form); the same condition dL/dN = 0 for the other forms.
        """
        if not (math.isfinite(C) and C > 0):
            raise ConfigError(f"a compute budget must be a positive number of FLOPs, got {C!r}")
        p = self.params
        if self.form == "power_frontier":
            return p["k_N"] * C ** p["a_N"], p["k_D"] * C ** p["a_D"]
        if self.form == "kaplan":
            r = p["a_N"] / p["a_D"]
            log_N = (math.log(r * C / (6.0 * p["D_c"])) + r * math.log(p["N_c"])) / (1.0 + r)
            return math.exp(log_N), C / (6.0 * math.exp(log_N))
        return _separable_optimum(C, self._log_A(), self._log_B(), p["alpha"], p["beta"])

    def loss(self, N: float, D: float, unique_tokens: float | None = None) -> float | None:
        """Loss in nats per token of N parameters after D tokens; None for a law that states no loss.

        Only the form `repeats` knows what repeated tokens are worth, and parameters beyond the best size for the
        unique tokens; others, and this one without `unique_tokens`, read D as drawn from unlimited data.

        **Source:** Hoffmann et al. 2022, eq. 2; Kaplan et al. 2020, eq. 1.5; Muennighoff et al. 2023, eq. 5-6.
        """
        p = self.params
        if self.form == "power_frontier":
            return None
        if self.form == "kaplan":
            inside = (p["N_c"] / N) ** (p["a_N"] / p["a_D"]) + p["D_c"] / D
            return float(inside ** p["a_D"])
        if self.form == "repeats":
            if unique_tokens is not None:
                N, D = self._effective(N, D, min(unique_tokens, D))
            E, power = math.exp(p["log_E"]), 1.0
        else:
            E, power = p["E"], p.get("gamma", 1.0)
        reducible = math.exp(self._log_A() - p["alpha"] * math.log(N)) + math.exp(
            self._log_B() - p["beta"] * math.log(D)
        )
        return float(E + reducible**power)

    def _log_A(self) -> float:
        return self.params["log_A"] if "log_A" in self.params else math.log(self.params["A"])

    def _log_B(self) -> float:
        return self.params["log_B"] if "log_B" in self.params else math.log(self.params["B"])

    def _effective(self, N: float, D: float, unique_tokens: float) -> tuple[float, float]:
        """Effective parameters and tokens; the data-optimal size of U tokens bounds what more parameters can use."""
        p = self.params
        gain = (self._log_A() + math.log(p["alpha"]) - self._log_B() - math.log(p["beta"])) / (p["alpha"] + p["beta"])
        # N* = G (C/6)^(b/(a+b)) and D* = U give N = G^((a+b)/a) U^(b/a).
        N_for_U = math.exp((gain * (p["alpha"] + p["beta"]) + p["beta"] * math.log(unique_tokens)) / p["alpha"])
        U_N = min(N, N_for_U)
        return _decayed(N, U_N, p["R_N"]), _decayed(D, unique_tokens, p["R_D"])


def _decayed(total: float, unique: float, decay: float) -> float:
    """U + U R* (1 - exp(-R / R*)) with R = total/U - 1 repeats. **Source:** Muennighoff et al. 2023, eq. 5."""
    repeats = max(total / unique - 1.0, 0.0)
    return unique + unique * decay * -math.expm1(-repeats / decay)


def _separable_optimum(C: float, log_A: float, log_B: float, alpha: float, beta: float) -> tuple[float, float]:
    """The minimum of A N^-alpha + B D^-beta on 6 N D = C; E and an outer exponent drop out."""
    log_G = (log_A + math.log(alpha) - log_B - math.log(beta)) / (alpha + beta)
    log_ND = math.log(C / 6.0)
    log_N = log_G + log_ND * beta / (alpha + beta)
    return math.exp(log_N), math.exp(log_ND - log_N)


@lru_cache(maxsize=1)
def _all_laws() -> tuple[PublishedLaw, ...]:
    data = tomllib.loads(_ZOO.read_text(encoding="ascii"))
    return tuple(PublishedLaw.model_validate(law) for law in data["law"])


def load_zoo(*, unverified: bool = False) -> tuple[PublishedLaw, ...]:
    """The published laws in the order of `zoo.toml`, without those nobody has checked unless `unverified`."""
    return tuple(law for law in _all_laws() if unverified or law.status != "unverified")


def find_law(name: str) -> PublishedLaw:
    """The published law with this id (`zoo:NAME` is understood too), unverified ones included.

    Raises
    ------
    ConfigError : no law has this id.
    """
    wanted = name.removeprefix("zoo:")
    laws = {law.id: law for law in _all_laws()}
    if wanted not in laws:
        raise ConfigError(f"no published law is called {wanted!r}", hint=did_you_mean(wanted, laws))
    return laws[wanted]
