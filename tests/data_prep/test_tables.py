from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.columns import Columns, find_columns
from data_prep.streams import Meter
from data_prep.tables import arrow_text, batch_text, parquet_text
from plm_scaling.core.errors import ConfigError, CorpusError

SEQUENCES = ["MKV", "ACDEFGHIKLMNPQRSTVWY" * 9, "", "mkvx*", None, "WW"]


def records(text: bytes) -> list[tuple[str, str]]:
    """Headers and sequences: the whole of FASTA, for text made here."""
    out = []
    for record in text.decode().split(">")[1:]:
        header, _, body = record.partition("\n")
        out.append((header, body.replace("\n", "")))
    return out


def text(table: pa.Table, **chosen: str) -> bytes:
    columns = find_columns(table.schema, "t", chosen)
    out, row = [], 0
    for batch in table.to_batches():
        out.append(batch_text(batch, columns, row, "t"))
        row += len(batch)
    return b"".join(out)


KINDS: dict[str, pa.DataType] = {
    "string": pa.string(),
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
    "binary_view": pa.binary_view(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_of_text_column(kind: str) -> None:
    plain = pa.array(SEQUENCES)
    column = plain.dictionary_encode() if kind == "dictionary" else plain.cast(KINDS[kind])
    table = pa.table({"id": [f"p{i}" for i in range(len(SEQUENCES))], "sequence": column})
    assert records(text(table)) == [(f"p{i}", s or "") for i, s in enumerate(SEQUENCES)]


def test_slices_and_chunks() -> None:
    table = pa.table({"id": [f"p{i}" for i in range(100)], "seq": ["ACD" * (i % 5) for i in range(100)]})
    whole = records(text(table))
    pieces = pa.concat_tables([table.slice(0, 7), table.slice(7, 50), table.slice(57)])
    assert records(text(pieces)) == whole
    assert records(text(table.slice(31, 20))) == whole[31:51]


def test_what_a_header_tells() -> None:
    table = pa.table(
        {
            "Accession": ["UniRef50_A", "UniRef50_B", None],
            "sequence": ["ACD", "EFG", "HIK"],
            "name": ["Protein one (Fragment)", None, "three"],
            "n": [5, None, 1],
            "organism": ["Homo sapiens", None, "Mus musculus"],
            "Taxon_ID": pa.array([9606, None, 10090], pa.uint32()),
            "representative_id": ["X_HUMAN", None, "Y_MOUSE"],
            "pe": pa.array([1, None, 4], pa.int8()),
            "full_length": [True, None, False],
            "other": [1, 2, 3],
        }
    )
    assert [header for header, _ in records(text(table))] == [
        "UniRef50_A Protein one (Fragment) n=5 Tax=Homo sapiens TaxID=9606 RepID=X_HUMAN PE=1 FL=1",
        "UniRef50_B",
        "row_2 three n=1 Tax=Mus musculus TaxID=10090 RepID=Y_MOUSE PE=4 FL=0",
    ]


def test_mgnify_numbers_are_accessions() -> None:
    table = pa.table({"protein_id": [46, 4750550], "full_length": [True, False], "sequence": ["MAKE", "PS"]})
    assert [header for header, _ in records(text(table))] == ["MGYP000000000046 FL=1", "MGYP000004750550 FL=0"]
    older = pa.table({"protein_id": [7699836709], "description": ["FL=0"], "sequence": ["MAKE"]})
    assert records(text(older)) == [("MGYP007699836709 FL=0", "MAKE")]
    other = pa.table({"protein_id": [46], "sequence": ["MAKE"]})
    assert records(text(other)) == [("46", "MAKE")], "a number alone says nothing of MGnify"


def test_without_accessions_rows_are_counted() -> None:
    table = pa.concat_tables([pa.table({"seq": ["ACD", "EFG"]}), pa.table({"seq": ["HIK"]})])
    assert [header for header, _ in records(text(table))] == ["row_0", "row_1", "row_2"]


@pytest.mark.parametrize("missing", [None, "", "   "])
def test_a_missing_accession_never_becomes_the_next_word(missing: str | None) -> None:
    table = pa.table({"id": ["a", missing], "seq": ["ACD", "EFG"], "taxid": [1, 2]})
    assert [header for header, _ in records(text(table))] == ["a TaxID=1", "row_1 TaxID=2"]


LISTS = [["ACD", "EF"], [], None, ["W", None, "Y"]]


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
def test_scaffolds_with_lists_of_proteins(kind: Any) -> None:
    table = pa.table(
        {
            "CDS_ids": pa.array([["a|1", "a|2"], [], None, ["d|1", "d|2", "d|3"]], kind(pa.string())),
            "IGS_seqs": pa.array([["ACGT"], [], [], []], kind(pa.string())),
            "CDS_seqs": pa.array(LISTS, kind(pa.large_string())),
        }
    )
    expected = [("a|1", "ACD"), ("a|2", "EF"), ("d|1", "W"), ("d|2", ""), ("d|3", "Y")]
    assert records(text(table)) == expected
    assert records(text(table.slice(1))) == expected[2:]


def test_one_name_for_a_list_of_proteins() -> None:
    table = pa.table({"id": ["a", "b", "c", "d"], "CDS_seqs": LISTS, "taxid": [1, 2, 3, 4]})
    headers = [header for header, _ in records(text(table))]
    assert headers == ["a_0 TaxID=1", "a_1 TaxID=1", "d_0 TaxID=4", "d_1 TaxID=4", "d_2 TaxID=4"]
    nameless = pa.table({"CDS_seqs": LISTS})
    assert [header for header, _ in records(text(nameless))] == ["row_0_0", "row_0_1", "row_3_0", "row_3_1", "row_3_2"]


def test_lists_of_one_length() -> None:
    table = pa.table({"id": ["a", "b"], "seq": pa.array([["ACD", "EF"], ["G", "H"]], pa.list_(pa.string(), 2))})
    assert [sequence for _, sequence in records(text(table))] == ["ACD", "EF", "G", "H"]
    assert [sequence for _, sequence in records(text(table.slice(1)))] == ["G", "H"]


def test_lists_of_different_lengths() -> None:
    table = pa.table({"CDS_ids": [["a"]], "CDS_seqs": [["ACD", "EF"]]})
    with pytest.raises(CorpusError, match="lists of different lengths"):
        text(table)


def test_line_ends_cannot_make_records() -> None:
    table = pa.table({"id": ["a\n>evil", "b\r\nc", "d>e"], "seq": ["AC\nD", "E\r\nF", "G"]})
    out = text(table)
    assert text(pa.table({"id": ["a\rb"], "seq": ["AC"]})) == b">a b\nAC\n"
    assert out == b">a >evil\nAC\nD\n>b c\nE\nF\n>d>e\nG\n"


@pytest.mark.parametrize("sequence", [">ACD", "AC\n>x\nD", "A>C"])
def test_a_header_sign_in_a_sequence_is_an_error(sequence: str) -> None:
    table = pa.table({"id": ["a", "b"], "seq": ["ACD", sequence]})
    with pytest.raises(CorpusError, match="'>' in a sequence") as caught:
        text(table)
    assert "record b" in str(caught.value)


def test_text_that_is_none() -> None:
    table = pa.table({"id": ["a"], "seq": pa.array([b"\xff\xfe"], pa.binary())})
    with pytest.raises(CorpusError, match="cannot read rows from 0 on"):
        text(table)


def test_several_columns_may_hold_sequences() -> None:
    schema = pa.schema([("id", pa.string()), ("seq", pa.string()), ("aa_seq", pa.string())])
    with pytest.raises(CorpusError) as caught:
        find_columns(schema, "x.parquet")
    assert str(caught.value) == (
        "x.parquet: 2 columns may hold the sequences: seq, aa_seq\n"
        "  why: the columns are id (string), seq (string), aa_seq (string)\n"
        "  try: name the one you mean: FILE?seq=seq"
    )
    assert find_columns(schema, "x", {"seq": "aa_seq"}).sequence == "aa_seq"


def test_no_column_holds_sequences() -> None:
    schema = pa.schema([("id", pa.string()), ("sequence", pa.int64()), ("dna", pa.string())])
    with pytest.raises(CorpusError, match="no column holds sequences") as caught:
        find_columns(schema, "x")
    assert "sequence (int64), dna (string)" in str(caught.value)
    assert find_columns(schema, "x", {"seq": "dna"}) == Columns("dna", "id")


def test_chosen_columns_must_be_there_and_fit() -> None:
    schema = pa.schema([("id", pa.string()), ("sequence", pa.string()), ("x", pa.float32())])
    with pytest.raises(ConfigError, match="there is no column 'sequences'"):
        find_columns(schema, "x", {"seq": "sequences"})
    with pytest.raises(ConfigError, match="'x' cannot hold the accession"):
        find_columns(schema, "x", {"id": "x"})


def test_preferences_between_columns() -> None:
    schema = pa.schema([(name, pa.string()) for name in ("name", "id", "accession", "text", "sequence")])
    assert find_columns(schema, "x") == Columns("sequence", "accession", description="name")
    schema = pa.schema([(name, pa.string()) for name in ("name", "id", "text")])
    assert find_columns(schema, "x") == Columns("text", "id", description="name")
    schema = pa.schema([(name, pa.string()) for name in ("name", "text")])
    assert find_columns(schema, "x") == Columns("text", "name")


values = st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
rows = st.lists(
    st.tuples(values, st.none() | st.text("ACDX*-\n\r", max_size=8), st.none() | st.integers(0, 9)), min_size=1
)


@settings(max_examples=60, deadline=None)
@given(rows, st.integers(1, 5))
def test_every_row_is_one_record(made: list[tuple[str | None, str | None, int | None]], cut: int) -> None:
    """Against a plain loop over the rows, for any cut into batches."""
    table = pa.table(
        {
            "id": pa.array([row[0] for row in made], pa.string()),
            "seq": pa.array([row[1] for row in made], pa.string()),
            "n": pa.array([row[2] for row in made], pa.int64()),
        }
    )
    expected = []
    for number, (name, sequence, n) in enumerate(made):
        word = name if (name or "").strip() else f"row_{number}"
        header = word + ("" if n is None else f" n={n}")
        for run in ("\r\n", "\r", "\n"):
            header = header.replace(run, " ")
        expected.append((" ".join(header.split(" ")), (sequence or "").replace("\n", "").replace("\r", "")))
    cutted = pa.concat_tables([table.slice(i, cut) for i in range(0, len(made), cut)])
    found = []
    for line in text(cutted).decode().split("\n"):
        if line.startswith(">"):
            found.append([line[1:], ""])
        elif line:
            found[-1][1] += line
    squeezed = [(" ".join(header.split()), sequence) for header, sequence in expected]
    assert [(" ".join(header.split()), sequence) for header, sequence in found] == squeezed


def write_parquet(path: Path, n: int = 3000, **more: Any) -> list[tuple[str, str]]:
    made = [(f"p{i}", "ACDEFGHIKL" * (i % 9)) for i in range(n)]
    table = pa.table({"x": list(range(n)), "id": [m[0] for m in made], "sequence": [m[1] for m in made]})
    pq.write_table(table, path, **more)
    return made


@pytest.mark.parametrize("block_bytes", [1, 1000, 1 << 18])
@pytest.mark.parametrize("more", [{}, {"row_group_size": 700}, {"use_dictionary": False, "compression": "zstd"}])
def test_parquet(tmp_path: Path, block_bytes: int, more: dict[str, Any]) -> None:
    path = tmp_path / "a.parquet"
    made = write_parquet(path, 300 if block_bytes == 1 else 3000, **more)
    meter = Meter()
    assert records(b"".join(parquet_text(path, block_bytes=block_bytes, meter=meter))) == made
    assert (meter.bytes_read, meter.sha256()) == (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())


def test_the_meter_of_a_table_moves_on_the_way(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, 3000, row_group_size=300)
    meter = Meter()
    seen = {meter.bytes_read for _ in parquet_text(path, block_bytes=1000, meter=meter)}
    assert len(seen) >= 9


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 9_000), max_size=3), group=st.sampled_from([7, 60, 1000]))
def test_spans_of_a_parquet_file_hold_each_record_once(tmp_path: Path, cuts: list[int], group: int) -> None:
    path = tmp_path / "a.parquet"
    made = write_parquet(path, 200, row_group_size=group)
    edges = [0, *sorted(cuts), path.stat().st_size + 9_000]
    found: list[tuple[str, str]] = []
    for span in itertools.pairwise(edges):
        found += records(b"".join(parquet_text(path, block_bytes=500, span=span)))
    assert found == made


def test_spans_that_meet_where_a_row_group_begins(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    made = write_parquet(path, 100, row_group_size=30)
    metadata = pq.ParquetFile(path).metadata
    starts = [metadata.row_group(i).column(0).dictionary_page_offset for i in range(metadata.num_row_groups)]
    spans = list(itertools.pairwise([0, *starts, 1 << 30]))
    parts = [records(b"".join(parquet_text(path, block_bytes=500, span=span))) for span in spans]
    assert parts == [[], made[:30], made[30:60], made[60:90], made[90:]]


def test_the_meter_of_a_span_counts_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, 100, row_group_size=30)
    meters = [Meter(), Meter()]
    for meter, span in zip(meters, [(0, 2000), (2000, 1 << 30)], strict=True):
        list(parquet_text(path, block_bytes=500, meter=meter, span=span))
    assert all(meter.bytes_read > 0 for meter in meters)
    assert sum(meter.bytes_read for meter in meters) < path.stat().st_size


def test_rows_without_names_keep_their_numbers_in_spans(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"seq": ["ACD"] * 40}), path, row_group_size=10)
    middle = pq.ParquetFile(path).metadata.row_group(2).column(0).dictionary_page_offset
    found = records(b"".join(parquet_text(path, block_bytes=500, span=(middle, 1 << 30))))
    assert [header for header, _ in found] == [f"row_{i}" for i in range(20, 40)]


@pytest.mark.parametrize("layout", ["file", "stream", "feather"])
@pytest.mark.parametrize("block_bytes", [200, 1 << 18])
def test_arrow(tmp_path: Path, layout: str, block_bytes: int) -> None:
    path = tmp_path / "a.arrow"
    made = [(f"p{i}", "ACDEFGHIKL" * (i % 9)) for i in range(3000)]
    table = pa.table({"x": list(range(3000)), "id": [m[0] for m in made], "sequence": [m[1] for m in made]})
    if layout == "feather":
        feather.write_feather(table, path, compression="zstd")
    else:
        new = pa.ipc.new_file if layout == "file" else pa.ipc.new_stream
        with new(str(path), table.schema) as out:
            out.write_table(table, max_chunksize=500)
    meter = Meter()
    assert records(b"".join(arrow_text(path, block_bytes=block_bytes, meter=meter))) == made
    assert (meter.bytes_read, meter.sha256()) == (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("lost", [1, 100, 5000])
def test_truncated_tables(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path)
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(CorpusError, match="damaged Parquet file") as caught:
        list(parquet_text(path, block_bytes=1000))
    assert caught.value.where == str(path)
    table = pa.table({"id": ["a"] * 3000, "seq": ["ACDEFG"] * 3000})
    with pa.ipc.new_stream(str(path), table.schema) as out:
        out.write_table(table)
    path.write_bytes(path.read_bytes()[: -max(lost, 20)])
    with pytest.raises(CorpusError, match="damaged Arrow file"):
        list(arrow_text(path, block_bytes=1000))


def test_missing_tables(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="No such file"):
        list(parquet_text(tmp_path / "none", block_bytes=1000))


def test_a_page_with_flipped_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, compression="zstd", use_dictionary=False)
    stored = bytearray(path.read_bytes())
    begin = pq.ParquetFile(path).metadata.row_group(0).column(2).data_page_offset
    for at in range(begin + 100, begin + 300):
        stored[at] ^= 0x5A
    path.write_bytes(stored)
    with pytest.raises(CorpusError):
        list(parquet_text(path, block_bytes=1000))
