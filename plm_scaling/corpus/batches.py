"""`Batches`: the training data of one run, step by step. Shape legend: B windows of a batch, T context."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from plm_scaling.core.alphabet import PAD
from plm_scaling.core.errors import CorpusError
from plm_scaling.core.run import RunConfig
from plm_scaling.corpus.order import BatchOrder, Passes
from plm_scaling.corpus.packing import Windows, WindowStats, open_windows, pass_stats
from plm_scaling.corpus.reader import Corpus

__all__ = ["Batch", "Batches", "window_batch"]

Int = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
T = TypeVar("T", bound=np.generic)

_SUM_BLOCK: Final = 4096
_OPEN_EPOCHS: Final = 4
"""Epochs of a stream with cluster sampling that stay mapped."""


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
    segment: Int32
    position: Int32
    row: Int
    residue: Int32
    epoch: Int


class _PackedBatch(Batch):
    """A batch of packed windows: all but the tokens is worked out when it is first asked for.

    Parameters
    ----------
    slots : int32[n, 3], the documents and paddings of the windows, one after the other (`Windows.slots`).
    slot_row : int64[n], their records, -1 for padding.
    """

    def __init__(self, tokens: npt.NDArray[np.uint8], epoch: Int, slots: Int32, slot_row: Int) -> None:
        self._slots: Int32
        self._slot_row: Int
        self.__dict__.update(tokens=tokens, epoch=epoch, _slots=slots, _slot_row=slot_row)  # the class is frozen

    @cached_property
    def segment(self) -> Int32:
        return self._places[0]

    @cached_property
    def position(self) -> Int32:
        return self._places[1]

    @cached_property
    def residue(self) -> Int32:
        return self._places[2]

    @cached_property
    def row(self) -> Int:
        return np.repeat(self._slot_row, self._slots[:, 0]).reshape(self.tokens.shape)

    @cached_property
    def _places(self) -> tuple[Int32, Int32, Int32]:
        """The three together: one large block is faster to get and to fill than three."""
        length = self._slots[:, 0]
        spread = self._slots.copy()
        spread[:, 0] = start = np.cumsum(length, dtype=np.int32) - length
        spread[:, 2] -= start
        begin, segment, residue = np.repeat(spread.T, length, axis=1)
        place = _counter(self.tokens.size)
        residue += place
        np.subtract(place, begin, out=begin)
        padding = segment < 0
        np.copyto(begin, 0, where=padding)
        np.copyto(residue, -1, where=padding)
        shape = self.tokens.shape
        return segment.reshape(shape), begin.reshape(shape), residue.reshape(shape)


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
    """Concatenate the chosen windows of each pool."""
    found = []
    for windows, index in zip(pools, chosen, strict=True):
        first = windows.doc_ptr[index]
        found.append(_ranges(first + index, windows.doc_ptr[index + 1] - first + 1))
    return _PackedBatch(
        tokens=_join([windows.tokens[index] for windows, index in zip(pools, chosen, strict=True)]),
        epoch=epoch,
        slots=_join([windows.slots[slot] for windows, slot in zip(pools, found, strict=True)]),
        slot_row=_join([windows.slot_row[slot] for windows, slot in zip(pools, found, strict=True)]),
    )


def _blank(context: int) -> Batch:
    """One window of padding."""
    slots = np.array([[context, -1, -1]], dtype=np.int32)
    tokens = np.full((1, context), PAD, dtype=np.uint8)
    return _PackedBatch(tokens, np.zeros(1, dtype=np.int64), slots, np.array([-1], dtype=np.int64))


def _ranges(first: Int, count: Int) -> Int:
    """[first[0], first[0] + 1, ..., first[1], ...]: `count` consecutive integers from each `first`."""
    ends = np.cumsum(count)
    out = np.repeat(first - (ends - count), count)
    out += np.arange(len(out))
    return out


@lru_cache(maxsize=4)
def _counter(n: int) -> Int32:
    """0, 1, ..., n - 1, read-only: the same for every batch."""
    out = np.arange(n, dtype=np.int32)
    out.setflags(write=False)
    return out


def _join(parts: list[npt.NDArray[T]]) -> npt.NDArray[T]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


class Batches:
    """The data of a run. Every answer is a pure function of (corpus, config, step): nothing to save or restore.

    Several threads may ask at once, one that makes inputs ahead and one that trains: a lock keeps what is kept for
    speed. Only `order`, asked on its own, is for one thread where windows change from pass to pass.

    Attributes
    ----------
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
        self._lock = threading.RLock()
        self._windows: dict[tuple[int, int], Windows] = {}
        self._totals: list[list[WindowStats]] = [[] for _ in config.streams]
        self._sums: dict[tuple[int, int], list[int]] = {}
        self._changing = tuple(stream.sampling == "cluster50" for stream in config.streams)
        self.order = BatchOrder(
            passes=tuple(self._passes(number) for number in range(len(config.streams))),
            weights=tuple(stream.weight for stream in config.streams),
            windows_per_batch=config.windows_per_batch,
            seed=config.seed,
        )
        self.n_steps = max(1, round(config.D / (config.windows_per_batch * self.mean_tokens_per_window)))

    @property
    def windows(self) -> tuple[Windows, ...]:
        """Packed windows of each stream's first pass, which are those of all its passes unless clusters are sampled."""
        return tuple(self.windows_at(number, 0) for number in range(len(self.config.streams)))

    def windows_at(self, stream: int, epoch: int) -> Windows:
        """The packed windows of a stream in one of its passes."""
        key = (stream, epoch if self._changing[stream] else 0)
        with self._lock:
            if key not in self._windows:
                opened = open_windows(self.corpus, self.config.streams[stream], self.config.context, epoch=key[1])
                if self._changing[stream]:
                    mapped = sorted(other for other in self._windows if other[0] == stream)
                    for other in mapped[: max(0, len(mapped) + 1 - _OPEN_EPOCHS)]:
                        del self._windows[other]
                self._windows[key] = opened
            return self._windows[key]

    def pass_stats(self, stream: int, epoch: int) -> WindowStats:
        """Exact totals of a stream's windows in one of its passes; they need not be packed for it."""
        if not self._changing[stream]:
            return self.windows_at(stream, 0).stats
        with self._lock:
            if epoch >= len(self._totals[stream]):
                arguments = (self.corpus, self.config.streams[stream], self.config.context)
                self._totals[stream] = list(pass_stats(*arguments, epoch + 1))
            return self._totals[stream][epoch]

    def _passes(self, stream: int) -> Passes:
        if self._changing[stream]:
            return Passes(lambda epoch: self.pass_stats(stream, epoch).n_windows)
        return Passes(self.windows_at(stream, 0).n_windows)

    @property
    def mean_tokens_per_window(self) -> float:
        """Mean tokens of a drawn window, streams weighted by their shares.

        With cluster sampling that of the first pass: windows are as full in every other one, so that the tokens of a
        window hardly change.
        """
        weights = self.order.weights
        means = [self.pass_stats(number, 0).tokens_per_window for number in range(len(weights))]
        return sum(w * m for w, m in zip(weights, means, strict=True)) / sum(weights)

    def at(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The windows of global batch `step` that fall to one rank: every `world`-th, from the `rank`-th on.

        Where there are more ranks than windows, those without one get a window of padding: they are shown nothing.
        """
        with self._lock:
            stream, window, epoch = self.order.batch(step)
        if world > 1:
            stream, window, epoch = stream[rank::world], window[rank::world], epoch[rank::world]
            if not len(window):
                return _blank(self.config.context)
        if self._changing == (False,):
            return _assemble([self.windows_at(0, 0)], [window], epoch)
        # Streams come in order, and so do the epochs of each: joining their windows keeps the order of the batch.
        kind = stream * (int(epoch.max(initial=0)) + 1) + np.where(np.array(self._changing)[stream], epoch, 0)
        border = [0, *(np.flatnonzero(np.diff(kind)) + 1).tolist(), len(kind)]
        parts = [slice(begin, end) for begin, end in itertools.pairwise(border) if end > begin]
        pools = [self.windows_at(int(stream[part.start]), int(epoch[part.start])) for part in parts]
        return _assemble(pools, [window[part] for part in parts], epoch)

    def tokens_at(self, step: int) -> int:
        """Exact tokens (residues and `<eos>`) of all batches before `step`."""
        with self._lock:
            return sum(self._tokens_drawn(number, draws) for number, draws in enumerate(self.order.draws(step)))

    def _tokens_drawn(self, stream: int, draws: int) -> int:
        """Tokens of a stream's first `draws` draws: whole passes, whole blocks of the last one, the rest."""
        epoch, position = self.order.passes[stream].locate(draws)
        whole = self._whole_passes(stream, epoch)[0]
        if not position:
            return whole
        first = draws - position
        block, inside = divmod(position, _SUM_BLOCK)
        sums = self._sums.setdefault((stream, epoch), [0])
        while len(sums) <= block:
            begin = first + (len(sums) - 1) * _SUM_BLOCK
            sums.append(sums[-1] + self._span_tokens(stream, begin, begin + _SUM_BLOCK))
        begin = first + block * _SUM_BLOCK
        rest = self._span_tokens(stream, begin, begin + inside) if inside else 0
        return whole + sums[block] + rest

    def _span_tokens(self, stream: int, begin: int, end: int) -> int:
        """Tokens of draws of one pass."""
        window, epoch = self.order.span(stream, begin, end)
        return int(self.windows_at(stream, int(epoch[0])).window_tokens[window].sum(dtype=np.int64))

    def _whole_passes(self, stream: int, epochs: int) -> tuple[int, int, int, int]:
        """Tokens, residues, positions and squared lengths of a stream's first `epochs` passes."""
        if self._changing[stream]:
            stats, times = [self.pass_stats(stream, epoch) for epoch in range(epochs)], 1
        else:
            stats, times = [self.pass_stats(stream, 0)], epochs
        return (
            times * sum(s.tokens for s in stats),
            times * sum(s.residues for s in stats),
            times * sum(s.positions for s in stats),
            times * sum(s.sum_length_squared for s in stats),
        )

    def stats_at(self, step: int) -> WindowStats:
        """Exact totals over all windows drawn before `step`, for the FLOPs actually spent."""
        total = np.zeros(4, dtype=np.int64)
        draws = self.order.draws(step)
        with self._lock:
            for number, drawn in enumerate(draws):
                epoch, position = self.order.passes[number].locate(drawn)
                total += self._whole_passes(number, epoch)
                if position:
                    total += self._part_of_pass(number, epoch, drawn)
        tokens, residues, positions, squared = total.tolist()
        return WindowStats(
            context=self.config.context,
            n_windows=sum(draws),
            tokens=tokens,
            residues=residues,
            positions=positions,
            sum_length_squared=squared,
        )

    def _part_of_pass(self, stream: int, epoch: int, draws: int) -> list[int]:
        """The same of the part of a pass that lies before `draws` draws of the stream."""
        windows = self.windows_at(stream, epoch)
        seen = np.zeros(windows.n_windows, dtype=np.bool_)
        seen[self.order.drawn(stream, epoch, draws)] = True
        here = seen[windows.doc_window]
        pieces = windows.pieces(self.corpus)
        quantities = (pieces.tokens, pieces.residues, pieces.length, pieces.length**2)
        return [int(quantity[here].sum()) for quantity in quantities]
