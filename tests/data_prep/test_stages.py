"""The preparation as a whole: in parts, in a pool, with filters, clades, prefixes, clusters."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.filters import FilterSpec
from data_prep.pipeline import PrepSpec, SourceInput, prepare_corpus
from data_prep.verify import verify_corpus
from plm_scaling.core.errors import ConfigError, CorpusError
from plm_scaling.core.files import sha256_file
from plm_scaling.corpus.format import FLAGS, Manifest, RecordCount
from plm_scaling.execution.local import LocalExecutor

Write = Callable[..., Path]
Make = Callable[..., str]
Read = Callable[[Path], Any]


def pool(workers: int) -> LocalExecutor:
    """A pool as the command line has it: what a task needs is imported before the first one."""
    return LocalExecutor(workers, preload=("data_prep.stages",))


def digest(corpus: Path) -> dict[str, str]:
    return {str(p.relative_to(corpus)): sha256_file(p) for p in corpus.rglob("*") if p.suffix in (".bin", ".parquet")}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_bytes_however_the_work_is_cut(write: Write, make_fasta: Make, tmp_path: Path, workers: int) -> None:
    text = make_fasta(600, seed=1)
    path = write(text + "".join(f">again{i}\n{r.split(chr(10), 1)[1]}" for i, r in enumerate(text.split(">")[5:90])))
    inputs, spec = [SourceInput("x", (path,))], PrepSpec(max_shard_bytes=20_000, val_share=0.1)
    whole = prepare_corpus(inputs, tmp_path / "whole", spec)
    executor = pool(workers) if workers > 1 else None
    cut = prepare_corpus(inputs, tmp_path / "cut", spec, part_bytes=20_000, executor=executor)
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")
    assert cut.content_hash() == whole.content_hash()
    assert cut.sources[0].files == whole.sources[0].files
    assert cut.sources[0].duplicate_sequences >= 80
    assert len(cut.shards) > 3
    assert verify_corpus(tmp_path / "cut") == []


def test_the_error_of_a_task_in_a_pool_is_the_users_error(write: Write, make_fasta: Make, tmp_path: Path) -> None:
    good, bad = write(make_fasta(300), "good.fa"), write(make_fasta(50) + ">b\nAC1\n", "bad.fa")
    inputs = [SourceInput("good", (good,)), SourceInput("bad", (bad,))]
    with pytest.raises(CorpusError, match="'1' is not a residue letter") as caught:
        prepare_corpus(inputs, tmp_path / "corpus", executor=pool(2), part_bytes=5_000)
    assert caught.value.where.startswith(f"{bad}:")
    assert not any(path.name.startswith((".corpus", "corpus")) for path in tmp_path.iterdir())


HEADERS = """>sp|P1|A_HUMAN Protein A OS=Homo sapiens OX=9606 GN=A PE=1 SV=1
MKVLAAGDEFWYMKVLAAGDEFWYMKVLAAGDEFWY
>sp|P2|B_HUMAN Protein B (Fragment) OS=Homo sapiens OX=9606 PE=5 SV=1
MKVLWAGDEFWYMKVLRAGDEFWYMKVLAAGDEFWY
>sp|P3|C_AAV2 Capsid OS=Adeno-associated virus 2 OX=10804 PE=1 SV=1
MAADGYLPDWLEDTLSEGIRQWWKLKPGPPPPKPAERHKDDSRG
>UniRef50_X1 Thing n=12 Tax=Mus musculus TaxID=10090 RepID=X1_MOUSE
MKVL
>sp|P4|A_MOUSE Protein A OS=Mus musculus OX=10090 PE=2 SV=1
MKVLAAGDEFWYMKVLAAGDEFWYMKVLAAGDEFWY
"""


def test_headers_become_columns_and_flags_are_counted(write: Write, tmp_path: Path, contents: Read) -> None:
    path = write(HEADERS, "h.fa")
    manifest = prepare_corpus([SourceInput("h", (path,))], tmp_path / "c", PrepSpec(val_share=0.0))
    rows = contents(tmp_path / "c").rows
    assert [row["taxon"] for row in rows] == [9606, 9606, 10804, 10090, 10090]
    assert [row["evidence"] for row in rows] == [1, 5, 1, 0, 2]
    assert [row["members"] for row in rows] == [0, 0, 0, 12, 0]
    assert [row["rep_id"] for row in rows] == [None, None, None, "X1_MOUSE", None]
    flags = [{name for bit, name in enumerate(FLAGS) if row["flags"] >> bit & 1} for row in rows]
    assert [found - {"low_complexity"} for found in flags] == [
        set(),
        {"fragment", "weak_evidence"},
        {"viral"},
        {"short"},
        set(),
    ]
    assert manifest.sources[0].flagged["viral"] == RecordCount(sequences=1, tokens=45)
    assert manifest.sources[0].dropped == {}


def test_dropped_records_are_counted_and_gone(write: Write, tmp_path: Path, contents: Read) -> None:
    path = write(HEADERS, "h.fa")
    spec = PrepSpec(filters=FilterSpec(drop=("fragment", "short"), exclude_taxa=(10804,)), val_share=0.0)
    manifest = prepare_corpus([SourceInput("h", (path,))], tmp_path / "c", spec)
    assert [row["accession"] for row in contents(tmp_path / "c").rows] == ["sp|P1|A_HUMAN", "sp|P4|A_MOUSE"]
    assert manifest.sources[0].dropped == {
        "excluded_taxon": RecordCount(sequences=1, tokens=45),
        "fragment": RecordCount(sequences=1, tokens=37),
        "short": RecordCount(sequences=1, tokens=5),
    }
    assert manifest.sources[0].sequences == 2
    assert manifest.sources[0].duplicate_sequences == 1
    everything = PrepSpec(filters=FilterSpec(exclude_taxa=(9606, 10804, 10090)))
    with pytest.raises(CorpusError, match="no sequences in any of the files") as caught:
        prepare_corpus([SourceInput("h", (path,))], tmp_path / "none", everything)
    assert "dropped all 5" in caught.value.why


NODES = [(1, 1), (131567, 1), (40674, 131567), (9606, 40674), (10090, 40674), (10239, 1), (10804, 10239)]


def test_a_clade_is_held_out_with_all_copies(write: Write, tmp_path: Path, contents: Read) -> None:
    nodes = tmp_path / "nodes.dmp"
    nodes.write_text("".join(f"{a}\t|\t{b}\t|\tno rank\t|\t\t|\n" for a, b in NODES))
    spec = PrepSpec(taxonomy=str(nodes), hold_out_taxa={"mouse": (10090,), "virus": (10239,)}, val_share=0.0)
    held = write(">k\nMKVLKK\n", "held.fa")
    manifest = prepare_corpus(
        [SourceInput("h", (write(HEADERS, "h.fa"),))], tmp_path / "c", spec, hold_out={"k": [held]}
    )
    names = [split.name for split in manifest.splits]
    assert names[4:] == ["heldout_k", "heldout_mouse", "heldout_virus"]
    split = {row["accession"]: names[row["split"]] for row in contents(tmp_path / "c").rows}
    # P1 is human, but a mouse has the same sequence: it leaves training, with all its copies.
    assert split == {
        "k": "heldout_k",
        "sp|P1|A_HUMAN": "heldout_mouse",
        "sp|P2|B_HUMAN": "train",
        "sp|P3|C_AAV2": "heldout_virus",
        "UniRef50_X1": "heldout_mouse",
        "sp|P4|A_MOUSE": "heldout_mouse",
    }
    with pytest.raises(ConfigError, match="taxonomy"):
        PrepSpec.checked(hold_out_taxa={"mouse": (10090,)})


@pytest.mark.parametrize("block_bytes", [64, 1 << 18])
def test_the_beginning_of_each_source(
    write: Write, make_fasta: Make, tmp_path: Path, contents: Read, block_bytes: int
) -> None:
    inputs = [
        SourceInput("a", (write(make_fasta(3), "a1.fa"), write(make_fasta(40, 1, prefix="Q"), "a2.fa"))),
        SourceInput("b", (write(make_fasta(50, 2, prefix="R"), "b.fa"),)),
    ]
    whole = prepare_corpus(inputs, tmp_path / "whole", PrepSpec(val_share=0.0))
    every = contents(tmp_path / "whole").rows
    manifest = prepare_corpus(
        inputs, tmp_path / "c", PrepSpec(max_residues=1500, val_share=0.0), block_bytes=block_bytes
    )
    expected = []
    for number in range(2):
        rows = [row for row in every if row["source"] == number]
        ends = np.cumsum([row["length"] for row in rows])
        expected += [row["accession"] for row in rows[: int(np.searchsorted(ends, 1500)) + 1]]
    assert [row["accession"] for row in contents(tmp_path / "c").rows] == expected
    assert [file.sha256 for file in manifest.sources[0].files] == [file.sha256 for file in whole.sources[0].files]
    assert all(1500 <= source.residues < 1500 + 300 for source in manifest.sources)


def test_tables_and_fasta_give_the_same_corpus(write: Write, make_fasta: Make, tmp_path: Path) -> None:
    text = make_fasta(120)
    records = [record.split("\n", 1) for record in text.split(">")[1:]]
    columns = {
        "accession": [header.split()[0] for header, _ in records],
        "sequence": [body.replace("\n", "") for _, body in records],
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=50)
    fasta = prepare_corpus([SourceInput("x", (write(text),))], tmp_path / "fasta")
    table = prepare_corpus([SourceInput("x", (tmp_path / "t.parquet",))], tmp_path / "table")
    assert table.content_hash() == fasta.content_hash()
    assert table.sources[0].files[0].sha256 == sha256_file(tmp_path / "t.parquet")


def test_fragments_and_reversals_are_counted(write: Write, tmp_path: Path) -> None:
    long = "MKVLAAGDEFWYHIKLMNPQRSTVWYACDEF"
    path = write(f">a\n{long}\n>b\n{long[3:25]}\n>c\n{long[::-1]}\n>d\nACDEEDCA\n>e\n{long}\n")
    manifest = prepare_corpus([SourceInput("x", (path,))], tmp_path / "c", PrepSpec(containment=True))
    assert {name: count.sequences for name, count in manifest.containment.items()} == {
        "fragments": 1,
        "reversed": 2,
        "palindromes": 1,
    }


def evolved(n_families: int, members: int, seed: int = 0) -> str:
    """Families of sequences at about 70 % identity to each other, and a close pair in each."""
    rng = np.random.default_rng(seed)
    letters = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", dtype=np.uint8)
    out = []
    for family in range(n_families):
        root = letters[rng.integers(0, 20, 150)]
        for member in range(members):
            child = root.copy()
            at = rng.random(len(child)) < (0.02 if member == 1 else 0.15)
            child[at] = letters[rng.integers(0, 20, int(at.sum()))]
            out.append(f">f{family}_{member}\n{(root if member == 0 else child).tobytes().decode()}\n")
    return "".join(out)


@pytest.mark.skipif(not shutil.which("mmseqs"), reason="MMseqs2 is not on PATH")
def test_clusters_and_splits_that_respect_them(write: Write, tmp_path: Path, contents: Read) -> None:
    path = write(evolved(40, 4))
    spec = PrepSpec(cluster="mmseqs", val_cluster_share=0.3, val_share=0.1)
    manifest = prepare_corpus([SourceInput("x", (path,)), SourceInput("y", (path,))], tmp_path / "c", spec)
    assert verify_corpus(tmp_path / "c") == []
    assert manifest.clusters is not None
    assert 35 <= manifest.clusters.n_clusters50 <= 45
    assert manifest.clusters.n_clusters90 > manifest.clusters.n_clusters50
    rows = contents(tmp_path / "c").rows
    names = [split.name for split in manifest.splits]
    splits: dict[str, set[int]] = {}
    by_accession: dict[str, set[tuple[int, int, int]]] = {}
    for row in rows:
        splits.setdefault(names[row["split"]], set()).add(row["cluster50"])
        by_accession.setdefault(row["accession"], set()).add((row["cluster50"], row["cluster90"], row["split"]))
    assert all(len(found) == 1 for found in by_accession.values())  # a copy shares everything with its first
    assert splits["val_cluster"]
    assert not splits["val_cluster"] & (splits["train"] | splits["val_iid"])
    assert len(splits["val_cluster"]) == next(s.sequences for s in manifest.splits if s.name == "val_cluster")
    leaks = {row.split: row for row in manifest.leakage}
    assert leaks["val_iid"].hits_before > 0.5 * leaks["val_iid"].sequences
    assert leaks["val_cluster"].hits_after == 0
    assert Manifest.read(tmp_path / "c" / "manifest.json") == manifest
    assert manifest.identity_file is not None
    identity = pq.read_table(tmp_path / "c" / manifest.identity_file.name)
    assert set(identity["split"].to_pylist()) >= {1, 2}


def test_clusters_from_a_table(write: Write, tmp_path: Path, contents: Read) -> None:
    path = write(evolved(3, 2))
    table = write("accession\tcluster50\nf0_0\tone\nf0_1\tone\nf1_0\ttwo\nf1_1\tone\n", "members.tsv")
    spec = PrepSpec(cluster=str(table), val_cluster_share=0.0)
    manifest = prepare_corpus([SourceInput("x", (path,))], tmp_path / "c", spec)
    cluster = {row["accession"]: row["cluster50"] for row in contents(tmp_path / "c").rows}
    assert cluster["f0_0"] == cluster["f0_1"] == cluster["f1_1"]
    assert len({cluster[name] for name in ("f0_0", "f1_0", "f2_0", "f2_1")}) == 4
    assert manifest.clusters is not None
    assert manifest.clusters.n_clusters50 == 4
    assert manifest.leakage == ()
