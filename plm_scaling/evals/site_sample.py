"""`SiteSample`: the sites of a set of sequences on which models are compared, a function of content and seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.core.files import canonical_json, sha256_text
from plm_scaling.corpus.mixing import mix64, mix_key
from plm_scaling.evals.letters import scored_sites

__all__ = ["SiteSample", "sample_sites"]

Int = npt.NDArray[np.int64]

_PROTOCOL: Final = 1
"""Raise it when the same sequences and seed would give other sites."""


@dataclass(frozen=True)
class SiteSample:
    """Sites, sequence by sequence, positions ascending.

    Attributes
    ----------
    sequence, position : int64[S], number of the sequence and position from 0.
    sha256 : of the sequences, the sites and how they were drawn; only equal samples are compared.
    """

    sequence: Int
    position: Int
    per_sequence: int
    seed: int
    sha256: str

    def __len__(self) -> int:
        return len(self.position)

    def check(self, sequences: Sequence[str]) -> None:
        """Make sure that the sample was drawn from these sequences.

        Raises
        ------
        RefusedError : it was drawn from others.
        """
        if _identity(sequences, self.sequence, self.position, self.per_sequence, self.seed) != self.sha256:
            raise RefusedError(
                "these are not the sequences the sites were drawn from",
                why=f"the sample is {self.sha256[:12]}, of other letters or another order",
                hint="draw the sites anew: sample_sites(sequences)",
            )


def sample_sites(sequences: Sequence[str], *, per_sequence: int = 8, seed: int = 0) -> SiteSample:
    """Draw sites: of every sequence equally many, uniformly among its sites with one of the 20 amino acids.

    A shorter sequence gives all its sites. Which ones a sequence gives depends on its letters and the seed alone.

    Raises
    ------
    ConfigError : no sequence, or fewer than one site of each.
    CorpusError : an empty sequence, or a character that is no residue letter.
    """
    if not sequences or per_sequence < 1:
        raise ConfigError(f"{per_sequence} sites of each of {len(sequences)} sequences", why="there would be none")
    owners, places = [], []
    for number, sequence in enumerate(sequences):
        sites = scored_sites(sequence)
        digest = int.from_bytes(hashlib.sha256(sequence.encode()).digest()[:8], "little")
        keys = mix64(sites.astype(np.uint64) + np.uint64(mix_key(seed, digest)))
        chosen = np.sort(sites[np.argsort(keys, kind="stable")[:per_sequence]])
        owners.append(np.full(len(chosen), number))
        places.append(chosen)
    owner, place = np.concatenate(owners).astype(np.int64), np.concatenate(places).astype(np.int64)
    return SiteSample(owner, place, per_sequence, seed, _identity(sequences, owner, place, per_sequence, seed))


def _identity(sequences: Sequence[str], owner: Int, place: Int, per_sequence: int, seed: int) -> str:
    told = {
        "protocol": _PROTOCOL,
        "sequences": sha256_text("\n".join(sequences)),
        "sites": [owner.tolist(), place.tolist()],
        "per_sequence": per_sequence,
        "seed": seed,
    }
    return sha256_text(canonical_json(told))
