"""What to train with a budget: size, tokens, epochs, shape and bill, with every doubt said. No torch, no scipy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, get_args

import numpy as np

from plm_scaling.core.errors import ConfigError, did_you_mean
from plm_scaling.core.memory_estimate import STATE_BYTES
from plm_scaling.core.objective import Objective
from plm_scaling.core.recipe import batch_tokens_for, default_recipe, peak_lr_for
from plm_scaling.core.units import total_parameters
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.laws.zoo import PublishedLaw
from plm_scaling.sizing.answers import REFUSE_DECADES, SizingLaw, answer_of, decades_outside
from plm_scaling.sizing.chosen_laws import ChosenLaws, choose_laws
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
from plm_scaling.sizing.decision import decide, refuse_far
from plm_scaling.sizing.decision_record import Decision
from plm_scaling.sizing.decision_search import FloatArray, Purse
from plm_scaling.sizing.decision_wording import difference_sentence, verdict_sentence
from plm_scaling.sizing.findings import (
    Findings,
    data_findings,
    law_findings,
    machine_findings,
    money_findings,
    recipe_findings,
)
from plm_scaling.sizing.loss_floor import floor_doubt
from plm_scaling.sizing.null_actions import TokensAt, null_actions
from plm_scaling.sizing.recommendation import LawAnswer, Recommendation
from plm_scaling.sizing.run_bill import RunBill, run_bill
from plm_scaling.sizing.shapes import HEAD_WIDTH, Shape, nearest_shape, size_of_width
from plm_scaling.sizing.training_price import training_price
from plm_scaling.sizing.unique_data import MAX_EPOCHS, effective_tokens_of

__all__ = ["Budget", "recommend"]


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

    def hours_of(self, budget: Budget) -> float | None:
        """Accelerator hours of a budget of hours or money; None for one of FLOPs."""
        if budget.flops is not None:
            return None
        return budget.gpu_hours if budget.gpu_hours is not None else cast(float, budget.usd) / self.bill(1.0).usd_mid

    def compute(self, budget: Budget, law: SizingLaw) -> float:
        """6 N D FLOPs of a budget when a law alone says which size they are spent on."""
        hours = self.hours_of(budget)
        return cast(float, budget.flops) if hours is None else compute_of(hours, law.optimum, self.speed)

    def purse(self, budget: Budget) -> Purse:
        """Tokens a budget pays for at every size: by 6 N D where it is FLOPs, by the true speed where it is hours."""
        hours = self.hours_of(budget)
        if hours is None:
            flops = cast(float, budget.flops)
            return lambda N: flops / (6.0 * N)

        return _HoursPurse(self, hours)

    def tokens_at(self, budget: Budget) -> TokensAt:
        """Tokens a budget pays for at a size, at the prices that `spend` reckons with."""
        if budget.flops is not None:
            flops = budget.flops
            return lambda N: flops / (6.0 * N)
        price, hourly = training_price(self.cost_of), self.bill(1.0).usd_mid
        usd = budget.usd if budget.usd is not None else cast(float, budget.gpu_hours) * hourly
        return lambda N: usd / float(price.usd(N))

    def bill_of(self, N: float, D: float, n_gpus: int) -> RunBill:
        return run_bill(
            N,
            D,
            gpu=self.gpu,
            n_gpus=n_gpus,
            hardware=self.hardware,
            mfu=self.mfu,
            usd_per_gpu_hour=self.usd_per_gpu_hour,
            attended_tokens=self.attended_tokens,
        )


@dataclass(frozen=True)
class _HoursPurse:
    """Tokens that hours pay for at every size, by the true speed there."""

    machine: _Machine
    hours: float

    def __call__(self, N: FloatArray) -> FloatArray:
        speed = np.array([self.machine.speed(float(n)) for n in N])
        return np.asarray(3600.0 * self.hours * speed / (6.0 * N))

    @property
    def kinks(self) -> tuple[float, ...]:
        """Sizes of the widths at which the utilisation bends, and the smallest whose speed is told apart."""
        if self.machine.mfu is not None:
            return (float(Shape(1, HEAD_WIDTH).N),)
        curve = self.machine.gpu.mfu_by_width or self.machine.hardware.mfu_by_width
        return (float(Shape(1, HEAD_WIDTH).N), *(size_of_width(width) for width in curve.widths))


@dataclass(frozen=True)
class _Asked:
    objective: Objective
    budget: Budget
    machine: _Machine
    gpu_key: str
    n_gpus: int
    unique_tokens: float | None
    max_epochs: float


@dataclass(frozen=True)
class _Plan:
    """What the laws say to train."""

    laws: ChosenLaws
    answers: tuple[LawAnswer, ...]
    decision: Decision | None
    C: float
    """6 N D FLOPs the budget pays for at N."""
    N: float
    D: float
    """Fewer tokens than C pays for where more would not help."""

    @property
    def spent(self) -> float:
        return 6.0 * self.N * self.D


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

    N has the least expected regret over the draws and forms of the first law, by default the fits of the released logs
    of the objective; where that law states a size but no loss, N is its size. D is what the budget pays for at N, or
    less where repeats would raise the loss.

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

    **Source:** Cheng et al. 2024, released logs, for the default laws; Hoffmann et al. 2022, section 3.
    """
    wanted = _checked_objective(objective)
    _check_numbers(n_gpus=n_gpus, unique_tokens=unique_tokens, max_epochs=max_epochs, mfu=mfu, price=usd_per_gpu_hour)
    hardware = hardware or load_hardware()
    machine = _Machine(gpu_named(gpu, hardware), hardware, mfu, usd_per_gpu_hour, attended_tokens)
    asked = _Asked(wanted, budget, machine, gpu.strip().lower(), n_gpus, unique_tokens, max_epochs)
    plan = _plan(asked, choose_laws(wanted, laws, unique_tokens))
    primary = plan.laws.counted[0]
    refuse_far(primary.law_id, primary.range_C, plan.spent, force)
    return _assemble(asked, plan)


def _plan(asked: _Asked, laws: ChosenLaws) -> _Plan:
    machine, primary = asked.machine, laws.counted[0]
    if laws.ensemble is None:
        C = machine.compute(asked.budget, primary)
        answers = _answers(laws, C)
        return _Plan(laws, answers, None, C, answers[0].N, answers[0].D)
    tokens = machine.purse(asked.budget)
    # A plan far outside the runs is refused under the name of the law that was asked for.
    made = decide(laws.ensemble, tokens, unique_tokens=asked.unique_tokens, force=True)
    answers = _answers(laws, made.C_budget)
    said = {"N": made.N, "D": made.D, "loss": made.loss}
    if "NO_DRAWS" not in laws.ensemble.flags:
        said |= {"N_low": made.N_quantiles[0], "N_high": made.N_quantiles[2]}
    return _Plan(laws, (answers[0].model_copy(update=said), *answers[1:]), made, made.C_budget, made.N, made.D)


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


def _answers(laws: ChosenLaws, C: float) -> tuple[LawAnswer, ...]:
    answers = [answer_of(laws.counted[0], C, "primary")]
    for law in laws.counted[1:]:
        far = decades_outside(C, law.range_C) > REFUSE_DECADES
        answers.append(answer_of(law, C, "comparison" if far else "counted"))
    answers += [answer_of(law, C, "comparison") for law in laws.comparison]
    return tuple(answers)


def _findings(asked: _Asked, shape: Shape, plan: _Plan, hours: float) -> Findings:
    """All doubts, the law's first."""
    machine = asked.machine
    parts = (
        law_findings(plan.answers, shape),
        _decision_findings(plan),
        data_findings(asked.objective, plan.N, plan.D, asked.unique_tokens, asked.max_epochs),
        recipe_findings(recipe := default_recipe(shape.N), plan.D, batch_tokens_for(shape.N, plan.D, recipe)),
        money_findings(asked.budget, machine.gpu, machine.usd_per_gpu_hour),
        machine_findings(
            machine.gpu,
            machine.hardware,
            machine.throughput(plan.N),
            N=plan.N,
            state_gb=_state_gb(shape),
            hours=hours,
            n_gpus=asked.n_gpus,
        ),
    )
    return tuple(f for flags, _ in parts for f in flags), tuple(w for _, warnings in parts for w in warnings)


def _decision_findings(plan: _Plan) -> Findings:
    """What the decision doubts beyond what the law itself says, and why the published frontier differs."""
    found: dict[str, str] = {}
    if plan.decision is not None:
        known = plan.answers[0].flags
        pairs = zip(plan.decision.flags, plan.decision.warnings, strict=True)
        found = {flag: sentence for flag, sentence in pairs if flag not in known}
        if plan.laws.ensemble is not None:
            found |= floor_doubt(plan.decision, plan.laws.ensemble)
    if why := _difference(plan):
        found["FRONTIER_DIFFERS"] = why
    return tuple(found), tuple(found.values())


def _difference(plan: _Plan) -> str:
    """Why the published frontier and the fits of the same logs differ, where one of them gives N."""
    laws = plan.laws
    if laws.frontier is None or not any(laws.counted[0] is law for law in (laws.frontier, laws.default)):
        return ""
    repeats = plan.decision is not None and (plan.decision.epochs or 0.0) > 1.0
    own = plan.N if laws.counted[0] is laws.default and not repeats else None
    return difference_sentence(laws.frontier, laws.default, plan.C, own, repeats=repeats)


def _validation_id(plan: _Plan) -> str | None:
    return plan.laws.ensemble.validation_id if plan.laws.ensemble else None


def _state_gb(shape: Shape) -> float:
    return STATE_BYTES * total_parameters(shape.n_layers, shape.d_model) / 1e9


def _assemble(asked: _Asked, plan: _Plan) -> Recommendation:
    machine, unique = asked.machine, asked.unique_tokens
    N, D = plan.N, plan.D
    low, high, disagreement = _band(plan)
    shape = nearest_shape(N)
    D_built = plan.spent / (6.0 * shape.N)
    recipe = default_recipe(shape.N)
    batch = batch_tokens_for(shape.N, D_built, recipe)
    hours, _ = machine.cost_of(N, D)
    throughput, bill = machine.throughput(N), machine.bill(hours)
    flags, warnings = _findings(asked, shape, plan, hours)
    return Recommendation(
        objective=asked.objective,
        C=plan.C,
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
        C_exact=plan.spent * throughput.exact_over_6nd,
        recipe=recipe,
        peak_lr=peak_lr_for(shape.N, batch, recipe),
        batch_tokens=batch,
        n_steps=max(1, round(D_built / batch)),
        state_gb=_state_gb(shape),
        answers=plan.answers,
        disagreement_decades=disagreement,
        flags=flags,
        warnings=warnings,
        actions=null_actions(asked.objective, machine.tokens_at(asked.budget), _validation_id(plan)),
        decision=plan.decision,
        verdict=verdict_sentence(plan.decision) if plan.decision else "",
        bill=machine.bill_of(N, D_built, asked.n_gpus),
        laws_sha256=plan.laws.sha256,
    )


def _band(plan: _Plan) -> tuple[float, float, float]:
    """Band of N (the decision's valley or the law's own, widened by other counted laws), and their spread in dex."""
    primary = plan.answers[0]
    sizes = [answer.N for answer in plan.answers if answer.role != "comparison"]
    band = plan.decision.N_band if plan.decision else (primary.N_low or primary.N, primary.N_high or primary.N)
    return min(band[0], *sizes), max(band[1], *sizes), math.log10(max(sizes) / min(sizes))
