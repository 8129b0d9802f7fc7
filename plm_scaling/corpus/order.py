"""Which windows make global batch k: a pure function of (numbers of windows, weights, seed, k). No state, O(1).

Every epoch of every stream is a keyed bijection of its windows; a batch is shared among the streams by integer
quotas. A rank takes a slice of the global batch, so the data do not depend on the number of ranks. With cluster
sampling the windows of a stream are others in every epoch, and another number of them (`Passes`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import PlanError
from plm_scaling.corpus.mixing import mix_key

__all__ = ["BatchOrder", "Passes", "feistel"]

Int = npt.NDArray[np.int64]

_ROUNDS: Final = 8
_BLOCK: Final = 1024
_CHUNK: Final = 16_384
"""Indices mapped at once: few enough to stay in the processor's cache."""
_KEPT_BLOCKS: Final = 16
_SHARE_BITS: Final = 30
"""Resolution of the streams' shares; windows times 2^30 must fit 63 bits (8e9 windows)."""
_HALF: Final = 1 << (_SHARE_BITS - 1)


def feistel(index: npt.ArrayLike, n: int, key: int) -> Int:
    """A keyed bijection of the integers [0, n), evaluated at `index`.

    An alternating Feistel network over the smallest power of two >= n; results outside [0, n) are mapped again
    until they fall inside (cycle walking), fewer than twice on average.

    Parameters
    ----------
    index : int array, each in [0, n).
    n : size of the domain, below 2^62.
    key : 64-bit key; every key is another permutation.

    **Source:** Black and Rogaway 2002, "Ciphers with arbitrary finite domains" (cycle walking).
    """
    out = np.array(index, dtype=np.int64)
    if n <= 1:
        return out
    bits = max(2, (n - 1).bit_length())
    keys = [np.uint32(mix_key(key, number) >> 32) for number in range(_ROUNDS)]
    flat = out.reshape(-1)
    for begin in range(0, len(flat), _CHUNK):
        x = _rounds(flat[begin : begin + _CHUNK], bits, keys)
        while len(outside := np.flatnonzero(x >= n)):
            x[outside] = _rounds(x[outside], bits, keys)
        flat[begin : begin + _CHUNK] = x
    return out


def _rounds(x: Int, bits: int, keys: list[np.uint32]) -> Int:
    """Even rounds change the high half by a function of the low half, odd rounds the reverse."""
    low_bits = bits // 2
    low = (x & ((1 << low_bits) - 1)).astype(np.uint32)
    high = (x >> low_bits).astype(np.uint32)
    low_shift, high_shift = np.uint32(32 - low_bits), np.uint32(32 - (bits - low_bits))
    for number, key in enumerate(keys):
        if number % 2:
            low ^= _scramble(high, key) >> low_shift
        else:
            high ^= _scramble(low, key) >> high_shift
    return (high.astype(np.int64) << low_bits) | low


_M1, _M2, _S15 = np.uint32(0x2C1B3C6D), np.uint32(0x297A2D39), np.uint32(15)


def _scramble(x: npt.NDArray[np.uint32], key: np.uint32) -> npt.NDArray[np.uint32]:
    """A 32-bit hash whose high bits depend on every bit of `x`."""
    y = (x ^ key) * _M1
    y ^= y >> _S15
    y *= _M2
    return y


class Passes:
    """The passes (epochs) of a stream over its windows: how many each holds, and where it begins among the draws.

    Parameters
    ----------
    size : windows of every pass, or a function that gives those of a pass, at least 1; it is asked once for each
        pass, in order, and only as far as the draws asked for reach.
    """

    def __init__(self, size: int | Callable[[int], int]) -> None:
        self._size = size
        self._starts = [0]

    @property
    def constant(self) -> bool:
        """Whether every pass is over the same windows."""
        return isinstance(self._size, int)

    def size(self, epoch: int) -> int:
        """Windows of a pass."""
        if isinstance(self._size, int):
            return self._size
        return self.start(epoch + 1) - self.start(epoch)

    def start(self, epoch: int) -> int:
        """Draws of the stream before a pass."""
        if isinstance(self._size, int):
            return epoch * self._size
        while len(self._starts) <= epoch:
            self._extend(self._size)
        return self._starts[epoch]

    def locate(self, draw: int) -> tuple[int, int]:
        """Pass of a draw, and its position in the pass."""
        if isinstance(self._size, int):
            return divmod(draw, self._size)
        while self._starts[-1] <= draw:
            self._extend(self._size)
        epoch = bisect_right(self._starts, draw) - 1
        return epoch, draw - self._starts[epoch]

    def _extend(self, size: Callable[[int], int]) -> None:
        windows = size(len(self._starts) - 1)
        if windows < 1:
            raise PlanError(f"pass {len(self._starts) - 1} over a stream has no window")
        self._starts.append(self._starts[-1] + windows)


@dataclass(frozen=True)
class BatchOrder:
    """The order in which a run visits its windows.

    Parameters
    ----------
    passes : passes of each stream over its windows.
    weights : share of the windows of each stream, relative to the others.
    windows_per_batch : windows of a global batch.
    seed : the run's seed.

    Raises
    ------
    PlanError : no stream, an empty stream, or numbers that do not match.
    """

    passes: tuple[Passes, ...]
    weights: tuple[float, ...]
    windows_per_batch: int
    seed: int
    _blocks: dict[tuple[int, int, int], Int] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.passes or len(self.passes) != len(self.weights):
            raise PlanError(f"{len(self.passes)} streams with {len(self.weights)} weights")
        sizes = tuple(passes.size(0) for passes in self.passes)
        if min(sizes) < 1 or min(self.weights) <= 0 or self.windows_per_batch < 1:
            raise PlanError(
                "a stream without windows, a weight or a batch that is not positive",
                why=f"windows {sizes}, weights {self.weights}, batch {self.windows_per_batch}",
            )

    @cached_property
    def _shares(self) -> tuple[int, ...]:
        """Share of each stream among itself and the later ones, in units of 2^-30; the last takes what is left."""
        rest = [sum(self.weights[number:]) for number in range(len(self.weights))]
        pairs = zip(self.weights[:-1], rest[:-1], strict=True)
        return tuple(round(weight / total * (1 << _SHARE_BITS)) for weight, total in pairs)

    def draws(self, step: int) -> tuple[int, ...]:
        """Windows drawn from each stream before `step`; they add up to step x windows_per_batch."""
        left, counts = step * self.windows_per_batch, []
        for share in self._shares:
            counts.append((left * share + _HALF) >> _SHARE_BITS)
            left -= counts[-1]
        return (*counts, left)

    def draws_at(self, steps: Int) -> Int:
        """int64[len(steps), streams]: windows drawn from each stream before each of `steps`.

        Each stream takes its rounded share of what the streams before it left over, so every count grows by
        whole windows, never shrinks, and stays within one window per stream of its exact share.
        """
        left = np.asarray(steps, dtype=np.int64) * self.windows_per_batch
        columns = []
        for share in self._shares:
            taken = (left * share + _HALF) >> _SHARE_BITS
            columns.append(taken)
            left = left - taken
        return np.stack([*columns, left], axis=1)

    def key(self, stream: int, epoch: int) -> int:
        """Key of the permutation of a stream's windows in an epoch."""
        return mix_key(self.seed, stream, epoch)

    def span(self, stream: int, begin: int, end: int) -> tuple[Int, Int]:
        """Windows and epochs of draws [begin, end) of a stream, each int64[end - begin]."""
        windows, epochs = [], []
        while begin < end:
            epoch, position = self.passes[stream].locate(begin)
            block, inside = divmod(position, _BLOCK)
            part = self._block(stream, epoch, block)[inside : inside + end - begin]
            windows.append(part)
            epochs.append(np.full(len(part), epoch, dtype=np.int64))
            begin += len(part)
        if len(windows) == 1:
            return windows[0], epochs[0]
        empty = np.zeros(0, dtype=np.int64)
        return np.concatenate([empty, *windows]), np.concatenate([empty, *epochs])

    def _block(self, stream: int, epoch: int, block: int) -> Int:
        """Windows at positions [1024 block, ...) of an epoch. Kept for speed only: a pure function."""
        name = (stream, epoch, block)
        found = self._blocks.get(name)
        if found is None:
            n = self.passes[stream].size(epoch)
            positions = np.arange(block * _BLOCK, min(n, (block + 1) * _BLOCK))
            found = feistel(positions, n, self.key(stream, epoch))
            found.setflags(write=False)
            while len(self._blocks) >= _KEPT_BLOCKS:
                self._blocks.pop(next(iter(self._blocks)))
            self._blocks[name] = found
        return found

    def batch(self, step: int) -> tuple[Int, Int, Int]:
        """Stream, window and epoch of every window of global batch `step`, each int64[windows_per_batch].

        A rank of a world takes `[rank::world]`.
        """
        begin, end = self.draws(step), self.draws(step + 1)
        parts = [self.span(number, *pair) for number, pair in enumerate(zip(begin, end, strict=True))]
        if len(parts) == 1:
            window, epoch = parts[0]
            return np.zeros(len(window), dtype=np.int64), window, epoch
        streams = np.repeat(np.arange(len(parts)), [last - first for first, last in zip(begin, end, strict=True)])
        return streams, np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def drawn(self, stream: int, epoch: int, draws: int) -> Int:
        """Windows of one pass among a stream's first `draws` draws, int64[], in the order they are drawn."""
        passes = self.passes[stream]
        n = passes.size(epoch)
        count = min(max(draws - passes.start(epoch), 0), n)
        return feistel(np.arange(count), n, self.key(stream, epoch))

    def visits(self, stream: int, draws: int) -> Int:
        """int64[n_windows]: how often each window of a stream is among its first `draws` draws.

        Of a stream whose windows are the same in every pass.
        """
        passes = self.passes[stream]
        assert passes.constant, "windows of different passes are different windows"
        epochs, _ = passes.locate(draws)
        counts = np.full(passes.size(0), epochs, dtype=np.int64)
        counts[self.drawn(stream, epochs, draws)] += 1
        return counts

    def first_times(self, stream: int, step: int, epoch: int = 0) -> Int:
        """int64[size(epoch)]: when each window of a pass is visited, -1 if it is not visited before `step`.

        Time counts the windows of all streams, in the order of `batch`: step x windows_per_batch + place.
        """
        passes = self.passes[stream]
        table = self.draws_at(np.arange(step + 1))
        window = self.drawn(stream, epoch, int(table[-1, stream]))
        draw = passes.start(epoch) + np.arange(len(window))
        at = np.searchsorted(table[:, stream], draw, side="right") - 1
        ahead = table[:, :stream].sum(axis=1)
        place = draw - table[at, stream] + ahead[at + 1] - ahead[at] if len(draw) else draw
        times = np.full(passes.size(epoch), -1, dtype=np.int64)
        times[window] = at * self.windows_per_batch + place
        return times
