from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.core.files import sha256_file
from plm_scaling.evals.adapters.base import Float32Array, ModelInfo, Pool
from plm_scaling.evals.encodings import letter_matrix, one_hot
from plm_scaling.evals.floors import EncodedTable
from plm_scaling.evals.label_efficiency import (
    LabelCurve,
    LabelEfficiency,
    Method,
    find_crossing,
    label_counts,
    label_curves,
    label_efficiency,
    nested_rows,
)
from plm_scaling.evals.pairs import paired_rows
from plm_scaling.evals.results import read_rows
from plm_scaling.evals.splits import find_split
from plm_scaling.evals.tables import LabelledTable

LABELS = (10, 100, 1000, 10000)


def curve(name: str, *rows: Sequence[float | None]) -> LabelCurve:
    return LabelCurve(name=name, role="model", labels=LABELS, values=tuple(tuple(row) for row in rows))


def test_curves_cross_where_lines_through_their_means_do() -> None:
    flat, rising = curve("m", [0.5] * 4, [0.5] * 4), curve("r", [0.2, 0.4, 0.6, 0.8], [0.2, 0.4, 0.6, 0.8])
    low = curve("l", [0.1] * 4, [0.1] * 4)
    found = find_crossing(flat, [rising, low], "best floor")
    assert found.verdict == "stops"
    assert found.labels == pytest.approx(10**2.5)
    assert (found.low, found.high, found.chance) == (found.labels, found.labels, 1.0)
    assert "up to about 316 labels (95 %: 316 to 316)" in found.text
    assert find_crossing(low, [rising], "r").verdict == "never"
    assert find_crossing(rising, [low], "l").verdict == "always"
    assert find_crossing(rising, [low], "l").labels is None
    again = curve("a", [0.3, 0.3, 0.7, 0.7], [0.3, 0.3, 0.7, 0.7])  # ahead, behind, ahead again, behind for good
    assert find_crossing(again, [rising], "r").labels == pytest.approx(10**3.5)
    spread = curve("s", [0.3] * 4, [0.7] * 4)
    wide = find_crossing(spread, [rising], "r")
    assert wide.low == pytest.approx(10**1.5)
    assert wide.high == pytest.approx(10**3.5)
    assert "One sample" in find_crossing(curve("m", [0.5] * 4), [curve("r", [0.2] * 4)], "r").text
    with pytest.raises(ConfigError, match="cannot be compared"):
        find_crossing(flat, [curve("r", [0.2] * 4)], "r")


def test_a_model_is_held_against_its_own_random_weights_only() -> None:
    def method(name: str, role: Any, value: float, *controls: str) -> Method:
        return Method(name, role, lambda rows, seed: value, controls=controls)

    pairs = (("a", "random a"), ("b", "random b"))
    models = [method(name, "model", 0.6, control) for name, control in pairs] + [method("foreign", "model", 0.5)]
    controls = [method(control, "control", 0.4) for _, control in pairs]
    about = {"table": "made", "split": "own", "metric": "spearman", "n_test": 9}
    methods = [*models, *controls, method("one-hot", "floor", 0.3)]
    found = label_curves(methods, np.arange(40), labels=(10, 40), seeds=2, **about)
    beside = {(one.name, one.against) for one in found.crossings if one.against != "best floor"}
    assert beside == set(pairs)
    assert sum(one.against == "best floor" for one in found.crossings) == 5


def test_samples_are_nested_and_counts_even() -> None:
    counts = label_counts(4000)
    assert (counts[0], counts[-1]) == (10, 4000)
    steps = np.diff(np.log10(counts))
    assert steps.max() / steps.min() < 1.3
    assert label_counts(10) == (10,)
    with pytest.raises(RefusedError, match="9 labels"):
        label_counts(9)
    train = np.arange(100, 4200, 2)
    nested = nested_rows(train, (10, 40, 2000), 3)
    assert [len(one) for one in nested] == [10, 40, 2000]
    assert set(nested[0]) < set(nested[1]) < set(nested[2]) < set(train)
    assert set(nested[0]) != set(nested_rows(train, (10,), 4)[0])


class Half:
    """Shows the half of an additive value that it knows from elsewhere, or noise only."""

    def __init__(self, name: str, shown: dict[str, float]) -> None:
        self.shown = shown
        self.info = ModelInfo(name=name, family="double", objective="none", origin="made", abilities=("embed",))

    def embed(self, sequences: Sequence[str], *, layer: int = -1, pool: Pool = "mean") -> list[Float32Array]:
        rows = []
        for sequence in sequences:
            noise = np.random.default_rng([*map(ord, sequence)]).normal(size=3)
            rows.append(np.array([self.shown.get(sequence, 0.0), *noise], dtype=np.float32))
        return rows


def test_what_a_model_knows_stops_paying_when_labels_say_more() -> None:
    """Ahead of every floor with ten labels, behind one-hot ridge with many, ahead of random weights always."""
    rng = np.random.default_rng(0)
    names = tuple(dict.fromkeys("".join(row) for row in rng.choice(list("LAGVSERT"), size=(1200, 12))))
    weights = rng.normal(size=12 * 20)
    values = one_hot(letter_matrix(names)) @ weights
    known = dict(zip(names, (values + rng.normal(0.0, 1.0 * values.std(), len(names))).tolist(), strict=True))
    data = EncodedTable(LabelledTable("made", names, np.asarray(values), "values", ("",) * len(names)))
    split = find_split(data.table, "sampled")
    found = label_efficiency(
        data,
        split,
        [Half("half", known)],
        controls=[Half("random half", {})],
        floors=["random", "mutations", "one-hot"],
        labels=(10, 30, 100, 300, 900),
        seeds=4,
    )
    assert found.n_test == len(split.test)
    by_pair = {(one.name, one.against): one for one in found.crossings}
    floor = by_pair["half", "best floor"]
    assert floor.verdict == "stops"
    assert floor.labels is not None
    assert floor.low is not None
    assert floor.high is not None
    assert 30 < floor.low <= floor.labels <= floor.high < 300
    assert by_pair["half", "random half"].verdict == "always"
    assert by_pair["random half", "best floor"].high is None or found.curve("random half").means[-1] < 0.2
    means = [mean for mean in found.curve("one-hot").means if mean is not None]
    assert means == sorted(means)
    assert means[-1] > 0.95
    spread = found.curve("half").spread
    assert spread[0] is not None
    assert spread[-1] is not None
    assert spread[0] > spread[-1]
    assert found.curve("mutations").means == (None,) * 5  # no wild type: no curve, and no part in the best floor
    assert LabelEfficiency.model_validate_json(found.model_dump_json()) == found
    assert not any(
        math.isnan(value) for one in found.curves for row in one.values for value in row if value is not None
    )
    with pytest.raises(ConfigError, match="labels and 5 seeds"):
        label_efficiency(data, split, labels=(10, 5000))
    with pytest.raises(ConfigError, match="no curve is called"):
        found.curve("two")


def test_the_question_of_a_team_with_few_assays_is_one_command(tmp_path: Path, cli: Callable[..., Any]) -> None:
    rng = np.random.default_rng(3)
    names = sorted({"".join(rng.choice(list("LAGV"), size=8)) for _ in range(150)})
    lines = [f"{name},{name.count('L') + rng.normal(0.0, 0.1)}" for name in names]
    (tmp_path / "assay.csv").write_text("sequence,score\n" + "\n".join(lines) + "\n")
    counts = ("--labels", 10, "--labels", 60)
    words = ("evaluate", "labels", tmp_path / "assay.csv", "random:cheng-3m#7", "--seeds", 2, *counts)
    out = tmp_path / "rows.jsonl"
    shown = cli(*words, "-o", tmp_path / "curves.json", "--floors", "composition", "--floors", "random", "--rows", out)
    assert shown.code == 0, shown.err
    assert "composition" in shown.out
    kept = LabelEfficiency.read(tmp_path / "curves.json")
    assert [one.role for one in kept.curves] == ["model", "control", "floor", "floor"]
    assert all(one.text in " ".join(shown.out.split()) for one in kept.crossings)
    assert kept.curve("composition").means[-1] == pytest.approx(0.9, abs=0.1)
    rows = {(row.task, row.model.name): row for row in read_rows(out)}
    named = [one.name for one in kept.curves[:2]]
    assert set(rows) == {(f"labels.assay.sampled/{count}", name) for count in (10, 60) for name in named}
    for place, count in enumerate((10, 60)):
        model, control = (rows[f"labels.assay.sampled/{count}", name] for name in named)
        assert (model.value, control.value) == tuple(one.means[place] for one in kept.curves[:2])
        assert {one.name: one.value for one in model.floors} == {one.name: one.means[place] for one in kept.curves[1:]}
        assert (model.n_train, model.n, model.data_sha256) == (count, kept.n_test, sha256_file(tmp_path / "assay.csv"))
        assert model.model.sha256 != control.model.sha256
        [pair] = paired_rows(out, named[1], tasks=[model.task])
        assert pair.difference.value == pytest.approx(model.value - control.value)
    assert cli("evaluate", "labels", "aav28.samplet", "--data", tmp_path).code == 2
