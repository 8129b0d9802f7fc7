"""The work folder beside the corpus: locked, taken over from a killed run of the same plan, removed in the end."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from data_prep.draft import PLAN_NAME
from data_prep.plan import PrepPlan
from plm_scaling.core.errors import CorpusError, PlmScalingError, RecordError, UnfinishedError
from plm_scaling.corpus.format import MANIFEST_NAME

__all__ = ["Workplace", "check_target", "disk_errors", "workplace"]

_DISK_ERRORS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
_CORPUS_ENTRIES: Final = frozenset({MANIFEST_NAME, "identity.parquet", "shards", "index", "windows", "arrow"})


@dataclass(frozen=True)
class Workplace:
    """Where a corpus is made (`folder`, with the corpus itself in `corpus`), and where it will be (`target`)."""

    folder: Path
    target: Path

    @property
    def corpus(self) -> Path:
        """The corpus while it is incomplete."""
        return self.folder / "corpus"

    def publish(self) -> None:
        """Give the finished corpus its name; an older corpus there is removed."""
        if self.target.exists():
            self.target.rename(self.folder / "replaced")
        for folder in (self.corpus / "shards", self.corpus / "index", self.corpus):
            _sync_folder(folder)
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
def workplace(target: Path, plan: PrepPlan, *, overwrite: bool = False) -> Iterator[Workplace]:
    """A locked work folder beside `target` that holds `plan`.

    What a killed run of an equal plan left there is kept, anything else is removed. In the end the folder is removed,
    unless the run was broken off by something that may be better next time: a full disk, an interrupt, a lost task.

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
        _take_over(folder, plan)
        try:
            yield Workplace(folder, target)
        except UnfinishedError:
            raise
        except PlmScalingError:
            shutil.rmtree(folder)
            raise
        else:
            shutil.rmtree(folder)
    finally:
        os.close(descriptor)


def _take_over(folder: Path, plan: PrepPlan) -> None:
    """Keep the folder if an equal plan is in it (published or not), else empty it; sweep up what was half done."""
    if not _holds(folder, plan):
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        plan.write(folder / PLAN_NAME)
    for stale in (*folder.glob("parts/.*.tmp"), folder / "progress"):
        shutil.rmtree(stale, ignore_errors=True)


def _holds(folder: Path, plan: PrepPlan) -> bool:
    try:
        found = PrepPlan.read(folder / PLAN_NAME)
    except RecordError:
        return False
    # A run that was killed while it published has moved the corpus away: its marks no longer mean anything.
    return found == plan and (not (folder / "written").exists() or (folder / "corpus").is_dir())


def _lock(descriptor: int, folder: Path, target: Path) -> None:
    busy = CorpusError("another process is preparing this corpus now", where=str(target), hint="wait for it to finish")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise busy from None
    # The lock is worth nothing if its owner removed the folder between our opening and locking it.
    if not folder.exists() or os.fstat(descriptor).st_ino != folder.stat().st_ino:
        raise busy


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """A full, read-only or forbidden disk is no fault of the input: say so, and keep what is done."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise UnfinishedError(
            f"cannot write the corpus: {error.strerror}",
            where=str(error.filename or where),
            hint="make room and run the same command again (what is done is kept beside the corpus, in a folder whose "
            "name ends in .preparing), or remove that folder",
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
