"""The Cheng et al. 2024 logs as they lie on disk or in an archive: files -> distinct runs, each with its exports."""

from __future__ import annotations

import csv
import io
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import RecordError
from plm_scaling.laws.cheng_names import NamedLog, parse_log_name
from plm_scaling.laws.imported import Finding

__all__ = ["Log", "LogFile", "RunLogs", "gather_runs", "read_files"]

Float = npt.NDArray[np.float64]

_HEADER: Final = ["Wall time", "Step", "Value"]
_ARCHIVES: Final = (".zip", ".tar.gz", ".tgz", ".tar")
_SAME_CLOCK: Final = 0.5
"""Seconds."""

_MAX_FILE: Final = 32 << 20
"""A log has at most 1,000 rows: anything far larger is none of these logs."""


@dataclass(frozen=True, eq=False)
class Log:
    """One distinct file: its names (several where it was copied) and columns; loss in nats."""

    names: tuple[NamedLog, ...]
    wall: Float
    axis: Float
    loss: Float

    @property
    def named(self) -> NamedLog:
        """What its first path states."""
        return self.names[0]


@dataclass(frozen=True, eq=False)
class RunLogs:
    """All exports of one run; the one over FLOPs first, if there is any."""

    logs: tuple[Log, ...]

    @property
    def names(self) -> tuple[NamedLog, ...]:
        """What all paths state."""
        return tuple(name for log in self.logs for name in log.names)

    @property
    def files(self) -> tuple[str, ...]:
        """All paths."""
        return tuple(name.path for name in self.names)


@dataclass
class _Sorter:
    findings: list[Finding] = field(default_factory=list)
    logs: list[Log] = field(default_factory=list)

    def found(self, kind: str, what: str, *files: str) -> None:
        self.findings.append(Finding(kind=kind, what=what, files=files))


@dataclass(frozen=True)
class LogFile:
    """One CSV: its path below what was given, the folders above that, and its bytes."""

    path: str
    above: tuple[str, ...]
    content: bytes


def read_files(path: Path) -> Iterator[LogFile]:
    """Every CSV under a folder or in an archive, in the order of the paths.

    Raises
    ------
    RecordError : neither a folder nor a readable archive.
    """
    if path.is_dir():
        # A folder from inside the release: its own names still say what the logs are.
        above = tuple(part for part in path.resolve().parts[-4:] if part != "/")
        for file in sorted(path.rglob("*.csv")):
            yield LogFile(file.relative_to(path).as_posix(), above, file.read_bytes())
        return
    if not path.is_file():
        raise RecordError("no logs here", where=str(path), hint="give the downloaded folder or its .zip or .tar.gz")
    if not path.name.endswith(_ARCHIVES):
        raise RecordError("not a folder or an archive", where=str(path), hint=f"known endings: {', '.join(_ARCHIVES)}")
    try:
        for name, content in sorted(_zip_files(path) if path.suffix == ".zip" else _tar_files(path)):
            yield LogFile(name, (), content)
    except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError) as error:
        raise RecordError(f"not a readable archive: {error}", where=str(path)) from None


def _zip_files(path: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.filename.endswith(".csv") and info.file_size <= _MAX_FILE:
                yield info.filename, archive.read(info)


def _tar_files(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(".csv") and member.size <= _MAX_FILE:
                handle = archive.extractfile(member)
                if handle is not None:
                    yield member.name, handle.read()


def gather_runs(files: Iterable[LogFile]) -> tuple[list[RunLogs], list[Finding], dict[str, int]]:
    """Distinct runs of some files, the findings so far, and counts of files and logs.

    Byte copies are read once, exports of one run over other axes are joined, training losses are set aside.
    """
    copies: dict[str, list[LogFile]] = {}
    for file in files:
        copies.setdefault(sha256(file.content).hexdigest(), []).append(file)
    sorter = _Sorter()
    for same in copies.values():
        if len(same) > 1:
            sorter.found("DUPLICATE", f"{len(same)} files with the same bytes", *(file.path for file in same))
        _sort_in(sorter, same)
    runs = _joined(sorter)
    counts = {
        "files": sum(map(len, copies.values())),
        "distinct files": len(copies),
        "validation logs": len(sorter.logs),
        "runs": len(runs),
    }
    return runs, sorter.findings, counts


def _sort_in(sorter: _Sorter, same: list[LogFile]) -> None:
    paths = [file.path for file in same]
    names = tuple(name for file in same if (name := parse_log_name(file.path, file.above)) is not None)
    columns = _columns(same[0].content)
    if columns is None or not names:
        what = "no numeric columns Wall time, Step, Value" if columns is None else "no objective or axis in the name"
        sorter.found("UNREADABLE", what, *paths)
        return
    if names[0].training:
        sorter.found("TRAINING_LOSS", "training loss", *paths)
        return
    wall, axis, value = columns
    good = np.isfinite(value) & (value > 0) & np.isfinite(axis) & (axis > 0)
    if not good.all():
        sorter.found("NOT_FINITE", f"{(~good).sum()} of {len(good)} points are no positive numbers", *paths)
    if good.any():
        loss = np.log(value[good]) if names[0].perplexity else value[good]
        sorter.logs.append(Log(names, wall[good], axis[good], loss))


def _columns(content: bytes) -> tuple[Float, Float, Float] | None:
    try:
        rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"))))
        if not rows or rows[0] != _HEADER or len(rows) < 2:
            return None
        table = np.array([row for row in rows[1:] if row], dtype=np.float64)
    except (UnicodeDecodeError, ValueError, csv.Error):
        return None
    return (table[:, 0], table[:, 1], table[:, 2]) if table.ndim == 2 and table.shape[1] == 3 else None


def _joined(sorter: _Sorter) -> list[RunLogs]:
    """Logs of equal clock times and losses are one run, exported over several axes."""
    groups: list[list[Log]] = []
    for log in sorter.logs:
        group = next((group for group in groups if _same_run(group[0], log)), None)
        if group is None:
            groups.append([log])
        else:
            group.append(log)
    for group in groups:
        group.sort(key=lambda log: (log.named.axis != "gigaflops", log.named.perplexity))
        if len(group) > 1:
            axes = " and ".join(log.named.axis for log in group)
            sorter.found("OTHER_AXIS", f"one run over {axes}", *(name.path for log in group for name in log.names))
    return [RunLogs(tuple(group)) for group in groups]


def _same_run(a: Log, b: Log) -> bool:
    """The exporter wrote the points of one evaluation microseconds apart, and perplexities in single precision."""
    if len(a.wall) != len(b.wall) or abs(a.wall[0] - b.wall[0]) > _SAME_CLOCK:
        return False
    return bool((np.abs(a.wall - b.wall) <= _SAME_CLOCK).all() and np.allclose(a.loss, b.loss, rtol=0, atol=1e-5))
