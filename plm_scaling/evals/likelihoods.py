"""Totals: the log-likelihood of whole sequences by a causal model, their pseudo-likelihood by one that fills masks.

They are sums over residues in nats, never means: a mean over tokens makes a longer variant look better or worse for its
length alone. n sequences, L residues.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, TypeVar

import numpy as np

from plm_scaling.core.errors import RefusedError
from plm_scaling.evals.adapters.asking import need
from plm_scaling.evals.adapters.base import Adapter, Direction, FloatArray, GivesTotals, Letters, Query
from plm_scaling.evals.cost import Cost, causal_cost
from plm_scaling.evals.letters import amino_ids, letter_columns, scored_sites
from plm_scaling.evals.windows import Cut, WindowKind, covering_windows, edge_weights, optimal_window, room

__all__ = [
    "CANONICAL",
    "Directions",
    "Totals",
    "check_ends",
    "clm_totals",
    "directions_of",
    "pseudo_totals",
    "window_query",
]

Directions = Literal["auto", "forward", "both"]
"""auto: both where the model was trained so."""
CANONICAL: Final = "canonical tokens"
"""In a protocol: the total of one cut of a sequence into tokens of several residues, a lower bound of its ln p."""
_AT_ONCE: Final = 2048
"""Sequences or queries that a model is given at once: their log-probabilities are held in memory."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class Totals:
    """Log-likelihoods float64[n] in nats, and how they came about."""

    values: FloatArray
    cost: Cost
    windows: WindowKind
    directions: tuple[Direction, ...] = ()
    pieces: bool = False
    """Through tokens of several residues, as the model's tokenizer cuts sequences: a lower bound."""

    @property
    def protocol(self) -> tuple[str, ...]:
        """What of it changes the numbers of one model, beside letters and windows."""
        return (*self.directions, *((CANONICAL,) if self.pieces else ()))


def directions_of(adapter: Adapter, wanted: Directions) -> tuple[Direction, ...]:
    """The directions in which a causal model reads.

    Raises
    ------
    RefusedError : both are asked for, and it was trained in one.
    """
    need(adapter.info, "causal", "total")
    if wanted == "both":
        need(adapter.info, "reverse")
    both = wanted == "both" or (wanted == "auto" and "reverse" in adapter.info.abilities)
    return ("forward", "reverse") if both else ("forward",)


def check_ends(adapter: Adapter, letters: Letters) -> None:
    """Make sure that totals of windows, which end where no protein does, count no ends.

    Raises
    ------
    RefusedError : raw letters, which count them.
    """
    if letters == "raw":
        raise RefusedError(
            f"a protein longer than the {adapter.info.context} positions {adapter.info.name} reads, in raw letters",
            why="raw totals count the end of a sequence, and a window ends where the protein does not",
            hint="ask for the 20 letters, which leave ends out, or leave long proteins out",
        )


def clm_totals(
    adapter: Adapter, sequences: Sequence[str], *, directions: Directions = "auto", letters: Letters = "20"
) -> Totals:
    """Ln p of each sequence, the mean of both directions where the model was trained in both.

    With `raw` letters the end of the sequence counts, and residues beside the 20; without they are left out. A sequence
    longer than the context is read in overlapping windows, and what several say of a residue is averaged by weights.
    A model over tokens of several residues is asked for the total of the tokens its tokenizer makes (`GivesTotals`).

    Raises
    ------
    RefusedError : the model is not causal, or has no second direction.
    CorpusError : an empty sequence, or a character that is no residue letter.
    """
    found = directions_of(adapter, directions)
    if "causal" not in adapter.info.abilities and isinstance(adapter, GivesTotals):
        values, tokens = adapter.total_logprobs(sequences, letters=letters)
        return Totals(
            values, Cost(sum(map(len, sequences)), len(sequences), tokens, tokens), "whole", found, pieces=True
        )
    width = room(adapter.info.context, max(map(len, sequences), default=1))
    owners: dict[str, list[_Owner]] = {}
    for number, sequence in enumerate(sequences):
        for k, (begin, end) in enumerate(covering_windows(len(sequence), width)):
            owners.setdefault(sequence[begin:end], []).append((number, k))
    values, cost = np.zeros(len(sequences)), Cost()
    for direction in found:
        turn = slice(None, None, 1 if direction == "forward" else -1)
        for part in _parts(sorted(owners, key=lambda piece: piece[turn])):
            cost += causal_cost([piece[turn] for piece in part])
            answers = adapter.residue_logprobs(part, direction=direction, letters=letters)
            for piece, logprobs in zip(part, answers, strict=True):
                for number, k in owners[piece]:
                    values[number] += _part_of(sequences[number], k, width, logprobs, direction, letters)
    cut = any(len(sequence) > width for sequence in sequences)
    return Totals(values / len(found), cost, "overlapping" if cut else "whole", found)


_Owner = tuple[int, int]
"""A sequence, and the number of its window."""


def _part_of(
    sequence: str, number: int, width: int, logprobs: FloatArray, direction: Direction, letters: Letters
) -> float:
    """What one window adds to the total: its residues by their weights, and the terminal if it is the sequence's."""
    length = len(sequence)
    begin, end = covering_windows(length, width)[number]
    weights = _weights(length, width, "left" if direction == "forward" else "right")[number]
    if letters == "20":
        counted = amino_ids(sequence[begin:end]) >= 0
        return float(logprobs[counted] @ weights[counted])
    last = end == length if direction == "forward" else begin == 0
    return float(logprobs[:-1] @ weights) + (float(logprobs[-1]) if last else 0.0)


@lru_cache(maxsize=64)
def _weights(length: int, width: int, cut: Cut) -> list[FloatArray]:
    """Of the windows of a sequence; most sequences of a library have one length."""
    return edge_weights(covering_windows(length, width), length, cut)


def pseudo_totals(adapter: Adapter, sequences: Sequence[str], *, letters: Letters = "20") -> Totals:
    """Sum over all sites of ln p(x_i | the others), each site masked by itself, the first and the last ones too.

    Sites with X, B, U, Z or O are shown and not counted. A sequence longer than the context is read in one window
    around each site.

    Raises
    ------
    RefusedError : the model fills no masks.
    CorpusError : an empty sequence, or a character that is no residue letter.

    **Source:** Salazar et al. 2020 (pseudo-log-likelihood), equation 1.
    """
    need(adapter.info, "masked", "profile")
    place = letter_columns(adapter.info, letters)
    distinct = {sequence: number for number, sequence in enumerate(dict.fromkeys(sequences))}
    totals, cost, cut = np.zeros(len(distinct)), Cost(), False
    for part in _parts(_all_sites(distinct)):
        queries = [window_query(adapter, sequence, (site,)) for sequence, site in part]
        answers = adapter.masked_logprobs(queries, letters=letters)
        for (sequence, site), query, logprobs in zip(part, queries, answers, strict=True):
            column = place[amino_ids(sequence[site])[0]]
            totals[distinct[sequence]] += logprobs[0, column]
            cut = cut or len(query.sequence) < len(sequence)
        tokens = sum(len(query.sequence) + 2 for query in queries)
        cost += Cost(len(part), len(part), tokens, tokens)
    values = totals[[distinct[sequence] for sequence in sequences]] if len(sequences) else totals
    return Totals(values, cost, "per site" if cut else "whole")


def _all_sites(sequences: Iterable[str]) -> Iterator[tuple[str, int]]:
    for sequence in sequences:
        for site in scored_sites(sequence).tolist():
            yield sequence, site


def window_query(adapter: Adapter, sequence: str, sites: Sequence[int], *, masked: bool = True) -> Query:
    """Sites to be read, masked or shown, in the window around them that fits into the context.

    Raises
    ------
    RefusedError : they do not fit into one window.
    """
    begin, end = optimal_window(sites, len(sequence), room(adapter.info.context, len(sequence)))
    if min(sites) < begin or max(sites) >= end:
        raise RefusedError(
            f"sites {min(sites) + 1} to {max(sites) + 1} do not fit into one window of {end - begin} residues",
            why=f"{adapter.info.name} has a context of {adapter.info.context} positions",
            hint="mask the sites one at a time (joint=False)",
        )
    inside = tuple(site - begin for site in sites)
    return Query(sequence[begin:end], masked=inside if masked else (), read=inside)


def _parts(items: Sequence[_T] | Iterator[_T]) -> Iterator[list[_T]]:
    rest = iter(items)
    while part := list(itertools.islice(rest, _AT_ONCE)):
        yield part
