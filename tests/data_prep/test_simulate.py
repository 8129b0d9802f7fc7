import itertools
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from data_prep.simulate import (
    TRUTH_NAME,
    MetagenomeSettings,
    SimulationSettings,
    SimulationTruth,
    SourceSettings,
    SourceTruth,
    simulate_corpus,
)
from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.errors import ConfigError

NAMES = ("uniref_like", "metagenome_like")
SMALL = SimulationSettings(n_domains=60, n_families=200, n_new_domains=60, n_new_families=200)


def records(path: Path) -> list[tuple[str, int, int, str]]:
    """(accession, family, clade, sequence) of every record."""
    lines = path.read_text().splitlines()
    found = []
    for header, sequence in zip(lines[::2], lines[1::2], strict=True):
        accession, family, clade = header.removeprefix(">").split(" ")
        found.append((accession, int(family.removeprefix("fam=")), int(clade.removeprefix("clade=")), sequence))
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SimulationTruth]:
    out = tmp_path_factory.mktemp("simulated")
    return out, simulate_corpus(out, residues=300_000, seed=3, settings=SMALL)


@pytest.fixture(scope="module")
def recommended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SimulationTruth]:
    out = tmp_path_factory.mktemp("recommended")
    return out, simulate_corpus(out, residues=1_500_000)


def test_truth_counts_what_the_files_hold(corpus: tuple[Path, SimulationTruth]) -> None:
    out, truth = corpus
    for source in truth.sources:
        found = records(out / source.file)
        text = "".join(record[3] for record in found)
        assert source.records == len(found)
        assert source.residues == len(text)
        assert source.residue_counts == tuple(text.count(letter) for letter in STANDARD)
        assert sum(source.residue_counts) == source.residues
        families = np.bincount([record[1] for record in found], minlength=400)
        assert source.family_records == tuple(families)


def test_exact_duplicates_are_the_planted_ones(corpus: tuple[Path, SimulationTruth]) -> None:
    out, truth = corpus
    first, second = ([record[3] for record in records(out / f"{name}.fasta")] for name in NAMES)
    assert truth.sources[0].unique_records == len(set(first))
    assert truth.sources[0].duplicates_within == len(first) - len(set(first))
    assert truth.sources[0].duplicates_across == 0
    across = sum(sequence in set(first) for sequence in second)
    assert truth.sources[1].duplicates_across == across
    assert truth.sources[1].unique_records == len(set(second) - set(first))
    for source in truth.sources:
        assert source.records == source.unique_records + source.duplicates_within + source.duplicates_across
        assert source.duplicates_within / source.records == pytest.approx(0.05, abs=0.01)
    assert across / len(second) == pytest.approx(0.03, abs=0.01)


def test_duplicate_shares_are_chosen(tmp_path: Path) -> None:
    none = SMALL.model_copy(
        update={
            "uniref": SourceSettings(duplicate_share=0.0),
            "metagenome": MetagenomeSettings(duplicate_share=0.3, shared_share=0.25),
        }
    )
    first, second = simulate_corpus(tmp_path, residues=300_000, settings=none).sources
    assert first.unique_records == first.records
    assert second.duplicates_within / second.records == pytest.approx(0.3, abs=0.03)
    assert second.duplicates_across / second.records == pytest.approx(0.25, abs=0.03)


def test_headers_number_the_records_and_name_family_and_clade(corpus: tuple[Path, SimulationTruth]) -> None:
    out, truth = corpus
    for name, prefix, n_families in zip(NAMES, ("UR", "MG"), (200, 400), strict=True):
        found = records(out / f"{name}.fasta")
        assert [record[0] for record in found] == [f"{prefix}_{i:07d}" for i in range(1, len(found) + 1)]
        assert max(record[1] for record in found) < n_families
        assert all(truth.halves[family] == clade // 4 for _, family, clade, _ in found)
        assert {record[2] for record in found} == set(range(8))


def test_metagenome_holds_families_the_first_source_lacks(corpus: tuple[Path, SimulationTruth]) -> None:
    first, second = (np.array(source.family_records) for source in corpus[1].sources)
    assert first[200:].sum() == 0
    assert second[200:].sum() > 0.2 * second.sum()
    assert (second[:200] > 0).sum() > 50


def test_residues_end_with_the_record_that_reaches_each_share(corpus: tuple[Path, SimulationTruth]) -> None:
    out, truth = corpus
    for source, quota in zip(truth.sources, (180_000, 120_000), strict=True):
        last = len(records(out / source.file)[-1][3])
        assert quota <= source.residues < quota + last


def test_a_record_descends_from_its_family(corpus: tuple[Path, SimulationTruth]) -> None:
    """Members of a family and clade share far more of their words than members of two families."""
    found = records(corpus[0] / "uniref_like.fasta")
    groups: dict[tuple[int, int], list[set[str]]] = {}
    for _, family, clade, sequence in found:
        words = {sequence[i : i + 4] for i in range(len(sequence) - 3)}
        groups.setdefault((family, clade), []).append(words)
    pairs = [members[:2] for members in groups.values() if len(members) > 1][:200]
    assert len(pairs) > 100
    within = np.mean([len(a & b) / min(len(a), len(b)) for a, b in pairs])
    between = np.mean([len(a[0] & b[0]) / min(len(a[0]), len(b[0])) for a, b in itertools.pairwise(pairs)])
    assert within > 0.5
    assert between < 0.2


def test_families_share_domains_and_the_truth_knows_tree_and_lengths(corpus: tuple[Path, SimulationTruth]) -> None:
    truth = corpus[1]
    assert len(truth.architectures) == len(truth.halves) == 400
    used = [domain for chain in truth.architectures for domain in chain]
    assert len(used) > 2 * len(set(used))
    assert max(domain for chain in truth.architectures[:200] for domain in chain) < 60 <= max(used)
    assert {len(chain) for chain in truth.architectures} == {1, 2, 3}
    assert 15 <= min(truth.domain_lengths) < np.median(truth.domain_lengths) < max(truth.domain_lengths) <= 200
    assert (
        truth.tree
        == "(((0:0.04,1:0.04):0.04,(2:0.04,3:0.04):0.04):0.04,((4:0.04,5:0.04):0.04,(6:0.04,7:0.04):0.04):0.04);"
    )
    assert np.mean(truth.site_rates) == pytest.approx(1.0)
    assert truth.background_entropy == pytest.approx(2.9, abs=0.05)


def test_family_sizes_follow_the_zipf_exponent(recommended: tuple[Path, SimulationTruth]) -> None:
    sizes = np.sort(recommended[1].sources[0].family_records)[::-1]
    slope = np.polyfit(np.log(np.arange(1, 31)), np.log(sizes[:30]), 1)[0]
    assert slope == pytest.approx(-1.4, abs=0.2)
    top = [max(source.family_records) / source.records for source in recommended[1].sources]
    assert 0.25 < top[0] < 0.4
    assert top[1] < top[0]


def conditional_entropy(source: SourceTruth, out: Path, order: int) -> float:
    """Held-out cross-entropy, nats, of residues given the `order` before them (add-0.05 counts)."""
    sequences = list(dict.fromkeys(record[3] for record in records(out / source.file)))[:5_000]
    half = len(sequences) * 9 // 10
    counts: dict[str, dict[str, int]] = {}
    for sequence in sequences[:half]:
        for i in range(order, len(sequence)):
            row = counts.setdefault(sequence[i - order : i], {})
            row[sequence[i]] = row.get(sequence[i], 0) + 1
    losses = []
    for sequence in sequences[half:]:
        for i in range(order, len(sequence)):
            row = counts.get(sequence[i - order : i], {})
            losses.append(-np.log((row.get(sequence[i], 0) + 0.05) / (sum(row.values()) + 1.0)))
    return float(np.mean(losses))


def test_recommended_settings_hold_learnable_structure(recommended: tuple[Path, SimulationTruth]) -> None:
    out, truth = recommended
    unigram, trigram = (conditional_entropy(truth.sources[0], out, order) for order in (0, 2))
    assert unigram == pytest.approx(2.88, abs=0.08)
    assert unigram == pytest.approx(truth.sources[0].unigram_entropy, abs=0.03)
    assert 1.7 < trigram < unigram - 0.5
    assert trigram < conditional_entropy(truth.sources[1], out, 2)  # the second source is the more diverse
    lengths = [source.residues / source.records for source in truth.sources]
    assert lengths == pytest.approx([53.0, 53.0], rel=0.2)


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        simulate_corpus(tmp_path / name, residues=20_000, seed=seed, settings=SMALL)
    for file in (*(f"{name}.fasta" for name in NAMES), TRUTH_NAME):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        assert (tmp_path / "a" / file).read_bytes() != (tmp_path / "c" / file).read_bytes()


def test_a_smaller_corpus_is_a_prefix_of_a_larger_one(
    tmp_path: Path, recommended: tuple[Path, SimulationTruth]
) -> None:
    simulate_corpus(tmp_path, residues=1_200_000)
    for name in NAMES:
        small, large = ((folder / f"{name}.fasta").read_bytes() for folder in (tmp_path, recommended[0]))
        assert len(small) < len(large)
        assert large.startswith(small)


def test_truth_is_read_back_as_written(corpus: tuple[Path, SimulationTruth]) -> None:
    assert SimulationTruth.read(corpus[0] / TRUTH_NAME) == corpus[1]


def test_tiny_corpora_hold_both_sources(tmp_path: Path) -> None:
    truth = simulate_corpus(tmp_path, residues=2, settings=SMALL)
    assert [source.records for source in truth.sources] == [1, 1]


def test_one_family_is_enough_for_a_few_records(tmp_path: Path) -> None:
    one = SimulationSettings(n_domains=1, n_families=1, n_new_domains=0, n_new_families=0)
    truth = simulate_corpus(tmp_path, residues=5000, settings=one)
    assert len(truth.architectures) == 1


@pytest.mark.parametrize(("residues", "seed", "word"), [(1, 0, "residues"), (-5, 0, "residues"), (100, -1, "seed")])
def test_senseless_sizes_and_seeds_are_refused(tmp_path: Path, residues: int, seed: int, word: str) -> None:
    with pytest.raises(ConfigError) as error:
        simulate_corpus(tmp_path / "out", residues=residues, seed=seed)
    assert error.value.where == word
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_way_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ConfigError, match="not a folder"):
        simulate_corpus(tmp_path / "out", residues=1000)
    assert (tmp_path / "out").read_text() == "mine"


def test_too_narrow_settings_are_named_and_leave_no_file(tmp_path: Path) -> None:
    frozen = SimulationSettings(
        n_domains=2,
        n_families=2,
        linker_length=0.0,
        uniref=SourceSettings(tip_length=0.0),
        metagenome=MetagenomeSettings(tip_length=0.0),
    )
    with pytest.raises(ConfigError, match="distinct sequences") as error:
        simulate_corpus(tmp_path, residues=1000, settings=frozen)
    assert "families" in error.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change", [{"n_domains": 0}, {"metagenome_share": 1.0}, {"gamma_alpha": 0.0}, {"domain_length": 500.0}]
)
def test_settings_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SimulationSettings.model_validate(change)
