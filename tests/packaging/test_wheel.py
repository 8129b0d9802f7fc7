"""The wheel, built and installed as a user gets it: it works from an empty folder and brings its data along."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import plm_scaling

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]  # one worker builds and installs it once

ROOT = Path(__file__).resolve().parents[2]
PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input")


def call(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program that must see nothing of the checkout: another folder, no PYTHONPATH."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV_", "PIP_"))}
    return subprocess.run([str(w) for w in words], cwd=cwd, env=clean, capture_output=True, text=True, timeout=240)


def answer(*words: object, cwd: Path) -> str:
    done = call(*words, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    pytest.importorskip("hatchling", reason="hatchling is not installed: the wheel cannot be built here")
    answer(sys.executable, *PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", out, ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` of a fresh environment that holds the wheel; dependencies come from this one's site-packages."""
    home = tmp_path_factory.mktemp("fresh")
    answer(sys.executable, "-m", "venv", "--without-pip", home / "env", cwd=home)
    python = home / "env" / "bin" / "python"
    site = Path(answer(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    # A path in a .pth file is searched, but .pth files found there (an editable install of ours) are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    answer(sys.executable, *PIP, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=home)
    return home / "env" / "bin"


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """An empty folder to work in."""
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def test_the_wheel_holds_two_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    info = f"plm_scaling-{plm_scaling.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"plm_scaling", "data_prep", info}
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc") or "/tests/" in name]
    assert {"plm_scaling/py.typed", "data_prep/py.typed", "plm_scaling/laws/zoo.toml"} <= set(names)
    assert {f"plm_scaling/_configs/{path.name}" for path in (ROOT / "configs").glob("*.toml")} <= set(names)
    for package in ("plm_scaling", "data_prep"):
        sources = {str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py")}
        assert sources == {name for name in names if name.startswith(f"{package}/") and name.endswith(".py")}


def test_its_metadata(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    info = f"plm_scaling-{plm_scaling.__version__}.dist-info"
    metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
    assert (metadata["Name"], metadata["Version"]) == ("plm-scaling", plm_scaling.__version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert f"{info}/licenses/LICENSE" in archive.namelist()
    assert "plm-scaling = plm_scaling.cli.main:main" in archive.read(f"{info}/entry_points.txt").decode()


def test_the_installed_copy_is_the_one_that_runs(installed: Path, empty: Path) -> None:
    file = answer(installed / "python", "-c", "import plm_scaling; print(plm_scaling.__file__)", cwd=empty)
    assert Path(file.strip()).is_relative_to(installed.parent)
    version = answer(installed / "plm-scaling", "--version", cwd=empty)
    assert version.strip().endswith(plm_scaling.__version__)


def test_help_and_size_need_no_checkout(installed: Path, empty: Path) -> None:
    assert "doctor" in answer(installed / "plm-scaling", "--help", cwd=empty)
    words = ("size", "--gpu-hours", "5000", "--gpu", "a100", "--unique-tokens", "15e9", "--objective", "mlm")
    value = json.loads(answer(installed / "plm-scaling", *words, "--format", "json", cwd=empty))
    assert value["N_low"] <= value["N"] <= value["N_high"]
    assert list(empty.iterdir()) == []


DATA = """
import json
from plm_scaling.core.configs import find_config, list_configs
from plm_scaling.laws.zoo import load_zoo
from plm_scaling.reporting.page import render_page
from plm_scaling.reporting.study import Study
from plm_scaling.sweeps.plan import read_spec
print(json.dumps({
    "demo": str(find_config("demo.toml")),
    "configs": list_configs(),
    "arms": len(read_spec(find_config("demo.toml")).isoflop),
    "laws": len(load_zoo()),
    "page": render_page(Study(name="nothing yet")),
}))
"""


def test_configs_laws_and_templates_came_along(installed: Path, empty: Path) -> None:
    found = json.loads(answer(installed / "python", "-c", DATA, cwd=empty))
    assert Path(found["demo"]).is_relative_to(installed.parent)
    assert found["configs"] == sorted(path.name for path in (ROOT / "configs").glob("*.toml"))
    assert found["arms"] > 0
    assert found["laws"] > 0
    assert "<style>" in found["page"]
    assert "nothing yet" in found["page"]


FOUND = """
from importlib.util import find_spec
for name in ("configs", "tests", "benchmarks", "docs", "json"):
    spec = find_spec(name)
    print(name, spec and (spec.origin, spec.loader))
"""


def test_our_folders_are_no_packages_of_the_user(installed: Path, empty: Path) -> None:
    found = answer(installed / "python", "-c", FOUND, cwd=empty)
    assert "json/__init__.py" in found.splitlines()[-1], "what is there is found"
    # Another distribution among the dependencies may have such a name: it only must not be ours.
    assert str(ROOT) not in found
    assert str(installed.parent) not in found


def test_the_rest_of_the_path_from_an_empty_folder(installed: Path, empty: Path) -> None:
    """Simulate, prepare and plan, and a training process that says why it cannot start."""
    program = installed / "plm-scaling"
    answer(program, "prep", "simulate", "-o", "fasta", "--residues", "60k", cwd=empty)
    files = ("fasta/uniref_like.fasta", "fasta/metagenome_like.fasta")
    answer(program, "prep", *files, "-o", "corpus", "--val-share", "0.05", cwd=empty)
    answer(program, "prep", "verify", "corpus", cwd=empty)
    (empty / "s.toml").write_text('name = "s"\ncorpus = "corpus"\n[[grid]]\nsizes = ["1x16"]\nD = [5e3]\n')
    assert "1x16" in answer(program, "plan", "s.toml", cwd=empty)
    failed = call(installed / "python", "-m", "plm_scaling.training", "no-such-run", cwd=empty)
    assert failed.returncode == 1
    assert "no-such-run" in failed.stderr
    assert "Traceback" not in failed.stderr
