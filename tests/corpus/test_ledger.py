from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import clustered_corpus

from plm_scaling.core.alphabet import CLS, EOS
from plm_scaling.core.errors import CorpusError, PlanError
from plm_scaling.core.run import LedgerRow, RunConfig, Stream
from plm_scaling.corpus import ledger as ledger_module
from plm_scaling.corpus import ledger_count, ledger_table
from plm_scaling.corpus.batches import Batch, Batches
from plm_scaling.corpus.ledger import ledger, open_ledger
from plm_scaling.corpus.reader import Corpus

Configure = Callable[..., RunConfig]
Phases = Sequence[tuple[RunConfig, int]]
Counts = dict[str, dict[str, int]]

STREAMS = {
    "all": (Stream(),),
    "copies": (Stream(duplicates=True),),
    "few": (Stream(unique_tokens=400),),
    "few_copies": (Stream(unique_tokens=600, duplicates=True),),
    "two": (Stream(sources=("alpha",), unique_tokens=500), Stream(sources=("beta",), weight=2.5)),
    "overlapping": (Stream(duplicates=True), Stream(sources=("beta",), duplicates=True), Stream(start_tokens=900)),
}
CLUSTERED = {
    "flat": (Stream(),),
    "copies": (Stream(duplicates=True),),
    "sampled": (Stream(sampling="cluster50"),),
    "sampled_few": (Stream(sampling="cluster50", unique_tokens=1200),),
    "two_sampled": (Stream(sampling="cluster50", sources=("s0",)), Stream(sampling="cluster50", weight=2.0)),
    "sampled_and_flat": (Stream(sampling="cluster50", unique_tokens=700), Stream(sources=("s1",), weight=1.5)),
    "copies_and_sampled": (Stream(duplicates=True, unique_tokens=600), Stream(sampling="cluster50")),
}


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Clusters of 1 to 6 sequences at 50 and 90 % identity, exact copies, two sources."""
    return clustered_corpus(tmp_path_factory.mktemp("clustered") / "c", seed=3, clusters=25, copies=20, sources=2)


# ---- the oracle: batches read one by one, token by token -----------------------------------------------------------


def whole_batch(run: Batches, step: int, world: int) -> Iterator[tuple[Batch, int]]:
    """The windows of a global batch in its order, put together from the ranks of a world."""
    world = min(world, run.config.windows_per_batch)
    ranks = [run.at(step, rank, world) for rank in range(world)]
    for number in range(run.config.windows_per_batch):
        yield ranks[number % world], number // world


def visited(corpus: Corpus, config: RunConfig, step: int, world: int = 1) -> Iterator[list[tuple[int, int, int, bool]]]:
    """Per batch before `step`, (stream, row, residue, is_residue) of every training token in the order of training."""
    run = Batches(corpus, config)
    for k in range(step):
        out = []
        for stream, (batch, b) in zip(run.order.batch(k)[0].tolist(), whole_batch(run, k, world), strict=True):
            for row, residue, token in zip(batch.row[b], batch.residue[b], batch.tokens[b], strict=True):
                if row >= 0 and token != CLS:
                    out.append((stream, int(row), int(residue), bool(token != EOS)))
        yield out


class Replay:
    """The ledger by brute force: sets of tokens, and of the sequences met of every cluster."""

    def __init__(self, corpus: Corpus, earlier: Phases) -> None:
        self.corpus = corpus
        self.names = [corpus.manifest.sources[s].name for s in corpus.source.tolist()]
        self.offset = corpus.offset.tolist()
        has = corpus.manifest.clusters is not None
        self.clusters = {f"mates_{p}": corpus.cluster(p).tolist() for p in (50, 90)} if has else {}
        self.met: dict[tuple[str, int], set[int]] = defaultdict(set)
        self.earlier: dict[str, set[int]] = {"clm": set(), "mlm": set()}
        for config, step in earlier:
            for batch in visited(corpus, config, step):
                self.earlier[config.objective] |= {self.offset[row] + residue for _, row, residue, _ in batch}
        self.by_record: set[tuple[int, int, int]] = set()
        self.by_address: set[int] = set()
        self.counts: Counts = defaultdict(lambda: defaultdict(int))
        self.first: dict[str, int] = {}

    def take(self, batch: list[tuple[int, int, int, bool]]) -> None:
        for stream, row, residue, is_residue in batch:
            offset = self.offset[row]
            causes = self.causes(stream, row, residue, offset)
            for cause in causes:
                self.first.setdefault(cause, self.counts["*"]["tokens"])
            for name in (self.names[row], "*"):
                self.counts[name]["tokens"] += 1
                self.counts[name]["residues"] += is_residue
                for cause in causes:
                    self.counts[name][cause] += 1
            self.by_record.add((stream, row, residue))
            self.by_address.add(offset + residue)
            for mates, cluster in self.clusters.items():
                self.met[mates, cluster[row]].add(offset)

    def causes(self, stream: int, row: int, residue: int, offset: int) -> list[str]:
        if offset + residue in self.by_address:
            return ["repeated_epoch" if (stream, row, residue) in self.by_record else "repeated_duplicate"]
        old = [f"seen_earlier_{objective}" for objective, seen in self.earlier.items() if offset + residue in seen]
        if old:
            return ["seen_earlier", *old]
        mates = [mates for mates, cluster in self.clusters.items() if self.met[mates, cluster[row]] - {offset}]
        return ["unique", *mates]


def as_dict(rows: Sequence[LedgerRow]) -> Counts:
    dumped = [row.model_dump() for row in rows]
    return {row.pop("source"): {k: v for k, v in row.items() if v} for row in dumped}


def plain(counts: Counts) -> Counts:
    return {name: {k: v for k, v in row.items() if v} for name, row in counts.items() if row["tokens"]}


def check(corpus: Corpus, phases: Phases, world: int = 1) -> dict[str, int]:
    """The ledger at every step of the last phase against the replay; what it says of all sources at the end."""
    config, steps = phases[-1]
    found = open_ledger(corpus, phases)
    replay = Replay(corpus, phases[:-1])
    batches = visited(corpus, config, steps, world)
    for step in range(steps + 1):
        rows = found.rows(step)
        assert as_dict(rows) == plain(replay.counts) | {"*": as_dict(rows)["*"]}
        assert as_dict(rows)["*"] == plain(replay.counts).get("*", {})
        assert found.tokens(step) == replay.counts["*"]["tokens"]
        for row in rows:
            assert row.tokens == row.unique + row.repeated_epoch + row.repeated_duplicate + row.seen_earlier
            assert max(row.seen_earlier_clm, row.seen_earlier_mlm) <= row.seen_earlier
            assert 0 <= row.mates_90 <= row.mates_50 <= row.unique
        replay.take(next(batches, []))
    end = found.tokens(steps)
    seen = {cause: first for cause, first in found.first_tokens.items() if first < end}
    assert seen == {cause: replay.first[cause] for cause in ledger_count.CAUSES if cause in replay.first}
    return as_dict(found.rows(steps))["*"]


@pytest.mark.parametrize("name", STREAMS)
def test_equals_replay_at_every_step(small: Corpus, configure: Configure, name: str) -> None:
    total = check(small, [(configure(small, streams=STREAMS[name], batch_tokens=32 * 13, seed=4), 25)])
    assert total["unique"] > 0
    if "few" in name:
        assert total["repeated_epoch"] > total["unique"]
    if "copies" in name or name == "overlapping":
        assert total["repeated_duplicate"] > 0


@pytest.mark.parametrize("name", CLUSTERED)
@pytest.mark.parametrize("world", [1, 3])
def test_clusters_and_samples_of_them_equal_replay(
    clustered: Corpus, configure: Configure, name: str, world: int
) -> None:
    config = configure(clustered, streams=CLUSTERED[name], context=24, batch_tokens=24 * 11, seed=2)
    total = check(clustered, [(config, 24)], world)
    assert total["unique"] > total["mates_50"] > total["mates_90"] > 0
    assert total["repeated_epoch"] > 0
    assert (total.get("repeated_duplicate", 0) > 0) == (name not in ("flat", "sampled", "sampled_few"))


@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_lineages_equal_replay(small: Corpus, clustered: Corpus, configure: Configure, data: st.DataObject) -> None:
    corpus, choice = data.draw(st.sampled_from([(small, STREAMS), (clustered, CLUSTERED)]))
    phases = []
    for _ in range(data.draw(st.integers(1, 3))):
        context = data.draw(st.sampled_from([8, 17, 32, 50]))
        config = configure(
            corpus,
            objective=data.draw(st.sampled_from(["clm", "mlm"])),
            context=context,
            batch_tokens=context * data.draw(st.integers(1, 9)),
            streams=choice[data.draw(st.sampled_from(sorted(choice)))],
            seed=data.draw(st.integers(0, 3)),
        )
        phases.append((config, data.draw(st.integers(0, 10))))
    check(corpus, phases, world=data.draw(st.integers(1, 3)))


def test_lineage_with_another_context_and_partial_epochs(small: Corpus, configure: Configure) -> None:
    first = configure(small, context=40, batch_tokens=400)
    second = configure(small, objective="mlm", context=17, batch_tokens=170, seed=1)
    third = configure(small, objective="mlm", batch_tokens=320, streams=STREAMS["copies"])
    total = check(small, [(first, 4), (second, 6), (third, 11)])
    assert 0 < total["seen_earlier_clm"] < total["seen_earlier"]
    assert total["seen_earlier_clm"] + total["seen_earlier_mlm"] > total["seen_earlier"]


def test_first_mate_within_a_piece_that_an_earlier_run_saw_in_part(clustered: Corpus, configure: Configure) -> None:
    old = configure(clustered, context=8, batch_tokens=48, seed=1)
    new = configure(clustered, objective="mlm", context=50, batch_tokens=100, seed=2)
    check(clustered, [(old, 4), (new, 12)])
    assert open_ledger(clustered, [(old, 4), (new, 12)]).first_tokens["mates_90"] == 408  # 401 before its piece


def test_the_size_of_the_chunks_does_not_matter(
    clustered: Corpus, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(clustered, streams=CLUSTERED["copies_and_sampled"], batch_tokens=64, seed=8)
    batches = Batches(clustered, config)
    tables = []
    for windows in (1, 7, 1 << 16):
        counter = ledger_module._counter(batches, [(config.model_copy(update={"seed": 1}), 5)])
        counter.chunk_windows = windows
        tables.append((np.concatenate(list(counter.count(60))), counter.first_tokens, counter.pieces))
    for table, first, pieces in tables[1:]:
        np.testing.assert_array_equal(table, tables[0][0])
        assert (first, pieces) == tables[0][1:]


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
    assert open_ledger(small, [(config, 3 * n)]).first_tokens == {"repeated_epoch": total.unique}


def test_an_epoch_of_samples_has_no_mates_and_the_next_ones_have(clustered: Corpus, configure: Configure) -> None:
    config = configure(clustered, streams=CLUSTERED["sampled"], batch_tokens=32)
    first_epoch = Batches(clustered, config).order.passes[0].size(0)
    assert ledger(clustered, [(config, first_epoch)])[-1].mates_50 == 0
    assert ledger(clustered, [(config, 2 * first_epoch)])[-1].mates_50 > 0


def test_reads_no_batches(small: Corpus, configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Batches, "at", lambda *_: pytest.fail("replayed"))
    config = configure(small)
    assert ledger(small, [(config, 20_000)])[-1].tokens == Batches(small, config).tokens_at(20_000)


def test_the_step_that_reaches_so_many_tokens(
    small: Corpus, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_table, "_BLOCK", 8)  # several blocks, and a last one that is not full
    found = open_ledger(small, [(configure(small, seed=77), 61)])
    tokens = [found.tokens(step) for step in range(found.steps + 1)]
    for wanted in (0, 1, *(t + d for t in tokens for d in (-1, 0, 1) if 0 <= t + d <= tokens[-1])):
        assert found.step_at(wanted) == next(step for step, t in enumerate(tokens) if t >= wanted)
    with pytest.raises(PlanError, match="never reached"):
        found.step_at(tokens[-1] + 1)


def test_refusals(small: Corpus, configure: Configure) -> None:
    config = configure(small)
    with pytest.raises(PlanError, match="at least one run"):
        ledger(small, [])
    with pytest.raises(PlanError, match="not negative"):
        ledger(small, [(config, -1)])
    with pytest.raises(CorpusError, match="another corpus"):
        ledger(small, [(configure(small, corpus_id="1" * 64), 1), (config, 1)])
    found = open_ledger(small, [(config, 1)])
    for step in (-1, found.steps + 1):
        with pytest.raises(PlanError, match="no step"):
            found.rows(step)


# ---- the table on disk ---------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Corpus:
    return clustered_corpus(tmp_path / "own", clusters=8)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps of every table that is counted."""
    counted: list[int] = []

    def note(folder: Path, counter: Any, steps: int, sources: tuple[int, ...]) -> Any:
        counted.append(steps)
        return ledger_table.write_table(folder, counter, steps, sources)

    monkeypatch.setattr(ledger_module, "write_table", note)
    return counted


def tables(corpus: Corpus) -> list[Path]:
    return sorted((corpus.path / "windows").glob("ledger-*/*.npy"))


def test_counted_once_for_all_runs_in_the_same_order(own: Corpus, configure: Configure, builds: list[int]) -> None:
    config = configure(own, D=4_000)
    steps = Batches(own, config).n_steps
    rows = ledger(own, [(config, 3)])
    for same in ({"D": 2_000}, {"n_layers": 2}, {"objective": "mlm"}, {"peak_lr": 1e-4}):
        assert ledger(own, [(config.model_copy(update=same), 3)]) == rows
    assert ledger(Corpus.open(own.path), [(config, 3)]) == rows
    assert builds == [steps]
    others: list[dict[str, Any]] = [{"seed": 5}, {"batch_tokens": 64}, {"streams": (Stream(unique_tokens=300),)}]
    for i, other in enumerate(others):
        ledger(own, [(config.model_copy(update=other), 3)])
        assert len(builds) == i + 2


def test_a_longer_run_replaces_the_table_of_a_shorter_one(own: Corpus, configure: Configure, builds: list[int]) -> None:
    short, long = configure(own, D=2_000), configure(own, D=8_000)
    rows = ledger(own, [(short, 3)])
    before = tables(own)
    assert ledger(own, [(short, builds[0] + 40)])[-1].tokens > 0
    assert ledger(own, [(long, 0)])[-1].tokens == 0
    assert len(builds) == 2  # the second holds what the third asks for
    assert len(tables(own)) == len(before)
    assert ledger(own, [(short, 3)]) == rows
    assert len(builds) == 2


def test_an_earlier_phase_without_steps_changes_nothing(own: Corpus, configure: Configure, builds: list[int]) -> None:
    config, old = configure(own), configure(own, objective="mlm")
    assert ledger(own, [(old, 0), (config, 4)]) == ledger(own, [(config, 4)])
    assert ledger(own, [(old, 1), (config, 4)]) != ledger(own, [(config, 4)])
    assert ledger(own, [(old, 2), (config, 4)]) != ledger(own, [(old, 1), (config, 4)])
    assert len(builds) == 3


@pytest.mark.parametrize("name", ["*.table.npy", "*.sums.npy", "*.json"])
@pytest.mark.parametrize("damage", ["gone", "cut", "of_another_size"])
def test_a_damaged_table_is_counted_again(
    own: Corpus, configure: Configure, builds: list[int], name: str, damage: str
) -> None:
    phases = [(configure(own), 5)]
    rows = ledger(own, phases)
    (path,) = (own.path / "windows").glob(f"ledger-*/{name}")
    if damage == "gone":
        path.unlink()
    elif damage == "cut" or path.suffix == ".json":
        path.write_bytes(path.read_bytes()[:-3])
    else:
        np.save(path, np.load(path)[1:])
    assert ledger(own, phases) == rows
    assert len(builds) == 2


def test_an_interrupted_count_leaves_nothing_that_is_believed(
    own: Corpus, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    phases = [(configure(own), 5)]
    with monkeypatch.context() as patch:
        patch.setattr(ledger_table.TableCard, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            ledger(own, phases)
    assert ledger_table.cached_table(own.path, ledger_module._key(own, phases), 0) is None
    assert ledger(own, phases)[-1].tokens > 0


def test_several_at_once_count_once(own: Corpus, configure: Configure, builds: list[int]) -> None:
    phases = [(configure(own), 5)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ledger(Corpus.open(own.path), phases), range(4)))
    assert all(answer == answers[0] for answer in answers)
    assert len(builds) == 1


def test_where_the_corpus_cannot_be_written(
    own: Corpus, configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, builds: list[int]
) -> None:
    (own.path / "windows").write_text("a file where the folder would be")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    phases = [(configure(own), 5)]
    assert ledger(own, phases) == ledger(own, phases)
    assert len(builds) == 1
    assert list(tmp_path.glob("plm-scaling-windows-*/ledger-*/*.json"))
