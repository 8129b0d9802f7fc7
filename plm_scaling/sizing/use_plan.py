"""`UsePlan`: the model to train when its uses over its life are paid for too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.records import Record
from plm_scaling.core.units import format_count, format_usd
from plm_scaling.sizing.decision_wording import unseen_repeats
from plm_scaling.sizing.law_ensemble import LawEnsemble
from plm_scaling.sizing.lifetime import LifetimeChoice, LifetimePlan, lifetime_line, lifetime_optimum
from plm_scaling.sizing.serving import InferenceJob, ServingBill, inference_tokens, serving_bill
from plm_scaling.sizing.shapes import nearest_shape
from plm_scaling.sizing.unique_data import repeat_findings

__all__ = ["UsePlan", "plan_uses", "use_lines"]


class UsePlan(Record):
    """What a model of the budget's loss costs over its life, and the size at which that is least."""

    SCHEMA_VERSION: ClassVar[int] = 1

    objective: str
    C: float
    """Training FLOPs whose lowest expected loss is the target, 6 N D."""
    jobs: tuple[InferenceJob, ...]
    lifetime: LifetimePlan
    serving: ServingBill
    """Of the buildable model nearest to `lifetime.best`."""
    serving_trained_cheapest: ServingBill
    """Of the one that is cheapest to train to the same loss."""
    unique_tokens: float | None = None
    expected_loss: float | None = None
    """Of the one cheapest to train: mean over the draws, as `size` has it, nats per token; the target is the mean of
    the forms' estimates."""
    flags: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """About repeats; what else speaks against the budget `size` says."""


def plan_uses(
    ensemble: LawEnsemble,
    C: float,
    jobs: Sequence[InferenceJob],
    *,
    unique_tokens: float | None = None,
    gpu: str = "a100",
    mfu: float | None = None,
    usd_per_gpu_hour: float | None = None,
) -> UsePlan:
    """The cheapest model of the loss that C training FLOPs reach, its uses included.

    Raises
    ------
    ConfigError : unknown accelerator. RefusedError : no size reaches the loss.
    """
    plan = lifetime_optimum(ensemble, inference_tokens(jobs), C=C, unique_tokens=unique_tokens)

    def bill(N: float) -> ServingBill:
        shape = nearest_shape(N)
        model = ModelShape(n_layers=shape.n_layers, d_model=shape.d_model)
        return serving_bill(jobs, model, gpu=gpu, mfu=mfu, usd_per_gpu_hour=usd_per_gpu_hour)

    cheapest = plan.trained_cheapest
    losses = ensemble.losses(cheapest.N, cheapest.D, unique_tokens and min(unique_tokens, cheapest.D))[:, 0]
    flags, warnings = _repeats(ensemble.objective, plan, unique_tokens)
    return UsePlan(
        objective=ensemble.objective,
        C=C,
        jobs=tuple(jobs),
        lifetime=plan,
        serving=bill(plan.best.N),
        serving_trained_cheapest=bill(cheapest.N),
        unique_tokens=unique_tokens,
        expected_loss=float(ensemble.draw_weights @ losses),
        flags=(*plan.flags, *flags),
        warnings=warnings,
    )


def _repeats(
    objective: str, plan: LifetimePlan, unique_tokens: float | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Doubts about the epochs of the model that is best over its life: a small one trained for long has the most."""
    if unique_tokens is None:
        return (), ()
    N, D = plan.best.N, plan.best.D
    flags, said = repeat_findings("clm" if objective == "clm" else "mlm", N, D, unique_tokens)
    if unseen := unseen_repeats(D / unique_tokens):
        return (*flags, "REPEATS_UNSEEN"), (*said, unseen)
    return flags, said


def use_lines(plan: UsePlan) -> list[str]:
    """The plan for a terminal: the verdict, and what training and serving cost at either size."""
    lines = [lifetime_line(plan.lifetime), *_same_loss(plan), ""]
    for title, choice, bill in (
        ("least over its life", plan.lifetime.best, plan.serving),
        ("least to train", plan.lifetime.trained_cheapest, plan.serving_trained_cheapest),
    ):
        bound = ", waiting for memory" if bill.bandwidth_bound else ""
        lines.append(
            f"  {title:<20} N {format_count(choice.N)} on {format_count(choice.D)} tokens{_epochs(plan, choice)}, "
            f"training {choice.train_flops / plan.C:.2f} x the budget; serving {bill.flops_exact:.3g} FLOPs, "
            f"{_rounded(bill.gpu_hours)} {bill.gpu} hours{bound}, {format_usd(bill.usd_mid)} "
            f"({format_usd(bill.usd_low)} to {format_usd(bill.usd_high)}), {_rounded(bill.energy_kwh)} kWh, "
            f"{_rounded(bill.co2_kg)} kg CO2"
        )
    return lines


def _epochs(plan: UsePlan, choice: LifetimeChoice) -> str:
    return "" if plan.unique_tokens is None else f" ({format_count(choice.D / plan.unique_tokens, 2)} epochs)"


def _same_loss(plan: UsePlan) -> list[str]:
    """Why this loss is not the one that `size` states, in the third decimal."""
    if plan.expected_loss is None:
        return []
    return [
        f"  {plan.lifetime.target_loss:.4g} nats by the forms' estimates, which is what is held equal here; "
        f"{plan.expected_loss:.4g} as the mean over their draws, which `size` and `spend` state"
    ]


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
