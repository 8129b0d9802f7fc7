"""Models of a file of results against each other, and against size, compute, loss and what is published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.evals.adapters.base import Adapter, ModelInfo
from plm_scaling.evals.adapters.doubles import UniformModel
from plm_scaling.evals.assays import load_assay_scores
from plm_scaling.evals.baselines import find_baselines
from plm_scaling.evals.frontier import frontier_of, loss_frontiers
from plm_scaling.evals.pairs import paired_rows
from plm_scaling.evals.results import FloorScore, ResultRow, append_rows, read_rows
from plm_scaling.evals.run_tasks import run_tasks
from plm_scaling.evals.task import Answer, Asked, Scored, Task, answer_of


def info(name: str, C: float, loss: float, origin: str = "run") -> ModelInfo:
    abilities = ("masked", "embed")
    return ModelInfo(name=name, family="own", objective="mlm", origin=origin, abilities=abilities, C=C, loss=loss, N=10)


def row(model: ModelInfo, value: float, **more: object) -> ResultRow:
    said = {
        "task": "proteingym.subs", "task_version": 1, "data_sha256": "d", "model": model,
        "protocol": "masked_marginals", "metric": "spearman", "higher_is_better": True, "value": value, "n": 217,
    }  # fmt: skip
    return ResultRow.model_validate(said | more)


def test_the_frontier_has_slopes_published_models_and_doubts(tmp_path: Path) -> None:
    out, rng = tmp_path / "rows.jsonl", np.random.default_rng(0)
    C = np.geomspace(1e16, 1e19, 7)
    values = 0.1 + 0.05 * np.log10(C / 1e16) + 0.002 * rng.standard_normal(7)
    loss = 3.0 - 0.2 * np.log10(C / 1e16)
    models = [info(f"m{k}", float(c), float(one)) for k, (c, one) in enumerate(zip(C, loss, strict=True))]
    floor = FloorScore(name="site-independent", value=0.359)
    append_rows(out, [row(m, float(v), floors=(floor,)) for m, v in zip(models, values, strict=True)])
    found = frontier_of(out, "proteingym.subs")
    assert [p.model for p in found.points[:7]] == [m.name for m in models]
    published = {p.model: p for p in found.points if p.source == "published"}
    assert published["esm2_t33_650M_UR50D"].value == pytest.approx(0.414)
    slope, of_loss = found.slopes["mlm"], found.slopes_of_loss["mlm"]
    assert slope.low < 0.05 < slope.high
    assert of_loss.value == pytest.approx(-slope.value / 0.2, rel=1e-6)
    assert {"NO_CONTROL", "FLOORS_WIN"} <= set(found.flags)
    append_rows(out, [row(info("r", 0.0, 3.0, "random weights, seed 0"), 0.1), row(models[0], 0.2, protocol="wt")])
    later = frontier_of(out, "proteingym.subs")
    assert "NO_CONTROL" not in later.flags
    assert "MIXED_PROTOCOLS" in later.flags
    assert [p.control for p in later.points if p.source == "computed"][-1]
    parts = {"Function_Binding": "esm2_t33_650M_UR50D", "A0A140D2T1_ZIKV_Sourisseau_2019": "progen2-small"}
    scores = load_assay_scores()
    append_rows(out, [row(models[0], 0.2, task=f"proteingym.subs/{part}") for part in parts])
    for part, model in parts.items():  # a group of the leaderboard, and a single assay
        (one,) = (p for p in frontier_of(out, f"proteingym.subs/{part}").points if p.model == model)
        column = scores.scores_MA[scores.models.index(model)]
        single = column[scores.assays.index(part)] if part in scores.assays else None
        (mean,) = find_baselines(model=model, benchmark="proteingym.subs", split=part) if single is None else (None,)
        assert (one.source, one.N is None) == ("published", False)
        assert one.value == (single if mean is None else mean.value)
    with pytest.raises(RefusedError, match="no rows of 'contacts'"):
        frontier_of(out, "contacts")


def test_models_are_paired_on_the_same_examples(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    truth = rng.standard_normal(60)
    made = {"good": truth + 0.2 * rng.standard_normal(60), "poor": truth + 3 * rng.standard_normal(60)}

    def scores(task: Task, adapter: Adapter, asked: Asked) -> list[Answer]:
        return [answer_of(task, adapter, asked, Scored(truth, made[adapter.info.name], "made"))]

    task = Task("made.scores", "zero-shot", "made", "spearman", True, (), scores)
    out = tmp_path / "rows.jsonl"
    run_tasks([lambda n=name: UniformModel(name=n) for name in made], [task], Asked(resamples=50), out)
    (paired,) = paired_rows(out, "good")
    assert (paired.model, paired.against) == ("poor", "good")
    assert paired.difference.value == pytest.approx(paired.value - paired.value_against)
    assert paired.difference.high < 0
    assert paired.p_holm < 0.05
    with pytest.raises(ConfigError, match="'goof' has no row"):
        paired_rows(out, "goof")
    made["third"] = made["good"][:50]
    truth = truth[:50]
    run_tasks([lambda: UniformModel(name="third")], [task], Asked(resamples=50), out)
    with pytest.raises(RefusedError, match="answered other examples"):
        paired_rows(out, "good")


def test_site_nats_of_both_objectives_are_one_scale_and_other_letters_are_not(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    ways = ("site nats/masked/letters 20", "site nats/causal/forward/letters 20", "site nats/masked/letters raw")
    for count, way in enumerate(ways):
        asked = row(info(f"m{count}", 1e9, 2.0), 2.5, protocol=way)
        append_rows(out, [asked.model_copy(update={"task": "site_nats", "metric": "site_nats"})])
        found = frontier_of(out, "site_nats")
        assert ("MIXED_PROTOCOLS" in found.flags) == (count == 2)


def test_a_slope_rests_on_models_that_were_asked_alike_and_is_refused_to_two(tmp_path: Path) -> None:
    out, rng = tmp_path / "rows.jsonl", np.random.default_rng(2)
    loss = np.array([2.5, 2.6, 2.6, 2.8, 3.0])
    value = 0.9 - 0.2 * loss + 0.01 * rng.standard_normal(5)
    asked = [row(info(f"m{k}", 1e15, float(x)), float(y)) for k, (x, y) in enumerate(zip(loss, value, strict=True))]
    append_rows(out, asked[:3])
    few = frontier_of(out, "proteingym.subs")
    assert few.slopes_of_loss == {}
    assert few.refused == {"mlm": "2 different losses among the models, 3 are needed"}
    other = [one.model_copy(update={"value": 0.0, "limit": 9}) for one in asked[:4]]
    append_rows(out, [*asked[3:], *other])
    found = frontier_of(out, "proteingym.subs")
    line = scipy.stats.linregress(loss, value)
    half = line.stderr * scipy.stats.t.ppf(0.975, 3)
    slope = found.slopes_of_loss["mlm"]
    assert (slope.value, slope.low, slope.high) == pytest.approx((line.slope, line.slope - half, line.slope + half))
    assert "MIXED_SAMPLES" in found.flags
    far = row(info("far", 1e15, 6.0), 0.9)
    append_rows(out, [far])
    with_far = frontier_of(out, "proteingym.subs")
    assert with_far.far == ("far",)
    assert with_far.slopes_of_loss == found.slopes_of_loss
    assert any("far: so far from the other runs (loss 6.000)" in said for said in with_far.warnings)
    assert [one.task for one in loss_frontiers(read_rows(out))] == ["proteingym.subs"]
