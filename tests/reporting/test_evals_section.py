"""The report's section on tasks: what it concludes follows from the rows, with correction, and from nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from plm_scaling.core.errors import RecordError
from plm_scaling.evals.adapters.base import ModelInfo
from plm_scaling.evals.results import FloorScore, ResultRow, append_rows
from plm_scaling.reporting.evals_section import conclusions, evals_sections
from plm_scaling.reporting.evals_view import task_views
from plm_scaling.reporting.loading import load_study
from plm_scaling.reporting.page import render_page
from plm_scaling.reporting.study import Study

FLOORS = (FloorScore(name="BLOSUM62", value=0.3, low=0.28, high=0.32), FloorScore(name="random", value=0.0))


def row(name: str, value: float, *, origin: str = "run", loss: float | None = 9.9, half: float = 0.02) -> ResultRow:
    info = ModelInfo(name=name, family="own", objective="clm", origin=origin, abilities=("causal",), C=1e12, loss=loss)
    return ResultRow(
        task="proteingym.subs", task_version=1, data_sha256="d", model=info, protocol="clm", metric="spearman",
        higher_is_better=True, value=value, low=value - half, high=value + half, n=217, floors=FLOORS,
        warnings=("Scores follow the length.",),
    )  # fmt: skip


@pytest.fixture(scope="module")
def scored(full_study: Study) -> Study:
    """Runs of one objective whose score falls by 0.1 per nat, so that all but one lie under the floor."""
    runs = full_study.table.of("clm").rows[:6]
    rows = [row(run.run_id, 0.4 - 0.1 * run.loss) for run in runs]
    rows[2] = row(runs[2].run_id, 0.6)
    return dataclasses.replace(full_study, scores=(*rows, row("random 1", 0.1, origin="random weights, seed 0")))


def test_a_run_above_the_floor_by_less_than_chance_among_many_is_no_gain(scored: Study) -> None:
    (view,) = task_views(scored)
    assert (len(view.runs), len(view.controls), view.above_floor, view.above_control) == (6, 1, 1, 6)
    first = conclusions(view)[0]
    assert "1 of 6 runs beat the best floor, BLOSUM62 at 0.300" in first
    assert "6 of 6 are better than the best random weights" in first
    # Above the floor at one in 30 alone, which six runs make likely.
    near = [row(run.model.name, 0.33 if k == 0 else 0.2, half=0.026) for k, run in enumerate(view.runs)]
    (close,) = task_views(dataclasses.replace(scored, scores=tuple(near)))
    assert close.above_floor == 0
    assert "no run detectably beats the best floor" in conclusions(close)[0]
    assert "No random-weights control was asked" in conclusions(close)[0]
    (alone,) = task_views(dataclasses.replace(scored, scores=tuple(near[:1])))
    assert alone.above_floor == 1


def test_the_loss_of_a_row_is_that_of_the_page(scored: Study) -> None:
    (view,) = task_views(scored)
    losses = {run.run_id: run.loss for run in scored.table}
    assert all(one.model.loss == losses[one.model.name] for one in view.runs)
    straight = [row(one.model.name, 0.4 - 0.1 * losses[one.model.name]) for one in view.runs]
    (line,) = task_views(dataclasses.replace(scored, scores=tuple(straight)))
    said = conclusions(line)[1]
    assert "CLM: the metric rises by 0.100" in said
    assert "per nat of lower loss" in said
    elsewhere = (row("other", 0.2), row("another", 0.3))
    (foreign,) = task_views(dataclasses.replace(scored, scores=elsewhere))
    assert conclusions(foreign) == ("proteingym.subs (spearman): no run of this study has answered.",)


def test_the_section_labels_what_was_read_and_says_every_alarm(scored: Study) -> None:
    ids = {one.model.name for one in scored.scores}
    page = render_page(Study(name="s", table=scored.table.where(lambda run: run.run_id in ids), scores=scored.scores))
    assert page.count(">run of the study<") == 5
    assert ">random weights, best of 1<" in page
    assert ">best floor, no language model<" in page
    assert page.count(">published, read<") == 6
    assert "12 comparisons" in page
    assert "7 of 7 models: Scores follow the length." in page
    assert page.count('<a href="#evaluations">') == 2
    assert "beats the best floor without a language model on proteingym.subs." in page
    assert "1 of 6 runs beat the best floor, BLOSUM62 at 0.300" in page
    assert evals_sections(dataclasses.replace(scored, scores=())) == ()


def test_results_lie_in_the_folder_or_are_named(
    scored: Study, write_study: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = write_study(tmp_path / "study")
    append_rows(folder / "evals" / "rows.jsonl", [*scored.scores, scored.scores[0]])
    (folder / "evals" / "bad.jsonl").write_text('{"schema_version": 99}\n')
    study = load_study(folder)
    assert study.scores == scored.scores
    assert any("evals/bad.jsonl cannot be read" in said for said in study.missing)
    append_rows(tmp_path / "one.jsonl", scored.scores[:1])
    assert load_study(folder, evals=(tmp_path / "one.jsonl",)).scores == scored.scores[:1]
    with pytest.raises(RecordError):
        load_study(folder, evals=(folder / "evals" / "bad.jsonl",))
