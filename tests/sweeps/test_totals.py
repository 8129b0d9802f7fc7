from __future__ import annotations

import json
from pathlib import Path

import pytest

from plm_scaling import api
from plm_scaling.core.errors import ConfigError, RecordError
from plm_scaling.corpus.reader import Corpus
from plm_scaling.sweeps.isoflop_view import isoflop_view
from plm_scaling.sweeps.plan import plan_sweep
from plm_scaling.sweeps.plan_records import IsoflopArm, SweepPlan, SweepSpec
from plm_scaling.sweeps.reconcile import run_plan
from plm_scaling.sweeps.status import RunLine
from plm_scaling.sweeps.totals import STATES, sweep_totals

ISOFLOP = (
    IsoflopArm(C=3e9, sizes=("1x16", "1x24"), objectives=("clm",), seeds=(0, 1)),
    IsoflopArm(C=9e9, sizes=("1x16", "1x32"), objectives=("clm", "mlm")),
)


@pytest.fixture
def plan(corpus: Corpus) -> SweepPlan:
    return plan_sweep(SweepSpec(name="t", corpus="c", context=64, currency="C_6nd", isoflop=ISOFLOP), corpus)


def running(run_id: str = "b") -> RunLine:
    return RunLine(
        run_id, "running", D=1000, D_done=400, D_unique=300, C_exact=4e6, C_planned=1e7, tokens_per_s=10.0, device_s=60
    )


def test_totals_are_sums_and_every_state_is_named() -> None:
    done = RunLine("a", "complete", D=1000, D_done=1000, D_unique=1000, C_exact=1e7, C_planned=1e7, device_s=3540)
    totals = sweep_totals([done, running(), RunLine("c", "failed", C_planned=5e6)], usd_per_hour=2.0)
    assert tuple(totals.counts) == STATES
    assert totals.counts == dict.fromkeys(STATES, 0) | {"complete": 1, "running": 1, "failed": 1}
    assert (totals.C_exact, totals.C_estimated, totals.C_planned) == (1.4e7, 4e6, 2.5e7)
    assert (totals.D, totals.D_unique, totals.D_repeated) == (1400, 1300, 100)
    assert (totals.device_s, totals.usd) == (3600, 2.0)
    # The running run has 6e6 of its 1e7 FLOPs left, at 1e4 FLOPs per token and 10 tokens/s; the failed one is left out.
    assert totals.flops_per_s == pytest.approx(1e5)
    assert totals.seconds_left == pytest.approx(60.0)


def test_what_is_not_known_is_none() -> None:
    totals = sweep_totals([running(), RunLine("c", "planned")])
    assert (totals.usd, totals.C_planned, totals.seconds_left) == (None, None, None)
    assert sweep_totals([RunLine("c", "planned", C_planned=1.0)]).seconds_left is None
    empty = sweep_totals([])
    assert (empty.n_runs, empty.C_exact, empty.C_planned) == (0, 0.0, 0.0)
    with pytest.raises(ConfigError, match="price"):
        sweep_totals([], usd_per_hour=-1.0)


def test_totals_of_complete_runs_are_those_of_their_records(plan: SweepPlan, tmp_path: Path, trainer: str) -> None:
    plan.write(tmp_path / "plan.json")
    assert run_plan(plan, tmp_path / "plan.json", tmp_path / "runs", workers=2).all_complete
    found = api.status(tmp_path / "runs")
    records = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/record.json")]
    assert len(records) == len(plan.runs) == len(found)
    assert found.totals.C_exact == pytest.approx(sum(record["C_exact"] for record in records))
    assert (found.totals.C_estimated, found.totals.D_repeated) == (0.0, 0)
    assert found.totals.device_s == len(records)
    assert (found.is_settled, found.all_complete) == (True, True)
    assert found[0] is found.lines[0]
    (row,) = {line.C for line in isoflop_view(found.lines) if line.objective == "mlm"}
    assert row == pytest.approx(1.5 * 9e9, rel=0.06)  # the stand-in counts 1.5 x 6 N D


def test_the_early_isoflop_view_has_every_size_with_its_mean_loss(plan: SweepPlan, tmp_path: Path) -> None:
    plan.write(tmp_path / "plan.json")
    (tmp_path / "runs").mkdir()
    rows = api.status_isoflop(api.status(tmp_path / "runs"))
    assert {(row.objective, row.shape, row.complete, row.runs, row.val_loss) for row in rows} == {
        ("clm", "1x16", 0, 1, None),
        ("clm", "1x32", 0, 1, None),
        ("clm", "1x16", 0, 2, None),
        ("clm", "1x24", 0, 2, None),
        ("mlm", "1x16", 0, 1, None),
        ("mlm", "1x32", 0, 1, None),
    }
    assert not any(row.is_best for row in rows)
    small = {"objective": "clm", "roles": "isoflop", "D": 10, "C_planned": 1e9}
    lines = [
        RunLine("a", "complete", shape="1x16", N=100, val_loss=2.0, **small),
        RunLine("b", "complete", shape="1x16", N=100, val_loss=3.0, **small),
        RunLine("c", "complete", shape="1x24", N=200, val_loss=2.4, **small),
        RunLine("d", "running", shape="1x32", N=300, loss=1.0, **small),
        RunLine("e", "complete", shape="1x64", N=900, val_loss=1.0, **(small | {"roles": "repeats"})),
        RunLine("f", "complete", shape="1x64", N=900, val_loss=1.0, **(small | {"C_planned": 2e9})),
    ]
    view = isoflop_view(lines)
    assert [(row.shape, row.complete, row.runs, row.val_loss, row.is_best) for row in view] == [
        ("1x16", 2, 2, 2.5, False),
        ("1x24", 1, 1, 2.4, True),
        ("1x32", 0, 1, None, False),
    ]


def test_a_damaged_plan_is_left_out_unless_it_was_named(plan: SweepPlan, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(plan.to_json()[:-50])
    (tmp_path / "runs").mkdir()
    found = api.status(tmp_path / "runs")
    assert len(found) == 0
    assert "plan.json" in found.remarks[0]
    with pytest.raises(RecordError, match="SweepPlan"):
        api.status(tmp_path / "runs", plan=tmp_path / "plan.json")


def test_watch_looks_until_all_has_ended(plan: SweepPlan, tmp_path: Path, trainer: str) -> None:
    plan.write(tmp_path / "plan.json")
    (tmp_path / "runs").mkdir()
    looks = api.watch(tmp_path / "runs", every=0.01)
    assert not next(looks).is_settled
    assert next(looks).totals.counts["planned"] == len(plan.runs)
    run_plan(plan, tmp_path / "plan.json", tmp_path / "runs", workers=2)
    assert [found.all_complete for found in looks] == [True]
