"""What costs nothing to train is the same in `size` and in `spend`, and every number of it has one home."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plm_scaling.core.errors import ConfigError
from plm_scaling.evals.baselines import find_baselines
from plm_scaling.sizing.action_parts import Candidate
from plm_scaling.sizing.costs import Budget
from plm_scaling.sizing.null_actions import NULL_MODELS, null_actions, public_model, reuse_action
from plm_scaling.sizing.public_actions import public_actions
from plm_scaling.sizing.published_scores import published_scores
from plm_scaling.sizing.recommend import recommend
from plm_scaling.sizing.recommendation import Recommendation
from plm_scaling.sizing.situations import make_situations
from plm_scaling.sizing.trained_models import find_trained_model


@pytest.mark.parametrize("budget", [Budget(gpu_hours=5000), Budget(usd=5000), Budget(flops=1e21)])
@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_size_and_spend_show_the_same_actions(budget: Budget, objective: str) -> None:
    sized = recommend(budget, objective, gpu="h100", unique_tokens=15e9).actions
    (situation,), _ = make_situations(budget, [objective], gpu="h100", unique_tokens=15e9)
    spent = [c for c in public_actions(situation, None) if c.action.key == "reuse"]
    assert all(isinstance(c, Candidate) for c in spent)
    named = [c.action.model_copy(update={"name": f"{objective} {c.action.name}"}) for c in spent]
    assert [action for action in sized if action.key == "reuse"] == named
    assert sized[-1].key == "alignment"


def test_numbers_are_those_of_the_tables() -> None:
    model = find_trained_model("esm2-650m")
    assert model is not None
    assert model.D is not None
    bought = 0.25 * model.D
    action = reuse_action(model, "mlm", lambda N: bought)
    said = " ".join(action.assumptions)
    assert f"{6 * model.N * model.D:.2e} FLOPs as 6 N D" in said
    assert "your budget pays for 250B tokens at its size, 0.25 of that" in said
    tabled = {row.metric: row.value for row in find_baselines(model="esm2_t33_650M_UR50D")}
    for metric in ("proteingym.subs.spearman", "proteingym.dms.CAPSD_AAV2S_Sinai_2021.spearman"):
        assert f"{tabled[metric]:.3f}" in said
        assert tabled[metric] in [pytest.approx(c.value, abs=6e-4) for c in action.coefficients[1:]]
    unknown = reuse_action(public_model("esmc-600m"), "mlm", lambda N: 1e12)
    assert "no source seen states its training tokens" in unknown.assumptions


def test_an_alignment_is_scored_as_across_objectives() -> None:
    (alignment,) = (action for action in null_actions("clm", lambda N: 1e9) if action.key == "alignment")
    for group, coefficient in zip(("fitness", "capsid"), alignment.coefficients, strict=True):
        scores, _ = published_scores(group)
        assert coefficient.value == next(score.value for score in scores if score.name == "alignment")


def test_every_null_model_is_listed_and_of_its_objective() -> None:
    for objective, names in NULL_MODELS.items():
        assert all(public_model(name, objective).name == name for name in names)
    with pytest.raises(ConfigError, match="no public CLM model is called"):
        public_model("esm2-650m", "clm")
    with pytest.raises(ConfigError) as caught:
        public_model("esm2-65m")
    assert "did you mean esm2-650m" in str(caught.value)


def test_older_answers_are_read_without_their_alternatives(tmp_path: Path) -> None:
    answer = recommend(Budget(flops=1e20), "mlm")
    data = json.loads(answer.to_json()) | {"schema_version": 2, "alternatives": [{"key": "reuse", "title": "", "N": 1}]}
    del data["actions"]
    (tmp_path / "size.json").write_text(json.dumps(data))
    assert Recommendation.read(tmp_path / "size.json") == answer.model_copy(update={"actions": ()})
