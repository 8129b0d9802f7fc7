"""Runs under `wsd` that share their steps until the shorter ones decay."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plm_scaling.core.errors import PlanError
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.schedule import Schedule
from plm_scaling.corpus.batches import Batches
from plm_scaling.corpus.reader import Corpus
from plm_scaling.sweeps.plan import plan_sweep
from plm_scaling.sweeps.plan_records import GridArm, Mixture, SweepPlan, SweepSpec, TransferArm, WsdArm
from plm_scaling.sweeps.reconcile import run_plan

VALUES: dict[str, object] = {"name": "t", "corpus": "c", "context": 64, "validation_tokens": 1000}
SPEC = SweepSpec.model_validate(VALUES | {"objectives": ("clm",)})
ARM = WsdArm(size="1x16", D=(20_000, 80_000, 40_000), warmup_tokens=4_000)


def plan(corpus: Corpus, **update: object) -> SweepPlan:
    return plan_sweep(SPEC.model_copy(update=update), corpus, memory_bytes=1e12)


def trained_schedule(corpus: Corpus, config: RunConfig) -> Schedule:
    """As training works it out (`training.live_run.prepare_run`)."""
    batches = Batches(corpus, config)
    return Schedule.of(config, batches.n_steps, batches.mean_tokens_per_window * config.windows_per_batch)


def test_horizons_are_plain_runs_that_differ_by_D_alone(corpus: Corpus) -> None:
    made = plan(corpus, wsd=(ARM,))
    assert [run.config.D for run in made.runs] == [80_000, 40_000, 20_000]  # the trunk first
    assert len({run.config.model_copy(update={"D": 1}) for run in made.runs}) == 1
    assert {run.roles for run in made.runs} == {("grid", "wsd")}
    config = made.runs[0].config
    assert (config.schedule, config.warmup_tokens, config.decay_fraction) == ("wsd", 4_000, 0.2)


def test_short_horizons_have_the_batch_and_rate_of_the_longest(corpus: Corpus) -> None:
    """The recipe's batch grows with D, and would make other steps."""
    arm = WsdArm(size="1x16", D=(2e6, 6e6), warmup_tokens=1e5)
    made = plan(corpus, wsd=(arm,), grid=(GridArm(sizes=("1x16",), D=(2e6,)),))
    batches = {(run.config.schedule, run.config.D): run.config.batch_tokens for run in made.runs}
    assert batches == {("wsd", 6_000_000): 2048, ("wsd", 2_000_000): 2048, ("cosine", 2_000_000): 512}


def test_branches_leave_the_trunk_where_their_own_decay_begins(corpus: Corpus) -> None:
    trunk, *branches = plan(corpus, wsd=(ARM,)).runs
    assert (trunk.trunk, trunk.begin_step, trunk.D_computed) == (None, 0, 80_000)
    assert trunk.keep_steps == tuple(sorted(run.begin_step for run in branches))
    for run in branches:
        assert run.trunk == trunk.run_id
        assert run.begin_step == trained_schedule(corpus, run.config).decay_begins
        assert run.D_computed == pytest.approx(0.2 * run.config.D, rel=0.03)
        assert run.keep_steps == ()


def test_until_then_all_horizons_have_the_same_rates_and_windows(corpus: Corpus) -> None:
    trunk, *branches = plan(corpus, wsd=(ARM,)).runs
    long, long_rates = Batches(corpus, trunk.config), trained_schedule(corpus, trunk.config)
    for run in branches:
        short, rates = Batches(corpus, run.config), trained_schedule(corpus, run.config)
        for step in range(run.begin_step):
            assert rates.at(step) == long_rates.at(step)
        for step in (0, run.begin_step - 1):
            assert (short.at(step).tokens == long.at(step).tokens).all()
        assert rates.at(run.begin_step) < long_rates.at(run.begin_step)


def test_what_is_shared_is_paid_for_once(corpus: Corpus) -> None:
    made = plan(corpus, wsd=(ARM,))
    alone = [plan(corpus, wsd=(ARM.model_copy(update={"D": (D,)}),)) for D in ARM.D]
    assert {run.run_id for one in alone for run in one.runs} == {run.run_id for run in made.runs}
    assert all(one.total_C_exact == one.runs[0].C_exact for one in alone)
    whole = sum(one.total_C_exact for one in alone)
    # 80 + .2 (40 + 20) of 140 tokens.
    assert made.total_C_exact / whole == pytest.approx(92 / 140, rel=0.02)


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    D=st.lists(st.integers(9_000, 300_000), min_size=2, max_size=4, unique=True),
    fraction=st.floats(0.05, 0.6),
    mixture=st.sampled_from(["natural", "tokens", {"known": 0.3, "meta": 0.7}]),
    context=st.sampled_from([32, 64, 100]),
)
def test_a_plans_steps_are_those_of_training(
    corpus: Corpus, D: list[int], fraction: float, mixture: Mixture, context: int
) -> None:
    arm = WsdArm(size="1x16", D=tuple(D), warmup_tokens=2_000, decay_fraction=fraction)
    made = plan(corpus, wsd=(arm,), mixture=mixture, context=context)
    kept = {run.run_id: run.keep_steps for run in made.runs}
    for run in made.runs:
        schedule = trained_schedule(corpus, run.config)
        assert run.steps == schedule.n_steps
        if run.trunk:
            assert run.begin_step == schedule.decay_begins
            assert run.begin_step in kept[run.trunk]


def test_cluster_sampling_branches_alike(tmp_path: Path, make_corpus: Callable[..., Corpus]) -> None:
    clustered = make_corpus(tmp_path / "c", sequences={"known": 300}, clusters=80)
    for run in plan(clustered, wsd=(ARM,), sampling="cluster50").runs:
        schedule = trained_schedule(clustered, run.config)
        assert run.steps == schedule.n_steps
        assert run.begin_step in (0, schedule.decay_begins)


def test_any_arm_under_wsd_branches_and_none_under_cosine(corpus: Corpus) -> None:
    arm = GridArm(sizes=("1x16", "1x24"), D=(20_000, 40_000))
    wsd = {"schedule": "wsd", "warmup_tokens": 2_000}
    assert [bool(run.trunk) for run in plan(corpus, grid=(arm,), **wsd).runs].count(True) == 2
    assert not any(run.trunk or run.keep_steps for run in plan(corpus, grid=(arm,)).runs)
    pair = TransferArm(size="1x16", D=20_000, D_source=20_000, scratch_D=(40_000,))
    [branch] = [run for run in plan(corpus, transfer=(pair,), **wsd).runs if run.trunk]
    assert branch.roles == ("transfer_scratch",)


def test_a_warmup_that_outlasts_a_horizon_is_refused(corpus: Corpus) -> None:
    arm = WsdArm(size="1x16", D=(20_000, 80_000), warmup_tokens=18_000)
    with pytest.raises(PlanError, match="at D = 20,000 the decay begins before the warm-up has ended") as caught:
        plan(corpus, wsd=(arm,))
    assert caught.value.where == "wsd[0]"
    # In other arms such a run shares nothing, and is trained on its own.
    made = plan(corpus, grid=(GridArm(sizes=("1x16",), D=arm.D),), schedule="wsd", warmup_tokens=18_000)
    assert not any(run.trunk or run.keep_steps for run in made.runs)


def test_orders_name_trunk_and_steps_and_the_trunk_is_trained_first(
    corpus: Corpus, tmp_path: Path, trainer: str
) -> None:
    made = plan(corpus, wsd=(ARM,))
    path = made.model_copy(update={"corpus": os.path.relpath(made.corpus, tmp_path)}).write(tmp_path / "plan.json")
    made = SweepPlan.read(path)
    trunk, *branches = made.runs
    events: list[str] = []

    def heard(event: object) -> None:
        events.append(f"{event.kind} {event.key}")  # type: ignore[attr-defined]

    run_plan(made, path, tmp_path / "runs", workers=3, on_event=heard)
    order = RunFolder(tmp_path / "runs" / trunk.run_id).order()
    assert (order.trunk, order.keep_steps) == (None, trunk.keep_steps)
    for run in branches:
        assert RunFolder(tmp_path / "runs" / run.run_id).order().trunk == trunk.run_id
    assert events[0] == f"started {trunk.run_id}"
    assert events[1].endswith(trunk.run_id)  # ended, before any other started


def test_a_branch_is_trained_without_its_trunk(corpus: Corpus, tmp_path: Path, trainer: str) -> None:
    made = plan(corpus, wsd=(ARM,))
    path = made.model_copy(update={"corpus": os.path.relpath(made.corpus, tmp_path)}).write(tmp_path / "plan.json")
    made = SweepPlan.read(path)
    trunk, branch, _ = made.runs
    outcome = run_plan(made, path, tmp_path / "runs", only=[branch.run_id])
    assert outcome.complete == (branch.run_id,)
    # A trunk that failed keeps nobody from starting, either.
    folder = tmp_path / "runs" / trunk.run_id
    folder.mkdir(parents=True)
    (folder / "behave").write_text("fail")
    assert set(run_plan(made, path, tmp_path / "runs", workers=2).failed) == {trunk.run_id}
    assert run_plan(made, path, tmp_path / "runs", workers=2).n_complete == 2


def test_a_later_plan_adds_to_the_steps_that_are_kept(corpus: Corpus, tmp_path: Path, trainer: str) -> None:
    folder = tmp_path / "runs"
    for horizons in ((40_000, 80_000), (20_000, 80_000)):
        made = plan(corpus, wsd=(ARM.model_copy(update={"D": horizons}),))
        path = made.model_copy(update={"corpus": os.path.relpath(made.corpus, tmp_path)}).write(tmp_path / "p.json")
        made = SweepPlan.read(path)
        trunk = made.runs[0]
        if not folder.exists():
            (folder / trunk.run_id).mkdir(parents=True)
            (folder / trunk.run_id / "behave").write_text("stop ok")
        run_plan(made, path, folder)
    assert len(RunFolder(folder / trunk.run_id).order().keep_steps) == 2
