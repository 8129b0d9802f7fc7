"""Flags against definitions written out residue by residue; what is dropped, and how it is counted."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.filters import (
    EXCLUDED_TAXON,
    LAGS,
    NOT_INCLUDED_TAXON,
    BlockFilter,
    FilterSpec,
    flag_block,
    repeated_residues,
)
from plm_scaling.core.alphabet import EOS, STANDARD, encode
from plm_scaling.core.errors import ConfigError
from plm_scaling.corpus.format import FLAGS, RecordCount

NODES = """1\t|\t1\t|\tno rank\t|
10239\t|\t1\t|\tsuperkingdom\t|
11308\t|\t10239\t|\tfamily\t|
11320\t|\t11308\t|\tspecies\t|
9604\t|\t1\t|\tfamily\t|
9606\t|\t9604\t|\tspecies\t|
"""


def block_of(sequences: list[str]) -> Any:
    """What the parser gives of these sequences, as far as filters look at it."""
    tokens = [np.append(encode(sequence), EOS) for sequence in sequences]
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    return SimpleNamespace(tokens=np.concatenate([np.zeros(0, np.uint8), *tokens]).astype(np.uint8), lengths=lengths)


def fields_of(n: int, **columns: Any) -> Any:
    """Columns of n headers, of which those not given say nothing."""
    kinds = {"taxon": np.uint32, "evidence": np.uint8, "fragment": np.bool_, "viral": np.bool_}
    return SimpleNamespace(**{name: np.array(columns.get(name, [0] * n), dtype=kind) for name, kind in kinds.items()})


def names_of(flags: Any) -> list[set[str]]:
    return [{name for bit, name in enumerate(FLAGS) if int(value) >> bit & 1} for value in flags]


def flagged(sequences: list[str], spec: FilterSpec | None = None, **columns: Any) -> list[set[str]]:
    block, fields = block_of(sequences), fields_of(len(sequences), **columns)
    return names_of(flag_block(block, fields, spec or FilterSpec(min_length=0)))


def repeats_of(sequence: str) -> int:
    return sum(sequence[i] in sequence[i - LAGS : i] for i in range(LAGS, len(sequence)))


def random_protein(rng: np.random.Generator, length: int) -> str:
    return "".join(rng.choice(list(STANDARD), length))


@given(st.lists(st.text(alphabet="LAGX", min_size=1, max_size=300), min_size=1, max_size=30))
def test_repeated_residues_are_those_of_the_definition(sequences: list[str]) -> None:
    block = block_of(sequences)
    assert repeated_residues(block.tokens, block.lengths).tolist() == [repeats_of(s) for s in sequences]


def test_repeats_are_counted_over_the_borders_of_pieces_and_whatever_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    from data_prep import filters

    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(list("LAGVSX"), size)) for size in rng.integers(1, 400, 60)]
    expected = [repeats_of(sequence) for sequence in sequences]
    x_flags = [{"many_x"} <= names for names in flagged(sequences)]
    monkeypatch.setattr(filters, "_PIECE", 64)
    block = block_of(sequences)
    assert repeated_residues(block.tokens, block.lengths).tolist() == expected
    alone = [block_of([sequence]) for sequence in sequences]
    assert [int(repeated_residues(one.tokens, one.lengths)[0]) for one in alone] == expected
    assert [{"many_x"} <= names for names in flagged(sequences)] == x_flags


def test_constructed_repeats_are_simple_and_random_proteins_are_not() -> None:
    rng = np.random.default_rng(1)
    simple = ["Q" * 60, "AG" * 40, "PEV" * 40, random_protein(rng, 60) + "S" * 60, "".join(rng.choice(list("KR"), 100))]
    usual = [random_protein(rng, length) for length in (10, 20, 40, 80, 160, 320, 640, 1280) for _ in range(200)]
    assert all({"low_complexity"} <= names for names in flagged(simple))
    assert sum({"low_complexity"} <= names for names in flagged(usual)) <= 2


def test_longer_tandem_repeats_are_beyond_the_measure() -> None:
    """Said in the docstring; tantan would mask this."""
    assert flagged(["MKVLAWTERD" * 20]) == [set()]


def segments(sequence: str, window: int = 12, low: float = 2.2, high: float = 2.5) -> float:
    """Share of residues in SEG's segments: windows of at most `high` bits in a row of which one has at most `low`."""

    def bits(text: str) -> float:
        return -sum(p * math.log2(p) for p in (text.count(a) / window for a in set(text)))

    values = [bits(sequence[i : i + window]) for i in range(len(sequence) - window + 1)]
    inside = [False] * len(sequence)
    start = 0
    while start < len(values):
        stop = start
        while stop < len(values) and values[stop] <= high:
            stop += 1
        if stop > start and min(values[start:stop]) <= low:
            inside[start : stop + window - 1] = [True] * (stop + window - 1 - start)
        start = max(stop, start) + 1
    return sum(inside) / max(1, len(sequence))


def test_it_agrees_with_segments_of_low_entropy_on_real_proteins(test_data: Path) -> None:
    """What is flagged is mostly low-entropy by SEG's definition, what is not hardly ever."""
    import gzip

    from Bio import SeqIO

    with gzip.open(test_data / "corpus" / "fungidb-S_Pombe.fasta.gz", "rt") as handle:
        proteins = [str(record.seq).rstrip("*") for record in SeqIO.parse(handle, "fasta")]
    proteins = [protein for protein in proteins if set(protein) <= set(STANDARD)]
    found = np.array([{"low_complexity"} <= names for names in flagged(proteins)])
    chosen = [protein for protein, simple in zip(proteins, found, strict=True) if simple]
    others = [protein for protein, simple in zip(proteins, found, strict=True) if not simple][::40]
    assert 10 <= len(chosen) <= 0.02 * len(proteins)
    assert np.mean([segments(protein) >= 0.3 for protein in chosen]) >= 0.9
    assert np.mean([segments(protein) >= 0.5 for protein in others]) <= 0.02


def test_thresholds_are_where_they_are_said_to_be() -> None:
    spec = FilterSpec(min_length=30, max_length=100, max_x_share=0.05)
    rng = np.random.default_rng(3)
    lengths = (29, 30, 100, 101)
    assert flagged([random_protein(rng, n) for n in lengths], spec) == [{"short"}, set(), set(), {"long"}]
    body = random_protein(rng, 95)
    assert flagged(["X" * 5 + body, "X" * 6 + body[1:]], spec) == [set(), {"many_x"}]
    body = random_protein(rng, 50)
    assert flagged([body] * 6, spec, evidence=range(6)) == [set()] * 4 + [{"weak_evidence"}] * 2
    assert flagged([body] * 2, spec, fragment=[0, 1], viral=[1, 0]) == [{"viral"}, {"fragment"}]


def test_only_flags_asked_for_are_set() -> None:
    spec = FilterSpec(flags=("short",), drop=("viral",))
    assert flagged(["QQQQ", "M" * 50], spec, fragment=[1, 1], viral=[1, 1]) == [{"short", "viral"}, {"viral"}]


def test_equal_choices_are_equal_values() -> None:
    one, other = (
        FilterSpec(drop=("viral", "short"), exclude_taxa=(2, 1, 2)),
        FilterSpec(drop=("short", "viral"), exclude_taxa=(1, 2)),
    )
    assert one == other
    assert one.content_hash() == other.content_hash()
    assert FilterSpec().identity() == {}


def test_a_misspelt_flag_is_named(tmp_path: Path) -> None:
    (tmp_path / "filters.toml").write_text('drop = ["fragments"]\n')
    with pytest.raises(ConfigError, match="no flag is called 'fragments'; did you mean fragment"):
        FilterSpec.read_toml(tmp_path / "filters.toml")


def test_drops_are_counted_under_their_first_reason() -> None:
    rng = np.random.default_rng(4)
    sequences = [random_protein(rng, n) for n in (50, 20, 20, 60, 3000)]
    spec = FilterSpec(drop=("short", "fragment"), exclude_taxa=(7,))
    chosen = BlockFilter(spec)
    fields = fields_of(5, fragment=[1, 1, 0, 0, 0], taxon=[7, 7, 0, 5, 0])
    flags, keep = chosen.judge(block_of(sequences), fields)
    assert keep.tolist() == [False, False, False, True, True]
    assert names_of(flags) == [{"fragment"}, {"fragment", "short"}, {"short"}, set(), {"long"}]
    assert chosen.dropped == {
        EXCLUDED_TAXON: RecordCount(sequences=2, tokens=72),
        "short": RecordCount(sequences=1, tokens=21),
    }
    assert chosen.flagged[FLAGS.index("long")].tolist() == [1, 3001]
    assert chosen.flagged.sum() == 3002
    chosen.judge(block_of(sequences), fields)
    assert chosen.dropped["short"] == RecordCount(sequences=2, tokens=42)
    assert chosen.flagged[FLAGS.index("long")].tolist() == [2, 6002]


@settings(max_examples=50)
@given(st.data())
def test_counts_agree_with_the_records(data: st.DataObject) -> None:
    """Kept and dropped records add up to all of them, each counted once."""
    n = data.draw(st.integers(0, 25))
    sequences = [data.draw(st.text(alphabet="LAGX", min_size=1, max_size=60)) for _ in range(n)]
    bools = st.lists(st.booleans(), min_size=n, max_size=n)
    fields = fields_of(n, fragment=data.draw(bools), viral=data.draw(bools), taxon=data.draw(
        st.lists(st.sampled_from([0, 3, 4]), min_size=n, max_size=n)))  # fmt: skip
    spec = FilterSpec(
        drop=tuple(data.draw(st.sets(st.sampled_from(FLAGS)))), include_taxa=tuple(data.draw(st.sets(st.just(3))))
    )
    chosen = BlockFilter(spec)
    flags, keep = chosen.judge(block_of(sequences), fields)
    names = names_of(flags)
    stays = [not (names[i] & set(spec.drop)) and (not spec.include_taxa or fields.taxon[i] == 3) for i in range(n)]
    assert keep.tolist() == stays
    assert sum(count.sequences for count in chosen.dropped.values()) == stays.count(False)
    lost = sum(len(sequence) + 1 for sequence, stay in zip(sequences, stays, strict=True) if not stay)
    assert sum(count.tokens for count in chosen.dropped.values()) == lost
    for bit, flag in enumerate(FLAGS):
        kept = [len(s) + 1 for s, own, stay in zip(sequences, names, stays, strict=True) if stay and flag in own]
        assert chosen.flagged[bit].tolist() == [len(kept), sum(kept)]


def test_clades_come_from_the_taxonomy(tmp_path: Path) -> None:
    (tmp_path / "nodes.dmp").write_text(NODES)
    sequences = ["MKVLAWTERD"] * 5
    fields = fields_of(5, taxon=[11320, 9606, 0, 0, 9604], viral=[0, 1, 1, 0, 0])
    spec = FilterSpec(min_length=0)
    assert names_of(BlockFilter(spec).judge(block_of(sequences), fields)[0]) == [
        set(),
        {"viral"},
        {"viral"},
        set(),
        set(),
    ]
    by_tree = BlockFilter(spec, str(tmp_path)).judge(block_of(sequences), fields)[0]
    assert names_of(by_tree) == [{"viral"}, set(), {"viral"}, set(), set()]
    for taxonomy, stays in (
        ("", [False, False, False, False, True]),
        (str(tmp_path), [False, True, False, False, True]),
    ):
        chosen = BlockFilter(FilterSpec(include_taxa=(9604,)), taxonomy)
        assert chosen.judge(block_of(sequences), fields)[1].tolist() == stays
        assert set(chosen.dropped) == {NOT_INCLUDED_TAXON}


def test_a_taxon_unknown_to_the_taxonomy_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "nodes.dmp").write_text(NODES)
    with pytest.raises(ConfigError, match="no taxon 77"):
        BlockFilter(FilterSpec(exclude_taxa=(77,)), str(tmp_path))
