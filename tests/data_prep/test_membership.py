"""Clusters from a table of members: layouts, hierarchy, nesting, against a dictionary; and tables that are wrong."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import membership
from data_prep.clusters import NO_CLUSTER
from data_prep.membership import membership_clusters
from plm_scaling.core.errors import CorpusError
from plm_scaling.corpus.format import ClusterStats


@dataclass
class FakeDraft:
    folder: Path
    accessions: list[str]
    is_first: list[bool]

    @property
    def n_rows(self) -> int:
        return len(self.accessions)

    def names(self, start: int, stop: int) -> pa.Table:
        return pa.table({"accession": pa.array(self.accessions[start:stop], pa.string())})

    def first(self, start: int, stop: int) -> np.ndarray:
        return np.array(self.is_first[start:stop], dtype=bool)


def run(draft: FakeDraft, *files: Path) -> tuple[np.ndarray, np.ndarray, ClusterStats]:
    stats = membership_clusters(draft, files)
    c90, c50 = (np.fromfile(draft.folder / "cluster" / name, dtype=np.uint32) for name in ("c90.u32", "c50.u32"))
    assert not [path for path in (draft.folder / "cluster").iterdir() if path.is_dir()]
    return c90, c50, stats


def groups(number: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(number == n).tolist()) for n in np.unique(number[number != NO_CLUSTER])}


def draft_of(folder: Path, names: str, copies: str = "") -> FakeDraft:
    return FakeDraft(folder, names.split(), [name not in copies.split() for name in names.split()])


def test_the_layout_of_mmseqs(tmp_path: Path) -> None:
    draft = draft_of(tmp_path, "a b c d x e", copies="x")
    table = tmp_path / "c_cluster.tsv"
    table.write_text("b\tb\nb\ta\nb\tx\nz\tc\nz\td\n")  # z is not in the corpus
    c90, c50, stats = run(draft, table)
    assert groups(c50) == {frozenset({0, 1}), frozenset({2, 3}), frozenset({5})}
    assert c50[4] == c90[4] == NO_CLUSTER
    assert groups(c90) == {frozenset({i}) for i in (0, 1, 2, 3, 5)}
    assert (stats.n_clusters90, stats.n_clusters50, stats.largest50) == (5, 3, 2)
    assert stats.tool == "c_cluster.tsv"
    assert stats.settings == ("alone: 1 of 5 unique sequences, which the table does not name",)


def test_two_files_are_a_hierarchy(tmp_path: Path) -> None:
    draft = draft_of(tmp_path, "a b c d e f g")
    (tmp_path / "50.tsv").write_text("U50_1\tU90_1\nU50_1\tU90_2\nU50_1\tf\n")  # seeds of 90 % clusters, and one name
    with gzip.open(tmp_path / "90.tsv.gz", "wt") as handle:
        handle.write("U90_1\ta\nU90_1\tb\nU90_2\tc\nU90_3\td\nU90_3\te\n")
    c90, c50, stats = run(draft, tmp_path / "50.tsv", tmp_path / "90.tsv.gz")
    assert groups(c90) == {frozenset({0, 1}), frozenset({2}), frozenset({3, 4}), frozenset({5}), frozenset({6})}
    # d and e have a 90 % cluster only, which is then their 50 % cluster too.
    assert groups(c50) == {frozenset({0, 1, 2, 5}), frozenset({3, 4}), frozenset({6})}
    assert "alone: 1 of 7 " in stats.settings[0]


@pytest.mark.parametrize("kind", ["tsv", "parquet", "numbers"])
def test_columns_with_names(tmp_path: Path, kind: str) -> None:
    draft = draft_of(tmp_path, "a b c d e")
    columns = {
        "taxon": ["1"] * 4,
        "cluster90": ["7", "7", "", "8"],
        "accession": ["a", "b", "c", "d"],
        "cluster50": ["1", "1", "1", "1"],
    }
    path = tmp_path / ("m.tsv" if kind == "tsv" else "m.parquet")
    if kind == "tsv":
        rows = [list(columns), *map(list, zip(*columns.values(), strict=True))]
        path.write_text("".join("\t".join(row) + "\n" for row in rows))
    elif kind == "parquet":
        pq.write_table(pa.table(columns), path)
    else:
        pq.write_table(pa.table({**columns, "cluster90": [7, 7, None, 8], "cluster50": [1, 1, 1, 1]}), path)
    c90, c50, _ = run(draft, path)
    assert groups(c50) == {frozenset({0, 1, 2, 3}), frozenset({4})}
    assert groups(c90) == {frozenset({0, 1}), frozenset({2}), frozenset({3}), frozenset({4})}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60))
def test_against_a_dictionary(tmp_path_factory: pytest.TempPathFactory, seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("draft")
    names = [f"n{i}" for i in range(n)]
    draft = FakeDraft(folder, names, (rng.random(n) < 0.8).tolist())
    draft.is_first[0] = True
    in50 = {name: f"w{rng.integers(0, 6)}" for name in names if rng.random() < 0.7}
    in90 = {name: f"t{rng.integers(0, 12)}" for name in names if rng.random() < 0.7}
    in50 |= {f"t{i}": f"w{rng.integers(0, 6)}" for i in range(12) if rng.random() < 0.5}
    in50["n0"] = "w0"
    in90["elsewhere"] = "t0"  # an empty table is refused
    for name, table in (("50.tsv", in50), ("90.tsv", in90)):
        order = rng.permutation(list(table))
        (folder / name).write_text("".join(f"{table[member]}\t{member}\n" for member in order))
    with pytest.MonkeyPatch.context() as small:
        small.setattr(membership, "_ROWS", 7)
        c90, c50, stats = run(draft, folder / "50.tsv", folder / "90.tsv")
    truth50: dict[object, set[int]] = {}
    truth90: dict[object, set[int]] = {}
    for row, name in enumerate(names):
        if draft.is_first[row]:
            narrow = in90.get(name)
            wide = in50.get(name) or in50.get(narrow or "") or narrow or ("alone", row)
            truth50.setdefault(wide, set()).add(row)
            truth90.setdefault((wide, narrow) if narrow else ("alone", row), set()).add(row)
    assert groups(c50) == {frozenset(group) for group in truth50.values()}
    assert groups(c90) == {frozenset(group) for group in truth90.values()}
    assert (stats.n_clusters90, stats.n_clusters50) == (len(truth90), len(truth50))
    assert stats.largest50 == max(map(len, truth50.values()))
    for number, count in ((c90, len(truth90)), (c50, len(truth50))):
        assert sorted(set(number[draft.is_first].tolist())) == list(range(count))
        assert (number[~np.array(draft.is_first)] == NO_CLUSTER).all()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.tsv", b"r1\ta\nr2\ta\n", "in two clusters"),
        ("m.tsv", b"r1\tq\nr1\tw\n", "names no sequence of this corpus"),
        ("m.tsv", b"a\tb\tc\n", "has the columns a, b, c"),
        ("m.tsv", b"", "has the columns none"),
        ("m.tsv", b"r1\ta\nr1\n", "cannot read the table"),
        ("m.parquet", b"not parquet", "cannot read the table"),
        ("m.tsv.gz", b"not gzip", "cannot read the table"),
        ("absent", None, "cannot read the table"),
    ],
)
def test_tables_that_are_wrong(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    draft = draft_of(tmp_path, "a b")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=says) as caught:
        run(draft, tmp_path / name)
    assert str(tmp_path / name) in caught.value.where
    assert not list((tmp_path / "cluster").iterdir())


def test_parquet_without_the_columns(tmp_path: Path) -> None:
    draft = draft_of(tmp_path, "a b")
    pq.write_table(pa.table({"id": ["a"], "cluster": ["b"]}), tmp_path / "m.parquet")
    with pytest.raises(CorpusError, match="has the columns id, cluster"):
        run(draft, tmp_path / "m.parquet")
