"""Variants: every way of writing them means the same protein, and what does not fit the wild type is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.errors import ConfigError
from plm_scaling.evals.variants import Substitution, parse_variants

WILD = "MKTAYIAKQRQISF"


@given(
    st.dictionaries(st.integers(0, len(WILD) - 1), st.sampled_from(STANDARD), max_size=6),
    st.integers(-20, 600),
    st.sampled_from([":", ",", ";", "/", " ", ", "]),
)
def test_substitutions_and_the_whole_sequence_are_one_variant(changes, first, between) -> None:
    letters = list(WILD)
    for place, new in changes.items():
        letters[place] = new
    text = between.join(f"{WILD[place]}{place + first}{new}" for place, new in changes.items())
    stated, whole = parse_variants(WILD, [text, "".join(letters)], first=first)
    assert stated.sequence == whole.sequence == "".join(letters)
    wanted = tuple(Substitution(p, WILD[p], new) for p, new in sorted(changes.items()) if new != WILD[p])
    assert stated.substitutions == whole.substitutions == wanted
    assert not stated.indel


@pytest.mark.parametrize(
    ("text", "sequence"),
    [
        ("T3del", "MKAYIAKQRQISF"),
        ("p.T3_Y5del", "MKIAKQRQISF"),
        ("T3_A4insGSG", "MKTGSGAYIAKQRQISF"),
        ("T3delinsGS", "MKGSAYIAKQRQISF"),
        ("K2_A4delinsW:F14L", "MWYIAKQRQISL"),
        ("t3_a4insg:a4w", "MKTGWYIAKQRQISF"),
        ("MKW", "MKW"),
    ],
)
def test_insertions_and_deletions(text, sequence) -> None:
    (variant,) = parse_variants(WILD, [text])
    assert variant.sequence == sequence
    assert variant.indel
    assert not variant.substitutions


def test_a_library_may_give_the_varied_part_only() -> None:
    same, changed, longer = parse_variants(WILD, ["TAY", "TWY", "TAAY"], region=(2, 5))
    assert same.sequence == WILD
    assert not same.substitutions
    assert changed.substitutions == (Substitution(3, "A", "W"),)
    assert longer.sequence == "MKTAAYIAKQRQISF"
    assert longer.indel
    assert parse_variants(WILD, ["WT", ""])[0].sequence == WILD


@pytest.mark.parametrize(
    ("texts", "first", "said"),
    [
        (["K2A", "A3G"], 1, ["variant 2, 'A3G'", "residue 3 of the wild type is T, not A"]),
        (["M24A:K25L"], 1, ["no residue 24", "numbered 1 to 14", "all 2 stated residues fit", "first=24"]),
        (["K2A:K2R"], 1, ["residue 2 is changed twice"]),
        (["T3_Y5del:A4W"], 1, ["residue 4 is changed twice"]),
        (["K2B"], 1, ["'B' is none of the 20"]),
        (["K2*"], 1, ["stop codon"]),
        (["K2"], 1, ["'K2' is no change", "A23G:K30L"]),
        (["K2_A4insG"], 1, ["no neighbours"]),
        (["A4_K2del"], 1, ["ends before it begins"]),
        (["MKTAYIAKQRQISX"], 1, ["residue 14 of the sequence", "'X'"]),
        (["M1_F14del"], 1, ["no residue is left"]),
    ],
)
def test_what_does_not_fit_is_named(texts, first, said) -> None:
    with pytest.raises(ConfigError) as error:
        parse_variants(WILD, texts, first=first)
    for words in said:
        assert words in str(error.value)


def test_a_wild_type_that_is_no_protein() -> None:
    with pytest.raises(ConfigError, match="residue 3"):
        parse_variants("MK-A", ["K2A"])
    with pytest.raises(ConfigError, match="empty"):
        parse_variants(" ", ["K2A"])
    with pytest.raises(ConfigError, match="it has 14"):
        parse_variants(WILD, ["KK"], region=(10, 20))
