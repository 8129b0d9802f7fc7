"""Marginals: log-probabilities of letters at sites of one protein, masked or shown. S sites, L residues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plm_scaling.evals.adapters.asking import need
from plm_scaling.evals.adapters.base import Adapter, FloatArray, Letters, Query
from plm_scaling.evals.cost import Cost
from plm_scaling.evals.letters import letter_columns
from plm_scaling.evals.likelihoods import window_query
from plm_scaling.evals.windows import WindowKind, covering_windows, edge_weights, room

__all__ = ["SiteLogprobs", "joint_logprobs", "masked_logprobs", "shown_logprobs"]


@dataclass(frozen=True)
class SiteLogprobs:
    """Log-probabilities of the 20 amino acids at sites.

    Attributes
    ----------
    sites : positions from 0, ascending.
    logprobs : float64[S, 20], columns in the order of `core.alphabet.STANDARD`.
    """

    sites: tuple[int, ...]
    logprobs: FloatArray
    cost: Cost
    windows: WindowKind


def masked_logprobs(adapter: Adapter, sequence: str, sites: Sequence[int], *, letters: Letters = "20") -> SiteLogprobs:
    """What a model says of each site with this site alone masked: one short forward for each distinct site.

    Raises
    ------
    RefusedError : the model fills no masks.
    """
    need(adapter.info, "masked")
    distinct = tuple(sorted(set(sites)))
    queries = [window_query(adapter, sequence, (site,)) for site in distinct]
    logprobs = _ask(adapter, queries, letters)
    cut = any(len(query.sequence) < len(sequence) for query in queries)
    return SiteLogprobs(distinct, logprobs, _cost(queries), "per site" if cut else "whole")


def joint_logprobs(
    adapter: Adapter, sequence: str, groups: Sequence[tuple[int, ...]], *, letters: Letters = "20"
) -> dict[tuple[int, ...], SiteLogprobs]:
    """The same with all sites of a group masked at once, by group.

    Raises
    ------
    RefusedError : the model fills no masks, or a group does not fit into its context.
    """
    need(adapter.info, "masked")
    distinct = sorted(group for group in set(groups) if group)
    queries = [window_query(adapter, sequence, group) for group in distinct]
    logprobs = _ask(adapter, queries, letters)
    ends = np.cumsum([len(group) for group in distinct])
    return {
        group: SiteLogprobs(
            group,
            logprobs[end - len(group) : end],
            _cost([query]),
            "per variant" if len(query.sequence) < len(sequence) else "whole",
        )
        for group, query, end in zip(distinct, queries, ends, strict=True)
    }


def shown_logprobs(adapter: Adapter, sequence: str, sites: Sequence[int], *, letters: Letters = "20") -> SiteLogprobs:
    """What a model says of sites it is shown, unmasked: one forward where one window holds them all.

    Sites too far apart for that are read in overlapping windows, weighted where several hold them.

    Raises
    ------
    RefusedError : the model neither fills masks nor is a profile.
    """
    need(adapter.info, "masked", "profile")
    distinct = tuple(sorted(set(sites)))
    length = len(sequence)
    width = room(adapter.info.context, length)
    if not distinct or length <= width or distinct[-1] - distinct[0] <= width // 2:
        queries = [window_query(adapter, sequence, distinct, masked=False)] if distinct else []
        kind: WindowKind = "whole" if length <= width else "one"
        return SiteLogprobs(distinct, _ask(adapter, queries, letters), _cost(queries), kind)
    spans = covering_windows(length, width)
    total, row = np.zeros((len(distinct), 20)), {site: k for k, site in enumerate(distinct)}
    read = [tuple(site for site in distinct if begin <= site < end) for begin, end in spans]
    queries = [
        Query(sequence[begin:end], read=tuple(site - begin for site in inside))
        for (begin, end), inside in zip(spans, read, strict=True)
    ]
    weights = edge_weights(spans, length)
    used = [k for k, inside in enumerate(read) if inside]
    answers = adapter.masked_logprobs([queries[k] for k in used], letters=letters)
    columns = letter_columns(adapter.info, letters)
    for k, logprobs in zip(used, answers, strict=True):
        inside = np.array(read[k])
        total[[row[site] for site in read[k]]] += weights[k][inside - spans[k][0], None] * logprobs[:, columns]
    return SiteLogprobs(distinct, total, _cost([queries[k] for k in used]), "overlapping")


def _ask(adapter: Adapter, queries: Sequence[Query], letters: Letters) -> FloatArray:
    """float64[S, 20], the sites of all queries one after the other."""
    if not queries:
        return np.zeros((0, 20))
    answers = adapter.masked_logprobs(queries, letters=letters)
    return np.concatenate(answers)[:, letter_columns(adapter.info, letters)]


def _cost(queries: Sequence[Query]) -> Cost:
    tokens = sum(len(query.sequence) + 2 for query in queries)
    return Cost(sum(len(query.read) for query in queries), len(queries), tokens, tokens)
