from __future__ import annotations

import gzip
import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

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
    blocks = text_blocks(write(TEXT), block_bytes=100)
    next(blocks)
    assert threading.active_count() == before + 1
    blocks.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
