"""Statistics of small corpora against counting them record by record."""

from __future__ import annotations

import gzip
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made import clustered_corpus, make_corpus, random_sequences

from plm_scaling.core.errors import CorpusError
from plm_scaling.corpus.floors import count_symbols
from plm_scaling.corpus.format import MANIFEST_NAME, FileEntry, Manifest, RecordCount
from plm_scaling.corpus.reader import Corpus
from plm_scaling.corpus.statistics import LENGTH_EDGES, QUANTILES, CorpusStatistics, corpus_statistics
from plm_scaling.laws.plateau import UNIPROT_PERCENT, composition_plateau


def rows_of(corpus: Corpus) -> list[tuple[int, str]]:
    """(source, sequence) of every record."""
    return [(int(corpus.source[row]), corpus.sequence(row)) for row in range(corpus.manifest.n_sequences)]


def tokens_of(sequences: list[str]) -> RecordCount:
    return RecordCount(sequences=len(sequences), tokens=sum(len(sequence) + 1 for sequence in sequences))


def check_copies(corpus: Corpus, found: CorpusStatistics) -> None:
    records = rows_of(corpus)
    held: list[set[str]] = [set() for _ in corpus.manifest.sources]
    within: list[list[str]] = [[] for _ in held]
    across: list[list[str]] = [[] for _ in held]
    owned: list[list[str]] = [[] for _ in held]
    seen: set[str] = set()
    for source, sequence in records:
        kind = within if sequence in held[source] else across if sequence in seen else owned
        kind[source].append(sequence)
        held[source].add(sequence)
        seen.add(sequence)
    for number, source in enumerate(found.sources):
        assert source.copies_within == tokens_of(within[number])
        assert source.copies_across == tokens_of(across[number])
        assert source.different_sequences == len(held[number])
        assert source.unique_sequences == len(owned[number])
        letters = Counter("".join(owned[number]))
        assert source.residues == ({k: letters[k] for k in "LAGVSERTIDPKQNFYMHWCXBUZO"} if owned[number] else {})
        for other in range(len(held)):
            share = len(held[number] & held[other]) / max(1, len(held[number]))
            assert found.overlap[number][other] == pytest.approx(share)
    times = Counter(Counter(sequence for _, sequence in records).values())
    for group in found.multiplicity:
        inside = {n: groups for n, groups in times.items() if group.smallest <= n <= group.largest}
        assert (group.groups, group.members) == (sum(inside.values()), sum(n * g for n, g in inside.items()))
    assert sum(group.groups for group in found.multiplicity) == len(seen) == found.total.unique_sequences
    assert found.total.copies_within == tokens_of([s for part in within for s in part])
    assert found.total.copies_across == tokens_of([s for part in across for s in part])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_copies_and_overlap(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    n_sources = data.draw(st.integers(1, 4))
    sequences = data.draw(
        st.lists(st.sampled_from(["LAGV", "LAG", "W", "WWC", "X", "MKVLAW", "C"]), min_size=1, max_size=40)
    )
    source = data.draw(st.lists(st.integers(0, n_sources - 1), min_size=len(sequences), max_size=len(sequences)))
    if data.draw(st.booleans()):
        source = sorted(source)  # as data_prep writes them
    source[0] = n_sources - 1 if n_sources > 1 and not data.draw(st.booleans()) else source[0]
    corpus = make_corpus(tmp_path_factory.mktemp("corpus") / "c", sequences, source=source)
    check_copies(corpus, corpus_statistics(corpus))


def without_effective(found: CorpusStatistics) -> CorpusStatistics:
    """Sums of fractions depend on their order in the last digit."""
    sources = tuple(source.model_copy(update={"effective_sequences": None}) for source in found.sources)
    return found.model_copy(update={"sources": sources})


def test_stretches_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from plm_scaling.corpus import statistics, statistics_scan

    corpus = clustered_corpus(tmp_path / "c", clusters=30, copies=60, sources=3)
    whole = corpus_statistics(corpus)
    check_copies(corpus, whole)
    monkeypatch.setattr(statistics_scan, "_ROWS", 7)
    monkeypatch.setattr(statistics, "_BLOCK", 9)
    pieces = corpus_statistics(corpus)
    effective = [source.effective_sequences for source in whole.sources]
    assert [source.effective_sequences for source in pieces.sources] == pytest.approx(effective)
    assert without_effective(pieces) == without_effective(whole)


def test_lengths(tmp_path: Path) -> None:
    sequences = random_sequences(np.random.default_rng(0), 300, mean=100, longest=2000)
    found = corpus_statistics(make_corpus(tmp_path / "c", [*sequences, sequences[0]]))
    for lengths, known in (
        (found.total.lengths, sorted(len(sequence) for sequence in sequences)),
        (found.sources[0].lengths, sorted(len(sequence) for sequence in [*sequences, sequences[0]])),
    ):
        assert lengths is not None
        assert (lengths.shortest, lengths.longest) == (known[0], known[-1])
        assert lengths.mean == pytest.approx(np.mean(known))
        assert lengths.quantiles == tuple(np.quantile(known, QUANTILES, method="inverted_cdf"))
        bins = np.histogram(known, bins=[*LENGTH_EDGES, 2**31])[0]
        assert lengths.histogram == tuple(bins[: len(lengths.histogram)])
        assert not bins[len(lengths.histogram) :].any()


def test_composition_is_the_plateau_of_a_law(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    sequences = random_sequences(rng, 400, mean=200, longest=800)
    corpus = make_corpus(tmp_path / "c", sequences, source=[0] * 250 + [1] * 150, n_shards=3)
    found = corpus_statistics(corpus)
    for part, letters in ((found.total, "".join(sequences)), (found.sources[1], "".join(sequences[250:]))):
        counts = np.array(list(Counter(letters).values()))
        n = len(sequences) if part is found.total else 150
        assert part.entropy_per_residue == pytest.approx(
            -(counts / counts.sum()) @ np.log(counts / counts.sum()), abs=1e-3
        )
        p = np.array([*counts, n]) / (counts.sum() + n)
        assert part.entropy_per_token == pytest.approx(-p @ np.log(p), abs=1e-3)
        assert part.mlm_plateau is not None
        assert part.mlm_plateau < part.entropy_per_residue
    assert found.total.residues == {
        letter: int(count_symbols(corpus)[4 + i]) for i, letter in enumerate("LAGVSERTIDPKQNFYMHWCXBUZO")
    }


def test_clusters(tmp_path: Path) -> None:
    corpus = clustered_corpus(tmp_path / "c", seed=3, clusters=50, copies=40, sources=3)
    found = corpus_statistics(corpus)
    first, source = corpus.first, corpus.source
    for sizes in found.cluster_sizes:
        cluster = corpus.cluster(sizes.percent)
        known = Counter(cluster[first].tolist())
        assert sizes.clusters == len(known)
        assert sizes.singletons == sum(n == 1 for n in known.values())
        assert sizes.largest == max(known.values())
        assert sum(group.groups for group in sizes.sizes) == len(known)
        assert sum(group.members for group in sizes.sizes) == first.sum()
        for group in sizes.sizes:
            assert group.groups == sum(group.smallest <= n <= group.largest for n in known.values())
    cluster = corpus.cluster(50)
    known = Counter(cluster[first].tolist())
    different = [
        {corpus.sequence(row): row for row in np.flatnonzero(source == number).tolist()} for number in range(3)
    ]
    of = [{int(cluster[row]) for row in rows.values()} for rows in different]
    for number, rows in enumerate(different):
        mine = [int(cluster[row]) for row in rows.values()]
        assert found.sources[number].effective_sequences == pytest.approx(sum(1 / known[c] for c in mine))
        for other in range(3):
            assert found.overlap50[number][other] == pytest.approx(sum(c in of[other] for c in mine) / len(mine))
    assert found.total.effective_sequences == len(known)
    assert found.notes == ()


def test_clusters_of_a_pool_whose_numbers_have_gaps(tmp_path: Path) -> None:
    found = corpus_statistics(make_corpus(tmp_path / "c", ["LAGV", "LAGM", "WW", "CC"], cluster50=[7, 7, 2, 9]))
    assert [(s.percent, s.clusters, s.singletons, s.largest) for s in found.cluster_sizes] == [
        (50, 3, 2, 2),
        (90, 4, 4, 1),
    ]


def with_taxa(corpus: Corpus, taxa: list[int]) -> Corpus:
    """The same corpus whose records have these taxa."""
    done, entries = 0, []
    for entry in corpus.manifest.index:
        path = corpus.path / entry.name
        table = pq.read_table(path)
        values = pa.array(taxa[done : done + len(table)], pa.uint32())
        pq.write_table(table.set_column(table.schema.get_field_index("taxon"), "taxon", values), path)
        done += len(table)
        entries.append(FileEntry(name=entry.name, bytes=path.stat().st_size, sha256=""))
    manifest = corpus.manifest.model_copy(update={"index": tuple(entries)})
    manifest.write(corpus.path / MANIFEST_NAME)
    return Corpus.open(corpus.path)


def test_taxa_and_viruses_are_of_the_training_data(tmp_path: Path) -> None:
    sequences = ["LAGV", "LAGVM", "WWC", "LAGV", "MMM", "KKKKK"]
    corpus = make_corpus(
        tmp_path / "c",
        sequences,
        source=[0, 0, 0, 1, 1, 1],
        flags=[["viral"], [], ["viral"], ["viral"], [], ["viral", "short"]],
        split=["train", "train", "val_iid", "train", "train", "train"],
    )
    found = corpus_statistics(with_taxa(corpus, [10, 9606, 10, 10, 0, 9606]))
    assert [(t.taxon, t.sequences, t.tokens) for t in found.taxa] == [(9606, 2, 12), (10, 1, 5)]
    assert found.n_taxa == 2
    assert found.taxon_unknown == RecordCount(sequences=1, tokens=4)
    assert found.total.train == RecordCount(sequences=4, tokens=21)
    assert found.total.viral == RecordCount(sequences=2, tokens=11)
    assert [source.viral for source in found.sources] == [RecordCount(sequences=1, tokens=n) for n in (5, 6)]


def test_the_twenty_commonest_taxa_are_listed(tmp_path: Path) -> None:
    sequences = random_sequences(np.random.default_rng(0), 60)
    corpus = with_taxa(make_corpus(tmp_path / "c", sequences), [1 + i % 30 for i in range(60)])
    found = corpus_statistics(corpus)
    tokens: Counter[int] = Counter()
    for i, sequence in enumerate(sequences):
        tokens[1 + i % 30] += len(sequence) + 1
    assert found.n_taxa == 30
    assert [taxon.tokens for taxon in found.taxa] == sorted(tokens.values(), reverse=True)[:20]


def test_a_corpus_of_the_first_schema_tells_what_it_can(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "c", ["LAGV", "LAG", "LAGV", "WW"], source=[0, 0, 1, 1])
    new = corpus_statistics(corpus)
    entries = []
    for entry in corpus.manifest.index:
        path = corpus.path / entry.name
        table = pq.read_table(path, columns=["accession", "source", "length", "hash", "offset", "first", "split"])
        pq.write_table(table, path)
        entries.append({"name": entry.name, "bytes": path.stat().st_size, "sha256": ""})
    manifest = json.loads((corpus.path / MANIFEST_NAME).read_text())
    manifest |= {"schema_version": 1, "index": entries}
    (corpus.path / MANIFEST_NAME).write_text(json.dumps(manifest))
    old = corpus_statistics(Corpus.open(corpus.path))
    assert old.notes == ("An older release prepared this corpus: it has no clusters, flags or taxa.",)
    assert "without clusters" in new.notes[0]
    unlike = {"notes": (), "corpus_id": "", "has_flags": False}
    assert old.model_copy(update=unlike) == new.model_copy(update=unlike)


def test_it_is_a_value_on_disk(tmp_path: Path) -> None:
    found = corpus_statistics(clustered_corpus(tmp_path / "c", copies=5, sources=2))
    assert CorpusStatistics.read(found.write(tmp_path / "statistics.json")) == found


def test_what_the_manifest_counts_is_passed_on(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "c", ["LAGV", "LAG", "WW"], source=[0, 1, 1])
    one, two = RecordCount(sequences=1, tokens=5), RecordCount(sequences=2, tokens=9)
    sources = (
        corpus.manifest.sources[0].model_copy(update={"flagged": {"short": one}, "dropped": {"viral": two}}),
        corpus.manifest.sources[1].model_copy(update={"flagged": {"short": two, "long": one}}),
    )
    manifest: Manifest = corpus.manifest.model_copy(update={"sources": sources})
    found = corpus_statistics(Corpus(corpus.path, manifest))
    assert found.sources[0].flagged == {"short": one}
    assert found.total.flagged == {"short": RecordCount(sequences=3, tokens=14), "long": one}
    assert found.total.dropped == {"viral": two}
    assert found.splits == manifest.splits


def test_the_plateau_of_uniprots_composition(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    share = np.array(list(UNIPROT_PERCENT.values()))
    letters = rng.choice(list(UNIPROT_PERCENT), p=share / share.sum(), size=(300, 300))
    found = corpus_statistics(make_corpus(tmp_path / "c", ["".join(row) for row in letters])).total
    assert found.entropy_per_residue == pytest.approx(composition_plateau("clm"), abs=3e-3)
    assert found.mlm_plateau == pytest.approx(composition_plateau("mlm"), abs=3e-3)


def write_fasta(path: Path, sequences: list[str]) -> Path:
    path.write_text("".join(f">s{i} some words\n{sequence}\n" for i, sequence in enumerate(sequences)))
    return path


def mutated(rng: np.random.Generator, sequence: str, share: float) -> str:
    letters = np.array(list(sequence))
    places = rng.choice(len(letters), round(share * len(letters)), replace=False)
    letters[places] = rng.choice(list("LAGVSERTIDPKQNFYMHWC"), len(places))
    return "".join(letters)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mmseqs") is None, reason="MMseqs2 is not installed")
def test_families_are_searched_for_in_the_training_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    one, two, *others = random_sequences(rng, 40, mean=150)
    near = [mutated(rng, one, 0.4), mutated(rng, one, 0.3), mutated(rng, two, 0.2), mutated(rng, two, 0.1)]
    split = ["train", "val_iid", "train", "train", *["train"] * len(others)]
    corpus = make_corpus(tmp_path / "c", [*near, *others], split=split)
    with gzip.open(tmp_path / "b.fasta.gz", "wt") as handle:
        handle.write(f">two\n{two[:40].lower()}\n{two[40:]}*\n")
    families = {"a": write_fasta(tmp_path / "a.fasta", [one, one[:-3]]), "b": tmp_path / "b.fasta.gz"}
    found = corpus_statistics(corpus, families=families)
    assert [(share.name, share.members, share.near) for share in found.families] == [
        ("a", 2, tokens_of(near[:1])),
        ("b", 1, tokens_of(near[2:])),
    ]


def test_without_mmseqs_a_note_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    corpus = make_corpus(tmp_path / "c", ["LAGV", "LAG"], cluster50=[0, 1])
    found = corpus_statistics(corpus, families={"a": write_fasta(tmp_path / "a.fasta", ["MKVLAW"])})
    assert found.families == ()
    assert "MMseqs2 is not installed" in found.notes[-1]


@pytest.mark.parametrize("text", ["", "MKV\n", ">a\n\n", ">a\nMK1V\n", "\x1f\x8b"])
def test_a_family_that_is_no_fasta_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.fasta").write_text(text)
    with pytest.raises(CorpusError, match=r"family"):
        corpus_statistics(make_corpus(tmp_path / "c", ["LAGV"]), families={"a": tmp_path / "a.fasta"})
    with pytest.raises(CorpusError, match=r"family"):
        corpus_statistics(make_corpus(tmp_path / "d", ["LAGV"]), families={"a": tmp_path / "none.fasta"})
