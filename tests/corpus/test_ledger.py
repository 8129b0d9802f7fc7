from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.alphabet import CLS, EOS
from plm_scaling.core.errors import CorpusError, PlanError
from plm_scaling.core.run import LedgerRow, RunConfig, Stream
from plm_scaling.corpus.batches import Batches
from plm_scaling.corpus.ledger import _Cover, ledger
from plm_scaling.corpus.reader import Corpus

Configure = Callable[..., RunConfig]
Phases = Sequence[tuple[RunConfig, int]]

STREAMS = {
    "all": (Stream(),),
    "copies": (Stream(duplicates=True),),
    "few": (Stream(unique_tokens=400),),
    "few_copies": (Stream(unique_tokens=600, duplicates=True),),
    "two": (Stream(sources=("alpha",), unique_tokens=500), Stream(sources=("beta",), weight=2.5)),
    "overlapping": (Stream(duplicates=True), Stream(sources=("beta",), duplicates=True), Stream(start_tokens=900)),
}


def visited(corpus: Corpus, config: RunConfig, step: int) -> list[tuple[int, int, int, int, bool]]:
    """(stream, row, residue, address, is_residue) of every training token, one by one, in the order of training."""
    run = Batches(corpus, config)
    out = []
    for k in range(step):
        batch = run.at(k)
        stream = run.order.batch(k)[0]
        for b in range(len(stream)):
            for t in range(config.context):
                row, residue, token = int(batch.row[b, t]), int(batch.residue[b, t]), int(batch.tokens[b, t])
                if row >= 0 and token != CLS:
                    out.append((int(stream[b]), row, residue, int(corpus.offset[row]) + residue, token != EOS))
    return out


def replay(corpus: Corpus, phases: Phases) -> dict[str, dict[str, int]]:
    """The ledger by brute force, with a set of tokens per phase."""
    earlier: dict[str, set[int]] = {"clm": set(), "mlm": set()}
    for config, step in phases[:-1]:
        earlier[config.objective] |= {token[3] for token in visited(corpus, config, step)}
    by_record: set[tuple[int, int, int]] = set()
    by_address: set[int] = set()
    rows: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for stream, row, residue, address, is_residue in visited(corpus, *phases[-1]):
        for name in (corpus.manifest.sources[corpus.source[row]].name, "*"):
            count = rows[name]
            count["tokens"] += 1
            count["residues"] += is_residue
            if address not in by_address:
                old = [objective for objective in earlier if address in earlier[objective]]
                count["seen_earlier" if old else "unique"] += 1
                for objective in old:
                    count[f"seen_earlier_{objective}"] += 1
            elif (stream, row, residue) in by_record:
                count["repeated_epoch"] += 1
            else:
                count["repeated_duplicate"] += 1
        by_record.add((stream, row, residue))
        by_address.add(address)
    return rows


def as_dict(rows: Sequence[LedgerRow]) -> dict[str, dict[str, int]]:
    dumped = [row.model_dump() for row in rows]
    return {row.pop("source"): {k: v for k, v in row.items() if v} for row in dumped}


def check(corpus: Corpus, phases: Phases) -> dict[str, dict[str, int]]:
    rows = ledger(corpus, phases)
    found = as_dict(rows)
    expected = {name: {k: v for k, v in row.items() if v} for name, row in replay(corpus, phases).items()}
    assert found == expected | {"*": found["*"]}
    assert found["*"] == expected.get("*", {})
    for row in rows:
        assert row.tokens == row.unique + row.repeated_epoch + row.repeated_duplicate + row.seen_earlier
        assert max(row.seen_earlier_clm, row.seen_earlier_mlm) <= row.seen_earlier
    assert found["*"].get("tokens", 0) == Batches(corpus, phases[-1][0]).tokens_at(phases[-1][1])
    return found


@pytest.mark.parametrize("name", STREAMS)
def test_equals_replay_at_every_step(small: Corpus, configure: Configure, name: str) -> None:
    config = configure(small, streams=STREAMS[name], batch_tokens=32 * 13, seed=4)
    total = {}
    for step in (0, 1, 2, 5, 9, 16, 25):
        total = check(small, [(config, step)])["*"]
    assert total["unique"] > 0
    if "few" in name:
        assert total["repeated_epoch"] > total["unique"]
    if "copies" in name or name == "overlapping":
        assert total["repeated_duplicate"] > 0


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_lineages_equal_replay(small: Corpus, configure: Configure, data: st.DataObject) -> None:
    phases = []
    for _ in range(data.draw(st.integers(1, 3))):
        context = data.draw(st.sampled_from([8, 17, 32, 50]))
        config = configure(
            small,
            objective=data.draw(st.sampled_from(["clm", "mlm"])),
            context=context,
            batch_tokens=context * data.draw(st.integers(1, 9)),
            streams=STREAMS[data.draw(st.sampled_from(sorted(STREAMS)))],
            seed=data.draw(st.integers(0, 3)),
        )
        phases.append((config, data.draw(st.integers(0, 12))))
    check(small, phases)


def test_lineage_with_another_context_and_partial_epochs(small: Corpus, configure: Configure) -> None:
    first = configure(small, context=40, batch_tokens=400)
    second = configure(small, objective="mlm", context=17, batch_tokens=170, seed=1)
    third = configure(small, objective="mlm", batch_tokens=320, streams=STREAMS["copies"])
    total = check(small, [(first, 4), (second, 6), (third, 11)])["*"]
    assert 0 < total["seen_earlier_clm"] < total["seen_earlier"]
    assert total["seen_earlier_clm"] + total["seen_earlier_mlm"] > total["seen_earlier"]


def test_disjoint_ranges_share_nothing(small: Corpus, configure: Configure) -> None:
    source = configure(small, streams=(Stream(unique_tokens=1500),))
    target = configure(small, streams=(Stream(start_tokens=1500),), context=16, objective="mlm")
    shared = configure(small, streams=(Stream(),), context=16, objective="mlm")
    assert ledger(small, [(source, 100), (target, 50)])[-1].seen_earlier == 0
    assert ledger(small, [(source, 100), (shared, 50)])[-1].seen_earlier > 0


def test_unlimited_run_sees_each_token_once_per_epoch(small: Corpus, configure: Configure) -> None:
    config = configure(small, batch_tokens=32)
    n = Batches(small, config).windows[0].n_windows
    total = ledger(small, [(config, 3 * n)])[-1]
    assert total.unique == small.manifest.splits[0].tokens
    assert total.tokens == 3 * total.unique
    assert total.repeated_epoch == 2 * total.unique


def test_does_not_replay(small: Corpus, configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Batches, "at", lambda *_: pytest.fail("replayed"))
    config = configure(small)
    assert ledger(small, [(config, 10**6)])[-1].tokens == Batches(small, config).tokens_at(10**6)


def test_refusals(small: Corpus, configure: Configure) -> None:
    with pytest.raises(PlanError, match="at least one run"):
        ledger(small, [])
    with pytest.raises(PlanError, match="not negative"):
        ledger(small, [(configure(small), -1)])
    with pytest.raises(CorpusError, match="another corpus"):
        ledger(small, [(configure(small, corpus_id="1" * 64), 1), (configure(small), 1)])


spans = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 15)), max_size=12)


@settings(deadline=None, max_examples=100)
@given(covered=spans, asked=spans)
def test_cover_counts_addresses(covered: list[tuple[int, int]], asked: list[tuple[int, int]]) -> None:
    def columns(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    union = {x for begin, size in covered for x in range(begin, begin + size)}
    found = _Cover.of(*columns(covered)).overlap(*columns(asked))
    assert found.tolist() == [len(union & set(range(begin, begin + size))) for begin, size in asked]
