"""Which window each piece of a document goes into: bin packing on the histogram of lengths, no loop over pieces."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["best_fit", "exact_patterns", "place"]

Int = npt.NDArray[np.int64]

_GOOD_FILL: Final = 0.99
_LARGEST_FOR_PATTERNS: Final = 512
"""Patterns cost context^2 operations each; longer windows are filled well by best fit."""


def place(length: Int, context: int) -> Int:
    """int64[n]: the window of each piece; windows are numbered from 0 without gaps.

    Best-fit decreasing, and where that leaves more than 1 % empty, exact patterns if they need fewer windows.

    Parameters
    ----------
    length : int64[n], positions of each piece, 1 to `context`.
    context : positions of a window.
    """
    window = best_fit(length, context)
    n_windows = int(window.max(initial=-1)) + 1
    if context <= _LARGEST_FOR_PATTERNS and length.sum() < _GOOD_FILL * n_windows * context:
        other = exact_patterns(length, context)
        if int(other.max()) + 1 < n_windows:
            return other
    return window


def best_fit(length: Int, context: int) -> Int:
    """int64[n]: the window of each piece, by best-fit decreasing.

    Lengths are handled from the longest to the shortest, all pieces of one length at once: they go into the
    open windows with the least room that holds them, as many as fit, then into new windows. The result is that
    of best-fit decreasing piece by piece, at a cost of at most context^2 / 2 array operations.

    **Source:** Johnson 1973 (best-fit decreasing); histogram form after Krell et al. 2021, "Efficient sequence
    packing without cross-contamination".
    """
    # 16-bit keys are sorted by their digits, several times as fast.
    order = np.argsort((context - length).astype(np.uint16) if context < 1 << 16 else -length, kind="stable")
    counts = np.bincount(length, minlength=context + 1)
    window = np.empty(len(length), dtype=np.int64)
    open_by_room: list[list[Int]] = [[] for _ in range(context + 1)]
    n_open = np.zeros(context + 1, dtype=np.int64)
    n_windows = done = 0
    for size in range(context, 0, -1):
        left = int(counts[size])
        rooms = (np.flatnonzero(n_open[size:]) + size).tolist() if left else []
        for room in [*rooms, context]:
            if not left:
                break
            fits = room // size
            wanted = -(-left // fits)
            if room == context:
                chosen = np.arange(n_windows, n_windows + wanted)
                n_windows += wanted
            else:
                chosen = _take(open_by_room[room], wanted)
                n_open[room] -= len(chosen)
            filled = np.repeat(chosen, fits)[:left]
            window[order[done : done + len(filled)]] = filled
            done += len(filled)
            left -= len(filled)
            _reopen(open_by_room, n_open, chosen, room - fits * size, size, len(chosen) * fits - len(filled))
    return window


def _take(stack: list[Int], wanted: int) -> Int:
    """Remove up to `wanted` windows from a stack of arrays."""
    taken: list[Int] = []
    while stack and wanted:
        part = stack.pop()
        if len(part) > wanted:
            stack.append(part[wanted:])
            part = part[:wanted]
        taken.append(part)
        wanted -= len(part)
    return np.concatenate(taken)


def _reopen(open_by_room: list[list[Int]], n_open: Int, chosen: Int, room: int, size: int, missing: int) -> None:
    """Put windows back under the room they have now; the last one lacks `missing` pieces of `size`."""
    full = chosen[:-1] if missing else chosen
    for part, space in ((full, room), (chosen[len(full) :], room + missing * size)):
        if len(part) and space:
            open_by_room[space].append(part)
            n_open[space] += len(part)


def exact_patterns(length: Int, context: int) -> Int:
    """int64[n]: the window of each piece, by patterns of lengths that fill a window exactly where any does.

    Until no piece is left: the longest one, and with it the lengths that fill the window best, among those the
    combination whose scarcest length is most abundant; the pattern is repeated as often as the pieces allow.
    """
    order = np.argsort(length, kind="stable")
    left = np.bincount(length, minlength=context + 1)
    next_piece = np.cumsum(left) - left
    window = np.empty(len(length), dtype=np.int64)
    n_windows, longest = 0, context
    while True:
        while longest and not left[longest]:
            longest -= 1
        if not longest:
            return window
        pattern = _pattern(left, longest, context)
        times = min(int(left[size]) // number for size, number in pattern.items())
        for size, number in pattern.items():
            begin = int(next_piece[size])
            chosen = order[begin : begin + times * number]
            window[chosen] = n_windows + np.repeat(np.arange(times), number)
            next_piece[size] += len(chosen)
            left[size] -= len(chosen)
        n_windows += times


def _pattern(left: Int, longest: int, context: int) -> dict[int, int]:
    """Pieces of each length for one window that begins with the longest piece.

    A dynamic programme over the filled room: the abundance of a combination is that of its scarcest length.
    """
    rest = context - longest
    available = left[: rest + 1].copy()
    if longest <= rest:
        available[longest] -= 1
    sizes = np.flatnonzero(available)
    abundance = available[sizes].astype(np.float64)
    best = np.zeros(rest + 1)
    best[0] = np.inf
    last = np.zeros(rest + 1, dtype=np.int64)
    usable = np.searchsorted(sizes, np.arange(rest + 1), side="right").tolist()
    for room in range(1, rest + 1):
        if usable[room]:
            scores = np.minimum(best[room - sizes[: usable[room]]], abundance[: usable[room]])
            choice = int(scores.argmax())
            best[room], last[room] = scores[choice], sizes[choice]
    room = int(np.flatnonzero(best)[-1])
    pattern = {longest: 1}
    while room:
        size = int(last[room])
        # The programme does not count how often it uses a length: stop where the pieces run out.
        pattern[size] = min(pattern.get(size, 0) + 1, int(left[size]))
        room -= size
    return pattern
