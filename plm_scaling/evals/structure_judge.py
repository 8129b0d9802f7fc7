"""`StructureJudge`: who says whether sequences fold; results made elsewhere are read from files."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from plm_scaling.core.errors import ConfigError, CorpusError
from plm_scaling.evals.structures import read_structure

__all__ = [
    "AlignedJudge",
    "Aligner",
    "JudgedFile",
    "JudgedStructure",
    "KeepsStructures",
    "StructureJudge",
    "open_judge",
    "reference_structures",
]


@dataclass(frozen=True)
class JudgedStructure:
    """What a predictor makes of a sequence.

    Attributes
    ----------
    plddt : mean confidence per residue, 0 to 100.
    ptm : confidence in the fold, 0 to 1; None where the predictor gives none.
    tm : TM-score to the nearest reference structure, by the length of the judged chain; None where none was asked for.
    nearest : name of that structure.
    """

    plddt: float
    ptm: float | None = None
    tm: float | None = None
    nearest: str = ""


class StructureJudge(Protocol):
    """A predictor of structures. A confident structure is no proof: repetitive sequences fold well, too."""

    @property
    def name(self) -> str:
        """Program and version, for the report."""
        ...

    def judge(self, sequences: Sequence[str]) -> list[JudgedStructure | None]:
        """One judgement per sequence, in their order; None where there is none."""
        ...


class KeepsStructures(StructureJudge, Protocol):
    """A judge whose predicted structures lie in files."""

    @property
    def files(self) -> Mapping[str, Path]:
        """PDB or mmCIF file of each sequence that was judged."""
        ...


class Aligner(Protocol):
    """A program that lays structures over each other."""

    @property
    def name(self) -> str:
        """Program and version."""
        ...

    def nearest(self, structures: Sequence[Path], references: Sequence[Path]) -> list[tuple[str, float]]:
        """The reference of the highest TM-score to each structure (by that structure's length), and the score; an
        empty name and 0 where none was found.
        """
        ...


@dataclass(frozen=True)
class AlignedJudge:
    """A judge that also says which known structure is nearest: high for natural folds, low for new or broken ones."""

    inner: KeepsStructures
    aligner: Aligner
    references: tuple[Path, ...]

    @property
    def name(self) -> str:
        """Of both."""
        return f"{self.inner.name}; nearest of {len(self.references)} structures by {self.aligner.name}"

    def judge(self, sequences: Sequence[str]) -> list[JudgedStructure | None]:
        """What the inner judge says, with the nearest structure of each that it has a file of."""
        judged = self.inner.judge(sequences)
        files = {sequence: self.inner.files[sequence] for sequence in sequences if sequence in self.inner.files}
        found = dict(zip(files, self.aligner.nearest(list(files.values()), self.references), strict=True))
        return [
            one
            if one is None or sequence not in found
            else replace(one, nearest=found[sequence][0], tm=found[sequence][1])
            for sequence, one in zip(sequences, judged, strict=True)
        ]


def open_judge(spec: str, *, structures: Path, references: Path | None = None) -> StructureJudge:
    """The judge that a line of text names.

    Parameters
    ----------
    spec : `esmfold:FOLDER` of weights, or a path that `JudgedFile` reads.
    structures : folder that predicted structures are written to.
    references : folder of known structures, the nearest of which is found by Foldseek, or without it TM-align.

    Raises
    ------
    ConfigError : references for judgements without structures. CorpusError : a file that cannot be read, or neither
        program is installed. CheckpointError : no such weights.
    """
    judge: KeepsStructures
    if spec.startswith("esmfold:"):
        from plm_scaling.evals.esmfold import EsmFold

        judge = EsmFold(Path(spec.removeprefix("esmfold:")), structures)
    else:
        judge = JudgedFile(Path(spec))
        if references is not None and not judge.files:
            raise ConfigError(
                "known structures beside a table", where=spec, why="it holds confidences and no structures"
            )
    return judge if references is None else AlignedJudge(judge, _aligner(), reference_structures(references))


def _aligner() -> Aligner:
    from plm_scaling.evals.foldseek import Foldseek
    from plm_scaling.evals.tmalign import TmAlign

    return Foldseek() if shutil.which("foldseek") else TmAlign()


def reference_structures(folder: Path) -> tuple[Path, ...]:
    """Plain PDB and mmCIF files of a folder, by name.

    Raises
    ------
    CorpusError : there is none.
    """
    found = tuple(path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".pdb", ".cif"))
    if not found:
        raise CorpusError("no structure here", where=str(folder), hint="plain .pdb or .cif files; unpack .gz")
    return found


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
        self._files: dict[str, Path] = {}
        if path.is_dir():
            read = {one: _from_structure(one) for one in sorted(path.iterdir()) if _is_structure(one)}
            self._known = dict(read.values())
            self._files = {sequence: one for one, (sequence, _) in read.items()}
        else:
            self._known = dict(_from_row(row, f"{path}, row {k}") for k, row in enumerate(_rows(path), start=1))
        if not self._known:
            raise CorpusError("no judged structure here", where=str(path))

    @property
    def name(self) -> str:
        """The file's name."""
        return f"read from {self._path.name}"

    @property
    def files(self) -> Mapping[str, Path]:
        """Of a folder of structures; empty for a table."""
        return self._files

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
