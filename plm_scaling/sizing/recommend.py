"""What to train with a budget: size, tokens, epochs, shape and bill, with every doubt said. No torch, no scipy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast, get_args

from plm_scaling.core.errors import ConfigError, RefusedError, did_you_mean
from plm_scaling.core.recipe import batch_tokens_for, default_recipe, peak_lr_for
from plm_scaling.core.run import Objective
from plm_scaling.core.units import total_parameters
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.laws.zoo import PublishedLaw, load_zoo
from plm_scaling.sizing.answers import (
    REFUSE_DECADES,
    SizingLaw,
    answer_of,
    decades_outside,
    laws_of_fit,
    published_sizing_law,
)
from plm_scaling.sizing.costs import (
    ATTENDED_TOKENS,
    Bill,
    Budget,
    Gpu,
    Hardware,
    Throughput,
    bill_for,
    compute_of,
    gpu_named,
    load_hardware,
    throughput_for,
)
from plm_scaling.sizing.findings import (
    Findings,
    data_findings,
    law_findings,
    machine_findings,
    money_findings,
    recipe_findings,
)
from plm_scaling.sizing.recommendation import LawAnswer, Recommendation
from plm_scaling.sizing.shapes import Shape, nearest_shape
from plm_scaling.sizing.unique_data import (
    MAX_EPOCHS,
    Spend,
    alternatives_for,
    effective_tokens_of,
)

__all__ = ["Budget", "recommend"]

_BYTES_PER_PARAMETER: Final = 16.0
"""AdamW in mixed precision. **Source:** Rajbhandari et al. 2020 (ZeRO), section 3.1."""


@dataclass(frozen=True)
class _Machine:
    """The accelerator, its price and its speed, as functions of the model's size."""

    gpu: Gpu
    hardware: Hardware
    mfu: float | None
    usd_per_gpu_hour: float | None
    attended_tokens: float

    def throughput(self, N: float) -> Throughput:
        return throughput_for(N, self.gpu, self.hardware, mfu=self.mfu, attended_tokens=self.attended_tokens)

    def speed(self, N: float) -> float:
        return self.throughput(N).flops_6nd_per_s

    def bill(self, gpu_hours: float) -> Bill:
        return bill_for(gpu_hours, self.gpu, self.hardware, usd_per_gpu_hour=self.usd_per_gpu_hour)

    def cost_of(self, N: float, D: float) -> tuple[float, float]:
        hours = 6.0 * N * D / self.speed(N) / 3600.0
        return hours, self.bill(hours).usd_mid

    def exact_hours(self, flops: float) -> float:
        return flops / (self.gpu.peak_tflops * 1e12 * (self.mfu or self.gpu.mfu)) / 3600.0

    def compute_and_hours(self, budget: Budget, law: SizingLaw) -> tuple[float, float]:
        """6 N D FLOPs and accelerator hours of a budget."""
        if budget.flops is not None:
            return budget.flops, budget.flops / self.speed(law.optimum(budget.flops)) / 3600.0
        hours = budget.gpu_hours
        if hours is None:
            hours = cast(float, budget.usd) / self.bill(1.0).usd_mid
        return compute_of(hours, law.optimum, self.speed), hours


@dataclass(frozen=True)
class _Asked:
    objective: Objective
    budget: Budget
    machine: _Machine
    gpu_key: str
    n_gpus: int
    unique_tokens: float | None
    max_epochs: float


def recommend(
    budget: Budget,
    objective: str,
    *,
    gpu: str = "a100",
    n_gpus: int = 1,
    unique_tokens: float | None = None,
    laws: Sequence[PublishedLaw | LawFit] | None = None,
    max_epochs: float = MAX_EPOCHS,
    force: bool = False,
    hardware: Hardware | None = None,
    mfu: float | None = None,
    usd_per_gpu_hour: float | None = None,
    attended_tokens: float = ATTENDED_TOKENS,
) -> Recommendation:
    """The model to train with a budget: N with its band, D, epochs, shape, bill, and what speaks against it.

    N comes from the first law (by default the published isoFLOP frontier of the objective), D = C / (6 N).

    Parameters
    ----------
    budget : accelerator hours, US dollars (at the mid price) or 6 N D FLOPs.
    objective : clm or mlm.
    n_gpus : accelerators used at a time; communication is not charged beyond the MFU.
    unique_tokens : distinct training tokens at hand; None leaves epochs out.
    laws : published laws or fits of one's own; the first gives N, the others of this objective widen the band.
    max_epochs : epochs after which the unique tokens count as exhausted.
    force : answer even more than 1.5 decades of compute outside the first law's range.
    mfu : measured utilisation on your machine; None takes the hardware file's, lowered at narrow widths.
    usd_per_gpu_hour : your own price instead of the hardware file's low, mid and high.
    attended_tokens : length-weighted mean document length of the packed windows, tokens.

    Raises
    ------
    ConfigError : unknown objective or accelerator, or a number out of bounds.
    RefusedError : the budget lies too far outside the range of the first law (unless `force`).

    **Source:** Cheng et al. 2024, isoFLOP figure, for the default laws; Hoffmann et al. 2022, section 3.
    """
    wanted = _checked_objective(objective)
    _check_numbers(n_gpus=n_gpus, unique_tokens=unique_tokens, max_epochs=max_epochs, mfu=mfu, price=usd_per_gpu_hour)
    hardware = hardware or load_hardware()
    machine = _Machine(gpu_named(gpu, hardware), hardware, mfu, usd_per_gpu_hour, attended_tokens)
    counted, comparison = _laws_for(wanted, laws, unique_tokens)
    primary = counted[0]
    C, hours = machine.compute_and_hours(budget, primary)
    _refuse_far(primary, C, force)
    answers = _answers(counted, comparison, C)
    asked = _Asked(wanted, budget, machine, gpu.strip().lower(), n_gpus, unique_tokens, max_epochs)
    return _assemble(asked, primary, answers, C, hours)


def _checked_objective(objective: str) -> Objective:
    allowed = get_args(Objective)
    if objective not in allowed:
        raise ConfigError(f"unknown objective {objective!r}", hint=did_you_mean(objective, allowed))
    return cast(Objective, objective)


def _check_numbers(
    *, n_gpus: int, unique_tokens: float | None, max_epochs: float, mfu: float | None, price: float | None
) -> None:
    named = {
        "n_gpus": n_gpus,
        "unique_tokens": unique_tokens,
        "max_epochs": max_epochs,
        "mfu": mfu,
        "usd_per_gpu_hour": price,
    }
    for name, value in named.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name} must be a positive number", why=f"got {value!r}")
    if mfu is not None and mfu > 1:
        raise ConfigError("mfu is a share of the peak, at most 1", why=f"got {mfu!r}", hint="40 % is 0.4")
    if max_epochs < 1:
        raise ConfigError("max_epochs must be at least 1", why=f"got {max_epochs!r}")


def _laws_for(
    objective: Objective, laws: Sequence[PublishedLaw | LawFit] | None, unique_tokens: float | None
) -> tuple[tuple[SizingLaw, ...], tuple[SizingLaw, ...]]:
    """Laws that count (the first gives N), and laws shown for comparison."""
    zoo = load_zoo()
    text = [law for law in zoo if law.objective == "text" and law.default]
    own = [law for law in zoo if law.objective == objective]
    if laws is None:
        first = sorted(own, key=lambda law: not law.default)
        return (
            tuple(published_sizing_law(law) for law in first),
            tuple(published_sizing_law(law, unique_tokens) for law in text),
        )
    if not laws:
        raise ConfigError("no law to answer from", hint="leave laws out to use the published ones")
    counted: list[SizingLaw] = []
    for law in laws:
        if law.objective not in (objective, "text"):
            what = law.id if isinstance(law, PublishedLaw) else "this fit"
            raise ConfigError(f"{what} is a law of {law.objective.upper()}, not of {objective.upper()}")
        counted += [published_sizing_law(law, unique_tokens)] if isinstance(law, PublishedLaw) else laws_of_fit(law)
    named = {law.law_id for law in counted}
    others = [law for law in (*own, *text) if law.default and law.id not in named]
    return tuple(counted), tuple(published_sizing_law(law, unique_tokens) for law in others)


def _refuse_far(law: SizingLaw, C: float, force: bool) -> None:
    decades = decades_outside(C, law.range_C)
    if decades <= REFUSE_DECADES or force or law.range_C is None:
        return
    side = "above" if law.range_C[1] < C else "below"
    edge = law.range_C[1] if side == "above" else law.range_C[0]
    raise RefusedError(
        f"{C:.2e} FLOPs is {decades:.1f} decades {side} the runs behind {law.law_id} "
        f"({law.range_C[0]:.0e} to {law.range_C[1]:.0e})",
        why=f"beyond {REFUSE_DECADES} decades N can be wrong by more than its band says",
        hint=f"a budget nearer {edge:.0e} FLOPs, a law fitted nearer to your budget, or force the answer (--force)",
    )


def _answers(counted: Sequence[SizingLaw], comparison: Sequence[SizingLaw], C: float) -> tuple[LawAnswer, ...]:
    answers = [answer_of(counted[0], C, "primary")]
    for law in counted[1:]:
        far = decades_outside(C, law.range_C) > REFUSE_DECADES
        answers.append(answer_of(law, C, "comparison" if far else "counted"))
    answers += [answer_of(law, C, "comparison") for law in comparison]
    return tuple(answers)


def _findings(asked: _Asked, shape: Shape, answers: tuple[LawAnswer, ...], C: float, hours: float) -> Findings:
    """All doubts, the law's first."""
    machine, primary = asked.machine, answers[0]
    parts = (
        law_findings(answers, shape),
        data_findings(asked.objective, primary.N, primary.D, asked.unique_tokens, asked.max_epochs),
        recipe_findings(default_recipe(shape.N), primary.D),
        money_findings(asked.budget, machine.gpu, machine.usd_per_gpu_hour),
        machine_findings(
            machine.gpu,
            machine.hardware,
            machine.throughput(primary.N),
            N=primary.N,
            state_gb=_state_gb(shape),
            hours=hours,
            n_gpus=asked.n_gpus,
        ),
    )
    return tuple(f for flags, _ in parts for f in flags), tuple(w for _, warnings in parts for w in warnings)


def _state_gb(shape: Shape) -> float:
    return _BYTES_PER_PARAMETER * total_parameters(shape.n_layers, shape.d_model) / 1e9


def _assemble(asked: _Asked, law: SizingLaw, answers: tuple[LawAnswer, ...], C: float, hours: float) -> Recommendation:
    machine, unique = asked.machine, asked.unique_tokens
    N, D = answers[0].N, answers[0].D
    low, high, disagreement = _band(answers)
    shape = nearest_shape(N)
    D_built = C / (6.0 * shape.N)
    recipe = default_recipe(shape.N)
    batch = batch_tokens_for(shape.N, D_built, recipe)
    throughput, bill = machine.throughput(N), machine.bill(hours)
    flags, warnings = _findings(asked, shape, answers, C, hours)
    spend = Spend(asked.objective, N, high, D, C, machine.gpu.name, machine.cost_of, machine.exact_hours, law.range_C)
    return Recommendation(
        objective=asked.objective,
        C=C,
        gpu=asked.gpu_key,
        gpu_hours=hours,
        usd=bill.usd_mid,
        usd_low=bill.usd_low,
        usd_high=bill.usd_high,
        energy_kwh=bill.energy_kwh,
        N=N,
        N_low=low,
        N_high=high,
        D=D,
        unique_tokens=unique,
        epochs=None if unique is None else D / unique,
        effective_tokens=None if unique is None else effective_tokens_of(D, unique),
        tokens_per_parameter=D / N,
        n_layers=shape.n_layers,
        d_model=shape.d_model,
        n_heads=shape.n_heads,
        N_built=float(shape.N),
        D_built=D_built,
        hours_per_gpu=hours / asked.n_gpus,
        wall_hours=hours / asked.n_gpus,
        n_gpus=asked.n_gpus,
        mfu=throughput.mfu,
        C_exact=C * throughput.exact_over_6nd,
        recipe=recipe,
        peak_lr=peak_lr_for(shape.N, batch, recipe),
        batch_tokens=batch,
        n_steps=max(1, round(D_built / batch)),
        state_gb=_state_gb(shape),
        answers=answers,
        disagreement_decades=disagreement,
        flags=flags,
        warnings=warnings,
        alternatives=alternatives_for(spend, law.optimum, unique, asked.max_epochs),
    )


def _band(answers: Sequence[LawAnswer]) -> tuple[float, float, float]:
    """Band of N (the primary's own, widened by the sizes other counted laws name) and their spread in decades."""
    primary = answers[0]
    sizes = [answer.N for answer in answers if answer.role != "comparison"]
    low = min(primary.N_low or primary.N, *sizes) if len(sizes) > 1 else (primary.N_low or primary.N)
    high = max(primary.N_high or primary.N, *sizes) if len(sizes) > 1 else (primary.N_high or primary.N)
    return low, high, math.log10(max(sizes) / min(sizes))
