from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from plm_scaling.core.alphabet import CLS, EOS, PAD
from plm_scaling.core.errors import CorpusError, PlanError
from plm_scaling.core.run import Stream
from plm_scaling.corpus import packing
from plm_scaling.corpus.packing import Windows, cut, open_windows, window_stats
from plm_scaling.corpus.reader import Corpus
from plm_scaling.corpus.shuffling import gather_shuffled

Write = Callable[..., Corpus]


def documents(windows: Windows) -> list[tuple[int, int, list[int]]]:
    """(row, begin, tokens) of every document, read off the windows one by one."""
    out = []
    for w in range(windows.n_windows):
        start = 0
        for d in range(windows.doc_ptr[w], windows.doc_ptr[w + 1]):
            stop = start + int(windows.doc_length[d])
            piece = windows.tokens[w, start:stop].tolist()
            out.append((int(windows.doc_row[d]), int(windows.doc_begin[d]), piece))
            start = stop
        assert (windows.tokens[w, start:] == PAD).all()
        assert PAD not in windows.tokens[w, :start]
    return out


@pytest.mark.parametrize("context", [3, 16, 33, 300])
@pytest.mark.parametrize("duplicates", [False, True])
def test_each_token_exactly_once(small: Corpus, context: int, duplicates: bool) -> None:
    stream = Stream(duplicates=duplicates)
    windows = open_windows(small, stream, context)
    pieces: dict[int, list[tuple[int, list[int]]]] = {}
    for row, begin, tokens in documents(windows):
        pieces.setdefault(row, []).append((begin, tokens))
    assert sorted(pieces) == sorted(small.pool(stream).tolist())
    for row, parts in pieces.items():
        parts.sort(key=lambda part: (part[0], part[1][0] != CLS))
        whole = [token for _, tokens in parts for token in tokens]
        assert whole == [CLS, *small.tokens(row).tolist()]
        assert all(len(tokens) == context for _, tokens in parts[:-1])  # only the last piece is shorter
        begins = np.cumsum([0] + [len(tokens) for _, tokens in parts[:-1]]) - 1
        assert [begin for begin, _ in parts] == np.maximum(begins, 0).tolist()


@pytest.mark.parametrize("context", [3, 16, 300])
def test_stats_are_counts(small: Corpus, context: int) -> None:
    windows = open_windows(small, Stream(), context)
    found = documents(windows)
    rows = small.pool(Stream())
    stats = windows.stats
    assert stats.tokens == int((small.length[rows] + 1).sum()) == windows.window_tokens.sum()
    assert stats.residues == int(small.length[rows].sum())
    assert stats.positions == stats.tokens + len(rows) == sum(len(t) for _, _, t in found)
    assert stats.sum_length_squared == sum(len(t) ** 2 for _, _, t in found)
    assert stats.fill == pytest.approx((windows.tokens != PAD).mean())
    assert stats.tokens_per_window == stats.tokens / windows.n_windows
    per_window = ((windows.tokens != PAD) & (windows.tokens != CLS)).sum(axis=1)
    assert np.array_equal(per_window, windows.window_tokens)
    pieces = windows.pieces(small)
    assert pieces.tokens.tolist() == [sum(x != CLS for x in t) for _, _, t in found]
    assert pieces.residues.tolist() == [sum(x not in (CLS, EOS) for x in t) for _, _, t in found]


def test_stats_without_packing_agree_and_are_cached(
    write: Write, sequences: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write(tmp_path / "c", {"a": sequences(np.random.default_rng(2), 50)})
    stream = Stream(unique_tokens=700)
    stats = window_stats(corpus, stream, 32)
    assert not list(corpus.path.glob("windows/*/tokens.npy"))
    monkeypatch.setattr(packing, "place", lambda *_: pytest.fail("worked out again"))
    assert window_stats(corpus, stream.model_copy(update={"weight": 2.0}), 32) == stats
    monkeypatch.undo()
    assert open_windows(corpus, stream, 32).stats == stats
    for cached in corpus.path.glob("windows/*.json"):
        cached.unlink()
    assert window_stats(corpus, stream, 32) == stats


def test_explicit_rows(small: Corpus) -> None:
    rows = small.rows("val_iid")
    windows = open_windows(small, rows, 64)
    assert set(windows.doc_row) == set(rows)
    assert window_stats(small, rows, 64) == windows.stats
    assert open_windows(small, Stream(), 64, split="val_iid").stats == windows.stats


def test_packed_once_and_deterministic(
    write: Write, sequences: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = sequences(np.random.default_rng(3), 80)
    one, other = (write(tmp_path / name, {"a": some}) for name in ("one", "other"))
    first = open_windows(one, Stream(), 40)
    monkeypatch.setattr(packing, "_BLOCK_POSITIONS", 100)  # many small blocks give the same bytes
    second = open_windows(other, Stream(), 40)
    assert first.path.name != second.path.name or one.corpus_id == other.corpus_id
    for file in sorted(first.path.iterdir()):
        assert file.read_bytes() == (second.path / file.name).read_bytes()
    monkeypatch.setattr(packing, "_write", lambda *_: pytest.fail("packed again"))
    assert open_windows(one, Stream(weight=5.0), 40).path == first.path
    assert not isinstance(first.tokens, np.memmap)  # plain views are faster
    assert not first.tokens.flags.writeable


def test_concurrent_packers_share_one_packing(
    write: Write, sequences: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each opens the lock file itself, which is what tells processes apart too."""
    corpus = write(tmp_path / "c", {"a": sequences(np.random.default_rng(4), 300)})
    start, times = Barrier(4), []
    original = packing._write

    def slow_write(*arguments: Any) -> None:
        times.append(1)
        original(*arguments)

    def pack(_: int) -> str:
        opened = Corpus.open(corpus.path)
        assert opened.length.any()
        start.wait()
        return str(open_windows(opened, Stream(), 48).path)

    monkeypatch.setattr(packing, "_write", slow_write)
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(pack, range(4)))
    assert len(paths) == len(times) == 1
    assert {entry.name for entry in (corpus.path / "windows").iterdir()} == {".lock", Path(paths.pop()).name}


@pytest.mark.skipif(shutil.which("flock") is None, reason="needs the flock command")
def test_another_process_waits_for_the_lock(write: Write, tmp_path: Path) -> None:
    corpus = write(tmp_path / "c", {"a": ["LAGVLAGV", "PPP"]})
    with packing._locked_home(corpus) as home:
        tried = subprocess.run(["flock", "-n", str(home / ".lock"), "true"])
        assert tried.returncode == 1
    assert subprocess.run(["flock", "-n", str(home / ".lock"), "true"]).returncode == 0


def test_what_a_killed_packer_left_is_removed(write: Write, tmp_path: Path) -> None:
    corpus = write(tmp_path / "c", {"a": ["LAGVLAGV", "PPP"]})
    stale = corpus.path / "windows" / ".0123.tmp"
    stale.mkdir(parents=True)
    (stale / "tokens.npy").write_bytes(b"part")
    open_windows(corpus, Stream(), 16)
    assert not stale.exists()


def test_failed_packing_leaves_no_windows(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = write(tmp_path / "c", {"a": ["LAGVLAGV", "PPP"]})

    def fail(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(packing, "_tokens", fail)
        with pytest.raises(OSError, match="disk full"):
            open_windows(corpus, Stream(), 16)
    assert open_windows(corpus, Stream(), 16).stats.tokens == 13


def test_read_only_corpus_packs_into_a_temporary_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write(tmp_path / "c", {"a": ["LAGVLAGV", "PPP"]})
    (corpus.path / "windows").write_text("")  # no folder can be made here, whoever asks
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    windows = open_windows(corpus, Stream(), 16)
    assert windows.path.is_relative_to(tmp_path / "tmp")
    assert open_windows(corpus, Stream(), 16).path == windows.path
    assert window_stats(corpus, Stream(), 12).tokens == 13
    (tmp_path / "tmp").rename(tmp_path / "gone")
    (tmp_path / "tmp").write_text("")
    with pytest.raises(OSError, match="plm-scaling-windows"):
        open_windows(corpus, Stream(), 16)


def test_damage_and_bad_requests_are_named(write: Write, tmp_path: Path) -> None:
    corpus = write(tmp_path / "c", {"a": ["LAGVLAGV", "PPP"]})
    with pytest.raises(PlanError, match="context 2 holds no residue"):
        open_windows(corpus, Stream(), 2)
    with pytest.raises(PlanError, match="no sequences to pack"):
        open_windows(corpus, np.zeros(0, dtype=np.int64), 16)
    windows = open_windows(corpus, Stream(), 16)
    np.save(windows.path / "doc_ptr.npy", np.zeros(7, dtype=np.int64))
    with pytest.raises(CorpusError, match="cannot be read") as caught:
        open_windows(corpus, Stream(), 16)
    assert "stats.json" in caught.value.why
    (windows.path / "tokens.npy").write_bytes(b"")
    with pytest.raises(CorpusError, match="cannot be read"):
        open_windows(corpus, Stream(), 16)


def test_cut_at_the_borders() -> None:
    pieces = cut(np.arange(4), np.array([8, 9, 18, 1]), 10)
    assert pieces.row.tolist() == [0, 1, 1, 2, 2, 3]
    assert pieces.length.tolist() == [10, 10, 1, 10, 10, 3]
    assert pieces.begin.tolist() == [0, 0, 9, 0, 9, 0]  # record 1's second piece is its <eos> alone
    assert pieces.tokens.tolist() == [9, 9, 1, 9, 10, 2]
    assert pieces.residues.tolist() == [8, 9, 0, 9, 9, 1]


# ---- shuffled residues -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [16, 300])
def test_a_shuffled_stream_packs_the_same_sequences_with_their_residues_in_another_order(
    small: Corpus, context: int
) -> None:
    plain, shuffled = (open_windows(small, Stream(shuffled=flag), context) for flag in (False, True))
    assert shuffled.stats == plain.stats == window_stats(small, Stream(shuffled=True), context)
    assert (shuffled.slots == plain.slots).all()
    assert (shuffled.tokens != plain.tokens).mean() > 0.5
    whole: dict[int, list[int]] = {}
    for row, _, tokens in sorted(documents(shuffled), key=lambda part: (part[0], part[1], part[2][0] != CLS)):
        whole.setdefault(row, []).extend(tokens)
    for row, (first, *tokens) in whole.items():  # the pieces of a long sequence are pieces of one permutation
        true = small.tokens(row).tolist()
        assert (first, tokens[-1]) == (CLS, EOS)
        assert sorted(tokens) == sorted(true)


def test_the_order_of_shuffled_residues_is_fixed_by_the_sequence(small: Corpus) -> None:
    rows = small.rows("train", duplicates=True)
    begin, size = np.zeros(len(rows), dtype=np.int64), small.length[rows].astype(np.int64) + 1
    together = gather_shuffled(small, rows, begin, size)
    alone = [gather_shuffled(small, rows[i : i + 1], begin[i : i + 1], size[i : i + 1]) for i in range(len(rows))]
    assert together.tolist() == np.concatenate(alone).tolist()
    by_hash: dict[bytes, set[bytes]] = {}
    for row, tokens in zip(rows, alone, strict=True):
        by_hash.setdefault(small.hash[row].tobytes(), set()).add(tokens.tobytes())
    assert {len(orders) for orders in by_hash.values()} == {1}
    assert len(by_hash) < len(rows), "no exact copies in this corpus"


def test_shuffled_residues_are_spread_evenly_over_the_places(tmp_path: Path, write: Write) -> None:
    pairs = ("".join(pair) for pair in itertools.product("ACDEFGHIKLMNPQRSTVY", repeat=2))
    corpus = write(tmp_path / "c", {"a": ["W" + pair * 4 + "A" for pair in pairs]})
    rows = np.arange(corpus.manifest.n_sequences)
    size = corpus.length[rows].astype(np.int64) + 1
    tokens = gather_shuffled(corpus, rows, np.zeros_like(size), size)
    marked = tokens == corpus.tokens(0)[0]  # W, once and first in every sequence
    place = (np.arange(len(tokens)) - np.repeat(np.cumsum(size) - size, size))[marked]
    counts = np.bincount(place, minlength=10)
    assert len(place) == len(rows)
    assert ((counts - len(rows) / 10) ** 2 / (len(rows) / 10)).sum() < 27.9  # chi-squared, 9 degrees, p = .001
