from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import data_prep
import plm_scaling

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))


def modules() -> list[ModuleType]:
    found = []
    for package in (plm_scaling, data_prep):
        found.append(package)
        for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not info.name.endswith("__main__"):
                found.append(importlib.import_module(info.name))
    return found


def test_bars_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bars

    (tmp_path / "plm_scaling").mkdir()
    (tmp_path / "data_prep").mkdir()
    body = "\n".join(["def f(x):"] + ["    x = 1"] * 130 + ["def g(): ..."])
    (tmp_path / "plm_scaling" / "long.py").write_text(body + "\n" * 700)
    monkeypatch.setattr(bars, "ROOT", tmp_path)
    text = "\n".join(bars.problems())
    assert "at most 700" in text
    assert "at most 120" in text
    assert "not annotated: x" in text


def test_no_public_function_hides_a_module() -> None:
    names = {module.__name__ for module in modules()}
    hidden = [
        f"{module.__name__}.{name}"
        for module in modules()
        for name in getattr(module, "__all__", ())
        if f"{module.__name__}.{name}" in names
    ]
    assert hidden == []


def test_every_exported_name_exists() -> None:
    missing = [
        f"{module.__name__}.{name}"
        for module in modules()
        for name in getattr(module, "__all__", ())
        if not hasattr(module, name)
    ]
    assert missing == []


def test_every_module_says_what_it_exports() -> None:
    silent = [
        module.__name__ for module in modules() if not hasattr(module, "__path__") and not hasattr(module, "__all__")
    ]
    assert silent == []


def test_the_public_verbs_are_the_command_line() -> None:
    """A verb is a function of its name; but `import` is a word of Python, some name their subcommands."""
    from plm_scaling.cli.main import VERBS

    named_otherwise = {
        "import": {"import_runs"},
        "runs": {"runs_sql", "runs_table", "runs_export"},
        "evaluate": {f"evaluate_{verb}" for verb in ("ls", "run", "compare", "frontier", "floors", "validate")},
        "laws": {"laws_list", "laws_show", "laws_compare", "laws_check", "laws_choices"},
    }
    functions = set[str]().union(*(named_otherwise.get(verb, {verb}) for verb in VERBS))
    assert functions <= set(plm_scaling.__all__)


def test_torch_is_a_leaf() -> None:
    """Importing what a verb needs, but training, never brings torch in: one process, the first that does is named."""
    needs = {
        "plan": "plm_scaling.sweeps.plan, plm_scaling.sweeps.reconcile",
        "fit": "plm_scaling.laws.combine, plm_scaling.sweeps.runs",
        "predict": "plm_scaling.laws.points",
        "import": "plm_scaling.laws.cheng2024, plm_scaling.laws.exports",
        "laws": "plm_scaling.sizing.law_table, plm_scaling.laws.zoo_checks",
        "transfer": "plm_scaling.transfers.tokens",
        "size": "plm_scaling.sizing.recommend",
        "audit": "plm_scaling.sizing.audit, plm_scaling.sizing.downstream",
        "report": "plm_scaling.reporting.page",
        "status": "plm_scaling.sweeps.status",
    }
    lines = [
        f"import {modules}\nif 'torch' in sys.modules: sys.exit('torch was imported by {verb}')"
        for verb, modules in {"api": "sys, plm_scaling.api", **needs}.items()
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['plm-scaling', '--help']\n"
        "from plm_scaling.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'scipy', 'torch', 'pydantic', 'pandas', 'pyarrow', 'datasets', 'matplotlib', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stderr.strip() == "[]"
    assert "size" in done.stdout


def test_the_project_speaks_of_itself_alone() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=False, capture_output=True, text=True).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout: the list of the project's files is not known")
    words = ("../shar" + "ed", "/wo" + "rk/", "bash_" + "jobs")
    found = [
        f"{name}: {word}"
        for name in tracked
        if not name.startswith(".ci/") and (ROOT / name).is_file()
        for word in words
        if word in (ROOT / name).read_text(errors="replace")
    ]
    assert found == []


def test_code_is_ascii_where_it_is_code() -> None:
    def names(path: Path) -> set[str]:
        return {n.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Name)}

    files = [*(ROOT / "plm_scaling").rglob("*.py"), *(ROOT / "data_prep").rglob("*.py")]
    others = [file for file in files if not file.read_text().isascii()]
    assert [str(f) for f in others if not all(name.isascii() for name in names(f))] == []
