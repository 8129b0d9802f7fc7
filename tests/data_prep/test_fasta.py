from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import string
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from Bio.SeqIO.FastaIO import SimpleFastaParser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep import fasta
from data_prep.fasta import RecordBlock, read_records, read_text, slices, slices_between
from data_prep.streams import Meter, text_blocks
from plm_scaling.core.alphabet import EOS, decode
from plm_scaling.core.errors import CorpusError

Write = Callable[..., Path]


def records(path: Path, **options: Any) -> list[tuple[str, str]]:
    return [pair for block in read_records(path, **options) for pair in pairs(block)]


def pairs(block: RecordBlock) -> list[tuple[str, str]]:
    ends = np.cumsum(block.lengths + 1)
    assert len(block.tokens) == (ends[-1] if len(block) else 0)
    assert (block.tokens[ends - 1] == EOS).all()
    assert np.count_nonzero(block.tokens == EOS) == len(block)
    sequences = [
        decode(block.tokens[end - length - 1 : end - 1]) for end, length in zip(ends, block.lengths, strict=True)
    ]
    return list(zip(map(accession, block.headers), sequences, strict=True))


def accession(header: bytes) -> str:
    word = (header.split() or [b""])[0]
    try:
        return word.decode()
    except UnicodeDecodeError:
        return word.decode("latin-1")


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
        (">a\n\n\n>b\n*\n\n>c\nACD\n>d\n>e\nEFG", [("c", "ACD"), ("e", "EFG")]),
        (">a\nACDEFGHIKL MNPQRSTVWY\nACD\t\n", [("a", "ACDEFGHIKLMNPQRSTVWYACD")]),
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
    ("text", "line"),
    [("ACD\nEFG\n", 1), ("\n\nACD\n>a\nEFG\n", 3), (";a\nACD\n", 1), ("\n  >a\nACD\n", 2), ("\x00\x01binary" * 99, 1)],
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
    assert block.headers == [b"titan"]
    assert decode(block.tokens[:-1]).encode() == text


def test_header_lines_are_kept_as_they_are(write: Write) -> None:
    headers = [b"a b\tc", b"", b" x >y", b"\xff\x00=", b"x" * 5000, b">"]
    path = write(b"".join(b">%b\nACD\n" % header for header in headers))
    assert [header for block in read_records(path, block_bytes=64) for header in block.headers] == headers
    assert [header for block in read_records(path) for header in block.headers] == headers


@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 64, 500])
@pytest.mark.parametrize("odd", ["X", "*", "a", "j", "-"])
def test_an_unusual_letter_is_seen_wherever_it_is(write: Write, n: int, odd: str) -> None:
    for place in {0, 1, n // 2, n - 1}:
        sequence = "A" * place + odd + "A" * (n - 1 - place)
        path = write(f">a\n{sequence}\n>b\nACD\n")
        assert counts(path)
        kept = normalised(sequence)
        assert records(path) == [("a", kept)] * bool(kept) + [("b", "ACD")]


def test_a_block_may_begin_with_a_mark_that_starts_no_record(write: Write) -> None:
    path = write(">" + "h" * 63 + ">i\nACD\n>b\nEFG\n")
    assert [header for block in read_records(path, block_bytes=64) for header in block.headers] == [
        b"h" * 63 + b">i",
        b"b",
    ]
    with pytest.raises(CorpusError, match="'>' inside a sequence line"):
        records(write(">a\n" + "A" * 61 + ">b\nACD\n"), block_bytes=64)
    assert len(records(write(">a\n" + "A" * 60 + "\n>b\nACD\n"), block_bytes=64)) == 2


def test_a_record_of_gigabytes_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fasta, "_MAX_TEXT", 5000)
    path = write(">small\nACD\n>titan of old\n" + "ACDEFG\n" * 1000)
    with pytest.raises(CorpusError, match="a record of more than 5000 bytes") as caught:
        records(path, block_bytes=100)
    assert caught.value.where == str(path)
    assert "'titan'" in caught.value.why


# -- text from elsewhere ---------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 40), max_size=6))
def test_text_may_be_cut_anywhere(cuts: list[int]) -> None:
    text = b">a b\nACD\nEFG\n>b\nKLM\n>c\n\n>d TaxID=1\nMKV"
    edges = [0, *sorted(cuts), len(text)]
    blocks = [text[a:b] for a, b in itertools.pairwise(edges)]
    found = [pair for block in read_text((block for block in blocks if block), "here") for pair in pairs(block)]
    assert found == [("a", "ACDEFG"), ("b", "KLM"), ("d", "MKV")]


def test_errors_of_text_name_its_origin(write: Write) -> None:
    blocks = [b">first x\nACD\n>sec", b"ond y\nAC1\n"]
    with pytest.raises(CorpusError, match="'1' is not a residue letter\n") as caught:
        list(read_text(blocks, "table"))
    assert caught.value.where == "table:4"
    with pytest.raises(CorpusError, match=r"'1' is not a residue letter \(record second\)") as caught:
        list(read_text(blocks, "table", numbered=False))
    assert caught.value.where == "table"
    with pytest.raises(CorpusError, match="the file is empty"):
        list(read_text([], "table"))


# -- spans -----------------------------------------------------------------------------------------------------------


def in_spans(path: Path, cuts: list[int], **options: Any) -> list[tuple[str, str]]:
    size = path.stat().st_size
    edges = sorted({0, size, *(min(cut, size) for cut in cuts)})
    return [pair for span in itertools.pairwise(edges) for pair in records(path, span=span, **options)]


def test_errors_of_a_later_span_have_the_right_line(write: Write) -> None:
    good = "".join(f">p{i}\r\nACDEFGHIKL\r\nMNPQ\r" for i in range(50))
    path = write("\n" + good + ">bad\nACD\nEF1G\n" + good)
    size = path.stat().st_size
    for begin in (0, 1, 300, size // 2 - 30):
        with pytest.raises(CorpusError, match="'1' is not") as caught:
            records(path, span=(begin, size), block_bytes=100)
        assert caught.value.where == f"{path}:154"
    assert len(records(path, span=(size // 2 + 100, size))) > 10


def test_only_the_first_span_judges_how_a_file_begins(write: Write) -> None:
    path = write("\n" * 200 + ">a\nACD\n")
    assert records(path, span=(0, 100)) == []
    assert records(path, span=(100, 150)) == []
    assert records(path, span=(150, 300)) == [("a", "ACD")]
    assert records(path, span=(7, 7)) == records(path, span=(0, 0)) == []
    for text, message in (("\n" * 200, "the file is empty"), ("\n" * 200 + "ACD", "no '>' header before")):
        path = write(text)
        with pytest.raises(CorpusError, match=message):
            records(path, span=(0, 100))
        assert records(path, span=(100, 300)) == []


def test_a_meter_counts_each_byte_in_one_span(write: Write, make_fasta: Callable[..., str]) -> None:
    path = write(make_fasta(50))
    size, meter = path.stat().st_size, Meter(hashed=False)
    for span in itertools.pairwise([0, 10, 11, size // 2, size]):
        for _ in read_records(path, span=span, meter=meter, block_bytes=100):
            pass
        assert meter.bytes_read == span[1]


def test_each_span_is_judged_for_nucleotides(write: Write, make_fasta: Callable[..., str]) -> None:
    proteins = make_fasta(50)
    path = write(proteins + f">chr1\n{dna(3000)}\n")
    size = path.stat().st_size
    assert len(records(path)) == 51  # the beginning of the file is fine
    with pytest.raises(CorpusError, match="nucleotides"):
        records(path, span=(len(proteins) - 1, size))


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
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    st.integers(64, 200),
    st.lists(st.integers(0, 800), max_size=4),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_same_records_as_biopython_for_any_blocks_and_spans(
    write: Write, raw: list[tuple[str, list[str]]], end: str, last_end: bool, block_bytes: int, cuts: list[int]
) -> None:
    text = end.join(line for header, lines in raw for line in (">" + header, *lines)) + end * last_end
    path = write(text)
    parsed = SimpleFastaParser(io.StringIO(text.replace("\r\n", "\n").replace("\r", "\n")))
    expected = [((title.split() or [""])[0], normalised(sequence)) for title, sequence in parsed]
    expected = [pair for pair in expected if pair[1]]
    assert records(path, block_bytes=block_bytes) == expected
    assert records(path) == expected
    assert in_spans(path, cuts, block_bytes=block_bytes) == expected
    blocks = read_text(text_blocks(path, block_bytes=block_bytes), str(path))
    assert [pair for block in blocks for pair in pairs(block)] == expected


@given(
    st.lists(
        st.sampled_from([b">", b"\n", b"\r", b"A", b" ", b"*", b"x", b"\t", b"1", b"\xff", b">a\nMK\n"]), max_size=80
    )
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_read_alike_in_any_blocks_or_refused_alike(write: Write, pieces: list[bytes]) -> None:
    path = write(b"".join(pieces))

    def outcome(block_bytes: int) -> Any:
        try:
            return records(path, block_bytes=block_bytes)
        except CorpusError as error:
            return error.what, error.where

    assert outcome(64) == outcome(1 << 20)


@given(st.binary(max_size=300), st.integers(0, 100), st.integers(0, 300))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_raise_nothing_but_corpus_errors(write: Write, garbage: bytes, begin: int, size: int) -> None:
    for text in (garbage, b">a\n" + garbage):
        path = write(text)
        with contextlib.suppress(CorpusError):
            records(path, block_bytes=64)
        with contextlib.suppress(CorpusError):
            records(path, block_bytes=64, span=(begin, begin + size))


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3)), max_size=30), st.integers(0, 5))
def test_slices_are_those_of_python(gaps: list[tuple[int, int]], first: int) -> None:
    edges = first + np.cumsum([value for pair in gaps for value in pair], dtype=np.int64)
    data = bytes(range(256)) * 4
    begins, ends = edges[::2] * 0 + np.concatenate(([first], edges[1:-1:2]))[: len(gaps)], edges[::2]
    expected = [data[a:b] for a, b in zip(begins.tolist(), ends.tolist(), strict=True)]
    assert slices(data, begins, ends) == expected
    assert slices(np.frombuffer(data, np.uint8), begins, ends) == expected


def test_real_files_read_as_biopython_reads_them(test_data: Path) -> None:
    table = str.maketrans({"J": "X", **dict.fromkeys("*-.")})
    paths = sorted((test_data / "corpus").glob("*.fasta.gz"))
    assert len(paths) >= 20
    for path in paths[::2]:
        with gzip.open(path, "rt") as handle:
            expected = [(title.encode(), seq.upper().translate(table)) for title, seq in SimpleFastaParser(handle)]
        blocks = list(read_records(path))
        assert [header for block in blocks for header in map(bytes.rstrip, block.headers)] == [
            pair[0] for pair in expected
        ]
        residues = "".join(decode(block.tokens[block.tokens != EOS]) for block in blocks)
        assert residues == "".join(sequence for _, sequence in expected), path.name
        lengths = np.concatenate([block.lengths for block in blocks])
        assert lengths.tolist() == [len(sequence) for _, sequence in expected], path.name


@given(st.lists(st.integers(1, 20), max_size=30))
def test_slices_between_are_those_of_python(sizes: list[int]) -> None:
    data = bytes(range(256)) * 4
    edges = np.cumsum([3, *sizes])
    expected = [data[a : b - 1] for a, b in itertools.pairwise(edges.tolist())]
    assert slices_between(np.frombuffer(data, np.uint8), edges).tolist() == expected


def test_residues_in_and_out_add_up(write: Write, make_fasta: Callable[..., str]) -> None:
    text = make_fasta(300)
    blocks = list(read_records(write(text), block_bytes=1000))
    assert len(blocks) > 10
    residues = sum(len(line) for line in text.splitlines() if not line.startswith(">"))
    assert sum(int(block.lengths.sum()) for block in blocks) == residues
