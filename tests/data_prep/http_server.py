"""A local HTTP server that misbehaves on request, and remembers what it was asked and what it did."""

from __future__ import annotations

import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Fault:
    """What to do with one GET instead of answering it properly.

    Parameters
    ----------
    kind : `drop` (reset in the middle), `truncate` (an orderly end in the middle), `stall` (silence in the middle),
        `status` (another status), `ignore_range` (the whole file whatever was asked), `shift` (a part of somewhere
        else), `other_part` (a part of another version).
    after : bytes of the body that are sent before `drop`, `truncate`, `stall`; of `ignore_range` too, if not 0.
    """

    kind: str
    after: int = 0
    status: int = 503
    retry_after: str = ""


@dataclass(frozen=True)
class Seen:
    """A request, and what became of it."""

    method: str
    path: str
    range: str
    if_range: str
    status: int
    fault: str


@dataclass
class File:
    """A file of the server; change it while it runs."""

    content: bytes
    etag: str = '"v1"'
    last_modified: str = ""
    tell_size: bool = True
    ranges: bool = True
    encoding: str = ""
    faults: list[Fault] = field(default_factory=list)


class FaultyServer(ThreadingHTTPServer):
    """Serves `files` by path; each GET of a file takes the next of its faults, as long as there are any."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, File] = {}
        self.seen: list[Seen] = []
        self.bytes_sent = 0
        self.closing = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Answer nobody any more."""
        if not self.closing.is_set():
            self.closing.set()
            self.shutdown()
            self.server_close()
            self._thread.join()

    def add(self, name: str, content: bytes, *faults: Fault, **more: Any) -> str:
        """Serve a file; returns its address."""
        self.files[f"/{name}"] = File(content, faults=list(faults), **more)
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"

    def gets(self, name: str) -> list[Seen]:
        """The GETs of a file so far."""
        return [seen for seen in self.seen if seen.method == "GET" and seen.path == f"/{name}"]

    def happened(self, kind: str) -> int:
        """How many times a fault really happened."""
        return sum(seen.fault == kind for seen in self.seen)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyServer

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self._answer(head=False)

    def _answer(self, *, head: bool) -> None:
        file = self.server.files.get(self.path)
        if file is None:
            self._refuse(404, "", "")
            return
        fault = file.faults.pop(0) if file.faults and not head else Fault("")
        if fault.kind == "status":
            self._refuse(fault.status, fault.kind, fault.retry_after)
            return
        begin = self._begin(file, fault)
        if begin > 0 and begin >= len(file.content):
            self._note(416, fault.kind)
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(file.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._note(206 if begin else 200, fault.kind)
        self._headers(file, begin, fault)
        if not head:
            self._body(file.content[begin:], fault)
        if not file.tell_size:
            self.close_connection = True

    def _begin(self, file: File, fault: Fault) -> int:
        """Where the answer begins; 0 is the whole file."""
        asked = self.headers.get("Range", "")
        condition = self.headers.get("If-Range", "")
        same = condition in ("", file.etag, file.last_modified) or fault.kind == "other_part"
        if not asked or not file.ranges or not same or fault.kind == "ignore_range":
            return 0
        return int(asked.removeprefix("bytes=").rstrip("-"))

    def _headers(self, file: File, begin: int, fault: Fault) -> None:
        self.send_response(206 if begin else 200)
        if file.tell_size:
            self.send_header("Content-Length", str(len(file.content) - begin))
        if begin:
            told = begin - 1 if fault.kind == "shift" else begin
            self.send_header("Content-Range", f"bytes {told}-{len(file.content) - 1}/{len(file.content)}")
        if file.etag:
            self.send_header("ETag", '"other"' if fault.kind == "other_part" else file.etag)
        if file.encoding:
            self.send_header("Content-Encoding", file.encoding)
        if file.last_modified:
            self.send_header("Last-Modified", file.last_modified)
        self.end_headers()

    def _body(self, body: bytes, fault: Fault) -> None:
        broken = fault.kind in ("drop", "truncate", "stall") or (fault.kind == "ignore_range" and fault.after)
        if broken:
            body = body[: fault.after]
        for start in range(0, len(body), 1 << 16):
            self.wfile.write(body[start : start + (1 << 16)])
            self.server.bytes_sent += len(body[start : start + (1 << 16)])
        self.wfile.flush()
        if fault.kind == "stall":
            self.server.closing.wait(20)
        if fault.kind == "drop":
            # Closing with unread time zero sends a reset instead of an orderly end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if broken:
            self.close_connection = True

    def _refuse(self, status: int, fault: str, retry_after: str) -> None:
        self._note(status, fault)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.end_headers()

    def _note(self, status: int, fault: str) -> None:
        asked, condition = self.headers.get("Range", ""), self.headers.get("If-Range", "")
        self.server.seen.append(Seen(self.command, self.path, asked, condition, status, fault))
