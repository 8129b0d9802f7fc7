"""Heads on activations: what they find, what random weights find with the same head, and floors on the same rows."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.evals import residue_tasks
from plm_scaling.evals.adapters.base import Float32Array, ModelInfo, Pool
from plm_scaling.evals.adapters.doubles import UniformModel
from plm_scaling.evals.adapters.own_models import random_weights
from plm_scaling.evals.encodings import letter_matrix
from plm_scaling.evals.floors import EncodedTable
from plm_scaling.evals.pairs import paired_rows
from plm_scaling.evals.results import read_rows
from plm_scaling.evals.run_tasks import load_scores, run_tasks
from plm_scaling.evals.splits import Split, find_split
from plm_scaling.evals.supervised import embed_table, head_scores, supervised_table
from plm_scaling.evals.supervised_tasks import TASKS
from plm_scaling.evals.tables import LabelledTable
from plm_scaling.evals.task import Asked, match_tasks

torch.set_num_threads(1)
A = "LAGVSERTIDPKQNFYMHWC"


class Knowing:
    """A double whose activations hold, beside noise, the product of two sites: what no additive floor knows."""

    def __init__(self, knows: bool) -> None:
        self.knows = knows
        self.info = ModelInfo(
            name="knowing" if knows else "ignorant",
            family="double",
            objective="none",
            origin="made",
            abilities=("embed",),
            symbols=tuple(A),
        )

    def embed(self, sequences: Sequence[str], *, layer: int = -1, pool: Pool = "mean") -> list[Float32Array]:
        found = []
        for sequence in sequences:
            noise = np.random.default_rng([*map(ord, sequence)]).normal(size=(len(sequence), 7))
            signal = float((sequence[0] in "LA") == (sequence[3] in "LA")) if self.knows else 0.0
            rows = np.concatenate([noise, np.full((len(sequence), 1), signal)], axis=1).astype(np.float32)
            found.append(rows.mean(0) if pool == "mean" else rows)
        return found


def made(kind: str = "values") -> tuple[EncodedTable, Split]:
    rng = np.random.default_rng(0)
    names = tuple(dict.fromkeys("".join(row) for row in rng.choice(list("LAGV"), size=(500, 6))))
    same = np.array([(name[0] in "LA") == (name[3] in "LA") for name in names])
    values = same + rng.normal(0.0, 0.1, len(names)) if kind == "values" else same.astype(float) * 3
    parts = ("",) * len(names)
    data = EncodedTable(LabelledTable("made", names, values, "values" if kind == "values" else "classes", parts))
    return data, find_split(data.table, "sampled")


def test_activations_that_know_more_beat_floors_and_control() -> None:
    """Pooled and by site, ridge and both heads of classes; the table holds model, control and every floor."""
    data, split = made()
    for pooling in ("mean", "sites"):
        table = supervised_table(
            Knowing(True),
            data,
            split,
            control=Knowing(False),
            pooling=pooling,
            draws=100,  # type: ignore[arg-type]
        )
        assert table.over_control is not None
        assert table.over_floor is not None
        assert table.best_floor is not None
        assert table.best_floor.name == "pairwise"
        assert table.over_control.low > 0.4
        assert table.over_floor.high > 0.0
        assert [row.role for row in table.rows] == ["model", "control"] + ["floor"] * 6
        assert {row.n_test for row in table.rows} == {len(split.test)}
    alike = supervised_table(Knowing(True), data, split, control=Knowing(True), draws=50)
    assert alike.over_control is not None
    assert (alike.over_control.value, alike.over_control.low, alike.over_control.high) == (0.0, 0.0, 0.0)
    classes, split = made("classes")
    features = embed_table(Knowing(True), classes, split)
    for head in ("ridge", "logistic", "nearest"):
        found = head_scores(features, classes, split, head=head)  # type: ignore[arg-type]
        assert set(found) <= {0.0, 3.0}
        assert (found == classes.table.targets[split.test]).mean() > (0.7 if head == "nearest" else 0.99)
    with pytest.raises(ConfigError, match="logistic of values"):
        head_scores(features, made()[0], split, head="logistic")
    with pytest.raises(RefusedError, match="cannot show activations"):
        supervised_table(UniformModel(), data, split)


def test_sites_keep_their_place_and_only_what_varies() -> None:
    data, split = made()
    longer = tuple(f"WW{name}W" for name in data.table.sequences)
    data = EncodedTable(LabelledTable("made", longer, data.table.targets, "values", data.table.parts))
    features = embed_table(Knowing(True), data, split, pooling="sites")
    [first] = Knowing(True).embed(longer[:1], pool="none")
    np.testing.assert_array_equal(features[0], first[2:8].ravel())
    uneven = EncodedTable(LabelledTable("made", ("LAG", "LA"), np.zeros(2), "values", ("", "")))
    with pytest.raises(RefusedError, match="different lengths"):
        embed_table(Knowing(True), uneven, split, pooling="sites")


def write_capsids(folder: Path) -> None:
    """Capsids with three substitutions whose effects add up."""
    rng = np.random.default_rng(2)
    wild = "DEEEIRTTNPVATEQYGSVSTNLQRGNR"
    names = {wild}
    while len(names) < 260:
        letters = list(wild)
        for site in rng.choice(28, size=3, replace=False):
            letters[site] = A[rng.integers(20)]
        names.add("".join(letters))
    weight = rng.normal(size=(28, 20))
    ordered = sorted(names)
    values = [weight[np.arange(28), row].sum() for row in letter_matrix(ordered)]
    text = "sequence,score\n" + "\n".join(f"{name},{value}" for name, value in zip(ordered, values, strict=True))
    (folder / "aav_capsid_28mer.csv.gz").write_bytes(gzip.compress(text.encode()))


def test_a_task_puts_random_weights_and_floors_beside_a_model(tmp_path: Path) -> None:
    """A model of random weights is no better than another of them, and its row says so."""
    write_capsids(tmp_path)
    tasks = {task.name: task for task in TASKS}
    model = random_weights(ModelShape(n_layers=1, d_model=16), seed=5)
    asked = Asked(data=tmp_path, resamples=50, limit=250)
    answers = tasks["aav28.sampled"].measure(tasks["aav28.sampled"], model, asked)
    assert [answer.row.protocol for answer in answers] == [
        "mean embedding + ridge",
        "embeddings of the varied sites + ridge",
    ]
    for answer in answers:
        floors = {floor.name: floor.value for floor in answer.row.floors}
        assert set(floors) >= {"random weights", "one-hot", "pairwise", "blosum62", "mutations"}
        assert answer.scores is not None
        assert answer.row.n == len(answer.scores) == 250 - answer.row.n_train
        assert floors["one-hot"] > 0.7
    assert answers[0].row.flags[0] == "NOT_ABOVE_RANDOM_WEIGHTS"
    assert "no evidence that pre-training helps" in answers[0].row.warnings[0]
    assert len({task.name for task in TASKS}) == len(TASKS)


def test_heads_are_named_and_train_the_model_where_asked(tmp_path: Path) -> None:
    """A row of another head is another answer; the control learns under the same head, floors stay the same."""
    write_capsids(tmp_path)
    model = random_weights(ModelShape(architecture="esm2", n_layers=1, d_model=16, n_heads=2), seed=5)
    out, asked = tmp_path / "rows.jsonl", Asked(data=tmp_path, resamples=20, limit=120)
    tasks = match_tasks(["aav28.sampled"], TASKS)
    words = {
        None: "mean embedding + ridge",
        "cnn": "embeddings of the varied sites + cnn",
        "lora": "low-rank additions of rank 8 + linear head, 10 epochs",
    }
    for head, protocol in words.items():
        [step] = run_tasks([lambda: model], tasks, replace(asked, head=head), out)
        assert step.outcome == "done", step.why
        row = step.rows[0]
        assert (row.head, row.protocol, len(step.rows)) == (head or "", protocol, 2 if head is None else 1)
        floors = {floor.name: floor.value for floor in row.floors}
        assert floors["random weights"] != row.value
        assert floors["one-hot"] == next(floor.value for floor in read_rows(out)[0].floors if floor.name == "one-hot")
        assert [step.outcome for step in run_tasks([lambda: model], tasks, replace(asked, head=head), out)] == ["kept"]
    assert len({tuple(load_scores(out, row)[1]) for row in read_rows(out)}) == 4
    [step] = run_tasks([lambda: model], tasks, replace(asked, head="logistic"), out)
    assert (step.outcome, "logistic of values" in step.why) == ("failed", True)
    [step] = run_tasks([lambda: Knowing(True)], tasks, replace(asked, head="lora"), out)
    assert (step.outcome, "knowing cannot be trained here" in step.why) == ("failed", True)
    residues = replace(residue_tasks.TASKS[0], files=())
    [step] = run_tasks([lambda: model], [residues], replace(asked, head="lora"), out)
    assert (step.outcome, "has no head 'lora'" in step.why) == ("failed", True)


def test_rows_of_one_head_and_protocol_are_compared(tmp_path: Path) -> None:
    write_capsids(tmp_path)
    out, asked = tmp_path / "rows.jsonl", Asked(data=tmp_path, resamples=20, limit=120)
    models = [random_weights(ModelShape(n_layers=1, d_model=16), seed=seed, name=f"m{seed}") for seed in (5, 6)]
    tasks = match_tasks(["aav28.sampled"], TASKS)
    run_tasks([lambda: models[0], lambda: models[1]], tasks, asked, out)
    run_tasks([lambda: models[0]], tasks, replace(asked, head="cnn"), out)
    found = paired_rows(out, "m6")
    assert [(one.model, one.protocol == one.protocol_against) for one in found] == [("m5", True)] * 2
