"""The split of a sequence: a property of its content and of who owns it, so that copies never part."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError
from plm_scaling.corpus.format import EXCLUDED, HELD_OUT_PREFIX, TRAIN, VAL_CLUSTER, VAL_IID
from plm_scaling.corpus.mixing import GOLDEN, mix64

__all__ = ["EXCLUDED_ID", "FIRST_HELD_OUT", "TRAIN_ID", "VAL_CLUSTER_ID", "VAL_IID_ID", "SplitRule"]

TRAIN_ID: Final = 0
VAL_IID_ID: Final = 1
VAL_CLUSTER_ID: Final = 2
EXCLUDED_ID: Final = 3
FIRST_HELD_OUT: Final = 4
_MAX_SPLITS: Final = 256
_WORDS: Final = 1 << 64


@dataclass(frozen=True)
class SplitRule:
    """Which split a sequence belongs to before clusters are known.

    Parameters
    ----------
    hold_out : names of the held-out sets.
    val_share : expected share of the other unique sequences that validates, in [0, 1).
    seed : another seed draws other validation sequences.
    n_files : so many of the held-out sets are files, whose sources come first, in this order; the others are clades.

    Raises
    ------
    ConfigError : a share out of range, or more sets than a corpus can tell apart.
    """

    hold_out: tuple[str, ...] = ()
    val_share: float = 0.01
    seed: int = 0
    n_files: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.val_share) and 0.0 <= self.val_share < 1.0):
            raise ConfigError(f"val_share is {self.val_share}", why="it is a share: 0 <= val_share < 1")
        if len(self.names) > _MAX_SPLITS:
            raise ConfigError(f"{len(self.hold_out)} held-out sets", why=f"a corpus has at most {_MAX_SPLITS} splits")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the splits in the order of their ids: the four every corpus has, then one per held-out set."""
        return (TRAIN, VAL_IID, VAL_CLUSTER, EXCLUDED, *(HELD_OUT_PREFIX + name for name in self.hold_out))

    def assign(self, words: npt.NDArray[np.uint64], owner: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Split of each row, uint8[n], as a position in `names`.

        Parameters
        ----------
        words : uint64[n, 2], the content hash.
        owner : int64[n], position of the source that holds the sequence's first copy.
        """
        key = _mix(np.array([self.seed % _WORDS], dtype=np.uint64))
        drawn = _mix(words[:, 0] ^ _mix(words[:, 1] ^ key))
        validates = drawn < np.uint64(int(self.val_share * _WORDS))
        by_content = np.where(validates, VAL_IID_ID, TRAIN_ID)
        n_files = len(self.hold_out) if self.n_files is None else self.n_files
        return np.where(owner < n_files, owner + FIRST_HELD_OUT, by_content).astype(np.uint8)


def _mix(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A step of SplitMix64: a bijection of 64-bit words that looks random."""
    return mix64(words + np.uint64(GOLDEN))
