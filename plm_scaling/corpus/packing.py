"""Whole sequences packed into windows of the context length, once, into memory-mapped files.

A document is `<cls> x_1..x_L <eos>`. One longer than the context becomes consecutive pieces that fill a window each;
what remains is packed like a short document. Pieces in one window never attend to each other.

With cluster sampling an epoch shows other sequences than the one before, so every epoch is packed by itself, when it
is first asked for; the epochs used last are kept.

corpus/windows/HASH/ARRAY.npy         every array of `Windows`, and stats.json
corpus/windows/HASH.json              totals alone, where nothing is packed yet
corpus/windows/HASH-EPOCH/ARRAY.npy   the same for one epoch of a stream with cluster sampling
corpus/windows/HASH.passes.npy        int64[epochs, 5], totals of its epochs so far, one row each
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.alphabet import CLS, PAD
from plm_scaling.core.errors import CorpusError, PlanError
from plm_scaling.core.files import canonical_json, sha256_text, writing_atomic
from plm_scaling.core.run import Stream
from plm_scaling.corpus.format import TRAIN
from plm_scaling.corpus.homes import made_homes
from plm_scaling.corpus.placement import place
from plm_scaling.corpus.reader import Corpus, stream_identity
from plm_scaling.corpus.shuffling import gather_shuffled
from plm_scaling.corpus.windows import Pieces, Windows, WindowStats, cut

__all__ = [
    "PACKER_VERSION",
    "Pieces",
    "WindowStats",
    "Windows",
    "cut",
    "open_windows",
    "pass_stats",
    "window_stats",
]

Int = npt.NDArray[np.int64]

PACKER_VERSION: Final = 1
"""Part of the cache key: raise it when the same rows would be packed differently."""

_BLOCK_POSITIONS: Final = 1 << 21
_KEPT_EPOCHS: Final = 4
_KEPT_BYTES: Final = 1 << 26
"""Epochs of one stream left on disk: four, or up to 64 of less than 64 MB together."""
_MOST_EPOCHS: Final = 64
_TOTALS: Final = ("n_windows", "tokens", "residues", "positions", "sum_length_squared")


def open_windows(corpus: Corpus, rows: Int | Stream, context: int, split: str = TRAIN, *, epoch: int = 0) -> Windows:
    """The packed windows of a stream's pool or of explicit rows; packed on first use, then memory-mapped.

    Processes may call this at once: one packs, the others wait. Where the corpus folder is read-only, the windows
    go to the temporary folder of the machine. Windows that are open stay usable when their files are removed.

    Parameters
    ----------
    rows : a stream (its weight does not matter), or int64[n] rows of the corpus.
    context : positions of a window, at least 3.
    split : of the stream; ignored for explicit rows.
    epoch : of a stream with cluster sampling; all others have the same windows in every epoch.

    Raises
    ------
    PlanError : a pool without sequences, an unknown source or flag, or a context below 3.
    CorpusError : damaged windows, or cluster sampling from a corpus without clusters.
    """
    key = _key(corpus, rows, context, split)
    changing = isinstance(rows, Stream) and rows.sampling == "cluster50"
    name = f"{key}-{epoch:06d}" if changing else key
    for home in made_homes(corpus.path):
        if windows := _load(home / name, note=changing):
            return windows
    chosen = _resolve(corpus, rows, context, split, epoch)
    with _locked_home(corpus) as home:
        folder = home / name
        if not folder.is_dir():  # another process may have packed it while this one waited
            tmp = home / f".{name}.tmp"
            tmp.mkdir()
            _write(corpus, chosen, context, tmp, isinstance(rows, Stream) and rows.shuffled)
            tmp.rename(folder)
            if changing:
                _remove_older(home, key, folder)
        return Windows.load(folder)


def _load(folder: Path, *, note: bool) -> Windows | None:
    """The windows in a folder; None if it is not there, or was removed in the meantime.

    With `note`, that they were used now.
    """
    stats = folder / "stats.json"
    if not stats.is_file():
        return None
    if note:
        with suppress(OSError):  # read-only: nothing is removed there either
            os.utime(stats)
    try:
        return Windows.load(folder)
    except CorpusError:
        if stats.is_file():
            raise
        return None


def _remove_older(home: Path, key: str, newest: Path) -> None:
    """Remove the epochs of a stream that were not opened for longest; the caller holds the lock."""
    size = max(1, (newest / "tokens.npy").stat().st_size)
    kept = max(_KEPT_EPOCHS, min(_MOST_EPOCHS, _KEPT_BYTES // size))
    others = [folder for folder in home.glob(f"{key}-*") if folder != newest]
    others.sort(key=lambda folder: ((folder / "stats.json").stat().st_mtime_ns, folder.name))
    for folder in others[: max(0, len(others) + 1 - kept)]:
        # Out of sight at once: who has only part of it open finds it gone, not damaged.
        gone = folder.rename(home / f".{folder.name}.tmp")
        shutil.rmtree(gone, ignore_errors=True)


def window_stats(corpus: Corpus, rows: Int | Stream, context: int, split: str = TRAIN) -> WindowStats:
    """Exact totals of the windows `open_windows` would give (those of epoch 0), without writing them.

    The packing is worked out from the lengths alone and its totals are cached beside the windows.

    Raises
    ------
    PlanError, CorpusError : as `open_windows`.
    """
    if isinstance(rows, Stream) and rows.sampling == "cluster50":
        return pass_stats(corpus, rows, context, 1, split)[0]
    key = _key(corpus, rows, context, split)
    for home in made_homes(corpus.path):
        for path in (home / key / "stats.json", home / f"{key}.json"):
            if path.is_file():
                return WindowStats.read(path)
    stats = _totals(corpus, _resolve(corpus, rows, context, split), context)
    with _locked_home(corpus) as home:
        stats.write(home / f"{key}.json")
    return stats


def pass_stats(
    corpus: Corpus, stream: Stream, context: int, epochs: int, split: str = TRAIN
) -> tuple[WindowStats, ...]:
    """Exact totals of the first epochs of a stream with cluster sampling, at least `epochs` of them; cached on disk.

    Raises
    ------
    PlanError, CorpusError : as `open_windows`.
    """
    key = _key(corpus, stream, context, split)
    found = max((_read_passes(home, key) for home in made_homes(corpus.path)), key=len)
    have = len(found)
    if have < epochs:
        rows = (_resolve(corpus, stream, context, split, epoch) for epoch in range(have, epochs))
        found.extend(tuple(_totals(corpus, one, context).model_dump()[name] for name in _TOTALS) for one in rows)
        with _locked_home(corpus) as home:
            if len(_read_passes(home, key)) < len(found):
                with writing_atomic(home / f"{key}.passes.npy") as handle:
                    np.save(handle, np.array(found, dtype=np.int64))
    return tuple(WindowStats(context=context, **dict(zip(_TOTALS, row, strict=True))) for row in found)


def _read_passes(home: Path, key: str) -> list[tuple[int, ...]]:
    """The rows of `HASH.passes.npy`; none where there is no such file, or a damaged one."""
    try:
        table = np.load(home / f"{key}.passes.npy")
    except (OSError, EOFError, ValueError):
        return []
    return [tuple(row) for row in table.tolist()] if table.ndim == 2 and table.shape[1] == len(_TOTALS) else []


def _totals(corpus: Corpus, rows: Int, context: int) -> WindowStats:
    pieces = cut(rows, corpus.length[rows], context)
    return pieces.stats(context, int(place(pieces.length, context).max()) + 1)


def _key(corpus: Corpus, rows: Int | Stream, context: int, split: str) -> str:
    identity: dict[str, Any] = {"corpus": corpus.corpus_id, "context": context, "packer": PACKER_VERSION}
    if isinstance(rows, Stream):
        identity |= {"split": split, "stream": stream_identity(rows)}
    else:
        identity["rows"] = sha256_text(np.asarray(rows, dtype="<i8").tobytes().hex())
    return sha256_text(canonical_json(identity))[:20]


def _resolve(corpus: Corpus, rows: Int | Stream, context: int, split: str, epoch: int = 0) -> Int:
    if context < 3:
        raise PlanError(f"context {context} holds no residue between <cls> and <eos>", hint="use 3 or more")
    chosen = np.asarray(corpus.epoch_rows(rows, epoch, split) if isinstance(rows, Stream) else rows, dtype=np.int64)
    if not len(chosen):
        raise PlanError("no sequences to pack", where=str(corpus.path))
    return chosen


@contextmanager
def _locked_home(corpus: Corpus) -> Iterator[Path]:
    """A writable home for windows, locked against other processes; what a killed packer left is removed."""
    for number, home in enumerate(homes := made_homes(corpus.path)):
        try:
            home.mkdir(mode=0o700 if number else 0o777, exist_ok=True)
            lock = (home / ".lock").open("a")
        except OSError:
            if home is homes[-1]:
                raise
            continue
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for stale in home.glob(".*.tmp"):
                shutil.rmtree(stale, ignore_errors=True)
            yield home
        return


def _write(corpus: Corpus, rows: Int, context: int, folder: Path, shuffled: bool) -> None:
    """Pack `rows` and write every array, `stats.json` last.

    Memory beside the rows: about 70 bytes per sequence while they are placed, then 33.
    """
    pieces = cut(rows, corpus.length[rows], context)
    window = place(pieces.length, context)
    n_windows = int(window.max()) + 1
    stats = pieces.stats(context, n_windows)
    ptr = np.concatenate([[0], np.cumsum(np.bincount(window, minlength=n_windows))]).astype(np.int64)
    window_tokens = np.bincount(window, weights=pieces.tokens, minlength=n_windows).astype(np.int32)
    order = np.argsort(window, kind="stable")
    del window
    row, begin, length = pieces.row[order], pieces.begin[order], pieces.length[order].astype(np.int32)
    del pieces, order
    arrays: dict[str, npt.NDArray[Any]] = {
        "doc_ptr": ptr,
        "doc_row": row,
        "doc_begin": begin,
        "doc_length": length,
        "window_tokens": window_tokens,
    }
    for name, values in arrays.items():
        with (folder / f"{name}.npy").open("wb") as handle:
            np.save(handle, values)
            handle.flush()
            os.fsync(handle.fileno())
    _write_windows(corpus, ptr, row, begin, length, context, folder, shuffled)
    stats.write(folder / "stats.json")


def _write_windows(
    corpus: Corpus,
    ptr: Int,
    row: Int,
    begin: Int,
    length: npt.NDArray[np.int32],
    context: int,
    folder: Path,
    shuffled: bool,
) -> None:
    """Write the arrays with the windows' content, some windows at a time."""

    def mapped(name: str, dtype: type[np.generic], *shape: int) -> Any:
        return np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)

    n_windows, n_slots = len(ptr) - 1, len(row) + len(ptr) - 1
    tokens = mapped("tokens", np.uint8, n_windows, context)
    slots, slot_row = mapped("slots", np.int32, n_slots, 3), mapped("slot_row", np.int64, n_slots)
    step = max(1, _BLOCK_POSITIONS // context)
    for first in range(0, n_windows, step):
        last = min(n_windows, first + step)
        docs = slice(int(ptr[first]), int(ptr[last]))
        counts = np.diff(ptr[first : last + 1])
        here = row[docs], begin[docs], length[docs].astype(np.int64)
        tokens[first:last] = _tokens(corpus, *here, counts, context, shuffled)
        to = slice(docs.start + first, docs.stop + last)
        slots[to], slot_row[to] = _slots(*here, counts, context)
    for array in (tokens, slots, slot_row):
        array.flush()


def _slots(row: Int, begin: Int, length: Int, counts: Int, context: int) -> tuple[npt.NDArray[np.int32], Int]:
    """`Windows.slots` and `Windows.slot_row` of consecutive windows that hold `counts` documents each."""
    window = np.repeat(np.arange(len(counts)), counts)
    document = np.arange(len(row)) + window
    ends = np.cumsum(counts)
    padding = ends + np.arange(len(counts))
    slots = np.full((len(row) + len(counts), 3), -1, dtype=np.int32)
    slots[document, 0] = length
    slots[document, 1] = np.arange(len(row)) - (ends - counts)[window]
    slots[document, 2] = begin - (begin == 0)
    slots[padding, 0] = context - np.bincount(window, weights=length, minlength=len(counts)).astype(np.int32)
    slot_row = np.full(len(slots), -1, dtype=np.int64)
    slot_row[document] = row
    return slots, slot_row


def _tokens(
    corpus: Corpus, row: Int, begin: Int, length: Int, counts: Int, context: int, shuffled: bool
) -> npt.NDArray[np.uint8]:
    """uint8[len(counts), context]: the tokens of consecutive windows that hold `counts` documents each."""
    window = np.repeat(np.arange(len(counts)), counts)
    ends = np.cumsum(length)
    before = np.concatenate([[0], ends])[np.cumsum(counts) - counts]  # positions in earlier windows
    start = window * context + (ends - length) - before[window]
    has_cls = (begin == 0).astype(np.int64)
    size = length - has_cls
    out = np.full(len(counts) * context, PAD, dtype=np.uint8)
    out[start[begin == 0]] = CLS
    target = np.repeat(start + has_cls - (np.cumsum(size) - size), size)
    target += np.arange(len(target))
    if shuffled:
        out[target] = gather_shuffled(corpus, row, begin, size)
    else:
        out[target] = corpus.gather(corpus.offset[row] + begin, size)
    return out.reshape(len(counts), context)
