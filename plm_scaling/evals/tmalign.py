"""`TmAlign`: the program TM-align, where it is on PATH."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from plm_scaling.core.errors import CorpusError

__all__ = ["TmAlign"]

_VERSION: Final = re.compile(r"TM-align \(Version ([^)]+)\)")
_SCORE: Final = re.compile(r"TM-score=\s*([0-9.]+) \(if normalized by length of Chain_1")


class TmAlign:
    """Lays a structure over every reference; minutes for thousands of pairs, where Foldseek takes seconds.

    Raises
    ------
    CorpusError : it is not installed.

    **Source:** Zhang & Skolnick 2005.
    """

    def __init__(self, program: str = "TMalign") -> None:
        found = shutil.which(program)
        if found is None:
            raise CorpusError(
                "TM-align is not installed here", why=f"no {program} on PATH", hint="apt install tm-align"
            )
        self._program = found

    @property
    def name(self) -> str:
        """With its version."""
        said = _VERSION.search(subprocess.run([self._program], capture_output=True, text=True, check=False).stdout)
        return f"TM-align {said[1]}" if said else "TM-align"

    def nearest(self, structures: Sequence[Path], references: Sequence[Path]) -> list[tuple[str, float]]:
        """See `Aligner`.

        Raises
        ------
        CorpusError : a file that it cannot read, by name.
        """
        return [max(((one.stem, self._score(path, one)) for one in references), key=_by_score) for path in structures]

    def _score(self, structure: Path, reference: Path) -> float:
        command = [self._program, str(structure), str(reference)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        score = _SCORE.search(done.stdout)
        if done.returncode != 0 or score is None:
            said = (done.stderr or done.stdout).strip().splitlines()
            why = said[-1] if said else f"exit code {done.returncode}"
            raise CorpusError("TM-align gave no score", where=f"{structure} on {reference}", why=why)
        return float(score[1])


def _by_score(found: tuple[str, float]) -> float:
    return found[1]
