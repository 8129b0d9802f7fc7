from __future__ import annotations

import itertools
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.errors import ConfigError, PlanError
from plm_scaling.corpus.reader import Corpus
from plm_scaling.sweeps.cost_records import DeviceProfile
from plm_scaling.sweeps.costs import priced
from plm_scaling.sweeps.decisions import needed_runs
from plm_scaling.sweeps.plan import plan_sweep
from plm_scaling.sweeps.plan_records import IsoflopArm, RepeatsArm, SweepPlan, SweepSpec, TransferArm, WsdArm
from plm_scaling.sweeps.trim import questions_of, trimmed

SIZES = ("1x16", "1x32", "2x32")
SPEC = SweepSpec(
    name="t",
    corpus="c",
    context=64,
    seeds=(0, 1),
    isoflop=tuple(IsoflopArm(C=C, sizes=SIZES) for C in (4e9, 1e9, 1.6e10, 6.4e10)),
    transfer=tuple(TransferArm(size=size, D=2e4, D_source=3e4, overlap="shared") for size in ("1x16", "2x32")),
    repeats=(RepeatsArm(size="1x16", D=1e5, unique_tokens=(1e4, 2e4)),),
    wsd=(WsdArm(size="1x16", D=(2e4, 4e4, 8e4), warmup_tokens=2e3),),
)
DEVICE = DeviceProfile(
    name="d", source="hardware file", peak_flops_per_s=1e9, mfu_by_width={16: 0.5, 32: 0.5}, usd_per_hour=3.0
)


@pytest.fixture(scope="module")
def whole(corpus: Corpus) -> SweepPlan:
    return priced(plan_sweep(SPEC, corpus), DEVICE)


@pytest.fixture(scope="module")
def cut_to(whole: SweepPlan) -> object:
    """Trim by a share of all FLOPs; each share is worked out once."""
    return cache(lambda share: trimmed(whole, share * whole.total_C_exact, "FLOPs"))


def ids(plan: SweepPlan) -> set[str]:
    return {run.run_id for run in plan.runs}


@settings(max_examples=40, deadline=None)
@given(shares=st.lists(st.floats(0.05, 1.1), min_size=2, max_size=4))
def test_a_trimmed_plan_fits_is_closed_and_never_shrinks_with_the_budget(
    cut_to: object, whole: SweepPlan, shares: list[float]
) -> None:
    made = [cut_to(share) for share in sorted(shares)]  # type: ignore[operator]
    for share, plan in zip(sorted(shares), made, strict=True):
        assert plan.total_C_exact <= share * whole.total_C_exact * (1 + 1e-12)
        kept = ids(plan)
        for run in plan.runs:
            assert kept.issuperset(needed_runs(run.config))
            assert run.trunk is None or run.trunk in kept
        assert kept | {cut.run_id for cut in plan.cut} == ids(whole)
        assert len(plan.runs) + len(plan.cut) == len(whole.runs)
        assert all(cut.reason and cut.question for cut in plan.cut)
    for smaller, larger in itertools.pairwise(made):
        assert ids(smaller) <= ids(larger)


def test_replicates_go_before_any_question(whole: SweepPlan) -> None:
    first = [run for run in whole.runs if run.config.seed == 0]
    plan = trimmed(whole, sum(run.C_exact * run.computed_share for run in first) * (1 + 1e-9), "FLOPs")
    assert ids(plan) == {run.run_id for run in first}
    assert all(cut.seed == 1 and "replicate" in cut.reason for cut in plan.cut)


def test_of_a_law_three_budgets_are_kept_or_none_and_rows_are_whole(whole: SweepPlan, cut_to: object) -> None:
    seen = set()
    for percent in range(5, 100, 3):
        plan = cut_to(percent / 100)  # type: ignore[operator]
        for objective in ("clm", "mlm"):
            rows: dict[int, int] = {}
            for run in plan.runs:
                if "isoflop" in run.roles and (run.config.objective, run.config.seed) == (objective, 0):
                    budget = min(range(4), key=lambda k, C=run.C_exact: abs(C / SPEC.isoflop[k].C - 1))
                    rows[budget] = rows.get(budget, 0) + 1
            assert set(rows.values()) <= {3}
            assert set(rows) in (set(), {0, 1, 2}, {0, 1, 2, 3})
            seen.add(len(rows))
    assert seen == {0, 3, 4}


def test_the_first_cut_says_what_it_would_take(whole: SweepPlan) -> None:
    budget = 0.5 * whole.total_C_exact
    plan = trimmed(whole, budget, "FLOPs")
    (reason,) = {cut.reason for cut in plan.cut if cut.reason.startswith("needs ")}
    more = float(reason.split()[1])
    larger = trimmed(whole, plan.total_C_exact + more * 1.01, "FLOPs")
    assert len(larger.runs) > len(plan.runs)
    assert reason.split()[1] in plan.remarks[-1]
    # A run that belongs to several questions has one reason; the unit's total is the sum of the runs.
    assert plan.total_C_exact + sum(cut.cost for cut in plan.cut) == pytest.approx(whole.total_C_exact)


def test_a_trunk_keeps_no_state_for_branches_that_are_cut(corpus: Corpus) -> None:
    arms = (WsdArm(size="1x16", D=(2e4, 4e4, 6e4, 8e4), warmup_tokens=2e3, objectives=("clm",)),)
    plan = plan_sweep(SPEC.model_copy(update={"isoflop": (), "transfer": (), "repeats": (), "wsd": arms}), corpus)
    only = [run for run in plan.runs if run.config.seed == 0]
    trunk = next(run for run in only if run.keep_steps)
    without = trimmed(plan, sum(run.C_exact * run.computed_share for run in only) * 1.0001, "FLOPs")
    kept = next(run for run in without.runs if run.run_id == trunk.run_id)
    begins = tuple(sorted(run.begin_step for run in without.runs if run.trunk == trunk.run_id))
    assert kept.keep_steps == begins
    assert len(begins) == 3


def test_hours_and_dollars_cut_alike(whole: SweepPlan) -> None:
    assert whole.costs is not None
    hours = trimmed(whole, 0.4 * whole.costs.device_hours, "GPU-hours")
    dollars = trimmed(whole, 3.0 * 0.4 * whole.costs.device_hours, "USD")
    assert ids(hours) == ids(dollars)
    assert hours.cut
    assert sum(cut.cost for cut in dollars.cut) == pytest.approx(3.0 * sum(cut.cost for cut in hours.cut))


def test_a_budget_that_pays_for_everything_cuts_nothing(whole: SweepPlan) -> None:
    assert trimmed(whole, 1.001 * whole.total_C_exact, "FLOPs") == whole


def test_budgets_that_cannot_be_used(whole: SweepPlan, corpus: Corpus) -> None:
    with pytest.raises(PlanError, match="do not pay for any question") as caught:
        trimmed(whole, 1e6, "FLOPs")
    assert "the first is" in caught.value.why
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="not a positive number"):
            trimmed(whole, bad, "FLOPs")
    with pytest.raises(ConfigError, match="need a device"):
        trimmed(whole.model_copy(update={"costs": None}), 1.0, "USD")
    unpriced = priced(whole, DEVICE.model_copy(update={"usd_per_hour": None}))
    with pytest.raises(ConfigError, match="has no price"):
        trimmed(unpriced, 1.0, "USD")


def test_every_run_belongs_to_a_question_or_comes_with_one(whole: SweepPlan) -> None:
    named = {run_id for question in questions_of(whole) for run_id in question.runs}
    sources = {run.run_id for run in whole.runs if set(run.roles) == {"transfer_source"}}
    assert ids(whole) - named == sources
    assert sources


def test_laws_come_before_the_experiments_that_are_read_against_them(whole: SweepPlan) -> None:
    plan = trimmed(whole, 0.3 * whole.total_C_exact, "FLOPs")
    kept = {role for run in plan.runs for role in run.roles}
    assert {"isoflop", "grid"} <= kept
    for percent in range(5, 60, 5):
        try:
            roles = [run.roles for run in trimmed(whole, percent / 100 * whole.total_C_exact, "FLOPs").runs]
        except PlanError:
            continue
        experiments = any("transfer_target" in role or "repeats" in role for role in roles)
        assert not experiments or any("isoflop" in role for role in roles)
