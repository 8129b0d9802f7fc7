from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch

from plm_scaling.core.alphabet import CLS, EOS, MASK, PAD, encode
from plm_scaling.core.run import Objective, RunConfig
from plm_scaling.corpus.batches import Batch, Batches
from plm_scaling.corpus.reader import Corpus
from plm_scaling.training.objectives import PackedInput, clm_scored, packed_input, packed_inputs
from plm_scaling.training.speed import random_batch


def one_window() -> Batch:
    """<cls> M K V <eos> | a continued piece: W A <eos> | padding."""
    tokens = np.array([[CLS, *encode("MKV"), EOS, *encode("WA"), EOS, PAD, PAD]], dtype=np.uint8)
    return Batch(
        tokens=tokens,
        segment=np.array([[0, 0, 0, 0, 0, 1, 1, 1, -1, -1]], dtype=np.int32),
        position=np.array([[0, 1, 2, 3, 4, 0, 1, 2, 0, 0]], dtype=np.int32),
        row=np.array([[7, 7, 7, 7, 7, 8, 8, 8, -1, -1]]),
        residue=np.array([[-1, 0, 1, 2, 3, 90, 91, 92, -1, -1]], dtype=np.int32),
        epoch=np.zeros(1, dtype=np.int64),
    )


def test_clm_predicts_every_token_but_the_first_of_a_continued_piece() -> None:
    inputs = packed_input(one_window(), "clm", mask_seed=0, mask_rate=0.15)
    assert inputs.scored_S.tolist() == [0, 1, 2, 3, 5, 6]
    assert inputs.target_S.tolist() == [*encode("MKV"), EOS, *encode("A"), EOS]
    assert torch.equal(inputs.tokens_BT[0], torch.from_numpy(one_window().tokens[0].astype(np.int64)))


def test_mlm_targets_are_residues_only_and_are_predicted_in_place() -> None:
    batch = one_window()
    inputs = packed_input(batch, "mlm", mask_seed=0, mask_rate=0.999999)
    assert inputs.scored_S.tolist() == [1, 2, 3, 5, 6]
    assert inputs.target_S.tolist() == batch.tokens[0, [1, 2, 3, 5, 6]].tolist()
    changed = inputs.tokens_BT[0].numpy() != batch.tokens[0]
    assert changed.any()
    assert set(np.flatnonzero(changed)) <= {1, 2, 3, 5, 6}


def test_a_share_of_the_documents_is_read_from_their_end() -> None:
    """Whole documents or their pieces, where they stand, drawn anew every epoch; what is scored stays as it was."""
    inputs = packed_input(one_window(), "clm", mask_seed=0, mask_rate=0.15)
    [both] = packed_inputs([one_window()], "clm", mask_seed=0, mask_rate=0.15, reverse_share=0.9999999)
    assert both.tokens_BT[0].tolist() == [EOS, *encode("VKM"), CLS, EOS, *encode("AW"), PAD, PAD]
    assert both.target_S.tolist() == [*encode("VKM"), CLS, *encode("AW")]
    for name in ("segment_BT", "position_BT", "first_P", "last_P", "scored_S"):
        assert torch.equal(getattr(both, name), getattr(inputs, name)), name

    batch = random_batch(40, 90)
    row = np.where(batch.segment >= 0, 100 * np.arange(40)[:, None] + batch.segment, -1)
    documents, turned = np.unique(row)[1:], []
    for epoch in (0, 1):
        now = Batch(batch.tokens, batch.segment, batch.position, row, batch.residue, batch.epoch + epoch)
        [some] = packed_inputs([now], "clm", mask_seed=3, mask_rate=0.15, reverse_share=0.3)
        shown = some.tokens_BT.numpy()
        turned.append({number for number in documents if (shown[row == number] != batch.tokens[row == number]).any()})
        for number in documents:
            here = batch.tokens[row == number]
            assert shown[row == number].tolist() == (here[::-1] if number in turned[-1] else here).tolist()
    assert all(0.15 < len(one) / len(documents) < 0.45 for one in turned)
    assert turned[0] != turned[1]


@pytest.mark.parametrize("objective", ["clm", "mlm"])
def test_visible_keys_are_the_document(objective: Objective) -> None:
    inputs = packed_input(one_window(), objective, mask_seed=0, mask_rate=0.15)
    assert inputs.first_P.tolist()[:8] == [0, 0, 0, 0, 0, 5, 5, 5]
    if objective == "mlm":
        assert inputs.last_P.tolist()[:8] == [4, 4, 4, 4, 4, 7, 7, 7]
    else:
        assert inputs.last_P.tolist() == list(range(10))
    own = torch.arange(10)
    assert bool(((inputs.first_P <= own) & (own <= inputs.last_P)).all())


@pytest.mark.parametrize("objective", ["clm", "mlm"])
def test_batches_made_together_are_those_made_alone(objective: Objective) -> None:
    batches = [random_batch(3, 30, seed=s) for s in range(5)]
    together = packed_inputs(batches, objective, mask_seed=4, mask_rate=0.2)
    for batch, inputs in zip(batches, together, strict=True):
        alone = packed_input(batch, objective, mask_seed=4, mask_rate=0.2)
        for name in PackedInput.__dataclass_fields__:
            assert torch.equal(getattr(alone, name), getattr(inputs, name)), name


def test_masks_are_fresh_every_epoch_unless_told_otherwise() -> None:
    batch = random_batch(4, 60)
    later = Batch(batch.tokens, batch.segment, batch.position, batch.row, batch.residue, batch.epoch + 1)

    def masked(b: Batch, refresh: bool) -> list[int]:
        inputs = packed_input(b, "mlm", mask_seed=1, mask_rate=0.2, mask_refresh=refresh)
        return inputs.scored_S.tolist()

    assert masked(batch, True) != masked(later, True)
    assert masked(batch, False) == masked(later, False) == masked(batch, True)


def test_an_epoch_scores_every_token_once(corpus: Corpus, make_config: Callable[..., RunConfig]) -> None:
    """CLM over one pass of real windows: all tokens of the pool, less one per continued piece."""
    batches = Batches(corpus, make_config(batch_tokens=64, context=64))
    windows = batches.windows[0]
    counts: Counter[tuple[int, int]] = Counter()
    for step in range(windows.n_windows):
        batch = batches.at(step)
        scored = clm_scored(batch.segment)
        tokens = (batch.row.reshape(-1)[scored + 1].tolist(), batch.residue.reshape(-1)[scored + 1].tolist())
        counts.update(zip(*tokens, strict=True))
    continued = int((windows.doc_begin > 0).sum())
    assert continued > 0
    assert set(counts.values()) == {1}
    assert len(counts) == windows.stats.tokens - continued
    assert MASK not in {int(t) for t in np.unique(windows.tokens)}
