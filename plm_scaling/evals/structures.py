"""`Structure`: the residues of one chain and where their C-beta atoms are, read from PDB or mmCIF.

L: residues of the chain, those without coordinates included.
"""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.alphabet import TO_ID
from plm_scaling.core.errors import CorpusError

__all__ = ["CONTACT_DISTANCE", "Structure", "read_structure"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

CONTACT_DISTANCE: Final = 8.0
"""Angstrom between C-beta atoms (C-alpha of glycine). **Source:** CASP's definition, Monastyrskyy et al. 2011."""
_LONGEST_GAP: Final = 100
_SUFFIXES: Final = (".pdb", ".ent", ".cif", ".mmcif")


@dataclass(frozen=True)
class Structure:
    """One chain.

    Attributes
    ----------
    name : of the file, and the chain.
    sequence : L letters; X for residues that are numbered but were not seen, and for those no letter exists for.
    position_L3 : Angstrom, nan where a residue has no coordinates.
    family : what counts as one piece of evidence with others of the same family; the name itself by default.
    b_factor : of C-alpha, float64[L], nan where not seen; predictors write their confidence there. May be empty.
    """

    name: str
    sequence: str
    position_L3: FloatArray
    family: str = ""
    b_factor: FloatArray = field(default_factory=lambda: np.zeros(0))

    def __len__(self) -> int:
        return len(self.sequence)

    @property
    def seen(self) -> BoolArray:
        """Residues with coordinates, bool[L]."""
        return np.asarray(np.isfinite(self.position_L3).all(axis=1))

    def contacts(self, distance: float = CONTACT_DISTANCE) -> BoolArray:
        """Pairs closer than a distance (Angstrom), bool[L, L]; False where either has no coordinates."""
        apart_LL3 = self.position_L3[:, None] - self.position_L3[None]
        squared_LL = np.nan_to_num(np.square(apart_LL3).sum(axis=-1), nan=np.inf)
        return np.asarray(squared_LL < distance**2)


def read_structure(path: Path, *, chain: str | None = None, family: str = "") -> Structure:
    """A chain of the first model of a PDB or mmCIF file, plain or gzip.

    Residues that the numbering skips (up to 100 in a row) were not seen in the experiment: they count in separations
    along the chain, are shown to models as X, and belong to no pair.

    Parameters
    ----------
    chain : its letter; the first with amino acids by default.

    Raises
    ------
    CorpusError : not readable, no such chain, or no residue with coordinates.
    """
    chosen = _chain(path, chain)
    letters: list[str] = []
    positions: list[FloatArray] = []
    b_factor: list[float] = []
    last: int | None = None
    for residue in chosen:
        letter = _letter(residue)
        if letter is None:
            continue
        number = int(residue.id[1])
        if last is not None and 1 < number - last <= _LONGEST_GAP + 1:
            missing = number - last - 1
            letters.extend("X" * missing)
            positions.extend([np.full(3, np.nan)] * missing)
            b_factor.extend([np.nan] * missing)
        letters.append(letter)
        positions.append(_position(residue, letter))
        b_factor.append(float(residue["CA"].get_bfactor()))
        last = number
    return Structure(
        name=f"{_stem(path)}_{chosen.id}".rstrip("_ "),
        sequence="".join(letters),
        position_L3=np.array(positions, dtype=np.float64).reshape(-1, 3),
        family=family,
        b_factor=np.array(b_factor, dtype=np.float64),
    )


def _chain(path: Path, wanted: str | None) -> Any:
    from Bio.PDB.MMCIFParser import MMCIFParser
    from Bio.PDB.PDBParser import PDBParser

    plain = path.with_suffix("") if path.suffix == ".gz" else path
    if plain.suffix.lower() not in _SUFFIXES:
        raise CorpusError("not a structure by its name", where=str(path), hint=f"a name ends in {', '.join(_SUFFIXES)}")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        kind = MMCIFParser if "cif" in plain.suffix.lower() else PDBParser
        parsed: Any = kind(QUIET=True).get_structure(_stem(path), io.StringIO(raw.decode("latin-1")))  # type: ignore[no-untyped-call]
        model = next(iter(parsed))
    except StopIteration:
        raise CorpusError("no model in the file", where=str(path)) from None
    except (OSError, EOFError, ValueError, KeyError, IndexError) as error:
        raise CorpusError("cannot read the structure", where=str(path), why=str(error)) from None
    except Exception as error:  # the parsers have errors of their own that share no base
        raise CorpusError(
            "cannot read the structure", where=str(path), why=f"{type(error).__name__}: {error}"
        ) from None
    chains = {chain.id: chain for chain in model if any(_letter(residue) is not None for residue in chain)}
    if not chains:
        raise CorpusError("no amino acid with coordinates", where=str(path))
    if wanted is not None and wanted not in chains:
        raise CorpusError(f"no chain {wanted!r}", where=str(path), hint=f"there are {', '.join(sorted(chains))}")
    return chains[wanted] if wanted is not None else next(iter(chains.values()))


def _letter(residue: Any) -> str | None:
    """One letter of an amino acid (modified ones as what they are made of), None for ligands and water."""
    from Bio.Data.PDBData import protein_letters_3to1_extended

    if "CA" not in residue:
        return None
    letter = protein_letters_3to1_extended.get(residue.get_resname().strip().upper().ljust(3), "")
    letter = letter or protein_letters_3to1_extended.get(residue.get_resname().strip().upper(), "")
    if not letter and residue.id[0].strip():
        return None  # a ligand with an atom called CA, such as calcium
    return letter if letter and TO_ID[ord(letter)] != 255 else "X"


def _position(residue: Any, letter: str) -> FloatArray:
    atom = "CB" if "CB" in residue and letter != "G" else "CA"
    return np.asarray(residue[atom].get_coord(), dtype=np.float64)


def _stem(path: Path) -> str:
    return (path.with_suffix("") if path.suffix == ".gz" else path).stem
