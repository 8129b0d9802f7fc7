"""Tasks are put to models once, failures cost one step, and scores are kept for comparisons."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from plm_scaling.core.errors import ConfigError, RecordError, RefusedError
from plm_scaling.evals import likelihood_tasks
from plm_scaling.evals.adapters.base import Adapter
from plm_scaling.evals.adapters.doubles import MarkovModel, UniformModel
from plm_scaling.evals.pairs import paired_rows
from plm_scaling.evals.results import read_rows
from plm_scaling.evals.run_tasks import load_scores, run_tasks
from plm_scaling.evals.task import Answer, Asked, Scored, Task, answer_of, match_tasks, sample_rows

TRUTH = np.arange(40.0)


def told_by_file(task: Task, adapter: Adapter, asked: Asked) -> list[Answer]:
    """Scores that lie in a file."""
    started = time.perf_counter()
    scores = np.loadtxt(task.paths(asked)[0])
    which = sample_rows(len(scores), asked)
    scored = Scored(
        TRUTH[which], scores[which], "from a file", clusters=tuple(f"c{k // 4}" for k in which), tokens=40.0
    )
    return [answer_of(task, adapter, asked, scored, started=started)]


FILE = Task("made.file", "zero-shot", "scores of a file", "spearman", True, (), told_by_file, files=("scores.txt",))


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    np.savetxt(tmp_path / "data" / "deep" / "scores.txt", TRUTH + 10 * np.sin(TRUTH))
    return Asked(data=tmp_path / "data", resamples=100)


def test_a_question_is_asked_once(tmp_path: Path, asked: Asked) -> None:
    out = tmp_path / "rows.jsonl"
    (first,) = run_tasks([UniformModel], [FILE], asked, out)
    (row,) = read_rows(out)
    assert first.rows == (row,)
    assert (row.n, row.clusters, row.model.name, row.limit) == (40, "", UniformModel().info.name, None)
    assert row.low is not None
    assert row.low < row.value < 1
    assert [step.outcome for step in run_tasks([UniformModel], [FILE], asked, out)] == ["kept"]
    for other in (replace(asked, limit=10), replace(asked, seed=1), replace(asked, resamples=60)):
        assert [step.outcome for step in run_tasks([UniformModel], [FILE], other, out)] == ["done"]
    assert asked.data is not None
    np.savetxt(asked.data / "deep" / "scores.txt", TRUTH)
    assert [step.outcome for step in run_tasks([UniformModel], [FILE], asked, out)] == ["done"]
    rows = read_rows(out)
    assert [one.value == pytest.approx(1.0) for one in rows] == [False, False, False, False, True]
    truth, scores, clusters = load_scores(out, rows[1])
    assert len(truth) == len(scores) == len(clusters) == 10
    np.testing.assert_array_equal(load_scores(out, rows[0])[0], TRUTH)
    with pytest.raises(RecordError, match="are not there"):
        load_scores(tmp_path / "elsewhere.jsonl", rows[0])


def test_sizes_that_contradict_each_other_are_an_alarm_in_the_row(tmp_path: Path, asked: Asked) -> None:
    """In the row that completes it and in those that follow; its sentence once, and never in a control's row."""

    def signed(task: Task, adapter: Adapter, asked: Asked) -> list[Answer]:
        sign = -1.0 if adapter.info.name == "small" else 1.0
        return [answer_of(task, adapter, asked, Scored(TRUTH, sign * (TRUTH + 10 * np.sin(TRUTH)), "made"))]

    def of(name: str, N: int, origin: str = "made") -> UniformModel:
        model = UniformModel(name=name)
        model._info = model.info.model_copy(update={"family": "progen2", "N": N, "origin": origin})
        return model

    out = tmp_path / "rows.jsonl"
    models = [of("small", 1), of("control", 9, "random weights, seed 0"), of("large", 10), of("larger", 11)]
    for model in models:  # call by call, as a user adds models to a file
        run_tasks([lambda model=model: model], [replace(FILE, measure=signed)], asked, out)
    rows = read_rows(out)
    assert [row.flags.count("SIGN_FLIP") for row in rows] == [0, 0, 1, 1]
    assert [sum("the other way round" in said for said in row.warnings) for row in rows] == [0, 0, 1, 0]


def test_what_fails_costs_one_step(tmp_path: Path, asked: Asked) -> None:
    def fails(task: Task, adapter: Adapter, asked: Asked) -> list[Answer]:
        raise RefusedError("no contact here", why="made so")

    bad = replace(FILE, name="made.bad", measure=fails)
    cannot = replace(FILE, name="made.attend", needs=("attend",))
    missing = replace(FILE, name="made.missing", files=("nowhere.csv",))
    steps = run_tasks([UniformModel], [bad, cannot, missing, FILE], asked, tmp_path / "rows.jsonl")
    assert [step.outcome for step in steps] == ["failed", "cannot", "no data", "done"]
    assert "no contact here" in steps[0].why
    assert "attend" in steps[1].why
    assert "nowhere.csv" in steps[2].why
    assert len(read_rows(tmp_path / "rows.jsonl")) == 1


def test_tasks_are_found_by_pattern() -> None:
    tasks = [replace(FILE, name=name) for name in ("a.x", "a.y", "b.x")]
    assert [task.name for task in match_tasks(["*.x", "a.*"], tasks)] == ["a.x", "a.y", "b.x"]
    with pytest.raises(RefusedError, match=r"no task is called 'c\.\*'"):
        match_tasks(["c.*"], tasks)
    with pytest.raises(ConfigError, match="at least one example"):
        sample_rows(5, Asked(limit=0))


def test_proteins_of_one_family_have_an_interval_of_that_family(tmp_path: Path, monkeypatch) -> None:
    proteins = ["MKTAYIAKQR", "MKTAYIAKQW", "MKTAYIVKQRL", "MKTWYIAKQR"]
    (tmp_path / "family.fasta").write_text("".join(f">p{k}\n{letters}\n" for k, letters in enumerate(proteins)))
    monkeypatch.setattr(likelihood_tasks.shutil, "which", lambda _: "mmseqs")
    monkeypatch.setattr(likelihood_tasks, "cluster_sequences", lambda found: np.zeros(len(found), dtype=np.int64))
    likelihood_tasks._clusters.cache_clear()
    asked = Asked(sequences=tmp_path / "family.fasta", resamples=100)
    tasks = match_tasks(["site_nats", "perplexity.mlm1"], likelihood_tasks.TASKS)
    steps = run_tasks([UniformModel], tasks, asked, tmp_path / "rows.jsonl")
    rows = [row for step in steps for row in step.rows]
    likelihood_tasks._clusters.cache_clear()
    assert [row.task for row in rows] == ["site_nats", "perplexity.mlm1"]
    assert [row.value for row in rows] == pytest.approx([np.log(20)] * 2)
    assert all("relatives" in row.warnings[0] for row in rows)
    site_rows = load_scores(tmp_path / "rows.jsonl", rows[0])[2]
    assert len(set(site_rows)) == len(proteins)
    run_tasks([lambda: MarkovModel(np.full((20, 20), 0.05), name="chain")], tasks, asked, tmp_path / "rows.jsonl")
    compared = paired_rows(tmp_path / "rows.jsonl", rows[0].model.name)
    assert [(row.task, row.value) for row in compared] == [("site_nats", pytest.approx(np.log(20)))]
    with pytest.raises(RefusedError, match=r"(?s)nothing to compare.*perplexities are not compared in pairs"):
        paired_rows(tmp_path / "rows.jsonl", rows[0].model.name, tasks=["perplexity.*"])
