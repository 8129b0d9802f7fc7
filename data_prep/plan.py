"""What a preparation will do, decided before anything is read: its options, inputs and how these are cut into parts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, Self

import numpy as np
from pydantic import Field, model_validator

from data_prep.filters import FilterSpec
from data_prep.formats import is_local, is_splittable, local_path
from data_prep.inputs import SourceInput, describe_inputs, held_out_sources
from data_prep.split import SplitRule
from plm_scaling.core.errors import ConfigError, CorpusError
from plm_scaling.core.records import Record
from plm_scaling.corpus.format import HELD_OUT_PREFIX, MAX_SHARD_BYTES

__all__ = ["PART_BYTES", "PlannedFile", "PlannedPart", "PlannedSource", "PrepPlan", "PrepSpec", "make_plan"]

PART_BYTES: Final = 1 << 25
"""Smallest stretch of a plain file that is worth a task of its own."""
_MAX_STRETCHES: Final = 256
"""Stretches of one file: each leaves a handful of files, which shared file systems do not like in millions."""


class PrepSpec(Record):
    """The options that decide what a corpus holds."""

    val_share: float = 0.01
    """Expected share of the unique sequences that becomes `val_iid`."""
    split_seed: int = 0
    """Another seed draws other validation sequences and clusters."""
    max_shard_bytes: int = Field(default=MAX_SHARD_BYTES, ge=2, le=MAX_SHARD_BYTES)
    """Largest shard in bytes (tokens)."""
    max_residues: int | None = Field(default=None, gt=0)
    """Residues taken of each source, in whole records from its beginning; None takes all."""
    filters: FilterSpec = FilterSpec()
    taxonomy: str = ""
    """NCBI's nodes.dmp, a taxdump archive or folder; without it a taxon id stands for itself only."""
    hold_out_taxa: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Name -> taxon ids: all sequences of these clades become the split `heldout_NAME`."""
    cluster: str = "none"
    """`none`, `mmseqs`, or a file of memberships."""
    val_cluster_share: float = Field(default=0.01, ge=0, lt=1)
    """Share of the unique training tokens whose clusters are held out; needs clusters."""
    containment: bool = False
    """Count sequences that are fragments or reversals of others."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hold_out_taxa and not self.taxonomy:
            raise ValueError("held-out taxa need a taxonomy, to know what belongs to them")
        return self


class PlannedFile(Record):
    """One input as it was when the preparation was planned."""

    item: str
    """Absolute path, or the address of a data set."""
    bytes: int = 0
    mtime_ns: int = 0


class PlannedPart(Record):
    """What one task reads: some files of a source, in order, or one stretch of a file."""

    source: int
    files: tuple[int, ...]
    """Positions in the source's `files`."""
    span: tuple[int, int] | None = None
    """Bytes [begin, end) of the one file."""
    max_residues: int | None = None


class PlannedSource(Record):
    """A source and its files."""

    name: str
    files: tuple[PlannedFile, ...]
    origin: str = ""
    licence: str = ""


class PrepPlan(Record):
    """A preparation as a value: a restart goes on with what an equal plan has left behind."""

    LAYOUT: ClassVar[int] = 1
    """Raise it when the files between the stages change."""

    layout: int
    spec: PrepSpec
    n_held_out_files: int
    """The first so many sources are held-out files."""
    sources: tuple[PlannedSource, ...]
    parts: tuple[PlannedPart, ...]
    block_bytes: int

    @property
    def rule(self) -> SplitRule:
        """The split of a sequence before clusters."""
        names = [source.name.removeprefix(HELD_OUT_PREFIX) for source in self.sources[: self.n_held_out_files]]
        return SplitRule(
            (*names, *self.spec.hold_out_taxa), self.spec.val_share, self.spec.split_seed, self.n_held_out_files
        )

    @property
    def stretched(self) -> tuple[tuple[int, int], ...]:
        """(source, file) of the files that are read in stretches, or only to some residue."""
        found = {
            (part.source, file)
            for part in self.parts
            if part.span is not None or part.max_residues is not None
            for file in part.files
        }
        return tuple(sorted(pair for pair in found if is_local(self.sources[pair[0]].files[pair[1]].item)))

    @property
    def bytes_total(self) -> int:
        """Bytes of all files as stored."""
        return sum(file.bytes for source in self.sources for file in source.files)

    def check_inputs(self) -> None:
        """Make sure that every file is as it was when the plan was made.

        Raises
        ------
        CorpusError : one is not.
        """
        for source in self.sources:
            for file in source.files:
                check_unchanged(file)


def check_unchanged(file: PlannedFile) -> None:
    """Raise if a file is not what it was when the plan was made."""
    if not is_local(file.item):
        return
    found = planned_file(file.item)
    if found != file:
        raise CorpusError(
            "the file was changed while it was being read",
            where=file.item,
            why=f"it had {file.bytes:,} bytes when the preparation began, and has {found.bytes:,} now",
            hint="let whatever writes it finish, then prepare again",
        )


def planned_file(item: str) -> PlannedFile:
    """A file or data set as it is now.

    Raises
    ------
    CorpusError : it is not there (any more).
    """
    if not is_local(item):
        return PlannedFile(item=item)
    path = local_path(item)
    try:
        files = [path] if path.is_file() else sorted(child for child in path.rglob("*") if child.is_file())
        stats = [file.stat() for file in files]
    except OSError as error:
        raise CorpusError(f"cannot read the file: {error.strerror}", where=item) from None
    if not stats:
        raise CorpusError("no such file", where=item)
    return PlannedFile(
        item=item, bytes=sum(stat.st_size for stat in stats), mtime_ns=max(stat.st_mtime_ns for stat in stats)
    )


def make_plan(
    inputs: Sequence[SourceInput],
    spec: PrepSpec,
    *,
    hold_out: Mapping[str, Sequence[Path]],
    block_bytes: int,
    part_bytes: int = PART_BYTES,
) -> PrepPlan:
    """Check the inputs and cut them into parts; of the files only the first bytes are read.

    Raises
    ------
    ConfigError : names, shares or sizes that make no sense.
    CorpusError : a file that is not there.
    """
    describe_inputs(inputs, hold_out=hold_out)
    held = held_out_sources(hold_out)
    taken = set(hold_out) & set(spec.hold_out_taxa)
    if taken:
        raise ConfigError(f"two held-out sets are called {min(taken)!r}", hint="name the files and the clades apart")
    sources = tuple(
        PlannedSource(
            name=source.name,
            files=tuple(planned_file(_absolute(path)) for path in source.paths),
            origin=source.origin,
            licence=source.licence,
        )
        for source in (*held, *inputs)
    )
    parts = [
        part
        for number, source in enumerate(sources)
        for part in _parts(number, source, spec.max_residues if number >= len(held) else None, part_bytes)
    ]
    plan = PrepPlan(
        layout=PrepPlan.LAYOUT,
        spec=spec,
        n_held_out_files=len(held),
        sources=sources,
        parts=tuple(parts),
        block_bytes=block_bytes,
    )
    _ = plan.rule.names  # checks the shares
    return plan


def _absolute(item: Path | str) -> str:
    # Options may follow the name; what is made absolute is its beginning.
    return str(Path(item).absolute()) if is_local(item) else str(item)


def _parts(number: int, source: PlannedSource, max_residues: int | None, part_bytes: int) -> list[PlannedPart]:
    if max_residues is not None:
        every = tuple(range(len(source.files)))
        return [PlannedPart(source=number, files=every, max_residues=max_residues)]
    parts: list[PlannedPart] = []
    for position, file in enumerate(source.files):
        n = min(_MAX_STRETCHES, file.bytes // part_bytes)
        if n > 1 and is_local(file.item) and is_splittable(file.item):
            edges = np.linspace(0, file.bytes, n + 1).round().astype(int).tolist()
            spans: list[tuple[int, int] | None] = list(itertools.pairwise(edges))
        else:
            spans = [None]
        parts.extend(PlannedPart(source=number, files=(position,), span=span) for span in spans)
    return parts
