from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.evals.encodings import (
    blosum62_scores,
    composition,
    kmer_counts,
    letter_matrix,
    mutation_counts,
    one_hot,
    pairwise_one_hot,
    varied_sites,
)
from plm_scaling.evals.splits import find_split, k_vs_many, low_vs_high, own_split, sampled, table_and_split
from plm_scaling.evals.tables import LabelledTable, read_flip, read_residue_table, read_table, read_tape

A = "LAGVSERTIDPKQNFYMHWC"


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("ACD,1.0,train\nAC1D,2.0,test\n", r"t\.csv:3: '1' is no residue letter, at residue 3 of 4"),
        ("ACD,nan,train\n", r"t\.csv:2: a target of 'nan'"),
        ("ACD,high,train\n", r"(?s)t\.csv:2: a target of 'high'.*say that these are classes"),
        ("ACD,NA,train\n", r"(?s)t\.csv:2: a target of 'NA'.*leave rows out that were not measured"),
        ("ACD,1.0,trian\n", r"t\.csv:2: 'trian' is no part of a split"),
        ("ACD,1.0\n", r"t\.csv:2: 2 cells under 3 columns"),
        (",1.0,train\n", r"t\.csv:2: an empty sequence"),
        ("ACD,1.0,train\nAAA,2,train\nacd,1.5,test\n", r"(?s)lines 2 and 4: the same sequence in test and train"),
        ("", "without rows"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, rows: str, says: str) -> None:
    path = write(tmp_path / "t.csv", "seq,score,part\n" + rows)
    with pytest.raises(ConfigError, match=says):
        read_table(path, split="part")


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    good = write(tmp_path / "t.csv", "protein,value\nACD,1\n")
    with pytest.raises(ConfigError, match="looks like a sequence"):
        read_table(good)
    with pytest.raises(ConfigError, match=r"(?s)no column 'valeu'.*did you mean value"):
        read_table(good, sequence="protein", target="valeu")
    with pytest.raises(ConfigError, match=r"e\.csv: an empty table"):
        read_table(write(tmp_path / "e.csv", ""), sequence="protein")
    with pytest.raises(ConfigError, match=r"(?s)t\.csv, its wild type.*'\.' is no residue letter, at residue 4"):
        read_table(good, sequence="protein", target="value", wild_type="MKT...")
    with pytest.raises(ConfigError, match=r"(?s)validation rows beside the split 'sampled'"):
        table_and_split(good, sequence="protein", target="value", validation="value")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_table(write(tmp_path / "u.csv", "x").rename(tmp_path / "v.csv.gz"))


def test_published_layouts(tmp_path: Path) -> None:
    """FLIP, and TAPE's tasks as one file per part: values, classes, classes of residues."""
    flip = read_flip(
        write(tmp_path / "s.csv.gz", "sequence,target,set,validation\nACD,1,train,\nACE,2,train,True\nACF,3,test,\n")
    )
    assert flip.parts == ("train", "validation", "test")
    assert list(flip.targets) == [1.0, 2.0, 3.0]
    parts = [
        write(tmp_path / f"fluorescence.{part}.csv", f"seq,label\n{row}\n")
        for part, row in (("train", "SKGA,[3.5]"), ("valid", "SKGC,1.25"), ("test", "SKGD,2"))
    ]
    light = read_tape(parts, kind="values", name="fluorescence")
    assert light.sequences == ("SKGA", "SKGC", "SKGD")
    assert list(light.targets) == [3.5, 1.25, 2.0]
    assert light.parts == ("train", "validation", "test")
    fold = read_tape(
        [write(tmp_path / "remote_homology.train.csv", "seq,label\nACD,7\nACD,7\nACE,13\n")],
        kind="classes",
        name="fold",
    )
    assert fold.merged == 1
    assert list(fold.targets) == [7.0, 13.0]
    with pytest.raises(ConfigError, match="two classes"):
        read_tape([write(tmp_path / "x.train.csv", "seq,label\nACD,7\nACD,8\n")], kind="classes", name="fold")
    with pytest.raises(ConfigError, match="says no part"):
        read_tape([write(tmp_path / "x.csv", "seq,label\nACD,7\n")], kind="classes", name="fold")
    structure = read_residue_table(
        [
            write(tmp_path / "ss3.train.csv", 'seq,label\nACDE,HE-C\nACD,"[2, 0, -1]"\n'),
            write(tmp_path / "ss3.test.csv", "seq,label\nACD,012\n"),
        ],
        name="ss3",
    )
    assert [list(one) for one in structure.labels] == [[0, 1, -1, 2], [2, 0, -1], [0, 1, 2]]
    with pytest.raises(ConfigError, match=r"2: 3 labels for 4 residues"):
        read_residue_table([write(tmp_path / "y.train.csv", "seq,label\nACDE,HEC\n")], name="ss3")


def made_table(count: int = 400) -> LabelledTable:
    rng = np.random.default_rng(0)
    wild = "ACDEFGHIKL"
    found = {wild}
    while len(found) < count:
        letters = list(wild)
        for site in rng.choice(10, size=rng.integers(1, 5), replace=False):
            letters[site] = A[rng.integers(20)]
        found.add("".join(letters))
    names = tuple(sorted(found))
    return LabelledTable("made", names, rng.normal(size=count), "values", ("",) * count, wild)


def test_splits_share_no_row_and_hold_what_they_promise() -> None:
    table = made_table()
    wild = table.targets[table.sequences.index(str(table.wild_type))]
    for name in ("sampled", "low_vs_high", "two_vs_many", "2_vs_many"):
        split = find_split(table, name)
        assert sorted([*split.train, *split.test]) == list(range(len(table)))
        distance = [sum(a != b for a, b in zip(s, str(table.wild_type), strict=True)) for s in table.sequences]
        if name == "low_vs_high":
            assert table.targets[split.train].max() == wild < table.targets[split.test].min()
        if "many" in name:
            assert max(distance[k] for k in split.train) == 2 < min(distance[k] for k in split.test)
    part = table.take(np.arange(100, 200))
    whole, some = sampled(table), sampled(part)
    assert {part.sequences[k] for k in some.train} <= {table.sequences[k] for k in whole.train}
    assert 0.7 < len(whole.train) / len(table) < 0.9
    with pytest.raises(ConfigError, match="came without a split"):
        own_split(table)
    with pytest.raises(ConfigError, match=r"(?s)does not hold its wild type.*add a row of the wild type"):
        low_vs_high(table.take(np.array([k for k, s in enumerate(table.sequences) if s != table.wild_type])))
    with pytest.raises(RefusedError, match="leaves 1 rows to train"):
        k_vs_many(table, 0)
    with pytest.raises(ConfigError, match="no split is called"):
        find_split(table, "random")


def test_encodings_against_plain_loops() -> None:
    sequences = ("ACDXA", "ACD", "WCDAA", "ACDAAC")
    letters = letter_matrix(sequences)
    assert list(varied_sites(letters)) == [0, 3, 4, 5]
    single, pairs, words = one_hot(letters).toarray(), pairwise_one_hot(letters).toarray(), kmer_counts(letters, 2)
    order = [(s, t) for s in range(6) for t in range(s + 1, 6)]
    for row, text in enumerate(sequences):
        ones = {s * 20 + A.index(x) for s, x in enumerate(text) if x in A}
        assert set(np.flatnonzero(single[row])) == ones
        both = {
            120 + k * 400 + A.index(text[s]) * 20 + A.index(text[t])
            for k, (s, t) in enumerate(order)
            if t < len(text) and text[s] in A and text[t] in A
        }
        assert set(np.flatnonzero(pairs[row])) == ones | both
        shares = [text.count(x) / sum(y in A for y in text) for x in A]
        np.testing.assert_allclose(composition(letters)[row], shares)
        for a in A:
            for b in "ACDX":
                count = sum(text[i : i + 2] == a + b for i in range(len(text)))
                assert b == "X" or words.toarray()[row, A.index(a) * 20 + A.index(b)] == count
    same = letter_matrix(["AWD", "ACD", "CWA"])
    assert list(mutation_counts(same, "AWD")) == [0, 1, 2]
    assert list(blosum62_scores(same, "AWD")) == [0.0, -13.0, -12.0]  # W-C -2 for W-W 11; A-C 0 for 4, D-A -2 for 6
    with pytest.raises(ConfigError, match="no residue letter"):
        letter_matrix(["ACD", "A C"])
