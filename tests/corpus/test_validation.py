from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made import make_corpus

from plm_scaling.core.run import Stream
from plm_scaling.corpus.packing import open_windows
from plm_scaling.corpus.reader import Corpus
from plm_scaling.corpus.validation import validation_rows, validation_sets


def test_sets_are_prefixes_of_their_splits(small: Corpus) -> None:
    found = validation_sets(small, 64, 150, "clm")
    assert [each.name for each in found] == ["val_iid", "heldout_lab"]
    for each in found:
        order = small.rows(each.name)
        assert each.rows.tolist() == order[: len(each.rows)].tolist()
        size = small.length[order] + 1
        assert each.windows.stats.tokens == size[: len(each.rows)].sum() <= 150 < size[: len(each.rows) + 1].sum()
        assert set(each.windows.doc_row) == set(each.rows)
    whole = validation_sets(small, 64, 10**9, "clm")[0]
    assert whole.windows.stats.tokens == small.manifest.splits[1].tokens
    assert np.array_equal(whole.windows.tokens, open_windows(small, small.rows("val_iid"), 64).tokens)


def test_at_least_one_sequence(small: Corpus) -> None:
    assert len(validation_rows(small, "val_iid", 1)) == 1


def test_ids_say_what_may_be_compared(small: Corpus) -> None:
    def ids(**changes: object) -> tuple[str, ...]:
        arguments: dict[str, object] = {"context": 64, "max_tokens": 150, "objective": "clm"} | changes
        return tuple(each.validation_id for each in validation_sets(small, **arguments))  # type: ignore[arg-type]

    kinds: list[dict[str, object]] = [
        {},
        {"context": 32},
        {"max_tokens": 100},
        {"objective": "mlm"},
        {"objective": "mlm", "mask_rate": 0.3},
    ]
    found = [ids(**kind) for kind in kinds]
    assert len({each for pair in found for each in pair}) == 2 * len(kinds)
    assert [ids(**kind) for kind in kinds] == found
    assert ids(mask_rate=0.3) == ids()  # masks do not matter to a CLM


def test_same_sequences_elsewhere(
    write: Callable[..., Corpus], sequences: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Other training data before the same validation set: a CLM is scored alike, an MLM's masks move."""
    some = sequences(np.random.default_rng(5), 60)
    split = {sequence: "val_iid" for sequence in some[40:]}
    one = write(tmp_path / "one", {"a": some[:20] + some[40:]}, lambda s: split.get(s, "train"))
    other = write(tmp_path / "other", {"a": some}, lambda s: split.get(s, "train"))
    for objective in ("clm", "mlm"):
        pair = [validation_sets(corpus, 64, 10**6, objective) for corpus in (one, other)]
        assert [len(each) for each in pair] == [1, 1]  # the empty held-out split is no set
        same = pair[0][0].validation_id == pair[1][0].validation_id
        assert same == (objective == "clm")


def test_cluster_split_comes_second_and_the_excluded_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("made.SPLITS", ("train", "excluded", "heldout_far", "val_cluster", "val_iid"))
    sequences = ["LAGV", "MMM", "WWC", "PPPP", "SSS", "TTTT"]
    split = ["heldout_far", "excluded", "val_cluster", "val_iid", "train", "train"]
    corpus = make_corpus(tmp_path / "c", sequences, split=split, cluster50=[0, 1, 1, 2, 3, 4])
    sets = {each.name: each.rows.tolist() for each in validation_sets(corpus, 16, 1000, "clm")}
    assert sets == {"val_iid": [3], "val_cluster": [2], "heldout_far": [0]}
    assert list(sets) == ["val_iid", "val_cluster", "heldout_far"]
    for sampling in ("flat", "cluster50"):
        assert sorted(corpus.pool(Stream(sampling=sampling)).tolist()) == [4, 5]


def test_unknown_split(small: Corpus) -> None:
    with pytest.raises(Exception, match="no split"):
        validation_rows(small, "val", 10)
