from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core import alphabet
from plm_scaling.core.alphabet import DROPPED, RENAMED, STANDARD, SYMBOLS, TO_ID, UNUSUAL, decode, encode

RESIDUES = STANDARD + UNUSUAL


def test_symbols_are_those_of_esm2_in_its_order() -> None:
    from esm.data import Alphabet

    theirs = Alphabet.from_architecture("ESM-1b")
    assert tuple(theirs.all_toks) == SYMBOLS
    assert (theirs.cls_idx, theirs.padding_idx, theirs.eos_idx, theirs.mask_idx) == (
        alphabet.CLS,
        alphabet.PAD,
        alphabet.EOS,
        alphabet.MASK,
    )
    assert len(theirs) == alphabet.VOCAB_SIZE == 33


@settings(deadline=None, max_examples=30)
@given(st.text(RESIDUES, min_size=1, max_size=60))
def test_a_sequence_has_the_ids_esm2_gives_it(sequence: str) -> None:
    from esm.data import Alphabet

    assert encode(sequence).tolist() == Alphabet.from_architecture("ESM-1b").encode(sequence)


@settings(deadline=None, max_examples=50)
@given(st.text(RESIDUES, max_size=200))
def test_decoding_undoes_encoding(sequence: str) -> None:
    ids = encode(sequence)
    assert ids.dtype == np.uint8
    assert decode(ids) == sequence
    assert encode(sequence.lower()).tolist() == ids.tolist()


def test_residues_are_one_block_with_the_standard_ones_first() -> None:
    ids = encode(RESIDUES)
    assert ids.tolist() == list(range(alphabet.FIRST_RESIDUE, alphabet.LAST_RESIDUE + 1))
    assert sorted(STANDARD) == list("ACDEFGHIKLMNPQRSTVWY")


def test_j_becomes_x() -> None:
    assert RENAMED == {"J": "X"}
    assert decode(encode("AJj")) == "AXX"


@pytest.mark.parametrize("letter", ["1", "@", " ", ">", "?", "\n", "\x00", "\xe9", *DROPPED])
def test_anything_else_is_refused_by_name(letter: str) -> None:
    with pytest.raises(ValueError, match="is not a residue letter") as caught:
        encode(f"MK{letter}L1")
    assert repr(letter) in str(caught.value)
    assert TO_ID[ord(letter)] == 255


def test_special_symbols_read_as_question_marks() -> None:
    special = [n for n, symbol in enumerate(SYMBOLS) if len(symbol) > 1]
    assert decode(np.array(special)) == "?" * len(special)
    assert len(special) == 6


def test_the_table_cannot_be_overwritten() -> None:
    with pytest.raises(ValueError, match="read-only"):
        TO_ID[0] = 1
