"""Actions that stand on somebody else's model: continue its training, distil it, or use it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.objective import Objective
from plm_scaling.core.units import format_count
from plm_scaling.laws.zoo import find_law
from plm_scaling.laws.zoo_forms import two_powers
from plm_scaling.sizing.action import Action, ActionKey, Coefficient, PublicScore
from plm_scaling.sizing.action_parts import Candidate, Situation, group_of, law_coefficients
from plm_scaling.sizing.distilled import distil
from plm_scaling.sizing.null_actions import NULL_MODELS, public_model, reuse_action, training_tokens
from plm_scaling.sizing.spending import run_interval, search_ensemble
from plm_scaling.sizing.trained_models import TrainedModel, all_trained_models
from plm_scaling.sizing.unique_data import MAX_EPOCHS

__all__ = ["best_scored", "distilled_worth", "public_actions"]

FloatArray = npt.NDArray[np.float64]

_TOKENS: Final = np.geomspace(1e6, 1e17, 133)
_SPENT: Final = np.geomspace(1e-3, 1.0, 13)
_MOST_WORTH: Final = 100.0


def public_actions(situation: Situation, epochs: float | None, beside: Sequence[str] = ()) -> list[Candidate]:
    """Continue, distil and reuse.

    Parameters
    ----------
    epochs : those of the best run from scratch, None for unlimited tokens.
    beside : more public models to hold against, by name.
    """
    models = [public_model(name, situation.objective) for name in NULL_MODELS[situation.objective]]
    others = [public_model(name, situation.objective) for name in (*situation.public_losses, *beside)]
    models += [model for model in others if model not in models]
    reused = [_reuse(situation, model) for model in models]
    known = [model for model in models[1:] if model.name in situation.public_losses]
    continued = [_continue(situation, model) for model in (*models[:1], *known)]
    return [*continued, *_distil(situation, epochs), *reused]


def best_scored(scores: Sequence[PublicScore], objective: Objective, higher_is_better: bool = True) -> tuple[str, ...]:
    """The public model of an objective that scores best, none where no listed one has a score."""
    listed = {model.name for model in all_trained_models() if model.objective == objective}
    own = [score for score in scores if score.name in listed]
    sign = 1.0 if higher_is_better else -1.0
    return (max(own, key=lambda score: sign * score.value).name,) if own else ()


def _action(situation: Situation, key: ActionKey, model: TrainedModel, title: str, **fields: object) -> Action:
    facts = {
        "key": key,
        "name": f"{key} {model.name}",
        "title": title,
        "objective": situation.objective,
        "group": group_of(situation),
    }
    return Action.model_validate({**facts, **fields})


def _other_set(situation: Situation) -> tuple[str, ...]:
    """A loss that was stated beside laws of other people's runs may be of another validation set."""
    return () if situation.spending.ensemble.status == "own fit" else ("LOSS_OF_OTHER_SET",)


def _reuse(situation: Situation, model: TrainedModel) -> Candidate:
    """The null action."""
    spending, loss = situation.spending, situation.public_losses.get(model.name)
    action = reuse_action(
        model,
        situation.objective,
        lambda N: spending.usd / float(spending.price.usd(N)),
        validation_id=spending.ensemble.validation_id,
        loss=loss,
        flags=() if loss is None else _other_set(situation),
    )
    losses = None if loss is None else np.full((len(spending.laws.draw_weights), 1), loss)
    return Candidate(action, losses)


def _continue(situation: Situation, model: TrainedModel) -> Candidate:
    """More training of a public model on one's own tokens, as far as it pays.

    Its loss on the user's validation set stands for the tokens of the target from scratch that would lead there (D_T,
    by every draw); new tokens come on top. Where a law never gets that low at this size, they gain nothing.

    **Source:** L(N, D_new + D_T) of Hernandez et al. 2021, read off the loss before the first step.
    """
    spending, loss = situation.spending, situation.public_losses.get(model.name)
    per_token, hours = float(spending.price.usd(model.N)), float(spending.price.hours(model.N))
    title = f"continue {model.name} on your tokens"
    said = (
        "its loss before the first step is worth as many target tokens as a run from scratch would need to reach it",
        "the learning rate is warmed up again without losing what was learnt",
    )
    if loss is None:
        action = _action(
            situation,
            "continue",
            model,
            title,
            N=model.N,
            D=spending.usd / per_token,
            ruled_out="its loss on your validation set was not measured",
            assumptions=(*said, f"evaluate {model.name} on the validation set of the laws and give its loss"),
            coefficients=(training_tokens(model),),
        )
        return Candidate(action)
    D, losses = _continued_losses(situation, model.N, loss)
    laws = spending.laws
    mean = float((laws.draw_weights @ losses).item())
    pays = mean < loss - 1e-4
    unique = spending.unique_tokens
    epochs = None if unique is None else D / unique
    action = _action(
        situation,
        "continue",
        model,
        title if pays else f"{title}: gains nothing by the laws",
        N=model.N,
        D=D,
        unique_tokens=None if unique is None else min(unique, D),
        epochs=epochs,
        C=6.0 * model.N * D,
        gpu_hours=D * hours,
        usd=D * per_token,
        loss=run_interval(laws, losses, mean, 6.0 * model.N * D),
        assumptions=said,
        coefficients=(*law_coefficients(situation), training_tokens(model)),
        flags=("CONTINUED_UNTESTED", *_other_set(situation)),
    )
    return Candidate(action, losses)


def _continued_losses(situation: Situation, N: float, loss: float) -> tuple[float, FloatArray]:
    """Tokens to train on, at most what the money buys, and losses float64[K, 1]."""
    spending = situation.spending
    laws, unique = spending.laws, spending.unique_tokens
    log_D = np.log(_TOKENS)
    curves = laws.losses(N, _TOKENS)
    # Losses fall with tokens: each draw's own D_T is where its curve passes the measured loss.
    start = np.array([np.interp(-loss, -curve, _TOKENS, left=_TOKENS[0], right=np.inf) for curve in curves])
    new = _SPENT * spending.usd / float(spending.price.usd(N))
    wear = np.ones((len(curves), len(new)))
    if unique is not None:
        wear = laws.losses(N, new, unique) / laws.losses(N, new)
    total = np.log(np.minimum(start[:, None] + new, _TOKENS[-1]))
    reached = np.array([np.interp(row, log_D, curve) for row, curve in zip(total, curves, strict=True)])
    found = np.where(np.isfinite(start)[:, None], reached * wear, np.maximum(loss, loss * wear))
    at = int(np.argmin(laws.draw_weights @ found))
    return float(new[at]), found[:, at : at + 1]


def distilled_worth(student: tuple[float, float], teacher: tuple[float, float]) -> float:
    """Supervised tokens that one distilled token is worth to a student (N, D) of a teacher (N, D), at most 100.

    The loss of the distilled student is read back as the tokens that would lead there without a teacher, both by laws
    of text that nobody has checked: a ratio of tokens may carry over to proteins where losses do not.

    **Source:** Busbridge et al. 2025, eq. 8 and its supervised law.
    """
    supervised = two_powers(find_law("busbridge2025-supervised").params)
    found = distil(supervised, find_law("busbridge2025-distillation").params, student=student, teacher=teacher)
    # L = E + (A N^-alpha + B D^-beta)^gamma solved for D.
    if found.loss <= supervised.E:
        return _MOST_WORTH
    inner = (found.loss - supervised.E) ** (1.0 / supervised.gamma)
    left = inner - math.exp(supervised.log_A - supervised.alpha * math.log(student[0]))
    if left <= 0:
        return _MOST_WORTH
    tokens = math.exp((supervised.log_B - math.log(left)) / supervised.beta)
    return min(tokens / student[1], _MOST_WORTH)


def _distil(situation: Situation, epochs: float | None) -> list[Candidate]:
    """The best student of a public teacher; worth it only where the teacher is free and tokens are short."""
    known = [model for model in all_trained_models() if model.objective == situation.objective and model.D]
    if situation.teacher:
        known = [public_model(situation.teacher, situation.objective)]
    if not known or known[0].D is None:
        return []
    teacher = max(known, key=lambda model: model.N)
    assert teacher.D is not None
    spending = situation.spending
    laws, price = spending.laws, spending.price
    # A teacher's forward pass costs a third of its training.
    money = spending.usd
    if not situation.teacher_free:
        money -= teacher.D * float(price.usd(teacher.N))
    if money <= 0:
        return []
    sizes = np.geomspace(max(1e5, 1e-5 * teacher.N), teacher.N, 49)
    D = money / (price.usd(sizes) + float(price.usd(teacher.N)) / 3.0)
    worth = np.array(
        [distilled_worth((float(n), float(d)), (teacher.N, teacher.D)) for n, d in zip(sizes, D, strict=True)]
    )
    unique = None if spending.unique_tokens is None else worth * spending.unique_tokens
    few = search_ensemble(laws)
    at = int(np.argmin(few.draw_weights @ few.losses(sizes, worth * D, unique)))
    pick = slice(at, at + 1)
    losses = laws.losses(sizes[pick], worth[pick] * D[pick], None if unique is None else unique[pick])
    N, tokens = float(sizes[at]), float(D[at])
    value = float((laws.draw_weights @ losses).item())
    if tokens < N:
        return []  # the teacher's passes leave next to nothing to learn from
    action = _action(
        situation,
        "distil",
        teacher,
        f"distil {teacher.name} into {format_count(N, 2)} parameters",
        N=N,
        D=tokens,
        unique_tokens=spending.unique_tokens,
        epochs=None if spending.unique_tokens is None else tokens / spending.unique_tokens,
        C=tokens * (6.0 * N + 2.0 * teacher.N),
        gpu_hours=tokens * (float(price.hours(N)) + float(price.hours(teacher.N)) / 3.0),
        usd=spending.usd,
        loss=run_interval(laws, losses, value, 6.0 * N * tokens),
        ruled_out=_no_distillation(situation, epochs),
        assumptions=(
            f"a distilled token is worth {worth[at]:.2g} own ones, as by the laws of text (unverified); the teacher's "
            "passes are paid for" + ("" if situation.teacher_free else ", and its training"),
            "pays only where the teacher is free and tokens are the bottleneck; the teacher was trained on other data",
        ),
        coefficients=(
            *law_coefficients(situation),
            Coefficient(
                name="worth of a distilled token",
                value=float(worth[at]),
                status="unverified",
                source=find_law("busbridge2025-distillation").source,
            ),
            training_tokens(teacher),
        ),
        flags=("UNVERIFIED",),
    )
    return [Candidate(action, losses)]


def _no_distillation(situation: Situation, epochs: float | None) -> str:
    """Why not, or nothing. **Source:** Busbridge et al. 2025, section 5: when to distil."""
    if not situation.teacher_free:
        return "the teacher would have to be trained: that money trains the student better"
    if epochs is None or epochs <= MAX_EPOCHS:
        passes = "every token is new" if epochs is None else f"{epochs:.1f} epochs from scratch"
        return f"tokens are not the bottleneck ({passes}): a student learns as much from tokens of its own"
    return "" if situation.unverified else "its law is of text and unverified"
