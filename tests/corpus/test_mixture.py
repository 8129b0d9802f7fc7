from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made import clustered_corpus, make_corpus, random_sequences

from plm_scaling.core.errors import PlanError
from plm_scaling.core.run import RunConfig, Stream
from plm_scaling.corpus.batches import Batches
from plm_scaling.corpus.mixture import canonical_sources, mixture, token_shares
from plm_scaling.corpus.packing import window_stats
from plm_scaling.corpus.reader import Corpus

NAMES = ("UniRef50", "UniRef90", "MGnify", "OMG")
PUBLISHED = {"UniRef50": 8.5, "UniRef90": 19.5, "MGnify": 19.5, "OMG": 52.5}
CONTEXT = 64


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Four sources of unlike sizes and lengths, a held-out one, and one that holds copies alone."""
    rng = np.random.default_rng(0)
    groups = [random_sequences(rng, n, mean) for n, mean in ((120, 8), (60, 30), (90, 15), (40, 80), (10, 30))]
    groups.append(groups[0][:20])
    flat = [sequence for group in groups for sequence in group]
    held_out = set(groups[4])
    return make_corpus(
        tmp_path_factory.mktemp("mixture") / "c",
        flat,
        source=[number for number, group in enumerate(groups) for _ in group],
        split=["heldout_far" if sequence in held_out else "train" for sequence in flat],
        flags=[("fragment",) if len(sequence) % 4 == 0 else () for sequence in flat],
        names=[*NAMES, "heldout_far", "copies"],
    )


def realised(corpus: Corpus, config: RunConfig, steps: int) -> np.ndarray:
    """Tokens by source, counted off the batches."""
    run = Batches(corpus, config)
    counts = np.zeros(len(corpus.manifest.sources), dtype=np.int64)
    for step in range(steps):
        batch = run.at(step)
        counts += np.bincount(corpus.source[batch.row[batch.residue >= 0]], minlength=len(counts))
    return counts


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shares=st.lists(st.floats(0.05, 10), min_size=4, max_size=4), batch=st.integers(1, 9))
def test_token_shares_come_out_within_a_window_per_source(
    corpus: Corpus, configure: Callable[..., RunConfig], shares: list[float], batch: int
) -> None:
    """At the end of an epoch of a stream its tokens are exact; in between, windows differ by their filling."""
    wanted = dict(zip(NAMES, shares, strict=True))
    streams = mixture(corpus, wanted, context=CONTEXT)
    assert [stream.sources for stream in streams] == [(name,) for name in NAMES]
    assert sum(stream.weight for stream in streams) == pytest.approx(1, abs=1e-9)
    run = Batches(corpus, configure(corpus, streams=streams, context=CONTEXT, batch_tokens=batch * CONTEXT))
    draws = run.order.draws(500)
    per_window = np.array([run.pass_stats(number, 0).tokens_per_window for number in range(4)])
    tokens = np.array(draws) * per_window
    exact = np.array(shares) / sum(shares)
    # Each stream is within one window per stream of its exact number of windows.
    windows = exact / per_window / (exact / per_window).sum() * sum(draws)
    assert np.abs(np.array(draws) - windows).max() <= len(streams)
    assert np.abs(tokens / tokens.sum() - exact).max() <= 2 * len(streams) * CONTEXT / tokens.sum()
    assert token_shares(corpus, streams, CONTEXT) == pytest.approx(exact.tolist(), rel=1e-9)


def test_a_published_mixture_read_off_the_batches(corpus: Corpus, configure: Callable[..., RunConfig]) -> None:
    streams = mixture(corpus, PUBLISHED, context=CONTEXT)
    config = configure(corpus, streams=streams, context=CONTEXT, batch_tokens=16 * CONTEXT)
    counts = realised(corpus, config, 400)
    assert (counts[:4] / counts.sum() * 100).tolist() == pytest.approx(list(PUBLISHED.values()), rel=0.01)
    assert counts[4:].tolist() == [0, 0]
    # Weights taken as shares of the windows would be off by the tokens per window: that is why they are corrected.
    naive = [Stream(sources=(name,), weight=share) for name, share in PUBLISHED.items()]
    assert token_shares(corpus, naive, CONTEXT) != pytest.approx([0.085, 0.195, 0.195, 0.525], rel=0.01)


def test_tokens_gives_equal_epochs(corpus: Corpus, configure: Callable[..., RunConfig]) -> None:
    streams = mixture(corpus, "tokens", context=CONTEXT)
    assert [stream.sources for stream in streams] == [(name,) for name in NAMES]  # not held out, not copies alone
    unique = [corpus.pool_tokens(stream) for stream in streams]
    shares = [tokens / sum(unique) for tokens in unique]
    assert token_shares(corpus, streams, CONTEXT) == pytest.approx(shares, rel=1e-9)
    run = Batches(corpus, configure(corpus, streams=streams, context=CONTEXT, batch_tokens=8 * CONTEXT))
    epochs = [run.order.passes[s].locate(draws)[0] for s, draws in enumerate(run.order.draws(300))]
    passes = [draws / run.order.passes[s].size(0) for s, draws in enumerate(run.order.draws(300))]
    assert max(passes) - min(passes) < 0.2
    assert min(epochs) > 10


def test_natural_is_one_pool(corpus: Corpus) -> None:
    assert mixture(corpus, context=CONTEXT) == (Stream(),)
    assert mixture(corpus, "natural", ("OMG", "UniRef50"), context=CONTEXT) == (Stream(sources=("UniRef50", "OMG")),)


def test_the_same_choice_in_another_order_is_the_same(corpus: Corpus) -> None:
    backwards = dict(reversed(PUBLISHED.items()))
    percent = {name: share / 100 for name, share in PUBLISHED.items()}
    assert mixture(corpus, PUBLISHED, context=CONTEXT) == mixture(corpus, backwards, context=CONTEXT)
    assert mixture(corpus, PUBLISHED, context=CONTEXT) == mixture(corpus, percent, context=CONTEXT)
    for weights in ("natural", "tokens"):
        orders = (("OMG", "MGnify"), ("viral", "fragment")), (("MGnify", "OMG"), ("fragment", "viral"))
        some = [mixture(corpus, weights, names, context=CONTEXT, exclude=flags) for names, flags in orders]
        assert some[0] == some[1]
    assert canonical_sources(corpus, (*NAMES[::-1], "copies")) == ()
    assert canonical_sources(corpus, ("MGnify", "UniRef90")) == ("UniRef90", "MGnify")


def test_a_single_source_is_no_mixture(tmp_path: Path) -> None:
    corpus = clustered_corpus(tmp_path / "c", clusters=5)
    for weights in ("natural", "tokens", {"s0": 3.0}):
        assert mixture(corpus, weights, context=CONTEXT) == (Stream(),)  # type: ignore[arg-type]
    by_cluster = mixture(corpus, "tokens", context=CONTEXT, sampling="cluster50")
    assert by_cluster == (Stream(sampling="cluster50"),)


def test_limits_and_filters_reach_the_streams(corpus: Corpus) -> None:
    limits = {"MGnify": 300, "OMG": 500}
    streams = mixture(corpus, PUBLISHED, context=CONTEXT, exclude=("fragment",), limits=limits)
    assert [stream.unique_tokens for stream in streams] == [None, None, 300, 500]
    assert {stream.exclude for stream in streams} == {("fragment",)}
    assert token_shares(corpus, streams, CONTEXT) == pytest.approx([0.085, 0.195, 0.195, 0.525], rel=1e-9)
    whole = mixture(corpus, PUBLISHED, context=CONTEXT, exclude=("fragment",))
    for short, long in zip(streams, whole, strict=True):
        rows = corpus.pool(short).tolist()
        assert rows == corpus.pool(long)[: len(rows)].tolist()


def test_cluster_sampling_in_a_mixture(tmp_path: Path, configure: Callable[..., RunConfig]) -> None:
    corpus = clustered_corpus(tmp_path / "c", clusters=60, sources=2)
    streams = mixture(corpus, {"s0": 1, "s1": 3}, context=32, sampling="cluster50")
    counts = realised(corpus, configure(corpus, streams=streams, batch_tokens=8 * 32), 150)
    assert (counts / counts.sum()).tolist() == pytest.approx([0.25, 0.75], abs=0.01)
    tokens = mixture(corpus, "tokens", context=32, sampling="cluster50")
    windows = [window_stats(corpus, stream, 32).n_windows for stream in tokens]
    assert tokens[0].weight / tokens[1].weight == pytest.approx(windows[0] / windows[1])


@pytest.mark.parametrize(
    ("weights", "sources", "message"),
    [
        ("token", (), "no mixture 'token'"),
        ({}, (), "names no source"),
        ({"UniRef5": 1.0}, (), "no source 'UniRef5'"),
        ({"UniRef50": 0.0, "OMG": 1.0}, (), "share of 'UniRef50' is 0"),
        ({"UniRef50": float("nan")}, (), "share of 'UniRef50' is nan"),
        ({"UniRef50": 1.0}, ("OMG",), "name different ones"),
        ({"UniRef50": 1.0, "copies": 1.0}, (), "holds 0 tokens"),
    ],
)
def test_refusals(corpus: Corpus, weights: object, sources: tuple[str, ...], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        mixture(corpus, weights, sources, context=CONTEXT)  # type: ignore[arg-type]


def test_limits_need_sources(corpus: Corpus) -> None:
    with pytest.raises(PlanError, match="one pool of all sources"):
        mixture(corpus, "natural", context=CONTEXT, limits={"OMG": 100})
    with pytest.raises(PlanError, match="no source 'OMGG'"):
        mixture(corpus, "tokens", context=CONTEXT, limits={"OMGG": 100})
