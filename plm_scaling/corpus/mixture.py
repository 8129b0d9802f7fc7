"""Which share of the training tokens comes from which source: the streams of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal

from plm_scaling.core.errors import PlanError, did_you_mean
from plm_scaling.core.run import Sampling, Stream
from plm_scaling.corpus.format import HELD_OUT_PREFIX, TRAIN
from plm_scaling.corpus.packing import window_stats
from plm_scaling.corpus.reader import Corpus

__all__ = ["MIXTURES", "canonical_sources", "mixture", "token_shares", "trained_on"]

MIXTURES: Final = ("natural", "tokens")
_NO_LIMITS: Final[Mapping[str, int]] = MappingProxyType({})
_DIGITS: Final = 12
"""Weights are part of a run's id: enough digits for any share, none that another way to divide would change."""


def mixture(
    corpus: Corpus,
    weights: Literal["natural", "tokens"] | Mapping[str, float] = "natural",
    sources: Sequence[str] = (),
    *,
    context: int,
    sampling: Sampling = "flat",
    exclude: Sequence[str] = (),
    limits: Mapping[str, int] = _NO_LIMITS,
) -> tuple[Stream, ...]:
    """The streams of a mixture of sources. The same choice in another order gives the same streams.

    natural: one pool of all sources; each sequence comes once per epoch, whatever its source.
    tokens: a stream per source at the share of the tokens it has, so that all sources end their epochs together.
    Numbers by source: shares of the *tokens* drawn, relative to each other. A source smaller than its share is
    repeated more often than the others.

    A stream's weight is a share of the windows; sources of long sequences hold more tokens in a window (fewer
    `<cls>`), so the weights are corrected by the tokens per window of each.

    Parameters
    ----------
    weights : natural, tokens, or the token share of each source, above 0.
    sources : names of the sources mixed; empty means all that are trained on. Shares by source name them already.
    context : positions of a window, which the tokens per window depend on.
    sampling, exclude : of every stream (`Stream`). With cluster sampling, a source's tokens are those of one epoch.
    limits : at most so many unique tokens of a source, by name; natural has no sources to limit.

    Returns
    -------
    streams : in the corpus' order; weights sum to 1 unless there is one stream alone, which has weight 1.

    Raises
    ------
    PlanError : an unknown source, flag or mixture, a share that is not a positive number, or an empty pool.
    CorpusError : cluster sampling from a corpus without clusters.
    """
    corpus.source_ids(tuple(limits))
    if isinstance(weights, str):
        if weights not in MIXTURES:
            raise PlanError(
                f"there is no mixture {weights!r}",
                where="mixture",
                hint=f"{did_you_mean(weights, MIXTURES)}; or give a share per source",
            )
        names = canonical_sources(corpus, sources)
        if weights == "natural":
            if limits:
                raise PlanError(
                    "the natural mixture is one pool of all sources", where="limits", hint='use "tokens", or shares'
                )
            return (_stream(names, sampling, exclude),)
        # A source that holds copies alone has no tokens of its own, and so no share.
        names = tuple(name for name in names or trained_on(corpus) if len(corpus.rows(TRAIN, (name,), exclude=exclude)))
    else:
        names = _checked(corpus, weights, sources)
    if len(names) == 1:
        # A corpus of one source has no mixture: its only stream is that of all sources.
        return (_stream(canonical_sources(corpus, names), sampling, exclude, limits.get(names[0])),)
    streams = [_stream((name,), sampling, exclude, limits.get(name)) for name in names]
    stats = [window_stats(corpus, stream, context) for stream in streams]
    if isinstance(weights, str):
        windows = [float(s.n_windows) for s in stats]
    else:
        windows = [weights[name] / s.tokens_per_window for name, s in zip(names, stats, strict=True)]
    total = math.fsum(windows)
    return tuple(
        stream.model_copy(update={"weight": float(f"{share / total:.{_DIGITS}g}")})
        for stream, share in zip(streams, windows, strict=True)
    )


def _stream(sources: Sequence[str], sampling: Sampling, exclude: Sequence[str], limit: int | None = None) -> Stream:
    return Stream(sources=tuple(sources), sampling=sampling, exclude=tuple(exclude), unique_tokens=limit)


def token_shares(corpus: Corpus, streams: Sequence[Stream], context: int) -> tuple[float, ...]:
    """The share of the training tokens that each stream of a run gives, summing to 1."""
    tokens = [stream.weight * window_stats(corpus, stream, context).tokens_per_window for stream in streams]
    return tuple(part / math.fsum(tokens) for part in tokens)


def trained_on(corpus: Corpus) -> tuple[str, ...]:
    """Names of the sources that are not held-out sets, in the corpus' order."""
    names = (source.name for source in corpus.manifest.sources)
    return tuple(name for name in names if not name.startswith(HELD_OUT_PREFIX))


def canonical_sources(corpus: Corpus, sources: Sequence[str]) -> tuple[str, ...]:
    """Sources in the corpus' order, so that the same choice gives the same run; all of them give ().

    Raises
    ------
    PlanError : the corpus has no source of that name.
    """
    if not sources:
        return ()
    chosen = set(corpus.source_ids(sources))
    names = [source.name for source in corpus.manifest.sources]
    return () if set(trained_on(corpus)) <= {names[i] for i in chosen} else tuple(names[i] for i in sorted(chosen))


def _checked(corpus: Corpus, weights: Mapping[str, float], sources: Sequence[str]) -> tuple[str, ...]:
    """The sources with a share, in the corpus' order."""
    if not weights:
        raise PlanError("the mixture names no source", where="mixture", hint='give a share per source, or "natural"')
    corpus.source_ids(tuple(weights))
    if sources and set(sources) != set(weights):
        raise PlanError(
            "the mixture and the sources name different ones",
            where="mixture",
            why=f"shares of {', '.join(sorted(weights))}; sources {', '.join(sorted(sources))}",
            hint="leave out the sources: the shares name them",
        )
    for name, share in weights.items():
        if not (math.isfinite(share) and share > 0):
            raise PlanError(
                f"the share of {name!r} is {share:g}, not a positive number",
                where="mixture",
                hint="leave out a source that is not drawn from",
            )
    return tuple(source.name for source in corpus.manifest.sources if source.name in weights)
