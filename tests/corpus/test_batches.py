from __future__ import annotations

import pkgutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from made import clustered_corpus

from plm_scaling.core.alphabet import CLS, EOS, PAD
from plm_scaling.core.errors import CorpusError
from plm_scaling.core.run import RunConfig, Stream
from plm_scaling.corpus import batches as batches_module
from plm_scaling.corpus.batches import Batch, Batches, window_batch
from plm_scaling.corpus.packing import open_windows
from plm_scaling.corpus.reader import Corpus

Configure = Callable[..., RunConfig]

TWO_STREAMS = (
    Stream(sources=("alpha",), unique_tokens=800, weight=1.0),
    Stream(sources=("beta",), duplicates=True, weight=2.0),
)


@pytest.fixture(params=[(Stream(),), TWO_STREAMS], ids=["one", "two"])
def run(request: pytest.FixtureRequest, small: Corpus, configure: Configure) -> Batches:
    return Batches(small, configure(small, streams=request.param, batch_tokens=7 * 32))


FIELDS = ("tokens", "segment", "position", "row", "residue", "epoch")


def as_lists(batch: Batch) -> dict[str, list[object]]:
    return {name: getattr(batch, name).tolist() for name in FIELDS}


def test_every_position_is_what_it_says(run: Batches, small: Corpus) -> None:
    for step in range(30):
        batch = run.at(step)
        assert batch.tokens.shape == (7, 32)
        dtypes = (np.uint8, np.int32, np.int32, np.int64, np.int32, np.int64)
        assert tuple(getattr(batch, name).dtype for name in FIELDS) == dtypes
        for b in range(7):
            segment = batch.segment[b]
            padding = batch.tokens[b] == PAD
            assert np.array_equal(padding, segment == -1)
            assert (batch.row[b][padding] == -1).all()
            assert (batch.residue[b][padding] == -1).all()
            assert (batch.position[b][padding] == 0).all()
            used = segment[~padding]
            assert used[0] == 0
            assert set(np.diff(used)) <= {0, 1}
            for number in range(used[-1] + 1):
                here = segment == number
                assert batch.position[b][here].tolist() == list(range(here.sum()))
                (row,) = set(batch.row[b][here])
                truth = np.concatenate([[CLS], small.tokens(row)])
                residue = batch.residue[b][here]
                assert np.array_equal(truth[residue + 1], batch.tokens[b][here])
                assert (np.diff(residue) == 1).all()
                assert ((residue == -1) == (batch.tokens[b][here] == CLS)).all()
                assert ((residue == small.length[row]) == (batch.tokens[b][here] == EOS)).all()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_global_batch_does_not_depend_on_the_world(run: Batches, world: int) -> None:
    for step in (0, 1, 17):
        whole = as_lists(run.at(step))
        for name, values in whole.items():
            ranks = [as_lists(run.at(step, rank, world))[name] for rank in range(world)]
            assert [ranks[i % world][i // world] for i in range(len(values))] == values


def test_a_rank_without_a_window_is_shown_padding(run: Batches) -> None:
    for step in (0, 5):
        whole = [as_lists(run.at(step, rank, 9))["tokens"] for rank in range(7)]
        assert [window for share in whole for window in share] == as_lists(run.at(step))["tokens"]
        for rank in (7, 8):
            batch = run.at(step, rank, 9)
            assert [getattr(batch, name).shape for name in FIELDS] == [(1, 32)] * 5 + [(1,)]
            assert [getattr(batch, name).dtype for name in FIELDS] == [getattr(run.at(0), n).dtype for n in FIELDS]
            assert (batch.tokens == PAD).all()
            assert (batch.segment == -1).all()
            assert (batch.row == -1).all()
            assert (batch.position == 0).all()
            assert (batch.residue == -1).all()


def test_a_batch_does_not_depend_on_history(run: Batches) -> None:
    expected = [as_lists(run.at(step)) for step in range(25)]
    other = Batches(run.corpus, run.config)
    for step in (24, 3, 3, 11, 0, 23):
        assert as_lists(other.at(step)) == expected[step]


def test_exact_counts_at_every_step(run: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "_SUM_BLOCK", 8)
    tokens = positions = squared = residues = 0
    for step in range(60):
        assert run.tokens_at(step) == tokens
        if step % 20 == 0:
            stats = run.stats_at(step)
            assert (stats.tokens, stats.residues, stats.positions) == (tokens, residues, positions)
            assert (stats.sum_length_squared, stats.n_windows) == (squared, step * 7)
        batch = run.at(step)
        used = batch.tokens != PAD
        positions += int(used.sum())
        tokens += int((used & (batch.tokens != CLS)).sum())
        residues += int((used & (batch.tokens != CLS) & (batch.tokens != EOS)).sum())
        squared += sum(int((np.unique(s[s >= 0], return_counts=True)[1] ** 2).sum()) for s in batch.segment)
    assert Batches(run.corpus, run.config).tokens_at(37) == run.tokens_at(37)


def test_steps_meet_the_budget(small: Corpus, configure: Configure) -> None:
    for streams in ((Stream(),), TWO_STREAMS):
        for D in (1, 5_000, 60_000):
            run = Batches(small, configure(small, D=D, streams=streams))
            per_step = run.mean_tokens_per_window * 4
            assert run.n_steps == max(1, round(D / per_step))
            assert abs(run.tokens_at(run.n_steps) - max(D, per_step)) < 4 * per_step


def test_seeds_change_the_order_only(small: Corpus, configure: Configure) -> None:
    runs = [Batches(small, configure(small, seed=seed)) for seed in (0, 1)]
    assert runs[0].windows[0].path == runs[1].windows[0].path
    assert as_lists(runs[0].at(0)) != as_lists(runs[1].at(0))


def test_window_batch_is_the_windows_themselves(small: Corpus) -> None:
    windows = open_windows(small, Stream(), 32)
    batch = window_batch(windows, [3, 0], epoch=5)
    assert np.array_equal(batch.tokens, windows.tokens[[3, 0]])
    assert batch.epoch.tolist() == [5, 5]
    assert batch.segment.max(axis=1).tolist() == (np.diff(windows.doc_ptr)[[3, 0]] - 1).tolist()


def test_another_corpus_is_refused(small: Corpus, configure: Configure) -> None:
    with pytest.raises(CorpusError, match="planned for another corpus"):
        Batches(small, configure(small, corpus_id="0" * 64))


@pytest.mark.parametrize(
    "place", ["batches.open_windows", "batches.pass_stats", "batches.Batches._span_tokens", "reader.cluster_pool"]
)
def test_threads_do_not_meet_in_what_is_kept_for_speed(
    place: str, configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread makes inputs ahead while another counts tokens and asks for unique ones."""
    monkeypatch.setattr(batches_module, "_SUM_BLOCK", 8)
    corpus = clustered_corpus(tmp_path / "c", clusters=60)
    streams = (Stream(sampling="cluster50"),)
    config = configure(corpus, streams=streams)
    steps = [30, 3, 17, 25]

    def asked(run: Batches, step: int) -> list[object]:
        rows = run.corpus.epoch_rows(streams[0].model_copy(update={"start_tokens": step}), 1)
        return [as_lists(run.at(step)), run.tokens_at(step), run.stats_at(step), rows.tolist()]

    serial = Batches(corpus, config)
    expected = [asked(serial, step) for step in steps]
    run = Batches(clustered_corpus(tmp_path / "again", clusters=60), config)  # nothing of it is on disk yet
    owner, _, name = f"plm_scaling.corpus.{place}".rpartition(".")
    real, inside, most = pkgutil.resolve_name(f"{owner}.{name}"), list[int](), list[int]()

    def slow(*args: object, **options: object) -> object:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        try:
            return real(*args, **options)
        finally:
            inside.pop()

    monkeypatch.setattr(f"{owner}.{name}", slow)
    with ThreadPoolExecutor(len(steps)) as pool:
        assert list(pool.map(lambda step: asked(run, step), steps)) == expected
    assert set(most) == {1}
