"""The transfer pairs of the public logs of Cheng et al. 2024: D_t against independent readings of the same runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from plm_scaling.laws.cheng2024 import read_cheng2024
from plm_scaling.laws.denoise import denoise
from plm_scaling.transfers.tokens import transferred_tokens
from plm_scaling.transfers.transfer_fit import TransferFit, TransferPair

# Smallest and largest D_t of four estimators (two bounded laws, log-quadratic, runs of the same size), in 1e9 tokens.
CLM_TO_MLM = {33690624: (11.9, 16.0), 84934656: (21.5, 27.3), 202309632: (32.8, 39.5)}
SLACK = 0.2


@pytest.fixture(scope="module")
def fit() -> TransferFit:
    root = os.environ.get("PLM_SCALING_TEST_DATA", "")
    path = Path(root) / "cheng2024_logs"
    if not root or not path.is_dir():
        pytest.skip("set PLM_SCALING_TEST_DATA to the folder that holds cheng2024_logs/")
    logs = read_cheng2024(path)
    return transferred_tokens(denoise(logs.table, logs.curves).table)


def pairs(fit: TransferFit, source: str) -> list[TransferPair]:
    return sorted((pair for pair in fit.pairs if pair.source_objective == source), key=lambda pair: pair.N)


def test_every_pair_is_found(fit: TransferFit) -> None:
    assert [round(pair.N) for pair in pairs(fit, "clm")] == sorted(CLM_TO_MLM)
    assert [round(pair.N / 1e6) for pair in pairs(fit, "mlm")] == [128, 231]
    assert all(pair.scratch_run_id for pair in fit.pairs)
    # Budgets in names are 6 N D, at one size: a source token costs what a target token does.
    assert all(pair.source_worth == pytest.approx(pair.D_source) for pair in fit.pairs)


def test_gaps_are_the_published_ones(fit: TransferFit) -> None:
    gaps = [pair.gap for pair in (*pairs(fit, "clm"), *pairs(fit, "mlm"))]
    assert gaps == pytest.approx([-0.0132, -0.0221, -0.0258, -0.043, -0.0127], abs=0.001)


@pytest.mark.parametrize("N", CLM_TO_MLM)
def test_clm_to_mlm_is_worth_10_to_42_billion_tokens(fit: TransferFit, N: int) -> None:
    (pair,) = [one for one in pairs(fit, "clm") if round(one.N) == N]
    low, high = (1e9 * end for end in CLM_TO_MLM[N])
    assert pair.D_t is not None
    assert 10e9 < pair.D_t < 42e9
    assert (1 - SLACK) * low < pair.D_t < (1 + SLACK) * high
    # Every estimator on its own, and the interval that holds the choice between them.
    found = [one.D_t for one in pair.estimates if one.D_t is not None]
    assert len(found) >= 4
    assert (1 - SLACK) * low < min(found) < max(found) < (1 + SLACK) * high
    span = pair.D_t_fixed_seeds
    assert span is not None
    assert span.low <= min(found) < max(found) <= span.high
    assert span.low < high
    assert span.high > low
    assert pair.D_t_low is not None
    assert pair.D_t_high is not None
    # One pair of replicates says little about seeds: with their noise the interval is wider.
    assert pair.D_t_low < span.low
    assert pair.D_t_high > span.high


def test_its_worth_per_source_token_falls_with_size_and_exceeds_its_compute(fit: TransferFit) -> None:
    rates = [pair.D_t_per_source_token or 0.0 for pair in pairs(fit, "clm")]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 1.3 * rates[-1]
    assert all(pair.net_tokens and pair.net_tokens > 0 for pair in pairs(fit, "clm"))
    assert all(pair.net_loss_gain and 0.005 < pair.net_loss_gain < 0.02 for pair in pairs(fit, "clm"))


def test_mlm_to_clm_is_not_worth_its_compute(fit: TransferFit) -> None:
    large = pairs(fit, "mlm")[1]
    assert large.D_t == pytest.approx(4.0e9, rel=SLACK)
    assert large.D_t_per_source_token == pytest.approx(0.05, abs=0.01)
    for pair in pairs(fit, "mlm"):
        assert pair.net_tokens_high is not None
        assert pair.net_tokens_high < 0
        assert pair.net_loss_gain is not None
        assert pair.net_loss_gain < 0
    shares = [share for share in fit.shares if share.source_objective == "mlm"]
    assert [share.share.high for share in shares] == [0.0, 0.0]
    assert all("NOT_WORTH_ITS_COMPUTE" in share.flags for share in shares)


def test_exponents_and_a_break_even_size_are_refused(fit: TransferFit) -> None:
    assert fit.laws == ()
    assert fit.joint == ()
    assert all(trend.break_even_N is None for trend in fit.trends)
    codes = {refusal.code for refusal in fit.refusals}
    assert {"TOO_FEW_PAIRS_FOR_EXPONENTS", "TOO_FEW_SIZES", "BREAK_EVEN_OPEN"} <= codes
    (trend,) = fit.trends
    assert "SHARE_CONFOUNDED" in trend.flags
