"""Clades and lineages from files in NCBI's published layout, against walking up one parent at a time."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.taxonomy import VIRUSES, Taxonomy
from plm_scaling.core.errors import ConfigError, CorpusError

# The first columns hold ids and the rank; all thirteen are there, as in NCBI's files.
_REST = '\t|\t\t|\t8\t|\t0\t|\t1\t|\t0\t|\t0\t|\t0\t|\t0\t|\t0\t|\ta "comment"\t|\n'
NODES = "".join(
    f"{taxon}\t|\t{above}\t|\t{rank}{_REST}"
    for taxon, above, rank in (
        (1, 1, "no rank"),
        (131567, 1, "no rank"),
        (2759, 131567, "superkingdom"),
        (9604, 2759, "family"),
        (9606, 9604, "species"),
        (63221, 9606, "subspecies"),
        (10239, 1, "superkingdom"),
        (11308, 10239, "family"),
        (11320, 11308, "species"),
    )
)
MERGED = "12\t|\t9606\t|\n11319\t|\t11320\t|\n"
NAMES = (
    "1\t|\tall\t|\t\t|\tsynonym\t|\n1\t|\troot\t|\t\t|\tscientific name\t|\n"
    '9606\t|\tHomo sapiens\t|\t\t|\tscientific name\t|\n9606\t|\tman "common"\t|\t\t|\tgenbank common name\t|\n'
)
FILES = {"nodes.dmp": NODES, "merged.dmp": MERGED, "names.dmp": NAMES, "readme.txt": "not a table"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def archived(folder: Path) -> Path:
    path = folder / "taxdump.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


@pytest.mark.parametrize("place", [lambda f: f, lambda f: f / "nodes.dmp", archived, lambda f: str(f)])
def test_it_reads_a_folder_a_file_and_an_archive(folder: Path, place: Callable[[Path], Path]) -> None:
    tree = Taxonomy.read(place(folder), names=True)
    assert tree.lineage(9606) == (1, 131567, 2759, 9604, 9606)
    assert tree.lineage(12) == tree.lineage(9606)
    assert tree.names == {1: "root", 9606: "Homo sapiens"}
    taxa = np.array([0, 9606, 63221, 12, 9604, 2759, 11320, 11319, 10239, 5, 4_000_000_000], dtype=np.uint32)
    assert taxa[tree.clade(9604).contains(taxa)].tolist() == [9606, 63221, 12, 9604]
    assert taxa[tree.clade(VIRUSES).contains(taxa)].tolist() == [11320, 11319, 10239]
    assert taxa[tree.clade(12, 11308).contains(taxa)].tolist() == [9606, 63221, 12, 11320, 11319]
    assert taxa[tree.clade(1).contains(taxa)].tolist() == [9606, 63221, 12, 9604, 2759, 11320, 11319, 10239]
    assert not tree.clade().contains(taxa).any()


def test_merged_and_names_may_be_missing(folder: Path) -> None:
    (folder / "merged.dmp").unlink()
    tree = Taxonomy.read(folder)
    assert tree.names == {}
    assert tree.lineage(9606)[0] == 1
    with pytest.raises(ConfigError, match="no taxon 12"):
        tree.lineage(12)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_clades_are_those_of_walking_up(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 40))
    above = [1] + [data.draw(st.integers(1, taxon - 1)) for taxon in range(2, n + 1)]
    if data.draw(st.booleans()):  # a chain: the deepest tree there is
        above = [1, *range(1, n)]
    path = tmp_path_factory.mktemp("tree") / "nodes.dmp"
    path.write_text("".join(f"{i + 1}\t|\t{parent}\t|\trank\t|\n" for i, parent in enumerate(above)))
    tree = Taxonomy.read(path)
    roots = data.draw(st.sets(st.integers(1, n), max_size=3))

    def walk(taxon: int) -> list[int]:
        return [taxon] if taxon == 1 else [*walk(above[taxon - 1]), taxon]

    taxa = np.arange(n + 3, dtype=np.uint32)
    inside = [0 < taxon <= n and bool(roots & set(walk(taxon))) for taxon in range(n + 3)]
    assert tree.clade(*roots).contains(taxa).tolist() == inside
    assert all(tree.lineage(taxon) == tuple(walk(taxon)) for taxon in range(1, n + 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not in NCBI's layout"),
        ("1\t|\t1\t|\tno rank\t|\n2\t|\tx\t|\tspecies\t|\n", "not in NCBI's layout"),
        ("1,1,no rank\n", "not in NCBI's layout"),
        ("1\t|\t1\t|\tr\t|\n2\t|\t\t|\tr\t|\n", "without an id"),
        ("1\t|\t1\t|\tr\t|\n0\t|\t1\t|\tr\t|\n", "no tree of taxa"),
        ("1\t|\t1\t|\tr\t|\n999999999\t|\t1\t|\tr\t|\n", "no tree of taxa"),
        ("1\t|\t1\t|\tr\t|\n5\t|\t4\t|\tr\t|\n", "not a tree"),
        ("1\t|\t1\t|\tr\t|\n5\t|\t6\t|\tr\t|\n6\t|\t7\t|\tr\t|\n7\t|\t5\t|\tr\t|\n", "not a tree"),
        ("1\t|\t1\t|\tr\t|\n5\t|\t6\t|\tr\t|\n6\t|\t5\t|\tr\t|\n", "not a tree"),
    ],
)
def test_damage_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "nodes.dmp").write_text(text)
    with pytest.raises(CorpusError, match=message):
        Taxonomy.read(tmp_path)


def test_what_is_no_taxonomy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no nodes\.dmp here"):
        Taxonomy.read(tmp_path)
    with pytest.raises(CorpusError, match="no taxonomy here"):
        Taxonomy.read(tmp_path / "taxdump.tar.gz")
    (tmp_path / "taxdump.tar.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(CorpusError, match="cannot read the taxonomy"):
        Taxonomy.read(tmp_path / "taxdump.tar.gz")


def test_a_cut_archive_is_refused(folder: Path) -> None:
    path = archived(folder)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CorpusError):
        Taxonomy.read(path)
