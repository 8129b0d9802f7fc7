"""Text of a plain, gzip or zstd file in blocks with unix line ends; decompression runs ahead in a second thread."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from plm_scaling.core.errors import CorpusError

__all__ = ["BLOCK_BYTES", "Meter", "text_blocks"]

BLOCK_BYTES: Final = 1 << 20
"""Text per block: not much more than the processor's cache holds, enough to make the fixed cost of a block small."""
_AT_ONCE: Final = 1 << 17
"""Text read at a time: it is looked through for line ends while the fastest cache still holds it."""
_MIN_BLOCK_BYTES: Final = 64
_COMPRESSED_READ: Final = (1 << 10, 1 << 20)
_BLOCKS_AHEAD: Final = 3
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_REFUSED: Final = {b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"PK\3\4": "zip"}
T = TypeVar("T")

_RECORD_START: Final = re.compile(rb"[\r\n]>")


@dataclass
class Meter:
    """What was read of a file, as stored: a count of bytes and, if `hashed`, their SHA-256."""

    bytes_read: int = 0
    hashed: bool = True
    _sha256: Any = field(default_factory=hashlib.sha256, repr=False)

    def add(self, data: bytes) -> None:
        """Count, and hash if wanted, bytes just read."""
        self.bytes_read += len(data)
        if self.hashed:
            self._sha256.update(data)

    def sha256(self) -> str:
        """Hex SHA-256 of all bytes read so far.

        Raises
        ------
        ValueError : the meter only counts.
        """
        if not self.hashed:
            raise ValueError("this meter counts bytes but does not hash them")
        return str(self._sha256.hexdigest())


@dataclass(frozen=True)
class _Codec:
    """A compression: its name, a maker of one-stream decoders, and the error these raise."""

    name: str
    decoder: Callable[[], Any]
    error: Any


def text_blocks(
    path: Path, *, block_bytes: int = BLOCK_BYTES, meter: Meter | None = None, span: tuple[int, int] | None = None
) -> Iterator[bytes]:
    """Blocks of a file's text, none empty, with unix line ends and without a byte order mark.

    The compression is told by the content, not by the name. Gzip members and zstd frames may follow one another.

    Parameters
    ----------
    path : plain, gzip or zstd file.
    block_bytes : size of a block in bytes of text (at least 64), about; blocks of plain files may be smaller.
    meter : told of every byte read, as stored in the file; of each byte of the span only, and never to hash, if there
        is one.
    span : (begin, end) in bytes of a plain FASTA file: only the text of the records whose header starts there. Text
        before the first header belongs to the span that begins at 0.

    Raises
    ------
    CorpusError : the file cannot be opened, is damaged or truncated (with the offset), or is compressed otherwise, or
        at all though a span was asked for.
    """
    size = max(block_bytes, _MIN_BLOCK_BYTES)
    at_once = min(size, _AT_ONCE)
    try:
        raw = path.open("rb", buffering=0)
    except OSError as error:
        raise CorpusError(f"cannot read the file: {error.strerror}", where=str(path)) from None
    with raw:
        codec = _codec_of(raw.read(8), path)
        raw.seek(0)
        read = _metered(raw, meter)
        if span is not None:
            if codec is not None:
                raise CorpusError(f"a stretch of a {codec.name} file cannot be read on its own", where=str(path))
            yield from _clean(_stretch(raw, span, at_once, meter))
        elif codec is not None:
            yield from _clean(_ahead(_joined(_inflated(read, codec, path, size), size)))
        elif meter is not None and meter.hashed:
            yield from _clean(_ahead(_plain(read, size)))
        else:
            # Reading what the system has cached costs less than a thread would.
            yield from _clean(_plain(read, at_once))


def _ahead(blocks: Generator[T]) -> Generator[T]:
    """The same blocks, the next three being made in a second thread while this one is used."""
    done: SimpleQueue[T | BaseException | None] = SimpleQueue()
    free, given_up = threading.Semaphore(_BLOCKS_AHEAD), threading.Event()

    def fill() -> None:
        try:
            with closing(blocks):
                for block in blocks:
                    done.put(block)
                    free.acquire()
                    if given_up.is_set():
                        return
            done.put(None)
        except BaseException as error:  # raised again by the other thread
            done.put(error)

    thread = threading.Thread(target=fill, name="read-ahead", daemon=True)
    thread.start()
    try:
        while (block := done.get()) is not None:
            if isinstance(block, BaseException):
                raise block
            free.release()
            yield block
    finally:
        given_up.set()
        free.release()
        thread.join()


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


def _metered(raw: FileIO, meter: Meter | None) -> Callable[[int], bytes]:
    if meter is None:
        return raw.read

    def read(size: int) -> bytes:
        data = raw.read(size)
        meter.add(data)
        return data

    return read


def _plain(read: Callable[[int], bytes], size: int) -> Generator[bytes]:
    while data := read(size):
        yield data


def _stretch(raw: FileIO, span: tuple[int, int], size: int, meter: Meter | None) -> Generator[bytes]:
    """From the first header that starts in [begin, end), or the file's start, to the first one at `end` or later."""
    begin, end = span
    position = raw.seek(max(begin - 1, 0))
    last = raw.read(1) if begin else b""
    position, started = begin, begin == 0 < end
    while position < end or started:
        data = raw.read(size)
        if not data:
            return
        if meter is not None:
            meter.bytes_read += min(len(data), max(0, end - position))
        first = 0
        if not started:
            first = _record_start(data, last, 0)
            started = 0 <= first < end - position
        if started:
            stop = _record_start(data, last, end - position) if position + len(data) > end else -1
            if stop >= 0:
                yield data[first:stop]
                return
            yield data[first:]
        last, position = data[-1:], position + len(data)


def _record_start(data: bytes, last: bytes, low: int) -> int:
    """The first `>` at `low` or later with a line end before it, -1 without one; `last` is the byte before the data."""
    if low <= 0:
        if last in (b"\n", b"\r") and data.startswith(b">"):
            return 0
        low = 1
    found = _RECORD_START.search(data, low - 1)
    return found.end() - 1 if found else -1


def _inflated(read: Callable[[int], bytes], codec: _Codec, path: Path, size: int) -> Generator[bytes]:
    """Decompressed pieces of about `size` bytes of all streams laid end to end; zero padding between is skipped."""
    position, decoder, wanted = 0, None, _COMPRESSED_READ[0] << 4
    while data := read(wanted):
        before, n_text = len(data), 0
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
            n_text += len(text)
            if text:
                yield text
        # One call of the decoder makes a block: the other thread goes on meanwhile, and memory stays bounded.
        wanted = min(max(before * size // max(n_text, 1), _COMPRESSED_READ[0]), _COMPRESSED_READ[1])
    if decoder is not None:
        raise CorpusError(
            f"truncated {codec.name} file: the data end at byte {position} in the middle of a stream",
            where=str(path),
            hint="copy or download the file again",
        )


def _joined(pieces: Generator[bytes], size: int) -> Generator[bytes]:
    """Pieces put together to blocks of at least `size` bytes (the last may be shorter): members may be short."""
    held: list[bytes] = []
    n_held = 0
    with closing(pieces):
        for piece in pieces:
            held.append(piece)
            n_held += len(piece)
            if n_held >= size:
                yield b"".join(held) if len(held) > 1 else piece
                held, n_held = [], 0
    if held:
        yield b"".join(held)


def _clean(blocks: Generator[bytes]) -> Generator[bytes]:
    """Unix line ends, no byte order mark, no empty blocks."""
    first, after_return = True, False
    with closing(blocks):
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
