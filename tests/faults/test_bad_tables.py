"""Tables that are wrong in every way we could think of, through the command line and through the API.

Whatever the table: a message that says what to do and nothing written, or a valid fit file (whose refusals say what
the table does not tell). Never a traceback, never a warning of numpy, never half a file.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plm_scaling import api
from plm_scaling.core.errors import ConfigError, PlmScalingError, RefusedError
from plm_scaling.laws.law_fit import LawFit

Rows = list[dict[str, Any]]


def good_rows(budgets: int = 4, sizes: int = 5) -> Rows:
    """Runs on L = 1.8 + 900 N^-.4 + 4000 D^-.42 with noise of 0.2 %."""
    rng = np.random.default_rng(0)
    rows = []
    for C in np.geomspace(1e17, 1e19, budgets):
        for factor in np.geomspace(0.2, 5.0, sizes):
            N = 0.13 * C**0.5 * factor
            D = C / 6 / N
            loss = (1.8 + 900 * N**-0.4 + 4000 * D**-0.42) * math.exp(0.002 * rng.standard_normal())
            rows.append({"run_id": f"r{len(rows)}", "objective": "clm", "N": N, "D": D, "loss": loss, "C": C})
    return rows


def csv_text(rows: Rows, columns: list[str] | None = None) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = columns or list(rows[0])
    writer.writerow(columns)
    writer.writerows([row.get(column, "") for column in columns] for row in rows)
    return out.getvalue()


@dataclass
class Screen:
    code: int
    err: str
    law: LawFit | None


def fit_by_command(path: Path, *options: str) -> Screen:
    """`plm-scaling fit` in this process; checks what holds for every table."""
    from plm_scaling.cli.main import main

    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    words = ["plm-scaling", "fit", str(path), "--draws", "50", "-o", str(path.parent / "fit.json"), *options]
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", words),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stop,
    ):
        main()
    code, text = int(stop.value.code or 0), err.getvalue()
    after = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    assert "Traceback" not in text
    assert code in (0, 1, 2, 4)
    if code in (1, 2):
        assert after == before
        assert "rror: " in text
        return Screen(code, text, None)
    assert after.keys() == {*before, "fit.json"}
    law = LawFit.read(path.parent / "fit.json")
    assert (code == 4) == bool(law.refusals)
    assert all(refusal.reason and refusal.code for refusal in law.refusals)
    return Screen(code, text, law)


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    def write(content: str | bytes, name: str = "runs.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def test_the_good_table_is_fitted(table: Callable[..., Path]) -> None:
    screen = fit_by_command(table(csv_text(good_rows())), "--form", "chinchilla")
    assert screen.code == 0
    assert screen.law is not None
    assert screen.law.surface is not None
    assert screen.law.surface.parameters["E"].value == pytest.approx(1.8, rel=0.1)


class TestRefusedBeforeAnyFit:
    """What is no table: exit code 1 or 2 and a message with the line."""

    @pytest.mark.parametrize(
        ("name", "content", "complaint"),
        [
            ("empty.csv", b"", "no column N"),
            ("spaces.csv", b"\n\n \n", "spaces.csv:"),
            ("header.csv", b"run_id,objective,N,D,loss\n", "no complete runs"),
            ("junk.csv", bytes(range(256)) * 20, "not a readable CSV"),
            ("junk.parquet", bytes(range(256)) * 20, "not a readable Parquet"),
            ("empty.parquet", b"", "not a readable Parquet"),
            ("nul.csv", b"N,D,loss\n\x00,1,2\n", ""),
            ("words.csv", b"a picture of a cat\n", "no column N"),
            ("json.csv", b'{"N": 1, "D": 2, "loss": 3}\n', "no column N"),
            ("utf16.csv", "N,D,loss\n1e8,1e9,2\n".encode("utf-16"), "not a readable CSV"),
            ("semicolons.csv", b"N;D;loss\n1e8;1e9;2.5\n", "no column N"),
            ("long.csv", b"N,D,loss\n" + b"1" * 200_000 + b",1,2\n", ""),
        ],
    )
    def test_no_table(self, table: Callable[..., Path], name: str, content: bytes, complaint: str) -> None:
        screen = fit_by_command(table(content, name))
        assert screen.code in (1, 2)
        assert complaint in screen.err

    @pytest.mark.parametrize("missing", ["N", "D", "loss"])
    def test_a_missing_column(self, table: Callable[..., Path], missing: str) -> None:
        columns = [name for name in ("run_id", "objective", "N", "D", "loss") if name != missing]
        screen = fit_by_command(table(csv_text(good_rows(), columns)))
        assert f"no column {missing}" in screen.err
        assert f"--column {missing}=YOUR_COLUMN" in screen.err

    @pytest.mark.parametrize(
        ("column", "value", "complaint"),
        [
            ("loss", "-2.5", "loss = -2.5 is no positive number"),
            ("loss", "nan", "loss = nan is no positive number"),
            ("loss", "inf", "loss = inf is no positive number"),
            ("loss", "0", "loss = 0 is no positive number"),
            ("loss", "", "the loss is empty"),
            ("loss", "two", "loss"),
            ("loss", "2,5", "loss"),
            ("loss", "812.4", "perplexity"),
            ("N", "-1e8", "no positive number"),
            ("N", "0.125", "counts"),
            ("N", "", "N"),
            ("D", "nan", "no positive number"),
            ("D", "20", "counts"),
            ("C", "1e8", "C is in FLOPs"),
            ("objective", "xlm", "objective"),
        ],
    )
    def test_a_bad_cell_is_named_with_its_line(
        self, table: Callable[..., Path], column: str, value: str, complaint: str
    ) -> None:
        rows = good_rows()
        rows[6][column] = value
        screen = fit_by_command(table(csv_text(rows)))
        assert screen.code in (1, 2)
        assert "runs.csv:8" in screen.err
        assert complaint in screen.err

    @pytest.mark.parametrize("factor", [1e9, 1e-9, 1e-6])
    @pytest.mark.parametrize("column", ["N", "D"])
    def test_units_off_by_a_billion(self, table: Callable[..., Path], column: str, factor: float) -> None:
        """Beside a stated C they contradict it; without one, too few of them are no counts."""
        rows = [row | {column: row[column] * factor} for row in good_rows()]
        assert fit_by_command(table(csv_text(rows))).code == 1
        if factor < 1:
            alone = fit_by_command(table(csv_text(rows, ["run_id", "objective", "N", "D", "loss"])), "--form", "tied")
            assert alone.code == (1 if factor == 1e-9 or column == "N" else alone.code)

    def test_more_fields_than_columns(self, table: Callable[..., Path]) -> None:
        screen = fit_by_command(table(csv_text(good_rows()) + "r99,clm,1e8,1e9,2.5,1e18,7,8\n"))
        assert "more fields than the header" in screen.err

    def test_two_objectives(self, table: Callable[..., Path]) -> None:
        rows = good_rows()
        rows[3]["objective"] = "mlm"
        path = table(csv_text(rows))
        assert fit_by_command(path).code == 2
        assert fit_by_command(path, "--objective", "clm", "--form", "chinchilla").code == 0

    def test_no_objective(self, table: Callable[..., Path]) -> None:
        path = table(csv_text(good_rows(), ["N", "D", "loss"]))
        assert "--objective clm|mlm" in fit_by_command(path).err
        assert fit_by_command(path, "--objective", "mlm", "--form", "chinchilla").code == 0

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            (("--form", "chinchila"), "did you mean chinchilla?"),
            (("--form", "chinchilla+batch"), "batch size"),
            (("--form", "chinchilla", "--plateau", "2.9"), "no plateau"),
            (("--form", "bounded", "--plateau", "1.0"), "below a loss"),
            (("--form", "bounded", "--plateau", "nan"), "positive loss"),
            (("--form", "bounded", "--plateau", "-1"), "positive loss"),
            (("--plateau", "-1"), "positive loss"),
            (("--plateau", "nan"), "positive loss"),
            (("--max-compute", "1"), "no run"),
            (("--max-compute", "many"), "--max-compute"),
            (("--delta", "-1"), "delta"),
            (("--delta", "nan", "--form", "chinchilla"), "delta"),
            (("--draws", "3"), "draws"),
            (("--currency", "C_exact", "--form", "nope"), "no form"),
        ],
    )
    def test_options_that_do_not_fit(
        self, table: Callable[..., Path], options: tuple[str, ...], complaint: str
    ) -> None:
        screen = fit_by_command(table(csv_text(good_rows())), *options)
        assert screen.code in (1, 2)
        assert complaint in screen.err


class TestValidFilesWithRefusals:
    """Tables that can be read but do not determine a surface: exit code 4, and a file that says why."""

    def refused(self, path: Path, code: str) -> LawFit:
        screen = fit_by_command(path)
        assert screen.code == 4
        assert screen.law is not None
        assert screen.law.surface is None
        assert screen.law.refusals[0].code == code
        assert "REFUSED: " in screen.err
        return screen.law

    def test_three_rows(self, table: Callable[..., Path]) -> None:
        self.refused(table(csv_text(good_rows()[:3])), "TOO_FEW_RUNS")

    def test_a_single_row(self, table: Callable[..., Path]) -> None:
        self.refused(table(csv_text(good_rows()[:1])), "TOO_FEW_RUNS")

    def test_one_budget(self, table: Callable[..., Path]) -> None:
        law = self.refused(table(csv_text(good_rows(1, 9))), "COLLINEAR_DESIGN")
        assert law.isoflop is not None

    def test_tokens_in_proportion_to_size(self, table: Callable[..., Path]) -> None:
        rows = [row | {"D": 20 * row["N"], "C": ""} for row in good_rows()]
        self.refused(table(csv_text(rows)), "COLLINEAR_DESIGN")

    def test_one_size(self, table: Callable[..., Path]) -> None:
        rows = [row | {"N": 1e8, "C": ""} for row in good_rows()]
        self.refused(table(csv_text(rows)), "TOO_FEW_LEVELS")

    def test_a_refused_fit_predicts_nothing(self, table: Callable[..., Path]) -> None:
        path = table(csv_text(good_rows()[:3]))
        fit_by_command(path)
        points = table("N,D\n1e8,1e9\n", "points.csv")
        with pytest.raises(RefusedError):
            api.predict(path.parent / "fit.json", points, out=path.parent / "out.csv")
        assert not (path.parent / "out.csv").exists()


class TestOddButUsable:
    @pytest.mark.parametrize("form", ["chinchilla", "auto"])
    def test_every_loss_the_same(self, table: Callable[..., Path], form: str) -> None:
        fit_by_command(table(csv_text([row | {"loss": 2.5} for row in good_rows()])), "--form", form)

    def test_every_row_twice(self, table: Callable[..., Path]) -> None:
        fit_by_command(table(csv_text(good_rows() * 2)), "--form", "chinchilla")

    @pytest.mark.parametrize("column", ["N", "loss", "C"])
    def test_a_column_twice(self, table: Callable[..., Path], column: str) -> None:
        rows = good_rows()
        columns = [*rows[0], column]
        fit_by_command(table(csv_text(rows, columns)), "--form", "chinchilla")

    def test_losses_that_rise_with_everything(self, table: Callable[..., Path]) -> None:
        rows = [row | {"loss": 1 + (row["N"] * row["D"]) ** 0.02} for row in good_rows()]
        fit_by_command(table(csv_text(rows)), "--form", "chinchilla")

    @pytest.mark.parametrize("column", ["C_exact", "batch_tokens", "loss_se", "D_unique", "epochs"])
    def test_a_senseless_number_beside_the_needed_ones(self, table: Callable[..., Path], column: str) -> None:
        right = {"C_exact": 1e18, "batch_tokens": 5e5, "loss_se": 0.01, "D_unique": 1e10, "epochs": 1.0}[column]
        rows = [row | {column: right * (row["C"] / 1e18 if column == "C_exact" else 1.0)} for row in good_rows()]
        for value in ("-1", "inf", "-inf", *(("0",) if column != "loss_se" else ("1e300",))):
            screen = fit_by_command(table(csv_text([*rows[:4], rows[4] | {column: value}, *rows[5:]])))
            assert screen.code == 1
            assert f"runs.csv:6: {column} = " in screen.err
        for value in ("nan", ""):
            path = table(csv_text([*rows[:4], rows[4] | {column: value}, *rows[5:]]))
            assert fit_by_command(path, "--form", "tied").code == 0

    def test_one_wild_loss(self, table: Callable[..., Path]) -> None:
        rows = good_rows()
        rows[5]["loss"] = 29.0
        screen = fit_by_command(table(csv_text(rows)), "--form", "chinchilla")
        assert screen.law is not None

    @pytest.mark.parametrize("delta", ["0", "inf", "1e-12", "1e6"])
    def test_any_border(self, table: Callable[..., Path], delta: str) -> None:
        assert fit_by_command(table(csv_text(good_rows())), "--form", "chinchilla", "--delta", delta).code == 0


CELLS = [
    "",
    "nan",
    "inf",
    "-inf",
    "-1",
    "0",
    "1e-30",
    "1e300",
    "1e400",
    "abc",
    "1e9",
    "True",
    "2.5",
    "0x10",
    "1,5",
    "\t",
]
COLUMNS = ["run_id", "objective", "N", "D", "loss", "C", "C_exact", "batch_tokens", "seed", "role", "schedule_complete"]


@st.composite
def bad_tables(draw: st.DrawFn) -> str:
    """The good table with cells replaced, columns dropped, doubled or scaled, and rows cut or repeated."""
    rows = [row | {"batch_tokens": 5e5, "seed": 0} for row in good_rows()]
    if draw(st.booleans()):
        keep = draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=25))
        rows = [dict(rows[k]) for k in keep]
    for column, factor in draw(
        st.lists(
            st.tuples(st.sampled_from(["N", "D", "loss", "C"]), st.sampled_from([1e9, 1e-9, 1e3, 0.5])), max_size=1
        )
    ):
        for row in rows:
            row[column] *= factor
    cells = st.tuples(st.integers(0, len(rows) - 1), st.sampled_from(COLUMNS), st.sampled_from(CELLS))
    for k, column, value in draw(st.lists(cells, max_size=2)):
        rows[k][column] = value
    columns = [name for name in COLUMNS if name not in ("C_exact", "role", "schedule_complete")]
    columns += sorted({name for row in rows for name in row} - set(columns))
    dropped = draw(st.lists(st.sampled_from(columns), max_size=1))
    columns = [name for name in columns if name not in dropped] + draw(st.lists(st.sampled_from(columns), max_size=1))
    return csv_text(rows, columns)


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(text=bad_tables(), form=st.sampled_from(["chinchilla", "no_floor", "log_quadratic", "multiplicative"]))
def test_any_bad_table_is_refused_or_fitted(tmp_path_factory: pytest.TempPathFactory, text: str, form: str) -> None:
    path = tmp_path_factory.mktemp("bad") / "runs.csv"
    path.write_text(text)
    fit_by_command(path, "--form", form)


@settings(deadline=None, max_examples=40)
@given(content=st.binary(max_size=300), name=st.sampled_from(["runs.csv", "runs.parquet"]))
def test_binary_junk_is_an_error_of_ours(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str) -> None:
    path = tmp_path_factory.mktemp("junk") / name
    path.write_bytes(content)
    with pytest.raises(PlmScalingError) as raised:
        api.fit(path, out=path.parent / "fit.json")
    assert raised.value.what
    assert raised.value.hint or raised.value.where or raised.value.why
    assert [file.name for file in path.parent.iterdir()] == [name]


@settings(deadline=None, max_examples=40)
@given(text=st.text(st.sampled_from('N,D\n1e8.x-" \t\r0'), max_size=60))
def test_points_of_any_shape_are_refused_or_predicted(
    tmp_path_factory: pytest.TempPathFactory, text: str, fitted: Path
) -> None:
    folder = tmp_path_factory.mktemp("points")
    (folder / "points.csv").write_text("N,D\n" + text)
    error = None
    try:
        predicted = api.predict(fitted, folder / "points.csv", out=folder / "out.csv")
    except PlmScalingError as caught:
        error = caught
    if error is None:
        assert len((folder / "out.csv").read_text().splitlines()) == 1 + len(predicted.rows)
    else:
        assert "points.csv" in error.where
        assert not (folder / "out.csv").exists()


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitted")
    (folder / "runs.csv").write_text(csv_text(good_rows()))
    api.fit(folder / "runs.csv", form="chinchilla", draws=20, out=folder / "fit.json")
    return folder / "fit.json"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema_version": 2}', bytes(range(200, 256)), b"null"])
def test_a_damaged_law_predicts_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "fit.json").write_bytes(content)
    (tmp_path / "points.csv").write_text("N,D\n1e8,1e9\n")
    with pytest.raises(PlmScalingError, match=r"."):
        api.predict(tmp_path / "fit.json", tmp_path / "points.csv", out=tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_the_api_raises_what_the_command_line_prints(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text(csv_text(good_rows()))
    with pytest.raises(ConfigError, match="no form is called"):
        api.fit(tmp_path / "runs.csv", form="chinchila", out=tmp_path / "fit.json")
    assert not (tmp_path / "fit.json").exists()
