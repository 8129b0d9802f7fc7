"""Structure bars of the library code: file and function lengths, annotated parameters. Run by `make check`."""

from __future__ import annotations

import ast
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("plm_scaling", "data_prep")
MEDIAN_FILE, MAX_FILE, P90_FUNCTION, MAX_FUNCTION = 300, 700, 45, 120


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def unannotated(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return [a.arg for a in named if a is not None and a.annotation is None and a.arg not in ("self", "cls")]


def problems() -> list[str]:
    found: list[str] = []
    file_lengths: list[int] = []
    function_lengths: list[int] = []
    for path in sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py")):
        text = path.read_text()
        name = path.relative_to(ROOT)
        lines = text.count("\n")
        file_lengths.append(lines)
        if lines > MAX_FILE:
            found.append(f"{name}: {lines} lines, at most {MAX_FILE}")
        for function in functions(ast.parse(text)):
            length = (function.end_lineno or function.lineno) - function.lineno + 1
            function_lengths.append(length)
            if length > MAX_FUNCTION:
                found.append(f"{name}:{function.lineno} {function.name}: {length} lines, at most {MAX_FUNCTION}")
            if missing := unannotated(function):
                found.append(f"{name}:{function.lineno} {function.name}: not annotated: {', '.join(missing)}")
    median = statistics.median(file_lengths)
    p90 = statistics.quantiles(function_lengths, n=10)[-1]
    if median > MEDIAN_FILE:
        found.append(f"median file has {median:.0f} lines, at most {MEDIAN_FILE}")
    if p90 > P90_FUNCTION:
        found.append(f"90 % of the functions have up to {p90:.0f} lines, at most {P90_FUNCTION}")
    return found


if __name__ == "__main__":
    complaints = problems()
    print("\n".join(complaints) if complaints else "structure bars: ok")
    sys.exit(bool(complaints))
