"""Pictures of a corpus and its section of the report: what is drawn, what is left out, and what stands in them."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from plm_scaling.corpus.format import FLAGS, Leakage, RecordCount, SplitStats
from plm_scaling.corpus.statistics import (
    ClusterSizes,
    CorpusStatistics,
    Lengths,
    SizeBin,
    SourceStatistics,
    TaxonShare,
)
from plm_scaling.reporting.corpus_figures import CORPUS_PICTURES, corpus_panels, draw_corpus
from plm_scaling.reporting.corpus_section import corpus_sections
from plm_scaling.reporting.page import render_page
from plm_scaling.reporting.study import Study

RESIDUES = {letter: 100 + 10 * i for i, letter in enumerate("LAGVSERTIDPKQNFYMHWCXBUZO")}


def some(sequences: int) -> RecordCount:
    return RecordCount(sequences=sequences, tokens=300 * sequences)


def source(name: str, n: int, **changes: Any) -> SourceStatistics:
    fields = {
        "name": name, "sequences": n, "tokens": 300 * n, "unique_sequences": n - 30, "unique_tokens": 300 * (n - 30),
        "different_sequences": n - 10, "copies_within": some(10), "copies_across": some(20),
        "lengths": Lengths(shortest=5, longest=900, mean=300, quantiles=(20, 50, 200, 300, 400, 700, 850),
                           histogram=(1, *range(1, 20))),
        "residues": RESIDUES, "entropy_per_residue": 2.89, "entropy_per_token": 2.9, "mlm_plateau": 2.72,
        "train": some(n - 40), "viral": some(7), "effective_sequences": n / 2,
        "flagged": {"viral": some(8), "short": some(1)},
    }  # fmt: skip
    return SourceStatistics.model_validate(fields | changes)


def leakage(split: str, n: int, near: int, dropped: int, bins: tuple[int, int, int, int]) -> Leakage:
    return Leakage(
        split=split, sequences=n, hits_before=near, dropped=some(dropped), hits_after=near - dropped, bins=bins
    )


def statistics(names: tuple[str, ...] = ("alpha", "beta<b>"), **changes: Any) -> CorpusStatistics:
    sources = tuple(source(name, 1000 + 100 * i) for i, name in enumerate(names))
    overlap = tuple(tuple(1.0 if i == j else 0.1 for j in range(len(names))) for i in range(len(names)))
    sizes = tuple(SizeBin(smallest=k // 2 + 1, largest=k, groups=200 // k, members=200) for k in (1, 2, 4, 8))
    fields = {
        "corpus_id": "c0ffee" * 8, "name": "made", "sources": sources, "total": source("all", 5000),
        "multiplicity": sizes, "overlap": overlap, "overlap50": overlap,
        "cluster_sizes": [
            ClusterSizes(percent=percent, clusters=375, singletons=200, largest=7, sizes=sizes) for percent in (50, 90)
        ],
        "n_taxa": 1, "taxa": (TaxonShare(taxon=9606, sequences=3, tokens=900),), "taxon_unknown": some(9),
        "splits": [SplitStats(name=name, sequences=90, tokens=2700) for name in ("train", "val_iid", "val_cluster")],
        "leakage": [
            leakage("val_iid", 100, 60, 0, (20, 20, 30, 30)),
            leakage("val_cluster", 90, 5, 5, (60, 25, 0, 0)),
        ],
    }  # fmt: skip
    return CorpusStatistics.model_validate(fields | changes)


def bare() -> CorpusStatistics:
    """One source of an older release, without copies."""
    none = {"copies_within": some(0), "copies_across": some(0), "flagged": {}, "effective_sequences": None}
    return statistics(
        ("alone",), sources=(source("alone", 1000, **none),), total=source("all", 1000, **none), overlap50=(),
        cluster_sizes=(), leakage=(), taxa=(), n_taxa=0, has_flags=False, notes=("An older release.",),
    )  # fmt: skip


def test_every_picture_is_a_file_and_those_of_an_earlier_corpus_go(tmp_path: Path) -> None:
    drawn = draw_corpus(statistics(), tmp_path)
    assert [path.name for path in drawn] == [f"corpus-{name}.svg" for name in CORPUS_PICTURES]
    assert all(path.stat().st_size > 2000 for path in drawn)
    assert sorted(tmp_path.iterdir()) == sorted(drawn)
    drawn = draw_corpus(bare(), tmp_path)
    assert [path.name for path in drawn] == ["corpus-lengths.svg", "corpus-composition.svg"]
    assert sorted(tmp_path.iterdir()) == sorted(drawn)


def axes_of(name: str, found: CorpusStatistics) -> Any:
    panel = CORPUS_PICTURES[name].maker(found)
    assert panel is not None
    axes = Figure().subplots()
    panel.draw(axes)
    return axes


def test_lengths_are_shares_per_doubling() -> None:
    """Over the doublings they add up to all sequences."""
    from plm_scaling.corpus.statistics import LENGTH_EDGES

    axes = axes_of("lengths", statistics())
    share = axes.lines[0].get_ydata()
    doublings = np.diff(np.log2(LENGTH_EDGES[: len(share) + 1]))
    assert (share * doublings).sum() == pytest.approx(100)
    assert [line.get_label() for line in axes.lines] == ["all, unique", "alpha", "beta<b>"]


def test_copies_add_up_to_all_tokens() -> None:
    axes = axes_of("copies", statistics())
    widths = np.array([[bar.get_width() for bar in bars] for bars in axes.containers])
    assert widths.shape == (3, 2)
    assert widths.sum(axis=0) == pytest.approx(100)
    assert widths[:, 0] == pytest.approx([97, 1, 2])


def test_identities_are_shares_of_each_split() -> None:
    axes = axes_of("identities", statistics())
    widths = np.array([[bar.get_width() for bar in bars] for bars in axes.containers])
    expected = np.array([[20, 20, 30, 30], [6000 / 85, 2500 / 85, 0, 0]])
    assert np.allclose(widths.T, expected)


def test_composition_is_against_swiss_prot() -> None:
    from plm_scaling.laws.plateau import UNIPROT_PERCENT

    axes = axes_of("composition", statistics())
    letters = [label.get_text() for label in axes.get_xticklabels()]
    ratios = next(line.get_ydata() for line in axes.lines if line.get_label() == "all, unique")
    total = sum(RESIDUES[letter] for letter in letters)
    for letter, ratio in zip(letters, ratios, strict=True):
        usual = UNIPROT_PERCENT[letter] / sum(UNIPROT_PERCENT.values())
        assert ratio == pytest.approx(RESIDUES[letter] / total / usual)


def test_clusters_reach_all_sequences() -> None:
    axes = axes_of("clusters", statistics())
    assert axes.lines[0].get_xdata() == pytest.approx([1, 2, 4, 7])
    assert axes.lines[0].get_ydata() == pytest.approx([25, 50, 75, 100])


def test_the_map_prefers_clusters_and_shows_a_row_per_source() -> None:
    half = ((1.0, 0.5), (0.25, 1.0))
    axes = axes_of("overlap", statistics(overlap50=half))
    assert [text.get_text() for text in axes.texts] == ["100", "50", "25", "100"]
    exact = axes_of("overlap", statistics(overlap50=()))
    assert [text.get_text() for text in exact.texts] == ["100", "10", "10", "100"]


def test_of_many_sources_the_largest_are_shown_and_it_says_so(tmp_path: Path) -> None:
    names = tuple(f"a-source-with-a-long-name-{i:02d}" for i in range(30))
    found = statistics(names)
    text = "".join(path.read_text() for path in draw_corpus(found, tmp_path))
    assert "largest 5 of 30 sources" in text
    assert "largest 12 of 30 sources" in text
    assert "-name-29" in text
    assert "-name-03" not in text


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_can_be_drawn(flag: str) -> None:
    total = source("all", 5000, flagged={flag: some(50)})
    axes = axes_of("flags", statistics(total=total))
    assert [label.get_text() for label in axes.get_yticklabels()] == [flag.replace("_", " ")]
    assert axes.patches[0].get_width() == pytest.approx(1.0)


def test_degenerate_corpora_are_drawn() -> None:
    """One sequence of one residue; a source that owns nothing."""
    one = Lengths(shortest=1, longest=1, mean=1, quantiles=(1,) * 7, histogram=(1,))
    nothing = source("empty", 10, residues={}, lengths=None, entropy_per_residue=None, unique_tokens=0)
    found = statistics(
        sources=(source("one", 1, lengths=one, residues={"L": 1}), nothing), total=source("all", 1, lengths=one)
    )
    assert len(corpus_panels(found)) == len(CORPUS_PICTURES)


def test_the_section_of_the_report(full_study: Study) -> None:
    assert corpus_sections(full_study) == ()
    page = render_page(dataclasses.replace(full_study, laws={}, curves={}, transfer=None, statistics=statistics()))
    assert '<section id="corpus">' in page
    assert 'href="#corpus"' in page
    assert "biosecurity" in page
    assert "beta&lt;b&gt;" in page
    assert "beta<b>" not in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_the_section_says_what_is_not_known(full_study: Study) -> None:
    (section,) = corpus_sections(dataclasses.replace(full_study, statistics=bare()))
    assert section.reading.endswith("An older release.")
    assert "biosecurity" not in section.reading
    assert len(section.panels) == 2
    assert [table.title for table in section.tables] == ["Lengths, and the loss of residue frequencies alone"]


def test_a_small_corpus_of_a_study_is_read(
    write_study: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large or damaged one the page shows what the manifest says."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "corpus"))
    from made import make_corpus

    from plm_scaling.reporting import loading

    folder = write_study(tmp_path / "study")
    shutil.rmtree(folder / "corpus", ignore_errors=True)
    make_corpus(folder / "corpus", ["LAGV", "LAG", "LAGV"], source=[0, 0, 1])
    study = loading.load_study(folder)
    assert study.statistics is not None
    assert study.statistics.total.unique_sequences == 2
    monkeypatch.setattr(loading, "_MOST_SEQUENCES", 2)
    assert loading.load_study(folder).statistics is None
    monkeypatch.undo()
    (folder / "corpus" / "shards" / "000000.bin").unlink()
    study = loading.load_study(folder)
    assert study.statistics is None
    assert study.manifest is not None
