"""What a user's own sequences can be used for: to fine-tune a public model, to train on alone, or as part of a corpus.

Losses on them are on a validation set of their own and compare with no other loss: a group of its own.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import RefusedError
from plm_scaling.core.model_sizes import MODEL_SIZES
from plm_scaling.core.objective import Objective
from plm_scaling.core.units import format_count, format_usd
from plm_scaling.laws.interval import Interval, normal_strata
from plm_scaling.sizing.action import Action
from plm_scaling.sizing.action_parts import Candidate, Situation, law_coefficients
from plm_scaling.sizing.adaptation import (
    EPOCH_CHOICES,
    LORA_RANK,
    Adaptation,
    BalancedSizes,
    adaptation_of,
    balanced_sizes,
    transferred_tokens,
)
from plm_scaling.sizing.answers import VALLEY_NATS
from plm_scaling.sizing.chosen_laws import ensemble_sizing_law
from plm_scaling.sizing.null_actions import public_model, training_tokens
from plm_scaling.sizing.own_sequences import AdaptationMethod, AdaptedRun, OwnSequences, own_group
from plm_scaling.sizing.spending import quantile_interval, run_interval
from plm_scaling.sizing.trained_models import TrainedModel
from plm_scaling.sizing.unique_data import MAX_EPOCHS, effective_tokens_of

__all__ = ["ADAPTED", "adaptation_actions"]

FloatArray = npt.NDArray[np.float64]

ADAPTED: Final[dict[Objective, tuple[str, ...]]] = {
    "mlm": ("esm2-35m", "esm2-150m", "esm2-650m"),
    "clm": ("progen2-small", "progen2-medium", "progen2-large"),
}
"""Three sizes of one public family: what pilots and a fine-tuning start from."""
_LOW_DATA: Final = 0.1
"""Share of the tokens a size wants up to which the law of D_T was seen to hold. **Source:** Hernandez et al. 2021."""
_WHOLE: Final = 0.5
_HOPELESS: Final = 0.1
_STRATA: Final = 64
_METHODS: Final[dict[AdaptationMethod, str]] = {
    "as is": "use {} as it is",
    "full": "fine-tune {}, all weights",
    "lora": "fine-tune {}, low-rank additions",
    "scratch": "train the shape of {} from scratch",
}
_OTHERS: Final[dict[Objective, str]] = {"mlm": "text to code, CLM to MLM", "clm": "text to code"}
_OTHER_SET: Final = "its loss is on a validation set of your own sequences and compares with no other loss here"


def adaptation_actions(situation: Situation, scratch: Action) -> list[Candidate]:
    """Fine-tuning public models, training on one's own sequences alone, adding them to the corpus of `scratch`.

    Where runs were measured on the user's own validation set their losses rank them among themselves; no published law
    predicts a loss there.
    """
    own = situation.own
    if own is None:
        return []
    try:
        sizes = balanced_sizes(ensemble_sizing_law(situation.spending.ensemble, "the laws"))
    except RefusedError:
        sizes = BalancedSizes(np.empty(0), np.empty(0))
    measured = _latest(own.runs_of(situation.objective))
    asked: dict[tuple[str, AdaptationMethod], None] = {(name, "full"): None for name in ADAPTED[situation.objective]}
    asked[ADAPTED[situation.objective][-1], "lora"] = None
    asked |= dict.fromkeys(measured)
    made = [
        _adapted(situation, own, public_model(name, situation.objective), method, sizes, measured.get((name, method)))
        for name, method in asked
    ]
    return [*made, _alone(situation, own, sizes), *_added(situation, own, scratch)]


def _latest(runs: tuple[AdaptedRun, ...]) -> dict[tuple[str, AdaptationMethod], AdaptedRun]:
    """The measurement on the most tokens, by model and method."""
    return {(run.model, run.method): run for run in sorted(runs, key=lambda run: run.tokens)}


def _adapted(
    situation: Situation,
    own: OwnSequences,
    model: TrainedModel,
    method: AdaptationMethod,
    sizes: BalancedSizes,
    run: AdaptedRun | None,
) -> Candidate:
    title = _METHODS[method].format(model.name)
    trained = method != "as is"
    known = model.size in MODEL_SIZES
    bill = adaptation_of(model, method, own, own.tokens, MAX_EPOCHS) if known and trained else None
    transferred, coefficients = transferred_tokens(model, situation.objective, own.tokens)
    wanted = sizes.tokens_for(model.N)
    pretrained = method in ("full", "lora")
    said = [_OTHER_SET]
    if pretrained:
        said += [_worth(own, transferred, situation.objective, wanted), *_prices(own, model, method, bill)]
    elif method == "scratch" and wanted is not None:
        said.append(f"its size wants {format_count(wanted, 2)} tokens, you hold {format_count(own.tokens, 2)}")
    losses = None if run is None else _measured(situation, run, len(own.runs), own.runs.index(run))
    dear = bill is not None and bill.usd > situation.spending.usd
    ruled_out = "its loss on your own sequences was not measured: see the pilots" if run is None else ""
    action = Action(
        key="own_scratch" if method == "scratch" else "adapt",
        name=f"{'own_scratch' if method == 'scratch' else f'adapt {method}'} {model.name}",
        title=title + (f", {MAX_EPOCHS:g} epochs of your {format_count(own.tokens, 2)} tokens" if trained else ""),
        objective=situation.objective,
        group=own_group(situation.objective),
        N=model.N,
        D=own.tokens * MAX_EPOCHS if trained else None,
        unique_tokens=own.tokens if trained else None,
        epochs=MAX_EPOCHS if trained else None,
        C=6.0 * model.N * own.tokens * MAX_EPOCHS if trained else 0.0,
        gpu_hours=bill.gpu_hours if bill else 0.0,
        usd=bill.usd if bill else 0.0,
        loss=None if run is None or losses is None else quantile_interval(losses, np.ones(1), run.loss),
        transferred=transferred if pretrained else None,
        wanted_tokens=wanted,
        ruled_out="it costs more than the budget" if dear else ruled_out,
        assumptions=tuple(said),
        coefficients=(training_tokens(model), *(coefficients if pretrained else ())),
        flags=_doubts(own, model, method, transferred, wanted, run),
    )
    return Candidate(action, losses)


def _worth(own: OwnSequences, transferred: Interval, objective: Objective, wanted: float | None) -> str:
    low, high = (format_count(one, 2) for one in (transferred.low, transferred.high))
    text = (
        f"pre-training stands for {low} to {high} more tokens of your own (D_T = k D_F^a N^b, by laws of other "
        f"transfers: {_OTHERS[objective]}; a residue counted as a character; unverified for one family of proteins)"
    )
    if wanted is None:
        return text
    shares = [(own.tokens + one) / wanted for one in (transferred.low, transferred.high)]
    return (
        f"{text}; with your {format_count(own.tokens, 2)} that is {100 * shares[0]:.2g} to {100 * shares[1]:.2g} % of "
        f"the {format_count(wanted, 2)} tokens its size wants from scratch, alone they are "
        f"{100 * own.tokens / wanted:.2g} %"
    )


def _prices(own: OwnSequences, model: TrainedModel, method: AdaptationMethod, bill: Adaptation | None) -> list[str]:
    if bill is None:
        return ["its layers and width are not known: not priced"]
    each = [adaptation_of(model, method, own, own.tokens, epochs) for epochs in EPOCH_CHOICES]
    prices = ", ".join(f"{one.epochs:g} {format_usd(one.usd)}" for one in each)
    said = [
        f"by epochs: {prices} ({each[0].flops:.3g} exact FLOPs an epoch, at {own.length:,.0f} tokens a sequence); "
        f"{bill.state_gb:.2g} GB of weights, gradients and moments"
    ]
    if method == "lora":
        full = adaptation_of(model, "full", own, own.tokens, MAX_EPOCHS)
        said.append(
            f"rank {LORA_RANK}: the arithmetic of all weights, since gradients go back through the frozen ones, but "
            f"{full.state_gb - bill.state_gb:.2g} GB less of state; kept apart from the weights, additions save up to "
            "a third of the arithmetic"
        )
    return said


def _measured(situation: Situation, run: AdaptedRun, count: int, at: int) -> FloatArray:
    """A measured loss as another run of the same would have it, float64[1, S]; runs are independent."""
    z = np.random.default_rng((count, at)).permutation(normal_strata(_STRATA))
    return np.asarray(run.loss * np.exp(situation.spending.laws.noise_sd * z))[None]


def _doubts(
    own: OwnSequences,
    model: TrainedModel,
    method: AdaptationMethod,
    transferred: Interval,
    wanted: float | None,
    run: AdaptedRun | None,
) -> tuple[str, ...]:
    flags = ["TOKENS_UNVERIFIED"] if model.status == "unverified" else []
    if method in ("full", "lora"):
        flags += ["UNVERIFIED", "TRANSFER_BY_ANALOGY"]
        flags += ["BEYOND_LOW_DATA"] if wanted is not None and own.tokens > _LOW_DATA * wanted else []
        flags += ["OSSIFICATION_POSSIBLE"] if own.tokens > transferred.low else []
    if run is not None and method != "as is" and run.tokens < _WHOLE * own.tokens:
        flags.append("MEASURED_ON_A_SHARE")
    return tuple(flags)


def _alone(situation: Situation, own: OwnSequences, sizes: BalancedSizes) -> Candidate:
    """From scratch on one's own sequences alone: the size that so many tokens can feed."""
    D = own.tokens * MAX_EPOCHS
    worth = effective_tokens_of(D, own.tokens)
    N = sizes.size_for(worth)
    small = public_model(ADAPTED[situation.objective][0])
    price = situation.spending.price
    held, passes = format_count(own.tokens, 2), f"{MAX_EPOCHS:g} epochs"
    if N is None:
        why = f"{passes} of {held} tokens feed no size that the laws of this objective know"
    else:
        why = f"{passes} of {held} tokens feed {format_count(N, 2)} parameters by the laws of public sequences"
        if small.N > N:
            why += f", 1/{format_count(small.N / N, 2)} of {small.name}" + (
                ": hopeless" if N < _HOPELESS * small.N else ""
            )
        else:
            why += ", and no law predicts its loss on your own sequences"
    said = [_OTHER_SET, f"repeats are worth what they are in text: {format_count(worth, 2)} fresh tokens"]
    for name in ADAPTED[situation.objective]:
        model = public_model(name, situation.objective)
        if (wanted := sizes.tokens_for(model.N)) is not None:
            said.append(
                f"{name} would want {format_count(wanted, 2)}, {format_count(wanted / own.tokens, 2)} times yours"
            )
    action = Action(
        key="own_scratch",
        name="own_scratch",
        title="train from scratch on your own sequences alone",
        objective=situation.objective,
        group=own_group(situation.objective),
        N=N,
        D=D,
        unique_tokens=own.tokens,
        epochs=MAX_EPOCHS,
        C=0.0 if N is None else 6.0 * N * D,
        gpu_hours=0.0 if N is None else D * float(price.hours(N)),
        usd=0.0 if N is None else D * float(price.usd(N)),
        wanted_tokens=worth,
        ruled_out=why,
        assumptions=tuple(said),
        coefficients=law_coefficients(situation),
        flags=("FAR_OUTSIDE_RANGE",) if _far(situation, N, worth) else (),
    )
    return Candidate(action)


def _far(situation: Situation, N: float | None, D: float) -> bool:
    range_C = situation.spending.ensemble.range_C
    return N is None or (range_C is not None and not 0.1 * range_C[0] <= 6.0 * N * D <= 10.0 * range_C[1])


def _added(situation: Situation, own: OwnSequences, scratch: Action) -> list[Candidate]:
    """The run from scratch with one's own sequences in its corpus: what they do to the loss on public sequences."""
    if scratch.N is None or scratch.D is None or scratch.loss is None:
        return []
    N, D, unique = scratch.N, scratch.D, situation.spending.unique_tokens
    laws = situation.spending.laws
    total = None if unique is None else unique + own.tokens
    share = own.tokens / (D if total is None else total)
    before, after = (laws.losses(N, D, held) for held in (unique, total))
    gain = max(float((laws.draw_weights @ (before - after)).item()), 0.0)
    value = scratch.loss.value - gain
    passes = 1.0 if total is None else D / total
    said = (
        f"{100 * min(share, 1.0):.2g} % of the distinct tokens, each visited {passes:.2g} times like every other",
        f"counted as new public tokens they lower the loss on public sequences by {_nats(gain)}, since one family is "
        "worth less than that",
        "says nothing of the loss on your own sequences, which a larger share of each batch would lower at the cost "
        "of the others",
    )
    action = scratch.model_copy(
        update={
            "key": "add_own",
            "name": "add_own",
            "title": f"add your {format_count(own.tokens, 2)} tokens to the corpus, then train from scratch",
            "unique_tokens": total,
            "epochs": None if total is None else passes,
            "loss": run_interval(laws, after, value, 6.0 * N * D),
            "assumptions": said,
            "ruled_out": "" if gain >= VALLEY_NATS else f"{_nats(gain)} on the public validation set: negligible",
        }
    )
    return [Candidate(action, after)]


def _nats(gain: float) -> str:
    return f"at most {gain:.2g} nats" if gain >= 1e-6 else "less than a millionth of a nat"
