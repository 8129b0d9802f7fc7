"""Intervals cover what they should, draws are what re-counting the rows gives, and p values hold for a table."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.evals.bootstrap import (
    bootstrap_mean,
    bootstrap_metric,
    compare_models,
    holm,
    measured_twice,
    noise_ceiling,
    paired_difference,
    paired_mean_difference,
)
from plm_scaling.evals.metrics import MetricName, find_metric
from plm_scaling.evals.resampled_metrics import metric_statistic

AAV = Path("evals") / "aav" / "aav_capsid_28mer.csv.gz"


def correlated(rng: np.random.Generator, n: int, rho: float) -> tuple[np.ndarray, np.ndarray]:
    x = rng.normal(size=n)
    return x, rho * x + math.sqrt(1 - rho**2) * rng.normal(size=n)


def share(hits: list[bool]) -> float:
    return sum(hits) / len(hits)


@pytest.mark.parametrize("metric", ["spearman", "pearson", "auc", "accuracy", "mcc", "top_recall", "ndcg"])
@pytest.mark.parametrize("ties", [True, False])
def test_a_draw_is_the_metric_of_the_rows_it_holds(metric: MetricName, ties: bool) -> None:
    """What is computed for all draws at once, from counts, equals the metric of the repeated rows, ties and all."""
    rng = np.random.default_rng(3)
    x, y = (np.round(2 * column) / 2 if ties else column for column in correlated(rng, 40, 0.5))
    truth, scores = (x > 0, y) if metric in ("auc", "mcc") else ((x > 0, y > 0) if metric == "accuracy" else (x, y))
    counts = rng.multinomial(40, np.full(40, 1 / 40), size=20)
    counts[0] = 0
    counts[0, 5] = 40  # a draw of one row: no metric but accuracy has a value
    found = metric_statistic(metric, np.asarray(truth), np.asarray(scores))(counts)
    assert metric == "accuracy" or np.isnan(found[0])
    for b in range(1, 20):
        rows = np.repeat(np.arange(40), counts[b])
        assert found[b] == pytest.approx(find_metric(metric)(truth[rows], scores[rows]), abs=1e-12)


@pytest.mark.parametrize(
    ("sets", "least", "most"), [(250, 0.92, 0.98), pytest.param(1000, 0.93, 0.97, marks=pytest.mark.slow)]
)
def test_95_percent_intervals_cover_95_percent(sets: int, least: float, most: float) -> None:
    """Simulated sets: Spearman's correlation of normal pairs is 6 / pi asin(rho / 2) (Pearson 1907)."""
    rng, truth = np.random.default_rng(11), 6 / math.pi * math.asin(0.6 / 2)
    hits = []
    for k in range(sets):
        found = bootstrap_metric("spearman", *correlated(rng, 60, 0.6), draws=250, seed=k)
        hits.append(found.low <= truth <= found.high)
    assert least <= share(hits) <= most


def test_intervals_of_clustered_rows_need_clusters() -> None:
    """Rows of a protein share an offset: drawing rows covers far too seldom, drawing proteins does not."""
    rng, by_cluster, by_row = np.random.default_rng(5), [], []
    protein = np.repeat(np.arange(40), 10)
    for k in range(100):
        values = rng.normal(size=40)[protein] + rng.normal(size=400)
        for hits, clusters in ((by_cluster, protein.tolist()), (by_row, None)):
            found = bootstrap_mean(values, clusters=clusters, draws=200, seed=k)
            hits.append(found.low <= 0.0 <= found.high)
    assert 0.90 <= share(by_cluster) <= 0.985
    assert share(by_row) < 0.75


@pytest.mark.slow
def test_paired_intervals_cover_and_their_p_values_are_level() -> None:
    """Two models with equal noise do not differ: about 95 % cover 0, about 5 % of the p values are below 0.05.

    A thousand of them are measured by `benchmarks/bench_intervals.py`.
    """
    rng, hits, small = np.random.default_rng(17), [], []
    for k in range(300):
        truth = rng.normal(size=80)
        ours, theirs = (truth + rng.normal(size=80) for _ in range(2))
        found = paired_difference("spearman", truth, ours, theirs, draws=300, seed=k)
        hits.append(found.low <= 0.0 <= found.high)
        small.append((found.p_value or 0.0) <= 0.05)
    assert 0.92 <= share(hits) <= 0.98
    assert 0.02 <= share(small) <= 0.08


def test_a_model_does_not_differ_from_itself() -> None:
    x, y = correlated(np.random.default_rng(1), 60, 0.5)
    for metric in ("spearman", "ndcg"):
        same = paired_difference(metric, x, y, y, draws=50, method="bca")
        assert (same.value, same.low, same.high, same.se, same.p_value) == (0.0, 0.0, 0.0, 0.0, 1.0)
    assert paired_mean_difference(x, x, draws=50).high == 0.0


def test_p_values_are_those_of_the_intervals() -> None:
    """Below 0.05 just where the interval has no 0 in it; three proteins that agree are no proof of anything."""
    rng, agree = np.random.default_rng(8), []
    for k in range(40):
        names = np.repeat(np.arange(12), 4)
        ours = rng.normal(0.6, 1.0, 12)[names] + rng.normal(size=48)
        found = paired_mean_difference(ours, np.zeros(48), clusters=names, draws=400, seed=k)
        if not 0.04 < (found.p_value or 0.0) < 0.06:
            agree.append((found.low > 0.0) == ((found.p_value or 0.0) < 0.05))
    assert all(agree)
    assert len(agree) > 25
    three = paired_mean_difference([0.9, 1.0, 1.1], [0.0, 0.0, 0.0], clusters=list("abc"))
    assert (three.p_value or 0.0) > 0.05
    assert three.flags == ("few_clusters",)


def test_a_pair_is_sharper_than_two_intervals() -> None:
    """Both models meet the same rows, so what makes rows hard for both drops out of their difference."""
    rng = np.random.default_rng(2)
    truth = rng.normal(size=300)
    ours = truth + rng.normal(size=300)
    theirs = ours + 0.3 * rng.normal(size=300)
    paired = paired_difference("spearman", truth, ours, theirs, draws=300)
    alone = [bootstrap_metric("spearman", truth, column, draws=300).se for column in (ours, theirs)]
    assert paired.se < 0.5 * math.hypot(*alone)


def test_holm_and_the_table_it_is_for() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.9, 0.8]) == (1.0, 1.0)
    rng = np.random.default_rng(4)
    truth = rng.normal(size=200)
    table = {"base": truth + rng.normal(size=200), "better": truth + 0.2 * rng.normal(size=200)}
    table |= {f"alike{k}": truth + rng.normal(size=200) for k in range(4)}
    rows = {row.model: row for row in compare_models("spearman", truth, table, "base", draws=500)}
    assert rows["better"].p_holm < 0.05
    assert "also among 5 comparisons" in rows["better"].note
    assert all(rows[f"alike{k}"].p_holm >= (rows[f"alike{k}"].difference.p_value or 0.0) for k in range(4))
    with pytest.raises(ConfigError, match="base"):
        compare_models("spearman", truth, table, "nobody")


def test_doubts_have_names() -> None:
    x, y = correlated(np.random.default_rng(6), 40, 0.5)
    assert bootstrap_metric("spearman", x, y, clusters=[k % 4 for k in range(40)], draws=50).flags == ("few_clusters",)
    few = bootstrap_metric("auc", np.arange(40) < 2, y, draws=400)
    assert few.flags == ("lost_draws",)
    with pytest.raises(RefusedError, match="one cluster"):
        bootstrap_metric("spearman", x, y, clusters=["p"] * 40)
    with pytest.raises(ConfigError, match="one per row"):
        bootstrap_metric("spearman", x, y, clusters=["p"])


def test_noise_ceiling_is_what_a_perfect_predictor_reaches() -> None:
    rng = np.random.default_rng(8)
    truth = rng.normal(size=4000)
    first, second = (truth + 0.5 * rng.normal(size=4000) for _ in range(2))
    ceiling = noise_ceiling(first, second, draws=50)
    assert find_metric("spearman")(first, truth) == pytest.approx(ceiling.single, abs=0.02)
    assert find_metric("spearman")((first + second) / 2, truth) == pytest.approx(ceiling.mean_of_two, abs=0.02)
    with pytest.raises(RefusedError, match="no noise ceiling"):
        noise_ceiling(first, -second, draws=50)


def test_capsids_measured_twice(test_data: Path) -> None:
    import pandas as pd

    table = pd.read_csv(test_data / AAV)
    first, second = measured_twice(table["sequence"].tolist(), table["score"])
    ceiling = noise_ceiling(first, second, draws=100)
    assert ceiling.replicates == 1788
    assert ceiling.reliability.value == pytest.approx(0.772, abs=5e-4)
    assert ceiling.single == pytest.approx(math.sqrt(0.772), abs=1e-3)
