"""`StructureJudge`: who says whether sequences fold; results made elsewhere are read from files."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from plm_scaling.core.errors import CorpusError
from plm_scaling.evals.structures import read_structure

__all__ = ["JudgedFile", "JudgedStructure", "StructureJudge"]


@dataclass(frozen=True)
class JudgedStructure:
    """What a predictor makes of a sequence.

    Attributes
    ----------
    plddt : mean confidence per residue, 0 to 100.
    ptm : confidence in the fold, 0 to 1; None where the predictor gives none.
    """

    plddt: float
    ptm: float | None = None


class StructureJudge(Protocol):
    """A predictor of structures. A confident structure is no proof: repetitive sequences fold well, too."""

    @property
    def name(self) -> str:
        """Program and version, for the report."""
        ...

    def judge(self, sequences: Sequence[str]) -> list[JudgedStructure | None]:
        """One judgement per sequence, in their order; None where there is none."""
        ...


class JudgedFile:
    """Judgements made elsewhere, by sequence.

    Reads a table (.csv with the columns sequence, plddt and, if known, ptm), JSON (a list of such objects), or a folder
    of PDB or mmCIF files whose B-factors are confidences, as ESMFold and AlphaFold write them (0 to 1 or 0 to 100).

    Raises
    ------
    CorpusError : nothing that can be read, or a confidence out of its bounds; with file and row.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.is_dir():
            self._known = dict(_from_structure(one) for one in sorted(path.iterdir()) if _is_structure(one))
        else:
            self._known = dict(_from_row(row, f"{path}, row {k}") for k, row in enumerate(_rows(path), start=1))
        if not self._known:
            raise CorpusError("no judged structure here", where=str(path))

    @property
    def name(self) -> str:
        """The file's name."""
        return f"read from {self._path.name}"

    def judge(self, sequences: Sequence[str]) -> list[JudgedStructure | None]:
        """What the files hold of each sequence."""
        return [self._known.get(sequence) for sequence in sequences]


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            rows = json.load(handle) if path.suffix == ".json" else list(csv.DictReader(handle))
    except (OSError, ValueError) as error:
        raise CorpusError("cannot read the judgements", where=str(path), why=str(error)) from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CorpusError("no list of judgements", where=str(path), hint="objects with sequence, plddt and maybe ptm")
    return rows


def _from_row(row: dict[str, Any], where: str) -> tuple[str, JudgedStructure]:
    try:
        sequence, plddt = str(row["sequence"]).strip().upper(), float(row["plddt"])
        ptm = float(row["ptm"]) if row.get("ptm") not in (None, "") else None
    except (KeyError, TypeError, ValueError) as error:
        raise CorpusError(f"not a judgement: {error}", where=where, hint="give sequence and plddt, maybe ptm") from None
    return sequence, _checked(plddt, ptm, where)


def _from_structure(path: Path) -> tuple[str, JudgedStructure]:
    structure = read_structure(path)
    confidence = structure.b_factor[np.isfinite(structure.b_factor)]
    mean = float(confidence.mean()) * (100.0 if confidence.max() <= 1.0 else 1.0)
    return structure.sequence, _checked(mean, None, str(path))


def _checked(plddt: float, ptm: float | None, where: str) -> JudgedStructure:
    if not 0.0 <= plddt <= 100.0 or (ptm is not None and not 0.0 <= ptm <= 1.0) or math.isnan(plddt):
        raise CorpusError(f"plddt {plddt}, ptm {ptm}", where=where, why="plddt is 0 to 100, ptm 0 to 1")
    return JudgedStructure(plddt, ptm)


def _is_structure(path: Path) -> bool:
    return {".pdb", ".cif"} & {suffix.lower() for suffix in path.suffixes} != set()
