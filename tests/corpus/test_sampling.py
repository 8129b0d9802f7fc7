"""Cluster sampling: who is shown when, which clusters a limit takes, and runs on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import clustered_corpus, make_corpus, random_sequences

from plm_scaling.core.errors import CorpusError, PlanError
from plm_scaling.core.run import RunConfig, Stream
from plm_scaling.corpus.batches import Batches
from plm_scaling.corpus.packing import open_windows, pass_stats, window_stats
from plm_scaling.corpus.reader import Corpus
from plm_scaling.corpus.sampling import cluster_keys, cluster_pool
from plm_scaling.corpus.windows import Windows

BY_CLUSTER = Stream(sampling="cluster50")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """40 clusters of 1 to 6 sequences over two sources, some copied."""
    return clustered_corpus(tmp_path_factory.mktemp("sampled") / "c", copies=30, sources=2)


def members(corpus: Corpus, rows: Sequence[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for row in rows:
        found.setdefault(int(corpus.cluster(50)[row]), []).append(int(row))
    return found


def check_turns(corpus: Corpus, stream: Stream, first_epoch: int) -> None:
    """One member of each cluster per epoch; all n of them over any n epochs in a row."""
    everyone = members(corpus, corpus.pool(stream).tolist())
    longest = max(len(rows) for rows in everyone.values())
    shown: dict[int, list[int]] = {cluster: [] for cluster in everyone}
    for epoch in range(first_epoch, first_epoch + 2 * longest):
        rows = corpus.epoch_rows(stream, epoch).tolist()
        here = members(corpus, rows)
        assert sorted(here) == sorted(everyone)
        assert len(rows) == len(here)
        for cluster, (row,) in here.items():
            shown[cluster].append(row)
    for cluster, rows in everyone.items():
        n = len(rows)
        for begin in range(n):
            assert sorted(shown[cluster][begin : begin + n]) == sorted(rows)


@pytest.mark.parametrize("first_epoch", [0, 7, 10**9])
def test_each_cluster_shows_one_member_an_epoch_and_all_in_turn(corpus: Corpus, first_epoch: int) -> None:
    check_turns(corpus, BY_CLUSTER, first_epoch)
    check_turns(corpus, Stream(sampling="cluster50", sources=("s1",), unique_tokens=900), first_epoch)


@settings(deadline=None, max_examples=60)
@given(cluster=st.lists(st.integers(0, 12), min_size=1, max_size=60), epoch=st.integers(0, 10**6))
def test_the_pool_groups_every_row_once(cluster: list[int], epoch: int) -> None:
    number = np.array(cluster)
    rows = np.random.default_rng(0).permutation(len(number))
    keys = cluster_keys(number, np.random.default_rng(1).integers(0, 2**63, len(number), dtype=np.uint64))
    pool = cluster_pool(rows, number, keys)
    assert sorted(pool.rows.tolist()) == list(range(len(number)))
    place = np.argsort(rows)
    for first, last in zip(pool.start[:-1], pool.start[1:], strict=True):
        group = pool.rows[first:last]
        assert group.tolist() == sorted(np.flatnonzero(number == number[group[0]]), key=lambda row: place[row])
    shown = pool.epoch(epoch)
    assert sorted(number[shown].tolist()) == sorted(set(cluster))
    assert pool.tokens(np.arange(len(number))).tolist() == [
        int((pool.rows[a:b] + 1).sum()) for a, b in zip(pool.start[:-1], pool.start[1:], strict=True)
    ]


def test_large_clusters_come_no_earlier_and_turns_begin_anywhere(tmp_path: Path) -> None:
    """A cluster's least key falls with its size; without the second mixing the large ones would lead."""
    rng = np.random.default_rng(2)
    number = np.repeat(np.arange(2000), np.where(np.arange(2000) < 1000, 1, 20))
    keys = cluster_keys(number, rng.integers(0, 2**64, len(number), dtype=np.uint64))
    pool = cluster_pool(np.arange(len(number)), number, keys)
    sizes = np.diff(pool.start)
    assert (sizes[:1000] > 1).mean() == pytest.approx(0.5, abs=0.05)
    assert np.bincount(pool.turn[sizes > 1], minlength=20).min() > 20
    assert (pool.turn < sizes).all()


def test_the_choice_does_not_depend_on_numbers_or_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    sequences = random_sequences(rng, 60)
    cluster = rng.integers(0, 15, 60)
    order = rng.permutation(60)
    renamed = rng.permutation(40)
    one = make_corpus(tmp_path / "one", sequences, cluster50=cluster.tolist())
    other = make_corpus(
        tmp_path / "other", [sequences[i] for i in order], cluster50=renamed[cluster[order]].tolist(), n_shards=2
    )
    for stream in (BY_CLUSTER, Stream(sampling="cluster50", unique_tokens=500)):
        for epoch in (0, 1, 5):
            texts = [[c.sequence(int(row)) for row in c.epoch_rows(stream, epoch)] for c in (one, other)]
            assert texts[0] == texts[1]


def test_limits_take_whole_clusters_and_are_nested(corpus: Corpus) -> None:
    whole = corpus.pool(BY_CLUSTER)
    distinct = corpus.pool_tokens(BY_CLUSTER)
    assert distinct == int((corpus.length[corpus.rows("train")] + 1).sum())
    largest = max(sum(int(corpus.length[row]) + 1 for row in rows) for rows in members(corpus, whole.tolist()).values())
    previous = 0
    for tokens in (50, 300, 301, 1000, 2000, distinct):
        limited = Stream(sampling="cluster50", unique_tokens=tokens)
        head = corpus.pool(limited)
        assert head.tolist() == whole[: len(head)].tolist()
        assert len(head) >= previous
        previous = len(head)
        assert tokens <= corpus.pool_tokens(limited) < tokens + largest
        if tokens < distinct:
            tail = corpus.pool(Stream(sampling="cluster50", start_tokens=tokens))
            assert head.tolist() + tail.tolist() == whole.tolist()
            assert not set(members(corpus, head.tolist())) & set(members(corpus, tail.tolist()))
            after = Stream(sampling="cluster50", start_tokens=tokens)
            shown = [corpus.epoch_rows(stream, 3).tolist() for stream in (limited, after, BY_CLUSTER)]
            assert shown[0] + shown[1] == shown[2]  # a cluster's turn does not depend on the limits
    assert previous == len(whole)


def test_filters_leave_members_out_of_their_clusters(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    sequences = random_sequences(rng, 50)
    flags = [("fragment",) if i % 3 == 0 else ("viral", "short") if i % 7 == 0 else () for i in range(50)]
    corpus = make_corpus(tmp_path / "c", sequences, cluster50=rng.integers(0, 12, 50).tolist(), flags=flags)
    stream = Stream(sampling="cluster50", exclude=("viral", "fragment"))
    assert sorted(corpus.pool(stream).tolist()) == [row for row in range(50) if not flags[row]]
    check_turns(corpus, stream, 0)
    # Filtering moves no cluster past another.
    numbers = [list(members(corpus, corpus.pool(s).tolist())) for s in (BY_CLUSTER, stream)]
    assert [number for number in numbers[0] if number in numbers[1]] == numbers[1]


def test_refusals(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no exact duplicates"):
        corpus.pool(Stream(sampling="cluster50", duplicates=True))
    with pytest.raises(PlanError, match="none after start_tokens"):
        corpus.pool(Stream(sampling="cluster50", start_tokens=10**9))
    with pytest.raises(PlanError, match="no cluster begins within 1 tokens"):
        corpus.pool(Stream(sampling="cluster50", start_tokens=1, unique_tokens=1))
    flat = make_corpus(tmp_path / "flat", ["LAGV", "PPP"])
    with pytest.raises(CorpusError, match="no clusters") as caught:
        window_stats(flat, BY_CLUSTER, 32)
    assert "--cluster" in caught.value.hint


# ---- windows and batches ---------------------------------------------------------------------------------------------


def test_every_epoch_is_packed_by_itself(corpus: Corpus) -> None:
    stats = pass_stats(corpus, BY_CLUSTER, 32, 5)
    for epoch in (0, 1, 4):
        windows = open_windows(corpus, BY_CLUSTER, 32, epoch=epoch)
        assert windows.stats == stats[epoch]
        assert sorted(set(windows.doc_row.tolist())) == sorted(corpus.epoch_rows(BY_CLUSTER, epoch).tolist())
    assert len({s.tokens for s in stats}) > 1
    assert window_stats(corpus, BY_CLUSTER, 32) == stats[0]
    assert pass_stats(Corpus.open(corpus.path), BY_CLUSTER, 32, 2)[:5] == stats  # from the disk, all there are


def test_a_damaged_cache_of_totals_is_made_again(tmp_path: Path) -> None:
    corpus = clustered_corpus(tmp_path / "c", clusters=8)
    before = pass_stats(corpus, BY_CLUSTER, 32, 3)
    (cache,) = (corpus.path / "windows").glob("*.passes.npy")
    cache.write_bytes(cache.read_bytes()[:90])
    assert pass_stats(corpus, BY_CLUSTER, 32, 2) == before[:2]
    assert pass_stats(corpus, BY_CLUSTER, 32, 3) == before


def test_old_epochs_are_removed_and_stay_usable_where_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plm_scaling.corpus.packing._KEPT_BYTES", 0)
    corpus = clustered_corpus(tmp_path / "c", clusters=8)
    opened = [open_windows(corpus, BY_CLUSTER, 32, epoch=epoch) for epoch in range(3)]
    first = opened[0].tokens.copy()
    for windows in opened:
        os.utime(windows.path / "stats.json", (0, 0))
    open_windows(corpus, BY_CLUSTER, 32, epoch=0)  # used again: epochs 1 and 2 are older now
    opened += [open_windows(corpus, BY_CLUSTER, 32, epoch=epoch) for epoch in range(3, 6)]
    left = {folder.name[-1] for folder in (corpus.path / "windows").glob("*-00000?")}
    assert left == {"0", "3", "4", "5"}
    assert not opened[1].path.exists()
    assert opened[1].tokens.sum() > 0
    again = open_windows(corpus, BY_CLUSTER, 32, epoch=1)
    assert np.array_equal(again.tokens, opened[1].tokens)
    assert np.array_equal(open_windows(corpus, BY_CLUSTER, 32, epoch=0).tokens, first)


def test_windows_removed_while_they_are_opened_are_packed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = clustered_corpus(tmp_path / "c", clusters=8)
    expected = open_windows(corpus, BY_CLUSTER, 32, epoch=2).tokens.copy()
    original, times = Windows.load, []

    def load(path: Path) -> Windows:
        times.append(path)
        if len(times) == 1:
            shutil.rmtree(path)
        return original(path)

    monkeypatch.setattr(Windows, "load", load)
    assert np.array_equal(open_windows(corpus, BY_CLUSTER, 32, epoch=2).tokens, expected)
    assert len(times) == 2


STREAMS = (Stream(sampling="cluster50", sources=("s0",), weight=2.0), Stream(sources=("s1",)))


@pytest.fixture(params=[(BY_CLUSTER,), STREAMS], ids=["one", "mixed"])
def run(request: pytest.FixtureRequest, corpus: Corpus, configure: Callable[..., RunConfig]) -> Batches:
    return Batches(corpus, configure(corpus, streams=request.param, batch_tokens=7 * 32))


def test_a_run_visits_one_member_per_cluster_and_epoch(run: Batches, corpus: Corpus) -> None:
    """Read off the batches: the documents of each epoch of each stream are those its rows say, whole."""
    seen: dict[tuple[int, int], dict[int, int]] = {}
    for step in range(80):
        stream, _, _ = run.order.batch(step)
        batch = run.at(step)
        for b in range(7):
            where = seen.setdefault((int(stream[b]), int(batch.epoch[b])), {})
            for row, residue in zip(batch.row[b].tolist(), batch.residue[b].tolist(), strict=True):
                if residue >= 0:
                    where[row] = where.get(row, 0) + 1
    complete = 0
    for (number, epoch), tokens in seen.items():
        if (number, epoch + 1) in seen:  # the epoch is over
            rows = corpus.epoch_rows(run.config.streams[number], epoch)
            assert tokens == {int(row): int(corpus.length[row]) + 1 for row in rows}
            complete += 1
    assert complete > 4


def test_batches_of_clusters_are_pure_functions_of_the_step(run: Batches, corpus: Corpus) -> None:
    expected = [run.at(step) for step in range(30)]
    other = Batches(Corpus.open(corpus.path), run.config)
    for step in (29, 4, 4, 17, 0):
        for name in ("tokens", "row", "residue", "epoch", "segment", "position"):
            assert np.array_equal(getattr(other.at(step), name), getattr(expected[step], name))
            for world in (2, 3):
                ranks = [getattr(other.at(step, rank, world), name) for rank in range(world)]
                whole = np.concatenate([ranks[i % world][i // world][None] for i in range(7)])
                assert np.array_equal(whole, getattr(expected[step], name))


def test_exact_counts_of_cluster_runs(run: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plm_scaling.corpus.batches._SUM_BLOCK", 8)
    tokens = positions = 0
    for step in range(45):
        assert run.tokens_at(step) == tokens
        if step % 11 == 0:
            stats = run.stats_at(step)
            assert (stats.tokens, stats.positions, stats.n_windows) == (tokens, positions, step * 7)
        batch = run.at(step)
        tokens += int((batch.residue >= 0).sum())
        positions += int((batch.segment >= 0).sum())
    assert run.tokens_at(run.n_steps) == pytest.approx(run.config.D, rel=0.05)


def test_the_runs_of_all_seeds_share_their_windows(corpus: Corpus, configure: Callable[..., RunConfig]) -> None:
    runs = [Batches(corpus, configure(corpus, streams=(BY_CLUSTER,), seed=seed)) for seed in (0, 1)]
    assert runs[0].windows_at(0, 3).path == runs[1].windows_at(0, 3).path
    assert not np.array_equal(runs[0].at(0).row, runs[1].at(0).row)
