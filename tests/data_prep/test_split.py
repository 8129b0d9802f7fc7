from __future__ import annotations

import numpy as np
import pytest

from data_prep.split import SplitRule
from plm_scaling.core.errors import ConfigError

WORDS = np.random.default_rng(0).integers(0, 2**64, (200_000, 2), dtype=np.uint64)
INPUT = np.full(len(WORDS), 9)


def test_names_in_order_of_id() -> None:
    assert SplitRule(("b", "a")).names == ("train", "val_iid", "val_cluster", "excluded", "heldout_b", "heldout_a")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.3, 0.999])
def test_share_is_met_within_sampling_error(share: float) -> None:
    validates = SplitRule(val_share=share).assign(WORDS, INPUT) == 1
    expected = share * len(WORDS)
    assert abs(validates.sum() - expected) <= 4 * np.sqrt(expected * (1 - share))


def test_split_depends_on_content_only() -> None:
    rule = SplitRule(val_share=0.5)
    order = np.random.default_rng(1).permutation(len(WORDS))
    assert np.array_equal(rule.assign(WORDS[order], INPUT), rule.assign(WORDS, INPUT)[order])


@pytest.mark.parametrize("column", [0, 1])
def test_both_words_matter(column: int) -> None:
    changed = WORDS.copy()
    changed[:, column] += np.uint64(1)
    rule = SplitRule(val_share=0.5)
    agreement = np.mean(rule.assign(WORDS, INPUT) == rule.assign(changed, INPUT))
    assert agreement == pytest.approx(0.5, abs=0.01)


def test_seeds_draw_independently_and_any_integer_is_one() -> None:
    draws = [SplitRule(val_share=0.5, seed=seed).assign(WORDS, INPUT) for seed in (0, 1, -1, 2**63 + 5)]
    for i, a in enumerate(draws):
        for b in draws[i + 1 :]:
            assert np.mean(a == b) == pytest.approx(0.5, abs=0.01)


def test_a_larger_share_keeps_the_validation_sequences_of_a_smaller_one() -> None:
    small, large = (SplitRule(val_share=share).assign(WORDS, INPUT) == 1 for share in (0.01, 0.02))
    assert (large | ~small).all()


def test_held_out_owner_decides() -> None:
    rule = SplitRule(("x", "y"), val_share=0.5)
    owner = np.arange(len(WORDS)) % 4
    split = rule.assign(WORDS, owner)
    assert (split[owner == 0] == 4).all()
    assert (split[owner == 1] == 5).all()
    assert set(split[owner >= 2].tolist()) == {0, 1}
    assert split.dtype == np.uint8


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan"), float("inf")])
def test_impossible_shares(share: float) -> None:
    with pytest.raises(ConfigError, match="val_share is"):
        SplitRule(val_share=share)


def test_at_most_256_splits() -> None:
    assert len(SplitRule(tuple(map(str, range(252)))).names) == 256
    with pytest.raises(ConfigError, match="253 held-out sets"):
        SplitRule(tuple(map(str, range(253))))
