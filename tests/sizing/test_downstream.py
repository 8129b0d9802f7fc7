from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.evals.baselines import Baseline
from plm_scaling.sizing import loss_to_score
from plm_scaling.sizing.downstream import GROUPS, downstream_view, loss_map
from plm_scaling.sizing.downstream_records import DownstreamView
from plm_scaling.sizing.size_trends import size_effect, size_trend

SIZES = np.array([1e7, 3e7, 1e8, 6e8, 3e9, 1.5e10])


def names(n: int) -> list[str]:
    return [f"m{k}" for k in range(n)]


# ---- one family ----------------------------------------------------------------------------------------------------


@given(st.permutations(range(5)))
def test_rank_correlation_counts_every_order(order: list[int]) -> None:
    trend = size_trend("f", names(5), SIZES[:5], np.array(order, dtype=float))
    inversions = sum(order[i] > order[j] for i in range(5) for j in range(i + 1, 5))
    assert trend.kendall_tau == pytest.approx(1 - 2 * inversions / 10)
    as_few = {0: 1, 1: 5, 2: 14, 3: 29, 10: 120}  # orders of five with at most so many inversions
    if inversions in as_few:
        assert trend.p_rising == pytest.approx(as_few[inversions] / math.factorial(5))


@given(slope=st.floats(-0.2, 0.2), level=st.floats(-1, 1))
def test_a_straight_line_is_found(slope: float, level: float) -> None:
    trend = size_trend("f", names(6), SIZES, level + slope * np.log10(SIZES))
    assert trend.slope == pytest.approx(slope, abs=1e-9)
    assert trend.points_low == pytest.approx(slope, abs=1e-6)
    if abs(slope) > 1e-6:
        assert trend.verdict == ("rises" if slope > 0 else "falls")


def test_a_slope_must_stand_against_other_proteins_and_other_models() -> None:
    rng = np.random.default_rng(0)
    rising = 0.05 * np.log10(SIZES)
    quiet = rising[:, None] + 0.01 * rng.standard_normal((6, 500))
    loud = rising[:, None] + 0.5 * rng.standard_normal((6, 500))
    scattered = rising + np.array([0.3, -0.3, 0.3, -0.3, 0.3, -0.3])
    assert size_trend("f", names(6), SIZES, rising, quiet).verdict == "rises"
    assert size_trend("f", names(6), SIZES, rising, loud).verdict == "no detectable gain"
    assert size_trend("f", names(6), SIZES, scattered, quiet + (scattered - rising)[:, None]).verdict == (
        "no detectable gain"
    )


def test_two_or_three_models_alone_show_nothing() -> None:
    for n in (2, 3):
        assert size_trend("f", names(n), SIZES[:n], np.arange(n, dtype=float)).verdict == "no detectable gain"
    assert size_trend("f", names(2), np.array([1e9, 1e9]), np.array([0.1, 0.2])).verdict == "one size"


def test_a_peak_in_the_middle_is_seen() -> None:
    rng = np.random.default_rng(1)
    score = np.array([0.1, 0.2, 0.3, 0.4, 0.35, 0.3])
    common = 0.05 * rng.standard_normal(400)  # proteins hard for all: no doubt about the order
    trend = size_trend("f", names(6), SIZES, score, score[:, None] + common + 0.005 * rng.standard_normal((6, 400)))
    assert (trend.verdict, trend.peak) == ("rises, then falls", "m3")
    assert trend.beyond_peak == pytest.approx(-0.1)
    assert trend.beyond_peak_high is not None
    assert trend.beyond_peak_high < 0
    flat = np.array([0.1, 0.2, 0.3, 0.401, 0.40, 0.3995])
    levels = size_trend("f", names(6), SIZES, flat, flat[:, None] + common + 0.02 * rng.standard_normal((6, 400)))
    assert levels.verdict == "rises, then levels off"


# ---- families together ---------------------------------------------------------------------------------------------


def test_no_gain_is_claimed_where_there_is_none_more_often_than_stated() -> None:
    """Slopes without a trend: 95 % intervals leave 2.5 % on either side (binomial, five standard deviations)."""
    rng = np.random.default_rng(7)
    verdicts = [size_effect(names(5), list(rng.normal(0, 0.05, 5))).verdict for _ in range(3000)]
    share = verdicts.count("gain from size") / 3000
    assert share == pytest.approx(0.025, abs=5 * math.sqrt(0.025 * 0.975 / 3000))


def test_families_that_agree_by_chance_do_not_hide_the_doubt_about_proteins() -> None:
    same = [0.05, 0.051, 0.049, 0.05]
    assert size_effect(names(4), same).verdict == "gain from size"
    draws = np.array(same)[:, None] + np.random.default_rng(0).normal(0, 0.1, 2000)  # shared by all families
    effect = size_effect(names(4), same, draws)
    assert effect.verdict == "no detectable gain from size"
    assert size_effect(names(2), same[:2]).verdict == "too few families"


# ---- published scores ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def views() -> dict[str, DownstreamView]:
    return {group: downstream_view(group, draws=300) for group in GROUPS}


def test_published_numbers_of_three_groups(views: dict[str, DownstreamView]) -> None:
    """ESM-2 from 8M to 15B: ProGen2 xlarge: floors, as the leaderboard prints them."""
    printed = {
        "fitness": ([0.226, 0.321, 0.387, 0.414, 0.406, 0.400], 0.391, 0.359),
        "virus": ([0.090, 0.120, 0.157, 0.261, 0.294, 0.333], 0.402, 0.375),
        "capsid": ([0.254, 0.286, 0.203, 0.277, 0.183, 0.124], 0.399, 0.407),
    }
    for group, (esm2, xlarge, site) in printed.items():
        view = views[group]
        assert [s.value for s in view.scores if s.family == "ESM-2"] == pytest.approx(esm2, abs=5.1e-4)
        assert next(s.value for s in view.scores if s.model == "progen2-xlarge") == pytest.approx(xlarge, abs=5.1e-4)
        assert next(f.value for f in view.floors if f.name == "site-independent") == pytest.approx(site, abs=5.1e-4)


def test_capsids_gain_nothing_detectable_from_size(views: dict[str, DownstreamView]) -> None:
    view = views["capsid"]
    assert view.overall.verdict == view.large.verdict == "no detectable gain from size"
    assert "no detectable gain from size" in view.answer
    assert view.best_floor == "PoET 200M"
    assert view.floor_gap is not None
    assert view.floor_gap < -0.15
    assert "ONE_PROTEIN" in view.flags
    assert view.scores[0].low is None
    supervised = {floor.name: floor.value for floor in view.floors if floor.split == "low_vs_high"}
    assert supervised["onehot-ridge"] == 0.152


def test_viral_proteins_do_gain_and_still_stay_behind_alignments(views: dict[str, DownstreamView]) -> None:
    view = views["virus"]
    assert (view.n_assays, view.n_proteins) == (31, 28)
    assert view.overall.verdict == "gain from size"
    assert view.floor_gap_high is not None
    assert view.floor_gap_high < 0


def test_average_fitness_stops_gaining_where_size_is_expensive(views: dict[str, DownstreamView]) -> None:
    view = views["fitness"]
    assert view.overall.verdict == "gain from size"
    assert view.large.verdict == "no detectable gain from size"
    esm2 = next(trend for trend in view.trends if trend.family == "ESM-2")
    assert (esm2.verdict, esm2.peak) == ("rises, then levels off", "esm2_t33_650M_UR50D")
    deep = next(trend for trend in views["deep"].trends if trend.family == "ESM-2")
    assert deep.verdict == "rises, then falls"


def test_scores_that_may_be_an_artefact_are_shown_and_do_not_count(views: dict[str, DownstreamView]) -> None:
    view = views["fitness"]
    assert any(s.suspect and s.family == "proteinglm CLM" for s in view.scores)
    assert "proteinglm CLM" not in view.overall.families
    assert "SUSPECT:proteinglm CLM" in view.flags
    assert not any(s.suspect for s in view.near(3e9))
    assert {s.label for s in view.near(3e9)} >= {"3B", "large", "xlarge"}


def test_one_number_per_model_has_no_interval_over_proteins(views: dict[str, DownstreamView]) -> None:
    contacts = views["contacts"]
    assert contacts.overall.verdict == "too few families"
    (esm2,) = contacts.trends
    assert esm2.verdict == "rises"
    assert esm2.low is None
    assert esm2.p_rising == pytest.approx(1 / math.factorial(6))
    far = views["far-proteins"]
    assert not far.higher_is_better
    assert all(trend.slope is not None and trend.slope > 0 for trend in far.trends)
    assert far.best_model == "esm2_t48_15B_UR50D"


def test_tokens_stand_beside_sizes_with_their_status(views: dict[str, DownstreamView]) -> None:
    scores = {s.model: s for s in views["fitness"].scores}
    assert (scores["esm2_t33_650M_UR50D"].D, scores["esm2_t33_650M_UR50D"].tokens_status) == (1e12, "read")
    assert scores["esm2_t48_15B_UR50D"].tokens_status == "unverified"
    assert "TOKENS_UNVERIFIED" in views["fitness"].flags
    assert (scores["progen2-small"].D, scores["progen2-small"].tokens_status) == (None, "unknown")
    assert pytest.approx(1.14e22) == scores["proteinglm-7b-clm (the paper 7.2B)"].C


def test_every_view_is_a_file_with_an_answer(views: dict[str, DownstreamView], tmp_path: Path) -> None:
    for group, view in views.items():
        assert DownstreamView.read(view.write(tmp_path / f"{group}.json")) == view
        assert view.answer.endswith(".")
        assert view.answer.startswith(view.title)


def test_an_unknown_group_is_named() -> None:
    with pytest.raises(ConfigError, match="no group") as error:
        downstream_view("viruses")
    assert "virus" in error.value.hint


# ---- loss to score -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["fitness", "virus", "capsid"])
def test_no_map_from_loss_to_score_is_supported_by_what_is_published(group: str) -> None:
    for objective, why in (("mlm", "may be 0|the other way"), ("clm", "4 are needed")):
        with pytest.raises(RefusedError, match="no map") as error:
            loss_map(group, objective)
        assert re.search(why, error.value.why)


def test_a_map_is_found_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses made up so that fitness falls by 0.2 per nat."""
    scores = {s.model: s.value for s in downstream_view("fitness", draws=2).scores}

    def planted(**_: object) -> tuple[Baseline, ...]:
        made = []
        for model in [name for name in scores if name.startswith(("esm2", "proteinglm-1", "proteinglm-3b-mlm"))]:
            loss = 3.0 - scores[model] / 0.2
            made.append(
                Baseline(
                    model=model,
                    metric="ood.ppl.id<0.5",
                    value=math.exp(loss),
                    source="x",
                    verified=True,
                    provenance="read",
                )
            )
        return tuple(made)

    monkeypatch.setattr(loss_to_score, "find_baselines", planted)
    found = loss_map("fitness", "mlm")
    assert found.slope == pytest.approx(0.2, rel=1e-6)
    assert found.low == pytest.approx(0.2, rel=1e-4)
    assert found.range_loss[0] < found.range_loss[1]
