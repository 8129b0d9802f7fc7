from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from data_prep.streams import Meter
from data_prep.uniprot import flat_file_text, xml_text
from plm_scaling.core.errors import CorpusError

# The layout of UniProt's flat file (its user manual); names and sequences are made up.
FLAT = """\
ID   ONE_HUMAN               Reviewed;          70 AA.
AC   P00001; Q00009;
DT   21-JUL-1986, integrated into UniProtKB/Swiss-Prot.
DT   21-JUL-1986, sequence version 1.
DT   27-NOV-2024, entry version 9.
DE   RecName: Full=First protein {ECO:0000255|HAMAP-Rule:MF_00001};
DE            EC=1.1.1.1;
DE   AltName: Full=Other name;
GN   Name=ONE;
OS   Homo sapiens (Human).
OC   Eukaryota; Metazoa.
OX   NCBI_TaxID=9606;
PE   1: Evidence at protein level;
KW   Reference proteome.
FT   CHAIN           1..70
FT                   /note="First protein"
SQ   SEQUENCE   70 AA;  7000 MW;  0123456789ABCDEF CRC64;
     MKVACDEFGH IKLMNPQRST VWYACDEFGH IKLMNPQRST VWYACDEFGH IKLMNPQRST
     VWYACDEFGH
//
ID   A0A000_9BACT            Unreviewed;        12 AA.
AC   A0A000;
DT   21-JUL-2006, integrated into UniProtKB/TrEMBL.
DT   21-JUL-2006, sequence version 1.
DT   27-NOV-2024, entry version 2.
DE   SubName: Full=Second protein;
DE   Flags: Fragment;
OS   uncultured bacterium.
OC   Bacteria.
OX   NCBI_TaxID=77133 {ECO:0000313|EMBL:AAA00000.1};
PE   4: Predicted;
FT   NON_TER         1
FT                   /evidence="ECO:0000313|EMBL:AAA00000.1"
SQ   SEQUENCE   12 AA;  1200 MW;  0123456789ABCDEF CRC64;
     ACDEFGHIKL MN
//
"""
XML = """\
<?xml version="1.0" encoding="UTF-8"?>
<uniprot xmlns="http://uniprot.org/uniprot" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
<entry dataset="Swiss-Prot" created="1986-07-21" modified="2024-11-27" version="9">
  <accession>P00001</accession><accession>Q00009</accession>
  <name>ONE_HUMAN</name>
  <protein><recommendedName><fullName evidence="1">First protein</fullName></recommendedName></protein>
  <organism><name type="scientific">Homo sapiens</name><name type="common">Human</name>
    <dbReference type="NCBI Taxonomy" id="9606"/></organism>
  <proteinExistence type="evidence at protein level"/>
  <sequence length="70" mass="7000" checksum="0" modified="1986-07-21" version="1">MKVACDEFGHIKLMNPQRSTVWYACDEFGH
IKLMNPQRSTVWYACDEFGHIKLMNPQRSTVWYACDEFGH</sequence>
</entry>
<entry dataset="TrEMBL" created="2006-07-21" modified="2024-11-27" version="2">
  <accession>A0A000</accession>
  <name>A0A000_9BACT</name>
  <protein><submittedName><fullName>Second protein</fullName></submittedName></protein>
  <organism><name type="scientific">uncultured bacterium</name>
    <dbReference type="NCBI Taxonomy" id="77133"/></organism>
  <proteinExistence type="predicted"/>
  <sequence length="12" mass="1200" checksum="0" modified="2006-07-21" version="1" fragment="single"
  >ACDEFGHIKLMN</sequence>
</entry>
</uniprot>
"""
EXPECTED = (
    b">sp|P00001|ONE_HUMAN First protein OS=Homo sapiens OX=9606 PE=1\n"
    b"MKVACDEFGHIKLMNPQRSTVWYACDEFGHIKLMNPQRSTVWYACDEFGHIKLMNPQRSTVWYACDEFGH\n"
    b">tr|A0A000|A0A000_9BACT Second protein (Fragment) OS=uncultured bacterium OX=77133 PE=4\n"
    b"ACDEFGHIKLMN\n"
)
READERS = {"dat": (flat_file_text, FLAT), "xml": (xml_text, XML)}
Write = Callable[..., Path]


@pytest.mark.parametrize("form", READERS)
@pytest.mark.parametrize("packed", ["plain", "gzip", "zstd"])
@pytest.mark.parametrize("block_bytes", [1, 1 << 18])
def test_entries_become_uniprots_own_fasta(write: Write, form: str, packed: str, block_bytes: int) -> None:
    reader, content = READERS[form]
    data = content.encode()
    stored = {"plain": data, "gzip": gzip.compress(data), "zstd": zstandard.ZstdCompressor().compress(data)}[packed]
    meter = Meter()
    blocks = list(reader(write(stored), block_bytes=block_bytes, meter=meter))
    assert b"".join(blocks) == EXPECTED
    assert len([block for block in blocks if block]) == (2 if block_bytes == 1 else 1)
    assert (meter.bytes_read, meter.sha256()) == (len(stored), hashlib.sha256(stored).hexdigest())


def test_both_spellings_of_the_namespace(write: Write) -> None:
    newer = XML.replace("http://uniprot.org/uniprot", "https://uniprot.org/uniprot")
    assert b"".join(xml_text(write(newer), block_bytes=100)) == EXPECTED


@pytest.mark.parametrize("form", READERS)
def test_truncated_entries(write: Write, form: str) -> None:
    reader, content = READERS[form]
    path = write(content[:-60])
    with pytest.raises(CorpusError, match="cannot read this as a UniProt") as caught:
        list(reader(path, block_bytes=1000))
    assert caught.value.where == str(path)
    assert "in entry 2" in str(caught.value)


@pytest.mark.parametrize("form", READERS)
def test_damaged_compression_is_told_as_such(write: Write, form: str) -> None:
    reader, content = READERS[form]
    with pytest.raises(CorpusError, match="truncated gzip file"):
        list(reader(write(gzip.compress(content.encode())[:-30]), block_bytes=1000))


@pytest.mark.parametrize("form", READERS)
def test_no_entry(write: Write, form: str) -> None:
    reader, content = READERS[form]
    empty = "" if form == "dat" else content[: content.index("<entry")] + "</uniprot>"
    with pytest.raises(CorpusError, match="no entry in this UniProt"):
        list(reader(write(empty), block_bytes=1000))


def test_a_line_that_is_none_names_the_last_entry(write: Write) -> None:
    with pytest.raises(CorpusError, match="in entry 2") as caught:
        list(flat_file_text(write(FLAT.replace("DE   SubName", "XX   SubName")), block_bytes=1000))
    assert "sp|P00001|ONE_HUMAN" in str(caught.value)


def test_what_an_entry_does_not_tell_is_left_out(write: Write) -> None:
    bare = "\n".join(line for line in FLAT.split("//")[0].split("\n") if line[:2] not in ("PE", "OX", "DE", "OS"))
    text = b"".join(flat_file_text(write(bare + "//\n"), block_bytes=1000))
    assert text.startswith(b">sp|P00001|ONE_HUMAN\nMKV")
