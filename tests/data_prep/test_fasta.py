from __future__ import annotations

import gzip
import io
import string
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from Bio import SeqIO
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.fasta import RecordBlock, read_records
from plm_scaling.core.alphabet import EOS, decode
from plm_scaling.core.errors import CorpusError

Write = Callable[..., Path]


def records(path: Path, **options: int) -> list[tuple[str, str]]:
    return [pair for block in read_records(path, **options) for pair in pairs(block)]


def pairs(block: RecordBlock) -> list[tuple[str, str]]:
    ends = np.cumsum(block.lengths + 1)
    assert len(block.tokens) == (ends[-1] if len(block) else 0)
    assert (block.tokens[ends - 1] == EOS).all()
    assert np.count_nonzero(block.tokens == EOS) == len(block)
    sequences = [
        decode(block.tokens[end - length - 1 : end - 1]) for end, length in zip(ends, block.lengths, strict=True)
    ]
    return list(zip(block.accessions, sequences, strict=True))


def counts(path: Path) -> dict[str, int]:
    total: Counter[str] = Counter()
    for block in read_records(path):
        assert all(block.counts.values())
        total.update(block.counts)
    return dict(total)


def normalised(sequence: str) -> str:
    kept = sequence.upper().replace("J", "X")
    return "".join(letter for letter in kept if letter not in "*-. \t")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (">a b c\nACD\nEFG\n", [("a", "ACDEFG")]),
        (">a\r\nACD\r\nEFG\r\n", [("a", "ACDEFG")]),
        (">a\rACD\rEFG\r", [("a", "ACDEFG")]),
        (">a\nACD", [("a", "ACD")]),
        (">a\nacd\n>b\nEfG\n", [("a", "ACD"), ("b", "EFG")]),
        (">a\nAC*D\n*\n>b\nEFG*\n", [("a", "ACD"), ("b", "EFG")]),
        (">a\n--A-C..D\n", [("a", "ACD")]),
        (">a\nJXBUZOj\n", [("a", "XXBUZOX")]),
        (">a\n>b\nACD\n>c\n\n>d\n*\n>e", [("b", "ACD")]),
        ("\n \n>a\n\nAC D\n\n\tEFG \n\n\n>b\nKL\n\n", [("a", "ACDEFG"), ("b", "KL")]),
        (">a >b > c\nACD\n", [("a", "ACD")]),
        (">\nACD\n> \nEFG\n", [("", "ACD"), ("", "EFG")]),
        ("> a b\nACD\n", [("a", "ACD")]),
        (">a\tb\nACD\n", [("a", "ACD")]),
        (">a\nACD\n>a\nEFG\n", [("a", "ACD"), ("a", "EFG")]),
        (">\xe9t\xe9 caf\xe9\nACD\n>b\nEFG\n", [("\xe9t\xe9", "ACD"), ("b", "EFG")]),
        ("\xef\xbb\xbf>a\nACD\n", [("a", "ACD")]),
    ],
)
def test_forms_of_fasta(write: Write, text: str, expected: list[tuple[str, str]]) -> None:
    assert records(write(text)) == expected
    assert records(write(gzip.compress(text.encode("latin-1")))) == expected


def test_utf8_header_beside_latin1_header(write: Write) -> None:
    path = write(">\u03b1-tubulin\nACD\n".encode() + ">\xe9\nEFG\n".encode("latin-1"))
    assert records(path) == [("\u03b1-tubulin", "ACD"), ("\xe9", "EFG")]


def test_two_gzip_members_even_if_a_record_spans_them(write: Write) -> None:
    path = write(gzip.compress(b">a\nAC") + gzip.compress(b"D\n>b\nEFG\n"))
    assert records(path) == [("a", "ACD"), ("b", "EFG")]


def test_counts_of_what_was_normalised(write: Write) -> None:
    path = write(">a\nACDx*\n>b\n*\n>c\nJjXBUZOo-..\n>d\n>e\nACD\n")
    assert counts(path) == {
        "lower_case": 3,
        "stops": 2,
        "gaps": 3,
        "J_as_X": 2,
        "X": 2,
        "B": 1,
        "U": 1,
        "Z": 1,
        "O": 2,
        "empty_records": 2,
    }


def test_clean_records_count_nothing(write: Write) -> None:
    assert counts(write(">a\nACDEFGHIKLMNPQRSTVWY\n")) == {}


def test_file_of_empty_records_yields_counts_only(write: Write) -> None:
    path = write(">a\n>b\n*\n")
    assert records(path) == []
    assert counts(path) == {"empty_records": 2, "stops": 1}


@pytest.mark.parametrize("text", [b"", b"\n\n", b" \t\r\n", gzip.compress(b"", mtime=0)])
def test_empty_file(write: Write, text: bytes) -> None:
    path = write(text)
    with pytest.raises(CorpusError, match="the file is empty") as caught:
        records(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("text", "line"), [("ACD\nEFG\n", 1), ("\n\nACD\n>a\nEFG\n", 3), (";a\nACD\n", 1), ("\x00\x01binary" * 99, 1)]
)
def test_no_header_first(write: Write, text: str, line: int) -> None:
    path = write(text)
    with pytest.raises(CorpusError, match="no '>' header before the first sequence") as caught:
        records(path)
    assert caught.value.where == f"{path}:{line}"


@pytest.mark.parametrize("bad", ["1", "@", "?", "\xe9", "\x00", "#", ">", "\x0b"])
@pytest.mark.parametrize("block_bytes", [64, 1 << 20])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_illegal_byte_is_named_with_its_line(write: Write, bad: str, block_bytes: int, end: str) -> None:
    good = "".join(f">p{i} 1@?{end}ACDEFGHIKL{end}{end}MNPQ{end}" for i in range(50))
    path = write(good + f">bad{end}ACD{end}EF{bad}G{end}" + good)
    with pytest.raises(CorpusError) as caught:
        records(path, block_bytes=block_bytes)
    assert caught.value.where == f"{path}:203"
    assert caught.value.what == ("'>' inside a sequence line" if bad == ">" else f"{bad!r} is not a residue letter")


def test_record_longer_than_many_blocks(write: Write) -> None:
    sequence = "ACDEFGHIKLMNPQRSTVWY" * 100
    path = write(f">a\nMKV\n>long\n{sequence}\n>b\nWWW\n")
    assert records(path, block_bytes=64) == [("a", "MKV"), ("long", sequence), ("b", "WWW")]


@pytest.mark.parametrize("columns", [60, 5_000_000])
def test_five_megabyte_sequence(write: Write, columns: int) -> None:
    residues = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", np.uint8)[np.random.default_rng(0).integers(0, 20, 5_000_000)]
    text = residues.tobytes()
    body = b"\n".join(text[i : i + columns] for i in range(0, len(text), columns))
    [block] = [block for block in read_records(write(b">titan\n" + body)) if len(block)]
    assert block.accessions == ["titan"]
    assert decode(block.tokens[:-1]).encode() == text


# -- nucleotides -----------------------------------------------------------------------------------------------------


def dna(n: int, letters: bytes = b"ACGT", seed: int = 0) -> str:
    return np.frombuffer(letters, np.uint8)[np.random.default_rng(seed).integers(0, len(letters), n)].tobytes().decode()


@pytest.mark.parametrize(
    "text",
    [
        f">chr1\n{dna(3000)}\n",
        f">rna\n{dna(3000, b'ACGU')}\n",
        f">soft-masked\n{dna(3000, b'acgtACGT')}\n",
        f">chr1 after unknown bases\n{'N' * 10_000}{dna(5000)}\n",
        f">a gene\n{dna(300)}\n",
        f">ambiguous\n{dna(3000)}RYKM{dna(100)}\n",
        "".join(f">g{i}\n{dna(30, seed=i)}\n" for i in range(100)),
    ],
)
@pytest.mark.parametrize("block_bytes", [64, 1 << 20])
def test_nucleotides_are_refused(write: Write, text: str, block_bytes: int) -> None:
    path = write(text)
    with pytest.raises(CorpusError, match="nucleotides, not proteins") as caught:
        records(path, block_bytes=block_bytes)
    assert caught.value.where == str(path)
    assert "translate" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        ">short peptide\nACGT\n",
        f">homopolymer\n{'A' * 5000}\n",
        f">glycine and alanine\n{dna(5000, b'AG')}\n",
        f">unknown\n{'N' * 5000}\n",
        f">low complexity\n{dna(3000, b'ACGTACGTACGTACGTE')}\n",
    ],
)
def test_odd_proteins_are_not_taken_for_nucleotides(write: Write, text: str) -> None:
    assert len(records(write(text))) == 1


# -- parity and invariants -------------------------------------------------------------------------------------------

_HEADERS = st.text(string.ascii_letters + string.digits + " >|_.=\t*-", max_size=12)
_LINES = st.lists(st.text("ACDEFGHIKLMNPQRSTVWYXBUZOJacdkvx*-. ", max_size=25), max_size=5)


@given(
    st.lists(st.tuples(_HEADERS, _LINES), min_size=1, max_size=12),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.integers(64, 200),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_same_records_as_biopython_for_any_block_size(
    write: Write, raw: list[tuple[str, list[str]]], end: str, last_end: bool, block_bytes: int
) -> None:
    text = end.join(line for header, lines in raw for line in (">" + header, *lines)) + end * last_end
    path = write(text)
    expected = [
        (record.id, normalised(str(record.seq))) for record in SeqIO.parse(io.StringIO(text.replace("\r", "")), "fasta")
    ]
    assert records(path, block_bytes=block_bytes) == [pair for pair in expected if pair[1]]
    assert records(path) == [pair for pair in expected if pair[1]]


def test_residues_in_and_out_add_up(write: Write, make_fasta: Callable[..., str]) -> None:
    text = make_fasta(300)
    blocks = list(read_records(write(text), block_bytes=1000))
    assert len(blocks) > 10
    residues = sum(len(line) for line in text.splitlines() if not line.startswith(">"))
    assert sum(int(block.lengths.sum()) for block in blocks) == residues
