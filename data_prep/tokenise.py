"""The first stage: parse, tokenise, hash and filter one part of the input."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import compress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.draft import Draft
from data_prep.fasta import RecordBlock, read_records, read_text
from data_prep.filters import BlockFilter
from data_prep.formats import Kind, is_local, kind_of, local_path, text_of
from data_prep.hashing import hash_sequences
from data_prep.headers import header_fields
from data_prep.parts import PartCounts, PartWriter, part_folder
from data_prep.plan import PlannedFile, PlannedPart, check_unchanged
from data_prep.prefix import take_residues
from data_prep.progress import Ticker
from data_prep.streams import Meter
from plm_scaling.core.errors import CorpusError
from plm_scaling.core.files import sha256_file
from plm_scaling.corpus.format import FLAGS, FileEntry, RecordCount

__all__ = ["checksum_file", "tokenise_part"]


def tokenise_part(draft: Draft, number: int, ticker: Ticker) -> None:
    """Read a part and leave its records in `parts/NUMBER`; nothing is there until all of it is.

    Raises
    ------
    CorpusError : an input that cannot be used, or that changed while it was read.
    """
    target = part_folder(draft.folder, number)
    scratch = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    scratch.mkdir(parents=True)
    try:
        counts = _read_part(draft, draft.plan.parts[number], scratch, ticker)
        counts.write(scratch / "part.json")
        shutil.rmtree(target, ignore_errors=True)
        scratch.rename(target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _read_part(draft: Draft, part: PlannedPart, folder: Path, ticker: Ticker) -> PartCounts:
    spec = draft.plan.spec
    source = draft.plan.sources[part.source]
    files = [source.files[number] for number in part.files]
    block_filter = BlockFilter(spec.filters, spec.taxonomy)
    policy: Counter[str] = Counter()
    with PartWriter(folder) as out:
        reading = _Reading(files, part.span, draft.plan.block_bytes, hashed=part.max_residues is None)
        blocks = reading.blocks()
        for block in blocks if part.max_residues is None else take_residues(blocks, part.max_residues):
            if part.max_residues is None:  # else they would count records beyond the last one taken
                policy.update(block.counts)
            fields = header_fields(block.headers)
            flags, keep = block_filter.judge(block, fields)
            if not keep.all():
                block, fields, flags = _kept(block, keep), fields.filtered(keep), flags[keep]
            _check_lengths(block, spec.max_shard_bytes - 1, reading.now)
            out.add(block, fields, hash_sequences(block), flags)
            ticker.tell(reading.bytes_read, out.n_rows)
        out.finish()
        ticker.tell(reading.bytes_read, out.n_rows)
        return PartCounts(
            source=part.source,
            rows=out.n_rows,
            residues=out.n_tokens - out.n_rows,
            policy=dict(policy),
            flagged=_flagged(block_filter.flagged),
            dropped=block_filter.dropped,
            marks=tuple(out.marks),
            files=tuple(reading.entries),
        )


class _Reading:
    """Blocks of records of some files in turn, with the entries of those that were read whole."""

    def __init__(
        self, files: list[PlannedFile], span: tuple[int, int] | None, block_bytes: int, *, hashed: bool
    ) -> None:
        self.files, self.span, self.block_bytes = files, span, block_bytes
        self.hashed = hashed and span is None
        self.entries: list[FileEntry] = []
        self.now = ""
        self._done = 0
        self._meter = Meter(hashed=False)

    @property
    def bytes_read(self) -> int:
        return self._done + self._meter.bytes_read

    def blocks(self) -> Iterator[RecordBlock]:
        for file in self.files:
            self.now, self._meter = file.item, Meter(hashed=self.hashed)
            check_unchanged(file)
            yield from self._of(file.item)
            check_unchanged(file)
            self._done += self._meter.bytes_read
            if self.hashed:
                name = local_path(file.item).name if is_local(file.item) else file.item
                entry = FileEntry(name=name, bytes=self._meter.bytes_read, sha256=self._meter.sha256())
                self.entries.append(entry)
            self._meter = Meter(hashed=False)

    def _of(self, item: str) -> Iterator[RecordBlock]:
        if kind_of(item) is Kind.FASTA:
            return read_records(local_path(item), block_bytes=self.block_bytes, meter=self._meter, span=self.span)
        # The text is one of our own making: its lines are nobody's, so errors name the record.
        text = text_of(item, block_bytes=self.block_bytes, meter=self._meter, span=self.span)
        return read_text(text, item, numbered=False)


def _kept(block: RecordBlock, keep: npt.NDArray[np.bool_]) -> RecordBlock:
    return replace(
        block,
        headers=list(compress(block.headers, keep)),
        tokens=block.tokens[np.repeat(keep, block.lengths + 1)],
        lengths=block.lengths[keep],
    )


def _check_lengths(block: RecordBlock, longest: int, where: str) -> None:
    if len(block) and (found := int(block.lengths.max())) > longest:
        name = header_fields([block.headers[int(block.lengths.argmax())]]).accession[0].as_py()
        raise CorpusError(
            f"{name} has {found} residues",
            where=where,
            why=f"a sequence and its <eos> must fit into a shard of {longest + 1} bytes",
        )


def _flagged(counts: npt.NDArray[np.int64]) -> dict[str, RecordCount]:
    """From int64[flags, 2], sequences and tokens."""
    return {
        name: RecordCount(sequences=int(sequences), tokens=int(tokens))
        for name, (sequences, tokens) in zip(FLAGS, counts, strict=True)
        if sequences
    }


def checksum_file(file: PlannedFile) -> FileEntry:
    """Size and SHA-256 of a file that several tasks read in stretches."""
    check_unchanged(file)
    path = local_path(file.item)
    entry = FileEntry(name=path.name, bytes=file.bytes, sha256=sha256_file(path))
    check_unchanged(file)
    return entry
