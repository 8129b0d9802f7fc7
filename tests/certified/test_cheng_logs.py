"""Public logs of Cheng et al. 2024: what is in them, how exact N and D are, how much noise goes, which gaps stay."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from plm_scaling.core.run_table import RunRow
from plm_scaling.laws.cheng2024 import read_cheng2024
from plm_scaling.laws.cheng_cleaning import CleanRun, clean_run
from plm_scaling.laws.cheng_logs import gather_runs, read_files
from plm_scaling.laws.cheng_names import SIZES
from plm_scaling.laws.denoise import Denoised, denoise
from plm_scaling.laws.imported import Imported
from plm_scaling.laws.noise import law_runs

ALL_BATCHES = 512 * 1024


@pytest.fixture(scope="module")
def folder() -> Path:
    root = os.environ.get("PLM_SCALING_TEST_DATA", "")
    path = Path(root) / "cheng2024_logs"
    if not root or not path.is_dir():
        pytest.skip("set PLM_SCALING_TEST_DATA to the folder that holds cheng2024_logs/")
    return path


@pytest.fixture(scope="module")
def logs(folder: Path) -> Imported:
    return read_cheng2024(folder)


@pytest.fixture(scope="module")
def denoised(logs: Imported) -> Denoised:
    return denoise(logs.table, logs.curves)


@pytest.fixture(scope="module")
def rows(denoised: Denoised) -> dict[str, RunRow]:
    return {row.run_id: row for row in denoised.table}


def test_every_file_is_accounted_for(logs: Imported) -> None:
    assert logs.counts == {
        "files": 202,
        "distinct files": 190,
        "validation logs": 185,
        "runs": 173,
        "clm runs": 94,
        "mlm runs": 79,
    }


def test_every_kind_of_defect_is_found(logs: Imported) -> None:
    counts = Counter(finding.kind for finding in logs.findings)
    assert counts == {
        "DUPLICATE": 12,
        "OTHER_AXIS": 12,
        "WRONG_AXIS_N": 1,
        "MISLABELLED": 2,
        "TRUNCATED_SCHEDULE": 4,
        "STUCK": 1,
        "LABEL_OFF": 1,
        "BUDGET_OFF": 2,
        "TRAINING_LOSS": 5,
        "STRAY_POINTS": 1,
        "CAPPED": 13,
        "NICKNAME": 9,
    }


def test_tokens_agree_with_the_exports_that_count_them(folder: Path) -> None:
    found, _, _ = gather_runs(read_files(folder))
    compared = 0
    for logs in found:
        run = clean_run(logs)
        assert isinstance(run, CleanRun)
        for log in logs.logs[1:]:
            assert float(run.D[-1]) == pytest.approx(float(log.axis[-1]), rel=1e-6)
            compared += 1
    assert compared == 12


def test_every_size_is_a_published_one_and_every_budget_is_met(logs: Imported) -> None:
    assert {row.N for row in logs.table} <= set(map(float, SIZES.values()))
    for objective in ("clm", "mlm"):
        for row in law_runs(logs.table, objective):
            named = row.run_id.split("-")[2]
            if "e" in named and not named.endswith("ep"):
                assert row.C_6nd == pytest.approx(float(named), rel=0.1)


def test_what_may_enter_a_law(denoised: Denoised) -> None:
    usable = {objective: law_runs(denoised.table, objective) for objective in ("clm", "mlm")}
    assert {objective: len(runs) for objective, runs in usable.items()} == {"clm": 87, "mlm": 64}
    for runs in usable.values():
        assert len({row.validation_id for row in runs}) == 1
        assert runs.column("C_6nd").max() <= 3.3e20
        assert runs.column("loss").max() < 2.75
    assert {row.final_loss for row in denoised.table} == {"denoised", "end", "last5"}


def test_shared_noise_is_cut_more_than_three_and_a_half_times(denoised: Denoised) -> None:
    for objective in ("clm", "mlm"):
        group = next(
            g for g in denoised.report.of(objective, ALL_BATCHES) if g.validation_id == f"cheng2024-full-{objective}"
        )
        assert group.sd_before == pytest.approx(0.0064, abs=0.0006)
        assert group.ratio is not None
        assert group.ratio > 5.0
        assert group.loss_se is not None
        assert group.loss_se < 8.5e-4
        assert group.n_denoised / group.n_runs > 0.95
        assert group.correlation == pytest.approx(0.93, abs=0.03)


@pytest.mark.parametrize(
    ("target", "scratch", "gap"),
    [
        ("mlm-34M-1e19-from-clm-1e18", "mlm-34M-1e19", -0.0132),
        ("mlm-85M-3e19-from-clm-5.2e18", "mlm-85M-3e19", -0.0221),
        ("mlm-200M-1e20-from-clm-2.3e19", "mlm-200M-1e20", -0.0258),
        ("clm-230M-3e19-from-mlm-1.18e20", "clm-230M-3e19", -0.0127),
        ("clm-127M-1e19-from-mlm-5.5e19", "clm-127M-1e19", -0.043),
    ],
)
def test_gaps_of_transferred_runs(rows: dict[str, RunRow], target: str, scratch: str, gap: float) -> None:
    assert rows[target].loss - rows[scratch].loss == pytest.approx(gap, abs=1e-3)
    assert rows[target].D == rows[scratch].D
    assert rows[scratch].has_role("transfer_scratch")
    assert rows[target].source_run_id is not None


def test_mask_ratios(rows: dict[str, RunRow]) -> None:
    published = {
        0.05: 2.3057,
        0.1: 2.2824,
        0.15: 2.2851,
        0.2: 2.2982,
        0.25: 2.3182,
        0.3: 2.3329,
        0.4: 2.3746,
        0.6: 2.4756,
    }
    for ratio, loss in published.items():
        # Means of the last 5 %, under the noise that all eight share.
        assert rows[f"mlm-85M-mask{ratio:g}"].loss == pytest.approx(loss, abs=2.5e-3)


def test_repeated_data_is_read_from_perplexities_and_losses(rows: dict[str, RunRow]) -> None:
    assert rows["clm-154M-ur50"].loss == pytest.approx(2.419, abs=3e-3)
    assert sorted(rows[name].loss for name in ("mlm-154M-ur50", "mlm-154M-ur50-2")) == pytest.approx(
        [2.137, 2.144], abs=3e-3
    )
    assert rows["clm-154M-1ep"].loss == pytest.approx(2.377, abs=3e-3)
    for name in ("mlm-154M-1ep", "mlm-154M-1ep-2"):
        assert rows[name].loss == pytest.approx(2.1085, abs=3e-3)
    assert rows["mlm-154M-ur50"].epochs == pytest.approx(12.987, abs=1e-3)


def test_residual_noise_is_the_runs_own(denoised: Denoised, logs: Imported) -> None:
    """What is left of two runs' curves after subtraction has little in common; before, nearly everything has."""
    names = ["clm-393M-3e20", "clm-550M-3e20", "clm-85M-0.5ep", "clm-130M-0.5ep"]

    def left(curves: Imported | Denoised, name: str) -> dict[str, float]:
        curve = curves.curves.of(name)
        if curve is None:
            return {}
        from plm_scaling.laws.tails import smooth

        residual = curve.loss - smooth(curve.loss)
        return dict(zip(curve.validation_batch_id[100:].tolist(), residual[100:].tolist(), strict=True))

    def correlation(curves: Imported | Denoised, a: str, b: str) -> float:
        one, other = left(curves, a), left(curves, b)
        both = sorted(set(one) & set(other))
        return float(np.corrcoef([one[k] for k in both], [other[k] for k in both])[0, 1])

    pairs = [(a, b) for a in names for b in names if a < b and logs.curves.of(a) and logs.curves.of(b)]
    assert len(pairs) >= 3
    assert np.median([correlation(logs, a, b) for a, b in pairs]) > 0.9
    assert abs(np.median([correlation(denoised, a, b) for a, b in pairs])) < 0.5
