"""The ledger of a run, step by step, on disk: what every batch adds, and sums over blocks of batches.

corpus/windows/ledger-HASH/N.table.npy  uint32[N steps, sources, columns]  what each batch adds
                           N.sums.npy   int64[blocks + 1, sources, columns]  before every 1,024th batch
                           N.json       `TableCard`, written last

The hash is that of everything that decides the order of the run's tokens, so that runs which differ in their model
or length share a table. Safe to delete at any time.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import RecordError
from plm_scaling.core.files import writing_atomic
from plm_scaling.core.records import Record
from plm_scaling.corpus.homes import made_homes
from plm_scaling.corpus.ledger_count import StepCounter

__all__ = ["StepTable", "TableCard", "cached_table", "locked_table", "write_table"]

Int = npt.NDArray[np.int64]

_BLOCK: Final = 1024
_TOKEN_COLUMNS: Final = ("unique", "repeated_epoch", "repeated_duplicate", "seen_earlier")


class TableCard(Record):
    """What a table of steps holds."""

    SCHEMA_VERSION: ClassVar[int] = 1

    steps: int
    sources: tuple[int, ...]
    """Positions in the manifest of the sources that the run draws from."""
    columns: tuple[str, ...]
    first_tokens: dict[str, int]
    """Tokens drawn before the first visit of each cause, for those that occur within the steps."""
    pieces: int
    """Visits of pieces that were classified."""
    seconds: float
    """Wall time of building the table."""


@dataclass(frozen=True)
class StepTable:
    """The ledger of a run up to `card.steps`, memory-mapped.

    Attributes
    ----------
    table : uint32[steps, sources, columns], what each batch adds.
    sums : int64[blocks + 1, sources, columns], everything before each block of 1,024 batches.
    """

    card: TableCard
    table: npt.NDArray[np.uint32]
    sums: Int

    @classmethod
    def load(cls, folder: Path, steps: int) -> StepTable:
        """Open a finished table.

        Raises
        ------
        OSError, ValueError, RecordError : it is not there (any more), or damaged.
        """
        card = TableCard.read(folder / f"{steps}.json")
        table = np.asarray(np.load(folder / f"{steps}.table.npy", mmap_mode="r"))
        sums = np.asarray(np.load(folder / f"{steps}.sums.npy", mmap_mode="r"))
        shape = (len(card.sources), len(card.columns))
        if table.shape != (card.steps, *shape) or sums.shape != (-(-card.steps // _BLOCK) + 1, *shape):
            raise ValueError("the arrays do not have the sizes of the card")
        return cls(card, table, sums)

    def counts(self, step: int) -> Int:
        """int64[sources, columns]: everything added by the batches before `step`, which is at most `card.steps`."""
        block = step // _BLOCK
        inside = self.table[block * _BLOCK : step].sum(axis=0, dtype=np.int64)
        out: Int = self.sums[block] + inside
        return out

    def tokens(self, step: int) -> int:
        """Tokens of the batches before `step`."""
        return int(self.counts(step)[:, self._token_columns].sum())

    def step_at(self, tokens: int) -> int | None:
        """The first step before which at least so many tokens were drawn; None if that is beyond the table."""
        before = self.sums[:, :, self._token_columns].sum(axis=(1, 2))
        block = int(np.searchsorted(before, tokens)) - 1
        if block < 0:
            return 0
        rows = self.table[block * _BLOCK : (block + 1) * _BLOCK, :, self._token_columns]
        inside = before[block] + np.cumsum(rows.sum(axis=(1, 2), dtype=np.int64))
        step = block * _BLOCK + int(np.searchsorted(inside, tokens)) + 1
        return step if step <= self.card.steps else None

    @property
    def _token_columns(self) -> list[int]:
        return [number for number, name in enumerate(self.card.columns) if name in _TOKEN_COLUMNS]


def cached_table(corpus_path: Path, key: str, steps: int) -> StepTable | None:
    """The shortest table of at least so many steps; None if there is none that can be read."""
    for home in made_homes(corpus_path):
        folder = home / f"ledger-{key}"
        for found in sorted(n for n in _lengths(folder) if n >= steps):
            try:
                return StepTable.load(folder, found)
            except (OSError, EOFError, ValueError, RecordError):
                continue  # removed or damaged: as good as absent
    return None


def _lengths(folder: Path) -> list[int]:
    return [int(path.stem) for path in folder.glob("*.json") if path.stem.isdigit()]


@contextmanager
def locked_table(corpus_path: Path, key: str) -> Iterator[Path]:
    """A writable folder for the tables of a run, locked against other processes."""
    for number, home in enumerate(homes := made_homes(corpus_path)):
        folder = home / f"ledger-{key}"
        try:
            home.mkdir(mode=0o700 if number else 0o777, exist_ok=True)
            folder.mkdir(exist_ok=True)
            lock = (folder / ".lock").open("a")
        except OSError:
            if home is homes[-1]:
                raise
            continue
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
        return


def write_table(folder: Path, counter: StepCounter, steps: int, sources: tuple[int, ...]) -> StepTable:
    """Count a run up to `steps` and write its table, chunk by chunk; shorter tables are removed."""
    started = time.perf_counter()
    shape = (len(sources), len(counter.columns))
    sums = np.zeros((-(-steps // _BLOCK) + 1, *shape), dtype=np.int64)
    done = 0
    with writing_atomic(folder / f"{steps}.table.npy") as handle:
        header = {"descr": np.dtype(np.uint32).str, "fortran_order": False, "shape": (steps, *shape)}
        np.lib.format.write_array_header_1_0(handle, header)
        for whole in counter.count(steps):
            part = np.ascontiguousarray(whole[:, list(sources)])
            handle.write(part.tobytes())
            np.add.at(sums, (np.arange(done, done + len(part)) // _BLOCK) + 1, part.astype(np.int64))
            done += len(part)
    np.cumsum(sums, axis=0, out=sums)
    with writing_atomic(folder / f"{steps}.sums.npy") as handle:
        np.save(handle, sums)
    seconds = time.perf_counter() - started
    card = TableCard(
        steps=steps,
        sources=sources,
        columns=counter.columns,
        first_tokens=counter.first_tokens,
        pieces=counter.pieces,
        seconds=round(seconds, 3),
    )
    card.write(folder / f"{steps}.json")
    _remove_shorter(folder, steps)
    return StepTable.load(folder, steps)


def _remove_shorter(folder: Path, steps: int) -> None:
    for shorter in _lengths(folder):
        if shorter < steps:
            for ending in ("json", "table.npy", "sums.npy"):  # the card first: without it the rest is nothing
                (folder / f"{shorter}.{ending}").unlink(missing_ok=True)
