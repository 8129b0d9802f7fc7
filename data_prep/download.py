"""Downloads that survive the network: resumed where they broke, checked, kept in a cache.

The cache, the checksums and the final rename are pooch's. What pooch lacks is resuming, so it is handed a downloader
that has it: the bytes received stay in a `.partial` file, and are used only while the server still has the same file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from data_prep.transfer import PATIENCE, Patience, Piece, Receipt, RemoteFile, ask, received
from plm_scaling.core.errors import CorpusError, RecordError
from plm_scaling.core.files import sha256_text

__all__ = ["Progress", "default_cache", "fetch", "read_receipt"]

Progress = Callable[[int, int | None], None]
"""Told of the bytes there are, and of all bytes where their number is known."""

_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def default_cache() -> Path:
    """Folder for downloads: `$XDG_CACHE_HOME/plm-scaling`, or `~/.cache/plm-scaling`."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home else Path.home() / ".cache") / "plm-scaling"


def read_receipt(path: Path) -> Receipt | None:
    """What is known of a file that `fetch` returned; None if it was not made by it."""
    try:
        return Receipt.read(path.with_name(f"{path.name}.receipt.json"))
    except (RecordError, OSError):
        return None


def fetch(
    file: RemoteFile, cache: Path | None = None, progress: Progress | None = None, *, patience: Patience = PATIENCE
) -> Path:
    """Have a remote file in the cache: download it, go on with a broken download, or use what is there.

    A file with a published checksum is used as long as it has it. One without is used as long as the server says that
    it is unchanged, or cannot be reached. Several processes may ask for one file: one downloads, the others wait.

    Parameters
    ----------
    file : what to fetch.
    cache : folder of the cache; None is `default_cache()`.
    progress : told of the bytes.
    patience : how long to try.

    Raises
    ------
    CorpusError : not reachable, not there, changed while it came, of another size or checksum than published, or no
        space left. What came of the file is kept for the next call, except for a wrong checksum.
    """
    folder = (cache or default_cache()) / sha256_text(file.url)[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "lock"):
            path = folder / file.name
            if path.exists() and _still_good(file, path, patience):
                return path
            _download(file, path, progress or (lambda _done, _total: None), patience)
            return path
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise _no_space(file, folder, error) from None
        raise CorpusError(
            f"cannot write to the cache: {error.strerror or error}",
            where=str(folder),
            hint="choose another cache folder",
        ) from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _still_good(file: RemoteFile, path: Path, patience: Patience) -> bool:
    """Whether the file in the cache can be used without downloading it again."""
    receipt, stat = read_receipt(path), path.stat()
    untouched = receipt is not None and (receipt.bytes, receipt.mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    if file.checksum:
        if receipt is not None and untouched and receipt.checksum == file.checksum.lower():
            return True
        return _has_checksum(file, path)
    if receipt is None or not untouched:
        return False
    now = ask(file.url, patience)
    return now is None or receipt.same_file(now)


def _has_checksum(file: RemoteFile, path: Path) -> bool:
    """Read the whole file to tell; if it is the right one, the next call need not."""
    import pooch

    algorithm, _, expected = (file.checksum or "").lower().partition(":")
    if pooch.file_hash(str(path), alg=algorithm) != expected:
        return False
    _write_receipt(path, Receipt(url=file.url), f"{algorithm}:{expected}")
    return True


def _write_receipt(path: Path, receipt: Receipt, checksum: str) -> None:
    stat = path.stat()
    told = {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "checksum": checksum}
    receipt.model_copy(update=told).write(path.with_name(f"{path.name}.receipt.json"))


def _download(file: RemoteFile, path: Path, progress: Progress, patience: Patience) -> None:
    import pooch

    # The old file stays until the new one is whole.
    new = path.with_name(f"{path.name}.new")
    for leftover in (new, *path.parent.glob("tmp*")):
        leftover.unlink(missing_ok=True)
    pooch.get_logger().setLevel("WARNING")
    downloader = _Resuming(file, path, progress, patience)
    checksum = (file.checksum or "").lower()
    store = pooch.create(path.parent, base_url="", registry={new.name: checksum or None}, urls={new.name: file.url})
    try:
        store.fetch(new.name, downloader=downloader)
    except ValueError as error:
        # Both sums are in pooch's words; it has removed the file.
        downloader.forget()
        raise CorpusError(
            "the download does not have the published checksum",
            where=file.url,
            why=str(error),
            hint="try again; if it stays so, the published checksum or the file is of another release",
        ) from None
    path.with_name(f"{path.name}.receipt.json").unlink(missing_ok=True)
    new.replace(path)
    _write_receipt(path, downloader.receipt, checksum)
    downloader.forget()


class _Resuming:
    """A downloader for pooch that goes on where an earlier one stopped."""

    def __init__(self, file: RemoteFile, path: Path, progress: Progress, patience: Patience) -> None:
        self.file, self.progress, self.patience = file, progress, patience
        self.partial = path.with_name(f"{path.name}.partial")
        self.notes = path.with_name(f"{path.name}.partial.json")
        self.receipt = Receipt(url=file.url)

    def __call__(self, url: str, output_file: Any, pooch: Any) -> None:
        """Leave the whole file at `output_file`."""
        known = self._known()
        try:
            with self.partial.open("r+b" if known else "wb") as handle:
                start = handle.seek(0, os.SEEK_END)
                for piece in received(self.file, start, known, self.patience, kept=True):
                    self._take(handle, piece)
                handle.flush()
                os.fsync(handle.fileno())
        finally:
            if self.partial.exists() and not self.partial.stat().st_size:
                self.forget()
        self.partial.touch()
        # A second name, so that a death while the checksum is made costs no download.
        Path(output_file).unlink(missing_ok=True)
        try:
            Path(output_file).hardlink_to(self.partial)
        except OSError:
            self.partial.replace(output_file)

    def forget(self) -> None:
        """Remove what was kept for going on."""
        self.partial.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)

    def _known(self) -> Receipt | None:
        """Of which file the kept part is; None if there is none, or it cannot be told."""
        try:
            known = Receipt.read(self.notes)
            return known if self.partial.exists() else None
        except (RecordError, OSError):
            return None

    def _take(self, handle: IO[bytes], piece: Piece) -> None:
        if handle.tell() != piece.offset:
            handle.seek(piece.offset)
            handle.truncate()
        if piece.receipt != self.receipt:
            self.receipt = piece.receipt
            piece.receipt.write(self.notes)
            self._check_space(piece)
        handle.write(piece.data)
        self.progress(piece.offset + len(piece.data), piece.receipt.bytes or self.file.bytes)

    def _check_space(self, piece: Piece) -> None:
        missing = (piece.receipt.bytes or self.file.bytes or 0) - piece.offset
        if missing > shutil.disk_usage(self.partial.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _no_space(file: RemoteFile, folder: Path, error: OSError) -> CorpusError:
    size = f"; the file has {file.bytes:,} bytes" if file.bytes else ""
    return CorpusError(
        f"no space left for the download: {error.strerror}",
        where=str(folder),
        why=f"{shutil.disk_usage(folder).free:,} bytes are free{size}",
        hint="free some space or choose another cache folder: what came is kept and the download goes on from there",
    )
