"""`AdaptationPilots`: what to measure on one's own sequences before paying for more, its price, and what it settles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from plm_scaling.core.objective import Objective
from plm_scaling.core.records import Record
from plm_scaling.core.units import format_count, format_usd
from plm_scaling.sizing.action_parts import Situation
from plm_scaling.sizing.adaptation import Adaptation, adaptation_of
from plm_scaling.sizing.adaptation_actions import ADAPTED
from plm_scaling.sizing.null_actions import public_model
from plm_scaling.sizing.own_sequences import AdaptedRun, OwnSequences
from plm_scaling.sizing.trained_models import TrainedModel
from plm_scaling.sizing.unique_data import MAX_EPOCHS

__all__ = ["AdaptationPilots", "adaptation_pilots"]

_SHARES: Final = (0.01, 0.1, 1.0)
_SCRATCH: Final = (0.1, 1.0)
_SURE: Final = 2.0
"""Differences count from so many standard deviations of the noise of two runs."""


class AdaptationPilots(Record):
    """Runs on shares of one's own sequences, and what those that were made already say."""

    objective: Objective
    tokens: float
    """Distinct tokens of one's own."""
    runs: tuple[Adaptation, ...]
    gpu_hours: float
    usd: float
    noise: float
    """Least difference of ln L of two runs that is no noise."""
    design: tuple[str, ...]
    """What to run, and what would settle the question."""
    findings: tuple[str, ...] = ()
    """What the measured runs settle."""


def adaptation_pilots(situation: Situation) -> AdaptationPilots | None:
    """The pilots of a situation with sequences of its own, None without.

    Every model as it is, fine-tuned on 1, 10 and 100 % with all weights, the largest with low-rank additions too, and
    the same shapes from scratch on 10 and 100 %.

    **Source:** Hernandez et al. 2021, section 4.2: pre-training that ends worse than none is ossified, which runs from
    scratch on the same tokens tell.
    """
    own = situation.own
    if own is None:
        return None
    models = [public_model(name, situation.objective) for name in ADAPTED[situation.objective]]
    runs = [adaptation_of(model, "as is", own, own.tokens * _SHARES[1], 1.0) for model in models]
    runs += [adaptation_of(m, "full", own, share * own.tokens, MAX_EPOCHS) for m in models for share in _SHARES]
    runs += [adaptation_of(models[-1], "lora", own, share * own.tokens, MAX_EPOCHS) for share in _SHARES[1:]]
    runs += [adaptation_of(m, "scratch", own, share * own.tokens, MAX_EPOCHS) for m in models for share in _SCRATCH]
    usd, hours = math.fsum(run.usd for run in runs), math.fsum(run.gpu_hours for run in runs)
    noise = _SURE * math.sqrt(2.0) * situation.spending.ensemble.noise_sd
    return AdaptationPilots(
        objective=situation.objective,
        tokens=own.tokens,
        runs=tuple(runs),
        gpu_hours=hours,
        usd=usd,
        noise=noise,
        design=_design(models, own, noise, f"{len(runs)} runs, {hours:.2g} GPU-hours, {format_usd(usd)}"),
        findings=_findings(own, situation.objective, noise),
    )


def _design(models: Sequence[TrainedModel], own: OwnSequences, noise: float, bill: str) -> tuple[str, ...]:
    names, held = ", ".join(model.name for model in models), format_count(own.tokens, 2)
    return (
        f"pilots: {names} as they are, fine-tuned on 1, 10 and 100 % of your {held} tokens ({MAX_EPOCHS:g} epochs, all "
        f"weights; {models[-1].name} with low-rank additions too), the same shapes from scratch on 10 and 100 %: "
        f"{bill}; hold out whole clusters, positions or distances from the parent, never a random part",
        "ossified is a size whose fine-tuned loss ends above that of its shape from scratch by "
        f"{noise:.1%} or more (noise of two runs): its pre-training is in the way; within that it bought nothing; and "
        "a size that ends above a smaller one is not worth its price",
        "more sequences pay where 100 % ends below 10 % by as much; where even 10 % is no better than 1 %, on the loss "
        "or on labels, stop: the family is learnt",
    )


def _findings(own: OwnSequences, objective: Objective, noise: float) -> tuple[str, ...]:
    runs = own.runs_of(objective)
    names = sorted({run.model for run in runs}, key=lambda name: public_model(name).N)
    found = [sentence for name in names for sentence in _of_model(name, runs, noise)]
    return (*found, *_of_sizes(names, runs, noise))


def _of_model(name: str, runs: Sequence[AdaptedRun], noise: float) -> list[str]:
    """Ossified against scratch, and whether more sequences lower the loss."""
    said = []
    full = {run.tokens: run.loss for run in runs if run.model == name and run.method == "full"}
    alone = {run.tokens: run.loss for run in runs if run.model == name and run.method == "scratch"}
    if shared := sorted(set(full) & set(alone)):
        at = shared[-1]
        gain = math.log(alone[at] / full[at])
        verdict = (
            "pre-training helps" if gain >= noise else "ossified" if gain <= -noise else "pre-training buys nothing"
        )
        said.append(
            f"{name}: {verdict}: fine-tuned {full[at]:.3f}, from scratch {alone[at]:.3f} nats on "
            f"{format_count(at, 2)} tokens"
        )
    if len(full) > 1:
        *_, few, many = sorted(full)
        pays = math.log(full[few] / full[many]) >= noise
        said.append(
            f"{name}: {'more sequences pay' if pays else 'more sequences hardly pay'}: {full[few]:.3f} nats on "
            f"{format_count(few, 2)} tokens, {full[many]:.3f} on {format_count(many, 2)}"
        )
    return said


def _of_sizes(names: Sequence[str], runs: Sequence[AdaptedRun], noise: float) -> list[str]:
    """A larger model that ends above a smaller one on the same tokens."""
    full = {(run.model, run.tokens): run.loss for run in runs if run.method == "full"}
    said = []
    for k, small in enumerate(names):
        for large in names[k + 1 :]:
            shared = [tokens for model, tokens in full if model == small and (large, tokens) in full]
            if not shared:
                continue
            at = max(shared)
            if math.log(full[large, at] / full[small, at]) > noise:
                said.append(
                    f"{large} ends above {small} on {format_count(at, 2)} tokens ({full[large, at]:.3f} against "
                    f"{full[small, at]:.3f} nats): a larger model is worse here"
                )
    return said
