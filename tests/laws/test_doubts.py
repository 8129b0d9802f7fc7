from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import plm_scaling.laws
from plm_scaling.laws import doubts, repeat_doubts, tuning
from plm_scaling.laws.doubts import SENTENCES, explain, explain_row, explain_rows
from plm_scaling.laws.law_fit import IsoflopRow

LAWS = Path(plm_scaling.laws.__path__[0])
ONE_WORD = {"CONCAVE", "EXTRAPOLATED", "MULTIMODAL"}
NO_FLAGS = {"EXACT", "R_D", "R_N", "UNIPROT_PERCENT"}
"""Names in capitals that are no flags."""


def behind_a_fit() -> list[Path]:
    """The modules that `combine` reaches: only these can put a flag into a `LawFit`."""
    seen: dict[str, Path] = {}
    waiting = ["combine"]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen[name] = LAWS / f"{name}.py"
            found = [node for node in ast.walk(ast.parse(seen[name].read_text())) if isinstance(node, ast.ImportFrom)]
            modules = [node.module for node in found if node.module and node.module.startswith("plm_scaling.laws.")]
            waiting += [module.removeprefix("plm_scaling.laws.") for module in modules]
    return list(seen.values())


def raised(path: Path) -> set[str]:
    """String literals in capitals with an underscore, or one of the flags of a single word; `__all__` aside."""
    tree = ast.parse(path.read_text())
    exported = {
        node.value
        for statement in tree.body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__"
        for node in ast.walk(statement)
        if isinstance(node, ast.Constant)
    }
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    # "BATCH_AT_BOUND" is put together from its first word.
    ends = {word for word in words if re.fullmatch(r"(_[A-Z]+)+", word)}
    words |= {first + end for end in ends for first in words - ONE_WORD if re.fullmatch("[A-Z]+", first)}
    return {
        word
        for word in words - exported - NO_FLAGS
        if re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", word) or word in ONE_WORD
    }


def test_every_flag_of_a_fit_has_a_sentence() -> None:
    told = {*SENTENCES, *doubts._ROW_SENTENCES, *repeat_doubts.SENTENCES, *tuning.SENTENCES}
    flags = {flag: path.name for path in behind_a_fit() for flag in raised(path)}
    assert len(flags) > 30
    assert {"SHAPE_AT_BOUND", "BATCH_AT_BOUND", "CURVE_CHOICE", "CUBIC_TOO_FEW_SIZES"} <= set(flags)
    assert {flag: name for flag, name in flags.items() if flag not in told} == {}


@pytest.mark.parametrize("flag", ["CUBIC_TOO_FEW_SIZES", "CURVE_CHOICE"])
def test_a_row_says_what_its_curve_decides(flag: str) -> None:
    row = IsoflopRow(C=1e18, N=(1e6, 2e6, 4e6), D=(3e10,) * 3, loss=(2.2, 2.1, 2.2), n_seeds=(1, 1, 1), flags=(flag,))
    (note,) = explain_row(row)
    assert note.startswith(f"{flag}: at C = 1e+18 FLOPs ")
    assert "cubic" in note


def test_a_doubt_of_many_rows_is_told_once() -> None:
    rows = [
        IsoflopRow(C=C, N=(1e6, 2e6), D=(1e9, 5e8), loss=(2.2, 2.1), n_seeds=(1, 1), flags=("TOO_FEW_SIZES",))
        for C in (1e16, 1e17, 1e18, 1e19)
    ]
    (note,) = explain_rows(rows)
    assert note.endswith("The same at 3 other budgets.")
    assert len(explain_rows(rows[:3])) == 3
    assert explain(["NO_SUCH_FLAG"]) == ()
