"""`Action` and `ActionTable`: ways to spend a budget, or not to, with what each assumes and how it compares."""

from __future__ import annotations

from typing import ClassVar, Literal

from plm_scaling.core.objective import Objective
from plm_scaling.core.records import Record
from plm_scaling.laws.interval import Interval

__all__ = ["Action", "ActionKey", "ActionTable", "Coefficient", "PublicScore", "group_name"]

ActionKey = Literal[
    "scratch",
    "transfer",
    "more_data",
    "synthetic",
    "mixed_sources",
    "continue",
    "distil",
    "reuse",
    "alignment",
    "adapt",
    "own_scratch",
    "add_own",
]


def group_name(objective: Objective, validation_id: str | None) -> str:
    """The scale that losses of an objective are on."""
    return f"{objective} on {validation_id or 'the validation set of its laws'}"


class Coefficient(Record):
    """A number that an action's answer rests on, and who vouches for it."""

    name: str
    value: float | None = None
    """None where the entry stands for a whole law."""
    status: str
    """own fit, measured, read, stated or unverified."""
    source: str


class PublicScore(Record):
    """What a model that needs no training scores on the metric that decides."""

    name: str
    """Of a public model, or `alignment`."""
    value: float
    low: float | None = None
    high: float | None = None
    """95 %."""
    status: str = "stated"
    source: str = ""


class Action(Record):
    """One way to spend the budget."""

    key: ActionKey
    name: str
    """Unique in its table: the key, or with the model's name."""
    title: str
    objective: Objective | None
    """None where the method has none (alignments)."""
    group: str
    """Losses of one group are on one scale: one objective on one validation set."""
    N: float | None = None
    D: float | None = None
    unique_tokens: float | None = None
    epochs: float | None = None
    C: float = 0.0
    """6 N D of what would be trained, FLOPs."""
    gpu_hours: float = 0.0
    usd: float = 0.0
    """Compute and data, at the mid price."""
    usd_data: float = 0.0
    loss: Interval | None = None
    """80 % for one run; None where no law states a loss."""
    share: Interval | None = None
    """Of the compute, for the first objective (transfer)."""
    utility: Interval | None = None
    """The metric that was named, 80 % over laws and map; None without a map or score."""
    regret: float | None = None
    """Mean over draws x forms of what the best action has over this one, nats or units of the metric."""
    p_best: float | None = None
    """Weight of the draws x forms under which it is the best."""
    rank: int | None = None
    """Among the actions it may be compared with; None where it is not ranked."""
    ruled_out: str = ""
    """Why it is not ranked."""
    transferred: Interval | None = None
    """D_T: tokens of one's own that pre-training stands for, over published laws of other transfers (adapt)."""
    wanted_tokens: float | None = None
    """Tokens for which N would be the best size from scratch, by the laws of the objective (adapt, own_scratch)."""
    assumptions: tuple[str, ...] = ()
    coefficients: tuple[Coefficient, ...] = ()
    flags: tuple[str, ...] = ()


class ActionTable(Record):
    """All actions for a budget, ranked as far as they can be."""

    SCHEMA_VERSION: ClassVar[int] = 1

    usd: float
    metric: str
    """What decides: a metric by name, or `loss` (lower is better, within a group only)."""
    higher_is_better: bool
    comparable: bool
    """Whether all ranked actions stand on one scale; otherwise ranks are within their groups."""
    groups: tuple[str, ...]
    actions: tuple[Action, ...]
    """By group, the best first; what is not ranked comes last."""
    sentences: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    def of(self, name: str) -> Action | None:
        """The action of this name."""
        return next((action for action in self.actions if action.name == name), None)

    @property
    def best(self) -> Action | None:
        """The action to take, None where actions of several groups cannot be compared."""
        return next((action for action in self.actions if action.rank == 1), None) if self.comparable else None
