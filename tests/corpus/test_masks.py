from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from plm_scaling.core.alphabet import FIRST_RESIDUE, LAST_RESIDUE, MASK
from plm_scaling.core.run import RunConfig
from plm_scaling.corpus.batches import Batch, Batches
from plm_scaling.corpus.masks import mlm_mask
from plm_scaling.corpus.reader import Corpus

ROWS, LENGTH = 400, 500


def grid(token: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    row = np.repeat(np.arange(ROWS)[:, None], LENGTH, axis=1)
    residue = np.tile(np.arange(LENGTH), (ROWS, 1))
    return row, residue, np.full((ROWS, LENGTH), token, dtype=np.uint8)


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.5])
def test_shares(rate: float) -> None:
    inputs, targets = mlm_mask(*grid()[:2], 0, grid()[2], seed=3, rate=rate)
    n = targets.size
    assert targets.mean() == pytest.approx(rate, abs=4 * np.sqrt(rate * (1 - rate) / n))
    assert (inputs[~targets] == 4).all()
    shown = inputs[targets]
    k = len(shown)
    assert (shown == MASK).mean() == pytest.approx(0.8, abs=4 * np.sqrt(0.16 / k))
    assert (shown == 4).mean() == pytest.approx(0.1 + 0.1 / 20, abs=4 * np.sqrt(0.1 / k))
    drawn = np.bincount(shown[shown != MASK], minlength=33)
    assert drawn[:4].sum() == drawn[24:].sum() == 0  # the 20 standard residues only
    assert drawn[5:24] / k == pytest.approx(0.1 / 20, abs=5 * np.sqrt(0.005 / k))


def test_targets_are_spread_evenly_and_independently() -> None:
    row, residue, tokens = grid()
    targets = np.stack([mlm_mask(row, residue, epoch, tokens, seed=0)[1] for epoch in range(10)]).astype(float)
    se = np.sqrt(0.15 * 0.85)
    assert abs(targets.mean(axis=(0, 1)) - 0.15).max() < 5 * se / np.sqrt(10 * ROWS)
    assert abs(targets.mean(axis=(0, 2)) - 0.15).max() < 5 * se / np.sqrt(10 * LENGTH)
    flat = targets.reshape(10, -1)
    neighbours = [(flat[:, 1:], flat[:, :-1]), (targets[:, 1:], targets[:, :-1]), (targets[1:], targets[:-1])]
    for one, other in neighbours:
        correlation = np.corrcoef(one.reshape(-1), other.reshape(-1))[0, 1]
        assert abs(correlation) < 4 / np.sqrt(one.size)
    seen = targets.any(axis=0).mean()  # fresh every epoch: after ten of them most residues were a target
    assert seen == pytest.approx(1 - 0.85**10, abs=0.005)


def test_what_a_mask_depends_on() -> None:
    row, residue, tokens = grid()
    base = mlm_mask(row, residue, 0, tokens, seed=0)
    again = mlm_mask(row, residue, np.zeros((ROWS, 1), dtype=np.int64), tokens, seed=0)
    assert np.array_equal(base[0], again[0])
    assert np.array_equal(base[1], again[1])
    for other in (
        mlm_mask(row, residue, 1, tokens, seed=0),
        mlm_mask(row, residue, 0, tokens, seed=1),
        mlm_mask(row + 1, residue, 0, tokens, seed=0),
        mlm_mask(row, residue + 1, 0, tokens, seed=0),
    ):
        assert 0.1 < (other[1] & base[1]).sum() / base[1].sum() < 0.2
    # Where a residue stands in its window does not matter.
    part = (slice(5, 9), slice(None, None, -1))
    assert np.array_equal(mlm_mask(row[part], residue[part], 0, tokens[part], seed=0)[0], base[0][part])
    one = mlm_mask(row[3], residue[3], 0, tokens[3], seed=0)
    assert np.array_equal(one[1], base[1][3])


def test_specials_are_never_targets() -> None:
    row, residue, tokens = grid()
    tokens[:] = np.arange(LENGTH) % 33
    inputs, targets = mlm_mask(row, residue, 0, tokens, seed=0, rate=0.9)
    special = (tokens < FIRST_RESIDUE) | (tokens > LAST_RESIDUE)
    assert not targets[special].any()
    assert (inputs[special] == tokens[special]).all()
    assert targets[~special].mean() == pytest.approx(0.9, abs=0.01)
    assert targets[:, LAST_RESIDUE].any()  # X B U Z O are residues


def masked(batch: Batch, seed: int) -> set[tuple[int, int, int, int]]:
    inputs, targets = mlm_mask(batch.row, batch.residue, batch.epoch[:, None], batch.tokens, seed)
    epoch = np.broadcast_to(batch.epoch[:, None], targets.shape)
    columns = (epoch[targets], batch.row[targets], batch.residue[targets], inputs[targets])
    return set(zip(*(column.tolist() for column in columns), strict=True))


def test_same_masks_at_any_world_size_fresh_every_epoch(small: Corpus, configure: Callable[..., RunConfig]) -> None:
    run = Batches(small, configure(small, objective="mlm", batch_tokens=8 * 32))
    per_epoch = -(-run.windows[0].n_windows // 8)
    first: set[tuple[int, int]] = set()
    second: set[tuple[int, int]] = set()
    for step in range(2 * per_epoch):
        whole = masked(run.at(step), 0)
        for world in (2, 4):
            assert set().union(*(masked(run.at(step, rank, world), 0) for rank in range(world))) == whole
        for epoch, row, residue, _ in whole:
            (first if epoch == 0 else second).add((row, residue))
    assert 0.05 < len(first & second) / len(first) < 0.3
