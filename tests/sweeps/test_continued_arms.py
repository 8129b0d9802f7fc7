"""Arms that begin with trained weights: continued pre-training and students of a teacher."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import ConfigError, PlanError
from plm_scaling.core.run import Stream
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.weight_identity import weights_id
from plm_scaling.corpus.reader import Corpus
from plm_scaling.sweeps.decisions import decide_all, needed_runs
from plm_scaling.sweeps.plan import plan_sweep, read_spec
from plm_scaling.sweeps.plan_records import ContinuedArm, DistilArm, GridArm, PlannedRun, SweepPlan, SweepSpec

VALUES: dict[str, object] = {"name": "t", "corpus": "c", "context": 64, "validation_tokens": 1000}
GRID = GridArm(sizes=("1x16",), D=(20_000,), objectives=("mlm",))
TINY = ModelShape(architecture="esm2", n_layers=2, d_model=32, n_heads=4)


def plan(corpus: Corpus, **update: object) -> SweepPlan:
    return plan_sweep(SweepSpec.model_validate(VALUES | update), corpus, memory_bytes=1e12)


def continued(corpus: Corpus, start: Path | str, *, spec: dict[str, object] | None = None, **arm: object) -> SweepPlan:
    values = {"from": str(start), "objective": "mlm"} | ({} if "subset_tokens" in arm else {"D": 30_000}) | arm
    return plan(corpus, continued=(ContinuedArm.model_validate(values),), **(spec or {}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as `transformers` writes it, its weights never read by a plan."""
    path = tmp_path / "esm"
    path.mkdir()
    config = {"model_type": "esm", "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4}
    (path / "config.json").write_text(json.dumps(config | {"intermediate_size": 128}))
    (path / "model.safetensors").write_bytes(b"weights")
    return path


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkpoint that does not say its size without being loaded."""
    path = tmp_path / "esm2.pt"
    path.write_bytes(b"weights")
    return path


def only(made: SweepPlan) -> PlannedRun:
    [run] = made.runs
    return run


def test_foreign_weights_enter_by_hash_with_their_shape_and_their_path_stays_outside(
    corpus: Corpus, folder: Path, tmp_path: Path
) -> None:
    run = only(continued(corpus, folder, rewarm=0.5))
    config = run.config
    assert config.shape == TINY
    assert config.init_from == weights_id(folder)
    assert run.init_path == str(folder)
    assert run.roles == ("continued",)
    assert (config.objective, config.D, config.warmup_fraction) == ("mlm", 30_000, 0.05)
    scratch = only(plan(corpus, architecture="esm2", grid=(GridArm(sizes=("2x32x4",), D=(3e4,), objectives=("mlm",)),)))
    assert config.peak_lr == pytest.approx(0.5 * scratch.config.peak_lr, rel=1e-5)
    moved = folder.rename(tmp_path / "elsewhere")
    assert only(continued(corpus, moved, rewarm=0.5)).run_id == run.run_id


def test_weights_that_do_not_say_their_size_need_it_from_the_arm(corpus: Corpus, bare: Path) -> None:
    with pytest.raises(PlanError, match="is not known before training") as caught:
        continued(corpus, bare)
    assert caught.value.where == "continued[0]"
    assert only(continued(corpus, bare, size="2x32x4", spec={"architecture": "esm2"})).config.shape == TINY
    named = only(continued(corpus, bare, size="esm2-8m"))
    assert (named.config.architecture, named.config.d_model, named.config.n_heads) == ("esm2", 320, 20)


def test_a_size_that_contradicts_the_weights_is_refused(corpus: Corpus, folder: Path) -> None:
    with pytest.raises(PlanError, match=r"of size esm2 2x32x4, the arm says 2x64"):
        continued(corpus, folder, size="2x64")


def test_weights_that_are_not_there_are_named_with_their_arm(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(PlanError) as caught:
        continued(corpus, tmp_path / "none.pt")
    assert caught.value.where == "continued[0].from"


def test_a_run_of_the_plan_brings_its_shape_and_comes_first(corpus: Corpus) -> None:
    source = only(plan(corpus, grid=(GRID,)))
    first, second = continued(corpus, source.run_id, spec={"grid": (GRID,)}).runs
    assert (first.run_id, second.config.init_from) == (source.run_id, source.run_id)
    assert second.config.shape == source.config.shape
    assert second.init_path is None
    # A run of another plan in the same folder: its size is not known here.
    with pytest.raises(PlanError, match="not known"):
        continued(corpus, "0123456789ab")
    assert only(continued(corpus, "0123456789ab", size="1x16")).config.init_from == "0123456789ab"


def test_lora_is_a_choice_of_the_arm(corpus: Corpus, folder: Path) -> None:
    full, lora = (only(continued(corpus, folder, method=method, lora_rank=4)).config for method in ("full", "lora"))
    assert (full.lora_rank, lora.lora_rank) == (None, 4)
    assert full.model_copy(update={"lora_rank": 4}) == lora


def test_a_subset_in_several_epochs(corpus: Corpus, folder: Path) -> None:
    run = only(continued(corpus, folder, remedy="subset_epochs", subset_tokens=5_000, epochs=8))
    assert run.config.D == 40_000
    assert run.config.streams == (Stream(unique_tokens=5_000),)
    assert run.epochs == pytest.approx(8, rel=0.03)
    assert "DATA_EXHAUSTED" not in run.notes


def test_the_best_part_first_then_all(corpus: Corpus, folder: Path) -> None:
    made = continued(corpus, folder, remedy="quality_first", quality_exclude=["fragment"], quality_share=0.3)
    first, second = made.runs
    assert (first.roles, second.roles) == (("continued_first",), ("continued",))
    assert (first.config.D, second.config.D) == (9_000, 21_000)
    assert (first.config.streams, second.config.streams) == ((Stream(exclude=("fragment",)),), (Stream(),))
    assert (first.config.init_from, first.init_path) == (weights_id(folder), str(folder))
    assert (second.config.init_from, second.init_path) == (first.run_id, None)


def test_replay_takes_a_share_of_the_windows(corpus: Corpus, folder: Path) -> None:
    run = only(continued(corpus, folder, remedy="replay", replay_source="meta", replay_share=0.2))
    assert run.config.streams == (Stream(sources=("known",), weight=0.8), Stream(sources=("meta",), weight=0.2))
    # The spec may name only the new source; the one that is replayed need not be among them.
    named = continued(
        corpus, folder, remedy="replay", replay_source="meta", replay_share=0.2, spec={"sources": ("known",)}
    )
    assert only(named).config.streams == run.config.streams
    with pytest.raises(PlanError, match="only source"):
        continued(corpus, folder, remedy="replay", replay_source="meta", spec={"sources": ("meta",)})
    with pytest.raises(PlanError, match="no source 'metta'"):
        continued(corpus, folder, remedy="replay", replay_source="metta")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "D is needed"),
        ('D = 1e4\nremedy = "replay"', "replay needs replay_source"),
        ('D = 1e4\nremedy = "quality_first"', "quality_first needs quality_exclude"),
        ('remedy = "subset_epochs"\nsubset_tokens = 5e3', "subset_epochs needs epochs"),
        ('D = 1e4\nremedy = "subset_epochs"\nsubset_tokens = 5e3\nepochs = 2', "D is needed, but with"),
        ("D = 1e4\nepochs = 3", "epochs belongs to the remedy subset_epochs"),
        ('D = 1e4\nremedy = "prayer"', "remedy"),
        ('D = 1e4\nmethod = "half"', "method"),
    ],
)
def test_a_remedy_is_asked_for_with_all_it_needs(tmp_path: Path, lines: str, message: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(f'name = "s"\ncorpus = "c"\n[[continued]]\nfrom = "w.pt"\nobjective = "mlm"\n{lines}\n')
    with pytest.raises(ConfigError, match=message):
        read_spec(path)


def test_paths_are_relative_to_the_spec_and_run_ids_are_no_paths(tmp_path: Path) -> None:
    path = tmp_path / "specs" / "s.toml"
    path.parent.mkdir()
    arms = '[[continued]]\nfrom = "{}"\nobjective = "mlm"\nD = 1e4\n[[distil]]\nteacher = "{}"\nobjective = "mlm"\n'
    path.write_text('name = "s"\ncorpus = "c"\n' + arms.format("../w.pt", "0123456789ab") + 'sizes = ["1x16"]\nD = 1e4')
    spec = read_spec(path)
    assert spec.continued[0].init_from == str(tmp_path / "w.pt")
    assert spec.distil[0].teacher == "0123456789ab"


# ---- students --------------------------------------------------------------------------------------------------------


def test_students_are_compared_with_themselves_without_a_teacher(corpus: Corpus, folder: Path) -> None:
    arm = DistilArm(
        sizes=("1x16", "1x24"), teacher=str(folder), objective="mlm", D=20_000, shares=(0.3, 1.0), temperature=2.0
    )
    made = plan(corpus, distil=(arm,))
    seen = {(run.config.d_model, run.config.teacher and run.config.teacher_share): run for run in made.runs}
    assert set(seen) == {(d, share) for d in (16, 24) for share in (None, 0.3, 1.0)}
    for (_, share), run in seen.items():
        taught = share is not None
        assert run.config.teacher == (weights_id(folder) if taught else None)
        assert run.teacher_path == (str(folder) if taught else None)
        assert run.config.teacher_temperature == (2.0 if taught else 1.0)
        assert run.roles == ("distil",)


def test_what_a_teacher_costs_is_counted_where_its_size_is_known(corpus: Corpus) -> None:
    teacher = only(plan(corpus, grid=(GRID,)))
    arm = DistilArm(sizes=("1x8",), teacher=teacher.run_id, objective="mlm", D=20_000, shares=(0.5,))
    made = plan(corpus, grid=(GRID,), distil=(arm,))
    [taught] = [run for run in made.runs if run.config.teacher]
    assert taught.C_teacher == pytest.approx(taught.config.D * teacher.C_exact / teacher.config.D / 3)
    assert {run.C_teacher for run in made.runs} == {None, taught.C_teacher}
    assert made.total_C_teacher == taught.C_teacher
    assert made.total_C_exact == sum(run.C_exact for run in made.runs)
    assert not any(run.has_unknown_teacher for run in made.runs)
    elsewhere = plan(corpus, distil=(arm.model_copy(update={"teacher": "0123456789ab"}),))
    assert elsewhere.total_C_teacher == 0.0
    assert [run.config.teacher for run in elsewhere.runs if run.has_unknown_teacher] == ["0123456789ab"]


def test_a_teacher_of_the_plan_is_trained_first(corpus: Corpus) -> None:
    teacher = only(plan(corpus, grid=(GRID,)))
    arm = DistilArm(sizes=("1x8",), teacher=teacher.run_id, objective="mlm", D=20_000)
    made = plan(corpus, grid=(GRID,), distil=(arm,))
    [student] = [run for run in made.runs if run.config.teacher]
    order = [run.run_id for run in made.runs]
    assert order.index(teacher.run_id) < order.index(student.run_id)
    assert needed_runs(student.config) == (teacher.run_id,)
    with pytest.raises(PlanError, match="was trained for mlm"):
        plan(corpus, grid=(GRID,), distil=(arm.model_copy(update={"objective": "clm"}),))


def test_a_teacher_with_another_vocabulary_is_refused(corpus: Corpus, folder: Path) -> None:
    arm = DistilArm(sizes=("progen2-small",), teacher=str(folder), objective="clm", D=20_000)
    with pytest.raises(PlanError, match="cannot teach progen2-small"):
        plan(corpus, distil=(arm,))


def test_what_needs_a_run_that_is_missing_is_skipped_and_foreign_weights_are_no_run(
    corpus: Corpus, folder: Path, tmp_path: Path
) -> None:
    arm = DistilArm(sizes=("1x8",), teacher="0123456789ab", objective="mlm", D=20_000)
    made = plan(
        corpus,
        distil=(arm,),
        continued=(ContinuedArm.model_validate({"from": str(folder), "objective": "mlm", "D": 1e4}),),
    )
    folders = {run.run_id: RunFolder(tmp_path / "runs" / run.run_id) for run in made.runs}
    decisions = decide_all(made.runs, folders, retry_failed=False, max_attempts=3)
    states = {(run.roles[0], run.config.teacher is not None): decisions[run.run_id].state for run in made.runs}
    assert states == {("distil", False): "planned", ("distil", True): "skipped", ("continued", False): "planned"}
