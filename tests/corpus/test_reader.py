from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made import make_corpus

from plm_scaling.core.alphabet import EOS, encode
from plm_scaling.core.errors import CorpusError, PlanError
from plm_scaling.core.run import Stream
from plm_scaling.corpus.reader import Corpus, stream_identity

Write = Callable[..., Corpus]


def texts(corpus: Corpus, rows: np.ndarray) -> list[str]:
    return [corpus.sequence(int(row)) for row in rows]


def test_tokens_of_every_row_across_shards(write: Write, tmp_path: Path) -> None:
    sources = {"a": ["LAGV", "M", "WWC", "LAGV"], "b": ["M", "PPPPPP", "XBUZO"]}
    corpus = write(tmp_path / "c", sources, n_shards=3)
    flat = [s for group in sources.values() for s in group]
    for row, sequence in enumerate(flat):
        assert corpus.tokens(row).tolist() == [*encode(sequence).tolist(), EOS]
    assert corpus.offset[0] == corpus.offset[3]
    assert not corpus.tokens(0).flags.writeable
    rows = np.array([5, 0, 6, 2, 4])
    gathered = corpus.gather(corpus.offset[rows], corpus.length[rows] + 1)
    assert np.array_equal(gathered, np.concatenate([corpus.tokens(int(row)) for row in rows]))
    assert corpus.accessions([5, 0]) == ["b_5", "a_0"]
    assert "7 sequences" in repr(corpus)


def test_index_columns(small: Corpus) -> None:
    n = small.manifest.n_sequences
    for name in ("source", "length", "offset", "first", "split"):
        assert getattr(small, name).shape == (n,)
    assert small.hash.shape == (n, 2)
    assert len(np.unique(small.hash, axis=0)) == small.first.sum() == len(np.unique(small.offset))
    raw = small._column("hash").to_pylist()
    assert [int(high) << 64 | int(low) for high, low in small.hash] == [int.from_bytes(r, "big") for r in raw]


def test_rows_are_first_occurrences_or_all(small: Corpus) -> None:
    train = small.split == small.manifest.split_id("train")
    assert sorted(small.rows("train")) == np.flatnonzero(train & small.first).tolist()
    assert sorted(small.rows("train", duplicates=True)) == np.flatnonzero(train).tolist()
    beta = small.rows("train", ("beta",))
    assert (small.source[beta] == 1).all()
    assert small.first[beta].all()
    assert len(beta) + len(small.rows("train", ("alpha",))) == len(small.rows("train", ("alpha", "beta")))


def test_copies_follow_each_other(small: Corpus) -> None:
    address = small.offset[small.rows("train", duplicates=True)]
    changes = int((address[1:] != address[:-1]).sum()) + 1
    assert changes == len(np.unique(address)) < len(address)
    assert np.array_equal(small.offset[small.rows("train")], address[np.r_[True, address[1:] != address[:-1]]])


def test_order_does_not_depend_on_the_input_order(
    write: Write, sequences: Callable[..., list[str]], tmp_path: Path
) -> None:
    some = sequences(np.random.default_rng(1), 60)
    one = write(tmp_path / "one", {"x": some})
    other = write(tmp_path / "other", {"y": some[:10:-1], "z": some[:11]}, n_shards=2)
    assert texts(one, one.rows("train")) == texts(other, other.rows("train")) != some


@pytest.mark.parametrize("duplicates", [False, True])
def test_pools_are_nested_and_disjoint(small: Corpus, duplicates: bool) -> None:
    whole = small.pool(Stream(duplicates=duplicates))
    distinct = small.pool_tokens(Stream(duplicates=duplicates))
    assert distinct == small.manifest.splits[0].tokens
    previous: list[int] = []
    for tokens in (200, 201, 400, 1000, 2500, distinct, 10 * distinct):
        head = small.pool(Stream(unique_tokens=tokens, duplicates=duplicates)).tolist()
        assert head == whole[: len(head)].tolist()
        assert head[: len(previous)] == previous
        previous = head
        if tokens < distinct:
            inside = small.pool_tokens(Stream(unique_tokens=tokens, duplicates=duplicates))
            assert tokens <= inside < tokens + 201  # the sequence that crosses the end belongs to the range
            tail = small.pool(Stream(start_tokens=tokens, duplicates=duplicates)).tolist()
            assert head + tail == whole.tolist()
            assert not set(small.offset[head]) & set(small.offset[tail])
    assert previous == whole.tolist()


def test_same_unique_sequences_with_and_without_copies(small: Corpus) -> None:
    for tokens in (300, 1500, 2000):
        stream = Stream(start_tokens=100, unique_tokens=tokens)
        copies = stream.model_copy(update={"duplicates": True})
        assert set(small.offset[small.pool(stream)]) == set(small.offset[small.pool(copies)])
    assert len(small.pool(copies)) > len(small.pool(stream))


def test_excluded_flags_leave_with_their_copies(tmp_path: Path) -> None:
    """A sequence has the flags of its first record, as it has its source."""
    sequences = ["LAGV", "MMM", "LAGV", "WWC", "MMM", "PPPP"]
    flags = [("fragment",), (), (), ("viral", "short"), ("fragment",), ()]
    corpus = make_corpus(tmp_path / "c", sequences, flags=flags)

    def left(*exclude: str, duplicates: bool = False) -> list[int]:
        return sorted(corpus.pool(Stream(exclude=exclude, duplicates=duplicates)).tolist())

    assert left() == [0, 1, 3, 5]
    assert left("fragment") == [1, 3, 5]
    assert left("viral", "fragment") == left("fragment", "short") == [1, 5]
    assert left("fragment", duplicates=True) == [1, 3, 4, 5]
    assert left("viral", duplicates=True) == [0, 1, 2, 4, 5]
    assert left("long") == [0, 1, 3, 5]
    assert corpus.pool_tokens(Stream(exclude=("fragment",))) == 4 + 4 + 5
    with pytest.raises(PlanError, match="no flag 'virul'") as caught:
        left("virul")
    assert caught.value.hint == "did you mean viral?"
    with pytest.raises(PlanError, match="holds 0 tokens") as caught:
        make_corpus(tmp_path / "d", ["LAGV"], flags=[("short",)]).pool(Stream(exclude=("short",)))
    assert "without short" in caught.value.why


def test_ranges_of_a_filtered_pool_are_nested(sequences: Callable[..., list[str]], tmp_path: Path) -> None:
    some = list(dict.fromkeys(sequences(np.random.default_rng(6), 80)))
    corpus = make_corpus(tmp_path / "c", some, flags=[("viral",) if len(s) % 3 == 0 else () for s in some])
    whole = corpus.pool(Stream()).tolist()
    kept = corpus.pool(Stream(exclude=("viral",))).tolist()
    assert kept == [row for row in whole if len(some[row]) % 3]  # filtering does not change the order
    for tokens in (100, 500, 1000):
        head = corpus.pool(Stream(exclude=("viral",), unique_tokens=tokens)).tolist()
        tail = corpus.pool(Stream(exclude=("viral",), start_tokens=tokens)).tolist()
        assert head + tail == kept


def test_a_corpus_of_an_older_release_cannot_be_filtered(small: Corpus, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from plm_scaling.corpus.format import FileEntry

    shutil.copytree(small.path, tmp_path / "old")
    index = []
    for entry in small.manifest.index:
        path = tmp_path / "old" / entry.name
        pq.write_table(pq.read_table(path).drop_columns(["flags", "cluster50", "cluster90"]), path)
        index.append(FileEntry(name=entry.name, bytes=path.stat().st_size, sha256=""))
    small.manifest.model_copy(update={"index": tuple(index)}).write(tmp_path / "old" / "manifest.json")
    old = Corpus.open(tmp_path / "old")
    assert old.pool(Stream()).tolist() == small.pool(Stream()).tolist()
    with pytest.raises(CorpusError, match="no column 'flags'"):
        old.pool(Stream(exclude=("viral",)))


def test_pool_refusals(small: Corpus) -> None:
    with pytest.raises(PlanError, match="none after start_tokens") as caught:
        small.pool(Stream(start_tokens=10**9))
    assert "lower start_tokens" in caught.value.hint
    with pytest.raises(PlanError, match="no source 'alpa'") as caught:
        small.pool(Stream(sources=("alpa",)))
    assert caught.value.hint == "did you mean alpha?"
    with pytest.raises(PlanError, match="no split 'vall_iid'"):
        small.rows("vall_iid")
    begin = 1 + int(small.length[small.pool(Stream())[0]]) - 1
    with pytest.raises(PlanError, match="no sequence begins within 1 tokens"):
        small.pool(Stream(start_tokens=begin, unique_tokens=1))


def test_streams_are_canonical() -> None:
    assert Stream(exclude=("viral", "fragment", "viral")) == Stream(exclude=("fragment", "viral"))
    assert Stream(sampling="flat", exclude=()).identity() == {}


def test_stream_identity_ignores_the_weight() -> None:
    assert stream_identity(Stream(weight=3.0)) == stream_identity(Stream()) != stream_identity(Stream(start_tokens=1))


def test_open_refuses_what_is_no_complete_corpus(write: Write, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no corpus here"):
        Corpus.open(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="no complete corpus"):
        Corpus.open(tmp_path / "empty")
    corpus = write(tmp_path / "c", {"a": ["LAGV", "PPP"]})
    assert Corpus.open(str(corpus.path)).corpus_id == corpus.corpus_id
    shard = corpus.path / "shards/000000.bin"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    with pytest.raises(CorpusError, match="8 bytes where the manifest says 9") as caught:
        Corpus.open(corpus.path)
    assert caught.value.where.endswith("000000.bin")
    shard.unlink()
    with pytest.raises(CorpusError, match="missing"):
        Corpus.open(corpus.path)
    shard.write_bytes(data)
    manifest = corpus.path / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text[: len(text) // 2])
    with pytest.raises(CorpusError, match="not a readable Manifest"):
        Corpus.open(corpus.path)
    wrong = json.loads(text)
    wrong["sources"][0]["sequences"] = 3
    manifest.write_text(json.dumps(wrong))
    with pytest.raises(CorpusError, match="holds 2 records, the manifest counts 3"):
        _ = Corpus.open(corpus.path).length


def test_hf_dataset(small: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets  # noqa: F401

    monkeypatch.setattr("plm_scaling.corpus.reader._HF_BATCH", 70)
    dataset = small.to_hf_dataset()
    assert dataset.column_names == ["accession", "sequence", "source", "split", "length"]
    assert len(dataset) == small.manifest.n_sequences
    for row in (0, 69, 70, 144, len(dataset) - 1):
        record = dataset[row]
        assert record["sequence"] == small.sequence(row)
        assert record["length"] == len(record["sequence"])
        assert record["source"] == small.manifest.sources[small.source[row]].name
        assert record["split"] == small.manifest.splits[small.split[row]].name
        assert record["accession"] == small.accessions([row])[0]
