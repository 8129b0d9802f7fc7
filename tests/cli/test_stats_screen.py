"""What `prep stats` prints, from a corpus written by hand."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from plm_scaling.cli.stats_screen import families_of, print_statistics
from plm_scaling.core.errors import ConfigError
from plm_scaling.corpus.format import FLAGS, Leakage, RecordCount
from plm_scaling.corpus.statistics import VIRAL_CHOICE, CorpusStatistics, TaxonShare, corpus_statistics
from plm_scaling.corpus.statistics_families import FamilyShare

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CorpusStatistics:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "corpus"))
    from made import make_corpus

    corpus = make_corpus(
        tmp_path / "c",
        ["LAGV", "LAGVM", "WWCWWC", "LAGV", "LAGV", "MMM"],
        source=[0, 0, 0, 0, 1, 1],
        cluster50=[0, 0, 1, 0, 0, 2],
        split=["train", "train", "val_iid", "train", "train", "train"],
        names=["known", "meta"],
    )
    plain = corpus_statistics(corpus)
    two = RecordCount(sequences=2, tokens=9)
    return plain.model_copy(
        update={
            "total": plain.total.model_copy(update={"flagged": {"viral": two}, "dropped": {"excluded_taxon": two}}),
            "sources": (plain.sources[0].model_copy(update={"flagged": {"viral": two}}), plain.sources[1]),
            "taxa": (TaxonShare(taxon=9606, sequences=1, tokens=5),),
            "families": (FamilyShare(name="AAV", members=3, near=RecordCount(sequences=1, tokens=4)),),
            "leakage": (
                Leakage(split="val_iid", sequences=40, hits_before=10, dropped=two, hits_after=1, bins=(20, 10, 7, 1)),
            ),
        }
    )


def tables_of(text: str) -> dict[str, list[list[str]]]:
    """Title -> the words of each line, header included."""
    parts = [part.splitlines() for part in text.strip().split("\n\n")]
    return {lines[0].strip(): [line.split() for line in lines[1:]] for lines in parts}


def test_a_table_per_question(found: CorpusStatistics, capsys: Capture) -> None:
    print_statistics(found, "human")
    tables = tables_of(capsys.readouterr().out)
    sources = tables[f"corpus c, id {found.corpus_id[:12]}"]
    assert sources[1:] == [
        ["known", "4", "23", "18", "21.7", "0", "2"],
        ["meta", "2", "9", "4", "0", "55.6", "2"],
        ["all", "6", "32", "22", "15.6", "15.6", "3"],
    ]
    assert tables["unique sequences by the number of their records"][1:] == [["1", "3", "3"], ["3-4", "1", "3"]]
    assert tables["sequences that two sources share, % of the first one's"][1:] == [
        ["meta", "known", "50.0", "50.0"],
        ["known", "meta", "33.3", "66.7"],
    ] or tables["sequences that two sources share, % of the first one's"][1:] == [
        ["known", "meta", "33.3", "66.7"],
        ["meta", "known", "50.0", "50.0"],
    ]
    assert tables["clusters of the unique sequences"][1:] == [["50", "%", "3", "2", "2"], ["90", "%", "4", "4", "1"]]
    assert tables["sizes of the clusters"][1:] == [["1", "2", "50.0", "4", "100"], ["2", "1", "50.0", "0", "0"]]
    assert ["val_iid", "1", "7"] in tables["splits"]
    leaks = tables["held-out sequences near training (>= 50 % identity), and % by identity to the nearest"]
    assert leaks[1] == ["val_iid", "40", "25.0", "2", "2.63", "52.6", "26.3", "18.4", "2.63"]
    assert tables["flags"][1] == ["viral", "2", "9", "28.1", "known", "(39.1", "%)"]
    assert tables["left out by the preparation"][1] == ["excluded_taxon", "2", "9", "22.0"]
    assert tables["taxa of the training tokens"][1] == ["9606", "1", "5", "33.3"]
    assert tables["families of interest in the training tokens"][1] == ["3", "AAV", "1", "4", "26.7"]
    assert any(title.startswith("viral: 0 %") and title.endswith(VIRAL_CHOICE) for title in tables)


def test_lengths_and_entropies(found: CorpusStatistics, capsys: Capture) -> None:
    print_statistics(found, "human")
    rows = tables_of(capsys.readouterr().out)["lengths in residues, and nats of the unigram entropy"]
    total = found.total
    assert rows[-1] == ["all", "3", "3", "4", "4", "6", "6"] + [
        f"{value:.4f}" for value in (total.entropy_per_residue, total.entropy_per_token, total.mlm_plateau)
    ]


def test_questions_without_an_answer_are_left_out(found: CorpusStatistics, capsys: Capture) -> None:
    none = {"flagged": {}, "dropped": {}, "effective_sequences": None}
    old = found.model_copy(
        update={
            "sources": (found.sources[0].model_copy(update=none),),
            "total": found.total.model_copy(update=none),
            "overlap": ((1.0,),), "overlap50": (), "cluster_sizes": (), "leakage": (), "taxa": (), "families": (),
            "has_flags": False, "notes": ("An older release prepared this corpus.",),
        }
    )  # fmt: skip
    print_statistics(old, "human")
    screen = capsys.readouterr()
    assert list(tables_of(screen.out)) == [
        f"corpus c, id {found.corpus_id[:12]}",
        "lengths in residues, and nats of the unigram entropy",
        "unique sequences by the number of their records",
        "splits",
    ]
    assert "effective" not in screen.out
    assert screen.err == "note: An older release prepared this corpus.\n"


def test_programs_get_the_value_or_a_row_per_source(found: CorpusStatistics, capsys: Capture) -> None:
    print_statistics(found, "json")
    data = json.loads(capsys.readouterr().out)
    assert data.pop("schema_version") == 1
    assert CorpusStatistics.model_validate(data) == found
    print_statistics(found, "csv")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["name"], row["unique_tokens"], row["median_length"]) for row in rows] == [
        ("known", "18", "4"),
        ("meta", "4", "3"),
        ("all", "22", "4"),
    ]
    assert [row["viral_tokens"] for row in rows] == ["0", "0", "0"]  # of the training split
    assert [row["flagged_viral_tokens"] for row in rows] == ["9", "0", "9"]
    assert all(f"flagged_{flag}_tokens" in rows[0] for flag in FLAGS)


def test_families_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.fasta").write_text(">a\nMKV\n")
    assert families_of([f"AAV={tmp_path / 'a.fasta'}"]) == {"AAV": tmp_path / "a.fasta"}
    assert families_of([]) == {}
    for words, message in (
        (["AAV"], "NAME=FASTA"),
        ([f"={tmp_path / 'a.fasta'}"], "NAME=FASTA"),
        ([f"AAV={tmp_path / 'a.fasta'}"] * 2, "the name is taken"),
        ([f"AAV={tmp_path / 'b.fasta'}"], "no such file"),
    ):
        with pytest.raises(ConfigError) as error:
            families_of(words)
        assert message in str(error.value)
