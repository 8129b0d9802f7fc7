"""Actions that train nothing: use a public model as it is, or an alignment. `size` and `spend` show the same ones.

Sizes and tokens are those of `trained_models`, scores those of `evals`. numpy only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from plm_scaling.core.errors import ConfigError, did_you_mean
from plm_scaling.core.objective import Objective
from plm_scaling.core.units import format_count, six_nd
from plm_scaling.evals.scored_models import load_scored_models
from plm_scaling.laws.interval import Interval
from plm_scaling.sizing.action import Action, Coefficient, group_name
from plm_scaling.sizing.assay_groups import GROUPS, GroupScores, group_scores
from plm_scaling.sizing.trained_models import TrainedModel, all_trained_models

__all__ = [
    "ALIGNED",
    "NULL_MODELS",
    "TokensAt",
    "alignment_action",
    "null_actions",
    "public_model",
    "reuse_action",
    "training_tokens",
]

TokensAt = Callable[[float], float]
"""N -> tokens that a budget trains N parameters on."""

NULL_MODELS: Final[dict[Objective, tuple[str, ...]]] = {"mlm": ("esm2-650m", "esmc-600m"), "clm": ("progen2-xlarge",)}
"""The public models to beat: the best of their families on ProteinGym's average, and the newest of their kind."""
ALIGNED: Final = ("alignment", "retrieval", "structure and alignment")
"""Kinds of methods that read homologous sequences of the target."""
_SHOWN: Final = ("fitness", "capsid")
_TITLES: Final = {"fitness": "on average", "capsid": "on the AAV2 capsid"}


def public_model(name: str, objective: Objective | None = None) -> TrainedModel:
    """A public model by its name.

    Raises
    ------
    ConfigError : no such model, or one of another objective than that which is asked for.
    """
    known = {model.name: model for model in all_trained_models()}
    model = known.get(name.lower())
    if model is None or objective not in (None, model.objective):
        what = f"{objective.upper()} model" if objective else "model"
        why = "" if model is None else f"it is a {model.objective.upper()} model"
        own = [name for name, one in known.items() if objective in (None, one.objective)]
        raise ConfigError(f"no public {what} is called {name!r}", why=why, hint=did_you_mean(name.lower(), own))
    return model


def null_actions(objective: Objective, tokens_at: TokensAt, validation_id: str | None = None) -> tuple[Action, ...]:
    """Reuse of the public models to beat, and an alignment, as `spend` has them where their losses were not measured.

    Parameters
    ----------
    tokens_at : N -> tokens that the budget trains N parameters on.
    validation_id : validation set of the laws, None for that of published ones.
    """
    models = (public_model(name, objective) for name in NULL_MODELS[objective])
    reused = (reuse_action(model, objective, tokens_at, validation_id=validation_id) for model in models)
    named = (action.model_copy(update={"name": f"{objective} {action.name}"}) for action in reused)
    return (*named, alignment_action())


def training_tokens(model: TrainedModel) -> Coefficient:
    """What is known of the tokens a model was trained on."""
    return Coefficient(name=f"tokens of {model.name}", value=model.D, status=model.status, source=model.source)


def reuse_action(
    model: TrainedModel,
    objective: Objective,
    tokens_at: TokensAt,
    *,
    validation_id: str | None = None,
    loss: float | None = None,
    flags: tuple[str, ...] = (),
) -> Action:
    """A public model as it is, with what its training was beside the budget.

    Both are counted in tokens at the model's own size: their ratio is one of 6 N D, of exact FLOPs and of money alike.

    Parameters
    ----------
    loss : measured on the validation set of the laws, nats per token; None if it was not.
    """
    means = _means()
    scores = [(group, means[group].values[name]) for group in _SHOWN if (name := _scored_as(model, means[group]))]
    said = ["costs nothing to train; licence and input length are yours to check", *_beside(model, tokens_at)]
    if scores:
        said.append(f"zero-shot Spearman on ProteinGym: {_listed(scores)}{_larger(model, objective, means)}")
    return Action(
        key="reuse",
        name=f"reuse {model.name}",
        title=f"train nothing: reuse {model.name}",
        objective=objective,
        group=group_name(objective, validation_id),
        N=model.N,
        loss=None if loss is None else Interval(value=loss, low=loss, high=loss, level=0.8),
        ruled_out="" if loss is not None else "its loss on your validation set was not measured",
        assumptions=tuple(said),
        coefficients=(training_tokens(model), *(_spearman(group, value, means[group]) for group, value in scores)),
        flags=(*(("TOKENS_UNVERIFIED",) if model.status == "unverified" else ()), *flags),
    )


def alignment_action() -> Action:
    """No model at all: the best method that reads an alignment, beside the best single-sequence model."""
    means = _means()
    aligned = {group: _best_aligned(means[group]) for group in _SHOWN}
    models = {group: _best_model(means[group]) for group in _SHOWN}
    said = "; ".join(
        f"{_TITLES[group]} {aligned[group][0]} {aligned[group][1]:.3f}, the best single-sequence model "
        f"({models[group][0]}) {models[group][1]:.3f}"
        for group in _SHOWN
    )
    return Action(
        key="alignment",
        name="alignment",
        title="train nothing: score variants with an alignment or retrieval model",
        objective=None,
        group="no loss",
        assumptions=(
            "needs homologous sequences of the target; CPU hours instead of accelerators",
            f"zero-shot Spearman on ProteinGym: {said}",
        ),
        coefficients=tuple(_spearman(group, aligned[group][1], means[group]) for group in _SHOWN),
    )


def _beside(model: TrainedModel, tokens_at: TokensAt) -> list[str]:
    """Its training against the budget."""
    if model.D is None:
        return ["no source seen states its training tokens"]
    bought = tokens_at(model.N)
    stated = "recalled, not checked" if model.status == "unverified" else model.status
    return [
        f"trained on {format_count(model.D, 2)} tokens ({stated}), {six_nd(model.N, model.D):.2e} FLOPs as 6 N D; your "
        f"budget pays for {format_count(bought, 2)} tokens at its size, {format_count(bought / model.D, 2)} of that"
    ]


@lru_cache(maxsize=1)
def _means() -> dict[str, GroupScores]:
    """Published scores of the groups shown, without intervals."""
    return {group: group_scores(GROUPS[group], draws=0) for group in _SHOWN}


def _scored_as(model: TrainedModel, scores: GroupScores) -> str:
    """The name under which a model is scored, empty if it is not, or not to be trusted."""
    suspect = {one.name for family in load_scored_models().family if family.suspect for one in family.models}
    return next((name for name in (model.name, *model.also) if name in scores.values and name not in suspect), "")


def _listed(scores: list[tuple[str, float]]) -> str:
    return ", ".join(f"{value:.3f} {_TITLES[group]}" for group, value in scores)


def _larger(model: TrainedModel, objective: Objective, means: dict[str, GroupScores]) -> str:
    """That larger public models of the objective score no better, where none does."""
    scored = means["fitness"]
    own = scored.values.get(_scored_as(model, scored))
    larger = [
        (other.name, scored.values[name])
        for other in all_trained_models()
        if other.objective == objective and other.N > model.N and (name := _scored_as(other, scored))
    ]
    if own is None or not larger or max(value for _, value in larger) > own:
        return ""
    return f"; no larger one does better on average ({', '.join(f'{name} {value:.3f}' for name, value in larger)})"


def _best_aligned(scores: GroupScores) -> tuple[str, float]:
    floors = [floor for floor in load_scored_models().floor if floor.kind in ALIGNED and floor.name in scores.values]
    best = max(floors, key=lambda floor: scores.values[floor.name])
    return best.label, scores.values[best.name]


def _best_model(scores: GroupScores) -> tuple[str, float]:
    trusted = [family for family in load_scored_models().family if not family.suspect]
    scored = [
        (f"{family.name} {model.label}", scores.values[model.name])
        for family in trusted
        for model in family.models
        if model.name in scores.values
    ]
    return max(scored, key=lambda pair: pair[1])


def _spearman(group: str, value: float, scores: GroupScores) -> Coefficient:
    return Coefficient(name=f"Spearman {_TITLES[group]}", value=value, status="read", source=scores.source)
