"""`SpendingView`: the actions for a budget, what a dollar more buys, what moves the answer, and what to try first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, TypeVar

from pydantic import Field

from plm_scaling.core.errors import PlmScalingError
from plm_scaling.core.records import Record
from plm_scaling.laws.law_fit import Refusal
from plm_scaling.sizing.action import ActionTable, PublicScore
from plm_scaling.sizing.action_parts import Situation
from plm_scaling.sizing.actions import compare_actions
from plm_scaling.sizing.adaptation_pilots import AdaptationPilots, adaptation_pilots
from plm_scaling.sizing.data_limit import DataLimit, data_limit
from plm_scaling.sizing.marginal import MarginalValues, marginal_values
from plm_scaling.sizing.metric_map import MetricPoint
from plm_scaling.sizing.pilots import PilotPlan, pilot_plan
from plm_scaling.sizing.token_source import TokenSource
from plm_scaling.sizing.tornado import Fixed, Tornado, tornado, usual_variations

__all__ = ["SourceList", "SpendingView", "read_sources", "view_spending"]

T = TypeVar("T")


class SourceList(Record):
    """Sources of more tokens as a user writes them: `[[source]]` tables in TOML."""

    source: tuple[TokenSource, ...]


def read_sources(path: Path) -> tuple[TokenSource, ...]:
    """The sources of a TOML file.

    Raises
    ------
    ConfigError : the file cannot be read, or holds an unknown key or a value that cannot be.
    """
    return SourceList.read_toml(path).source


class SpendingView(Record):
    """Everything about how to spend one budget; keys of the tables are objectives."""

    SCHEMA_VERSION: ClassVar[int] = 1

    actions: ActionTable
    marginal: dict[str, MarginalValues] = Field(default_factory=dict)
    limits: dict[str, DataLimit] = Field(default_factory=dict)
    """Where unique tokens were stated."""
    tornado: dict[str, Tornado] = Field(default_factory=dict)
    pilots: dict[str, PilotPlan] = Field(default_factory=dict)
    adaptation: dict[str, AdaptationPilots] = Field(default_factory=dict)
    """Where proprietary tokens were stated: what to measure on them."""
    refusals: tuple[Refusal, ...] = ()
    laws_sha256: dict[str, str] = Field(default_factory=dict)
    """By objective: content hash of the fit or published law behind it; empty in older files."""

    @property
    def sentences(self) -> tuple[str, ...]:
        """What all parts say, the verdict first."""
        limits = (sentence for limit in self.limits.values() for sentence in limit.sentences)
        values = (sentence for marginal in self.marginal.values() for sentence in marginal.sentences)
        first = (
            f"pilots first: {', then '.join(pilot.name for pilot in plan.first)}"
            if plan.first
            else f"pilots: {plan.stop}"
            for plan in self.pilots.values()
        )
        own = (f"{one}." for plan in self.adaptation.values() for one in (*plan.findings, *plan.design))
        return (*self.actions.sentences, *limits, *values, *(f"{sentence}." for sentence in first), *own)


def view_spending(
    situations: Sequence[Situation],
    *,
    metric: str = "",
    points: Sequence[MetricPoint] = (),
    scores: Sequence[PublicScore] = (),
    higher_is_better: bool = True,
    usd_per_token: float | None = None,
    usd_per_nat: float | None = None,
    fixed: Fixed = "usd",
    price: tuple[float, float, float] | None = None,
    pilots: bool = True,
) -> SpendingView:
    """The actions of all situations compared, and for each objective the values behind its own best run.

    Parameters
    ----------
    metric, points, scores, higher_is_better : as in `compare_actions`.
    usd_per_token : price of one more unique token, where no source has one.
    usd_per_nat : what a nat is worth in dollars, for the pilots; None: the compute that would buy it.
    fixed : what the budget was stated in; price : low, mid and high price of an accelerator hour (tornado).
    pilots : value the usual pilot runs too.

    Raises
    ------
    ConfigError : as `compare_actions`. What else a part refuses stands in `refusals`.
    """
    actions = compare_actions(
        situations, metric=metric, points=points, scores=scores, higher_is_better=higher_is_better
    )
    refusals: list[Refusal] = []

    def each(what: str, ask: Callable[[Situation], T], wanted: Callable[[Situation], bool]) -> dict[str, T]:
        found = {}
        for one in situations:
            if not wanted(one):
                continue
            try:
                found[str(one.objective)] = ask(one)
            except PlmScalingError as error:
                reason = f"{error.what}: {error.why}" if error.why else error.what
                refusals.append(Refusal(quantity=f"{what}, {one.objective}", code="NOT_TOLD", reason=reason))
        return found

    def limited(one: Situation) -> bool:
        return one.spending.unique_tokens is not None

    def values(one: Situation) -> MarginalValues:
        priced = [s.usd_per_token for s in one.spending.bought if s.kind == "sequenced" and s.usd_per_token > 0]
        price = usd_per_token or next(iter(priced), None)
        # At one's own tokens: where more are bought the last dollars are worth the same everywhere.
        return marginal_values(replace(one.spending, sources=()), usd_per_token=price)

    def plan(one: Situation) -> PilotPlan:
        return pilot_plan(replace(one.spending, sources=()), usd_per_nat=usd_per_nat)

    def swings(one: Situation) -> Tornado:
        return tornado(one.spending, usual_variations(one.spending, fixed=fixed, price=price))

    return SpendingView(
        actions=actions,
        marginal=each("marginal values", values, lambda one: True),
        limits=each("limit of the data", lambda one: data_limit(one.spending), limited),
        tornado=each("tornado", swings, lambda one: True),
        pilots=each("pilots", plan, lambda one: pilots),
        adaptation={one.objective: found for one in situations if (found := adaptation_pilots(one))},
        refusals=tuple(refusals),
    )
