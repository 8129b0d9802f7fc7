"""One tiny run of every arm that varies how a model is trained, really trained from its plan."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from plm_scaling.core.run_folder import RunFolder
from plm_scaling.corpus.reader import Corpus
from plm_scaling.laws.tuning import lr_corners
from plm_scaling.sweeps.plan import plan_sweep
from plm_scaling.sweeps.plan_records import SweepPlan, SweepSpec
from plm_scaling.sweeps.reconcile import run_plan
from plm_scaling.sweeps.runs import collect_runs

CONTINUED = {"objective": "mlm", "D": 4_000}


def planned(corpus: Corpus, folder: Path, **update: object) -> tuple[SweepPlan, Path]:
    values = {"name": "t", "corpus": "c", "context": 64, "validation_tokens": 500, "validation_points": 1}
    made = plan_sweep(SweepSpec.model_validate(values | {"batch_tokens": 256} | update), corpus, memory_bytes=1e12)
    path = made.model_copy(update={"corpus": os.path.relpath(made.corpus, folder)}).write(folder / "plan.json")
    return SweepPlan.read(path), path


def carried_out(plan: SweepPlan, path: Path, runs: Path) -> None:
    outcome = run_plan(plan, path, runs, workers=2, device="cpu")
    assert outcome.all_complete, (outcome.failed, outcome.incomplete)


@pytest.mark.slow
def test_every_arm_trains_and_a_branch_ends_as_if_trained_from_scratch(
    tmp_path: Path, make_corpus: Callable[..., Corpus]
) -> None:
    from safetensors.torch import load_file

    from plm_scaling.core.architecture import ModelShape
    from plm_scaling.models.esm2 import Esm2
    from plm_scaling.models.esm2_files import Esm2Weights, save_hf_esm2

    corpus = make_corpus(tmp_path / "corpus", sequences={"known": 120, "meta": 60})
    shape = ModelShape(architecture="esm2", n_layers=1, d_model=16, n_heads=2)
    foreign = save_hf_esm2(Esm2Weights.of(Esm2(shape, causal=False, context=64)), tmp_path / "esm")
    arm = CONTINUED | {"from": str(foreign)}
    plan, path = planned(
        corpus,
        tmp_path,
        objectives=("mlm",),
        wsd=[{"size": "1x16", "D": [4_000, 8_000], "warmup_tokens": 1_000, "decay_fraction": 0.4}],
        mask=[{"size": "1x16", "D": 4_000, "mask_rates": [0.3]}],
        repeats=[{"size": "1x16", "D": 4_000, "unique_tokens": [2_000], "dropout": [0.1], "weight_decay": [0.3]}],
        continued=[
            arm,
            arm | {"method": "lora", "lora_rank": 2},
            arm | {"remedy": "quality_first", "quality_exclude": ["fragment"]},
        ],
        distil=[{"sizes": ["1x8"], "teacher": str(foreign), "objective": "mlm", "D": 4_000, "shares": [0.5]}],
    )
    carried_out(plan, path, tmp_path / "runs")
    [branch] = [run for run in plan.runs if run.trunk]

    table = collect_runs(tmp_path / "runs")
    assert len(table) == len(plan.runs)
    by_id = {row.run_id: row for row in table}
    for run in plan.runs:
        row = by_id[run.run_id]
        assert np.isfinite(row.loss)
        assert (row.schedule, row.architecture) == (run.config.schedule, run.config.architecture)
        assert row.mask_ratio == run.config.mask_rate
        assert row.source_run_id == run.config.init_from

    # The same horizon planned alone is the same run, and ends with the same weights, bit for bit.
    (tmp_path / "alone").mkdir()
    alone, alone_path = planned(
        corpus,
        tmp_path / "alone",
        objectives=("mlm",),
        wsd=[{"size": "1x16", "D": [4_000], "warmup_tokens": 1_000, "decay_fraction": 0.4}],
    )
    assert [run.run_id for run in alone.runs] == [branch.run_id]
    carried_out(alone, alone_path, tmp_path / "alone" / "runs")
    branched, scratch = (RunFolder(folder / "runs" / branch.run_id) for folder in (tmp_path, tmp_path / "alone"))
    assert branched.metrics()[0]["step"] > branch.begin_step >= scratch.metrics()[0]["step"]
    one, other = (load_file(folder.weights_path) for folder in (branched, scratch))
    assert one.keys() == other.keys()
    assert all((one[name] == other[name]).all() for name in one)


@pytest.mark.slow
def test_controls_probes_and_the_parts_of_a_mixture_are_read_off_the_records(
    tmp_path: Path, make_corpus: Callable[..., Corpus]
) -> None:
    corpus = make_corpus(tmp_path / "corpus", sequences={"known": 600, "meta": 600})
    arm = {"size": "1x8", "D": 8_000, "first": "known", "second": "meta", "shares": (0.25, 0.5, 0.75)}
    plan, path = planned(
        corpus,
        tmp_path,
        validation_tokens=20_000,
        diversity=[arm | {"unique_tokens": 1_000}],
        transfer=[{"size": "1x8", "D": 6_000, "D_source": 2_000, "controls": ["rewarmed", "shuffled"]}],
        lr_probe=[{"sizes": ("1x8", "1x16"), "D": (4_000, 8_000), "objectives": ("clm",)}],
    )
    runs = tmp_path / "runs"
    carried_out(plan, path, runs)
    tables = {name: collect_runs(runs, validation=name) for name in ("val_iid", "val_iid@known", "val_iid@meta")}
    everything = {run.run_id for run in plan.runs}
    assert all({row.run_id for row in table} == everything for table in tables.values())
    # Repetition is the epochs of the first source, shift the share of the second: the record states both.
    diversity = [row for row in tables["val_iid"] if row.has_role("diversity")]
    design = {(row.objective, row.streams, round(row.epochs or 0.0, 3)) for row in diversity}
    assert len({streams for _, streams, _ in design}) == 5
    assert {objective for objective, _, _ in design} == {"clm", "mlm"}
    repeated = {row.streams: row.epochs or 0.0 for row in diversity}
    assert max(repeated.values()) > 4 > 1.5 > min(repeated.values())
    by_run = {row.run_id: row for row in tables["val_iid"]}
    moved = [row for row in by_run.values() if row.source_run_id]
    assert {(row.role, row.source_objective, row.source_control) for row in moved} == {
        ("transfer_target", "clm", None),
        ("transfer_target", "clm", "shuffled"),
        ("rewarmed", "mlm", None),
    }
    assert len({row.loss for row in moved}) == 3
    corners = lr_corners(tables["val_iid"], "clm", None)
    assert len(corners) == 4
    assert {len(corner.losses) for corner in corners} == {3}
