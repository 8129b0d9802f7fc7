"""`Batches`: the training data of one run, step by step. Shape legend: B windows of a batch, T context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import CorpusError
from plm_scaling.core.run import RunConfig
from plm_scaling.corpus.order import BatchOrder
from plm_scaling.corpus.packing import Windows, WindowStats, open_windows
from plm_scaling.corpus.reader import Corpus

__all__ = ["Batch", "Batches", "window_batch"]

Int = npt.NDArray[np.int64]
T = TypeVar("T", bound=np.generic)

_SUM_BLOCK: Final = 4096


@dataclass(frozen=True)
class Batch:
    """Windows of one step with the place of every position.

    Attributes
    ----------
    tokens : uint8[B, T], `<pad>` at the end of a window.
    segment : int32[B, T], number of the document within its window, -1 on padding.
    position : int32[B, T], position within the document in this window (0 is `<cls>`, or the first residue of a
        continued piece), 0 on padding.
    row : int64[B, T], record of the corpus, -1 on padding.
    residue : int32[B, T], position in the sequence; -1 on `<cls>` and padding, the sequence's length on `<eos>`.
    epoch : int64[B], pass over its stream a window belongs to.
    """

    tokens: npt.NDArray[np.uint8]
    segment: npt.NDArray[np.int32]
    position: npt.NDArray[np.int32]
    row: Int
    residue: npt.NDArray[np.int32]
    epoch: Int


def window_batch(windows: Windows, index: npt.ArrayLike, epoch: int = 0) -> Batch:
    """The given windows as a batch, for scoring.

    Parameters
    ----------
    index : int[B], windows.
    epoch : written to every window of the batch.
    """
    chosen = np.asarray(index, dtype=np.int64)
    return _assemble([windows], [chosen], np.full(len(chosen), epoch, dtype=np.int64))


def _assemble(pools: list[Windows], chosen: list[Int], epoch: Int) -> Batch:
    """Concatenate the chosen windows of each pool: every array is the windows' slots, repeated by their lengths."""
    context = pools[0].context
    found = [
        _ranges(windows.doc_ptr[index] + index, windows.doc_ptr[index + 1] - windows.doc_ptr[index] + 1)
        for windows, index in zip(pools, chosen, strict=True)
    ]
    slots = _join([windows.slots[slot] for windows, slot in zip(pools, found, strict=True)])
    rows = _join([windows.slot_row[slot] for windows, slot in zip(pools, found, strict=True)])
    length = slots[:, 0].copy()
    slots[:, 0] = start = np.cumsum(length, dtype=np.int32) - length
    slots[:, 2] -= start
    begin, segment, residue = np.repeat(slots.T, length, axis=1)
    place = np.arange(len(epoch) * context, dtype=np.int32)
    residue += place
    place -= begin
    padding = segment < 0
    place[padding] = 0
    residue[padding] = -1
    shape = (len(epoch), context)
    return Batch(
        tokens=_join([windows.tokens[index] for windows, index in zip(pools, chosen, strict=True)]),
        segment=segment.reshape(shape),
        position=place.reshape(shape),
        row=np.repeat(rows, length).reshape(shape),
        residue=residue.reshape(shape),
        epoch=epoch,
    )


def _ranges(first: Int, count: Int) -> Int:
    """[first[0], first[0] + 1, ..., first[1], ...]: `count` consecutive integers from each `first`."""
    ends = np.cumsum(count)
    out = np.repeat(first - (ends - count), count)
    out += np.arange(len(out))
    return out


def _join(parts: list[npt.NDArray[T]]) -> npt.NDArray[T]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


class Batches:
    """The data of a run. Every answer is a pure function of (corpus, config, step): nothing to save or restore.

    Attributes
    ----------
    windows : packed windows of each stream.
    order : which windows make which batch.
    n_steps : optimiser steps of the run, at least 1.
    """

    def __init__(self, corpus: Corpus, config: RunConfig) -> None:
        if config.corpus_id != corpus.corpus_id:
            raise CorpusError(
                "the run was planned for another corpus",
                where=str(corpus.path),
                why=f"run {config.run_id} wants {config.corpus_id[:12]}, this one is {corpus.corpus_id[:12]}",
                hint="point to the corpus of the plan, or plan again on this one",
            )
        self.corpus = corpus
        self.config = config
        self.windows = tuple(open_windows(corpus, stream, config.context) for stream in config.streams)
        self.order = BatchOrder(
            n_windows=tuple(windows.n_windows for windows in self.windows),
            weights=tuple(stream.weight for stream in config.streams),
            windows_per_batch=config.windows_per_batch,
            seed=config.seed,
        )
        self.n_steps = max(1, round(config.D / (config.windows_per_batch * self.mean_tokens_per_window)))
        self._sums: dict[tuple[int, int], list[int]] = {}

    @property
    def mean_tokens_per_window(self) -> float:
        """Mean tokens of a drawn window, streams weighted by their shares."""
        weights = self.order.weights
        means = [windows.stats.tokens_per_window for windows in self.windows]
        return sum(w * m for w, m in zip(weights, means, strict=True)) / sum(weights)

    def at(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The windows of global batch `step` that fall to one rank: every `world`-th, from the `rank`-th on."""
        stream, window, epoch = self.order.batch(step)
        if world > 1:
            stream, window, epoch = stream[rank::world], window[rank::world], epoch[rank::world]
        if len(self.windows) == 1:
            return _assemble([self.windows[0]], [window], epoch)
        # Streams come in order, so that joining their windows keeps the order of the batch.
        present = np.unique(stream).tolist()
        return _assemble([self.windows[s] for s in present], [window[stream == s] for s in present], epoch)

    def tokens_at(self, step: int) -> int:
        """Exact tokens (residues and `<eos>`) of all batches before `step`."""
        return sum(self._tokens_drawn(number, draws) for number, draws in enumerate(self.order.draws(step)))

    def _tokens_drawn(self, stream: int, draws: int) -> int:
        """Tokens of a stream's first `draws` draws: whole epochs, whole blocks of the last one, the rest."""
        windows = self.windows[stream]
        epoch, position = divmod(draws, windows.n_windows)
        block, inside = divmod(position, _SUM_BLOCK)
        first = epoch * windows.n_windows
        sums = self._sums.setdefault((stream, epoch), [0])
        while len(sums) <= block:
            begin = first + (len(sums) - 1) * _SUM_BLOCK
            sums.append(sums[-1] + self._span_tokens(stream, begin, begin + _SUM_BLOCK))
        begin = first + block * _SUM_BLOCK
        rest = self._span_tokens(stream, begin, begin + inside) if inside else 0
        return epoch * windows.stats.tokens + sums[block] + rest

    def _span_tokens(self, stream: int, begin: int, end: int) -> int:
        window, _ = self.order.span(stream, begin, end)
        return int(self.windows[stream].window_tokens[window].sum(dtype=np.int64))

    def stats_at(self, step: int) -> WindowStats:
        """Exact totals over all windows drawn before `step`, for the FLOPs actually spent."""
        total = np.zeros(4, dtype=np.int64)
        draws = self.order.draws(step)
        for number, windows in enumerate(self.windows):
            visits = self.order.visits(number, draws[number])[windows.doc_window]
            pieces = windows.pieces(self.corpus)
            quantities = (pieces.tokens, pieces.residues, pieces.length, pieces.length**2)
            total += [int((visits * quantity).sum()) for quantity in quantities]
        tokens, residues, positions, squared = total.tolist()
        return WindowStats(
            context=self.config.context,
            n_windows=sum(draws),
            tokens=tokens,
            residues=residues,
            positions=positions,
            sum_length_squared=squared,
        )
