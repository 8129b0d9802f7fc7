from __future__ import annotations

import errno
import gzip
import hashlib
import os
import random
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
from http_server import Fault, FaultyServer

from data_prep import download, transfer
from data_prep.download import default_cache, fetch, read_receipt
from data_prep.remote import open_url_stream, url_text
from data_prep.streams import Meter
from data_prep.transfer import Patience, RemoteFile
from plm_scaling.core.errors import ConfigError, CorpusError

CONTENT = random.Random(1).randbytes(3_000_000)
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()
HASTY = Patience(attempts=3, wait=0.0, timeout=20.0)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer.time, "sleep", lambda _seconds: None)


def got(url: str, cache: Path, **more: object) -> bytes:
    return fetch(RemoteFile(url, **more), cache, patience=HASTY).read_bytes()  # type: ignore[arg-type]


def left_over(cache: Path) -> list[str]:
    return sorted(p.name for p in cache.rglob("*") if p.is_file() and p.name != "lock" and "receipt" not in p.name)


def test_a_good_download_is_cached_and_described(server: FaultyServer, tmp_path: Path) -> None:
    url = server.add("a.fasta.gz", CONTENT, last_modified="Wed, 01 Jul 2026 00:00:00 GMT")
    told: list[tuple[int, int | None]] = []
    path = fetch(RemoteFile(url, len(CONTENT), MD5), tmp_path, lambda done, total: told.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert path.name == "a.fasta.gz"
    assert left_over(tmp_path) == ["a.fasta.gz"]
    assert told[-1] == (len(CONTENT), len(CONTENT))
    receipt = read_receipt(path)
    assert receipt is not None
    assert (receipt.url, receipt.bytes, receipt.checksum, receipt.etag) == (url, len(CONTENT), MD5, '"v1"')
    assert receipt.last_modified == "Wed, 01 Jul 2026 00:00:00 GMT"
    assert fetch(RemoteFile(url, len(CONTENT), MD5), tmp_path) == path
    assert len(server.seen) == 1, "the second call asked the server"


@pytest.mark.parametrize("kind", ["drop", "truncate"])
def test_a_broken_connection_is_gone_on_with(server: FaultyServer, tmp_path: Path, kind: str) -> None:
    url = server.add("a", CONTENT, Fault(kind, 1_000_000), Fault(kind, 500_000), Fault(kind, 7))
    assert got(url, tmp_path) == CONTENT
    assert server.happened(kind) == 3
    ranges = [seen.range for seen in server.gets("a")]
    assert all((seen.if_range, seen.status) == ('"v1"', 206) for seen in server.gets("a") if seen.range)
    if kind == "truncate":  # a reset may lose what was under way
        assert ranges == ["", "bytes=1000000-", "bytes=1500000-", "bytes=1500007-"]


def test_silence_counts_as_a_broken_connection(server: FaultyServer, tmp_path: Path) -> None:
    url = server.add("a", CONTENT, Fault("stall", 1_000_000))
    path = fetch(RemoteFile(url), tmp_path, patience=Patience(attempts=30, wait=0.0, timeout=0.5))
    assert path.read_bytes() == CONTENT
    assert server.happened("stall") == 1
    assert len(server.gets("a")) > 1


def test_a_later_call_goes_on(server: FaultyServer, tmp_path: Path) -> None:
    url = server.add("a", CONTENT, Fault("truncate", 2_000_000), *[Fault("status")] * 3)
    with pytest.raises(CorpusError, match="503") as caught:
        got(url, tmp_path)
    assert "2,000,000 bytes are kept" in str(caught.value)
    assert left_over(tmp_path) == ["a.partial", "a.partial.json"]
    before = server.bytes_sent
    assert got(url, tmp_path) == CONTENT
    assert server.bytes_sent - before == 1_000_000
    assert left_over(tmp_path) == ["a"]


def test_a_whole_part_needs_no_byte_more(server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.add("a", CONTENT)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "hardlink_to", killed)
        with pytest.raises(KeyboardInterrupt):
            got(url, tmp_path, checksum=MD5)
    assert "a.partial" in left_over(tmp_path)
    before = server.bytes_sent
    assert got(url, tmp_path, checksum=MD5) == CONTENT
    assert server.gets("a")[-1].status == 416
    assert server.bytes_sent == before
    assert left_over(tmp_path) == ["a"]


def test_no_hard_links_are_needed(server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    assert got(server.add("a", CONTENT), tmp_path, checksum=MD5) == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:10] + b"other" + CONTENT[10:], CONTENT[:100], b""])
def test_another_version_starts_over(server: FaultyServer, tmp_path: Path, content: bytes) -> None:
    url = server.add("a", CONTENT, Fault("truncate", 1_000_000), *[Fault("status")] * 3)
    with pytest.raises(CorpusError):
        got(url, tmp_path)
    server.add("a", content, etag='"v2"')
    assert got(url, tmp_path) == content
    last = server.gets("a")[-1]
    assert (last.range, last.if_range, last.status) == ("bytes=1000000-", '"v1"', 200)


def test_another_version_while_it_comes_starts_over(server: FaultyServer, tmp_path: Path) -> None:
    url = server.add("a", CONTENT, Fault("truncate", 1_000_000))
    changed = bytes(reversed(CONTENT))

    def told(done: int, total: int | None) -> None:
        if done and server.files["/a"].etag == '"v1"':
            server.add("a", changed, etag='"v2"')

    assert fetch(RemoteFile(url), tmp_path, told, patience=HASTY).read_bytes() == changed
    assert server.happened("truncate") == 1
    receipt = read_receipt(next(tmp_path.rglob("a")))
    assert receipt is not None
    assert receipt.etag == '"v2"'


@pytest.mark.parametrize("kind", ["shift", "other_part"])
def test_a_part_of_something_else_is_not_taken(server: FaultyServer, tmp_path: Path, kind: str) -> None:
    url = server.add("a", CONTENT, Fault("truncate", 1_000_000), Fault(kind))
    assert got(url, tmp_path) == CONTENT
    assert server.happened(kind) == 1
    assert [seen.status for seen in server.gets("a")] == [200, 206, 200]


def test_a_server_without_ranges_starts_over(server: FaultyServer, tmp_path: Path) -> None:
    url = server.add("a", CONTENT, Fault("truncate", 1_000_000), Fault("ignore_range"))
    assert got(url, tmp_path) == CONTENT
    assert [seen.status for seen in server.gets("a")] == [200, 200]
    assert server.happened("ignore_range") == 1


def test_a_server_that_always_starts_over_and_breaks_is_given_up(server: FaultyServer, tmp_path: Path) -> None:
    url = server.add("a", CONTENT, *[Fault("truncate", 1_000_000)] * 50, ranges=False)
    with pytest.raises(CorpusError, match="cannot download"):
        got(url, tmp_path)
    assert 2 <= server.happened("truncate") <= 6


@pytest.mark.parametrize(("checksum", "statuses"), [(None, [200, 200]), (MD5, [200, 206])])
def test_without_a_version_only_a_checksum_allows_going_on(
    server: FaultyServer, tmp_path: Path, checksum: str | None, statuses: list[int]
) -> None:
    url = server.add("a", CONTENT, Fault("truncate", 1_000_000), etag="")
    assert got(url, tmp_path, checksum=checksum) == CONTENT
    assert [seen.status for seen in server.gets("a")] == statuses


def test_a_weak_tag_is_compared_but_not_sent(server: FaultyServer, tmp_path: Path) -> None:
    url = server.add("a", CONTENT, Fault("truncate", 1_000_000), etag='W/"v1"')
    assert got(url, tmp_path) == CONTENT
    second = server.gets("a")[1]
    assert (second.range, second.if_range, second.status) == ("bytes=1000000-", "", 206)


def test_a_wrong_checksum_names_both_and_leaves_nothing(server: FaultyServer, tmp_path: Path) -> None:
    url = server.add("a", b"not the file")
    with pytest.raises(CorpusError, match="checksum") as caught:
        got(url, tmp_path, checksum=MD5)
    assert MD5.removeprefix("md5:") in str(caught.value)
    assert hashlib.md5(b"not the file").hexdigest() in str(caught.value)
    assert left_over(tmp_path) == []


def test_damage_on_the_way_is_found_by_the_checksum(server: FaultyServer, tmp_path: Path) -> None:
    """The server goes on with other bytes under the same tag: nothing but the checksum can tell."""
    url = server.add("a", CONTENT, Fault("truncate", 1_000_000), *[Fault("status")] * 3)
    with pytest.raises(CorpusError, match="503"):
        got(url, tmp_path, checksum=MD5)
    server.add("a", bytes(len(CONTENT)))
    with pytest.raises(CorpusError, match="checksum"):
        got(url, tmp_path, checksum=MD5)
    assert server.gets("a")[-1].status == 206
    server.add("a", CONTENT)
    assert got(url, tmp_path, checksum=MD5) == CONTENT


def test_another_size_than_published_stops_at_once(server: FaultyServer, tmp_path: Path) -> None:
    url = server.add("a", CONTENT)
    with pytest.raises(CorpusError, match="has 3,000,000 bytes, not the 2,999,999 published"):
        got(url, tmp_path, bytes=len(CONTENT) - 1)
    assert left_over(tmp_path) == []


def test_a_short_answer_without_a_size_is_found_by_the_published_size(server: FaultyServer, tmp_path: Path) -> None:
    url = server.add("a", CONTENT, Fault("truncate", 1_000_000), tell_size=False)
    assert got(url, tmp_path, bytes=len(CONTENT)) == CONTENT
    assert server.happened("truncate") == 1


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_missing_file_is_not_asked_for_twice(server: FaultyServer, tmp_path: Path, status: int) -> None:
    url = server.add("a", CONTENT, Fault("status", status=status))
    with pytest.raises(CorpusError, match=str(status)) as caught:
        got(url, tmp_path)
    assert caught.value.where == url
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(
    server: FaultyServer, tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(transfer.time, "sleep", waits.append)
    url = server.add("a", CONTENT, Fault("status", status=status, retry_after="17"), Fault("status", status=status))
    assert got(url, tmp_path) == CONTENT
    assert server.happened("status") == 2
    assert waits == [17.0, 0.0]


def test_waits_grow_and_are_bounded(server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(transfer.time, "sleep", waits.append)
    url = server.add("a", CONTENT, *[Fault("status")] * 9)
    with pytest.raises(CorpusError):
        fetch(RemoteFile(url), tmp_path, patience=Patience(attempts=9, wait=1.0))
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_no_network(server: FaultyServer, tmp_path: Path) -> None:
    url = server.add("a", CONTENT)
    server.stop()
    with pytest.raises(CorpusError, match="cannot download the file") as caught:
        got(url, tmp_path)
    assert "Connection refused" in str(caught.value)
    assert "on a machine without network" in str(caught.value)


def test_without_a_checksum_the_server_is_asked_whether_it_changed(server: FaultyServer, tmp_path: Path) -> None:
    url = server.add("a", CONTENT)
    assert got(url, tmp_path) == CONTENT
    assert got(url, tmp_path) == CONTENT
    assert [seen.method for seen in server.seen] == ["GET", "HEAD"]
    server.add("a", b"new", etag='"v2"')
    assert got(url, tmp_path) == b"new"
    server.stop()
    assert got(url, tmp_path) == b"new", "without a server the cache is all there is"


def test_the_old_file_stays_until_the_new_one_is_whole(server: FaultyServer, tmp_path: Path) -> None:
    url = server.add("a", CONTENT)
    got(url, tmp_path)
    server.add("a", b"new" * 100, Fault("truncate", 5), *[Fault("status")] * 3, etag='"v2"')
    with pytest.raises(CorpusError):
        got(url, tmp_path)
    assert next(tmp_path.rglob("a")).read_bytes() == CONTENT


def test_a_file_changed_in_the_cache_is_fetched_again(server: FaultyServer, tmp_path: Path) -> None:
    url = server.add("a", CONTENT)
    path = fetch(RemoteFile(url, checksum=MD5), tmp_path)
    path.write_bytes(CONTENT[:-1])
    assert got(url, tmp_path, checksum=MD5) == CONTENT
    assert len(server.gets("a")) == 2
    path.touch()  # the same bytes, but nothing vouches for them: they are read
    assert got(url, tmp_path, checksum=MD5) == CONTENT
    assert len(server.gets("a")) == 2


def test_a_new_published_checksum_fetches_the_new_file(server: FaultyServer, tmp_path: Path) -> None:
    url = server.add("a", CONTENT)
    got(url, tmp_path, checksum=MD5)
    server.add("a", b"new", etag='"v2"')
    assert got(url, tmp_path, checksum="md5:" + hashlib.md5(b"new").hexdigest().upper()) == b"new"


def test_one_of_several_downloads_and_the_others_wait(server: FaultyServer, tmp_path: Path) -> None:
    url = server.add("a", CONTENT, Fault("truncate", 1_000_000))
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(got(url, tmp_path, checksum=MD5))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 4
    assert len(server.gets("a")) == 2


def test_a_full_disk_is_told_before_the_download(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.add("a", CONTENT)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(download.shutil, "disk_usage", lambda _: usage._replace(free=2_000_000))
        with pytest.raises(CorpusError, match="no space left") as caught:
            got(url, tmp_path)
    assert "2,000,000 bytes are free" in str(caught.value)
    assert got(url, tmp_path) == CONTENT


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_disk_that_fills_up_on_the_way_is_an_error_to_act_on(server: FaultyServer, tmp_path: Path) -> None:
    url = server.add("a", CONTENT)
    path = fetch(RemoteFile(url), tmp_path)
    path.unlink()
    (path.parent / "a.partial").symlink_to("/dev/full")
    with pytest.raises(CorpusError, match="no space left") as caught:
        got(url, tmp_path)
    assert "goes on from there" in str(caught.value)


def test_a_cache_that_cannot_be_written(server: FaultyServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match="cannot write to the cache"):
        got(server.add("a", CONTENT), tmp_path / "file")


@pytest.mark.parametrize("url", ["ftp://host/a", "a.fasta", "file:///a"])
def test_only_http(url: str) -> None:
    with pytest.raises(ConfigError, match="cannot download"):
        RemoteFile(url)


def test_unknown_checksums_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown kind of checksum"):
        RemoteFile("https://host/a", checksum="crc32:1")


def test_names_come_from_the_address() -> None:
    assert RemoteFile("https://host/x/a%20b.fa.gz?download=1").name == "a b.fa.gz"
    assert RemoteFile("https://host").name == "download"


def test_the_cache_is_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert default_cache() == Path("/x/plm-scaling")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/a")
    assert default_cache() == Path("/home/a/.cache/plm-scaling")


def test_a_file_is_stored_as_it_is_stored_there(server: FaultyServer, tmp_path: Path) -> None:
    """Some servers call a .gz file an encoding of its contents; clients then unpack it on the way."""
    packed = gzip.compress(CONTENT, 1)
    url = server.add("a.gz", packed, Fault("truncate", 1_000_000), encoding="gzip")
    assert got(url, tmp_path) == packed


def test_a_stream_gives_every_byte_once(server: FaultyServer) -> None:
    faults = [Fault("drop", 1_000_000), Fault("status"), Fault("truncate", 300_000), Fault("ignore_range")]
    url = server.add("a", CONTENT, *faults)
    assert b"".join(open_url_stream(url, patience=HASTY)) == CONTENT
    assert [seen.fault for seen in server.gets("a")] == ["drop", "status", "truncate", "ignore_range"]


def test_a_stream_stops_when_enough_was_read(server: FaultyServer) -> None:
    url = server.add("a", CONTENT * 20)
    stream = open_url_stream(url)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert server.bytes_sent < len(CONTENT) * 20


def test_a_stream_of_a_file_that_changes_is_refused(server: FaultyServer) -> None:
    url = server.add("a", CONTENT, Fault("truncate", 1_000_000))
    stream = open_url_stream(url, patience=HASTY)
    next(stream)
    server.add("a", bytes(len(CONTENT)), etag='"v2"')
    with pytest.raises(CorpusError, match="changed while it was being read"):
        list(stream)


def test_a_stream_that_cannot_tell_the_version_is_refused(server: FaultyServer) -> None:
    url = server.add("a", CONTENT, Fault("truncate", 1_000_000), etag="", tell_size=False)
    with pytest.raises(CorpusError, match="changed while"):
        list(open_url_stream(RemoteFile(url, bytes=len(CONTENT) + 1), patience=HASTY))


FASTA = b"".join(b">p%d\n%s\n" % (i, b"ACDEFGHIKL" * (i % 7 + 1)) for i in range(20_000))


@pytest.mark.parametrize("form", ["plain", "gzip", "members", "zstd", "windows"])
def test_text_of_an_address(server: FaultyServer, form: str) -> None:
    import zstandard

    stored = {
        "plain": FASTA,
        "gzip": gzip.compress(FASTA, 1),
        "members": gzip.compress(FASTA[:1000]) + gzip.compress(FASTA[1000:], 1) + bytes(512),
        "zstd": zstandard.ZstdCompressor().compress(FASTA),
        "windows": b"\xef\xbb\xbf" + FASTA.replace(b"\n", b"\r\n"),
    }[form]
    url = server.add("a", stored, Fault("truncate", len(stored) // 2), Fault("drop", 100))
    meter = Meter()
    assert b"".join(url_text(url, block_bytes=5000, meter=meter, patience=HASTY)) == FASTA
    assert server.happened("truncate") == 1
    assert (meter.bytes_read, meter.sha256()) == (len(stored), hashlib.sha256(stored).hexdigest())


def test_text_of_a_damaged_or_short_file(server: FaultyServer) -> None:
    stored = bytearray(gzip.compress(FASTA, 1))
    with pytest.raises(CorpusError, match="truncated gzip"):
        list(url_text(server.add("a", bytes(stored[:-20])), block_bytes=5000))
    stored[-6] ^= 0xFF
    with pytest.raises(CorpusError, match="damaged gzip"):
        list(url_text(server.add("b", bytes(stored)), block_bytes=5000))
    with pytest.raises(CorpusError, match="only FASTA can be read while it arrives"):
        list(url_text(server.add("c", b"PAR1" + bytes(100)), block_bytes=5000))


def test_a_killed_download_goes_on(server: FaultyServer, tmp_path: Path) -> None:
    import signal
    import subprocess
    import time

    url = server.add("a", CONTENT, Fault("stall", 2_000_000))
    code = (
        "import sys; from pathlib import Path; from data_prep.download import fetch; "
        "from data_prep.transfer import RemoteFile; fetch(RemoteFile(sys.argv[1]), Path(sys.argv[2]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, url, str(tmp_path)])
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size > 1_900_000 for p in tmp_path.rglob("a.partial")):
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert got(url, tmp_path) == CONTENT
    assert server.gets("a")[1].status == 206
