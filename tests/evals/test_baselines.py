from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plm_scaling.core.errors import RecordError
from plm_scaling.evals.baselines import Baseline, find_baselines, load_baselines, parse_metric, read_baselines
from plm_scaling.evals.scored_models import load_scored_models

ROW: dict[str, Any] = {
    "model": "m",
    "metric": "proteingym.subs.spearman",
    "value": 0.4,
    "source": "somewhere",
    "verified": True,
    "provenance": "read",
}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text(json.dumps([{**ROW, **row} for row in rows]))
    return path


def test_what_is_shipped() -> None:
    rows = load_baselines()
    assert len(rows) == 519
    assert {row.status for row in rows} == {"read", "measured"}
    assert all(row.source for row in rows)
    (found,) = find_baselines(model="esm2_t33_650M_UR50D", metric="proteingym.subs.spearman")
    assert (found.value, found.params, found.tokens) == (0.414, 6.51e8, 1e12)


def test_rows_are_found_by_any_of_their_parts() -> None:
    assert {row.model for row in find_baselines(benchmark="contact", split="casp14")} == {
        row.model for row in load_baselines() if row.model.startswith("esm2_")
    }
    (ridge,) = find_baselines(model="onehot-ridge", benchmark="aav28", split="low_vs_high")
    assert (ridge.value, ridge.status) == (0.152, "measured")
    assert find_baselines(model="nobody") == ()


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("proteingym.subs.spearman", ("proteingym.subs", "spearman", "", True)),
        ("proteingym.subs.spearman.Low_MSA_depth", ("proteingym.subs", "spearman", "Low_MSA_depth", True)),
        (
            "proteingym.dms.CAPSD_AAV2S_Sinai_2021.spearman",
            ("proteingym.dms", "spearman", "CAPSD_AAV2S_Sinai_2021", True),
        ),
        ("ood.ppl.id<0.5", ("ood", "ppl", "id<0.5", False)),
        ("ood.mlm_ppl.id<0.5", ("ood", "mlm_ppl", "id<0.5", False)),
        ("contact.large_valid.P@L.LR", ("contact", "P@L.LR", "large_valid", True)),
        ("flip.gb1.low_vs_high.spearman", ("flip.gb1", "spearman", "low_vs_high", True)),
        ("training.flops", ("training", "flops", "", False)),
    ],
)
def test_a_key_falls_into_its_parts(key: str, parts: tuple[str, str, str, bool]) -> None:
    found = parse_metric(key)
    assert (found.benchmark, found.statistic, found.split, found.higher_is_better) == parts


def test_an_unverified_row_says_so(tmp_path: Path) -> None:
    (row,) = read_baselines(write(tmp_path / "b.json", {"verified": False}))
    assert row.status == "unverified"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"metric": "proteingym.subs"}, "no known benchmark and statistic"),
        ({"metric": "mystery.spearman"}, "no known benchmark and statistic"),
        ({"value": 1.2}, "no rank correlation"),
        ({"value": "nan"}, "finite"),
        ({"source": ""}, "at least 1 character"),
        ({"params": 1e9, "tokens": 1e9, "flops": 1e18}, "not 6 N D"),
        ({"provenance": "heard"}, "'read' or 'measured'"),
        ({"surprise": 1}, "Extra inputs"),
    ],
)
def test_a_row_that_cannot_be_is_refused_with_its_place(tmp_path: Path, wrong: dict[str, Any], says: str) -> None:
    path = write(tmp_path / "b.json", {}, {"model": "n", **wrong})
    with pytest.raises(RecordError, match=says) as error:
        read_baselines(path)
    assert str(path) in error.value.where
    assert "row 1" in error.value.where


def test_two_rows_for_one_score_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="two rows for m"):
        read_baselines(write(tmp_path / "b.json", {}, {"value": 0.3}))
    with pytest.raises(RecordError):
        read_baselines(tmp_path / "nothing.json")


def test_a_row_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Baseline.model_validate(ROW).value = 0.5  # type: ignore[misc]


def test_families_are_of_models_that_have_scores() -> None:
    """Sizes agree with the rows' own; ProGen2 large's carry 0.26B dead rows of its vocabulary, which ours leave out."""
    params = {row.model: row.params for row in load_baselines() if row.params}
    listed = [model for family in load_scored_models().family for model in family.models]
    assert len({model.name for model in listed}) == len(listed)
    for model in listed:
        if model.name in params and model.name != "progen2-large":
            assert model.params == pytest.approx(params[model.name], rel=0.01)
