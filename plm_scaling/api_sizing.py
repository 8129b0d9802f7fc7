"""The verbs about the decision; part of `plm_scaling.api`, where they are found with the others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plm_scaling.sizing.worked_examples import ExamplesReport

__all__ = ["size_check"]


def size_check(examples: Path | str) -> ExamplesReport:
    """The engine held against a file of worked examples: every case, and each number that did not come out.

    Raises
    ------
    ConfigError : no such file, or an example that cannot be asked (unknown kind or law form, a key missing or wrong).
    """
    from plm_scaling.sizing.worked_examples import check_examples

    return check_examples(examples)
