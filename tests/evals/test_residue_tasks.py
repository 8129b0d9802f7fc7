from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import ConfigError
from plm_scaling.evals.adapters.own_models import random_weights
from plm_scaling.evals.label_tasks import label_answers, labels_of_task
from plm_scaling.evals.residue_tasks import TASKS, residue_floors, residue_rows
from plm_scaling.evals.tables import ResidueTable
from plm_scaling.evals.task import Asked

torch.set_num_threads(1)
SHAPE = ModelShape(architecture="esm2", n_layers=1, d_model=32, n_heads=4)
A = "LAGVSERTIDPKQNFYMHWC"


def write_made(folder: Path) -> None:
    """A residue is H where its right-hand neighbour is one of ten letters, else C; the first has no class."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 90), ("valid", 20), ("test", 25)):
        lines = ["seq,label"]
        for _ in range(count):
            sequence = "".join(rng.choice(list(A), size=rng.integers(12, 40)))
            right = [*sequence[1:], "C"]
            lines.append(f"{sequence},-{''.join('H' if x in A[:10] else 'C' for x in right[1:])}")
        (folder / f"secondary_structure.{part}.csv").write_text("\n".join(lines) + "\n")


def test_a_window_knows_the_neighbour_that_a_letter_does_not(tmp_path: Path) -> None:
    """The task puts majority, letter, window and random weights beside the model; residues go by their sequence."""
    write_made(tmp_path)
    model = random_weights(SHAPE, seed=3)
    [answer] = TASKS[0].measure(TASKS[0], model, Asked(data=tmp_path, resamples=50))
    floors = {floor.name: floor.value for floor in answer.row.floors}
    assert floors["window of 15"] > 0.97
    assert floors["majority"] < 0.6
    assert floors["letter"] < 0.6
    assert {"random weights"} < set(floors)
    assert answer.scores is not None
    assert answer.truth is not None
    lengths = [len(line.split(",")[0]) for line in (tmp_path / "secondary_structure.test.csv").read_text().split()[1:]]
    assert len(answer.truth) == sum(lengths) - len(lengths)  # all but the first of each
    assert len(set(answer.clusters)) == len(lengths)
    assert answer.row.value == pytest.approx(float((answer.scores == answer.truth).mean()))
    assert 0.4 < answer.row.value < 0.97


def test_samples_of_residues_keep_all_that_is_tested() -> None:
    labels = (np.array([0, 1, -1]), np.array([1, 1]), np.array([0, -1, 1, 1]))
    table = ResidueTable("made", ("ACD", "AC", "ACDE"), labels, ("train", "train", "test"))
    rows = residue_rows(table, most=3)
    assert len(rows.of("train")) == 3
    assert list(rows.place[rows.of("test")]) == [0, 2, 3]
    assert list(rows.label[rows.of("test")]) == [0, 1, 1]
    assert set(residue_floors(rows)) == {"majority", "letter", "window of 15"}
    with pytest.raises(ConfigError, match="no residue with a class to test"):
        residue_rows(ResidueTable("made", ("AC",), (np.array([0, 1]),), ("train",)))


def test_labels_of_residues_are_whole_sequences(tmp_path: Path) -> None:
    """A window learns its neighbour with more of them, a letter never; validation sequences are learnt from, too."""
    write_made(tmp_path)
    asked = Asked(data=tmp_path)
    found = labels_of_task("secondary_structure", asked, [random_weights(SHAPE, seed=3)], labels=[10, 110], seeds=2)
    assert (found.unit, found.task, found.metric) == ("sequences", "secondary_structure", "accuracy")
    window, letter = found.curve("window of 15").means, found.curve("letter").means
    assert window[0] is not None
    assert window[1] is not None
    assert window[0] < window[1]
    assert window[1] > 0.97
    assert letter[1] is not None
    assert letter[1] < 0.6
    assert [one.role for one in found.curves] == ["model", "control", *["floor"] * 3]
    rows = [answer.row for answer in label_answers(found)]
    assert [row.task for row in rows] == [f"labels.secondary_structure/{m}" for m in (10, 10, 110, 110)]
    assert {row.data_sha256 for row in rows} == {TASKS[0].data_sha256(asked)}
    with pytest.raises(ConfigError, match="111 to 111 labels"):
        labels_of_task("secondary_structure", asked, [], labels=[111])
    with pytest.raises(ConfigError, match="logistic for secondary_structure"):
        labels_of_task("secondary_structure", asked, [], head="logistic")
    with pytest.raises(ConfigError, match="no floor of residues"):
        labels_of_task("secondary_structure", asked, [], floors=["windows"])
