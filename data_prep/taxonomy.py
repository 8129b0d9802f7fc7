"""NCBI's taxonomy: which taxa belong to a clade, asked for millions of ids at a time.

**Source:** layout of nodes.dmp, merged.dmp and names.dmp as published in NCBI's taxdump_readme.txt: columns are parted
by `<tab>|<tab>`, lines end with `<tab>|`.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, CorpusError

__all__ = ["LARGEST_ID", "VIRUSES", "Clade", "Taxonomy"]

Ids = npt.NDArray[np.uint32]

VIRUSES: Final = 10239
"""Root of all viruses in NCBI's taxonomy."""

_NODES: Final = "nodes.dmp"
_MERGED: Final = "merged.dmp"
_NAMES: Final = "names.dmp"
LARGEST_ID: Final = 1 << 28
"""Ids index tables: one far beyond NCBI's (about 4 million) is damage, and would ask for gigabytes."""


@dataclass(frozen=True)
class Clade:
    """A set of taxa, closed under descent.

    Parameters
    ----------
    member : bool[largest id + 2], whether a taxon belongs; the last entry stands for all ids beyond, and is False.
    """

    member: npt.NDArray[np.bool_]

    def contains(self, taxa: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.bool_]:
        """bool[n]: which taxa belong; an unknown one (0, or none of the taxonomy's) does not."""
        found: npt.NDArray[np.bool_] = self.member[np.minimum(taxa, len(self.member) - 1)]
        return found


@dataclass(frozen=True)
class Taxonomy:
    """A tree of taxa by their ids.

    Parameters
    ----------
    parent : uint32[largest id + 1], 0 where there is no such taxon; the root is its own parent.
    current : uint32[largest id + 1], the id that an id was merged into (mostly itself).
    names : scientific names, where they were read.
    """

    parent: Ids
    current: Ids
    names: dict[int, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path | str, *, names: bool = False) -> Taxonomy:
        """Read nodes.dmp (and merged.dmp, names.dmp beside it), a folder that holds them, or a taxdump.tar.gz.

        Parameters
        ----------
        names : read the scientific names too; for the whole taxonomy they take some hundred MB.

        Raises
        ------
        CorpusError : no such file, no nodes.dmp in it, or lines that are not in NCBI's layout.
        """
        tables = _read_tables(Path(path), (_NODES, _MERGED, *((_NAMES,) if names else ())))
        if _NODES not in tables:
            raise CorpusError(
                "there is no nodes.dmp here", where=str(path), hint="give NCBI's taxdump.tar.gz, or its unpacked folder"
            )
        return _checked(tables, str(path))

    def clade(self, *roots: int) -> Clade:
        """The taxa that descend from any of the roots, the roots and ids merged into them included.

        Raises
        ------
        ConfigError : the taxonomy has no such taxon.
        """
        member = np.zeros(len(self.parent) + 1, dtype=np.bool_)
        for root in roots:
            member[self._known(root)] = True
        # Doubling: after k rounds a taxon knows of its nearest 2^k ancestors, so that few rounds reach every root.
        inside, ancestor = member[:-1], self.parent
        while True:
            inside |= inside[ancestor]
            above = ancestor[ancestor]
            if np.array_equal(above, ancestor):
                break
            ancestor = above
        member[:-1] = inside[self.current]
        return Clade(member)

    def lineage(self, taxon: int) -> tuple[int, ...]:
        """Ids from the root down to a taxon.

        Raises
        ------
        ConfigError : the taxonomy has no such taxon.
        """
        found = [self._known(taxon)]
        while (above := int(self.parent[found[-1]])) != found[-1]:
            found.append(above)
        return tuple(reversed(found))

    def _known(self, taxon: int) -> int:
        """Today's id of a taxon."""
        now = int(self.current[taxon]) if 0 < taxon < len(self.current) else 0
        if not now or not self.parent[now]:
            raise ConfigError(
                f"the taxonomy has no taxon {taxon}", hint="look the id up at NCBI, or give a newer taxonomy"
            )
        return now


def _checked(tables: dict[str, Any], where: str) -> Taxonomy:
    """The tree, from NCBI's tables."""
    taxon, above = (column.to_numpy() for column in tables[_NODES].columns[:2])
    old, new = tables[_MERGED].columns[:2] if _MERGED in tables else ((), ())
    old, new = (np.asarray(column, dtype=np.int64) for column in (old, new))
    every = np.concatenate([taxon, above, old, new])
    if not len(taxon) or every.min() < 1 or every.max() > LARGEST_ID:
        raise CorpusError("nodes.dmp holds no tree of taxa", where=where, why="ids are positive whole numbers")
    parent = np.zeros(int(every.max()) + 1, dtype=np.uint32)
    parent[taxon] = above
    current = np.arange(len(parent), dtype=np.uint32)
    current[old] = new
    orphans = np.count_nonzero(parent[above] == 0)
    if orphans or not _reaches_roots(parent):
        why = f"{orphans} taxa have a parent that is not in the file" if orphans else "some descend from themselves"
        raise CorpusError("nodes.dmp is not a tree", where=where, why=why, hint="download it again")
    names = {}
    if _NAMES in tables:
        ids, texts, _, kinds = (column.to_pylist() for column in tables[_NAMES].columns)
        names = {taxon: text for taxon, text, kind in zip(ids, texts, kinds, strict=True) if kind == "scientific name"}
    return Taxonomy(parent, current, names)


def _reaches_roots(parent: Ids) -> bool:
    """Whether every walk upwards ends at a taxon that is its own parent."""
    ancestor = parent
    for _ in range(32):  # 2^32 steps up: more than there are ids
        above = ancestor[ancestor]
        if np.array_equal(above, ancestor):
            break
        ancestor = above
    return bool(np.array_equal(parent[ancestor], ancestor))


def _read_tables(path: Path, wanted: Sequence[str]) -> dict[str, Any]:
    """The wanted files of a folder, an archive, or beside a nodes.dmp, as Arrow tables."""
    try:
        if path.is_dir() or path.suffix == ".dmp":
            folder = path if path.is_dir() else path.parent
            nodes = {} if path.is_dir() else {_NODES: path}
            files = {name: folder / name for name in wanted} | nodes
            return {name: _read_table(name, file, str(file)) for name, file in files.items() if file.is_file()}
        tables = {}
        with tarfile.open(path) as archive:
            for entry in archive:
                name = Path(entry.name).name
                if name in wanted and (stream := archive.extractfile(entry)) is not None:
                    tables[name] = _read_table(name, stream, f"{path}:{name}")
        return tables
    except FileNotFoundError:
        raise CorpusError("no taxonomy here", where=str(path), hint="give NCBI's taxdump.tar.gz") from None
    except (OSError, EOFError, tarfile.TarError) as error:
        raise CorpusError(f"cannot read the taxonomy: {error}", where=str(path), hint="download it again") from None


def _read_table(name: str, source: Path | IO[bytes], where: str) -> Any:
    """The first columns of a .dmp file: ids as int64, names as text."""
    import pyarrow as pa
    from pyarrow import csv

    # Cut at tabs, every second column is a bar.
    kinds = (pa.int64(), pa.string(), pa.string(), pa.string()) if name == _NAMES else (pa.int64(), pa.int64())
    columns = {f"f{2 * i}": kind for i, kind in enumerate(kinds)}
    try:
        table = csv.read_csv(
            io.BytesIO(source.read_bytes()) if isinstance(source, Path) else source,
            read_options=csv.ReadOptions(autogenerate_column_names=True),
            parse_options=csv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=csv.ConvertOptions(
                column_types=columns, include_columns=list(columns), strings_can_be_null=False
            ),
        )
    except pa.ArrowException as error:
        why = str(error).splitlines()[0]
        raise CorpusError(
            f"{name} is not in NCBI's layout", where=where, why=why, hint="columns are parted by <tab>|<tab>"
        ) from None
    if any(column.null_count for column in table.columns):
        raise CorpusError(f"{name} has lines without an id", where=where, hint="download it again")
    return table
