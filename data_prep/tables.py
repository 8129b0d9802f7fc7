r"""Columns to FASTA text: the sequences of a table become text for the parser without a Python loop over its rows.

Parquet and Arrow files, folders of the `datasets` library and streams of it all end here as record batches. A batch
is joined to `>ACCESSION ... TaxID=9606\nSEQUENCE\n`; the memory of the joined column is the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from data_prep.columns import ROLES, Columns, find_columns, is_integer, is_list
from data_prep.streams import Meter
from plm_scaling.core.errors import CorpusError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Follower", "arrow_text", "batch_text", "parquet_text", "text_slices"]

_MGNIFY_DIGITS: Final = 12
_BATCH_BYTES: Final = 1 << 20
_MAX_BATCH_ROWS: Final = 1 << 16
_FOLLOW_BYTES: Final = 1 << 20


def batch_text(batch: pa.RecordBatch, columns: Columns, first_row: int, where: str) -> bytes:
    """FASTA text of the rows of a batch; a row without a sequence is an empty record.

    Parameters
    ----------
    batch : the rows, any slice of a table.
    columns : what its columns hold.
    first_row : number of its first row in the table, for errors and for records without an accession.
    where : the table, for errors.

    Raises
    ------
    CorpusError : a sequence with `>` in it, lists of different lengths in one row, text that is not UTF-8.
    """
    import pyarrow as pa

    try:
        values = _flat(batch, columns, first_row, where)
        text = _joined(values)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise CorpusError(f"cannot read rows from {first_row} on", where=where, why=str(error)) from None
    n = len(values["sequence"])
    # One of each belongs to a record's own frame; any other would be taken for one.
    if _times(text, ">") != n or _times(text, "\n") != 2 * n or b"\r" in text:
        text = _joined(_harmless(values, first_row, where)).replace(b"\r", b"")
    return text


def _times(text: bytes, letter: str) -> int:
    return int(np.count_nonzero(np.frombuffer(text, dtype=np.uint8) == ord(letter)))


def _flat(batch: pa.RecordBatch, columns: Columns, first_row: int, where: str) -> dict[str, pa.Array]:
    """Columns by role, as large_string of one value per record; lists are unrolled."""
    import pyarrow as pa
    import pyarrow.compute as pc

    raw = {role: batch.column(getattr(columns, role)) for role in ROLES if getattr(columns, role)}
    rows = pa.array(np.arange(first_row, first_row + len(batch)))
    sequences = raw["sequence"]
    places = None
    if is_list(sequences.type):
        parents = pc.list_parent_indices(sequences)
        sizes = pc.fill_null(pc.list_value_length(sequences), 0)
        starts = np.cumsum(sizes) - np.asarray(sizes)
        places = pa.array(np.arange(len(parents)) - starts[np.asarray(parents)])
        rows = rows.take(parents)
        raw = {role: _unrolled(values, parents, sizes, where) for role, values in raw.items()}
    values = {role: _text(column) for role, column in raw.items() if role not in ("accession", "full_length")}
    values["accession"] = _accessions(raw.get("accession"), rows, places, columns, batch)
    if "full_length" in raw:
        values["full_length"] = pc.if_else(raw["full_length"], _literal("1"), _literal("0"))
    return values


def _unrolled(values: pa.Array, parents: pa.Array, sizes: pa.Array, where: str) -> pa.Array:
    """One value per element of the row's list; a single value is repeated for all of them."""
    import pyarrow.compute as pc

    if not is_list(values.type):
        return values.take(parents)
    if not pc.fill_null(pc.list_value_length(values), 0).cast(sizes.type).equals(sizes):
        raise CorpusError("a row has lists of different lengths", where=where, why="one value per sequence is needed")
    return pc.list_flatten(values)


def _text(values: pa.Array) -> pa.Array:
    import pyarrow as pa
    import pyarrow.types as types

    if types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if is_integer(values.type):
        values = values.cast(pa.string())
    return values.cast(pa.large_string())


def _accessions(
    values: pa.Array | None, rows: pa.Array, places: pa.Array | None, columns: Columns, batch: pa.RecordBatch
) -> pa.Array:
    """Accessions without gaps: a record that has none is called after its row."""
    import pyarrow.compute as pc

    own = places is not None and not (columns.accession and is_list(batch.schema.field(columns.accession).type))
    if values is None:
        names = pc.binary_join_element_wise(_literal("row"), _text(rows), _literal("_"))
    else:
        names = _text(values)
        if columns.mgyp:
            digits = pc.utf8_lpad(names, _MGNIFY_DIGITS, "0")
            names = pc.binary_join_element_wise(_literal("MGYP"), digits, _literal(""))
        # A first word that is missing would make the parser take the next one for it.
        missing = pc.fill_null(pc.equal(pc.binary_length(pc.utf8_trim_whitespace(names)), 0), True)
        if pc.any(missing).as_py():
            stand_in = pc.binary_join_element_wise(_literal("row"), _text(rows), _literal("_"))
            names = pc.if_else(missing, stand_in, names)
    return pc.binary_join_element_wise(names, _text(places), _literal("_")) if own else names


def _literal(text: str) -> pa.Scalar:
    import pyarrow as pa

    return pa.scalar(text, pa.large_string())


def _joined(values: Mapping[str, pa.Array]) -> bytes:
    """The text of the records."""
    import pyarrow.compute as pc

    parts = [_literal(">"), values["accession"]]
    labels = {
        "description": " ",
        "members": " n=",
        "organism": " Tax=",
        "taxon": " TaxID=",
        "rep_id": " RepID=",
        "evidence": " PE=",
        "full_length": " FL=",
    }
    nothing = _literal("")
    for role, label in labels.items():
        if role in values:
            # Null where the value is null, and null is nothing in the outer join.
            parts.append(pc.binary_join_element_wise(_literal(label), values[role], nothing))
    parts += [_literal("\n"), values["sequence"], _literal("\n"), nothing]
    joined = pc.binary_join_element_wise(*parts, null_handling="replace", null_replacement="")
    _, offsets, data = joined.buffers()
    if data is None:
        return b""
    # A fresh array begins at the beginning; its buffer may be longer than what is in it.
    return bytes(memoryview(data)[: int(np.frombuffer(offsets, dtype=np.int64)[len(joined)])])


def _harmless(values: dict[str, pa.Array], first_row: int, where: str) -> dict[str, pa.Array]:
    """The same columns without line ends in headers; `>` is fine there, but not in a sequence."""
    import pyarrow.compute as pc

    found = pc.index(pc.match_substring(values["sequence"], ">"), True).as_py()
    if found >= 0:
        raise CorpusError(
            "'>' in a sequence",
            where=where,
            why=f"record {values['accession'][found].as_py()}, in rows from {first_row} on",
            hint="is this the column of the sequences? name it: FILE?seq=COLUMN",
        )
    return {
        role: column if role == "sequence" else pc.replace_substring_regex(column, r"[\r\n]+", " ")
        for role, column in values.items()
    }


class Follower:
    """Tells a meter of a file's bytes in step with how far its contents were read in another way.

    Columns are not stored in the order of the rows, but a file is hashed from its beginning to its end.
    """

    def __init__(self, paths: list[Path], meter: Meter | None) -> None:
        self.paths, self.meter = paths, meter
        self.sizes = [path.stat().st_size for path in paths] if meter else []
        self.done = 0

    def reach(self, share: float) -> None:
        """Read on to this share of all bytes."""
        if self.meter is None:
            return
        target = round(min(share, 1.0) * sum(self.sizes))
        before = 0
        for path, size in zip(self.paths, self.sizes, strict=True):
            if before <= self.done < before + size:
                with path.open("rb") as handle:
                    handle.seek(self.done - before)
                    while self.done < min(target, before + size):
                        data = handle.read(min(_FOLLOW_BYTES, target - self.done, before + size - self.done))
                        if not data:
                            raise CorpusError("the file became shorter while it was read", where=str(path))
                        self.meter.add(data)
                        self.done += len(data)
            before += size


def parquet_text(
    path: Path,
    *,
    block_bytes: int,
    chosen: Mapping[str, str] | None = None,
    meter: Meter | None = None,
    span: tuple[int, int] | None = None,
) -> Iterator[bytes]:
    """FASTA text of a Parquet file.

    Parameters
    ----------
    path : the file.
    block_bytes : size of a block of text in bytes, about.
    chosen : columns by role, where their names do not tell.
    meter : told of every byte of the file, in order.
    span : only the row groups that begin in these bytes [begin, end) of the file; spans laid end to end read each
        row group once. The meter is then told of these bytes only.

    Raises
    ------
    CorpusError : unreadable or damaged file, columns that cannot be told.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = str(path)
    try:
        with pq.ParquetFile(path, buffer_size=_FOLLOW_BYTES, pre_buffer=False) as file:
            columns = find_columns(file.schema_arrow, where, chosen)
            yield from _row_groups(file, path, columns, block_bytes, meter, span)
    except FileNotFoundError:
        raise CorpusError("cannot read the file: No such file or directory", where=where) from None
    except (pa.ArrowException, OSError) as error:
        raise _damaged(where, "Parquet", error) from None


def _damaged(where: str, name: str, error: Exception) -> CorpusError:
    return CorpusError(
        f"damaged {name} file", where=where, why=str(error).split("\n")[0], hint="copy or download the file again"
    )


def _row_groups(
    file: Any, path: Path, columns: Columns, block_bytes: int, meter: Meter | None, span: tuple[int, int] | None
) -> Iterator[bytes]:
    metadata = file.metadata
    follower = Follower([path], meter if span is None else None)
    row = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        begin = min(_chunk_start(group.column(i)) for i in range(group.num_columns))
        if group.num_rows and (span is None or span[0] <= begin < span[1]):
            batch_rows = max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES * group.num_rows // max(1, group.total_byte_size)))
            at = row
            for batch in file.iter_batches(batch_rows, row_groups=[number], columns=columns.names, use_threads=False):
                yield from text_slices(batch, columns, at, block_bytes, str(path))
                at += len(batch)
                follower.reach(at / metadata.num_rows)
            if meter is not None and span is not None:
                meter.bytes_read += sum(group.column(i).total_compressed_size for i in range(group.num_columns))
        row += group.num_rows
    follower.reach(1.0)


def _chunk_start(column: Any) -> int:
    starts = [column.data_page_offset]
    if column.has_dictionary_page and column.dictionary_page_offset:
        starts.append(column.dictionary_page_offset)
    return int(min(starts))


def text_slices(batch: pa.RecordBatch, columns: Columns, first_row: int, size: int, where: str) -> Iterator[bytes]:
    """Text of a batch in blocks of about `size` bytes."""
    rows = max(1, int(size * len(batch) / max(1, batch.nbytes)))
    for start in range(0, len(batch), rows):
        text = batch_text(batch.slice(start, rows), columns, first_row + start, where)
        if text:
            yield text


def arrow_text(
    path: Path, *, block_bytes: int, chosen: Mapping[str, str] | None = None, meter: Meter | None = None
) -> Iterator[bytes]:
    """FASTA text of an Arrow IPC file (Feather version 2, or the stream layout that `datasets` writes).

    Parameters
    ----------
    path : the file.
    block_bytes : size of a block of text in bytes, about.
    chosen : columns by role, where their names do not tell.
    meter : told of every byte of the file, in order.

    Raises
    ------
    CorpusError : unreadable or damaged file, columns that cannot be told.
    """
    import pyarrow as pa

    follower = Follower([path], meter)
    try:
        with pa.memory_map(str(path)) as source:
            size = max(1, source.size())
            is_file = source.read(6) == b"ARROW1"
            source.seek(0)
            reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
            columns = find_columns(reader.schema, str(path), chosen)
            row = 0
            batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
            for number, batch in enumerate(batches):
                yield from text_slices(batch.select(columns.names), columns, row, block_bytes, str(path))
                row += len(batch)
                follower.reach((number + 1) / reader.num_record_batches if is_file else source.tell() / size)
        follower.reach(1.0)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(str(path), "Arrow", error) from None
