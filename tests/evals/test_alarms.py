"""Every alarm is raised by what it is for, and by nothing that is all right."""

from __future__ import annotations

import numpy as np
import pytest

from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import RefusedError
from plm_scaling.evals.adapters.doubles import MarkovModel, UniformModel
from plm_scaling.evals.adapters.own_models import random_weights
from plm_scaling.evals.alarms import (
    SizeScore,
    dead_row_alarms,
    score_alarms,
    size_alarms,
    task_token_alarms,
    terminal_alarms,
)
from plm_scaling.evals.assays import load_assay_scores
from plm_scaling.evals.baselines import find_baselines
from plm_scaling.evals.data_alarms import model_alarms
from plm_scaling.evals.task import Asked
from plm_scaling.evals.variants import parse_variants
from plm_scaling.evals.zero_shot_tasks import scored_variants


def sequences(seed: int, count: int, *, first: str = "") -> list[str]:
    rng = np.random.default_rng(seed)
    return [first + "".join(rng.choice(list(STANDARD), rng.integers(20, 60))) for _ in range(count)]


def test_a_likelihood_without_information_is_a_length() -> None:
    """A uniform model's totals rank by length and nothing else; noise of another origin does not."""
    library = sequences(0, 40)
    lengths = [len(one) for one in library]
    totals = [logp.sum() for logp in UniformModel().residue_logprobs(library)]
    (alarm,) = score_alarms(totals, lengths=lengths, where="capsids")
    assert (alarm.code, alarm.where) == ("SCORE_IS_LENGTH", "capsids")
    assert alarm.value == pytest.approx(-1.0)
    assert score_alarms(np.random.default_rng(1).normal(size=40), lengths=lengths) == ()
    counted = score_alarms([-k for k in range(1, 41)], lengths=[28] * 40, mutations=list(range(1, 41)))
    assert [alarm.code for alarm in counted] == ["SCORE_IS_MUTATION_COUNT"]
    assert [a.code for a in score_alarms([0.0, np.nan])] == ["SCORES_NOT_FINITE"]
    assert [a.code for a in score_alarms([2.0, 2.0])] == ["SCORES_CONSTANT"]


def published(benchmark: str, split: str, models: list[str]) -> list[SizeScore]:
    rows = {row.model: row for row in find_baselines(benchmark=benchmark, split=split)}
    return [SizeScore(name, k, rows[name].value) for k, name in enumerate(models)]


def test_published_families_raise_what_they_should() -> None:
    """ProGen2 on capsid indels flips its sign at the largest size; the study's CLM falls; ESM-2 does neither."""
    progen = [f"progen2-{size}" for size in ("small", "medium", "base", "large", "xlarge")]
    indels = published("proteingym.dms", "CAPSD_AAV2S_Sinai_2021_designed_indels", progen)
    (flip,) = size_alarms(indels, where="indels")
    assert flip.code == "SIGN_FLIP"
    assert "progen2-large scores -0.469 and progen2-xlarge +0.492" in flip.sentence
    falling = [SizeScore(f"{N:g}", N, value) for N, value in ((1e9, 0.343), (3e9, 0.233), (7e9, 0.102))]
    assert [alarm.code for alarm in size_alarms(falling)] == ["FALLS_WITH_SIZE"]
    names = [model for model in load_assay_scores().models if model.startswith("esm2")]
    assert len(names) >= 5
    assert size_alarms(published("proteingym.subs", "", names)) == ()


def test_chance_raises_no_alarm_between_sizes() -> None:
    wide = [SizeScore("a", 1, 0.30, 0.1, 0.5), SizeScore("b", 2, 0.2, 0.0, 0.4), SizeScore("c", 3, 0.1, -0.1, 0.3)]
    assert size_alarms(wide) == ()
    sharp = [SizeScore("a", 1, 0.30, 0.29, 0.31), wide[1], SizeScore("c", 3, 0.1, 0.0, 0.2)]
    assert [alarm.code for alarm in size_alarms(sharp)] == ["FALLS_WITH_SIZE"]
    assert size_alarms([SizeScore("a", 1, 0.02), SizeScore("b", 2, -0.02)]) == ()


def test_ends_and_starts() -> None:
    flat = np.full((20, 20), 1 / 20)
    proteins = sequences(2, 30, first="M")
    start = np.full(20, 0.1 / 19)
    start[STANDARD.index("M")] = 0.9
    assert terminal_alarms(MarkovModel(flat, start, end=1 / 40), proteins) == ()
    never = terminal_alarms(MarkovModel(flat, start, end=1e-6), proteins)
    assert [alarm.code for alarm in never] == ["ENDS_UNKNOWN"]
    unaware = terminal_alarms(MarkovModel(flat, end=1 / 40), proteins)
    assert [alarm.code for alarm in unaware] == ["STARTS_UNKNOWN"]
    assert terminal_alarms(MarkovModel(flat, end=1 / 40), sequences(2, 30)) == ()  # nothing to know about their starts
    with pytest.raises(RefusedError):
        terminal_alarms(UniformModel(), [])


def test_task_tokens_and_dead_rows() -> None:
    vocabulary = (*STANDARD, "[gMASK]", "<eop>", "<sop>", "<mask>")
    glm = UniformModel().info.model_copy(update={"symbols": vocabulary, "before": ("<sop>",)})
    (missing,) = task_token_alarms(glm)
    assert missing.code == "TASK_TOKEN_MISSING"
    assert "[gMASK]" in missing.sentence
    assert task_token_alarms(glm.model_copy(update={"before": ("[gMASK]", "<sop>")})) == ()
    asked = UniformModel()
    asked._info = glm
    variants = parse_variants("AKV", ["A1G", "A1C", "K2W"])
    scored = scored_variants(asked, Asked(resamples=20), "AKV", variants, np.array([1.0, 2.0, 3.0]), "assay")
    assert "TASK_TOKEN_MISSING" in scored.flags
    asked._info = UniformModel().info.model_copy(update={"N_total": 2_520_000_000, "N_dead": 260_000_000})
    scored = scored_variants(asked, Asked(resamples=20), "AKV", variants, np.array([1.0, 2.0, 3.0]), "assay")
    assert "DEAD_ROWS" in scored.flags
    flat = np.full((20, 20), 1 / 20)
    for texts, flags in ((["K30del", "A1G", "A1C"], ["ENDS_UNKNOWN"]), (["A1W", "A1G", "A1C"], [])):
        indels = parse_variants("AKV" * 10, [text.replace("K30", "V30") for text in texts])
        found = scored_variants(
            MarkovModel(flat, end=1e-6), Asked(resamples=20), "AKV" * 10, indels, np.arange(3.0), "a"
        )
        assert [flag for flag in found.flags if flag == "ENDS_UNKNOWN"] == flags
    assert task_token_alarms(UniformModel().info) == ()
    info = UniformModel().info
    large = info.model_copy(update={"N_total": 2_520_000_000, "N_dead": 260_000_000})
    (dead,) = dead_row_alarms(large)
    assert dead.value == pytest.approx(0.26 / 2.78)
    assert dead_row_alarms(info) == ()


def test_ends_are_asked_of_proteins_that_a_model_reads_whole() -> None:
    model = random_weights(ModelShape(n_layers=1, d_model=16), objective="clm", context=40)
    whole, long = "MKVLAW" * 5, "MKVLAW" * 10
    assert model_alarms(model, [long, whole, long]) == model_alarms(model, [whole])
    assert model_alarms(model, [long]) == ()
