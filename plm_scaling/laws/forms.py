"""The forms of a law: formulas for ln L over parameters that enter through a few atoms linear in them. numpy only.

N parameters, D tokens, b tokens per batch, U unique tokens, C = 6 N D. Coefficients are centred, A = A0 N0^alpha and
B = B0 D0^beta with N0 and D0 the geometric means of the runs: A0 and B0 are what runs determine, A and B are not.
theta holds the logarithm of every positive amplitude, so that an atom such as ln A0 - alpha x with x = ln(N/N0) is
linear in theta and a formula is a few sums of exponentials. Shapes: B problems, n rows, p parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, did_you_mean
from plm_scaling.laws.jets import FloatArray, Value, exp, log, log_sum_exp, soft_minimum, softplus, value_of

__all__ = [
    "FORM_NAMES",
    "Atom",
    "FloatArray",
    "Form",
    "Parameter",
    "Rows",
    "find_form",
    "inner_terms",
    "log_loss",
    "paired_log_loss",
]

Atoms = Mapping[str, Value]


@dataclass(frozen=True)
class Rows:
    """What a formula sees of the runs: centred logs float64[n]."""

    x: FloatArray
    """ln(N / N0)."""
    y: FloatArray
    """ln(D / D0)."""
    z: FloatArray
    """ln of the batch in tokens; zeros where no form with a batch term is fitted."""
    u: FloatArray = field(default_factory=lambda: np.zeros(0))
    """ln(U / D0), unique tokens; empty where no law of repeats is fitted."""
    log_N0: float = 0.0
    log_D0: float = 0.0

    def features(self) -> dict[str, FloatArray]:
        """What atoms are linear in: powers and products of x and y, and the compute c = ln C over its centre."""
        x, y = self.x, self.y
        table = {"1": np.ones_like(x), "x": x, "y": y, "-x": -x, "-y": -y, "xx": x * x, "xy": x * y, "yy": y * y}
        table |= {"-2x": -2.0 * x, "-2y": -2.0 * y, "-c": -(x + y)}
        return table

    def take(self, keep: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Rows:
        """The rows at some positions (an index or mask array)."""
        u = self.u[keep] if self.u.size else self.u
        return Rows(self.x[keep], self.y[keep], self.z[keep], u, self.log_N0, self.log_D0)


@dataclass(frozen=True)
class Parameter:
    """A parameter of a form: how theta holds it, and the box it may move in.

    kind: `floor` and `amplitude` (theta = ln; nats), `exponent` (theta itself), `shape` (theta = ln of a number
    without unit), `batch` (theta = ln tokens), `plateau` (theta = ln nats), `linear` (theta itself, unbounded).
    """

    name: str
    kind: str
    unit: str = ""

    @property
    def is_log(self) -> bool:
        """Whether theta holds the logarithm."""
        return self.kind in ("floor", "amplitude", "shape", "batch", "plateau")


@dataclass(frozen=True)
class Atom:
    """sum_k theta[parameter_k] * feature_k: what a formula differentiates by."""

    name: str
    terms: tuple[tuple[str, str], ...]
    """(parameter, feature of `Rows.features`)."""


@dataclass(frozen=True)
class Form:
    """One form: its parameters, atoms and formula for ln L.

    `inner` names the four parameters (A, B, alpha, beta) of the sum A N^-alpha + B D^-beta that the loss rises with:
    they alone decide the optimum. None: the form has no such sum.
    """

    name: str
    equation: str
    parameters: tuple[Parameter, ...]
    atoms: tuple[Atom, ...]
    formula: Callable[[Atoms, Rows, Form], Value]
    source: str
    inner: tuple[str, str, str, str] | None = None
    has_batch: bool = False
    plateau: float | None = None
    """Upper bound L0 of the loss where it is given, nats."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in theta's order."""
        return tuple(parameter.name for parameter in self.parameters)

    def index(self, name: str) -> int:
        """Column of a parameter in theta."""
        return self.names.index(name)

    def natural(self, theta: FloatArray) -> FloatArray:
        """Theta float64[..., p] in the parameters' own units."""
        logs = np.array([parameter.is_log for parameter in self.parameters])
        return np.where(logs, np.exp(np.where(logs, theta, 0.0)), theta)

    def theta(self, natural: FloatArray) -> FloatArray:
        """The inverse of `natural`; an amplitude of zero is held at e^-690."""
        logs = np.array([parameter.is_log for parameter in self.parameters])
        return np.where(logs, np.log(np.maximum(np.where(logs, natural, 1.0), 1e-300)), natural)


def log_loss(form: Form, theta: FloatArray, rows: Rows) -> FloatArray:
    """Ln L float64[B, n] for theta float64[B, p]."""
    features = rows.features()
    atoms: dict[str, Value] = {}
    for atom in form.atoms:
        columns = [form.index(name) for name, _ in atom.terms]
        atoms[atom.name] = theta[:, columns] @ np.stack([features[feature] for _, feature in atom.terms])
    return np.broadcast_to(value_of(form.formula(atoms, rows, form)), (len(theta), len(rows.x)))


def paired_log_loss(form: Form, theta: FloatArray, rows: Rows) -> FloatArray:
    """Ln L float64[B] of theta float64[B, p], each at its own row."""
    features = rows.features()
    atoms: dict[str, Value] = {}
    for atom in form.atoms:
        atoms[atom.name] = sum(theta[:, form.index(name)] * features[feature] for name, feature in atom.terms)
    return np.asarray(value_of(form.formula(atoms, rows, form))).ravel()


def inner_terms(form: Form, theta: FloatArray) -> FloatArray | None:
    """(ln A0, ln B0, alpha, beta) of the sum that decides the optimum, float64[4, B]; None for a form without."""
    if form.inner is None:
        return None
    return np.stack([_inner(form, theta, name) for name in form.inner])


def _inner(form: Form, theta: FloatArray, name: str) -> FloatArray:
    if name == "1":
        return np.ones(len(theta))
    factor, _, plain = name.rpartition("*")
    return theta[:, form.index(plain)] * (float(factor) if factor else 1.0)


# --- formulas ------------------------------------------------------------------------------------------------------


def _terms(a: Atoms, rows: Rows, form: Form) -> tuple[Value, Value]:
    """Logs of A N^-alpha and B D_eff^-beta, D_eff = D / (1 + b / B_c) where the form has a batch term."""
    if not form.has_batch:
        return a["N"], a["D"]
    return a["N"], a["D"] + a["beta"] * softplus(rows.z - a["B_c"])


def _additive(a: Atoms, rows: Rows, form: Form) -> Value:
    return log_sum_exp(a["E"], *_terms(a, rows, form))


def _no_floor(a: Atoms, rows: Rows, form: Form) -> Value:
    return log_sum_exp(*_terms(a, rows, form))


def _gamma(a: Atoms, rows: Rows, form: Form) -> Value:
    return log_sum_exp(a["E"], exp(a["g"]) * log_sum_exp(*_terms(a, rows, form)))


def _kaplan(a: Atoms, rows: Rows, form: Form) -> Value:
    tokens = a["D"] - rows.y
    if form.has_batch:
        tokens = tokens + softplus(rows.z - a["B_c"])
    return exp(a["a_D"]) * log_sum_exp(a["N"], tokens)


def _bounded(a: Atoms, rows: Rows, form: Form) -> Value:
    """ln(E + h R / (h + R)); h R / (h + R) = 1 / (1/R + 1/h)."""
    log_R = log_sum_exp(*_terms(a, rows, form))
    plateau: Value = exp(a["L0"]) if form.plateau is None else np.full((1, 1), form.plateau)
    log_h = log(plateau - exp(a["E"]))
    if "k" in a:
        k = exp(a["k"])
        reducible = soft_minimum(k * log_R, k * log_h) * exp(-a["k"])
    else:
        reducible = soft_minimum(log_R, log_h)
    return log_sum_exp(a["E"], reducible)


def _linear(a: Atoms, rows: Rows, form: Form) -> Value:
    if not form.has_batch:
        return a["level"]
    return a["level"] + a["beta"] * softplus(rows.z - a["B_c"])


# --- the forms -----------------------------------------------------------------------------------------------------

_E = Parameter("E", "floor", "nats")
_A, _B = Parameter("A0", "amplitude", "nats"), Parameter("B0", "amplitude", "nats")
_ALPHA, _BETA = Parameter("alpha", "exponent"), Parameter("beta", "exponent")
_ATOM_E, _ATOM_N, _ATOM_D = (
    Atom("E", (("E", "1"),)),
    Atom("N", (("A0", "1"), ("alpha", "-x"))),
    Atom("D", (("B0", "1"), ("beta", "-y"))),
)
_SEPARABLE: Final = ("A0", "B0", "alpha", "beta")


def _forms() -> dict[str, Form]:
    linear = [Parameter(name, "linear") for name in ("l0", "lN", "lD", "lNN", "lND", "lDD")]
    made = [
        Form(
            "chinchilla",
            "L = E + A N^-alpha + B D^-beta",
            (_E, _A, _B, _ALPHA, _BETA),
            (_ATOM_E, _ATOM_N, _ATOM_D),
            _additive,
            "Hoffmann et al. 2022, eq. 2",
            _SEPARABLE,
        ),
        Form(
            "no_floor",
            "L = A N^-alpha + B D^-beta",
            (_A, _B, _ALPHA, _BETA),
            (_ATOM_N, _ATOM_D),
            _no_floor,
            "Hoffmann et al. 2022, eq. 2 with E = 0",
            _SEPARABLE,
        ),
        Form(
            "tied",
            "L = E + A N^-alpha + B D^-alpha",
            (_E, _A, _B, _ALPHA),
            (_ATOM_E, _ATOM_N, Atom("D", (("B0", "1"), ("alpha", "-y")))),
            _additive,
            "Muennighoff et al. 2023, section 5 (alpha = beta)",
            ("A0", "B0", "alpha", "alpha"),
        ),
        Form(
            "overtraining",
            "L = E + (a M^eta + b M^-eta) C^-eta, M = D/N",
            (_E, _A, _B, Parameter("eta", "exponent")),
            # M / C = 1 / (6 N^2) and 1 / (M C) = 1 / (6 D^2): the tied form in other words, its exponent 2 eta.
            (_ATOM_E, Atom("N", (("A0", "1"), ("eta", "-2x"))), Atom("D", (("B0", "1"), ("eta", "-2y")))),
            _additive,
            "Gadre et al. 2024, eq. 4",
            ("A0", "B0", "2*eta", "2*eta"),
        ),
        Form(
            "multiplicative",
            "L = K N^-alpha D^-beta",
            (Parameter("K0", "amplitude", "nats"), _ALPHA, _BETA),
            (Atom("level", (("K0", "1"), ("alpha", "-x"), ("beta", "-y"))),),
            _linear,
            "power law in N and D without a floor",
        ),
        Form(
            "log_quadratic",
            "ln L = quadratic in ln N and ln D",
            tuple(linear),
            (Atom("level", tuple(zip((p.name for p in linear), ("1", "x", "y", "xx", "xy", "yy"), strict=True))),),
            _linear,
            "second-order expansion of ln L",
        ),
        Form(
            "kaplan",
            "L = [(N_c/N)^(a_N/a_D) + D_c/D]^a_D",
            (
                Parameter("A0", "amplitude"),
                Parameter("B0", "amplitude"),
                Parameter("r", "exponent"),
                Parameter("a_D", "shape"),
            ),
            (
                Atom("N", (("A0", "1"), ("r", "-x"))),
                Atom("D", (("B0", "1"),)),
                Atom("a_D", (("a_D", "1"),)),
            ),
            _kaplan,
            "Kaplan et al. 2020, eq. 1.5; A0 = (N_c/N0)^r, B0 = D_c/D0, r = a_N/a_D",
            ("A0", "B0", "r", "1"),
        ),
        Form(
            "gamma",
            "L = E + (A N^-alpha + B D^-beta)^g",
            (_E, _A, _B, _ALPHA, _BETA, Parameter("g", "shape")),
            (_ATOM_E, _ATOM_N, _ATOM_D, Atom("g", (("g", "1"),))),
            _gamma,
            "Busbridge et al. 2025, supervised law",
            _SEPARABLE,
        ),
        Form(
            "bounded",
            "L = E + h R / (h + R), h = L0 - E, R = A N^-alpha + B D^-beta",
            (_E, _A, _B, _ALPHA, _BETA, Parameter("L0", "plateau", "nats")),
            (_ATOM_E, _ATOM_N, _ATOM_D, Atom("L0", (("L0", "1"),))),
            _bounded,
            "upper-bounded law: L0 is the loss of a model that knows residue frequencies only",
            _SEPARABLE,
        ),
        Form(
            "saturating",
            "L = E + h R / (h^k + R^k)^(1/k), h = L0 - E, R = A N^-alpha + B D^-beta",
            (_E, _A, _B, _ALPHA, _BETA, Parameter("L0", "plateau", "nats"), Parameter("k", "shape")),
            (_ATOM_E, _ATOM_N, _ATOM_D, Atom("L0", (("L0", "1"),)), Atom("k", (("k", "1"),))),
            _bounded,
            "the bounded law with a free exponent of saturation; k = 1 is the bounded law",
            _SEPARABLE,
        ),
    ]
    return {form.name: form for form in made}


_FORMS: Final = _forms()
FORM_NAMES: Final = tuple(_FORMS)
"""Names of the surfaces L(N, D); each but `log_quadratic` and `overtraining` also as NAME+batch."""
_NO_BATCH: Final = ("log_quadratic", "overtraining")


def find_form(name: str, plateau: float | None = None) -> Form:
    """A form by name, `+batch` appended for D_eff = D / (1 + b / B_c), the plateau L0 fixed where it is given.

    Raises
    ------
    ConfigError : no such form, a batch term where there is none, or a plateau for a form without one.

    **Source:** each form's own; the batch term after McCandlish et al. 2018, eq. 5.4 (examples needed at batch b).
    """
    plain, _, option = name.partition("+")
    if plain not in _FORMS or option not in ("", "batch") or (option and plain in _NO_BATCH):
        allowed = [*_FORMS, *(f"{known}+batch" for known in _FORMS if known not in _NO_BATCH)]
        raise ConfigError(f"no form is called {name!r}", hint=did_you_mean(name, allowed))
    form = _FORMS[plain]
    if option:
        form = _with_batch(form)
    if "L0" not in form.names:
        if plateau is not None:
            raise ConfigError(f"the form {name!r} has no plateau L0", hint="bounded and saturating have one")
        return form
    return form if plateau is None else _with_plateau(form, plateau)


def _with_batch(form: Form) -> Form:
    atoms = [*form.atoms, Atom("B_c", (("B_c", "1"),))]
    slope = dict(next((atom.terms for atom in form.atoms if atom.name == "D"), ()))
    exponent = next((name for name in slope if name in ("beta", "alpha")), "beta")
    if form.name != "kaplan":
        atoms.append(Atom("beta", ((exponent, "1"),)))
    return Form(
        f"{form.name}+batch",
        f"{form.equation}, D -> D / (1 + b/B_c)",
        (*form.parameters, Parameter("B_c", "batch", "tokens")),
        tuple(atoms),
        form.formula,
        form.source,
        form.inner,
        True,
        form.plateau,
    )


def _with_plateau(form: Form, plateau: float) -> Form:
    if not (math.isfinite(plateau) and plateau > 0):
        raise ConfigError(f"the plateau L0 must be a positive loss in nats, got {plateau!r}")
    return Form(
        form.name,
        form.equation,
        tuple(p for p in form.parameters if p.name != "L0"),
        tuple(atom for atom in form.atoms if atom.name != "L0"),
        form.formula,
        form.source,
        form.inner,
        form.has_batch,
        plateau,
    )
