from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from plm_scaling.core.run import LedgerRow
from plm_scaling.corpus.ledger_report import LedgerPoint, LedgerReport
from plm_scaling.reporting.ledger_figures import ledger_layers, write_ledger_figure


def row(
    unique: int, *, epoch: int = 0, copies: int = 0, earlier: int = 0, mates: tuple[int, int] = (0, 0)
) -> LedgerRow:
    tokens = unique + epoch + copies + earlier
    return LedgerRow(
        source="*", tokens=tokens, residues=tokens, unique=unique, repeated_epoch=epoch, repeated_duplicate=copies,
        seen_earlier=earlier, mates_50=mates[0], mates_90=mates[1],
    )  # fmt: skip


def report(*rows: LedgerRow, step: int | None = None, first_epoch: int | None = None) -> LedgerReport:
    last = len(rows) - 1
    chosen = last if step is None else step
    return LedgerReport(
        run_id="0123456789ab",
        objective="clm",
        corpus_id="0" * 64,
        lineage=(),
        step=chosen,
        n_steps=last,
        rows=(rows[chosen],),
        epochs={},
        first_tokens={"repeated_epoch": first_epoch},
        clusters=True,
        curve=tuple(LedgerPoint(step=number, total=one) for number, one in enumerate(rows)),
    )


FULL = report(
    row(0),
    row(100, mates=(20, 10)),
    row(180, epoch=10, copies=5, mates=(60, 35)),
    row(220, epoch=60, copies=10, earlier=10, mates=(80, 50)),
    first_epoch=150,
    step=2,
)


def test_layers_are_all_tokens_and_none_twice() -> None:
    layers = ledger_layers(FULL.curve)
    for number, point in enumerate(FULL.curve):
        assert sum(layer.tokens[number] for layer in layers) == point.total.tokens
    last = {layer.name: layer.tokens[-1] for layer in layers}
    assert last == {
        "new": 140,
        "near-copy, 50 %": 30,
        "near-copy, 90 %": 50,
        "seen by an earlier run": 10,
        "exact copy": 10,
        "later epoch": 60,
    }


def test_what_never_occurs_is_not_drawn() -> None:
    assert [layer.name for layer in ledger_layers(report(row(0), row(7)).curve)] == ["new"]


def text_of(path: Path) -> str:
    parts = ET.parse(path).iter("{http://www.w3.org/2000/svg}text")
    return " ".join("".join(part.itertext()) for part in parts).replace("\u00a0", " ")


def test_picture_names_its_parts(tmp_path: Path) -> None:
    path = write_ledger_figure(FULL, tmp_path)
    assert path == tmp_path / "ledger-0123456789ab.svg"
    text = text_of(path)
    for words in ("CLM run 0123456789ab", "near-copy, 90 %", "later epoch  20 %", "first epoch repeat", "step 2"):
        assert words in text
    assert write_ledger_figure(FULL, tmp_path / "again").read_bytes() == path.read_bytes()


def test_a_run_without_repeats_or_clusters(tmp_path: Path) -> None:
    text = text_of(write_ledger_figure(report(row(0), row(50), row(100)), tmp_path))
    assert "new  100 %" in text
    for words in ("near-copy", "repeat", "step"):
        assert words not in text


@pytest.mark.parametrize("suffix", [".png", ".pdf"])
def test_other_formats(tmp_path: Path, suffix: str) -> None:
    assert write_ledger_figure(report(row(0), row(50)), tmp_path, suffix=suffix).stat().st_size > 1000
