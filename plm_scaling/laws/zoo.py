"""Published scaling laws as values: the zoo that answers sizing questions before any run is trained."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from plm_scaling.core.errors import ConfigError, did_you_mean
from plm_scaling.core.records import Record
from plm_scaling.laws.zoo_forms import ZOO_FORMS, PublishedForm, ZooForm, two_powers

__all__ = ["PublishedForm", "PublishedLaw", "PublishedStatus", "ZooCheck", "all_laws", "find_law", "load_zoo"]

PublishedStatus = Literal["read", "measured", "unverified"]
Span = tuple[float, float]

_ZOO: Final = Path(__file__).with_name("zoo.toml")
_N_IS, _D_IS, _C_IS = "block parameters", "training tokens", "6 N D"


class ZooCheck(Record):
    """A point at which a source prints numbers: what it is given, what it prints, and how near ours must come."""

    given: dict[str, float]
    prints: dict[str, float]
    """Names as in `PublishedLaw.answer`."""
    within: float
    """Largest relative difference: the rounding of the source."""


class PublishedLaw(Record):
    """One published law: its form, its numbers, where they were read, and what to doubt.

    The formula of each form, and which coefficients it takes, stand in `plm_scaling.laws.zoo_forms.ZOO_FORMS`.
    """

    id: str
    objective: Literal["clm", "mlm", "text"]
    form: PublishedForm
    status: PublishedStatus
    """read: seen in the named source; measured: fitted by us to published data; unverified: never used by default."""
    source: str
    params: dict[str, float]
    ci95: dict[str, Span] = Field(default_factory=dict)
    """95 % intervals of coefficients, where the source states them; `a_N` may stand for the exponent of N_opt."""
    range_C: Span | None = None
    """Training FLOPs the law was fitted on; None where the source does not say."""
    range_N: Span | None = None
    range_D: Span | None = None
    N_is: str = _N_IS
    """What the law counts as N."""
    D_is: str = _D_IS
    C_is: str = _C_IS
    """What the law counts as C, FLOPs."""
    default: bool = True
    """Whether a recommendation uses the law unasked; False: kept for comparison, `caveat` says why."""
    caveat: str = ""
    check: tuple[ZooCheck, ...] = ()

    @field_validator("range_C", "range_N", "range_D")
    @classmethod
    def _ordered(cls, span: Span | None) -> Span | None:
        if span is not None and not 0 < span[0] < span[1]:
            raise ValueError(f"a range runs from a positive number up, not {span}")
        return span

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        form, given = ZOO_FORMS[self.form], frozenset(self.params)
        if given - form.optional not in form.takes:
            wanted = " or ".join(" ".join(sorted(names)) for names in form.takes)
            raise ValueError(f"law {self.id!r}: form {self.form} takes {wanted}, not {' '.join(sorted(given))}")
        if unknown := set(self.ci95) - given - {"a_N"}:
            raise ValueError(f"law {self.id!r}: intervals of no coefficient: {' '.join(sorted(unknown))}")
        return self

    @property
    def form_of(self) -> ZooForm:
        """Formula and functions of the law's form."""
        return ZOO_FORMS[self.form]

    @property
    def convention(self) -> str:
        """How the law counts N, D and C, where this differs from block parameters, tokens and 6 N D."""
        usual = (("N", self.N_is, _N_IS), ("D", self.D_is, _D_IS), ("C", self.C_is, _C_IS))
        return "; ".join(f"{name} is {said}" for name, said, default in usual if said != default)

    @property
    def sizes_a_budget(self) -> bool:
        """Whether the law says which N a budget of compute asks for."""
        return self.form_of.optimum is not None

    def exponents(self) -> tuple[float | None, float | None]:
        """The exponents a of N_opt ~ C^a and D_opt ~ C^a; None where the form has none."""
        return self.form_of.exponents(self.params)

    def optimum(self, C: float, unique_tokens: float | None = None) -> tuple[float, float]:
        """Compute-optimal (N parameters, D tokens) for C FLOPs; for unlimited unique data unless `unique_tokens`.

        A `power_frontier` states N and D separately, so 6 N D need not be C exactly (within 11 % for the protein
        laws over their range); every other form spends C = 6 N D. Only the form `repeats` heeds `unique_tokens`.

        Raises
        ------
        ConfigError : C is not a positive number, or the law does not say which size is best.

        **Source:** Hoffmann et al. 2022, eq. 4 (closed form); the same condition dL/dN = 0 for the other forms.
        """
        if not (math.isfinite(C) and C > 0):
            raise ConfigError(f"a compute budget must be a positive number of FLOPs, got {C!r}")
        best = self.form_of.optimum
        if best is None:
            raise ConfigError(f"{self.id} does not say which size is best for a budget", why=self.form_of.formula)
        if unique_tokens is None or self.form != "repeats":
            return best(self.params, C)
        return two_powers(self.params).repeated_optimum(C, unique_tokens)

    def loss(self, N: float, D: float, unique_tokens: float | None = None) -> float | None:
        """Loss in nats per token of N parameters after D tokens; None for a law that states no loss of N and D.

        Only the form `repeats` knows what repeated tokens are worth, and parameters beyond the best size for the
        unique tokens; others, and this one without `unique_tokens`, read D as drawn from unlimited data.
        """
        loss = self.form_of.loss
        return None if loss is None else loss(self.params, N, D, unique_tokens)

    def answer(self, given: Mapping[str, float]) -> dict[str, float]:
        """All the law states about the quantities given, by name.

        Given C (and U unique tokens): N, D, tokens_per_parameter, six_ND_over_C, loss, and epochs over U. Given N
        and D (and U): loss. Given nothing: the exponents a_N and a_D. A `loss_compute` takes C, N or D; a `transfer`
        N and D_f and answers D_t; a `distillation` N, D, loss_teacher and loss_alone; an `lr_batch` N and D.

        Raises
        ------
        ConfigError : a quantity the form needs is missing.
        """
        try:
            if (rule := self.form_of.rule) is not None:
                return rule(self.params, given)
            if not given:
                stated = dict(zip(("a_N", "a_D"), self.exponents(), strict=True))
                return {name: value for name, value in stated.items() if value is not None}
            if "C" in given and self.sizes_a_budget:
                return self._answer_budget(given["C"], given.get("U"))
            loss = self.loss(given["N"], given["D"], given.get("U"))
        except KeyError as missing:
            raise ConfigError(f"{self.id} needs {missing.args[0]}", why=self.form_of.formula) from None
        return {} if loss is None else {"loss": loss}

    def _answer_budget(self, C: float, unique: float | None) -> dict[str, float]:
        N, D = self.optimum(C, unique)
        said = {"N": N, "D": D, "tokens_per_parameter": D / N, "six_ND_over_C": 6.0 * N * D / C}
        if (loss := self.loss(N, D, unique)) is not None:
            said["loss"] = loss
        return said if unique is None else {**said, "epochs": D / unique}


@lru_cache(maxsize=1)
def all_laws() -> tuple[PublishedLaw, ...]:
    """Every published law in the order of `zoo.toml`: unverified ones too, and those that size no budget."""
    data = tomllib.loads(_ZOO.read_text(encoding="ascii"))
    return tuple(PublishedLaw.model_validate(law) for law in data["law"])


def load_zoo(*, unverified: bool = False) -> tuple[PublishedLaw, ...]:
    """The laws that say which N a budget asks for, without those nobody has checked unless `unverified`."""
    return tuple(law for law in all_laws() if law.sizes_a_budget and (unverified or law.status != "unverified"))


def find_law(name: str) -> PublishedLaw:
    """The published law with this id (`zoo:NAME` is understood too), whatever its form and status.

    Raises
    ------
    ConfigError : no law has this id.
    """
    wanted = name.removeprefix("zoo:")
    laws = {law.id: law for law in all_laws()}
    if wanted not in laws:
        raise ConfigError(f"no published law is called {wanted!r}", hint=did_you_mean(wanted, laws))
    return laws[wanted]
