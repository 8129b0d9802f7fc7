"""Models whose every answer is known in closed form: what scores, tasks and statistics are tested with.

They know the 20 amino acids and nothing else; their `raw` letters are these too. Shapes as in `base`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.errors import ConfigError, CorpusError
from plm_scaling.evals.adapters.asking import check_query, direction_ability, need, standard_ids
from plm_scaling.evals.adapters.base import (
    Ability,
    Direction,
    Float32Array,
    FloatArray,
    Letters,
    ModelInfo,
    Pool,
    Query,
)

__all__ = ["Double", "MarkovModel", "PlantedProfile", "UniformModel"]

_A: Final = len(STANDARD)
_SUM_TOLERANCE: Final = 1e-9


def _info(name: str, *abilities: Ability) -> ModelInfo:
    return ModelInfo(
        name=name,
        family="double",
        objective="none",
        origin="known in closed form",
        abilities=abilities,
        dtype="float64",
        symbols=tuple(STANDARD),
    )


class Double:
    """What has no activations: of an `Adapter`, what it is, and what it refuses."""

    def __init__(self, info: ModelInfo) -> None:
        self._info = info

    @property
    def info(self) -> ModelInfo:
        """What it is and what it can do."""
        return self._info

    def embed(self, sequences: Sequence[str], *, layer: int = -1, pool: Pool = "mean") -> list[Float32Array]:
        """Refused: it has no activations."""
        need(self.info, "embed")
        raise AssertionError

    def attentions(self, sequence: str) -> Float32Array:
        """Refused: it has no attention maps."""
        need(self.info, "attend")
        raise AssertionError


class PlantedProfile(Double):
    """Every site has a distribution of its own, whatever stands elsewhere.

    Parameters
    ----------
    logprobs_LA : ln p of the 20 amino acids at each site, [L, 20], each row normalised.

    Raises
    ------
    ConfigError : not of that shape, or rows that are no distributions.
    """

    def __init__(self, logprobs_LA: FloatArray, *, name: str = "planted profile") -> None:
        super().__init__(_info(name, "masked", "causal", "reverse", "profile"))
        self.logprobs_LA = np.asarray(logprobs_LA, dtype=np.float64)
        if self.logprobs_LA.ndim != 2 or self.logprobs_LA.shape[1] != _A:
            raise ConfigError(f"a profile of shape {self.logprobs_LA.shape}", why=f"it is [sites, {_A}]")
        _check_rows(np.exp(self.logprobs_LA), "the profile")

    def masked_logprobs(self, queries: Sequence[Query], *, letters: Letters = "20") -> list[FloatArray]:
        """The rows of the sites that are read."""
        for query in queries:
            check_query(query)
        return [self._rows(query.sequence)[list(query.read)] for query in queries]

    def residue_logprobs(
        self, sequences: Sequence[str], *, direction: Direction = "forward", letters: Letters = "20"
    ) -> list[FloatArray]:
        """Ln p of each residue at its site; the length is given, so the end costs nothing."""
        answers = []
        for sequence in sequences:
            rows_LA, ids = self._rows(sequence), standard_ids(sequence)
            answers.append(_ended(rows_LA[np.arange(len(ids)), ids], 0.0, letters))
        return answers

    def _rows(self, sequence: str) -> FloatArray:
        if len(standard_ids(sequence)) != len(self.logprobs_LA):
            raise CorpusError(f"{len(sequence)} residues, the profile has {len(self.logprobs_LA)} sites")
        return self.logprobs_LA


class UniformModel(Double):
    """Every amino acid has probability 1/20 everywhere."""

    def __init__(self, *, name: str = "uniform") -> None:
        super().__init__(_info(name, "masked", "causal", "reverse", "profile"))

    def masked_logprobs(self, queries: Sequence[Query], *, letters: Letters = "20") -> list[FloatArray]:
        """-ln 20 everywhere."""
        for query in queries:
            check_query(query)
            standard_ids(query.sequence)
        return [np.full((len(query.read), _A), -np.log(_A)) for query in queries]

    def residue_logprobs(
        self, sequences: Sequence[str], *, direction: Direction = "forward", letters: Letters = "20"
    ) -> list[FloatArray]:
        """-ln 20 for every residue; the length is given, so the end costs nothing."""
        return [_ended(np.full(len(standard_ids(s)), -np.log(_A)), 0.0, letters) for s in sequences]


class MarkovModel(Double):
    """A Markov chain along the sequence, which gives likelihoods from both sides and fills masked sites, all exactly.

    Parameters
    ----------
    transition_AA : p(next | this), [20, 20], rows sum to 1.
    start_A : p(first), [20]; None for the stationary distribution.
    end : probability that the sequence ends after a residue; None where the length is given and costs nothing.

    Raises
    ------
    ConfigError : no probabilities.
    """

    def __init__(
        self,
        transition_AA: FloatArray,
        start_A: FloatArray | None = None,
        *,
        end: float | None = None,
        name: str = "Markov chain",
    ) -> None:
        super().__init__(_info(name, "masked", "causal", "reverse"))
        self.transition_AA = np.asarray(transition_AA, dtype=np.float64)
        if self.transition_AA.shape != (_A, _A):
            raise ConfigError(f"transitions of shape {self.transition_AA.shape}", why=f"they are [{_A}, {_A}]")
        _check_rows(self.transition_AA, "the transitions")
        self.start_A = _stationary(self.transition_AA) if start_A is None else np.asarray(start_A, dtype=np.float64)
        if self.start_A.shape != (_A,):
            raise ConfigError(f"a start of shape {self.start_A.shape}", why=f"it is [{_A}]")
        _check_rows(self.start_A[None], "the start")
        if end is not None and not 0.0 < end < 1.0:
            raise ConfigError(f"an end probability of {end}", why="it lies between 0 and 1")
        self.end = end

    def masked_logprobs(self, queries: Sequence[Query], *, letters: Letters = "20") -> list[FloatArray]:
        """Ln p(x_i | all residues that are shown), float64[S, 20]; a site that is read is never shown to itself."""
        answers = []
        for query in queries:
            check_query(query)
            ids, hidden = standard_ids(query.sequence).tolist(), set(query.masked)
            rows = [self._given_others(ids, site, hidden) for site in query.read]
            answers.append(np.log(np.array(rows).reshape(-1, _A)))
        return answers

    def residue_logprobs(
        self, sequences: Sequence[str], *, direction: Direction = "forward", letters: Letters = "20"
    ) -> list[FloatArray]:
        """Ln p of every residue given those before it, or after it; with an end, `raw` counts going on and ending."""
        need(self.info, direction_ability(direction))
        answers = []
        for sequence in sequences:
            ids = standard_ids(sequence)
            logp = np.log(self._from_left(ids) if direction == "forward" else self._from_right(ids))
            last = 0.0
            if letters == "raw" and self.end is not None:
                goes_on = slice(1, None) if direction == "forward" else slice(None, -1)
                logp[goes_on] += np.log1p(-self.end)
                last = float(np.log(self.end))
            answers.append(_ended(logp, last, letters))
        return answers

    def _from_left(self, ids: np.ndarray[tuple[int], np.dtype[np.int64]]) -> FloatArray:
        return np.concatenate([self.start_A[ids[:1]], self.transition_AA[ids[:-1], ids[1:]]])

    def _from_right(self, ids: np.ndarray[tuple[int], np.dtype[np.int64]]) -> FloatArray:
        """By Bayes: p(x_i | x_i+1) = p(x_i) p(x_i+1 | x_i) / p(x_i+1)."""
        site_LA = np.empty((len(ids), _A))
        site_LA[0] = self.start_A
        for i in range(1, len(ids)):
            site_LA[i] = site_LA[i - 1] @ self.transition_AA
        of_residue = site_LA[np.arange(len(ids)), ids]
        back = of_residue[:-1] * self.transition_AA[ids[:-1], ids[1:]] / of_residue[1:]
        return np.concatenate([back, of_residue[-1:]])

    def _given_others(self, ids: list[int], site: int, hidden: set[int]) -> FloatArray:
        """Two messages, each from the nearest residue that is shown; p(x_i) is their product, normalised."""
        left = site - 1
        while left >= 0 and left in hidden:
            left -= 1
        from_left_A = self.start_A if left < 0 else self.transition_AA[ids[left]]
        for _ in range(site - left - 1):
            from_left_A = from_left_A @ self.transition_AA
        right = site + 1
        while right < len(ids) and right in hidden:
            right += 1
        from_right_A = np.ones(_A) if right == len(ids) else self.transition_AA[:, ids[right]]
        for _ in range(right - site - 1):
            from_right_A = self.transition_AA @ from_right_A
        product_A = from_left_A * from_right_A
        return np.asarray(product_A / product_A.sum(), dtype=np.float64)


def _ended(logp_L: FloatArray, end: float, letters: Letters) -> FloatArray:
    return logp_L if letters == "20" else np.append(logp_L, end)


def _stationary(transition_AA: FloatArray) -> FloatArray:
    """Solves p T = p, sum p = 1."""
    equations = np.vstack([transition_AA.T - np.eye(_A), np.ones(_A)])
    solution: FloatArray = np.linalg.lstsq(equations, np.append(np.zeros(_A), 1.0), rcond=None)[0]
    positive = np.clip(solution, 0.0, None)
    return np.asarray(positive / positive.sum(), dtype=np.float64)


def _check_rows(p: FloatArray, what: str) -> None:
    if not np.all(np.isfinite(p)) or p.min() < 0 or np.abs(p.sum(1) - 1).max() > _SUM_TOLERANCE:
        raise ConfigError(f"{what}: not every row is a distribution", why="probabilities sum to 1")
