"""Splitting an allocation: risk, segments, what a sweep teaches."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from plm_scaling.cli.allocation_screen import allocation_lines, allocation_rows
from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.laws.zoo import find_law
from plm_scaling.sizing.allocation import plan_allocation
from plm_scaling.sizing.allocation_record import AllocationPlan
from plm_scaling.sizing.allocation_risk import (
    Allocation,
    Conditions,
    Stage,
    hours_until,
    jobs_of,
    largest_work,
    simulate_stages,
)
from plm_scaling.sizing.decision_search import search_sizes
from plm_scaling.sizing.law_ensemble import LawEnsemble, ensemble_of_published
from plm_scaling.sizing.sweep_value import SweepDesign, doubted, regrets_of_choice, sweep_design

GRANT = Allocation(nodes=8, gpus_per_node=4, node_hours=4000, wall_hours=40 * 24, queue_limit_hours=24)
CALM = Conditions(queue_wait_hours=0, failures_per_node_hour=0, checkpoint_hours=0, speed_sd=0, speed_sd_measured=0)


@pytest.fixture(scope="module")
def spread() -> LawEnsemble:
    """One law whose best size is unknown to a factor of three either way, at one loss: 101 draws of it."""
    law = ensemble_of_published([find_law("besiroglu2024")])
    shifts = [0.9 * NormalDist().inv_cdf((k + 0.5) / 101) for k in range(101)]
    members = [replace(law.members[0], weight=1 / 101, log_N0=shift, log_D0=-shift) for shift in shifts]
    return replace(law, members=tuple(members), status="measured", noise_sd=0.002)


@pytest.fixture(scope="module")
def plan(spread: LawEnsemble) -> AllocationPlan:
    return plan_allocation(spread, GRANT, gpu="h100", sweeps=(0.0, 0.05, 0.2), law_doubt=0.0)


WORK = st.lists(st.floats(0, 2000), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(
    work=WORK,
    more=st.floats(1, 3),
    hours=st.floats(10, 6000),
    wall=st.floats(10, 2000),
    limit=st.one_of(st.none(), st.floats(2, 72)),
    wait=st.floats(0, 48),
    failures=st.floats(0, 1e-3),
)
@example(work=[5e-324], more=1.0, hours=10.0, wall=10.0, limit=2.0, wait=0.0, failures=0.0)  # less than a job is one
def test_more_hours_never_raise_the_risk_and_more_work_never_lowers_it(
    work: list[float], more: float, hours: float, wall: float, limit: float | None, wait: float, failures: float
) -> None:
    grant = Allocation(nodes=8, gpus_per_node=4, node_hours=hours, wall_hours=wall, queue_limit_hours=limit)
    conditions = Conditions(queue_wait_hours=wait, failures_per_node_hour=failures)
    stages = [Stage(name=str(k), node_hours=each) for k, each in enumerate(work)]
    outcomes = simulate_stages(stages, grant, conditions, draws=60)
    risk = outcomes.miss_probability(grant)
    assert 0 <= risk <= 1
    for field in ("node_hours", "wall_hours"):
        longer = grant.model_copy(update={field: getattr(grant, field) * more})
        assert outcomes.miss_probability(longer) <= risk
    assert outcomes.miss_probability(grant.model_copy(update={"wall_hours": None})) <= risk
    larger = [stage.model_copy(update={"node_hours": stage.node_hours * more}) for stage in stages]
    harder = simulate_stages(larger, grant, conditions, draws=60)
    assert (harder.node_hours >= outcomes.node_hours * (1 - 1e-12)).all()
    assert (harder.wall_hours >= outcomes.wall_hours * (1 - 1e-12)).all()
    worse = simulate_stages(
        stages, grant, conditions.model_copy(update={"failures_per_node_hour": failures * more}), draws=60
    )
    assert worse.miss_probability(grant) >= risk


def test_a_calm_machine_takes_what_is_planned() -> None:
    stages = [Stage(name="a", node_hours=950), Stage(name="b", node_hours=95, packing=0.5)]
    outcomes = simulate_stages(stages, GRANT, CALM, draws=3)
    np.testing.assert_allclose(outcomes.node_hours, 1000 + 200)
    np.testing.assert_allclose(outcomes.wall_hours, (1000 + 200) / 8)
    assert jobs_of(stages[0], GRANT, CALM) == math.ceil(950 / 8 / (24 * 0.95))
    assert largest_work([], stages[0], [stages[1]], GRANT, CALM, risk=0.01) == pytest.approx(3800 * 0.95, rel=1e-3)


def test_luck_has_the_stated_means() -> None:
    """800 hours in 34 jobs on a machine that fails once in 625 node-hours."""
    noisy = Conditions(
        **(CALM.model_dump() | {"queue_wait_hours": 3.0, "failures_per_node_hour": 1.6e-3, "checkpoint_hours": 2.0})
    )
    outcomes = simulate_stages([Stage(name="a", node_hours=800 * 8 * 0.95)], GRANT, noisy, draws=20_000)
    failures = 1.6e-3 * 8 * 800
    lost = (33 + failures) * 1.0
    assert outcomes.node_hours.mean() == pytest.approx(8 * (800 + lost), rel=1e-3)
    assert outcomes.wall_hours.mean() == pytest.approx(800 + lost + 3.0 * (34 + failures), rel=3e-3)
    assert outcomes.node_hours.std() == pytest.approx(8 * math.sqrt(failures), rel=0.02)


def test_a_sweep_finds_the_size_and_noise_hides_it(spread: LawEnsemble) -> None:
    search = search_sizes(spread, lambda N: 1e21 / (6.0 * N))
    N = np.geomspace(1e8, 4e9, 5)
    near = SweepDesign(N, 1e20 / (6.0 * N), 1e20)
    blind = float(regrets_of_choice(search, None).values.mean())
    told = float(regrets_of_choice(search, near).values.mean())
    noisy = search_sizes(replace(spread, noise_sd=0.5), lambda N: 1e21 / (6.0 * N))
    deaf = float(regrets_of_choice(noisy, near).values.mean())
    assert told < 0.1 * blind
    assert deaf == pytest.approx(blind, rel=0.2)
    level = SweepDesign(N[:1], 1e20 / (6.0 * N[:1]), 1e20)
    assert float(regrets_of_choice(search, level).values.mean()) == pytest.approx(
        blind, rel=0.05
    )  # one loss is but a level


def test_doubt_moves_the_size_and_not_the_loss() -> None:
    law = ensemble_of_published([find_law("besiroglu2024")])
    moved = doubted(law, 0.5)
    N, C = np.geomspace(1e7, 1e11, 4001), 1e21
    losses = np.exp(np.log(moved.losses(N, C / (6 * N))))
    np.testing.assert_allclose(losses.min(axis=1), law.losses(N, C / (6 * N)).min(), rtol=1e-6)
    best = np.log(N[losses.argmin(axis=1)])
    assert moved.draw_weights.sum() == pytest.approx(1)
    mean = moved.draw_weights @ best
    assert math.sqrt(moved.draw_weights @ (best - mean) ** 2) == pytest.approx(0.5, rel=0.01)


def test_a_design_spends_its_hours(spread: LawEnsemble) -> None:
    design = sweep_design(1000.0, lambda C: math.sqrt(C / 120), lambda N: 1e14)
    assert design is not None
    assert 6 * float(design.N @ design.D) / 1e14 / 3600 == pytest.approx(1000.0, rel=1e-6)
    assert design.C_top == pytest.approx(float((6 * design.N * design.D).max()))
    assert sweep_design(0.0, lambda C: C, lambda N: 1e14) is None


def test_options_add_up_and_say_what_they_risk(plan: AllocationPlan) -> None:
    assert [option.name for option in plan.options] == [
        "no sweep, published law",
        "pilots, published law",
        "sweep 5%",
        "sweep 20%",
    ]
    for option in plan.options:
        assert sum(stage.share for stage in option.stages) == pytest.approx(1.0, rel=1e-6)
        assert 0 <= option.miss_probability <= plan.risk + 1e-9
        assert option.miss_probability <= option.miss_probability_no_reserve <= 1
        assert option.regret == pytest.approx(option.regret_size + option.regret_compute, abs=1e-9)
        assert option.regret_low <= option.regret_high
        assert option.end_hours_median <= option.end_hours_p90 <= GRANT.wall_hours * 1.2  # type: ignore[operator]
        wall = option.final.node_hours / GRANT.nodes
        assert option.final.jobs == math.ceil(wall / (24 * 0.95))
    by_name = {option.name: option for option in plan.options}
    measured, blind, swept = by_name["pilots, published law"], plan.without_sweep, by_name["sweep 5%"]
    assert measured.final.share > blind.final.share, "a measured speed needs less reserve"
    assert swept.regret_size < 0.2 * blind.regret_size
    assert by_name["sweep 20%"].regret_compute > swept.regret_compute
    assert plan.best == "sweep 5%"
    assert 0.5 < plan.probability_sweep_pays < 1


def test_a_law_of_ones_own_needs_no_sweep() -> None:
    law = replace(ensemble_of_published([find_law("besiroglu2024")]), status="own fit")
    plan = plan_allocation(law, GRANT, gpu="h100", sweeps=(0.0, 0.1))
    assert (plan.best, plan.without_sweep.name) == ("pilots, own law", "no sweep, own law")
    assert plan.probability_sweep_pays == 0
    assert plan.law_doubt == 0
    assert "FEW_LAWS" in plan.flags
    doubted_plan = plan_allocation(replace(law, status="read"), GRANT, gpu="h100", sweeps=(0.0, 0.1))
    assert "OTHER_CORPUS" in doubted_plan.flags


def test_a_stated_reserve_has_the_risk_as_its_outcome(spread: LawEnsemble) -> None:
    risks = [
        plan_allocation(spread, GRANT, gpu="h100", sweeps=(0.0,), reserve=reserve, law_doubt=0.0).chosen
        for reserve in (0.0, 0.1, 0.3)
    ]
    assert [option.miss_probability for option in risks] == sorted((o.miss_probability for o in risks), reverse=True)
    assert risks[0].miss_probability > 0.5 > 0.1 > risks[-1].miss_probability
    tight = plan_allocation(spread, GRANT, gpu="h100", sweeps=(0.0,), reserve=0.0, law_doubt=0.0)
    assert "RISK" in tight.flags


def test_time_may_end_before_the_hours(spread: LawEnsemble) -> None:
    short = GRANT.model_copy(update={"wall_hours": 200.0})
    plan = plan_allocation(spread, short, gpu="h100", sweeps=(0.05,), law_doubt=0.0)
    assert "TIME_BEFORE_HOURS" in plan.flags
    assert sum(stage.node_hours for stage in plan.chosen.stages) == pytest.approx(1600, rel=1e-6)


def test_refusals(spread: LawEnsemble) -> None:
    with pytest.raises(RefusedError, match="no final run ends in time"):
        plan_allocation(spread, GRANT, gpu="h100", conditions=Conditions(queue_wait_hours=1000))
    with pytest.raises(RefusedError, match="decades above"):
        plan_allocation(spread, GRANT.model_copy(update={"nodes": 8000, "node_hours": 4e6}), gpu="b200")
    with pytest.raises(ConfigError, match="pilots is a share"):
        plan_allocation(spread, GRANT, pilots=2.0)
    with pytest.raises(ConfigError, match="jobs and failures"):
        simulate_stages([Stage(name="a", node_hours=1e6)], GRANT, Conditions(failures_per_node_hour=1.0))


def test_ends_are_read_as_people_write_them() -> None:
    now = datetime(2026, 11, 1, 12, tzinfo=UTC)
    assert hours_until("36h", now) == 36
    assert hours_until("2d", now) == 48
    assert hours_until("2026-11-03", now) == 36
    for wrong in ("tomorrow", "2026-10-01", "-3h", ""):
        with pytest.raises(ConfigError):
            hours_until(wrong, now)


def test_the_screen_names_the_choice_and_every_stage(plan: AllocationPlan) -> None:
    text = "\n".join(allocation_lines(plan))
    for part in (
        "8 nodes x 4 H100 SXM: 4,000 node-hours, 40 days left",
        "jobs of at most 24 h",
        "* sweep 5%",
        "reserve",
    ):
        assert part in text, part
    rows = allocation_rows(plan)
    assert [row["taken"] for row in rows].count(True) == 1
    assert rows[0]["sweep node-hours"] == 0
    assert AllocationPlan.model_validate_json(plan.model_dump_json()) == plan
