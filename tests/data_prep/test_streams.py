from __future__ import annotations

import contextlib
import gzip
import hashlib
import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.streams import Meter, text_blocks
from plm_scaling.core.errors import CorpusError

TEXT = b"".join(b">p%d\n%s\n" % (i, random.Random(i).randbytes(30).hex().encode()) for i in range(6000))


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def skippable_frame() -> bytes:
    return b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"note"


FORMS = {
    "plain": TEXT,
    "gzip": gzip.compress(TEXT),
    "gzip, two members": gzip.compress(TEXT[:1000]) + gzip.compress(TEXT[1000:]),
    "gzip, an empty member and zero padding": gzip.compress(b"") + gzip.compress(TEXT) + bytes(512),
    "zstd": zstd(TEXT),
    "zstd, two frames": zstd(TEXT[:1000]) + zstd(TEXT[1000:]),
    "zstd, a skippable frame first": skippable_frame() + zstd(TEXT),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block_bytes", [1, 1000, 1 << 20])
def test_every_form_gives_the_same_text(write: Callable[..., Path], form: str, block_bytes: int) -> None:
    # The name says nothing: the content decides.
    blocks = list(text_blocks(write(FORMS[form], "x.bin"), block_bytes=block_bytes))
    assert b"".join(blocks) == TEXT
    assert all(blocks)
    assert all(len(block) >= min(block_bytes, 64) for block in blocks[:-1])


@pytest.mark.parametrize("form", FORMS)
def test_meter_counts_and_hashes_the_stored_bytes(write: Callable[..., Path], form: str) -> None:
    meter = Meter()
    for _ in text_blocks(write(FORMS[form]), meter=meter):
        pass
    assert meter.bytes_read == len(FORMS[form])
    assert meter.sha256() == hashlib.sha256(FORMS[form]).hexdigest()


def test_a_meter_may_only_count(write: Callable[..., Path]) -> None:
    meter = Meter(hashed=False)
    assert b"".join(text_blocks(write(TEXT), meter=meter)) == TEXT
    assert meter.bytes_read == len(TEXT)
    with pytest.raises(ValueError, match="does not hash"):
        meter.sha256()


def test_bgzip_members_are_joined_to_blocks(write: Callable[..., Path]) -> None:
    members = b"".join(gzip.compress(TEXT[i : i + 500]) for i in range(0, len(TEXT), 500)) + gzip.compress(b"")
    blocks = list(text_blocks(write(members), block_bytes=40_000))
    assert b"".join(blocks) == TEXT
    assert all(40_000 <= len(block) < 41_000 for block in blocks[:-1])


def test_blocks_of_easily_compressed_text_stay_small(write: Callable[..., Path]) -> None:
    text = b"ACDEFGHIKLMNPQRSTVWY\n" * 1_000_000
    sizes = [len(block) for block in text_blocks(write(gzip.compress(text)), block_bytes=1 << 16)]
    assert sum(sizes) == len(text)
    # 200-fold: reads of a fixed 256 KiB would give all of it at once.
    assert sorted(sizes)[len(sizes) // 2] < 1 << 20


@pytest.mark.parametrize("stored", [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18"])
@given(st.binary(max_size=200))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_after_a_magic_number_is_refused_or_read(
    write: Callable[..., Path], stored: bytes, garbage: bytes
) -> None:
    path = write(stored + garbage)
    with contextlib.suppress(CorpusError):
        list(text_blocks(path))


@pytest.mark.parametrize("make", [gzip.compress, zstd])
@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_anywhere_is_refused_or_harmless(
    write: Callable[..., Path], make: Callable[[bytes], bytes], data: st.DataObject
) -> None:
    stored = bytearray(make(TEXT[:3000]))
    stored[data.draw(st.integers(0, len(stored) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        text = b"".join(text_blocks(write(bytes(stored))))
    except CorpusError:
        return
    # Only what the checksum does not cover may change, such as the flags and the time in the header.
    assert text == TEXT[:3000] or not bytes(stored).startswith(make(b"")[:4])


@pytest.mark.parametrize(("make", "name"), [(gzip.compress, "gzip"), (zstd, "zstd")])
@pytest.mark.parametrize("lost", [1, 9, 5000])
def test_truncation_names_file_and_offset(
    write: Callable[..., Path], make: Callable[[bytes], bytes], name: str, lost: int
) -> None:
    stored = make(TEXT)[:-lost]
    path = write(stored, "half.fasta.gz")
    with pytest.raises(CorpusError) as caught:
        list(text_blocks(path))
    assert str(caught.value).startswith(f"{path}: truncated {name} file: the data end at byte {len(stored)} ")


def test_truncation_in_the_second_member_counts_from_the_start_of_the_file(write: Callable[..., Path]) -> None:
    stored = gzip.compress(TEXT[:1000]) + gzip.compress(TEXT[1000:])[:-20]
    with pytest.raises(CorpusError, match=f"end at byte {len(stored)} in the middle"):
        list(text_blocks(write(stored)))


@pytest.mark.parametrize(("make", "name"), [(gzip.compress, "gzip"), (zstd, "zstd")])
def test_a_flipped_byte_is_found(write: Callable[..., Path], make: Callable[[bytes], bytes], name: str) -> None:
    stored = bytearray(make(TEXT))
    stored[-6] ^= 0xFF  # inside the checksum
    path = write(bytes(stored))
    with pytest.raises(CorpusError, match=f"damaged {name} data near byte [0-9]+") as caught:
        list(text_blocks(path))
    assert caught.value.where == str(path)


def test_garbage_after_a_member_is_damage(write: Callable[..., Path]) -> None:
    stored = gzip.compress(TEXT) + b"this is no gzip member"
    with pytest.raises(CorpusError, match=f"damaged gzip data near byte {len(gzip.compress(TEXT))}"):
        list(text_blocks(write(stored)))


@pytest.mark.parametrize("block_bytes", [64, 65, 66, 67])
def test_line_ends_are_unified_even_across_blocks(write: Callable[..., Path], block_bytes: int) -> None:
    text = b"\r\n".join(b"A" * (i % 9) for i in range(200)) + b"\rC\n\r\r\n"
    expected = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert b"".join(text_blocks(write(text), block_bytes=block_bytes)) == expected


def test_byte_order_mark_is_dropped(write: Callable[..., Path]) -> None:
    assert b"".join(text_blocks(write(b"\xef\xbb\xbf>a\nACD\n"))) == b">a\nACD\n"


def test_empty_file_has_no_blocks(write: Callable[..., Path]) -> None:
    assert list(text_blocks(write(b""))) == []
    assert list(text_blocks(write(gzip.compress(b"")))) == []


# -- stretches -------------------------------------------------------------------------------------------------------


RECORDS = b">a >x\nACD\nEF>G\r\n>b\r>c\rKL\n\n>\n\r\n>d"
STARTS = [0, 16, 19, 26, 30]


@given(
    st.lists(st.integers(0, len(RECORDS) + 3), max_size=5), st.integers(64, 70), st.sampled_from([b"", b"\n ", b"\xef"])
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_cuts_give_each_record_to_the_span_it_starts_in(
    write: Callable[..., Path], cuts: list[int], block_bytes: int, lead: bytes
) -> None:
    stored = lead + RECORDS * 5
    starts = [len(lead) + i * len(RECORDS) + start for i in range(5) for start in STARTS]
    if lead.endswith((b" ", b"\xef")):
        starts = starts[1:]  # not in the first column
    starts = [i for i in starts if stored[i - 1 : i] in (b"\n", b"\r", b"")]
    path = write(stored)
    edges = sorted({0, *(cut * 5 for cut in cuts), len(stored) + 1})
    meter = Meter(hashed=False)
    for begin, end in itertools.pairwise(edges):
        text = b"".join(text_blocks(path, block_bytes=block_bytes, span=(begin, end), meter=meter))
        mine = [start for start in starts if begin <= start < end]
        after = next((start for start in starts if start >= end), len(stored))
        expected = stored[0 if begin == 0 else mine[0] : after] if mine or begin == 0 else b""
        assert text == expected.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        assert meter.bytes_read == min(end, len(stored))


def test_a_cut_at_a_record_gives_it_to_the_second_span_wherever_blocks_end(write: Callable[..., Path]) -> None:
    stored = RECORDS * 5
    path = write(stored)
    cuts = [0, 1, *(i * len(RECORDS) + start for i in range(5) for start in STARTS), len(stored)]
    for block_bytes, cut in itertools.product(range(64, 64 + len(RECORDS)), cuts):
        spans = (0, cut), (cut, len(stored))
        text = [b"".join(text_blocks(path, block_bytes=block_bytes, span=span)) for span in spans]
        assert b"".join(text) == stored.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        assert text[1][:1] in (b">", b"")


def test_a_span_inside_a_long_record_reads_no_further(write: Callable[..., Path]) -> None:
    path = write(b">a\n" + b"ACDEFGHIK\n" * 1000 + b">b\nM\n")
    assert list(text_blocks(path, block_bytes=64, span=(100, 200))) == []
    assert b"".join(text_blocks(path, block_bytes=64, span=(10_000, 20_000))) == b">b\nM\n"
    assert list(text_blocks(path, span=(50_000, 60_000))) == []


@pytest.mark.parametrize("make", [gzip.compress, zstd])
def test_a_compressed_file_has_no_stretches(write: Callable[..., Path], make: Callable[[bytes], bytes]) -> None:
    with pytest.raises(CorpusError, match="cannot be read on its own"):
        list(text_blocks(write(make(TEXT)), span=(0, 100)))


@pytest.mark.parametrize(("magic", "name"), [(b"BZh91AY", "bzip2"), (b"\xfd7zXZ\0\0", "xz"), (b"PK\3\4", "zip")])
def test_other_compressions_are_named(write: Callable[..., Path], magic: bytes, name: str) -> None:
    with pytest.raises(CorpusError, match=f"{name} files are not read"):
        list(text_blocks(write(magic + bytes(100))))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="No such file"):
        list(text_blocks(tmp_path / "none.fasta"))


def test_a_reader_given_up_early_leaves_no_thread(write: Callable[..., Path]) -> None:
    import threading

    before = threading.active_count()
    blocks = text_blocks(write(gzip.compress(TEXT)), block_bytes=100)
    next(blocks)
    assert threading.active_count() == before + 1
    blocks.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
