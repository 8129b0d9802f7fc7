from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plm_scaling import api
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.reporting.loading import load_study
from plm_scaling.reporting.page import render_page
from plm_scaling.reporting.seal_section import seal_sections
from plm_scaling.reporting.study import Study
from tests.sweeps.seal_kit import LARGE, begin, config, finish, fitted_law, planned, silent, write_plan

Cli = Callable[..., Any]
RUNS = [config(shape, D) for shape, D in LARGE]


@pytest.fixture(scope="module")
def law(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted_law(1, draws=40).write(tmp_path_factory.mktemp("law") / "fit-clm.json")


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return write_plan(tmp_path, [planned(one) for one in RUNS])


def test_sealing_and_scoring_on_screen_and_for_programs(cli: Cli, law: Path, plan: Path) -> None:
    begin(plan.parent / "runs", RUNS[0], "failed")
    dry = cli("predict", law, "--seal", plan, "-n")
    assert dry.code == 0
    assert "would seal 3 runs" in dry.err
    assert not (plan.parent / "plan.sealed.json").exists()
    screen = cli("predict", law, "--seal", plan)
    assert screen.code == 0
    assert RUNS[1].run_id in screen.out
    assert f"note: not sealed: {RUNS[0].run_id}: it was begun before (failed)" in screen.err
    (made,) = json.loads((plan.parent / "plan.sealed.json").read_text())["seals"]
    assert f"sealed 3 runs in {plan.parent / 'plan.sealed.json'} at {made['made']}: {made['sha256']}" in screen.err
    finish(plan.parent / "runs", RUNS[1], 1.001 * made["runs"][0]["loss"])
    scored = cli("predict", "--score", plan)
    assert scored.code == 0
    assert "1 of 3 scored, 2 waiting" in scored.err
    assert "90 % intervals: 1 of 1 inside (100 %, 95 % interval 3 % to 100 %)" in scored.err
    assert "-0.10 %" in scored.out
    for output in ("json", "csv"):
        text = cli("predict", "--score", plan, "--format", output).out
        rows = json.loads(text) if output == "json" else list(csv.DictReader(io.StringIO(text)))
        assert [row["run"] for row in rows] == [one.run_id for one in RUNS[1:]]
        assert float(rows[0]["error"]) == pytest.approx(1 / 1.001 - 1)
        assert str(rows[0]["in_90"]) == "True"
        assert rows[1]["why not"] == "planned"


def test_mistakes_say_what_to_do(cli: Cli, law: Path, plan: Path) -> None:
    for words in ([law], [law, "--seal", plan, "--score", plan], ["--seal", plan], [law, "--score", plan]):
        assert cli("predict", *words).code == 2
    assert "Missing argument 'LAW'" in cli("predict", "--seal", plan).err
    nothing = cli("predict", "--score", plan)
    assert nothing.code == 1
    assert f"plm-scaling predict FIT.json --seal {plan}" in nothing.err
    for one in RUNS:
        begin(plan.parent / "runs", one)
    refused = cli("predict", law, "--seal", plan)
    assert refused.code == 4
    assert "no run of this plan can be sealed" in refused.err
    assert not (plan.parent / "plan.sealed.json").exists()


def test_what_a_fit_does_not_say_is_seen_wherever_the_seal_is(cli: Cli, law: Path, plan: Path) -> None:
    plain = silent(LawFit.read(law)).write(plan.parent / "plain.json")
    sealed = cli("predict", plain, "--seal", plan)
    (made,) = json.loads((plan.parent / "plan.sealed.json").read_text())["seals"]
    assert made["flags"] == ["CORPUS_UNKNOWN", "RECIPE_UNKNOWN", "VALIDATION_UNKNOWN"]
    scored = cli("predict", "--score", plan)
    (section,) = seal_sections(load_study(plan.parent))
    for note in made["notes"]:
        assert f"note: {note}" in sealed.err
        assert note in scored.err
        assert any(alarm.endswith(note) for alarm in section.alarms)


def test_options_that_a_seal_has_no_use_for_are_refused(cli: Cli, law: Path, plan: Path) -> None:
    points = plan.parent / "points.csv"
    points.write_text("N,D\n1e5,1e7\n")
    out, seal, score = plan.parent / "out.csv", [law, "--seal", plan], ["--score", plan]
    for words, said in (
        ([*seal, "-o", out], "-o goes with --points only"),
        ([*seal, "--level", "0.9"], "--level goes with --points only: a seal holds the intervals of 50, 90 and 95 %"),
        ([*score, "-o", out], "-o goes with --points only"),
        ([*score, "--level", "0.5"], "--level goes with --points only"),
        ([law, "--points", points, "--runs", plan.parent], "--runs goes with --seal and --score only"),
    ):
        screen = cli("predict", *words)
        assert screen.code == 2
        assert said in " ".join(screen.err.split())
    assert not out.exists()
    assert not (plan.parent / "plan.sealed.json").exists()


def test_the_report_scores_what_was_sealed(law: Path, plan: Path) -> None:
    study = plan.parent
    made = api.predict_seal(law, plan)
    for one, sealed, factor in zip(RUNS[:3], made.runs, (1.0005, 0.9995, 1.5), strict=False):
        finish(study / "runs", one, factor * sealed.loss, begun=1e9 if factor == 1.5 else None)
    page = render_page(load_study(study))
    assert page.count('<a href="#sealed">') == 1
    assert "Predictions sealed before the runs" in page
    assert "2 of 4 runs scored. The mean absolute error is 0.05\u00a0%" in page
    assert "90\u00a0% intervals: 2 of 2 (100\u00a0%, 16\u00a0% to 100\u00a0%)" in page
    for one, state in zip(RUNS, ("scored", "scored", "begun at 2001-09-09", "planned"), strict=True):
        row = page[page.index(f">{one.run_id}<") :].split("</tr>")[0]
        assert state in row
    assert f"{RUNS[2].run_id} does not count: begun at 2001" in page
    assert made.sha256[:16] in page
    (score,) = load_study(study).sealed
    off = tuple(dataclasses.replace(run, measured=1.5 * run.measured) for run in score.scored)
    (section,) = seal_sections(Study(name="off", sealed=(dataclasses.replace(score, scored=off),)))
    assert "0\u00a0% of the runs lie inside their 90 % intervals: too few" in section.alarms[-1]
    assert "more than the seal expected" in section.points[0]
    sealed = study / "plan.sealed.json"
    sealed.write_text(sealed.read_text().replace(f'"loss": {made.runs[0].loss!r}', '"loss": 1.0'))
    broken = load_study(study)
    assert not broken.sealed
    assert "seal broken: it was changed after it was made" in "".join(broken.missing)
    assert "seal broken" in render_page(broken)
    sealed.unlink()
    assert "#sealed" not in render_page(load_study(study))
