"""`LawFit`: the laws of one objective as a value, with draws, intervals and named doubts."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from plm_scaling.core.objective import Objective
from plm_scaling.core.records import Record
from plm_scaling.laws.interval import Interval
from plm_scaling.laws.lr_corner import LrCorner
from plm_scaling.laws.repeat_fit import RepeatFit

__all__ = [
    "Fold",
    "FormScore",
    "FrontierFit",
    "Interval",
    "IsoflopFit",
    "IsoflopRow",
    "LawFit",
    "LrCorner",
    "Optimum",
    "Recipe",
    "Refusal",
    "SurfaceFit",
]


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
    curve: Literal["parabola", "cubic"] = "parabola"
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
    curve: Literal["parabola", "cubic"] = "parabola"
    rows: tuple[IsoflopRow, ...]
    a_N: Interval | None = None
    k_N: float | None = None
    a_D: Interval | None = None
    k_D: float | None = None
    flags: tuple[str, ...] = ()


class SurfaceFit(Record):
    """A form of L(N, D) fitted to runs by summed Huber loss on ln L.

    Parameters are centred: A0 = A / N0^alpha and B0 = B / D0^beta are what the data determine. Every parameter and
    every draw stands in its own unit (nats, tokens, or none for exponents).

    **Source:** Hoffmann et al. 2022, eq. 10; Besiroglu et al. 2024; the form's own in `plm_scaling.laws.forms`.
    """

    form: str = "chinchilla"
    """Name in `plm_scaling.laws.forms.FORM_NAMES`, with `+batch` where D counts as D / (1 + b/B_c)."""
    plateau: float | None = None
    """L0 of a bounded form where it was given and not fitted, nats."""
    N0: float
    D0: float
    parameters: dict[str, Interval]
    profiles: dict[str, Interval] = Field(default_factory=dict)
    """Profile-likelihood intervals of the parameters and of a_N."""
    draws: tuple[tuple[float, ...], ...] = ()
    """Bootstrap draws over runs, columns in the order of `parameters`."""
    covariance: tuple[tuple[float, ...], ...] = ()
    """Of the draws in the space of the fit: logarithms of amplitudes, exponents as they are."""
    huber_delta: float
    """Border of the quadratic zone in units of ln L; inf: least squares."""
    objective_value: float
    """Sum of Huber losses at the optimum."""
    gradient_norm: float | None = None
    """Largest absolute slope of the objective at the optimum, bounds aside."""
    starts: int
    starts_agreeing: float
    """Share of starts that end within 1e-3 relative of the best objective."""
    second_objective: float | None = None
    """Lowest objective of another optimum (a_N differs by more than 0.02), if any start ended in one."""
    rms_relative_error: float
    residual_sd: float | None = None
    """Robust standard deviation of ln L about the fit, corrected for the parameters."""
    a_N: Interval | None = None
    """Exponent of N_opt(C); None where the form has no interior optimum."""
    n_runs: int | None = None
    range_N: tuple[float, float]
    range_D: tuple[float, float]
    range_C_6nd: tuple[float, float] | None = None
    """Smallest and largest 6 N D of the runs, FLOPs."""
    batch_tokens: tuple[float, float] | None = None
    """Smallest and largest batch of the runs, tokens."""
    batch_typical: float | None = None
    """Median batch of the runs, tokens: what a prediction assumes where none is given."""
    influential: str = ""
    """Run whose removal moves a_N most, where that is more than its standard error."""
    flags: tuple[str, ...] = ()


class Fold(Record):
    """One step of the extrapolation test: fitted up to one compute, held against the runs of the next."""

    fitted_to_C: float
    tested_to_C: float
    n_fitted: int
    n_tested: int
    error: float
    """Mean absolute relative error of the predicted losses."""
    bias: float
    """Mean relative error: negative where losses are predicted too low."""
    coverage: float
    """Share of the losses inside the 90 % prediction interval."""


class FormScore(Record):
    """How one form did, in sample and on budgets it had not seen."""

    form: str
    plateau: float | None = None
    n_parameters: int
    objective_value: float
    rms_relative_error: float
    aic: float
    """Akaike's criterion with Laplace errors of ln L, relative to the best form."""
    leave_one_out: float | None = None
    """Mean absolute relative error of each run predicted without it."""
    extrapolation: float | None = None
    """Geometric mean over folds of their error; None where no fold could be fitted."""
    coverage: float | None = None
    weight: float = 0.0
    """Share in the ensemble."""
    folds: tuple[Fold, ...] = ()
    surface: SurfaceFit | None = None
    """The fit itself, for forms with a weight."""
    flags: tuple[str, ...] = ()


class Optimum(Record):
    """The compute-optimal run at one budget."""

    C: float
    """6 N D, FLOPs."""
    N: Interval
    D: Interval
    loss: Interval
    N_valley: tuple[float, float]
    """Sizes whose loss is within 0.2 % of the lowest."""
    N_by_form: tuple[float, float] | None = None
    """Smallest and largest N over the forms of the ensemble with a weight of at least 5 %."""
    loss_by_form: tuple[float, float] | None = None
    N_profile: Interval | None = None
    """Profile-likelihood interval of N; D's is C / (6 N)."""
    loss_profile: Interval | None = None
    flags: tuple[str, ...] = ()
    """OUT_OF_HULL, EXTRAPOLATED."""


class FrontierFit(Record):
    """L = E + A0 (C / C0)^-a: the loss of the best run at a budget. **Source:** Kaplan et al. 2020, eq. 1.3."""

    C0: float
    """Geometric mean of the computes, FLOPs."""
    E: Interval
    A0: Interval
    a: Interval
    asymptote_given: bool = False
    n_points: int
    range_C: tuple[float, float]
    rms_relative_error: float
    flags: tuple[str, ...] = ()


class Refusal(Record):
    """A quantity that was asked for and that these runs do not identify."""

    quantity: str
    code: str
    reason: str


class Recipe(Record):
    """What all runs of a law were trained by: the columns `plm_scaling.core.run_row.RECIPE`."""

    schedule: str
    architecture: str
    mask_ratio: float | None = None
    """Share of MLM targets; None for CLM."""
    regularisation: str = ""


class LawFit(Record):
    """What a table of runs says about one objective (`fit-clm.json`, `fit-mlm.json`)."""

    SCHEMA_VERSION: ClassVar[int] = 2
    # Both follow from the rows behind `data_hash`: a fit made before they were kept is the same law.
    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"corpus_id", "recipe"})

    objective: Objective
    currency: Literal["C_exact", "C_6nd"]
    n_runs: int
    validation_id: str | None = None
    corpus_id: str | None = None
    """Of the corpus that all runs were trained on; None where one of them does not say."""
    recipe: Recipe | None = None
    """None where one of the runs does not name its corpus, or of MLM its mask ratio."""
    noise_sd: float | None = None
    """Standard deviation of the loss between seeds at equal settings, nats; None without replicates."""
    isoflop: IsoflopFit | None = None
    isoflop_other_currency: IsoflopFit | None = None
    """The same rows with the optimum placed on the other compute currency."""
    surface: SurfaceFit | None = None
    """The form asked for, or the one chosen; None where it is refused."""
    chosen: Literal["asked for", "extrapolation", "default"] = "default"
    forms: tuple[FormScore, ...] = ()
    """Every form that was tried, best first; empty where one form was asked for."""
    disagreement: float | None = None
    """Factor between the smallest and the largest N_opt of the ensemble's forms a decade beyond the largest budget."""
    optima: tuple[Optimum, ...] = ()
    frontier: FrontierFit | None = None
    """L(C) through the isoFLOP minima, where there are at least four."""
    repeats: RepeatFit | None = None
    """The law of repeated data, where the table holds runs of several epochs."""
    lr_corners: tuple[LrCorner, ...] = ()
    """What the recipe's learning rate costs at the corners of the study, where it was probed."""
    range_C: tuple[float, float]
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = Field(default=())
    """A plain sentence for every flag."""
    refusals: tuple[Refusal, ...] = ()
    data_hash: str

    @classmethod
    def migrate(cls, data: dict[str, Any], version: int) -> dict[str, Any]:
        """Version 1 knew one form and reported a surface whatever it rested on; its fields kept their meaning."""
        del version
        return data
