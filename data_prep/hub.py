"""Data sets of the `datasets` library, saved in a folder or streamed from the Hugging Face Hub, as FASTA text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from data_prep.columns import find_columns
from data_prep.streams import Meter
from data_prep.tables import Follower, text_slices
from plm_scaling.core.errors import ConfigError, CorpusError

__all__ = ["HUB", "HUB_NAME", "hub_text", "saved_text"]

HUB: Final = "hf://"
HUB_NAME: Final = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/([\w.-]+))?(?::([\w.-]+))?")
"""OWNER/NAME, revision, configuration and split."""
_ROWS: Final = 1000


def saved_text(
    path: Path,
    split: str = "",
    *,
    block_bytes: int,
    chosen: Mapping[str, str] | None = None,
    meter: Meter | None = None,
) -> Iterator[bytes]:
    """FASTA text of a folder that `datasets` saved (`save_to_disk`).

    Parameters
    ----------
    path : the folder.
    split : which one, where the folder holds several.
    block_bytes : size of a block of text in bytes, about.
    chosen : columns by role, where their names do not tell.
    meter : told of every byte of the folder's files, in the order of their names.

    Raises
    ------
    ConfigError : a split that is not there, or none named where there are several.
    CorpusError : unreadable or damaged files, columns that cannot be told.
    """
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:
        raise CorpusError("cannot open the folder as a data set", where=str(path), why=_first_line(error)) from None
    dataset = _split_of(found, split, str(path)) if isinstance(found, dict) else found
    folder = path / _name_of(found, dataset) if isinstance(found, dict) else path
    columns = find_columns(dataset.features.arrow_schema, str(path), chosen)
    follower = Follower(sorted(file for file in folder.rglob("*") if file.is_file()), meter)
    row, n_rows = 0, max(1, dataset.num_rows)
    for table in dataset.select_columns(columns.names).with_format("arrow").iter(_ROWS):
        for batch in table.to_batches():
            yield from text_slices(batch, columns, row, block_bytes, str(path))
            row += len(batch)
        follower.reach(row / n_rows)
    follower.reach(1.0)


def hub_text(
    name: str, split: str = "", *, block_bytes: int, chosen: Mapping[str, str] | None = None, meter: Meter | None = None
) -> Iterator[bytes]:
    """FASTA text of a data set of the Hub, as it arrives; nothing is kept on disk.

    Parameters
    ----------
    name : OWNER/NAME[@REVISION][/CONFIG][:SPLIT].
    split : which one, if `name` does not say.
    block_bytes : size of a block of text in bytes, about.
    chosen : columns by role, where their names do not tell.
    meter : told of the text: there is no file whose bytes could be counted.

    Raises
    ------
    ConfigError : a split that is not there, or none named where there are several.
    CorpusError : no such data set, no network, a connection that broke for good, columns that cannot be told.
    """
    where = HUB + name
    tables = _streamed(name, split)
    columns = None
    row = 0
    while True:
        try:
            table = next(tables, None)
        except ConfigError:
            raise
        except Exception as error:
            raise _unreachable(where, error) from None
        if table is None:
            return
        columns = columns or find_columns(table.schema, where, chosen)
        for batch in table.select(columns.names).to_batches():
            for text in text_slices(batch, columns, row, block_bytes, where):
                if meter is not None:
                    meter.add(text)
                yield text
            row += len(batch)


def _streamed(name: str, split: str) -> Iterator[Any]:
    import datasets

    match = HUB_NAME.fullmatch(name)
    assert match is not None, "checked when the item was parsed"
    repository, revision, config, own_split = match.groups()
    found = datasets.load_dataset(repository, config, revision=revision, streaming=True)
    dataset = _split_of(found, own_split or split, HUB + name)
    yield from dataset.with_format("arrow").iter(_ROWS)


def _split_of(found: Any, split: str, where: str) -> Any:
    names = ", ".join(found)
    if not split and len(found) > 1:
        raise ConfigError(f"there are {len(found)} splits", where=where, why=names, hint="name one: ...?split=NAME")
    if split and split not in found:
        raise ConfigError(f"there is no split {split!r}", where=where, why=f"there are {names}")
    return found[split or next(iter(found))]


def _name_of(found: Any, dataset: Any) -> str:
    return str(next(name for name, value in found.items() if value is dataset))


def _unreachable(where: str, error: Exception) -> CorpusError:
    return CorpusError(
        "cannot stream the data set from the Hub",
        where=where,
        why=f"{type(error).__name__}: {_first_line(error)}",
        hint="check the name and the network (HF_HUB_OFFLINE, proxies, HF_TOKEN for gated sets); on a machine without "
        "network, download its Parquet files elsewhere and give these",
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
