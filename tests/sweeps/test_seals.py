from __future__ import annotations

import json
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import plm_scaling
from plm_scaling import api
from plm_scaling.core.errors import RecordError, RefusedError
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.sizing.law_identity import law_sha256
from plm_scaling.sweeps import sealing
from plm_scaling.sweeps.plan_records import SweepPlan
from plm_scaling.sweeps.seal_records import LEVELS, Seals, read_seals, seals_path
from tests.sweeps.seal_kit import (
    LARGE,
    SD,
    begin,
    config,
    finish,
    fitted_law,
    measured_loss,
    planned,
    silent,
    write_plan,
)

RUNS = [config(shape, D) for shape, D in LARGE]


@pytest.fixture(scope="session")
def law() -> LawFit:
    return fitted_law(0)


@pytest.fixture
def study(law: LawFit, tmp_path: Path) -> Path:
    """A plan of four larger runs and a law of smaller ones."""
    law.write(tmp_path / "fit-clm.json")
    write_plan(tmp_path, [planned(one) for one in RUNS])
    return tmp_path


def seal(study: Path, **more: Any) -> Any:
    return api.predict_seal(study / "fit-clm.json", study / "plan.json", **more)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every number and text of a JSON value stands; of long lists the first two and the last."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for k in dict.fromkeys([*range(min(2, len(value))), *([len(value) - 1] if value else [])]):
            yield from leaves(value[k], (*path, k))
    else:
        yield path


def changed(value: Any, path: tuple[Any, ...]) -> Any:
    value = json.loads(json.dumps(value))
    place = value
    for key in path[:-1]:
        place = place[key]
    old = place[path[-1]]
    place[path[-1]] = f"{old or ''}x" if isinstance(old, str) or old is None else old + 1 if old == int(old) else -old
    return value


def test_whatever_is_changed_in_a_seal_breaks_it(study: Path) -> None:
    seal(study)
    write_plan(study, [planned(one) for one in [*RUNS, config((2, 128), 2e6)]])
    seal(study)
    path = seals_path(study / "plan.json")
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole))
    assert len(read_seals(path).seals) == 2, "how the JSON is laid out is no part of what was said"
    places = [place for place in leaves(whole) if place[0] == "seals"]
    assert len(places) > 80
    for place in places:
        path.write_text(json.dumps(changed(whole, place)))
        with pytest.raises(RecordError, match=r"seal broken|not a valid Seals"):
            read_seals(path)
    first, second = whole["seals"]
    dropped = json.loads(json.dumps(first))
    dropped["runs"].pop()
    for seals, what in (
        ([second], "taken out, put in or moved"),
        ([second, first], "taken out, put in or moved"),
        ([first, first], "taken out, put in or moved"),
        ([dropped, second], "it was changed after it was made"),
    ):
        path.write_text(json.dumps(whole | {"seals": seals}))
        with pytest.raises(RecordError, match=what) as raised:
            read_seals(path)
        assert "seal 1 of" in raised.value.where or "seal 2 of" in raised.value.where
    with pytest.raises(RecordError, match="seal broken"):
        seal(study, dry_run=True)
    with pytest.raises(RecordError, match="seal broken"):
        api.predict_score(study / "plan.json")


def test_a_seal_is_added_and_touches_neither_the_plan_nor_the_seals_before(study: Path) -> None:
    plan = study / "plan.json"
    before, identity = plan.read_bytes(), SweepPlan.read(plan).content_hash()
    assert seal(study, dry_run=True).runs
    assert not seals_path(plan).exists()
    first = seal(study)
    assert (plan.read_bytes(), SweepPlan.read(plan).content_hash()) == (before, identity)
    assert first.plan_sha256 == identity
    second = seal(study)
    assert read_seals(seals_path(plan)) == Seals(seals=(first, second))
    assert (first.previous, second.previous) == ("", first.sha256)


def test_runs_that_were_begun_before_are_left_out_by_name(study: Path) -> None:
    done, failed, running = RUNS[:3]
    finish(study / "runs", done, 2.0)
    begin(study / "runs", failed, "failed")
    begin(study / "runs", running)
    made = seal(study)
    assert [run.run_id for run in made.runs] == [RUNS[3].run_id]
    reasons = {run.run_id: run.reason for run in made.left_out}
    assert reasons[done.run_id] == "it was begun before (complete)"
    assert reasons[failed.run_id] == "it was begun before (failed)"
    assert "begun before" in reasons[running.run_id]
    states = {run.run_id: run.status for run in made.states}
    assert states[done.run_id] == "complete"
    assert states[RUNS[3].run_id] == "planned"
    begin(study / "runs", RUNS[3], "diverged")
    with pytest.raises(RefusedError, match="no run of this plan can be sealed") as raised:
        seal(study)
    assert "begun before (diverged)" in raised.value.why
    assert raised.value.exit_code == 4


@pytest.mark.parametrize("begun", [False, True])
def test_what_the_law_is_not_about_is_left_out(study: Path, begun: bool) -> None:
    """Before the first complete run as well as after: the fit says what its runs were."""
    others = {
        "trains mlm": planned(config((3, 128), 3e6, objective="mlm")),
        "not of repeats": planned(config((3, 128), 3e6, streams=[{"unique_tokens": 1000}]), "repeats"),
        "not of transfer_target": planned(config((3, 128), 3e6, init_from="a" * 12), "transfer_target"),
        "another recipe (regularisation dropout=0.1, theirs the default)": planned(config((3, 128), 3e6, dropout=0.1)),
        "another recipe (schedule wsd, theirs cosine)": planned(
            config((3, 128), 3e6, schedule="wsd", warmup_tokens=51_200)
        ),
        "another corpus (cccccccccccc, not dddddddddddd)": planned(config((3, 128), 3e6, corpus_id="d" * 64)),
    }
    if begun:
        finish(study / "runs", config((2, 32), 3e5), 2.0)
    else:
        (study / "runs").mkdir()
    write_plan(study, [planned(RUNS[0]), *others.values()])
    made = seal(study)
    assert [run.run_id for run in made.runs] == [RUNS[0].run_id]
    assert (made.flags, made.notes) == ((), ())
    reasons = {run.run_id: run.reason for run in made.left_out}
    for words, run in others.items():
        assert words in reasons[run.run_id]


@pytest.mark.parametrize("begun", [False, True])
def test_a_law_of_another_corpus_seals_nothing(law: LawFit, study: Path, begun: bool) -> None:
    """Complete runs of the plan's own do not make another study's law theirs."""
    law.model_copy(update={"corpus_id": "uniref"}).write(study / "fit-clm.json")
    if begun:
        finish(study / "runs", config((2, 32), 3e5), 2.0)
    with pytest.raises(RefusedError, match="no run of this plan can be sealed") as raised:
        seal(study)
    assert "the law's runs were trained on another corpus (uniref, not cccccccccccc)" in raised.value.why
    assert not seals_path(study / "plan.json").exists()


def test_what_a_fit_does_not_say_is_said_in_the_seal(law: LawFit, study: Path) -> None:
    silent(law).write(study / "fit-clm.json")
    other = config((3, 128), 3e6, dropout=0.1)
    elsewhere = config((3, 128), 3e6, corpus_id="d" * 64)
    write_plan(study, [planned(one) for one in (RUNS[0], other, elsewhere)])
    nothing = seal(study)
    assert len(nothing.runs) == 3
    assert nothing.flags == ("CORPUS_UNKNOWN", "RECIPE_UNKNOWN", "VALIDATION_UNKNOWN")
    assert [note.partition(":")[0] for note in nothing.notes] == list(nothing.flags)
    assert all("nothing was there to hold the planned runs against" in note for note in nothing.notes[:2])
    assert "val_iid of their own corpus" in nothing.notes[2]
    finish(study / "runs", config((2, 32), 3e5), 2.0)
    held = seal(study)
    assert [run.run_id for run in held.runs] == [RUNS[0].run_id]
    assert held.flags == nothing.flags
    assert all("against the complete runs of their own folder" in note for note in held.notes[:2])
    reasons = {run.run_id: run.reason for run in held.left_out}
    assert "no complete run of its folder was trained by its recipe" in reasons[other.run_id]
    assert "no complete run of its folder was trained on its corpus" in reasons[elsewhere.run_id]


def test_seals_and_fits_of_an_earlier_release_are_read(law: LawFit, study: Path) -> None:
    """Neither the fields of a fit nor those of a seal move the hashes of what was written without them."""
    fit = json.loads((study / "fit-clm.json").read_text())
    del fit["corpus_id"], fit["recipe"]
    (study / "fit-clm.json").write_text(json.dumps(fit))
    old = LawFit.read(study / "fit-clm.json")
    assert (old.corpus_id, old.recipe) == (None, None)
    assert old.content_hash() == law.content_hash()
    assert law_sha256(old) == law_sha256(law)
    assert seal(study).flags == ("CORPUS_UNKNOWN", "RECIPE_UNKNOWN")
    path = seals_path(study / "plan.json")
    path.unlink()
    law.write(study / "fit-clm.json")
    made = seal(study)
    stored = json.loads(path.read_text())
    del stored["seals"][0]["flags"], stored["seals"][0]["notes"]
    path.write_text(json.dumps(stored))
    assert read_seals(path).seals == (made,)


def test_a_seal_needs_no_installed_package(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    monkeypatch.setattr(sealing, "version", missing, raising=False)
    assert seal(study).version == plm_scaling.__version__


def test_only_what_began_after_the_seal_counts(study: Path) -> None:
    made = seal(study)
    early, other, bare, good = RUNS
    finish(study / "runs", early, 2.0, begun=time.time() - 600)
    finish(study / "runs", other, 2.0, validation="w")
    finish(study / "runs", bare, 2.0)
    (study / "runs" / bare.run_id / "attempts" / "0001" / "status.json").unlink()
    (score,) = api.predict_score(study / "plan.json")
    assert score.seal == made
    assert not score.scored
    assert [run.run_id for run in score.waiting] == [good.run_id]
    reasons = {run.run_id: run.reason for run in score.not_counted}
    assert "before the seal" in reasons[early.run_id]
    assert "not scored on the sequences" in reasons[other.run_id]
    assert "no attempt says" in reasons[bare.run_id]
    assert np.isnan(score.mean_error)
    assert score.coverage(0.9).interval == (0.0, 1.0)
    finish(study / "runs", good, 1.1 * made.runs[3].loss)
    (score,) = api.predict_score(study / "plan.json", runs=study / "runs")
    (run,) = score.scored
    assert run.error == pytest.approx(1 / 1.1 - 1)
    assert score.mean_absolute_error == pytest.approx(1 - 1 / 1.1)
    assert not any(run.is_inside(level) for level in LEVELS)
    cover = score.coverage(0.9)
    assert (cover.inside, cover.of, cover.share) == (0, 1, 0.0)
    assert cover.interval == pytest.approx((0.0, 0.975))
    low, high = score.mean_error_expected
    assert score.mean_error < low < 0 < high


@pytest.mark.slow
def test_sealed_intervals_hold_what_they_promise(tmp_path: Path) -> None:
    """Eight laws of 25 noisy runs, each sealing 12 larger ones with noise of their own."""
    wanted = [config(shape, D, seed) for shape, D in LARGE for seed in range(3)]
    inside: dict[float, list[bool]] = {level: [] for level in LEVELS}
    expected = []
    for k in range(8):
        study, noise = tmp_path / str(k), np.random.default_rng(100 + k)
        study.mkdir()
        fitted_law(k, draws=60).write(study / "fit-clm.json")
        write_plan(study, [planned(one) for one in wanted])
        made = seal(study)
        widths = [np.log(run.interval_90[1] / run.interval_90[0]) / 2 for run in made.runs]
        assert min(widths) > 1.6 * 0.6 * SD, "the noise of a single run is in the interval"
        for one in wanted:
            finish(study / "runs", one, measured_loss(one, noise))
        (score,) = api.predict_score(study / "plan.json")
        assert len(score.scored) == len(wanted)
        low, high = score.mean_error_expected
        expected.append(low <= score.mean_error <= high)
        for level in LEVELS:
            inside[level] += [run.is_inside(level) for run in score.scored]
    assert 0.35 < np.mean(inside[0.5]) < 0.68
    assert 0.82 < np.mean(inside[0.9]) < 0.985
    assert np.mean(inside[0.95]) > 0.87
    assert sum(expected) >= 5
