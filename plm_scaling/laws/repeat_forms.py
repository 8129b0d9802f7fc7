"""Forms of the laws of repeated data: a base law L(N, D) whose tokens and parameters decay, or that pays a penalty.

U unique tokens, R = D/U - 1 repeats (epochs less one), N_opt(U) the best size for U tokens under the base law, U_N =
min(N, N_opt(U)). Tokens are worth D' = U + U R_D (1 - exp(-R/R_D)), parameters N' alike from U_N with R_N. A decay can
only slow the fall of the loss; the penalty P R^delta (N/U)^kappa can turn it upwards. P is centred, P = P0 at the
middle of the repeated runs. Any parameter may be known: the others are fitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, did_you_mean
from plm_scaling.laws.forms import Atom, Atoms, Form, Parameter, Rows, find_form
from plm_scaling.laws.jets import FloatArray, Jet, Value, exp, log, log_sum_exp, minimum, softplus, value_of

__all__ = [
    "REPEAT_FORMS",
    "RepeatRows",
    "base_form",
    "excess_size",
    "make_repeat_rows",
    "repeat_form",
    "repeat_parameters",
]

_R_D, _R_N = Parameter("R_D", "shape", "repeats"), Parameter("R_N", "shape")
_PENALTY: Final = (Parameter("P0", "amplitude", "nats"), Parameter("delta", "exponent"), Parameter("kappa", "exponent"))
_OFFSET: Final = Parameter("offset", "linear")

REPEAT_FORMS: Final[dict[str, tuple[tuple[Parameter, ...], str, str]]] = {
    "none": ((), "every repeated token counts as a new one", ""),
    "data_decay": ((_R_D,), "D -> U + U R_D (1 - exp(-R/R_D))", "Muennighoff et al. 2023, eq. 5"),
    "size_decay": ((_R_N,), "N -> U_N + U_N R_N (1 - exp(-(N/U_N - 1)/R_N))", "Muennighoff et al. 2023, section 3.2"),
    "decay": ((_R_D, _R_N), "both decays", "Muennighoff et al. 2023, eq. 6"),
    "penalty": (_PENALTY, "L + P R^delta (N/U)^kappa", "Lovelace et al. 2026"),
}
"""Name -> (its own parameters, what it does to the base law, source)."""

_BASES: Final = ("chinchilla", "no_floor", "tied", "gamma", "bounded", "saturating")
_SILENT: Final = -800.0
"""ln of a penalty that is not there: e^-800 is zero."""
_FURTHEST: Final = 40.0
"""A model e^40 times too large for its data is infinitely too large."""


@dataclass(frozen=True)
class RepeatRows(Rows):
    """`Rows` with what repeats add: float64[n] each; `u` is ln(U/D0)."""

    R: FloatArray = field(default_factory=lambda: np.zeros(0))
    """Repeats, D/U - 1."""
    shift: FloatArray = field(default_factory=lambda: np.zeros(0))
    """1 for runs of the other corpus, whose ln L is moved by `offset`."""
    log_R0: float = 0.0
    log_ratio0: float = 0.0
    """Centres of ln R and ln(N/U), where the penalty is P0."""

    @property
    def silent(self) -> FloatArray:
        """What silences the penalty of a run without repeats: ln of nothing."""
        return np.where(self.R > 0, 0.0, _SILENT)

    def features(self) -> dict[str, FloatArray]:
        """Those of `Rows`, with r = ln(R/R0), q = ln(N/U) less its centre, and -u."""
        repeated = self.R > 0
        r = np.where(repeated, np.log(np.where(repeated, self.R, 1.0)) - self.log_R0, 0.0)
        q = self.x + self.log_N0 - self.u - self.log_D0 - self.log_ratio0
        return {**super().features(), "r": r, "q": q, "-u": -self.u}

    def take(self, keep: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> RepeatRows:
        """The rows at some positions (an index or mask array)."""
        columns = {name: getattr(self, name)[keep] for name in ("x", "y", "z", "u", "R", "shift")}
        return replace(self, **columns)


def make_repeat_rows(
    N: FloatArray,
    D: FloatArray,
    U: FloatArray,
    batch: FloatArray | None,
    shift: FloatArray,
    centres: tuple[float, float, float, float],
) -> RepeatRows:
    """Rows of runs [n]; a U above D is D. `centres` are ln N0, ln D0, ln R0 and the centre of ln(N/U)."""
    log_N0, log_D0, log_R0, log_ratio0 = centres
    unique = np.minimum(U, D)
    return RepeatRows(
        x=np.log(N) - log_N0,
        y=np.log(D) - log_D0,
        z=np.zeros(len(N)) if batch is None else np.log(batch),
        u=np.log(unique) - log_D0,
        log_N0=log_N0,
        log_D0=log_D0,
        R=D / unique - 1.0,
        shift=shift,
        log_R0=log_R0,
        log_ratio0=log_ratio0,
    )


def base_form(name: str, plateau: float | None = None) -> Form:
    """A form that repeats can be added to: a sum of powers of N and D within any outer shape.

    Raises
    ------
    ConfigError : no such form, or one whose best size does not follow from a sum of powers.
    """
    if name.partition("+")[0] not in _BASES:
        raise ConfigError(f"repeats cannot be added to the form {name!r}", hint=did_you_mean(name, _BASES))
    return find_form(name, plateau)


def repeat_parameters(kind: str, *, offset: bool = False) -> tuple[Parameter, ...]:
    """A form's own parameters beside those of the base law.

    Raises
    ------
    ConfigError : no such form.
    """
    if kind not in REPEAT_FORMS:
        raise ConfigError(f"no law of repeats is called {kind!r}", hint=did_you_mean(kind, REPEAT_FORMS))
    return (*REPEAT_FORMS[kind][0], *((_OFFSET,) if offset else ()))


def repeat_form(kind: str, base: Form, known: Mapping[str, float], *, offset: bool = False) -> Form:
    """The form of a law of repeats over the parameters that are not `known` (theta by name).

    Raises
    ------
    ConfigError : no such form.

    **Source:** Muennighoff et al. 2023, eq. 5-6 (decays); Lovelace et al. 2026 (penalty).
    """
    parameters = (*base.parameters, *repeat_parameters(kind, offset=offset))
    free = tuple(parameter for parameter in parameters if parameter.name not in known)
    law = _Law(kind, base, dict(known), offset)
    _, effect, source = REPEAT_FORMS[kind]
    return Form(
        name=f"{kind} of {base.name}",
        equation=f"{base.equation}; {effect}",
        parameters=free,
        atoms=law.atoms([parameter.name for parameter in free]),
        formula=partial(_formula, law=law),
        source=source or base.source,
        has_batch=base.has_batch,
        plateau=base.plateau,
    )


@dataclass(frozen=True)
class _Law:
    kind: str
    base: Form
    known: dict[str, float]
    offset: bool

    @property
    def inner(self) -> dict[str, str]:
        """Names of A0, B0, alpha and beta in the base law."""
        assert self.base.inner is not None
        return dict(zip(("A0", "B0", "alpha", "beta"), self.base.inner, strict=True))

    @property
    def shrinks(self) -> bool:
        """Whether parameters decay: N' then depends on every coefficient of the base law."""
        return self.kind in ("size_decay", "decay")

    @property
    def sums(self) -> dict[str, tuple[tuple[str, str], ...]]:
        """What the formula reads as one sum linear in theta where its parameters are free: fewer atoms.

        N and D are the logs of A N^-alpha and B D^-beta, U that of B U^-beta.
        """
        A, B, alpha, beta = self.inner.values()
        sums: dict[str, tuple[tuple[str, str], ...]] = {
            "N": ((A, "1"), (alpha, "-x")),
            "D": ((B, "1"), (beta, "-y")),
            "U": ((B, "1"), (beta, "-u")),
        }
        if self.kind in ("data_decay", "decay"):
            del sums["D"]
        elif self.kind != "size_decay":
            del sums["U"]
        if self.kind == "penalty":
            sums["penalty"] = (("P0", "1"), ("delta", "r"), ("kappa", "q"))
        return sums

    def atoms(self, free: Sequence[str]) -> tuple[Atom, ...]:
        """Sums of free parameters, and every free parameter that the formula reads by itself."""
        sums = {key: terms for key, terms in self.sums.items() if all(name in free for name, _ in terms)}
        within = {name for terms in sums.values() for name, _ in terms}
        alpha, beta = self.inner["alpha"], self.inner["beta"]
        read = {beta} if self.base.has_batch or self.kind == "data_decay" else set()
        read |= {alpha, beta} if self.shrinks else set()
        return (
            *(Atom(key, terms) for key, terms in sums.items()),
            *(Atom(name, ((name, "1"),)) for name in free if name not in within or name in read),
        )

    def at(self, atoms: Atoms, name: str) -> Value:
        """A parameter of theta, or its known value float64[1, 1]."""
        return atoms[name] if name in atoms else np.full((1, 1), self.known[name])

    def sum_at(self, atoms: Atoms, key: str, features: Mapping[str, FloatArray]) -> Value:
        """One of `sums`, at the rows."""
        if key in atoms:
            return atoms[key]
        total: Value = np.zeros((1, 1))
        for name, feature in self.sums[key]:
            total = total + self.at(atoms, name) * features[feature]
        return total


def _formula(atoms: Atoms, rows: Rows, form: Form, law: _Law) -> Value:
    del form
    assert isinstance(rows, RepeatRows)
    base, features = law.base, rows.features()
    terms = {name: law.at(atoms, name) for name in base.names if name not in law.inner.values()}
    terms |= {key: law.sum_at(atoms, key, features) for key in law.sums}
    if base.has_batch or law.kind in ("data_decay", "decay"):
        terms["beta"] = law.at(atoms, law.inner["beta"])
    if law.shrinks:
        terms["N"] = _decayed_size(terms, atoms, rows, law)
    if law.kind in ("data_decay", "decay"):
        terms["D"] = terms["U"] - terms["beta"] * _log_worth(law.at(atoms, "R_D"), rows.R)
    log_L = base.formula(terms, rows, base)
    if law.kind == "penalty":
        log_L = log_sum_exp(log_L, terms["penalty"] + rows.silent)
    return log_L + law.at(atoms, "offset") * rows.shift if law.offset else log_L


def _decayed_size(terms: Mapping[str, Value], atoms: Atoms, rows: RepeatRows, law: _Law) -> Value:
    """Ln of A N'^-alpha."""
    alpha = law.at(atoms, law.inner["alpha"])
    excess = _alpha_excess(terms, atoms, rows, law)
    repeats = exp(minimum(excess * exp(-log(alpha)), _FURTHEST)) - 1.0
    return terms["N"] + excess - alpha * _log_worth(law.at(atoms, "R_N"), repeats)


def _alpha_excess(terms: Mapping[str, Value], atoms: Atoms, rows: RepeatRows, law: _Law) -> Value:
    """Alpha ln(N / U_N) >= 0: how far the model is above the best size for its unique tokens.

    **Source:** Hoffmann et al. 2022, eq. 4: alpha A N^-alpha = beta B U^-beta at N_opt(U).
    """
    alpha, beta = law.at(atoms, law.inner["alpha"]), law.at(atoms, law.inner["beta"])
    unique = terms["U"] + log(beta) - log(alpha)
    if law.base.has_batch:
        unique = unique + beta * softplus(rows.z - terms["B_c"])
    return -minimum(terms["N"] - unique, 0.0)


def excess_size(base: Form, theta: Mapping[str, float], rows: RepeatRows) -> FloatArray:
    """ln(N / U_N) of rows under a base law given as theta by name, float64[n]."""
    law = _Law("size_decay", base, dict(theta), False)
    terms = {key: law.sum_at({}, key, rows.features()) for key in ("N", "U")}
    terms |= {name: law.at({}, name) for name in base.names}
    excess = value_of(_alpha_excess(terms, {}, rows, law)) / theta[law.inner["alpha"]]
    return np.asarray(np.broadcast_to(excess, (1, len(rows.x)))[0])


def _log_worth(log_limit: Value, repeats: Value) -> Value:
    """ln(1 + R* (1 - e^(-R/R*))): what 1 + R parts are worth, at most 1 + R*."""
    rise = exp(log_limit) * _one_less_exp(repeats * exp(-log_limit))
    return log(1.0 + rise)


def _one_less_exp(x: Value) -> Value:
    """1 - e^-x without loss of digits near zero."""
    value: FloatArray = -np.expm1(-value_of(x))
    if not isinstance(x, Jet):
        return value
    slope = np.exp(-x.value)
    return x.chained(value, slope, -slope)
