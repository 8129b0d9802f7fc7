from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest

from plm_scaling.core.errors import RecordError, RefusedError
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.laws.points import predict_points
from plm_scaling.laws.predict import predict_losses


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_points_keep_their_columns_and_gain_a_prediction(bounded_law: LawFit, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("name,N,D\nsmall,1e8,2e9\nlarge,3e9,2e11\n")
    predicted = predict_points(bounded_law, tmp_path / "p.csv")
    rows = read(predicted.write(tmp_path / "out.csv"))
    assert [row["name"] for row in rows] == ["small", "large"]
    assert list(rows[0]) == ["name", "N", "D", "loss", "lo90", "hi90", "decades_beyond"]
    expected = predict_losses(bounded_law, [1e8, 3e9], [2e9, 2e11])
    assert [float(row["loss"]) for row in rows] == expected.loss.tolist()
    assert [float(row["hi90"]) for row in rows] == expected.high.tolist()
    assert float(rows[0]["decades_beyond"]) == 0
    assert float(rows[1]["decades_beyond"]) == pytest.approx(
        math.log10(6 * 3e9 * 2e11 / bounded_law.range_C[1]), abs=1e-3
    )


def test_a_prediction_is_replaced_and_not_repeated(bounded_law: LawFit, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("N,D,loss,lo90\n1e8,2e9,99,98\n")
    once = predict_points(bounded_law, tmp_path / "p.csv").write(tmp_path / "a.csv")
    twice = predict_points(bounded_law, once).write(tmp_path / "b.csv")
    assert once.read_text() == twice.read_text()
    assert float(read(once)[0]["loss"]) < 4


def test_the_level_names_the_columns(bounded_law: LawFit, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("N,D\n1e8,2e9\n")
    (row,) = predict_points(bounded_law, tmp_path / "p.csv", level=0.5).table()
    assert {"lo50", "hi50"} <= row.keys()


def test_a_byte_order_mark_and_spaces_do_no_harm(bounded_law: LawFit, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("\ufeffN,D,batch_tokens\n 1e8 ,2e9,\n", encoding="utf-8")
    assert len(predict_points(bounded_law, tmp_path / "p.csv").rows) == 1


@pytest.mark.parametrize(
    ("text", "where", "complaint"),
    [
        ("N,D\n1e8,2e9\n1e8,-5\n", ":3", "D is not a positive number: '-5'"),
        ("N,D\n1e8,2e9\n\n1e8,nan\n", ":4", "D is not a positive number: 'nan'"),
        ("N,D\nbig,2e9\n", ":2", "N is not a positive number: 'big'"),
        ("N,D\n1e8\n", ":2", "D is not a positive number: ''"),
        ("N,D\ninf,1e9\n", ":2", "N is not a positive number: 'inf'"),
        ("N,D,batch_tokens\n1e8,1e9,\n1e8,1e9,0\n", ":3", "batch_tokens is not a positive number"),
        ("N,D\n1e8,2e9\n1e8,2e9,7,8\n", ":3", "more fields than the header"),
        ("N,tokens\n1e8,2e9\n", "", "no column D"),
        ("a,b\n1,2\n", "", "no column N and D"),
        ("N,D\n", "", "no points"),
        ("", "", "no column N and D"),
        ("n,D\n1e8,2e9\n", "", "no column N"),
    ],
)
def test_a_bad_point_is_named_with_its_line(
    bounded_law: LawFit, tmp_path: Path, text: str, where: str, complaint: str
) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(RecordError) as raised:
        predict_points(bounded_law, path)
    assert complaint in raised.value.what
    assert raised.value.where == f"{path}{where}"


@pytest.mark.parametrize("junk", [b"\xff\xfe\x00N\x00,", b"N,D\n\x00\x00,1\n", b"\x80\x81\x82"])
def test_binary_junk_is_no_csv(bounded_law: LawFit, tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "p.csv").write_bytes(junk)
    with pytest.raises(RecordError):
        predict_points(bounded_law, tmp_path / "p.csv")


def test_no_file_is_said(bounded_law: LawFit, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="not a readable CSV"):
        predict_points(bounded_law, tmp_path / "none.csv")


def test_a_fit_without_surface_writes_nothing(bounded_law: LawFit, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("N,D\n1e8,2e9\n")
    with pytest.raises(RefusedError):
        predict_points(bounded_law.model_copy(update={"surface": None}), tmp_path / "p.csv")
