"""Where what is made of a corpus on demand is kept: packed windows, ledgers, searches."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["made_homes"]


def made_homes(corpus_path: Path) -> tuple[Path, Path]:
    """In the corpus; where that is read-only, in a private temporary folder."""
    return corpus_path / "windows", Path(tempfile.gettempdir()) / f"plm-scaling-windows-{os.getuid()}"
