from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.combine import fit_laws
from plm_scaling.transfers.transfer_fit import TransferFit

Cli = Callable[..., Any]
N = 5.5e4


def scratch(N: float, D: float) -> float:
    return float(1.0 + 40 * N**-0.4 + 300 * D**-0.4)


def row(run_id: str, **values: Any) -> RunRow:
    base = {"objective": "mlm", "N": N, "D": 1.5e6, "validation_id": "v", "seed": 0}
    return RunRow.model_validate({"run_id": run_id} | base | values)


@pytest.fixture
def runs(tmp_path: Path) -> Callable[..., Path]:
    """A CSV of scratch runs and transferred runs worth `rate` tokens per source token."""

    def write(
        rate: float = 2.0, *, grid: bool = True, partner: bool = True, control: bool = False, again: bool = False
    ) -> Path:
        rows = [
            row(f"g{size:g}-{D:g}", role="grid", N=size, D=D, loss=scratch(size, D))
            for size in np.geomspace(1e4, 4e5, 4)
            for D in np.geomspace(5e5, 2e7, 4)
            if grid
        ]
        rows += [row("s", role="transfer_scratch", loss=scratch(N, 1.5e6))] if partner else []
        moved = {"role": "transfer_target", "source_objective": "clm", "D_source": 5e5, "C_source": 6 * N * 5e5}
        rows.append(row("t", loss=scratch(N, 1.5e6 + rate * 5e5), source_run_id="src", **moved))
        if control:
            loss = scratch(N, 1.6e6)
            rows.append(row("c", loss=loss, source_run_id="mixed", source_control="shuffled", **moved))
        if again:
            same = moved | {"role": "rewarmed", "source_objective": "mlm"}
            rows.append(row("again", loss=scratch(N, 1.6e6), source_run_id="own", **same))
        return RunTable(tuple(rows)).write(tmp_path / "runs.csv")

    return write


@pytest.fixture(scope="module")
def law(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted law as a fit.json."""
    rows = [
        row(f"g{size:g}-{D:g}", N=size, D=D, loss=scratch(size, D))
        for size in np.geomspace(1e4, 4e5, 4)
        for D in np.geomspace(5e5, 2e7, 4)
    ]
    fit = fit_laws(RunTable(tuple(rows)), "mlm", form="chinchilla", draws=50)
    return fit.write(tmp_path_factory.mktemp("laws") / "mlm.json")


def test_a_plain_table_gives_d_t_the_estimators_and_the_best_share(cli: Cli, runs: Callable[..., Path]) -> None:
    table = runs()
    screen = cli("transfer", table, "-o", table.parent / "out.json")
    assert screen.code == 0
    header, line = screen.out.splitlines()[:2]
    assert "estimators" in header
    assert "D_t / D_source" in header
    assert "net of control" not in header
    assert "1M" in line
    assert "2.00" in line
    assert "best share of a fixed compute for the source" in screen.out
    assert "25% [25%, 25%]" in screen.out
    assert "SHARE_AT_EDGE: CLM -> MLM at N = 55k" in screen.err
    fit = TransferFit.read(table.parent / "out.json")
    assert fit.pairs[0].D_t == pytest.approx(1e6, rel=0.01)
    assert len(fit.pairs[0].estimates) >= 2


def test_the_gap_over_a_re_warmed_run_has_a_column_of_its_own(cli: Cli, runs: Callable[..., Path], law: Path) -> None:
    screen = cli("transfer", runs(again=True), "--laws", law, "-n")
    assert screen.code == 0
    assert "over re-warmed" in screen.out
    assert f" {scratch(N, 2.5e6) - scratch(N, 1.6e6):.2g}" in screen.out


def test_a_source_not_worth_its_compute_is_told_so(cli: Cli, runs: Callable[..., Path], law: Path) -> None:
    screen = cli("transfer", runs(0.5), "--laws", law)
    assert screen.code == 0
    assert "0% [0%, 0%]" in screen.out
    assert "NOT_WORTH_ITS_COMPUTE" in screen.err


def test_no_partner_is_answered_by_the_law_and_named(cli: Cli, runs: Callable[..., Path], law: Path) -> None:
    screen = cli("transfer", runs(partner=False), "--laws", law)
    assert screen.code == 0
    assert "LAW_ONLY: t: no scratch run has its N, D, batch and data" in screen.err


def test_without_partner_and_law_the_answer_is_refused_in_a_valid_file(cli: Cli, runs: Callable[..., Path]) -> None:
    table = runs(partner=False, grid=False)
    screen = cli("transfer", table)
    assert screen.code == 4
    assert "NO_SCRATCH_PARTNER: D_t of t refused" in screen.err
    fit = TransferFit.read(table.parent / "transfer.json")
    assert fit.pairs == ()
    assert fit.refusals[0].code == "NO_SCRATCH_PARTNER"


def test_a_table_without_transferred_runs_is_refused_in_a_valid_file(cli: Cli, tmp_path: Path) -> None:
    table = RunTable((row("s", loss=2.0),)).write(tmp_path / "runs.csv")
    screen = cli("transfer", table)
    assert screen.code == 4
    assert "NO_PAIRS: D_t refused: the table holds no complete transferred run" in screen.err
    assert TransferFit.read(tmp_path / "transfer.json").refusals[0].code == "NO_PAIRS"


def test_laws_given_are_used_and_those_found_are_named(
    cli: Cli, runs: Callable[..., Path], law: Path, tmp_path: Path
) -> None:
    table = runs()
    given = cli("transfer", table, "--laws", law)
    assert given.code == 0
    fit = TransferFit.read(tmp_path / "transfer.json")
    assert [one.name for one in fit.pairs[0].estimates] == ["chinchilla", "same-N runs"]
    assert "laws:" not in given.err
    (tmp_path / "fit-mlm.json").write_text(law.read_text())
    assert "laws: fit-mlm.json" in cli("transfer", table).err


def test_a_control_has_a_row_and_a_column(cli: Cli, runs: Callable[..., Path], law: Path) -> None:
    screen = cli("transfer", runs(control=True), "--laws", law)
    lines = screen.out.splitlines()
    assert "net of control" in lines[0]
    assert lines[1].split()[:2] == ["src", "t"]
    assert lines[2].split()[:2] == ["mixed", "c"]
    assert "SHUFFLED_SOURCE" in lines[2]
