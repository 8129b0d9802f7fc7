"""`Foldseek`: the program of that name, where it is on PATH."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from plm_scaling.core.errors import CorpusError

__all__ = ["Foldseek"]


class Foldseek:
    """One search of all structures among all references, exhaustive, so that the nearest is missed by no prefilter.

    Raises
    ------
    CorpusError : it is not installed.

    **Source:** van Kempen et al. 2024.
    """

    def __init__(self, program: str = "foldseek") -> None:
        found = shutil.which(program)
        if found is None:
            raise CorpusError("Foldseek is not installed here", why=f"no {program} on PATH", hint="TM-align does, too")
        self._program = found

    @property
    def name(self) -> str:
        """With its version."""
        said = subprocess.run([self._program, "version"], capture_output=True, text=True, check=False)
        return f"Foldseek {said.stdout.strip()}"

    def nearest(self, structures: Sequence[Path], references: Sequence[Path]) -> list[tuple[str, float]]:
        """See `Aligner`.

        Raises
        ------
        CorpusError : it failed, with what it said last, or wrote what is no table of its columns.
        """
        with tempfile.TemporaryDirectory(prefix="foldseek-") as folder:
            place = Path(folder)
            queries = _staged(structures, place / "queries", "q")
            targets = _staged(references, place / "targets", "t")
            out = place / "found.tsv"
            command = [self._program, "easy-search", queries, targets, out, place / "tmp"]
            command += ["--format-output", "query,target,qtmscore", "--exhaustive-search", "1"]
            done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
            if done.returncode != 0 or not out.is_file():
                said = (done.stderr or done.stdout).strip().splitlines()
                raise CorpusError("Foldseek failed", why=said[-1] if said else f"exit code {done.returncode}")
            lines = [line.split("\t") for line in out.read_text().splitlines()]
        best: list[tuple[str, float]] = [("", 0.0)] * len(structures)
        try:
            for query, target, score in lines:
                k, found = _number(query), (references[_number(target)].stem, float(score))
                best[k] = max(best[k], found, key=lambda one: one[1])
        except (ValueError, IndexError) as error:
            raise CorpusError("a table that Foldseek does not write", why=str(error)) from None
        return best


def _staged(paths: Sequence[Path], folder: Path, letter: str) -> Path:
    """Links under names that hold their numbers: the program cuts names and adds chains to them."""
    folder.mkdir()
    for k, path in enumerate(paths):
        (folder / f"{letter}{k}{path.suffix}").symlink_to(path.resolve())
    return folder


def _number(name: str) -> int:
    return int(name[1:].partition(".")[0].partition("_")[0])
