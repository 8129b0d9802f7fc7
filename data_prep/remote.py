"""FASTA text of a file of another machine as it arrives: a prefix of a large file needs only its beginning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from data_prep.streams import Meter
from data_prep.transfer import PATIENCE, Patience, Receipt, RemoteFile, received
from plm_scaling.core.errors import CorpusError

__all__ = ["open_url_stream", "url_text"]

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_NOT_FASTA: Final = (b"PAR1", b"ARROW1", b"PK\3\4", b"BZh", b"\xfd7zXZ\0", b"ID   ", b"<")
_HEAD_BYTES: Final = 4


def open_url_stream(file: RemoteFile | str, *, patience: Patience = PATIENCE) -> Iterator[bytes]:
    """The bytes of a remote file, in order and once each, over as many connections as it takes.

    Close the iterator to stop; nothing beyond what was taken (and a buffer) is transferred.

    Parameters
    ----------
    file : the file or its address.
    patience : how long to try.

    Raises
    ------
    CorpusError : not reachable, not there, or changed while it was read.
    """
    remote = RemoteFile(file) if isinstance(file, str) else file
    receipt: Receipt | None = None
    position = 0
    for piece in received(remote, patience=patience):
        if receipt is not None and piece.receipt is not receipt and not receipt.same_file(piece.receipt):
            raise CorpusError(
                "the file changed while it was being read",
                where=remote.url,
                why="after a broken connection the server offers another one, or does not say which",
                hint="try again",
            )
        receipt = piece.receipt
        # A server that cannot go on in the middle sends again what is here already.
        data = piece.data[max(0, position - piece.offset) :]
        if data:
            position = piece.offset + len(piece.data)
            yield data


def url_text(
    file: RemoteFile | str, *, block_bytes: int, meter: Meter | None = None, patience: Patience = PATIENCE
) -> Iterator[bytes]:
    """FASTA text of a remote file (plain, gzip or zstd), as it arrives.

    Parameters
    ----------
    file : the file or its address.
    block_bytes : size of a block of text in bytes, at least.
    meter : told of every byte received, as stored.
    patience : how long to try.

    Raises
    ------
    CorpusError : not reachable, changed while it was read, damaged, or no FASTA.
    """
    where = file if isinstance(file, str) else file.url
    held: list[bytes] = []
    n_held = 0
    after_return = False
    for text in _unpacked(_metered(open_url_stream(file, patience=patience), meter), where):
        if after_return:
            text = text.removeprefix(b"\n")
        after_return = text.endswith(b"\r")
        held.append(text.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in text else text)
        n_held += len(text)
        if n_held >= block_bytes:
            yield b"".join(held)
            held, n_held = [], 0
    if n_held:
        yield b"".join(held)


def _metered(pieces: Iterator[bytes], meter: Meter | None) -> Iterator[bytes]:
    for piece in pieces:
        if meter is not None:
            meter.add(piece)
        yield piece


def _unpacked(pieces: Iterator[bytes], where: str) -> Iterator[bytes]:
    """The text of a file that may be compressed, without a byte order mark."""
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= _HEAD_BYTES:
            break
    if head.startswith(_NOT_FASTA):
        raise CorpusError(
            "only FASTA can be read while it arrives",
            where=where,
            hint="take all of it (without a limit of residues): then it is downloaded first",
        )
    if head.startswith((_GZIP, _ZSTD)):
        yield from _inflated(head, pieces, where)
    else:
        yield head.removeprefix(b"\xef\xbb\xbf")
        yield from pieces


def _inflated(head: bytes, pieces: Iterator[bytes], where: str) -> Iterator[bytes]:
    """Decompressed text of streams laid end to end."""
    name = "gzip" if head.startswith(_GZIP) else "zstd"
    decoder: Any = None
    data = head
    while True:
        try:
            while data:
                decoder = decoder or _decoder(name)
                yield from filter(None, (decoder.decompress(data),))
                data = decoder.unused_data
                if decoder.eof:
                    # Zeros may follow a gzip member up to the end of a block.
                    data, decoder = data.lstrip(b"\0"), None
        except _errors(name) as error:
            raise CorpusError(f"damaged {name} data", where=where, why=str(error), hint="try again") from None
        data = next(pieces, b"")
        if decoder is None:
            data = data.lstrip(b"\0")
        if not data:
            break
    if decoder is not None:
        raise CorpusError(f"truncated {name} file: the data end in the middle of a stream", where=where)


def _decoder(name: str) -> Any:
    if name == "gzip":
        from isal import isal_zlib

        return isal_zlib.decompressobj(wbits=31)
    import zstandard

    return zstandard.ZstdDecompressor().decompressobj()


def _errors(name: str) -> Any:
    if name == "gzip":
        from isal import igzip_lib

        return igzip_lib.IsalError
    import zstandard

    return zstandard.ZstdError
