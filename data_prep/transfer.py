"""The bytes of a file of another machine, whatever happens to the connection: retried, gone on with, compared."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import unquote, urlsplit

from plm_scaling.core.errors import ConfigError, CorpusError
from plm_scaling.core.records import Record

__all__ = ["PATIENCE", "Patience", "Piece", "Receipt", "RemoteFile", "ask", "received"]

_CHUNK: Final = 1 << 16
"""What is under way when a connection breaks is lost, up to this many bytes."""
_OK, _PARTIAL, _NOT_SATISFIABLE = 200, 206, 416
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT: Final = 60.0
_ALGORITHMS: Final = frozenset({"md5", "sha1", "sha256", "sha512"})


@dataclass(frozen=True)
class RemoteFile:
    """A file of another machine.

    Parameters
    ----------
    url : its address (https or http).
    bytes : its size, if it was published.
    checksum : `md5:HEX`, `sha256:HEX`, ..., if one was published.
    """

    url: str
    bytes: int | None = None
    checksum: str | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith(("https://", "http://")):
            raise ConfigError(
                f"cannot download {self.url}", hint="give an https:// or http:// address, or a local file"
            )
        if self.checksum and self.checksum.partition(":")[0] not in _ALGORITHMS:
            raise ConfigError(f"unknown kind of checksum: {self.checksum}", where=self.url, hint="write md5:HEX")

    @property
    def name(self) -> str:
        """Base name of the file."""
        return Path(unquote(urlsplit(self.url).path)).name or "download"


@dataclass(frozen=True)
class Patience:
    """How long to try.

    Parameters
    ----------
    attempts : attempts in a row that brought no new byte.
    wait : seconds before the second attempt; doubled for each further one.
    timeout : seconds without a byte after which a connection counts as broken.
    """

    attempts: int = 6
    wait: float = 1.0
    timeout: float = 60.0


PATIENCE: Final = Patience()


class Receipt(Record):
    """What is known of a file in the cache, or of the part of it that is there."""

    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset()

    url: str
    bytes: int | None = None
    """Size of the whole file, None if the server does not tell."""
    etag: str = ""
    last_modified: str = ""
    checksum: str = ""
    """The published checksum it was found to have; empty if none was published."""
    mtime_ns: int = 0
    """Modification time of the file in the cache when it was checked."""

    def same_file(self, other: Receipt) -> bool:
        """Whether nothing speaks against two answers being about the same bytes, and something for it."""
        pairs = [(self.etag, other.etag), (self.last_modified, other.last_modified), (self.bytes, other.bytes)]
        told = [(ours, theirs) for ours, theirs in pairs if ours and theirs]
        return bool(told) and all(ours == theirs for ours, theirs in told)


@dataclass(frozen=True)
class Piece:
    """Consecutive bytes of a file: where they belong, and what the server says of the file."""

    offset: int
    data: bytes
    receipt: Receipt


def received(
    file: RemoteFile,
    start: int = 0,
    known: Receipt | None = None,
    patience: Patience = PATIENCE,
    *,
    kept: bool = False,
) -> Iterator[Piece]:
    """The bytes of a remote file from `start` on, whatever happens to the connection.

    A piece that begins before the end of the last one says: forget what you have from there on. That happens where
    the server has another file now, or cannot go on in the middle.

    Parameters
    ----------
    file : the file.
    start : bytes that are there already.
    known : of which file these are.
    patience : how long to try.
    kept : the bytes are kept for a later call; an error says so.

    Raises
    ------
    CorpusError : not reachable, not there, or of another size than published.
    """
    position, best, failures = start, start, 0
    while True:
        problem, wait = "", 0.0
        try:
            for piece in _connected(file, position, known, patience):
                yield piece
                position, known = piece.offset + len(piece.data), piece.receipt
            size = known.bytes if known is not None and known.bytes is not None else file.bytes
            if size is None or position == size:
                return
            problem = f"the connection ended after {position:,} of {size:,} bytes"
        except _Passing as passing:
            problem, wait = str(passing), passing.wait
        # A server that starts over each time brings bytes, but no new ones.
        failures = 0 if position > best else failures + 1
        best = max(best, position)
        if failures >= patience.attempts:
            raise _given_up(file, problem, position if kept else 0)
        time.sleep(min(_LONGEST_WAIT, max(wait, patience.wait * 2 ** max(failures - 1, 0))))


class _Passing(Exception):
    """A fault that may be gone soon."""

    def __init__(self, problem: str, wait: float = 0.0) -> None:
        super().__init__(problem)
        self.wait = wait


def _given_up(file: RemoteFile, problem: str, kept: int) -> CorpusError:
    return CorpusError(
        "cannot download the file",
        where=file.url,
        why=problem,
        hint=(f"{kept:,} bytes are kept: the same command goes on from there; " if kept else "")
        + "check the network and the proxy (HTTPS_PROXY); on a machine without network, download the file elsewhere "
        "and give its path",
    )


def _connected(file: RemoteFile, start: int, known: Receipt | None, patience: Patience) -> Iterator[Piece]:
    """Pieces of one connection (of two, if the server cannot go on in the middle)."""
    import requests
    import urllib3

    go_on = start if known is not None and _can_go_on(file, known) else 0
    for begin in (go_on, 0) if go_on else (0,):
        headers = _headers(begin, known)
        try:
            with requests.get(file.url, headers=headers, stream=True, timeout=patience.timeout) as response:
                if begin and known is not None and _is_complete(response, begin):
                    yield Piece(begin, b"", known)
                    return
                receipt = _judged(file, response, begin)
                if receipt is None or (response.status_code == _PARTIAL and not _fits(response, receipt, begin, known)):
                    continue
                offset = begin if response.status_code == _PARTIAL else 0
                yield Piece(offset, b"", receipt)
                # The bytes as stored: requests would unpack what a server labels as packed.
                for data in response.raw.stream(_CHUNK, decode_content=False):
                    yield Piece(offset, data, receipt)
                    offset += len(data)
                return
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise _Passing(f"{type(error).__name__}: {error}") from None


def _is_complete(response: Any, begin: int) -> bool:
    """Whether nothing is missing; a server with another file would have sent it (If-Range)."""
    told = response.headers.get("Content-Range", "")
    return bool(response.status_code == _NOT_SATISFIABLE and told == f"bytes */{begin}")


def _fits(response: Any, receipt: Receipt, begin: int, known: Receipt | None) -> bool:
    """Whether a part is what was asked for, of the same file."""
    told = response.headers.get("Content-Range", "")
    return bool(known is not None and told.startswith(f"bytes {begin}-") and known.same_file(receipt))


def _can_go_on(file: RemoteFile, known: Receipt) -> bool:
    """Whether an answer from the middle could be told from one of another file; a checksum tells in the end."""
    return bool(known.etag or known.last_modified or file.checksum)


def _headers(begin: int = 0, known: Receipt | None = None) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity", "User-Agent": "plm-scaling"}
    if begin and known is not None:
        headers["Range"] = f"bytes={begin}-"
        # A weak tag may not stand here (RFC 9110, 13.1.5); the answer is compared in any case.
        strong = known.etag if not known.etag.startswith("W/") else ""
        if strong or known.last_modified:
            headers["If-Range"] = strong or known.last_modified
    return headers


def _judged(file: RemoteFile, response: Any, begin: int) -> Receipt | None:
    """Of which file the server sends bytes; None if it has none from `begin` on."""
    status = response.status_code
    if status == _NOT_SATISFIABLE and begin:
        return None
    if status in _PASSING:
        told = response.headers.get("Retry-After", "")
        raise _Passing(f"the server answered {status} {response.reason}", float(told) if told.isdigit() else 0.0)
    if status not in (_OK, _PARTIAL):
        raise CorpusError(
            f"the server answered {status} {response.reason}", where=file.url, hint="check the address and the release"
        )
    receipt = _receipt(file.url, response)
    if file.bytes is not None and receipt.bytes not in (None, file.bytes):
        raise CorpusError(
            f"the file has {receipt.bytes:,} bytes, not the {file.bytes:,} published for it",
            where=file.url,
            hint="a new release may be just coming out: try again later",
        )
    return receipt


def _receipt(url: str, response: Any) -> Receipt:
    """What an answer says of the whole file."""
    headers = response.headers
    if response.status_code == _PARTIAL:
        size = headers.get("Content-Range", "").rpartition("/")[2]
    else:
        size = headers.get("Content-Length", "")
    return Receipt(
        url=url,
        bytes=int(size) if size.isdigit() else None,
        etag=headers.get("ETag", ""),
        last_modified=headers.get("Last-Modified", ""),
    )


def ask(url: str, patience: Patience = PATIENCE) -> Receipt | None:
    """What the server says of a file without sending it; None if it cannot be reached or says nothing."""
    import requests

    try:
        with requests.head(url, headers=_headers(), timeout=patience.timeout, allow_redirects=True) as response:
            return _receipt(url, response) if response.status_code == _OK else None
    except requests.RequestException:
        return None
