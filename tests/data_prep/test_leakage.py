"""Splits by cluster: what is picked, what is dropped, what is reported; and on real sequences, what leaks."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.clusters import NO_CLUSTER, cluster_draft
from data_prep.fasta import read_records
from data_prep.leakage import GIANT_SHARE, HoldOut, pick_clusters, split_draft
from data_prep.split import EXCLUDED_ID, FIRST_HELD_OUT, TRAIN_ID, VAL_CLUSTER_ID, VAL_IID_ID
from plm_scaling.core.alphabet import EOS, decode, encode
from plm_scaling.core.errors import CorpusError
from plm_scaling.corpus.hits import Hits, sorted_hits
from plm_scaling.corpus.homology import LONGEST_JUDGED, Mmseqs, MmseqsWork, find_mmseqs

LETTERS = np.array(list("ACDEFGHIKLMNPQRSTVWY"))
NAMES = ("train", "val_iid", "val_cluster", "excluded", "heldout_lab")
PROGRAM = Mmseqs(Path("/nowhere/mmseqs"), "0-test")


@pytest.fixture(scope="module")
def mmseqs() -> Mmseqs:
    try:
        return find_mmseqs()
    except CorpusError:
        pytest.skip("MMseqs2 is not installed here")


@dataclass
class Piece:
    rows: np.ndarray
    tokens: np.ndarray
    sizes: np.ndarray


@dataclass
class FakeDraft:
    """Every row is a first occurrence."""

    folder: Path
    tokens: list[np.ndarray]

    @property
    def n_rows(self) -> int:
        return len(self.tokens)

    def first_sequences(self) -> Iterator[Piece]:
        for start in range(0, len(self.tokens), 2000):
            part = self.tokens[start : start + 2000]
            sizes = np.array([len(one) for one in part])
            yield Piece(np.arange(start, start + len(part)), np.concatenate(part), sizes)


def draft_of(folder: Path, sequences: list[str], cluster: np.ndarray | None = None) -> FakeDraft:
    draft = FakeDraft(folder, [np.append(encode(sequence), np.uint8(EOS)) for sequence in sequences])
    if cluster is not None:
        (folder / "cluster").mkdir()
        cluster.astype(np.uint32).tofile(folder / "cluster" / "c50.u32")
    return draft


def protein(length: int, rng: np.random.Generator) -> str:
    return "".join(rng.choice(LETTERS, length))


def mutated(sequence: str, share: float, rng: np.random.Generator) -> str:
    out = list(sequence)
    for i in rng.choice(len(out), round(share * len(out)), replace=False):
        out[i] = rng.choice(LETTERS[out[i] != LETTERS])
    return "".join(out)


# ---- which clusters ------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 200), st.integers(1, 80), st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.9]))
def test_picked_clusters_keep_the_rules(seed: int, n: int, n_clusters: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, n_clusters, n).astype(np.uint32)
    cluster[rng.random(n) < 0.1] = NO_CLUSTER
    split = rng.choice([TRAIN_ID, VAL_IID_ID, EXCLUDED_ID, FIRST_HELD_OUT], n, p=[0.8, 0.1, 0.05, 0.05]).astype(
        np.uint8
    )
    sizes = rng.choice([5, 31, 32, 200, 900, LONGEST_JUDGED + 1, LONGEST_JUDGED + 2], n).astype(np.uint32)
    hold_out = HoldOut(share=share, seed=int(rng.integers(100)))
    chosen = pick_clusters(cluster, split, sizes, hold_out)
    assert (np.diff(chosen) > 0).all()
    assert len(set(cluster[chosen].tolist())) == len(chosen)
    train = (cluster != NO_CLUSTER) & (split == TRAIN_ID)
    wanted = share * sizes[train].sum()

    def tokens(number: int) -> int:
        return int(sizes[train & (cluster == number)].sum())

    def could(number: int) -> bool:
        mine = cluster == number
        pool = mine & np.isin(split, [TRAIN_ID, VAL_IID_ID])
        judged = pool & (sizes >= 31) & (sizes <= LONGEST_JUDGED + 1)
        giant = pool.sum() > 1 and tokens(number) > GIANT_SHARE * wanted
        held = (mine & (split >= FIRST_HELD_OUT)).any()
        return bool(tokens(number) and judged.any() and not giant and not held)

    picked = cluster[chosen].tolist()
    assert all(could(number) for number in picked)
    assert all(31 <= sizes[row] <= LONGEST_JUDGED + 1 and split[row] in (TRAIN_ID, VAL_IID_ID) for row in chosen)
    taken = sum(tokens(number) for number in picked)
    everything = [number for number in range(n_clusters) if could(number)]
    assert taken >= wanted or set(picked) == set(everything)
    # No more than needed: without its last cluster the share is missed.
    assert not picked or taken - max(tokens(number) for number in picked) < wanted
    assert np.array_equal(chosen, pick_clusters(cluster, split, sizes, hold_out))


def test_the_seed_decides(tmp_path: Path) -> None:
    n = 2000
    cluster, split = np.arange(n, dtype=np.uint32), np.zeros(n, dtype=np.uint8)
    sizes = np.full(n, 100, dtype=np.uint32)
    picks = [set(pick_clusters(cluster, split, sizes, HoldOut(0.1, seed)).tolist()) for seed in (0, 1)]
    assert len(picks[0]) == len(picks[1]) == 200
    assert len(picks[0] & picks[1]) < 50  # 20 expected
    assert len(pick_clusters(cluster, split, sizes, HoldOut(0.1, 0, most=7))) == 7
    # Evenly over the rows: a row's chance does not hang on its place.
    assert abs(np.mean(sorted(picks[0])) - n / 2) < 5 * n / np.sqrt(12 * 200)


# ---- what follows from the hits ------------------------------------------------------------------------------------


@dataclass
class Oracle:
    """Stands in for MMseqs2: known nearest training rows, by search."""

    answers: list[dict[int, tuple[int, float]]]
    queries: list[set[int]]
    targets: list[set[int]]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        held: dict[Path, Path] = {}

        def numbers(database: Path) -> set[int]:
            # Read at the search, as MMseqs2 does: a database is a link to its FASTA file.
            return {int(line[1:]) for line in held[database].read_text().splitlines() if line.startswith(">")}

        def database(work: MmseqsWork, fasta: Path) -> Path:
            place = work.folder / f"db{len(held)}"
            held[place] = fasta
            return place

        def search(work: MmseqsWork, queries: Path, targets: Path, *_: object, **__: object) -> Hits:
            found = self.answers[len(self.queries)]
            self.queries.append(numbers(queries))
            self.targets.append(numbers(targets))
            rows = [(q, t, x, 0.9, 0.85, 1e-9) for q, (t, x) in found.items() if q in self.queries[-1]]
            return sorted_hits([np.array(column) for column in zip(*rows, strict=True)] or [np.zeros(0)] * 6)

        monkeypatch.setattr(MmseqsWork, "database", database)
        monkeypatch.setattr(MmseqsWork, "search", search)


def test_hits_are_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    n = 400
    cluster = np.arange(n) // 2  # pairs
    base = np.zeros(n, dtype=np.uint8)
    base[350:380] = VAL_IID_ID
    base[380:] = FIRST_HELD_OUT
    draft = draft_of(tmp_path, [protein(60, rng) for _ in range(n)], cluster)
    hold_out = HoldOut(share=0.2, sampled=10)
    sizes = np.full(n, 61, dtype=np.uint32)
    chosen = pick_clusters(cluster.astype(np.uint32), base, sizes, hold_out)
    near, edge, missed = chosen[:4].tolist(), chosen[4], chosen[5]
    first = {row: (1, 0.5) for row in near} | {int(edge): (1, 0.499)} | {row: (3, 0.95) for row in range(350, 400)}
    oracle = Oracle([first, {int(missed): (5, 0.7)}], [], [])
    oracle.install(monkeypatch)
    leakage = {one.split: one for one in split_draft(draft, base, NAMES, hold_out, mmseqs=PROGRAM, threads=1)}
    split = np.fromfile(tmp_path / "split" / "split.u8", dtype=np.uint8)

    kept = np.setdiff1d(chosen, near)
    assert set(np.flatnonzero(split == VAL_CLUSTER_ID)) == set(kept.tolist())
    mates = np.flatnonzero(np.isin(cluster, cluster[chosen]))
    assert set(np.flatnonzero(split == EXCLUDED_ID)) == set(mates.tolist()) - set(kept.tolist())
    untouched = np.setdiff1d(np.arange(n), mates)
    assert np.array_equal(split[untouched], base[untouched])

    # Training is what both searches look in; the second is told of the survivors only.
    train = set(np.flatnonzero(split == TRAIN_ID).tolist())
    assert oracle.targets == [train, train]
    assert oracle.queries[0] >= set(chosen.tolist())
    assert oracle.queries[1] == set(kept.tolist())

    ours = leakage["val_cluster"]
    assert (ours.sequences, ours.hits_before, ours.hits_after) == (len(chosen), 4, 1)
    assert (ours.dropped.sequences, ours.dropped.tokens) == (4, 4 * 61)
    assert ours.bins == (len(chosen) - 6, 1, 1, 0)
    for name in ("val_iid", "heldout_lab"):
        other = leakage[name]
        assert (other.sequences, other.hits_before, other.hits_after, other.bins) == (10, 10, 10, (0, 0, 0, 10))
        assert other.dropped.sequences == 0
    assert next(iter(leakage)) == "val_cluster"

    table = pq.read_table(tmp_path / "split" / "identity.parquet").to_pydict()
    assert len(table["row"]) == len(chosen) + 20
    by_row = {row: i for i, row in enumerate(table["row"])}
    assert table["split"] == split[table["row"]].tolist()
    i = by_row[int(missed)]
    assert (table["identity"][i], table["hit_row"][i]) == (pytest.approx(0.7), 5)
    assert table["coverage"][i] == pytest.approx(0.85)
    i = by_row[int(chosen[-1])]
    assert (table["identity"][i], table["coverage"][i], table["hit_row"][i]) == (0.0, 0.0, None)


def test_nothing_to_hold_out(tmp_path: Path) -> None:
    draft = draft_of(tmp_path, ["MK", "MKV"], np.array([0, 1]))
    base = np.zeros(2, dtype=np.uint8)
    assert split_draft(draft, base, NAMES, HoldOut(), mmseqs=PROGRAM, threads=1) == ()
    assert np.fromfile(tmp_path / "split" / "split.u8", dtype=np.uint8).tolist() == [0, 0]
    assert pq.read_table(tmp_path / "split" / "identity.parquet").num_rows == 0


# ---- with the program ----------------------------------------------------------------------------------------------


@pytest.mark.slow  # test_stages splits families by MMseqs2, too
def test_planted_families_do_not_leak(tmp_path: Path, mmseqs: Mmseqs) -> None:
    """Families are known, so leakage is too: a random split leaks, the clusters' does not."""
    rng = np.random.default_rng(7)
    sequences, family = [], []
    for number in range(120):
        ancestor = protein(150, rng)
        for share in (0.0, 0.1, 0.2, 0.3):
            sequences.append(mutated(ancestor, share, rng))
            family.append(number)
    kin = np.array(family)
    base = np.where(rng.random(len(kin)) < 0.1, VAL_IID_ID, TRAIN_ID).astype(np.uint8)
    draft = draft_of(tmp_path, sequences, kin)
    # One family was cut in two: its pieces are as near as any family.
    pieces = kin.copy()
    pieces[kin >= 60] = 60 + np.arange((kin >= 60).sum())
    pieces.astype(np.uint32).tofile(tmp_path / "cluster" / "c50.u32")
    leakage = {one.split: one for one in split_draft(draft, base, NAMES, HoldOut(0.2), mmseqs=mmseqs, threads=2)}
    split = np.fromfile(tmp_path / "split" / "split.u8", dtype=np.uint8)
    trained = set(kin[split == TRAIN_ID].tolist())
    kept = np.flatnonzero(split == VAL_CLUSTER_ID)
    assert len(kept) >= 5
    assert not trained & set(kin[kept].tolist())
    assert leakage["val_cluster"].dropped.sequences > 5
    assert leakage["val_cluster"].hits_after == 0
    assert leakage["val_cluster"].bins == (len(kept), 0, 0, 0)
    assert leakage["val_iid"].hits_before > 0.8 * leakage["val_iid"].sequences


RELATED = ("UP000000625", "UP000001014")
"""Two enterobacteria: paralogues, and for most sequences an orthologue at 80 to 100 % identity."""
LONGEST_READ = 200
"""Orthologues are about as long as each other: the shorter ones are the same test at half the cost."""


@pytest.mark.slow
def test_real_sequences_do_not_leak(tmp_path: Path, test_data: Path, mmseqs: Mmseqs) -> None:
    """Every kept sequence, and as many drawn at random, searched by `mmseqs easy-search` as a user would call it."""
    tokens: dict[bytes, np.ndarray] = {}
    files = (path for name in RELATED for path in sorted((test_data / "corpus").glob(f"{name}*.gz")))
    for path in files:
        for block in read_records(path):
            for one in np.split(block.tokens, np.cumsum(block.lengths + 1)[:-1]):
                if len(one) <= LONGEST_READ:
                    tokens.setdefault(one.tobytes(), one)
    draft = FakeDraft(tmp_path, list(tokens.values()))
    rng = np.random.default_rng(0)
    base = np.where(rng.random(draft.n_rows) < 0.03, VAL_IID_ID, TRAIN_ID).astype(np.uint8)
    stats = cluster_draft(draft, mmseqs=mmseqs)
    leakage = {one.split: one for one in split_draft(draft, base, NAMES, HoldOut(share=0.1), mmseqs=mmseqs)}
    split = np.fromfile(tmp_path / "split" / "split.u8", dtype=np.uint8)
    near = near_rows(tmp_path, draft, np.isin(split, [VAL_CLUSTER_ID, VAL_IID_ID]), split == TRAIN_ID, mmseqs)
    share = {
        name: float(np.isin(np.flatnonzero(split == number), near).mean())
        for name, number in (("val_cluster", VAL_CLUSTER_ID), ("val_iid", VAL_IID_ID))
    }
    print(stats, *leakage.values(), share, sep="\n")
    assert share["val_cluster"] <= 0.005
    assert share["val_iid"] > 0.3
    ours = leakage["val_cluster"]
    assert ours.hits_after <= 0.005 * (ours.sequences - ours.dropped.sequences)
    assert ours.sequences - ours.dropped.sequences > 100


def near_rows(folder: Path, draft: FakeDraft, asked: np.ndarray, train: np.ndarray, mmseqs: Mmseqs) -> list[int]:
    """Rows with a training sequence at >= 50 % identity over 80 % of both, by MMseqs2's command line."""
    for name, chosen in (("q", asked), ("t", train)):
        rows = np.flatnonzero(chosen)
        text = "".join(f">s{row}\n{decode(draft.tokens[row][:-1])}\n" for row in rows)
        (folder / f"{name}.fasta").write_text(text)
    table = folder / "hits.tsv"
    command = [str(mmseqs.path), "easy-search", "q.fasta", "t.fasta", table.name, "scratch", "-s", "7.5"]
    command += ["--min-seq-id", "0.5", "-c", "0.8", "--cov-mode", "0", "--format-output", "query"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return [int(name[1:]) for name in set(table.read_text().split())]
