"""The processes that train one run together, and what they tell each other."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["World"]


@dataclass(frozen=True)
class World:
    """One process of `size`.

    Attributes
    ----------
    rank, size : this process and how many there are.
    local_rank : this process among those of its machine, and the number of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over all processes."""
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag

    def totals(self, counts: list[int]) -> list[int]:
        """Sums of counts over all processes."""
        return counts
