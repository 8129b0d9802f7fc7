"""Sequences drawn from a causal model, from nothing or as continuations, residue by residue.

n sequences, L residues, A the 20 amino acids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.errors import ConfigError
from plm_scaling.evals.adapters.asking import need
from plm_scaling.evals.adapters.base import Adapter, Continues

__all__ = ["Drawn", "continue_sequences", "drawn_fasta", "next_logprobs", "sample_sequences"]

FloatArray = npt.NDArray[np.float64]
_ENDS_APART: Final = 0.01
"""Probabilities that add up to more than 1 by this: the end is no part of the model."""


@dataclass(frozen=True)
class Drawn:
    """A sequence from a model."""

    sequence: str
    """With its prompt."""
    ended: bool
    """Whether the model ended it; else it was cut at the longest length."""
    logp: float
    """Ln p of what was drawn after the prompt by the model as it is (temperature 1, all letters), the end included."""


def next_logprobs(adapter: Adapter, prefixes: Sequence[str]) -> FloatArray:
    """Ln p of each of the 20 amino acids, and last of the end, after each prefix, float64[n, 21], rows normalised.

    After nothing, and in a model that knows no ends, the end is impossible. An `Adapter` that does not remember what it
    was asked last (`Continues`) is asked for the likelihoods of the 21 continuations.

    Raises
    ------
    RefusedError : the model gives no likelihoods from the left.
    """
    need(adapter.info, "causal")
    if isinstance(adapter, Continues):
        return adapter.next_logprobs(prefixes)
    distinct = list(dict.fromkeys(prefixes))
    asked = [prefix + letter for prefix in distinct for letter in STANDARD]
    whole = [prefix for prefix in distinct if prefix]
    answers = adapter.residue_logprobs([*asked, *whole], letters="raw")
    ends = {prefix: float(logp[-1]) for prefix, logp in zip(whole, answers[len(asked) :], strict=True)}
    rows: dict[str, FloatArray] = {}
    for k, prefix in enumerate(distinct):
        letters = [logp[len(prefix)] for logp in answers[k * len(STANDARD) : (k + 1) * len(STANDARD)]]
        row = np.array([*letters, ends.get(prefix, -math.inf)], dtype=np.float64)
        if np.exp(row).sum() > 1.0 + _ENDS_APART:
            row[-1] = -math.inf
        rows[prefix] = row - np.logaddexp.reduce(row)
    return np.array([rows[prefix] for prefix in prefixes]).reshape(-1, len(STANDARD) + 1)


def continue_sequences(
    adapter: Adapter,
    prompts: Sequence[str],
    *,
    longest: int | Sequence[int],
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[Drawn]:
    """Go on from each prompt until the model ends the sequence, or it is as long as it may be.

    Draw k depends on the seed, k and its prompt alone, whatever else is drawn.

    Parameters
    ----------
    longest : residues, the prompt included; one number, or one per prompt.
    temperature : log-probabilities are divided by it; 0 takes the likeliest letter always.
    top_p : only the likeliest letters that together have this probability are drawn, in (0, 1].

    Raises
    ------
    ConfigError : a temperature below 0, or a top_p outside (0, 1].
    RefusedError : as `next_logprobs`.

    **Source:** Holtzman et al. 2020 (top_p).
    """
    if not temperature >= 0.0 or not 0.0 < top_p <= 1.0:
        raise ConfigError(f"temperature {temperature}, top_p {top_p}", why="temperature >= 0 and 0 < top_p <= 1")
    limits = [longest] * len(prompts) if isinstance(longest, int) else list(longest)
    texts, logp, ended = list(prompts), np.zeros(len(prompts)), [False] * len(prompts)
    random = [np.random.default_rng([seed, k]) for k in range(len(prompts))]
    going = [k for k, text in enumerate(texts) if len(text) < limits[k]]
    while going:
        table = next_logprobs(adapter, [texts[k] for k in going])
        choices = _choose(table, temperature, top_p, [random[k] for k in going])
        for k, row, choice in zip(going, table, choices.tolist(), strict=True):
            logp[k] += row[choice]
            if choice == len(STANDARD):
                ended[k] = True
            else:
                texts[k] += STANDARD[choice]
        going = [k for k in going if not ended[k] and len(texts[k]) < limits[k]]
    return [Drawn(text, end, float(value)) for text, end, value in zip(texts, ended, logp, strict=True)]


def sample_sequences(
    adapter: Adapter,
    n: int,
    *,
    prompt: str = "",
    longest: int = 512,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[Drawn]:
    """Draw n sequences that begin with a prompt; see `continue_sequences`."""
    return continue_sequences(adapter, [prompt] * n, longest=longest, temperature=temperature, top_p=top_p, seed=seed)


def drawn_fasta(drawn: Sequence[Drawn]) -> str:
    """The sequences as FASTA, with how each ended and its ln p."""
    return "".join(
        f">drawn{k} {'ended' if one.ended else 'cut'} ln_p={one.logp:.2f}\n{one.sequence}\n"
        for k, one in enumerate(drawn, start=1)
    )


def _choose(
    table: FloatArray, temperature: float, top_p: float, random: Sequence[np.random.Generator]
) -> npt.NDArray[np.int64]:
    """A column of each row of ln p, int64[n]; every row by a number of its own stream."""
    if temperature == 0.0:
        return np.asarray(table.argmax(axis=1))
    p = np.exp((table - table.max(axis=1, keepdims=True)) / temperature)
    p /= p.sum(axis=1, keepdims=True)
    if top_p < 1.0:
        order = np.argsort(-p, axis=1, kind="stable")
        ranked = np.take_along_axis(p, order, axis=1)
        ranked[np.cumsum(ranked, axis=1) - ranked >= top_p] = 0.0
        np.put_along_axis(p, order, ranked, axis=1)
    ends = np.cumsum(p, axis=1)
    uniform = np.array([[one.random()] for one in random])
    return np.asarray((ends / ends[:, -1:] <= uniform).sum(axis=1))
