from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.headers import Fields, header_fields

UNREF = {"accession": "", "rep_id": None, "taxon": 0, "members": 0, "evidence": 0, "fragment": False, "viral": False}


def rows(headers: list[bytes]) -> list[dict[str, Any]]:
    fields = header_fields(headers)
    assert len(fields) == len(headers)
    assert fields.accession.type == fields.rep_id.type == pa.string()
    fields.accession.validate(full=True)
    fields.rep_id.validate(full=True)
    columns = {name: getattr(fields, name).tolist() for name in ("taxon", "members", "evidence", "fragment", "viral")}
    columns |= {"accession": fields.accession.to_pylist(), "rep_id": fields.rep_id.to_pylist()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


UNIREF = b"UniRef50_A0A009 Putative AgrB-like protein n=25 Tax=Homo sapiens TaxID=9606 RepID=X_HUMAN"
EXAMPLES: list[tuple[bytes, dict[str, Any]]] = [
    (UNIREF, {"accession": "UniRef50_A0A009", "rep_id": "X_HUMAN", "taxon": 9606, "members": 25}),
    (
        b"UniRef90_Q6GZX4 Cluster: Uncharacterized n=5 protein (Fragment) n=1 Tax=Frog virus 3 TaxID=10493 RepID=A_3 x",
        {
            "accession": "UniRef90_Q6GZX4",
            "rep_id": "A_3",
            "taxon": 10493,
            "members": 1,
            "fragment": True,
            "viral": True,
        },
    ),
    (
        b"UniRef100_X n=12345678 Tax=unknown TaxID=4294967295 RepID=UPI0001",
        {"accession": "UniRef100_X", "rep_id": "UPI0001", "taxon": 2**32 - 1, "members": 12_345_678},
    ),
    (b"A TaxID=9606", {"accession": "A", "taxon": 9606}),
    (b"A TaxID=99999999", {"accession": "A", "taxon": 99_999_999}),
    (b"A TaxID=4294967296", {"accession": "A"}),
    (b"A TaxID=04294967295", {"accession": "A", "taxon": 4294967295}),
    (b"A TaxID=00000000000", {"accession": "A"}),
    (b"A TaxID=4294967299", {"accession": "A"}),
    (b"A TaxID=123456789012345", {"accession": "A"}),
    (b"A TaxID=N/A RepID=", {"accession": "A", "rep_id": ""}),
    (b"A MyTaxID=3 TaxID =4 taxid=5", {"accession": "A"}),
    (b"A n=7 no cluster", {"accession": "A"}),
    (
        b"sp|P12345|AATM_RABIT Aminotransferase (Fragment) OS=Oryctolagus cuniculus OX=9986 GN=GOT2 PE=1 SV=2",
        {"accession": "sp|P12345|AATM_RABIT", "taxon": 9986, "evidence": 1, "fragment": True},
    ),
    (
        b"tr|Q1|Q1_9VIRU Virus protein (Fragments) OS=Mus musculus OX=10090 GN=phage PE=6 SV=1",
        {"accession": "tr|Q1|Q1_9VIRU", "taxon": 10090, "fragment": True},
    ),
    (b"A OS=Escherichia phage T4 OX=2681598 PE=3", {"accession": "A", "taxon": 2681598, "evidence": 3, "viral": True}),
    (b"A PE=0", {"accession": "A"}),
    (b"A (Fragment", {"accession": "A"}),
    (b"A (Fragmented)", {"accession": "A"}),
    (b"WP_1.1 DNA gyrase, partial [Escherichia coli]", {"accession": "WP_1.1", "fragment": True}),
    (b"WP_1.1 DNA gyrase, partial", {"accession": "WP_1.1", "fragment": True}),
    (b"WP_1.1 gyrase, partially folded [Enterobacteria phage T4]", {"accession": "WP_1.1", "viral": True}),
    (b"gi|1|emb|C1.1| capsid [ssRNA] [Human adenovirus C]", {"accession": "gi|1|emb|C1.1|", "viral": True}),
    (b"Y.1 phage tail protein [Mycoplasma gallisepticum str. R(low)]", {"accession": "Y.1"}),
    (b"Y.1 of a virus [x", {"accession": "Y.1"}),
    (
        b"MGYP000851679260 PL=10 UP=0 BIOMES=1000 LEN=23 CR=0",
        {"accession": "MGYP000851679260", "fragment": True},
    ),
    (b"MGYP000851679260 PL=00 UP=0 BIOMES=1000000000000 LEN=23 CR=1", {"accession": "MGYP000851679260"}),
    (b"MGYP1 FL=0 CR=1", {"accession": "MGYP1", "fragment": True}),
    (b"MGYP1 FL=1 CR=1", {"accession": "MGYP1"}),
    (b"other PL=10 FL=0", {"accession": "other"}),
    (b"k_1 # 2 # 181 # 1 # ID=1_1;partial=10;start_type=Edge", {"accession": "k_1", "fragment": True}),
    (b"k_1 # 2 # 181 # 1 # ID=1_1;partial=00;start_type=ATG", {"accession": "k_1"}),
    (b"YP_005354858.1 3.6.1.-~~~~~~ATP-dependent DNA helicase", {"accession": "YP_005354858.1"}),
    (b"", {}),
    (b"   ", {}),
    (b"  a b", {"accession": "a"}),
    (b"a\tTaxID=5 n=3\x0bRepID=r\x0cx", {"accession": "a", "taxon": 0, "members": 3, "rep_id": "r"}),
    (b"gi|1 first\x01gi|2 second", {"accession": "gi|1"}),
    (b"\xe9t\xe9 TaxID=7 RepID=\xe8", {"accession": "\xe9t\xe9", "taxon": 7, "rep_id": "\xe8"}),
    ("\u03b1-tubulin TaxID=8".encode(), {"accession": "\u03b1-tubulin", "taxon": 8}),
    (b"=", {"accession": "="}),
    (b" n=", {"accession": "n="}),
]


@pytest.mark.parametrize(("header", "expected"), EXAMPLES)
def test_what_a_header_says(header: bytes, expected: dict[str, Any]) -> None:
    expected = UNREF | expected
    if header.startswith(b"a\tTaxID"):
        expected["taxon"] = 5  # a tab is a blank as well
    assert rows([header]) == [expected]


def test_headers_do_not_touch_each_other() -> None:
    headers = [header for header, _ in EXAMPLES]
    alone = [rows([header])[0] for header in headers]
    assert rows(headers) == alone
    assert rows(headers[::-1]) == alone[::-1]


@pytest.mark.parametrize(
    ("organism", "viral"),
    [
        (b"Adeno-associated virus 2", True),
        (b"Influenza A virus (A/Puerto Rico/8/1934(H1N1))", True),
        (b"HUMAN HERPESVIRUS 1", True),
        (b"Human adenovirus C", True),
        (b"Siphoviridae sp. ctX581", True),
        (b"Caudovirales sp.", True),
        (b"Caudoviricetes sp.", True),
        (b"crAssphage LMMB", True),
        (b"unclassified phages", True),
        (b"Potato spindle tuber viroid", True),
        (b"virus", True),
        (b"uncultured virus1", True),
        (b"Homo sapiens", False),
        (b"Streptococcus viridans", False),
        (b"Nitrosomonas virulenta", False),
        (b"Phagocata virginiana", False),
        (b"Bacteriophagus testis", False),
        (b"Viruslike agent", False),
    ],
)
def test_viral_organisms(organism: bytes, viral: bool) -> None:
    forms = [
        b"U p n=1 Tax=%b TaxID=1 RepID=R",
        b"sp|A|B p OS=%b OX=1 PE=1 SV=1",
        b"sp|A|B p OS=%b",
        b"W p [%b]",
    ]
    assert header_fields([form % organism for form in forms]).viral.tolist() == [viral] * len(forms)
    assert not header_fields([b"A p of " + organism]).viral.any()


def test_no_headers() -> None:
    fields = header_fields([])
    assert len(fields) == len(fields.accession) == len(fields.rep_id) == len(fields.viral) == 0
    assert fields.accession.type == fields.rep_id.type == pa.string()


def test_filtered_keeps_the_rows_asked_for() -> None:
    headers = [header for header, _ in EXAMPLES]
    keep = np.arange(len(headers)) % 3 == 1
    some = header_fields(headers).filtered(keep)
    assert isinstance(some, Fields)
    expected = header_fields([header for header, kept in zip(headers, keep, strict=True) if kept])
    assert some.accession.equals(expected.accession)
    assert some.rep_id.equals(expected.rep_id)
    for name in ("taxon", "members", "evidence", "fragment", "viral"):
        np.testing.assert_array_equal(getattr(some, name), getattr(expected, name))


# -- against regular expressions -------------------------------------------------------------------------------------


def by_pattern(header: bytes) -> dict[str, Any]:
    """The same by regular expressions, one header at a time."""
    try:
        text = header.decode()
    except UnicodeDecodeError:
        text = header.decode("latin-1")
    words = re.split(r"[ \t\n\v\f\r]+", text.lstrip(" \t\n\v\f\r"))
    text = re.sub(r"[\t\n\v\f\r]", " ", text)

    def number(key: str) -> int:
        found = re.findall(rf" {key}=([0-9]*)", text)
        return int(found[-1]) if found and found[-1] and int(found[-1]) < 2**32 else 0

    rep = re.findall(r" RepID=(?=([^ ]*))", text)
    evidence = number("PE")
    return {
        "accession": words[0],
        "rep_id": rep[-1] if rep else None,
        "taxon": number("TaxID") if " TaxID=" in text else number("OX"),
        "members": number("n") if rep else 0,
        "evidence": evidence if 1 <= evidence <= 5 else 0,
        "fragment": bool(
            re.search(r"\(Fragments?\)|, partial( \[|$)|;partial=(?!00)", text)
            or (words[0].startswith("MGYP") and re.search(r" PL=(?!00)| FL=(?!1)", text))
        ),
    }


_VIRUS = re.compile(rb"(vir(us|uses|oids?|idae|inae|ales|icetes|icota|ites)|phages?)([^a-z]|$)", re.IGNORECASE)


def viral_by_pattern(header: bytes) -> bool:
    name = re.search(rb" (?:OS|Tax)=([^=]*)", header) or re.search(rb" \[((?:(?! \[).)*)\]$", header)
    return bool(name and _VIRUS.search(name[1]))


_KEYS = (b" n=", b" Tax=", b" TaxID=", b" RepID=", b" OX=", b" OS=", b" PE=", b" PL=", b" FL=", b";partial=", b"=")
_VALUES = (b"0", b"00", b"1", b"7", b"9606", b"12345678", b"4294967295", b"4294967296")
_WORDS = (b" ", b"\t", b"A0A", b"MGYP", b"(Fragment)", b", partial", b" [", b"]", b"virus", b"\xe9", b"\xce\xb1", b"|")
_PIECES = st.sampled_from((*_KEYS, *_VALUES, *_WORDS))


@given(st.lists(st.lists(_PIECES, max_size=9).map(b"".join), max_size=6))
@settings(max_examples=300, deadline=None)
def test_same_as_regular_expressions(headers: list[bytes]) -> None:
    found = rows(headers)
    for row in found:
        del row["viral"]
    assert found == [by_pattern(header) for header in headers]


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_garbage_has_an_accession_and_nothing_breaks(headers: list[bytes]) -> None:
    assert [row["accession"] for row in rows(headers)] == [by_pattern(header)["accession"] for header in headers]


def test_real_headers(test_data: Path) -> None:
    paths = sorted((test_data / "corpus").glob("*.fasta.gz"))
    assert len(paths) >= 20
    viral = 0
    for path in paths:
        lines = gzip.decompress(path.read_bytes()).splitlines()
        headers = [line[1:] for line in lines if line.startswith(b">")][::5]
        found = rows(headers)
        expected = [by_pattern(header) | {"viral": viral_by_pattern(header)} for header in headers]
        assert found == expected, path.name
        viral += sum(row["viral"] for row in found)
    assert viral >= 5


def test_columns_do_not_depend_on_the_number_of_headers(make_fasta: Callable[..., str]) -> None:
    headers = [b"UniRef50_%d p n=%d Tax=Virus %d TaxID=%d RepID=R%d" % (i, i, i, i, i) for i in range(3000)]
    fields = header_fields(headers)
    assert fields.accession.to_pylist() == [f"UniRef50_{i}" for i in range(3000)]
    assert fields.rep_id.to_pylist() == [f"R{i}" for i in range(3000)]
    assert fields.members.tolist() == fields.taxon.tolist() == list(range(3000))
    assert fields.viral.all()
