"""Whole sequences packed into windows of the context length, once, into memory-mapped files.

A document is `<cls> x_1..x_L <eos>`. One longer than the context becomes consecutive pieces that fill a window each;
what remains is packed like a short document. Pieces in one window never attend to each other.

corpus/windows/HASH/ARRAY.npy for every array of `Windows`, and stats.json
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.alphabet import CLS, PAD
from plm_scaling.core.errors import PlanError
from plm_scaling.core.files import canonical_json, sha256_text
from plm_scaling.core.run import Stream
from plm_scaling.corpus.format import TRAIN
from plm_scaling.corpus.placement import place
from plm_scaling.corpus.reader import Corpus, stream_identity
from plm_scaling.corpus.windows import Pieces, Windows, WindowStats, cut

__all__ = ["PACKER_VERSION", "Pieces", "WindowStats", "Windows", "cut", "open_windows", "window_stats"]

Int = npt.NDArray[np.int64]

PACKER_VERSION: Final = 1
"""Part of the cache key: raise it when the same rows would be packed differently."""

_BLOCK_POSITIONS: Final = 1 << 21


def open_windows(corpus: Corpus, rows: Int | Stream, context: int, split: str = TRAIN) -> Windows:
    """The packed windows of a stream's pool or of explicit rows; packed on first use, then memory-mapped.

    Processes may call this at once: one packs, the others wait. Where the corpus folder is read-only, the windows
    go to the temporary folder of the machine.

    Parameters
    ----------
    rows : a stream (its weight does not matter), or int64[n] rows of the corpus.
    context : positions of a window, at least 3.
    split : of the stream; ignored for explicit rows.

    Raises
    ------
    PlanError : a pool without sequences, an unknown source, or a context below 3.
    """
    key = _key(corpus, rows, context, split)
    for home in _homes(corpus):
        if (home / key / "stats.json").is_file():
            return Windows.load(home / key)
    chosen = _resolve(corpus, rows, context, split)
    with _locked_home(corpus) as home:
        folder = home / key
        if not folder.is_dir():  # another process may have packed it while this one waited
            tmp = home / f".{key}.tmp"
            tmp.mkdir()
            _write(corpus, chosen, context, tmp)
            tmp.rename(folder)
    return Windows.load(folder)


def window_stats(corpus: Corpus, rows: Int | Stream, context: int, split: str = TRAIN) -> WindowStats:
    """Exact totals of the windows `open_windows` would give, without writing them.

    The packing is worked out from the lengths alone and its totals are cached beside the windows.

    Raises
    ------
    PlanError : as `open_windows`.
    """
    key = _key(corpus, rows, context, split)
    for home in _homes(corpus):
        for path in (home / key / "stats.json", home / f"{key}.json"):
            if path.is_file():
                return WindowStats.read(path)
    chosen = _resolve(corpus, rows, context, split)
    pieces = cut(chosen, corpus.length[chosen], context)
    stats = pieces.stats(context, int(place(pieces.length, context).max()) + 1)
    with _locked_home(corpus) as home:
        stats.write(home / f"{key}.json")
    return stats


def _key(corpus: Corpus, rows: Int | Stream, context: int, split: str) -> str:
    identity: dict[str, Any] = {"corpus": corpus.corpus_id, "context": context, "packer": PACKER_VERSION}
    if isinstance(rows, Stream):
        identity |= {"split": split, "stream": stream_identity(rows)}
    else:
        identity["rows"] = sha256_text(np.asarray(rows, dtype="<i8").tobytes().hex())
    return sha256_text(canonical_json(identity))[:20]


def _resolve(corpus: Corpus, rows: Int | Stream, context: int, split: str) -> Int:
    if context < 3:
        raise PlanError(f"context {context} holds no residue between <cls> and <eos>", hint="use 3 or more")
    chosen = corpus.pool(rows, split) if isinstance(rows, Stream) else np.asarray(rows, dtype=np.int64)
    if not len(chosen):
        raise PlanError("no sequences to pack", where=str(corpus.path))
    return chosen


def _homes(corpus: Corpus) -> tuple[Path, Path]:
    """Where windows may be: in the corpus; where that is read-only, in a private temporary folder."""
    return corpus.path / "windows", Path(tempfile.gettempdir()) / f"plm-scaling-windows-{os.getuid()}"


@contextmanager
def _locked_home(corpus: Corpus) -> Iterator[Path]:
    """A writable home for windows, locked against other processes; what a killed packer left is removed."""
    for number, home in enumerate(homes := _homes(corpus)):
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


def _write(corpus: Corpus, rows: Int, context: int, folder: Path) -> None:
    """Pack `rows` and write every array, `stats.json` last."""
    pieces = cut(rows, corpus.length[rows], context)
    window = place(pieces.length, context)
    n_windows = int(window.max()) + 1
    order = np.argsort(window, kind="stable")
    row, begin, length = pieces.row[order], pieces.begin[order], pieces.length[order]
    ptr = np.concatenate([[0], np.cumsum(np.bincount(window, minlength=n_windows))]).astype(np.int64)
    slots, slot_row = _slots(ptr, row, begin, length, context)
    arrays: dict[str, npt.NDArray[Any]] = {
        "doc_ptr": ptr,
        "doc_row": row,
        "doc_begin": begin,
        "doc_length": length.astype(np.int32),
        "window_tokens": np.bincount(window, weights=pieces.tokens, minlength=n_windows).astype(np.int32),
        "slots": slots,
        "slot_row": slot_row,
    }
    for name, values in arrays.items():
        with (folder / f"{name}.npy").open("wb") as handle:
            np.save(handle, values)
            handle.flush()
            os.fsync(handle.fileno())
    out = np.lib.format.open_memmap(folder / "tokens.npy", mode="w+", dtype=np.uint8, shape=(n_windows, context))
    step = max(1, _BLOCK_POSITIONS // context)
    for first in range(0, n_windows, step):
        last = min(n_windows, first + step)
        docs = slice(int(ptr[first]), int(ptr[last]))
        counts = np.diff(ptr[first : last + 1])
        out[first:last] = _tokens(corpus, row[docs], begin[docs], length[docs], counts, context)
    out.flush()
    del out
    pieces.stats(context, n_windows).write(folder / "stats.json")


def _slots(ptr: Int, row: Int, begin: Int, length: Int, context: int) -> tuple[npt.NDArray[np.int32], Int]:
    """`Windows.slots` and `Windows.slot_row`."""
    counts = np.diff(ptr)
    window = np.repeat(np.arange(len(counts)), counts)
    document = np.arange(len(row)) + window
    padding = ptr[1:] + np.arange(len(counts))
    slots = np.full((len(row) + len(counts), 3), -1, dtype=np.int32)
    slots[document, 0] = length
    slots[document, 1] = np.arange(len(row)) - ptr[window]
    slots[document, 2] = begin - (begin == 0)
    slots[padding, 0] = context - np.bincount(window, weights=length, minlength=len(counts)).astype(np.int32)
    slot_row = np.full(len(slots), -1, dtype=np.int64)
    slot_row[document] = row
    return slots, slot_row


def _tokens(corpus: Corpus, row: Int, begin: Int, length: Int, counts: Int, context: int) -> npt.NDArray[np.uint8]:
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
    out[target] = corpus.gather(corpus.offset[row] + begin, size)
    return out.reshape(len(counts), context)
