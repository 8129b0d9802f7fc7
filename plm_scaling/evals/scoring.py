"""`score_variants`: what a model expects of variants of a protein before it has seen a measurement. n variants.

Every score is a sum over residues in nats, 0 for the wild type and higher for what the model finds more likely:

wt_marginals       sum over changed sites of ln p(new) - ln p(old), the wild type shown: one forward for any library
masked_marginals   the same with the site masked, one at a time, or all sites of a variant at once (`joint`)
pseudo_likelihood  the pseudo-likelihood of the variant minus the wild type's: every site, a forward for each
clm                ln p of the variant minus the wild type's, the mean of both directions where trained so
profile            as wt_marginals, of a model that looks at no other site

**Source:** Meier et al. 2021, section 3.1 (marginals; its equation masks jointly, its released script and ProteinGym
one site at a time); Notin et al. 2023 (ProteinGym); Nijkamp et al. 2023 (ProGen2, both directions).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.errors import ConfigError, PlmScalingError, RefusedError, did_you_mean
from plm_scaling.evals.adapters.asking import need
from plm_scaling.evals.adapters.base import Adapter, Direction, FloatArray, Letters
from plm_scaling.evals.cost import Cost
from plm_scaling.evals.likelihoods import (
    CANONICAL,
    Directions,
    Totals,
    check_ends,
    clm_totals,
    directions_of,
    pseudo_totals,
)
from plm_scaling.evals.marginals import SiteLogprobs, joint_logprobs, masked_logprobs, shown_logprobs
from plm_scaling.evals.variants import Variant
from plm_scaling.evals.windows import WindowKind, optimal_window, room

__all__ = ["Method", "Scores", "choose_method", "score_variants"]

Method = Literal["wt_marginals", "masked_marginals", "pseudo_likelihood", "clm", "profile"]
_BY_SITE: Final = ("wt_marginals", "masked_marginals", "profile")
_METHODS: Final = (*_BY_SITE, "pseudo_likelihood", "clm")


@dataclass(frozen=True)
class Scores:
    """Scores of variants.

    Attributes
    ----------
    values : float64[n], nats; differences to the wild type.
    model, method : whose, and how; with `joint`, `letters`, `directions` and `windows` the protocol.
    pieces : totals through tokens of several residues (`likelihoods.CANONICAL`).
    wild_type : the wild type's own total in nats, where totals are compared over the whole protein.
    """

    values: FloatArray
    model: str
    method: Method
    letters: Letters
    windows: WindowKind
    cost: Cost
    joint: bool = False
    directions: tuple[Direction, ...] = ()
    wild_type: float | None = None
    pieces: bool = False

    @property
    def protocol(self) -> str:
        """Everything that changes the numbers of one model; only scores of one protocol may be mixed in a table."""
        parts: list[str] = [self.method, *(["joint"] if self.joint else []), *self.directions]
        parts += [CANONICAL] if self.pieces else []
        return "/".join([*parts, f"letters {self.letters}", f"window {self.windows}"])


def choose_method(adapter: Adapter, variants: Sequence[Variant]) -> Method:
    """The usual method for a model and its variants: totals for all of them as soon as one has an indel.

    Raises
    ------
    RefusedError : the model gives no likelihood of any kind, or none of variants with indels.
    """
    info = adapter.info
    if {"causal", "total"} & set(info.abilities) and (info.objective == "clm" or "masked" not in info.abilities):
        return "clm"
    indel = any(variant.indel for variant in variants)
    if "profile" in info.abilities and not indel:
        return "profile"
    need(info, "masked")
    return "pseudo_likelihood" if indel else "masked_marginals"


def score_variants(
    adapter: Adapter,
    wild_type: str,
    variants: Sequence[Variant],
    method: Method | Literal["auto"] = "auto",
    *,
    joint: bool = False,
    directions: Directions = "auto",
    letters: Letters = "20",
) -> Scores:
    """Scores of variants of one protein, in their order.

    Parameters
    ----------
    wild_type, variants : as given to and by `parse_variants`.
    method : see the module; `auto` chooses by what the model can do.
    joint : masked_marginals only: mask all sites of a variant at once.
    directions : clm only.
    letters : 20 renormalises over the amino acids; raw leaves probability on what else the model knows.

    Raises
    ------
    ConfigError : an unknown method; a changed residue of the wild type that is none of the 20.
    RefusedError : the model cannot do it, or the method knows no insertions and deletions; clm by raw letters in one
        window of a longer protein.
    PlmScalingError : a score that is no finite number, naming the variant.
    """
    wild_type = wild_type.strip().upper()
    chosen: Method = choose_method(adapter, variants) if method == "auto" else method
    _check(adapter, wild_type, variants, chosen, joint)
    if chosen == "clm":
        scores = _clm(adapter, wild_type, variants, directions, letters)
    elif chosen == "pseudo_likelihood":
        totals = pseudo_totals(adapter, [wild_type, *(v.sequence for v in variants)], letters=letters)
        scores = _against_wild_type(adapter, totals, chosen, letters)
    elif joint:
        scores = _joint(adapter, wild_type, variants, letters)
    else:
        scores = _by_site(adapter, wild_type, variants, chosen, letters)
    _check_finite(scores, variants)
    return scores


def _check(adapter: Adapter, wild_type: str, variants: Sequence[Variant], method: Method, joint: bool) -> None:
    if method not in _METHODS:
        raise ConfigError(f"there is no method {method!r}", hint=did_you_mean(method, _METHODS))
    if joint and method != "masked_marginals":
        raise ConfigError(f"{method} masks no sites jointly", hint="joint=True goes with method='masked_marginals'")
    if method == "profile":
        need(adapter.info, "profile")
    if method not in _BY_SITE:
        return
    for number, variant in enumerate(variants):
        where = f"variant {number + 1}, {variant.name[:60]!r}"
        if variant.indel:
            raise RefusedError(
                f"{method} knows no insertions and deletions",
                where=where,
                why="it adds up changed sites of the wild type, and residues that came or went have none there",
                hint="use clm, or pseudo_likelihood with a masked model",
            )
        for change in variant.substitutions:
            if change.old not in STANDARD:
                raise ConfigError(
                    f"residue {change.position + 1} of the wild type is {change.old}, which has no probability",
                    where=where,
                    hint="give a wild type of the 20 amino acids",
                )


def _by_site(adapter: Adapter, wild_type: str, variants: Sequence[Variant], method: Method, letters: Letters) -> Scores:
    sites = sorted({site for variant in variants for site in variant.sites})
    ask: Callable[..., SiteLogprobs] = masked_logprobs if method == "masked_marginals" else shown_logprobs
    found = ask(adapter, wild_type, sites, letters=letters)
    row = {site: k for k, site in enumerate(found.sites)}
    table = found.logprobs.tolist()  # look-ups one by one are several times faster in lists
    values = [
        sum(
            table[row[change.position]][STANDARD.index(change.new)]
            - table[row[change.position]][STANDARD.index(change.old)]
            for change in variant.substitutions
        )
        for variant in variants
    ]
    return Scores(np.array(values, dtype=np.float64), adapter.info.name, method, letters, found.windows, found.cost)


def _joint(adapter: Adapter, wild_type: str, variants: Sequence[Variant], letters: Letters) -> Scores:
    found = joint_logprobs(adapter, wild_type, [variant.sites for variant in variants], letters=letters)
    values = np.zeros(len(variants))
    for number, variant in enumerate(variants):
        if variant.sites:
            table, n = found[variant.sites].logprobs, np.arange(len(variant.sites))
            new, old = ([STANDARD.index(getattr(c, side)) for c in variant.substitutions] for side in ("new", "old"))
            values[number] = float((table[n, new] - table[n, old]).sum())
    cost = sum((one.cost for one in found.values()), start=Cost())
    kind: WindowKind = "per variant" if any(one.windows != "whole" for one in found.values()) else "whole"
    return Scores(values, adapter.info.name, "masked_marginals", letters, kind, cost, joint=True)


def _clm(
    adapter: Adapter, wild_type: str, variants: Sequence[Variant], directions: Directions, letters: Letters
) -> Scores:
    directions_of(adapter, directions)
    causal = "causal" in adapter.info.abilities
    windows, kind = _windows(adapter, wild_type, variants) if causal else ([], "whole")
    if kind in ("whole", "overlapping"):
        sequences = [wild_type, *(variant.sequence for variant in variants)]
        totals = clm_totals(adapter, sequences, directions=directions, letters=letters)
        return _against_wild_type(adapter, totals, "clm", letters)
    check_ends(adapter, letters)
    distinct = {window: number for number, window in enumerate(dict.fromkeys(windows))}
    wild = [wild_type[begin:end] for begin, end in distinct]
    mutated = [v.sequence[begin:end] for v, (begin, end) in zip(variants, windows, strict=True)]
    totals = clm_totals(adapter, [*wild, *mutated], directions=directions, letters=letters)
    values = totals.values[len(wild) :] - totals.values[[distinct[window] for window in windows]]
    return Scores(values, adapter.info.name, "clm", letters, kind, totals.cost, directions=totals.directions)


def _windows(adapter: Adapter, wild_type: str, variants: Sequence[Variant]) -> tuple[list[tuple[int, int]], WindowKind]:
    """A window for each variant: one for all where it leaves each site a quarter of its width of context."""
    length = len(wild_type)
    longest = max([length, *(len(variant.sequence) for variant in variants)])
    width = room(adapter.info.context, longest)
    if longest <= width:
        return [], "whole"
    sites = {site for variant in variants for site in variant.sites} or {length // 2}
    apart = [max(variant.sites) - min(variant.sites) for variant in variants if variant.sites]
    if any(variant.indel for variant in variants) or max(apart, default=0) > width // 2:
        return [], "overlapping"
    if max(sites) - min(sites) <= width // 2:
        return [optimal_window(sorted(sites), length, width)] * len(variants), "one"
    return [optimal_window(v.sites or (min(sites),), length, width) for v in variants], "per variant"


def _against_wild_type(adapter: Adapter, totals: Totals, method: Method, letters: Letters) -> Scores:
    """Differences to the first total."""
    return Scores(
        totals.values[1:] - totals.values[0],
        adapter.info.name,
        method,
        letters,
        totals.windows,
        totals.cost,
        directions=totals.directions,
        wild_type=float(totals.values[0]),
        pieces=totals.pieces,
    )


def _check_finite(scores: Scores, variants: Sequence[Variant]) -> None:
    bad = np.flatnonzero(~np.isfinite(scores.values))
    if len(bad):
        first = int(bad[0])
        raise PlmScalingError(
            f"{scores.model} gives {len(bad)} of {len(variants)} variants no finite score",
            where=f"variant {first + 1}, {variants[first].name[:60]!r}",
            why=f"its score is {scores.values[first]} ({scores.method})",
            hint="damaged weights, or a half-precision overflow: check the weights, and score in float32",
        )
