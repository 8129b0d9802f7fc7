from __future__ import annotations

import hashlib
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))
from http_server import Fault, FaultyServer

from data_prep import sources
from data_prep.download import read_receipt
from data_prep.sources import KNOWN, fetch_source, parse_checksums, parse_metalink, resolve_source, stream_items
from data_prep.transfer import Patience, RemoteFile
from plm_scaling.core.errors import ConfigError, CorpusError

HASTY = Patience(attempts=2, wait=0.0)
CONTENT = b">UniRef50_A Protein n=1 Tax=x TaxID=1 RepID=A_X\nACDEFG\n" * 100


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def metalink(release: str, **files: bytes) -> bytes:
    """In UniProt's layout."""
    entries = "".join(
        f'<file name="{name.replace("__", ".")}"><size>{len(content)}</size>'
        f'<verification><hash type="md5">{md5(content)}</hash></verification>'
        f'<resources><url location="us" type="ftp" preference="100">ftp://x/{name}</url></resources></file>'
        for name, content in files.items()
    )
    return (
        '<?xml version="1.0" encoding="ISO-8859-1"?>'
        '<metalink version="3.0" xmlns="http://www.metalinker.org/" type="static">'
        f"<publisher><name>UniProt</name></publisher><license><name>CC BY 4.0</name></license>"
        f"<version>{release}</version><files>{entries}</files></metalink>"
    ).encode()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    """A server in the place of UniProt and EBI: their addresses in the list are turned to it."""
    with FaultyServer() as running:
        base = running.add("", b"").rstrip("/")
        text = KNOWN.read_text()
        for host in ("https://ftp.uniprot.org", "https://ftp.ebi.ac.uk"):
            text = text.replace(host, base)
        known = tomllib.loads(text)
        monkeypatch.setattr(sources, "_known", lambda: known)
        yield running


UNIREF = "pub/databases/uniprot/uniref/uniref50"
MGNIFY = "pub/databases/metagenomics/peptide_database"


def test_a_known_source_is_checked_against_its_metalink(server: FaultyServer, tmp_path: Path) -> None:
    server.add(f"{UNIREF}/RELEASE.metalink", metalink("2026_03", uniref50__fasta__gz=CONTENT, other__xml=b"x"))
    url = server.add(f"{UNIREF}/uniref50.fasta.gz", CONTENT, Fault("truncate", 1000))
    spec = resolve_source("uniref50", cache=tmp_path, patience=HASTY)
    assert spec.files == (RemoteFile(url, len(CONTENT), f"md5:{md5(CONTENT)}"),)
    assert (spec.name, spec.release, spec.licence) == ("uniref50", "2026_03", "CC BY 4.0")
    assert spec.origin == f"{url} (release 2026_03)"
    assert spec.about_bytes == len(CONTENT)
    assert spec.unverified == (), "the size is the published one now"
    told: list[int] = []
    (item,) = fetch_source(spec, tmp_path, lambda done, _: told.append(done), patience=HASTY)
    assert Path(item).read_bytes() == CONTENT
    assert Path(item).name == "uniref50.fasta.gz"
    assert server.happened("truncate") == 1
    receipt = read_receipt(Path(item))
    assert receipt is not None
    assert receipt.checksum == f"md5:{md5(CONTENT)}"
    assert stream_items(spec) == (url,)


def test_a_new_release_is_seen_and_an_old_one_refused(server: FaultyServer, tmp_path: Path) -> None:
    server.add(f"{UNIREF}/RELEASE.metalink", metalink("2026_03", uniref50__fasta__gz=CONTENT))
    assert resolve_source("uniref50@2026_03", cache=tmp_path).release == "2026_03"
    with pytest.raises(ConfigError, match="release 2024_01 of uniref50 cannot be downloaded") as caught:
        resolve_source("uniref50@2024_01", cache=tmp_path)
    assert "previous_releases" in caught.value.hint
    server.add(f"{UNIREF}/RELEASE.metalink", metalink("2026_04", uniref50__fasta__gz=b"new"), etag='"v2"')
    spec = resolve_source("uniref50", cache=tmp_path)
    assert (spec.release, spec.files[0].bytes) == ("2026_04", 3)


def test_wrong_contents_are_found(server: FaultyServer, tmp_path: Path) -> None:
    server.add(f"{UNIREF}/RELEASE.metalink", metalink("2026_03", uniref50__fasta__gz=CONTENT))
    server.add(f"{UNIREF}/uniref50.fasta.gz", CONTENT[:-1] + b"x")
    spec = resolve_source("uniref50", cache=tmp_path)
    with pytest.raises(CorpusError, match="published checksum") as caught:
        fetch_source(spec, tmp_path, patience=HASTY)
    assert md5(CONTENT) in str(caught.value)


def test_a_list_without_the_file(server: FaultyServer, tmp_path: Path) -> None:
    server.add(f"{UNIREF}/RELEASE.metalink", metalink("2026_03", uniref50__xml__gz=CONTENT))
    with pytest.raises(CorpusError, match=r"list of checksums has no uniref50\.fasta\.gz") as caught:
        resolve_source("uniref50", cache=tmp_path)
    assert "it lists uniref50.xml.gz" in caught.value.why


def test_releases_with_a_list_of_md5(server: FaultyServer, tmp_path: Path) -> None:
    sums = f"{md5(CONTENT)}  mgy_clusters.fa.gz\n{md5(b'')} *other\n"
    for release in ("current_release", "2024_04"):
        server.add(f"{MGNIFY}/{release}/md5sum.txt", sums.encode())
    for word, release in (("mgnify", "current_release"), ("mgnify@2024_04", "2024_04")):
        spec = resolve_source(word, cache=tmp_path)
        assert spec.files[0].url.endswith(f"/{release}/mgy_clusters.fa.gz")
        assert spec.files[0].checksum == f"md5:{md5(CONTENT)}"
        assert spec.release == release
        assert any("CC0 1.0 (unverified)" in line for line in spec.notes())


def test_without_a_network_nothing_is_asked(server: FaultyServer, tmp_path: Path) -> None:
    spec = resolve_source("uniref90", cache=tmp_path, online=False)
    assert spec.files[0].checksum is None
    assert spec.notes()[2] == "about 32.1 GB (unverified)"
    assert resolve_source("mgnify_all", online=False).files[0].name == "mgy_protein_sequences.parquet"
    assert server.seen == []


def test_no_publisher(server: FaultyServer, tmp_path: Path) -> None:
    server.stop()
    with pytest.raises(CorpusError, match="cannot download the file") as caught:
        resolve_source("uniref50", cache=tmp_path, patience=HASTY)
    assert "RELEASE.metalink" in caught.value.where


def test_what_was_downloaded_serves_without_a_network(server: FaultyServer, tmp_path: Path) -> None:
    server.add(f"{UNIREF}/RELEASE.metalink", metalink("2026_03", uniref50__fasta__gz=CONTENT))
    server.add(f"{UNIREF}/uniref50.fasta.gz", CONTENT)
    fetch_source(resolve_source("uniref50", cache=tmp_path), tmp_path)
    server.stop()
    spec = resolve_source("uniref50", cache=tmp_path, patience=HASTY)
    assert Path(fetch_source(spec, tmp_path, patience=HASTY)[0]).read_bytes() == CONTENT


def test_addresses(server: FaultyServer, tmp_path: Path) -> None:
    url = server.add("x/My.Proteins.fa.gz", CONTENT)
    spec = resolve_source(f"{url}#md5={md5(CONTENT).upper()}")
    assert (spec.name, spec.origin) == ("My.Proteins", url)
    assert spec.files == (RemoteFile(url, checksum=f"md5:{md5(CONTENT)}"),)
    assert "licence: not known" in spec.notes()
    assert resolve_source(url).files == (RemoteFile(url),)
    with pytest.raises(ConfigError, match="cannot read the checksum"):
        resolve_source(f"{url}#md5=xyz")


def test_paths(tmp_path: Path) -> None:
    path = tmp_path / "uniref50.fasta"
    path.write_bytes(CONTENT)
    spec = resolve_source(str(path))
    assert (spec.name, spec.files, spec.items, spec.origin) == ("uniref50", (), (str(path),), "")
    assert resolve_source(f"{path}?seq=x").items == (f"{path}?seq=x",)
    assert fetch_source(spec) == (str(path),)


def test_a_word_nobody_knows() -> None:
    with pytest.raises(ConfigError, match="no source is called 'uniref5O'") as caught:
        resolve_source("uniref5O")
    assert "did you mean uniref50?" in caught.value.hint
    with pytest.raises(ConfigError, match="no such file"):
        resolve_source("data/none.fasta")


class TestHub:
    @pytest.fixture
    def card(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        import huggingface_hub

        calls: list[Any] = []

        class Api:
            def dataset_info(self, name: str, revision: str | None) -> Any:
                calls.append((name, revision))
                if name == "owner/gone":
                    raise ConnectionError("no network")
                return SimpleNamespace(sha="c0ffee", card_data={"license": "mit"} if name == "owner/name" else None)

        monkeypatch.setattr(huggingface_hub, "HfApi", Api)
        return calls

    def test_the_card_tells_licence_and_commit(self, card: list[Any]) -> None:
        spec = resolve_source("hf://owner/name/conf:test?seq=x")
        assert spec.items == ("hf://owner/name@c0ffee/conf:test?seq=x",)
        assert (spec.name, spec.origin, spec.licence, spec.release) == (
            "name",
            "hf://owner/name@c0ffee",
            "mit",
            "c0ffee",
        )
        assert card == [("owner/name", None)]

    def test_a_revision_that_was_asked_for(self, card: list[Any]) -> None:
        assert resolve_source("hf://owner/other@v1").licence == ""
        assert card == [("owner/other", "v1")]

    @pytest.mark.parametrize("online", [True, False])
    def test_no_card(self, card: list[Any], online: bool) -> None:
        spec = resolve_source("hf://owner/gone:test", online=online)
        assert (spec.items, spec.licence, spec.release) == (("hf://owner/gone:test",), "", "")

    def test_omg(self, card: list[Any]) -> None:
        spec = resolve_source("omg")
        assert spec.items == ("hf://tattabio/OMG_prot50@c0ffee",)
        assert (spec.name, spec.licence, spec.unverified) == ("omg", "CC BY-SA 4.0", ())
        assert resolve_source("omg@v2", online=False).items == ("hf://tattabio/OMG_prot50@v2",)
        by_name = resolve_source("hf://tattabio/OMG_prot50", online=False)
        assert (by_name.licence, by_name.citation) == (spec.licence, spec.citation)


def test_every_known_source_says_what_it_must() -> None:
    for name, entry in tomllib.loads(KNOWN.read_text()).items():
        assert {"title", "licence", "licence_url", "citation"} <= entry.keys(), name
        assert set(entry.get("unverified", ())) <= entry.keys(), name
        assert ("hub" in entry) != ("files" in entry), name
        spec = resolve_source(name, online=False)
        assert spec.origin, name
        assert spec.files or spec.items, name
        assert any(line.startswith("licence: ") for line in spec.notes()), name


def test_newer_metalinks_and_better_sums() -> None:
    text = (
        b'<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="a.gz"><size>7</size>'
        b'<hash type="md5">AA</hash><hash type="sha-256">BB</hash></file><file name="b"/></metalink>'
    )
    release, files = parse_metalink(text, "https://host/x/RELEASE.metalink")
    assert release == ""
    assert files["a.gz"] == RemoteFile("https://host/x/a.gz", 7, "sha256:bb")
    assert files["b"] == RemoteFile("https://host/x/b")


@pytest.mark.parametrize("text", [b"<html><body></html>", b"<html></html>", b""])
def test_no_metalink(text: bytes) -> None:
    with pytest.raises(CorpusError, match="metalink"):
        parse_metalink(text, "https://host/x")


def test_lists_of_checksums() -> None:
    text = f"# made by\n{'a' * 32}  x/one.gz\n{'B' * 64} *two\nnonsense\n\n{'c' * 32}\n"
    assert parse_checksums(text) == {"one.gz": "md5:" + "a" * 32, "two": "sha256:" + "b" * 64}
