"""`PlantedContacts`: a model some of whose attention maps hold the contacts of known structures, and noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import CorpusError
from plm_scaling.evals.adapters.asking import need
from plm_scaling.evals.adapters.base import (
    Direction,
    Float32Array,
    FloatArray,
    Letters,
    ModelInfo,
    Pool,
    Query,
)

__all__ = ["PlantedContacts"]


class PlantedContacts:
    """A double with H attention maps, one of which is the map of contacts of the sequence plus noise.

    Parameters
    ----------
    contacts : by sequence, bool[L, L].
    n_maps : H; all but the last are noise.
    noise : standard deviation of what is added to every entry of the last map, whose contacts are 1 apart from 0.
    """

    def __init__(
        self, contacts: dict[str, npt.NDArray[np.bool_]], *, n_maps: int = 4, noise: float = 0.0, seed: int = 0
    ) -> None:
        self._contacts, self._n_maps, self._noise, self._seed = contacts, n_maps, noise, seed

    @property
    def info(self) -> ModelInfo:
        """What it is and what it can do."""
        return ModelInfo(
            name="planted contacts",
            family="double",
            objective="none",
            origin="known in closed form",
            abilities=("attend",),
        )

    def attentions(self, sequence: str) -> Float32Array:
        """Float32[H, L, L]; the same for the same sequence.

        Raises
        ------
        CorpusError : a sequence whose contacts it was not given.
        """
        if sequence not in self._contacts:
            raise CorpusError("this double knows no contacts of the sequence", where=sequence[:24])
        rng = np.random.default_rng([self._seed, len(sequence), sum(sequence.encode())])
        maps_HLL = rng.random((self._n_maps, len(sequence), len(sequence)))
        maps_HLL[-1] = self._contacts[sequence] + self._noise * rng.normal(size=maps_HLL.shape[1:])
        return maps_HLL.astype(np.float32)

    def masked_logprobs(self, queries: Sequence[Query], *, letters: Letters = "20") -> list[FloatArray]:
        """Refused."""
        need(self.info, "masked")
        raise AssertionError

    def residue_logprobs(
        self, sequences: Sequence[str], *, direction: Direction = "forward", letters: Letters = "20"
    ) -> list[FloatArray]:
        """Refused."""
        need(self.info, "causal")
        raise AssertionError

    def embed(self, sequences: Sequence[str], *, layer: int = -1, pool: Pool = "mean") -> list[Float32Array]:
        """Refused."""
        need(self.info, "embed")
        raise AssertionError
