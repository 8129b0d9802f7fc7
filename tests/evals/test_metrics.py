"""Metrics against scipy, against their definitions by brute force, and what they refuse."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.evals.metrics import accuracy, auc, find_metric, mcc, measure, ndcg, pearson, spearman, top_recall

BLAT = Path("evals") / "blat" / "BLAT_ECOLX_Ranganathan2015_labeled.csv.gz"


def columns(seed: int, n: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n)
    scores = truth + rng.normal(size=n)
    return (np.round(truth), np.round(scores)) if ties else (truth, scores)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(12, 60), ties=st.booleans())
def test_metrics_are_their_definitions(seed: int, n: int, ties: bool) -> None:
    """Correlations by scipy, AUC by counting pairs, MCC by the table of four, recall by sets."""
    truth, scores = columns(seed, n, ties)
    classes = (truth >= np.median(truth)).astype(int)
    if len(set(truth)) < 2 or len(set(scores)) < 2 or len(set(classes)) < 2:
        return
    assert spearman(truth, scores) == pytest.approx(stats.spearmanr(truth, scores).statistic, abs=1e-12)
    assert pearson(truth, scores) == pytest.approx(stats.pearsonr(truth, scores).statistic, abs=1e-12)
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[classes == 1] for b in scores[classes == 0]]
    assert auc(classes, scores) == pytest.approx(np.mean(pairs), abs=1e-12)
    called = scores >= sorted(scores)[(n - 1) // 2] / 2 + sorted(scores)[n // 2] / 2
    if not called.all():
        tp, tn = (called & (classes == 1)).sum(), (~called & (classes == 0)).sum()
        fp, fn = (called & (classes == 0)).sum(), (~called & (classes == 1)).sum()
        below = math.sqrt(float(tp + fp) * float(tp + fn) * float(tn + fp) * float(tn + fn))
        assert mcc(classes, scores) == pytest.approx(float(tp * tn - fp * fn) / below, abs=1e-12)
    best = {i for i in range(n) if truth[i] >= np.percentile(truth, 90)}
    found = {i for i in range(n) if scores[i] >= np.percentile(scores, 90)}
    assert top_recall(truth, scores) == pytest.approx(len(best & found) / len(best))


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(20, 80))
def test_ndcg_is_the_mean_over_all_orders_of_equal_scores(seed: int, n: int) -> None:
    """Without equal scores it is the sum over ranks itself; with them the mean of that sum over random orders."""
    truth, scores = columns(seed, n, ties=False)

    def summed(scores: np.ndarray) -> float:
        gains = (truth - min(truth)) / (max(truth) - min(truth))
        rank = {row: place + 1 for place, row in enumerate(sorted(range(n), key=lambda i: -scores[i]))}
        ideal = {row: place + 1 for place, row in enumerate(sorted(range(n), key=lambda i: -gains[i]))}
        ours, most = (
            sum(gains[i] / math.log2(r + 1) for i, r in ranks.items() if r <= n // 10) for ranks in (rank, ideal)
        )
        return float(ours / most)

    assert ndcg(truth, scores) == pytest.approx(summed(scores), abs=1e-12)
    tied, rng = np.round(scores), np.random.default_rng(seed)
    orders = [summed(tied + 1e-6 * rng.random(n)) for _ in range(200)]
    error = np.std(orders) / math.sqrt(len(orders)) + 1e-9
    assert abs(ndcg(truth, tied) - np.mean(orders)) < 5 * error
    again = rng.permutation(n)
    assert ndcg(truth[again], tied[again]) == pytest.approx(ndcg(truth, tied), abs=1e-12)


def test_what_is_not_defined_is_refused_by_name() -> None:
    truth = np.arange(20.0)
    bad = truth.copy()
    bad[7] = np.nan
    with pytest.raises(RefusedError, match=r"spearman is not defined here\n  why: 1 of 20 scores .* row 7"):
        spearman(truth, bad)
    refusals = {
        "not_finite": measure("ndcg", bad, truth),
        "constant_scores": measure("spearman", truth, np.zeros(20)),
        "constant_truth": measure("top_recall", np.ones(20), truth),
        "one_class": measure("auc", np.ones(20), truth),
        "too_few": measure("ndcg", truth[:9], truth[:9]),
    }
    for flag, measured in refusals.items():
        assert measured.flags == (flag,)
        assert measured.value is None
        assert measured.why
    assert measure("mcc", truth > 5, np.maximum(truth, 15)).flags == ("constant_scores",)
    tied = measure("spearman", truth, truth // 2)
    assert tied.flags == ("ties",)
    assert tied.value == pytest.approx(stats.spearmanr(truth, truth // 2).statistic)
    assert measure("spearman", truth, truth).flags == ()


def test_misuse_says_what_to_mend() -> None:
    with pytest.raises(ConfigError, match="one score per row"):
        spearman([1, 2, 3], [1, 2])
    with pytest.raises(ConfigError, match="classes 0 and 1"):
        auc([0, 1, 2], [1, 2, 3])
    with pytest.raises(ConfigError, match="spearman"):
        find_metric("spearmen")
    assert accuracy(["a", "b", "b"], ["a", "b", "c"]) == pytest.approx(2 / 3)


def test_published_scores_of_beta_lactamase(test_data: Path) -> None:
    """Five ESM-1v models on the measurements at 2500 ug/ml: scipy's numbers, and those of a good model."""
    import pandas as pd

    table = pd.read_csv(test_data / BLAT)
    for seed in range(1, 6):
        rows = table[["2500", f"esm1v_t33_650M_UR90_{seed}"]].dropna()
        truth, scores = rows.to_numpy().T
        assert len(rows) == 4996
        ours = spearman(truth, scores)
        assert ours == pytest.approx(stats.spearmanr(truth, scores).statistic, abs=1e-12)
        assert 0.6 < ours < 0.8
