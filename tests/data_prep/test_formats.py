from __future__ import annotations

import gzip
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

sys.path.append(str(Path(__file__).parent))
from http_server import FaultyServer
from test_uniprot import EXPECTED, FLAT, XML

from data_prep.formats import Item, Kind, is_local, is_splittable, kind_of, local_path, parse_item, text_of
from data_prep.hub import HUB_NAME
from data_prep.streams import Meter
from plm_scaling.core.errors import ConfigError, CorpusError

Write = Callable[..., Path]
TABLE = pa.table({"id": [f"p{i}" for i in range(2500)], "sequence": ["ACDEFG" * (i % 5) for i in range(2500)]})
TEXT = b"".join(b">p%d\n%s\n" % (i, b"ACDEFG" * (i % 5)) for i in range(2500))


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data)


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def arrow_file(new: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with new(sink, TABLE.schema) as out:
        out.write_table(TABLE)
    return sink.getvalue().to_pybytes()


def parquet_file() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(TABLE, sink)
    return sink.getvalue().to_pybytes()


FILES: dict[str, tuple[bytes, Kind, bytes]] = {
    "fasta": (TEXT, Kind.FASTA, TEXT),
    "fasta.gz": (gzipped(TEXT), Kind.FASTA, TEXT),
    "fasta.zst": (zstd(TEXT), Kind.FASTA, TEXT),
    "parquet": (parquet_file(), Kind.PARQUET, TEXT),
    "arrow": (arrow_file(pa.ipc.new_file), Kind.ARROW, TEXT),
    "arrow stream": (arrow_file(pa.ipc.new_stream), Kind.ARROW, TEXT),
    "dat": (FLAT.encode(), Kind.FLAT_FILE, EXPECTED),
    "dat.gz": (gzipped(FLAT.encode()), Kind.FLAT_FILE, EXPECTED),
    "xml": (XML.encode(), Kind.XML, EXPECTED),
    "xml.zst": (zstd(XML.encode()), Kind.XML, EXPECTED),
}


@pytest.mark.parametrize("form", FILES)
def test_the_content_tells_what_a_file_is(write: Write, form: str) -> None:
    stored, kind, expected = FILES[form]
    path = write(stored, "x.bin")
    assert kind_of(path) == kind
    meter = Meter()
    assert b"".join(text_of(path, meter=meter)) == expected
    assert (meter.bytes_read, meter.sha256()) == (len(stored), hashlib.sha256(stored).hexdigest())
    assert is_splittable(path) == (form in ("fasta", "parquet"))


@pytest.mark.parametrize(
    "content", [b"", b"\n\n>a\nACD\n", b"\xef\xbb\xbf>a\nACD", b"ACD", b"<x/>", b"\x1f\x8b\x08oops"]
)
def test_what_is_nothing_else_is_left_to_the_fasta_reader(write: Write, content: bytes) -> None:
    assert kind_of(write(content)) == Kind.FASTA


STRANGERS = {
    "BAM": gzipped(b"BAM\1" + bytes(100)),
    "zip": b"PK\3\4" + bytes(100),
    "bzip2": b"BZh91AY",
    "xz": b"\xfd7zXZ\0",
    "FASTQ": b"@read1\nACGT\n+\nIIII\n",
    "SAM": gzipped(b"@HD\tVN:1.6\n"),
    "JSON": b'{"id": "a", "sequence": "ACD"}\n',
    "HTML": b"<!DOCTYPE html><html>",
    "tar": bytes(257).replace(b"\0", b"x") + b"ustar\x0000" + bytes(300),
    "HDF5": b"\x89HDF\r\n\x1a\n",
    "GenBank": b"LOCUS       X 12 aa\n",
    "Feather version 1": b"FEA1\0\0",
}


@pytest.mark.parametrize("name", STRANGERS)
def test_strangers_are_named(write: Write, name: str) -> None:
    path = write(STRANGERS[name])
    with pytest.raises(CorpusError, match=f"{name}.* files are not read") as caught:
        kind_of(path)
    assert caught.value.where == str(path)
    assert "Parquet" in caught.value.hint


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="No such file"):
        kind_of(tmp_path / "none")
    with pytest.raises(CorpusError, match="a folder, not a file"):
        kind_of(tmp_path)


def test_columns_named_behind_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": ["x"], "b": ["ACD"], "c": ["EFG"]}), path)
    with pytest.raises(CorpusError, match="no column holds sequences"):
        list(text_of(path))
    assert b"".join(text_of(f"{path}?seq=b&id=a")) == b">x\nACD\n"
    assert b"".join(text_of(f"{path}?seq=c")) == b">row_0\nEFG\n"
    with pytest.raises(ConfigError, match="no option of an input") as caught:
        list(text_of(f"{path}?sequense=b"))
    assert "allowed: description" in caught.value.hint or "did you mean" in caught.value.hint
    assert local_path(f"{path}?seq=b") == path


def test_a_file_may_have_a_question_mark_in_its_name(tmp_path: Path) -> None:
    path = tmp_path / "what?seq=b"
    path.write_bytes(b">a\nACD\n")
    assert local_path(path) == path
    assert b"".join(text_of(path)) == b">a\nACD\n"


def test_columns_are_named_for_tables_only(write: Write) -> None:
    path = write(b">a\nACD\n")
    with pytest.raises(ConfigError, match="only tables have columns"):
        list(text_of(f"{path}?seq=b"))
    with pytest.raises(ConfigError, match="only Parquet files are cut"):
        list(text_of(path, span=(0, 5)))


def test_a_parquet_file_in_spans(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(TABLE, path, row_group_size=100)
    half = path.stat().st_size // 2
    parts = [b"".join(text_of(path, span=span)) for span in ((0, half), (half, 10**9))]
    assert all(parts)
    assert b"".join(parts) == TEXT


@pytest.mark.parametrize(
    ("item", "place", "options"),
    [
        ("hf://a/b", "a/b", {}),
        ("hf://a/b:test", "a/b:test", {}),
        ("hf://datasets/a/b/conf:test", "a/b/conf:test", {}),
        ("hf://a/b@1a2b/c-d.e:test?seq=x", "a/b@1a2b/c-d.e:test", {"seq": "x"}),
        ("hf://a/b?split=test&id=y", "a/b", {"split": "test", "id": "y"}),
    ],
)
def test_names_of_the_hub(item: str, place: str, options: dict[str, str]) -> None:
    assert parse_item(item) == Item(place, is_hub=True, options=options)
    assert kind_of(item) == Kind.HUB
    assert not is_local(item)


def test_parts_of_a_hub_name() -> None:
    match = HUB_NAME.fullmatch("a/b@1a2b/c-d.e:test")
    assert match is not None
    assert match.groups() == ("a/b", "1a2b", "c-d.e", "test")


@pytest.mark.parametrize("item", ["hf://", "hf://a", "hf://a/b/c/d", "hf://a//b", "hf://a/b:"])
def test_no_names_of_the_hub(item: str) -> None:
    with pytest.raises(ConfigError, match="names no data set of the Hub"):
        kind_of(item)


def test_addresses_are_read_as_they_arrive() -> None:
    with FaultyServer() as server:
        url = server.add("a.fa.gz", gzipped(TEXT))
        assert kind_of(url) == Kind.URL
        assert not is_local(url)
        assert parse_item(url + "?x=1") == Item(url + "?x=1", is_url=True)
        assert b"".join(text_of(url, block_bytes=1000)) == TEXT


class TestDatasets:
    """Folders that `datasets` saved, and streams of it."""

    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        import datasets

        datasets.disable_progress_bars()
        datasets.Dataset(TABLE).save_to_disk(tmp_path / "saved", num_shards=2)
        return tmp_path / "saved"

    def test_a_saved_folder(self, saved: Path) -> None:
        assert kind_of(saved) == Kind.DATASET
        meter = Meter()
        assert b"".join(text_of(saved, block_bytes=1000, meter=meter)) == TEXT
        stored = [file.read_bytes() for file in sorted(saved.rglob("*")) if file.is_file()]
        assert (meter.bytes_read, meter.sha256()) == (
            sum(map(len, stored)),
            hashlib.sha256(b"".join(stored)).hexdigest(),
        )

    def test_a_selection_is_what_it_selects(self, tmp_path: Path) -> None:
        import datasets

        datasets.Dataset(TABLE).select([7, 3, 9]).save_to_disk(tmp_path / "saved")
        assert b"".join(text_of(tmp_path / "saved")) == b"".join(
            b">p%d\n%s\n" % (i, b"ACDEFG" * (i % 5)) for i in (7, 3, 9)
        )

    def test_a_saved_folder_with_splits(self, tmp_path: Path) -> None:
        import datasets

        halves = datasets.DatasetDict(
            train=datasets.Dataset(TABLE.slice(0, 9)), test=datasets.Dataset(TABLE.slice(9, 2))
        )
        halves.save_to_disk(tmp_path / "saved")
        with pytest.raises(ConfigError, match="there are 2 splits") as caught:
            list(text_of(tmp_path / "saved"))
        assert "train, test" in str(caught.value)
        with pytest.raises(ConfigError, match="there is no split 'val'"):
            list(text_of(f"{tmp_path / 'saved'}?split=val"))
        meter = Meter()
        text = b"".join(text_of(f"{tmp_path / 'saved'}?split=test", meter=meter))
        assert text == b">p9\nACDEFGACDEFGACDEFGACDEFG\n>p10\n\n"
        stored = [file.stat().st_size for file in (tmp_path / "saved" / "test").iterdir()]
        assert meter.bytes_read == sum(stored)

    def test_a_damaged_folder(self, saved: Path) -> None:
        (saved / "state.json").write_text("{}")
        with pytest.raises(CorpusError, match="cannot open the folder as a data set"):
            list(text_of(saved))

    @pytest.fixture
    def hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
        """The Hub's place is taken by Parquet files here; the streaming is the library's own."""
        import datasets

        pq.write_table(TABLE.slice(0, 1500), tmp_path / "0.parquet")
        pq.write_table(TABLE.slice(1500), tmp_path / "1.parquet")
        real, calls = datasets.load_dataset, []
        files = {"train": [str(tmp_path / "0.parquet"), str(tmp_path / "1.parquet")]}

        def load(name: str, config: str | None, *, revision: str | None, streaming: bool) -> Any:
            calls.append((name, config, revision, streaming))
            if config == "both":
                files["test"] = [str(tmp_path / "1.parquet")]
            return real("parquet", data_files=files, streaming=streaming)

        monkeypatch.setattr(datasets, "load_dataset", load)
        return calls

    def test_a_stream_of_the_hub(self, hub: list[tuple[Any, ...]]) -> None:
        meter = Meter()
        assert b"".join(text_of("hf://owner/name@abc", block_bytes=1000, meter=meter)) == TEXT
        assert hub == [("owner/name", None, "abc", True)]
        assert meter.sha256() == hashlib.sha256(TEXT).hexdigest()

    def test_splits_of_the_hub(self, hub: list[tuple[Any, ...]]) -> None:
        with pytest.raises(ConfigError, match="there are 2 splits"):
            list(text_of("hf://owner/name/both"))
        for item in ("hf://owner/name/both:test", "hf://owner/name/both?split=test"):
            assert b"".join(text_of(item)) == TEXT[TEXT.index(b">p1500") :]
        assert {call[1] for call in hub} == {"both"}

    def test_columns_of_the_hub(self, hub: list[tuple[Any, ...]]) -> None:
        assert b"".join(text_of("hf://owner/name?seq=id&id=sequence")).startswith(b">row_0\np0\n")

    @pytest.mark.parametrize("at", [0, 1])
    def test_no_hub(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        import datasets

        class Broken(dict[str, Any]):
            def with_format(self, _kind: str) -> Broken:
                return self

            def iter(self, _rows: int) -> Any:
                yield TABLE
                raise ConnectionError("gone in the middle\nwith details")

        def load(*_: Any, **__: Any) -> Any:
            if not at:
                raise ConnectionError("no network\nwith details")
            return {"train": Broken()}

        monkeypatch.setattr(datasets, "load_dataset", load)
        with pytest.raises(CorpusError, match="cannot stream the data set") as caught:
            list(text_of("hf://owner/name"))
        assert caught.value.where == "hf://owner/name"
        assert ("gone in the middle" if at else "no network") in caught.value.why
        assert "details" not in str(caught.value)
