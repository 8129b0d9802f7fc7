"""A temporary folder beside the corpus: locked, cleaned of earlier wrecks, renamed into place when all is done."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plm_scaling.core.errors import CorpusError
from plm_scaling.corpus.format import MANIFEST_NAME

__all__ = ["Workplace", "check_target", "workplace"]

_CORPUS_ENTRIES: Final = frozenset({MANIFEST_NAME, "shards", "index", "windows"})


@dataclass(frozen=True)
class Workplace:
    """Where a corpus is made (`corpus`), its temporary files live (`spill`), and where it will be (`target`)."""

    folder: Path
    target: Path

    @property
    def corpus(self) -> Path:
        """The corpus while it is incomplete."""
        return self.folder / "corpus"

    @property
    def spill(self) -> Path:
        """Temporary files, gone in the end."""
        return self.folder / "spill"

    def publish(self) -> None:
        """Give the finished corpus its name; an older corpus there is removed."""
        if self.target.exists():
            self.target.rename(self.folder / "replaced")
        self.corpus.rename(self.target)
        _sync_folder(self.target.parent)


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse to replace anything that is not a corpus, or a corpus unless asked to.

    Raises
    ------
    CorpusError : `target` is in the way.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise CorpusError("a corpus is a folder, and this is something else", where=str(target))
    entries = {entry.name for entry in target.iterdir()} if target.exists() else set()
    if not entries:
        return
    if MANIFEST_NAME not in entries or not entries <= _CORPUS_ENTRIES:
        strangers = ", ".join(sorted(entries - _CORPUS_ENTRIES)[:5]) or "no manifest"
        raise CorpusError(
            "the folder holds something else than a corpus, so it is left alone",
            where=str(target),
            why=f"found {strangers}",
            hint="choose another folder, or empty this one yourself",
        )
    if not overwrite:
        raise CorpusError(
            "there is a corpus here already",
            where=str(target),
            hint="use it as it is, choose another folder, or ask to overwrite it",
        )


@contextmanager
def workplace(target: Path, *, overwrite: bool = False) -> Iterator[Workplace]:
    """A clean, locked temporary folder beside `target`, removed in the end whatever happens.

    Raises
    ------
    CorpusError : `target` is in the way, or another process prepares it now.
    """
    target = target.absolute()
    check_target(target, overwrite=overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.with_name(f".{target.name}.preparing")
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder, target)
        # What an earlier, killed preparation left behind.
        for entry in folder.iterdir():
            shutil.rmtree(entry)
        place = Workplace(folder, target)
        place.corpus.mkdir()
        place.spill.mkdir()
        try:
            yield place
        finally:
            shutil.rmtree(folder)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path, target: Path) -> None:
    busy = CorpusError("another process is preparing this corpus now", where=str(target), hint="wait for it to finish")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise busy from None
    # The lock is worth nothing if its owner removed the folder between our opening and locking it.
    if not folder.exists() or os.fstat(descriptor).st_ino != folder.stat().st_ino:
        raise busy


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
