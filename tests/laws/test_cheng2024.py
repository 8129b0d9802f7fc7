"""A release in small: the published layout and names, every defect planted once, found by rule and told apart."""

from __future__ import annotations

import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.errors import RecordError
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.cheng2024 import UR50_EPOCH, read_cheng2024
from plm_scaling.laws.cheng_cleaning import CleanRun, clean_run
from plm_scaling.laws.cheng_logs import Log, RunLogs
from plm_scaling.laws.cheng_names import SIZES, NamedLog, parse_log_name
from plm_scaling.laws.imported import FINDINGS, Imported, finding_rows
from plm_scaling.laws.noise import law_runs

FLOPS = "tag-lm-loss-validation_valid_lm loss validation vs gigaflos (without embeddings)"
TOKENS = "tag-lm-loss-validation_valid_lm loss validation vs tokens"
PPL = "tag-lm-loss-validation_valid_lm loss validation ppl vs tokens"
TRAIN = "tag-lm-loss-training_lm loss vs tokens"


class Release:
    """Writes logs as the authors' exporter did."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = 1.7e9

    def write(
        self,
        path: str,
        *,
        N: float,
        D: float,
        batch: int = 512,
        axis: str = "gigaflops",
        level: float = 2.4,
        fall: float = 0.4,
        value: Callable[[np.ndarray], np.ndarray] = lambda loss: loss,
        clock: float | None = None,
        cap: int | None = None,
        stray: float | None = None,
        ended: bool = True,
    ) -> float:
        """Losses of a run of N and D, an evaluation every 300 steps and one at its end; returns the clock it began."""
        every = 300 * batch * 1024
        D = round(D / batch / 1024) * batch * 1024.0
        tokens = np.arange(1, int(D // every) + 1) * float(every)
        if ended:
            tokens = np.append(tokens, D)
        share = tokens / D
        loss = level + fall * (1 - share) ** 2
        per_token = {"gigaflops": 6e-9 * N, "tokens": 1.0, "samples": 1 / 1024, "steps": 1 / 524288}[axis]
        x = np.round(tokens * per_token).astype(np.int64)
        if cap is not None and len(x) > cap:
            keep = np.sort(np.random.default_rng(0).choice(len(x) - 1, cap - 1, replace=False))
            keep = np.append(keep, len(x) - 1)
            x, loss = x[keep], loss[keep]
        if stray is not None:
            x, loss = np.append(np.int64(x[0] * stray), x), np.append(loss[0], loss)
        begun = self.clock if clock is None else clock
        self.clock += 1e6
        lines = [f"{begun + 300 * i},{a},{v}" for i, (a, v) in enumerate(zip(x, value(loss), strict=True))]
        self.text(path, "Wall time,Step,Value\n" + "\n".join(lines) + "\n")
        return begun

    def text(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def copy(self, old: str, new: str) -> None:
        self.text(new, (self.root / old).read_text())


def sweep(objective: str, folder: str, name: str) -> str:
    return f"{objective}_valid/approach3_flops/{folder}_flops/run-{name}-{FLOPS}.csv"


N34, N47, N85, N154, N170 = (float(SIZES[size]) for size in ("34M", "47M", "85M", "154M", "170M"))


def write_release(root: Path) -> None:
    release = Release(root)
    # sound runs; a nickname, another batch, the same run in a transfer folder and over tokens
    clean = sweep("mlm", "34M", "mlm_25M_1024l_1e19flops_all0.25ep")
    begun = release.write(clean, N=N34, D=4.95e10)
    release.copy(clean, f"transfer_valid/mlm/scratch/{Path(clean).name}")
    release.write("transfer_valid/mlm/tokens/25M_1e19.csv", N=N34, D=4.95e10, axis="tokens", clock=begun)
    target = f"transfer_valid/mlm/ft/run-mlm1e19_transfer_from_gpt1e18_25M.sh-{FLOPS}.csv"
    release.write(target, N=N34, D=4.95e10, level=2.38, fall=0.2)
    release.write(sweep("gpt", "47M", "gpt_47M_1024l_1e18flops_bsz250k_all0.02ep"), N=N47, D=3.49e9, batch=256)
    release.write(sweep("gpt", "85M", "gpt_85M_bsz0.5M_lr5.5_1024_noreg_all0.25ep_bf16"), N=N85, D=5e10)
    # defects of a run
    release.write(sweep("mlm", "85M", "mlm_85M_1024l_3e18flops_all0.03ep"), N=N34, D=5.88e9)  # wrong axis
    release.write(sweep("gpt", "85M", "gpt_85M_bsz0.5M_lr5.5_1024_noreg_all0.5ep_bf16"), N=N154, D=1e11)  # mislabelled
    release.write(sweep("gpt", "154M", "gpt_154M_1024l_1e19flops_all0.05ep"), N=N154, D=7e9, ended=False)  # truncated
    release.write(sweep("gpt", "170M", "gpt_170M_1024l_1e19flops_all0.05ep"), N=N170, D=9.8e9, level=2.87, fall=0.01)
    release.write(sweep("mlm", "170M", "mlm_170M_1024l_3e19flops_all0.5ep"), N=N170, D=2.94e10)  # label off
    release.write(sweep("mlm", "154M", "mlm_154M_1024l_3e19flops_all0.17ep"), N=N154, D=3.4e10)  # budget off
    release.write(sweep("mlm", "154M", "mlm_154M_1024l_6e18flops_all0.03ep"), N=N154, D=6.5e9, stray=0.37)
    release.write(sweep("gpt", "34M", "gpt_25M_1024l_3e19flops_all0.75ep"), N=N34, D=1.48e11, cap=300)
    # repeats, mask ratios, training loss
    for name in ("mlm_154M_ur50", "mlm_154M_ur50_2"):
        release.write(f"ur50_all1ep_valid_loss/ur50_mlm_150M/run-{name}-{PPL}.csv", N=N154, D=6e10, axis="tokens",
                      value=np.exp)  # fmt: skip
    release.write(f"ur50_all1ep_training_loss/ur50_mlm_150M/run-mlm_154M_ur50-{TRAIN}.csv", N=N154, D=6e10,
                  axis="tokens")  # fmt: skip
    release.write("mask_ratio_data/85M/mask_0.30.csv", N=N85, D=3e10, axis="steps")
    # rubbish
    release.text("gpt_valid/notes.csv", "a,b\n1,2\n")
    release.text(sweep("gpt", "85M", "gpt_85M_1024l_6e18flops_all0.06ep"), "Wall time,Step,Value\n1,80280509,nan\n")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("release")
    write_release(root)
    return root


@pytest.fixture(scope="module")
def imported(root: Path) -> Imported:
    return read_cheng2024(root)


@pytest.fixture(scope="module")
def rows(imported: Imported) -> dict[str, RunRow]:
    return {row.run_id: row for row in imported.table}


def test_every_defect_is_found_and_nothing_else(imported: Imported) -> None:
    assert Counter(finding.kind for finding in imported.findings) == {
        "DUPLICATE": 1,
        "OTHER_AXIS": 1,
        "WRONG_AXIS_N": 1,
        "MISLABELLED": 1,
        "TRUNCATED_SCHEDULE": 1,
        "STUCK": 1,
        "LABEL_OFF": 1,
        "BUDGET_OFF": 1,
        "STRAY_POINTS": 1,
        "TRAINING_LOSS": 1,
        "CAPPED": 1,
        "NICKNAME": 1,
        "UNREADABLE": 1,
        "NOT_FINITE": 1,
    }
    assert imported.counts == {
        "files": 20,
        "distinct files": 19,
        "validation logs": 16,
        "runs": 15,
        "clm runs": 6,
        "mlm runs": 9,
    }


def test_findings_are_told_with_meaning_and_treatment(imported: Imported) -> None:
    rows = finding_rows(imported.findings)
    assert [row["finding"] for row in rows] == [kind for kind in FINDINGS if imported.of_kind(kind)]
    assert all(row["what it means"] and row["what was done"] for row in rows)
    assert imported.of_kind("MISLABELLED")[0].run_ids == ("clm-154M-0.5ep",)
    assert imported.of_kind("DUPLICATE")[0].files[1].startswith("transfer_valid/")


def test_a_run_filed_twice_is_one_row_with_both_roles(rows: dict[str, RunRow]) -> None:
    row = rows["mlm-34M-1e19"]
    assert row.role == "isoflop,transfer_scratch"
    assert SIZES["34M"] == row.N
    assert round(4.95e10 / 524288) * 524288 == row.D
    assert row.C_6nd == pytest.approx(6 * row.N * row.D)
    assert row.batch_tokens == 512 * 1024
    assert row.mask_ratio == 0.15
    assert row.schedule_complete
    assert not row.excluded


def test_the_spacing_tells_the_batch(rows: dict[str, RunRow]) -> None:
    assert rows["clm-47M-1e18"].batch_tokens == 256 * 1024
    assert SIZES["47M"] == rows["clm-47M-1e18"].N
    assert rows["clm-85M-0.25ep"].peak_lr == pytest.approx(5.5e-4)
    assert rows["clm-85M-0.25ep"].role == "grid"


def test_a_transfer_knows_its_source(rows: dict[str, RunRow]) -> None:
    row = rows["mlm-34M-1e19-from-clm-1e18"]
    assert row.role == "transfer_target"
    assert (row.source_objective, row.N_source, row.C_source) == ("clm", SIZES["34M"], 1e18)
    assert row.D_source == pytest.approx(1e18 / 6 / SIZES["34M"])
    assert row.source_run_id is not None


@pytest.mark.parametrize(
    ("name", "N", "D", "flag", "usable"),
    [
        ("mlm-85M-3e18", N85, 5.88e9, "WRONG_AXIS_N", True),
        ("clm-154M-0.5ep", N154, 1e11, "MISLABELLED", False),
        ("clm-154M-1e19", N154, 44 * 300 * 512 * 1024, "TRUNCATED_SCHEDULE", False),
        ("clm-170M-1e19", N170, 9.8e9, "STUCK", False),
        ("mlm-170M-3e19", N170, 2.94e10, "LABEL_OFF", True),
        ("mlm-154M-3e19", N154, 3.4e10, "BUDGET_OFF", True),
        ("mlm-154M-6e18", N154, 6.5e9, "", True),
        ("clm-34M-3e19", N34, 1.48e11, "", True),
    ],
)
def test_a_defective_run_keeps_its_true_numbers(
    imported: Imported, rows: dict[str, RunRow], name: str, N: float, D: float, flag: str, usable: bool
) -> None:
    row = rows[name]
    assert row.N == N
    assert pytest.approx(D, rel=1e-4) == row.D
    assert row.flags == flag
    assert (name in {r.run_id for r in law_runs(imported.table, row.objective)}) is usable


def test_repeats_and_mask_ratios_are_their_own(rows: dict[str, RunRow]) -> None:
    repeat = rows["mlm-154M-ur50"]
    assert repeat.loss == pytest.approx(2.4, abs=1e-3)
    assert repeat.role == "repeats"
    assert repeat.D_unique == UR50_EPOCH
    assert repeat.epochs == pytest.approx(6e10 / 15.4e9, rel=1e-4)
    assert repeat.seed != rows["mlm-154M-ur50-2"].seed
    mask = rows["mlm-85M-mask0.3"]
    assert (mask.role, mask.mask_ratio, mask.N) == ("mask_ratio", 0.3, N85)
    assert pytest.approx(3e10, rel=1e-4) == mask.D
    sets = {rows[name].validation_id for name in ("mlm-154M-ur50", "mlm-85M-mask0.3", "mlm-34M-1e19")}
    assert len(sets) == 3


def test_curves_follow_the_evaluations(imported: Imported, rows: dict[str, RunRow]) -> None:
    curve = imported.curves.of("mlm-154M-6e18")
    assert curve is not None
    assert len(curve) == 42  # the stray point is gone
    np.testing.assert_array_equal(curve.step[:-1], 300 * np.arange(1, 42))
    assert curve.D[-1] == rows["mlm-154M-6e18"].D
    # The evaluation that ends the run draws the next batches of the order.
    assert curve.validation_batch_id[-1].endswith("00042")
    capped = imported.curves.of("clm-34M-3e19")
    assert capped is not None
    assert len(capped) == 300


def test_a_table_round_trips(imported: Imported, tmp_path: Path) -> None:
    path = imported.table.write(tmp_path / "runs.csv")
    assert RunTable.read(path) == imported.table


def test_an_archive_is_read_as_it_is(root: Path, imported: Imported, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "logs.zip", "w") as archive:
        for file in root.rglob("*.csv"):
            archive.write(file, f"release-main/data/{file.relative_to(root)}")
    with tarfile.open(tmp_path / "logs.tar.gz", "w:gz") as tar:
        tar.add(root, "release-main/data")
    for name in ("logs.zip", "logs.tar.gz"):
        assert read_cheng2024(tmp_path / name).table.content_hash() == imported.table.content_hash()


def test_any_level_of_the_release_will_do(root: Path, rows: dict[str, RunRow]) -> None:
    part = read_cheng2024(root / "mlm_valid" / "approach3_flops" / "85M_flops").table
    assert [(row.run_id, row.N) for row in part] == [("mlm-85M-3e18", rows["mlm-85M-3e18"].N)]


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda p: p.mkdir(), "no CSV files"),
        (lambda p: (p.mkdir(), (p / "x.csv").write_text("a,b\n1,2\n")), "none of these files"),
        (lambda p: None, "no logs here"),
        (lambda p: p.write_text("x"), "not a folder or an archive"),
    ],
)
def test_what_is_no_release_is_an_error(tmp_path: Path, make: Callable[[Path], object], complaint: str) -> None:
    make(tmp_path / "logs")
    with pytest.raises(RecordError, match=complaint) as caught:
        read_cheng2024(tmp_path / "logs")
    assert caught.value.where == str(tmp_path / "logs")


def test_a_damaged_archive_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "logs.zip").write_bytes(b"PK but not really")
    with pytest.raises(RecordError, match="not a readable archive"):
        read_cheng2024(tmp_path / "logs.zip")


def test_exports_that_disagree_on_tokens_are_named(tmp_path: Path) -> None:
    release = Release(tmp_path)
    name = sweep("mlm", "34M", "mlm_34M_1024l_1e19flops_all0.25ep")
    begun = release.write(name, N=N34, D=4.95e10)
    text = (tmp_path / name).read_text().splitlines()
    tokens = [line.split(",") for line in text[1:]]
    scale = 157286400 / float(tokens[0][1])
    lines = [f"{begun + 300 * i},{float(x) * scale * 1.001:.0f},{v}" for i, (_, x, v) in enumerate(tokens)]
    release.text("transfer_valid/mlm/tokens/34M_1e19.csv", "\n".join([text[0], *lines]))
    assert [f.kind for f in read_cheng2024(tmp_path).findings] == ["OTHER_AXIS", "D_DISAGREES"]


def test_a_size_nobody_published_is_kept_and_left_out(tmp_path: Path) -> None:
    Release(tmp_path).write(sweep("mlm", "85M", "mlm_85M_1024l_1e19flops_all0.1ep"), N=5.7e7, D=2e10)
    imported = read_cheng2024(tmp_path)
    (row,) = imported.table
    assert row.excluded
    assert "UNKNOWN_SIZE" in row.flags
    assert pytest.approx(5.7e7, rel=1e-6) == row.N
    assert not len(law_runs(imported.table, "mlm"))


# ---- names and axes ------------------------------------------------------------------------------------------------


def test_names_that_say_nothing_are_no_logs() -> None:
    assert parse_log_name("misc/run-something-tag-loss.csv") is None
    assert parse_log_name("gpt_valid/run-gpt_34M_1024l-tag-loss vs epochs.csv") is None


@settings(deadline=None, max_examples=60)
@given(
    size=st.sampled_from(sorted(SIZES)),
    batch=st.sampled_from([256, 512, 1024]),
    steps=st.integers(1200, 400_000),
    # The axis counts norms and biases that the table of sizes leaves out.
    extra=st.floats(-0.004, 0.004),
)
def test_size_batch_and_tokens_come_back_from_the_axis(size: str, batch: int, steps: int, extra: float) -> None:
    N = SIZES[size] * (1 + extra)
    at = np.append(np.arange(300, steps, 300), steps)[-900:]
    axis = np.round(6e-9 * N * at * batch * 1024)
    name = NamedLog(path="x", name="x", objective="clm", axis="gigaflops", folder_size=size, batch_sequences=batch)
    log = Log((name,), 300.0 * at, axis, 2.4 + 0.4 * np.exp(-at / steps))
    run = clean_run(RunLogs((log,)))
    assert isinstance(run, CleanRun)
    assert (run.N, run.batch_sequences) == (SIZES[size], batch)
    np.testing.assert_array_equal(run.step, at)
    assert run.D[-1] == steps * batch * 1024
