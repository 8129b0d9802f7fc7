"""Text of a plain, gzip or zstd file in blocks with unix line ends; decompression runs ahead in a second thread."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from plm_scaling.core.errors import CorpusError

__all__ = ["BLOCK_BYTES", "Meter", "text_blocks"]

BLOCK_BYTES: Final = 1 << 18
"""Text per block: all that is made of a block should fit into the L2 cache of a core."""
_MIN_BLOCK_BYTES: Final = 64
_COMPRESSED_READ: Final = 1 << 16
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_REFUSED: Final = {b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"PK\3\4": "zip"}


@dataclass
class Meter:
    """What was read of a file, as stored: a count of bytes and their SHA-256."""

    bytes_read: int = 0
    _sha256: Any = field(default_factory=hashlib.sha256, repr=False)

    def add(self, data: bytes) -> None:
        """Count and hash bytes just read."""
        self.bytes_read += len(data)
        self._sha256.update(data)

    def sha256(self) -> str:
        """Hex SHA-256 of all bytes read so far."""
        return str(self._sha256.hexdigest())


@dataclass(frozen=True)
class _Codec:
    """A compression: its name, a maker of one-stream decoders, and the error these raise."""

    name: str
    decoder: Callable[[], Any]
    error: Any


def text_blocks(path: Path, *, block_bytes: int = BLOCK_BYTES, meter: Meter | None = None) -> Iterator[bytes]:
    """Blocks of a file's text, none empty, with unix line ends and without a byte order mark.

    The compression is told by the content, not by the name. Gzip members and zstd frames may follow one another.

    Parameters
    ----------
    path : plain, gzip or zstd file.
    block_bytes : size of a block in bytes of text (at least 64).
    meter : told of every byte read, as stored in the file.

    Raises
    ------
    CorpusError : the file cannot be opened, is damaged or truncated (with the offset), or is compressed otherwise.
    """
    size = max(block_bytes, _MIN_BLOCK_BYTES)
    try:
        raw = path.open("rb")
    except OSError as error:
        raise CorpusError(f"cannot read the file: {error.strerror}", where=str(path)) from None
    with raw:
        codec = _codec_of(raw.read(8), path)
        raw.seek(0)
        read = _metered(raw, meter)
        blocks = _plain(read, size) if codec is None else _joined(_inflated(read, codec, path), size)
        yield from _clean(_ahead(blocks))


def _codec_of(magic: bytes, path: Path) -> _Codec | None:
    if magic.startswith(b"\x1f\x8b"):
        from isal import igzip_lib, isal_zlib

        return _Codec("gzip", lambda: isal_zlib.decompressobj(wbits=31), igzip_lib.IsalError)
    # Parallel zstd tools put a skippable frame (magic 0x184D2A50 to 5F) in front of each frame.
    if magic.startswith(b"\x28\xb5\x2f\xfd") or (magic[1:4] == b"\x2a\x4d\x18" and magic[0] >> 4 == 5):
        import zstandard

        return _Codec("zstd", lambda: zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError)
    for start, name in _REFUSED.items():
        if magic.startswith(start):
            raise CorpusError(
                f"{name} files are not read", where=str(path), hint="unpack it, or compress it with gzip or zstd"
            )
    return None


def _metered(raw: BinaryIO, meter: Meter | None) -> Callable[[int], bytes]:
    if meter is None:
        return raw.read

    def read(size: int) -> bytes:
        data = raw.read(size)
        meter.add(data)
        return data

    return read


def _plain(read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    while data := read(size):
        yield data


def _inflated(read: Callable[[int], bytes], codec: _Codec, path: Path) -> Iterator[bytes]:
    """Decompressed pieces of all streams laid end to end; zero padding between them is skipped."""
    position, decoder = 0, None
    while data := read(_COMPRESSED_READ):
        while data:
            if decoder is None:
                stripped = data.lstrip(b"\0")
                position += len(data) - len(stripped)
                if not stripped:
                    break
                data, decoder = stripped, codec.decoder()
            try:
                text = decoder.decompress(data)
            except codec.error as error:
                raise CorpusError(
                    f"damaged {codec.name} data near byte {position}",
                    where=str(path),
                    why=str(error),
                    hint="copy or download the file again",
                ) from None
            rest = decoder.unused_data
            position += len(data) - len(rest)
            data = rest
            if decoder.eof:
                decoder = None
            if text:
                yield text
    if decoder is not None:
        raise CorpusError(
            f"truncated {codec.name} file: the data end at byte {position} in the middle of a stream",
            where=str(path),
            hint="copy or download the file again",
        )


def _joined(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Pieces put together to blocks of at least `size` bytes (the last may be shorter)."""
    held: list[bytes] = []
    n_held = 0
    for piece in pieces:
        held.append(piece)
        n_held += len(piece)
        if n_held >= size:
            yield b"".join(held)
            held, n_held = [], 0
    if held:
        yield b"".join(held)


def _ahead(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The same blocks, the next one being made in a second thread while this one is used."""
    with closing(blocks), ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:  # type: ignore[type-var]
        pending = pool.submit(next, blocks, b"")
        while block := pending.result():
            pending = pool.submit(next, blocks, b"")
            yield block


def _clean(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Unix line ends, no byte order mark, no empty blocks."""
    first, after_return = True, False
    for block in blocks:
        if first:
            block, first = block.removeprefix(_BYTE_ORDER_MARK), False
        if after_return:
            # The two bytes of one line end may fall into two blocks.
            block = block.removeprefix(b"\n")
        after_return = block.endswith(b"\r")
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if block:
            yield block
