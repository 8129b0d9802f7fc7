"""What a spec says about all its runs, and the arms that vary how a model is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from plm_scaling.core.configs import find_config
from plm_scaling.core.errors import ConfigError, PlanError
from plm_scaling.core.recipe import batch_tokens_for, beta2_for
from plm_scaling.corpus.reader import Corpus
from plm_scaling.sweeps.plan import parse_size, plan_sweep, read_spec
from plm_scaling.sweeps.plan_records import (
    GridArm,
    MaskArm,
    PlannedRun,
    RepeatsArm,
    SweepPlan,
    SweepSpec,
    TransferArm,
)

VALUES: dict[str, object] = {"name": "test", "corpus": "c", "context": 64, "validation_tokens": 1000}
GRID = GridArm(sizes=("1x16",), D=(20_000,))


def plan(corpus: Corpus, **update: object) -> SweepPlan:
    return plan_sweep(SweepSpec.model_validate(VALUES | update), corpus, memory_bytes=1e12)


def by_objective(made: SweepPlan) -> dict[str, PlannedRun]:
    return {run.config.objective: run for run in made.runs}


def test_the_specs_choices_are_in_every_run_that_they_concern(corpus: Corpus) -> None:
    choices = {"dropout": 0.1, "weight_decay": 0.02, "spike_factor": 5.0}
    masks = {"mask_rate": 0.3, "mask_refresh": False}
    runs = by_objective(plan(corpus, grid=(GRID,), reverse_share=0.5, **choices, **masks))
    assert {name: run.config.reverse_share for name, run in runs.items()} == {"clm": 0.5, "mlm": 0.0}
    for run in runs.values():
        assert {name: getattr(run.config, name) for name in choices} == choices
    assert {name: getattr(runs["mlm"].config, name) for name in masks} == masks
    # A CLM run has no masks: the same run must not get another id.
    assert {name: getattr(runs["clm"].config, name) for name in masks} == {"mask_rate": 0.15, "mask_refresh": True}


def test_choices_at_their_defaults_change_no_id(corpus: Corpus) -> None:
    said = {"dropout": 0.0, "weight_decay": 0.1, "spike_factor": None, "mask_rate": 0.15, "mask_refresh": True}
    more = {"schedule": "cosine", "decay_fraction": 0.7, "batch_rule": "recipe", "architecture": "plm"}
    ids = [{run.run_id for run in plan(corpus, grid=(GRID,), **update).runs} for update in ({}, said | more)]
    assert ids[0] == ids[1]


def test_wsd_is_written_with_its_warmup_at_the_plans_scale(corpus: Corpus) -> None:
    values = {"schedule": "wsd", "warmup_tokens": 4000, "decay_fraction": 0.4, "grid": (GRID,)}
    spec = SweepSpec.model_validate(VALUES | values)
    config = plan_sweep(spec, corpus, scale=0.5).runs[0].config
    assert (config.schedule, config.warmup_tokens, config.decay_fraction) == ("wsd", 2000, 0.4)


def test_a_transferred_run_warms_up_twice_as_long_under_wsd_too(corpus: Corpus) -> None:
    arm = TransferArm(size="1x16", D=20_000, D_source=30_000)
    made = plan(corpus, schedule="wsd", warmup_tokens=1000, transfer=(arm,))
    tokens = {run.roles[0]: run.config.warmup_tokens for run in made.runs}
    assert tokens == {"transfer_source": 1000, "transfer_scratch": 1000, "transfer_target": 2000}


@pytest.mark.parametrize(("given", "B0"), [(None, batch_tokens_for(1e4, 5e6, "small")), (256, 256)])
def test_batches_grow_with_the_power_of_D_from_their_anchor(corpus: Corpus, given: int | None, B0: int) -> None:
    grid = GridArm(sizes=("1x16",), D=(5e6, 1e7, 8e7), objectives=("clm",))
    made = plan(corpus, batch_rule="power", batch_D=5e6, batch_tokens=given, grid=(grid,))
    batches = {run.config.D: run.config.batch_tokens for run in made.runs}
    assert batches[5_000_000] == B0
    for D, batch in batches.items():
        assert batch == pytest.approx(B0 * (D / 5e6) ** 0.383, abs=32)
        assert batch % 64 == 0


def test_beta2_follows_the_batch(corpus: Corpus) -> None:
    grid = GridArm(sizes=("1x16",), D=(1e6, 3e6), objectives=("clm",))
    made = plan(corpus, beta2_half_life_tokens=1e5, grid=(grid,))
    seen = {run.config.batch_tokens: run.config.beta2 for run in made.runs}
    assert seen == {512: beta2_for(512, 1e5), 1024: beta2_for(1024, 1e5)}
    assert seen[512] > seen[1024]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mask_rate = 0.9", "a mask rate of 0.9 is outside 0.05 to 0.6"),
        ("mask_rate = 0.01", "outside 0.05 to 0.6"),
        ("dropout = 1.0", "dropout"),
        ("weight_decay = -0.1", "weight_decay"),
        ("spike_factor = 0.5", "spike_factor"),
        ('schedule = "wsd"', "wsd needs warmup_tokens"),
        ('batch_rule = "power"', "power needs batch_D"),
        ("warmup = 3", "warmup: unknown key"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_with_a_reason(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(f'name = "s"\ncorpus = "c"\n{line}\n[[grid]]\nsizes = ["1x16"]\nD = [1e4]\n')
    with pytest.raises(ConfigError, match=message) as caught:
        read_spec(path)
    assert caught.value.where.startswith(str(path))


# ---- regularisation of repeated data -------------------------------------------------------------------------------


def test_repeats_cross_the_regularisers_and_the_law_keeps_the_specs_own(corpus: Corpus) -> None:
    arm = RepeatsArm(
        size="1x16", D=40_000, unique_tokens=(10_000,), dropout=(0.0, 0.2), weight_decay=(0.1, 0.5), objectives=("clm",)
    )
    made = plan(corpus, repeats=(arm,))
    seen = {(r.config.streams[0].unique_tokens, r.config.dropout, r.config.weight_decay): r for r in made.runs}
    assert set(seen) == {(U, d, w) for U in (None, 10_000) for d in (0.0, 0.2) for w in (0.1, 0.5)}
    for (_, dropout, decay), run in seen.items():
        usual = (dropout, decay) == (0.0, 0.1)
        assert run.roles == (("repeats", "regularisation") if usual else ("regularisation",))
    # Ten epochs are what the arm asks for; the reference on all the data makes none.
    assert {run.notes for run in made.runs} <= {("FEW_STEPS",)}


def test_one_list_leaves_the_other_factor_to_the_spec(corpus: Corpus) -> None:
    arm = RepeatsArm(size="1x16", D=40_000, unique_tokens=(), dropout=(0.1, 0.3), objectives=("clm",))
    made = plan(corpus, weight_decay=0.3, repeats=(arm,))
    assert {(run.config.dropout, run.config.weight_decay, run.roles) for run in made.runs} == {
        (0.1, 0.3, ("regularisation",)),
        (0.3, 0.3, ("regularisation",)),
    }


def test_static_masks_of_the_spec_are_those_of_a_repeats_arm(corpus: Corpus) -> None:
    arm = RepeatsArm(size="1x16", D=40_000, unique_tokens=())
    runs = by_objective(plan(corpus, mask_refresh=False, repeats=(arm,)))
    assert (runs["mlm"].config.mask_refresh, runs["clm"].config.mask_refresh) == (False, True)


# ---- mask rates ------------------------------------------------------------------------------------------------------


def test_mask_rates_are_mlm_runs_of_one_size_and_D(corpus: Corpus) -> None:
    arm = MaskArm(size="1x16", D=20_000, mask_rates=(0.05, 0.15, 0.6), seeds=(0, 1))
    made = plan(corpus, mask=(arm,))
    assert {(run.config.mask_rate, run.config.seed) for run in made.runs} == {
        (rate, seed) for rate in arm.mask_rates for seed in (0, 1)
    }
    assert {(run.config.objective, run.config.D, run.roles) for run in made.runs} == {("mlm", 20_000, ("mask_ratio",))}


def test_the_usual_mask_rate_is_the_run_that_other_arms_share(corpus: Corpus) -> None:
    made = plan(corpus, grid=(GRID,), mask=(MaskArm(size="1x16", D=20_000, mask_rates=(0.15, 0.3)),))
    roles = {(run.config.objective, run.config.mask_rate): run.roles for run in made.runs}
    assert roles == {("clm", 0.15): ("grid",), ("mlm", 0.15): ("grid", "mask_ratio"), ("mlm", 0.3): ("mask_ratio",)}


@pytest.mark.parametrize("rates", [(), (0.15, 0.7), (0.01,)])
def test_mask_rates_outside_the_usual_are_refused(rates: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="mask_rates"):
        MaskArm(size="1x16", D=20_000, mask_rates=rates)


def test_an_arm_that_is_wrong_is_named(corpus: Corpus) -> None:
    with pytest.raises(PlanError) as caught:
        plan(corpus, mask=(MaskArm(size="1x17", D=20_000, mask_rates=(0.3,)),))
    assert caught.value.where == "mask[0]"


# ---- shipped examples ------------------------------------------------------------------------------------------------


def test_the_shipped_examples_can_be_planned(corpus: Corpus, tmp_path: Path) -> None:
    wsd = plan_sweep(read_spec(find_config("wsd")), corpus, scale=0.2)
    assert [bool(run.trunk) for run in wsd.runs].count(False) == 3 * 2  # a trunk per size and objective
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "esm2_t6_8M_UR50D.pt").write_bytes(b"weights")
    (tmp_path / "continued.toml").write_text(find_config("continued").read_text())
    made = plan_sweep(read_spec(tmp_path / "continued.toml"), corpus, scale=1e-3)
    roles = [run.roles[0] for run in made.runs]
    assert {role: roles.count(role) for role in set(roles)} == {"continued": 4, "continued_first": 1, "distil": 4}
    esm2 = [run for run in made.runs if run.config.init_from]
    assert {run.config.N for run in esm2} == {parse_size("esm2-8m").N}
