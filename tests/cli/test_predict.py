from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plm_scaling import api
from plm_scaling.core.run_table import RunRow, RunTable

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def law(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A law of 25 runs on L = 1.8 + 900 N^-.4 + 4000 D^-.42, noise 0.2 %, up to 6e19 FLOPs."""
    rng = np.random.default_rng(0)
    rows = [
        RunRow(
            run_id=f"{N:g}-{D:g}",
            objective="clm",
            N=N,
            D=D,
            loss=(1.8 + 900 * N**-0.4 + 4000 * D**-0.42) * math.exp(0.002 * rng.standard_normal()),
        )
        for N in np.geomspace(1e7, 1e9, 5)
        for D in np.geomspace(1e8, 1e10, 5)
    ]
    folder = tmp_path_factory.mktemp("law")
    RunTable(tuple(rows)).write(folder / "runs.csv")
    api.fit(folder / "runs.csv", form="chinchilla", draws=60, out=folder / "fit-clm.json")
    return folder / "fit-clm.json"


@pytest.fixture
def points(tmp_path: Path) -> Path:
    (tmp_path / "points.csv").write_text("N,D,name\n1e8,2e9,inside\n3e9,1e11,beyond\n")
    return tmp_path / "points.csv"


def test_losses_with_intervals_on_screen_and_on_disk(cli: Cli, law: Path, points: Path) -> None:
    screen = cli("predict", law, "--points", points, "-o", points.parent / "out.csv")
    assert screen.code == 0
    for word in ("inside", "beyond", "lo90", "hi90", "decades_beyond"):
        assert word in screen.out
    assert f"wrote {points.parent / 'out.csv'}" in screen.err
    inside, beyond = csv.DictReader(io.StringIO((points.parent / "out.csv").read_text()))
    assert float(inside["loss"]) == pytest.approx(1.8 + 900 * 1e8**-0.4 + 4000 * 2e9**-0.42, rel=0.005)
    assert float(inside["decades_beyond"]) == 0
    assert float(beyond["decades_beyond"]) == pytest.approx(math.log10(6 * 3e9 * 1e11 / 6e19), abs=1e-3)


@pytest.mark.parametrize("output", ["json", "csv"])
def test_for_programs(cli: Cli, law: Path, points: Path, output: str) -> None:
    screen = cli("predict", law, "--points", points, "--level", "0.5", "--format", output)
    assert screen.code == 0
    rows = json.loads(screen.out) if output == "json" else list(csv.DictReader(io.StringIO(screen.out)))
    assert [row["name"] for row in rows] == ["inside", "beyond"]
    assert float(rows[0]["lo50"]) < float(rows[0]["loss"]) < float(rows[0]["hi50"])
    assert [path.name for path in points.parent.iterdir()] == ["points.csv"]


def test_a_dry_run_writes_nothing(cli: Cli, law: Path, points: Path) -> None:
    screen = cli("predict", law, "--points", points, "-o", points.parent / "out.csv", "--dry-run")
    assert screen.code == 0
    assert "would write" in screen.err
    assert not (points.parent / "out.csv").exists()


@pytest.mark.parametrize(
    ("text", "code", "complaint"),
    [
        ("N,D\n1e8,many\n", 1, "points.csv:2: D is not a positive number: 'many'"),
        ("N,tokens\n1e8,1e9\n", 1, "no column D"),
        ("", 1, "no column N and D"),
    ],
)
def test_points_that_are_none(cli: Cli, law: Path, tmp_path: Path, text: str, code: int, complaint: str) -> None:
    (tmp_path / "points.csv").write_text(text)
    screen = cli("predict", law, "--points", tmp_path / "points.csv", "-o", tmp_path / "out.csv")
    assert screen.code == code
    assert complaint in screen.err
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("level", ["0", "1", "1.5", "nan"])
def test_a_level_is_a_share(cli: Cli, law: Path, points: Path, level: str) -> None:
    assert cli("predict", law, "--points", points, "--level", level).code == 2


def test_no_law_and_no_points_are_usage_errors(cli: Cli, law: Path, points: Path) -> None:
    assert cli("predict", law).code == 2
    assert cli("predict", points.parent / "none.json", "--points", points).code == 2
    damaged = points.parent / "damaged.json"
    damaged.write_text("{")
    assert cli("predict", damaged, "--points", points).code == 1


def test_a_law_without_a_surface_is_refused_with_its_reason(cli: Cli, law: Path, points: Path) -> None:
    table = RunTable.read(law.parent / "runs.csv")
    few = RunTable(table.rows[:4]).write(points.parent / "few.csv")
    assert cli("fit", few, "--draws", "50", "-o", points.parent / "few.json").code == 4
    screen = cli("predict", points.parent / "few.json", "--points", points, "-o", points.parent / "out.csv")
    assert screen.code == 4
    assert "4 runs; a surface takes at least 7" in screen.err
    assert not (points.parent / "out.csv").exists()
