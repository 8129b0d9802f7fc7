"""Site-conditional nats, -ln p(x_i | all other residues): the one likelihood scale on which all kinds of models meet.

A masked model fills the site. A causal model has no such number at hand, but its joint distribution has: the totals of
the 20 sequences that differ at the site, normalised. A profile reads it off. Losses of different objectives are not
comparable; these are, on the same sites.

S sites, n sequences.

**Source:** Besag 1975 (conditionals of a joint distribution, pseudo-likelihood), for a causal model by Bayes' rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, PlmScalingError, RefusedError, did_you_mean
from plm_scaling.evals.adapters.asking import need
from plm_scaling.evals.adapters.base import Adapter, Direction, FloatArray, Letters, ModelInfo
from plm_scaling.evals.bootstrap import Bootstrapped, bootstrap_mean
from plm_scaling.evals.cost import Cost
from plm_scaling.evals.letters import amino_ids, candidate_letters, letter_columns
from plm_scaling.evals.likelihoods import Directions, check_ends, clm_totals, directions_of, window_query
from plm_scaling.evals.site_sample import SiteSample
from plm_scaling.evals.windows import optimal_window, room

__all__ = ["SiteMethod", "SiteNats", "drawn_units", "site_nats"]

SiteMethod = Literal["masked", "causal", "profile"]
_METHODS: Final = ("masked", "causal", "profile")
_AT_ONCE: Final = 2048


@dataclass(frozen=True)
class SiteNats:
    """Site-conditional nats of a model.

    Attributes
    ----------
    values : float64[S], nats, in the order of the sample.
    clusters : int64[S], what was drawn for intervals: the cluster of each site's sequence, or the sequence itself.
    mean : the mean of the values, with an interval over clusters (over sites where there is only one).
    cut : sites read in a window of a sequence longer than the context.
    """

    info: ModelInfo
    method: SiteMethod
    directions: tuple[Direction, ...]
    letters: Letters
    sample: SiteSample
    values: FloatArray
    clusters: npt.NDArray[np.int64]
    mean: Bootstrapped
    cost: Cost
    cut: int

    @property
    def protocol(self) -> str:
        """How the model was asked; the sites are named by the sample's hash."""
        return "/".join(["site nats", self.method, *self.directions, f"letters {self.letters}"])


def site_nats(
    adapter: Adapter,
    sequences: Sequence[str],
    sample: SiteSample,
    *,
    method: SiteMethod | Literal["auto"] = "auto",
    letters: Letters = "20",
    directions: Directions = "auto",
    clusters: Sequence[int] | None = None,
    draws: int = 1000,
) -> SiteNats:
    """-ln p(x_i | x_-i) of a model at the sites of a sample.

    Parameters
    ----------
    sequences : those the sample was drawn from.
    method : auto: by masks, by totals of all 20 substitutions, or read off, as the model was trained.
    letters : 20 renormalises over the amino acids. raw: a masked model answers over its whole alphabet; the totals of
        a causal one count the sequence's end and are normalised over all residue letters it knows.
    directions : of a causal model; the mean of both totals is normalised where it was trained in both.
    clusters : of each sequence (`corpus.homology.cluster_sequences`): relatives are no independent evidence.
    draws : resampled sets of clusters for the interval.

    Raises
    ------
    ConfigError : clusters of another number of sequences. RefusedError : other sequences, a model that cannot do it, or
        raw totals of a causal model where a sequence is longer than its context: a window's end is no protein's.
    PlmScalingError : a value that is no number, naming sequence and site.
    """
    sample.check(sequences)
    if clusters is not None and len(clusters) != len(sequences):
        raise ConfigError(f"{len(clusters)} clusters for {len(sequences)} sequences", why="there must be one for each")
    chosen: SiteMethod = _method(adapter) if method == "auto" else method
    if chosen not in _METHODS:
        raise ConfigError(f"there is no method {chosen!r}", hint=did_you_mean(chosen, _METHODS))
    lengths = np.array([len(sequence) for sequence in sequences])[sample.sequence]
    width = room(adapter.info.context, int(lengths.max()))
    cut = int((lengths > width).sum())
    found: tuple[Direction, ...] = ()
    if chosen == "causal":
        found = directions_of(adapter, directions)
        if cut:
            check_ends(adapter, letters)
        values, cost = _by_totals(adapter, sequences, sample, letters, directions)
    else:
        need(adapter.info, chosen)
        values, cost = _by_sites(adapter, sequences, sample, letters, masked=chosen == "masked")
    _check_numbers(adapter, values, sample)
    unit = sample.sequence if clusters is None else np.asarray(clusters, dtype=np.int64)[sample.sequence]
    mean = bootstrap_mean(values, clusters=drawn_units(unit), draws=draws)
    return SiteNats(adapter.info, chosen, found, letters, sample, values, unit, mean, cost, cut)


def drawn_units(clusters: npt.NDArray[np.int64]) -> list[int] | None:
    """Clusters as the bootstrap takes them; None, for the sites themselves, where there is only one."""
    return clusters.tolist() if len(np.unique(clusters)) > 1 else None


def _method(adapter: Adapter) -> SiteMethod:
    """As the model was trained; a double that can do everything is asked for what is cheapest."""
    info = adapter.info
    order: tuple[SiteMethod, ...] = ("causal",) if info.objective == "clm" else ("profile", "masked", "causal")
    for method in order:
        if method in info.abilities:
            return method
    raise RefusedError(
        f"{info.name} gives no residue a probability", why=f"it can do: {', '.join(info.abilities) or 'nothing'}"
    )


def _by_sites(
    adapter: Adapter, sequences: Sequence[str], sample: SiteSample, letters: Letters, *, masked: bool
) -> tuple[FloatArray, Cost]:
    column = letter_columns(adapter.info, letters)
    values, cost = np.zeros(len(sample)), Cost()
    for begin in range(0, len(sample), _AT_ONCE):
        part = range(begin, min(begin + _AT_ONCE, len(sample)))
        sites = [(sequences[sample.sequence[k]], int(sample.position[k])) for k in part]
        queries = [window_query(adapter, sequence, (site,), masked=masked) for sequence, site in sites]
        answers = adapter.masked_logprobs(queries, letters=letters)
        for k, (sequence, site), logprobs in zip(part, sites, answers, strict=True):
            values[k] = -logprobs[0, column[amino_ids(sequence[site])[0]]]
        tokens = sum(len(query.sequence) + 2 for query in queries)
        cost += Cost(len(part), len(part), tokens, tokens)
    return values, cost


def _by_totals(
    adapter: Adapter, sequences: Sequence[str], sample: SiteSample, letters: Letters, directions: Directions
) -> tuple[FloatArray, Cost]:
    """Softmax of the totals of all sequences that differ at the site; sites of one sequence share their beginnings."""
    candidates = candidate_letters(adapter.info, letters)
    values, cost = np.zeros(len(sample)), Cost()
    for part in _groups(sample.sequence, _AT_ONCE // len(candidates)):
        changed, true = [], []
        for k in part:
            sequence, site = sequences[sample.sequence[k]], int(sample.position[k])
            begin, end = optimal_window((site,), len(sequence), room(adapter.info.context, len(sequence)))
            changed += [sequence[begin:site] + letter + sequence[site + 1 : end] for letter in candidates]
            true.append(candidates.index(sequence[site]))
        totals = clm_totals(adapter, changed, directions=directions, letters=letters)
        table = totals.values.reshape(len(part), len(candidates))
        values[part] = np.logaddexp.reduce(table, axis=1) - table[np.arange(len(part)), true]
        cost += totals.cost
    return values, cost


def _groups(owner: npt.NDArray[np.int64], most: int) -> list[range]:
    """Neighbouring sites, at most so many at once; a sequence is split only if it alone has more."""
    starts = np.flatnonzero(np.diff(owner, prepend=-1)).tolist()
    groups, begin = [], 0
    for start, end in zip(starts, [*starts[1:], len(owner)], strict=True):
        if end - begin > most and start > begin:
            groups.append(range(begin, start))
            begin = start
        while end - begin > most:
            groups.append(range(begin, begin + most))
            begin += most
    return [*groups, range(begin, len(owner))] if begin < len(owner) else groups


def _check_numbers(adapter: Adapter, values: FloatArray, sample: SiteSample) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        k = int(bad[0])
        raise PlmScalingError(
            f"{adapter.info.name} gives {len(bad)} of {len(values)} residues no probability above 0",
            where=f"sequence {sample.sequence[k] + 1}, residue {sample.position[k] + 1}",
            hint="damaged weights, or a half-precision overflow: check the weights, and score in float32",
        )
