from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plm_scaling import api
from plm_scaling.core.errors import RecordError
from plm_scaling.core.run_table import RunTable
from plm_scaling.corpus.floors import entropy_floors
from plm_scaling.corpus.reader import Corpus
from plm_scaling.corpus.validation import validation_rows
from plm_scaling.reporting.arms import repeat_series
from plm_scaling.reporting.loading import load_study
from plm_scaling.reporting.page import render_page, write_report
from plm_scaling.reporting.study import Study, on_set
from plm_scaling.reporting.tables import tabulate_ledger, tabulate_parts, tabulate_runs, tabulate_validation

NOW = datetime(2025, 1, 2, 3, 4, tzinfo=UTC)
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Balance(HTMLParser):
    """Counts open elements; every closing tag must match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(full_study: Study) -> str:
    return render_page(full_study, now=NOW)


def test_page_is_one_small_offline_file(page: str) -> None:
    assert len(page.encode()) < 1_000_000
    links = re.findall(r"(?:src|href)=\"([^\"]*)\"", page)
    assert links
    assert all(link.startswith("#") for link in links)
    assert "<script" not in page
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert not [x for x in re.findall(r"https?://[^\"' )]*", page) if "www.w3.org" not in x]


def test_page_is_balanced_and_its_ids_are_unique(page: str) -> None:
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    anchors = re.findall(r"<a href=\"#([^\"]+)\"", page)
    assert set(anchors) <= set(parser.ids)


def test_verdict_comes_before_pictures_and_tables(page: str) -> None:
    order = [page.index(f'id="{key}"') for key in ("verdict", "isoflop", "optimum", "surface", "repeats", "diversity",
                                                   "transfer", "doubts", "ledger", "runs", "provenance")]  # fmt: skip
    assert order == sorted(order)
    assert page.index("What one may not conclude") < page.index("<svg")


def test_tables_and_provenance(page: str, full_study: Study) -> None:
    for run_id in full_study.records:
        assert page.count(run_id) >= 2
    assert "2025-01-02 03:04 UTC" in page
    assert "2.13.0" in page
    assert "c0ffee" in page
    assert "uniref_like 50\u00a0%, metagenome_like 50\u00a0%" in page


def test_rendering_is_deterministic(full_study: Study) -> None:
    clm = full_study.table.where(lambda row: row.objective == "clm")
    small = dataclasses.replace(full_study, table=clm, laws={}, curves={}, transfer=None)
    assert render_page(small, now=NOW) == render_page(small, now=NOW)


def test_names_are_escaped(full_study: Study) -> None:
    table = RunTable((full_study.table.rows[0].model_copy(update={"corpus_id": "<i>"}),))
    text = render_page(Study(name="<img src=x>", missing=("<b>gone</b>",), table=table), now=NOW)
    assert "<img" not in text
    assert "<b>gone" not in text
    assert "<i>" not in text


def test_an_empty_study_still_explains_itself() -> None:
    text = render_page(Study(name="empty", missing=("There are no runs (runs/).",)), now=NOW)
    assert "<svg" not in text
    assert "No run is complete." in text
    assert "There are no runs (runs/)." in text


def test_tables_tell_unknown_from_zero(full_study: Study) -> None:
    bare = full_study.table.rows[0].model_copy(
        update=dict.fromkeys(("epochs", "C_exact", "seed", "device_s", "loss_se", "role"), None) | {"role": ""}
    )
    table = tabulate_runs(Study(name="x", table=RunTable((bare,))))
    assert table
    assert table.rows[0].count("\u2013") == 4
    assert tabulate_ledger(Study(name="x", table=RunTable((bare,)))) is None
    assert tabulate_validation(Study(name="x", table=RunTable((bare,)))) is None


def test_report_of_a_folder(tmp_path: Path, write_study: Callable[[Path], Path], full_study: Study) -> None:
    folder = write_study(tmp_path / "study")
    study = load_study(folder)
    assert len(study.table) == len(full_study.table)
    assert set(study.curves) == set(full_study.records)
    without_gaps = dataclasses.replace(full_study, gaps={})  # the folder holds no losses by sequence
    run_id = next(iter(study.curves))
    assert study.curves[run_id].validation_loss == pytest.approx(full_study.curves[run_id].validation_loss)
    assert study.laws == full_study.laws
    assert [s.arms[-1].change for s in repeat_series(study)] == [s.arms[-1].change for s in repeat_series(without_gaps)]
    assert any("entropy floors" in sentence for sentence in study.missing)  # the manifest alone holds no tokens


def test_write_report_draws_what_the_folder_holds(tmp_path: Path, write_study: Callable[[Path], Path]) -> None:
    folder = write_study(tmp_path / "study")
    for name in ("fit-clm.json", "fit-mlm.json"):
        (folder / name).unlink()
    for metrics in (folder / "runs").glob("*/metrics.parquet"):
        metrics.unlink()
    out = write_report(folder, tmp_path / "report.html")
    assert out.read_text().count("<svg") == 2 + 2 + 1  # repeats, diversity, transfer


def test_missing_and_damaged_parts_become_sentences(tmp_path: Path, write_study: Callable[[Path], Path]) -> None:
    folder = write_study(tmp_path / "study")
    (folder / "fit-mlm.json").unlink()
    (folder / "transfer.json").write_text("{")
    (folder / "corpus" / "manifest.json").unlink()
    (next((folder / "runs").iterdir()) / "metrics.parquet").write_text("no parquet")
    study = load_study(folder)
    text = " ".join(study.missing)
    assert "The fit of MLM is missing (fit-mlm.json)." in text
    assert "The transfer analysis cannot be read" in text
    assert "The corpus' manifest is missing" in text
    assert len(study.curves) == len(study.records) - 1


def test_a_table_replaces_the_runs(tmp_path: Path, full_study: Study) -> None:
    (tmp_path / "study").mkdir()
    full_study.table.write(tmp_path / "study" / "runs.csv")
    study = load_study(tmp_path / "study")
    assert len(study.table) == len(full_study.table)
    assert not study.records


def test_validation_by_source_does_not_widen_the_table_of_sets(full_study: Study) -> None:
    sets = tabulate_validation(full_study)
    assert sets
    assert sets.header[4:] == ("val_iid", "heldout_enzymes")
    parts = tabulate_parts(full_study)
    assert parts
    assert parts.header[4:] == ("val_iid", "val_iid@uniref_like", "val_iid@metagenome_like")
    assert len(parts.rows) == 6
    assert tabulate_parts(on_set(full_study, "heldout_enzymes")) is None


def test_report_on_another_set(
    tmp_path: Path, write_study: Callable[[Path], Path], full_study: Study, page: str
) -> None:
    folder = write_study(tmp_path / "study")
    study = load_study(folder, validation="heldout_enzymes")
    wanted = on_set(full_study, "heldout_enzymes")
    assert {row.run_id: row.loss for row in study.table} == {row.run_id: row.loss for row in wanted.table}
    assert study.validation == "heldout_enzymes"
    for path in (folder / "transfer.json", *folder.glob("fit-*.json"), *folder.glob("runs/*/metrics.parquet")):
        path.unlink()  # so that there is less to draw
    out = api.report(folder, tmp_path / "held.html", validation="heldout_enzymes")
    text = out.read_text()
    assert "losses on heldout_enzymes" in text
    assert "heldout_enzymes, CLM held-clm" in text
    assert load_study(folder).validation == full_study.validation
    assert "heldout_enzymes" not in page.split("Verdict")[0]


def test_a_set_no_run_was_scored_on_is_an_error(tmp_path: Path, write_study: Callable[[Path], Path]) -> None:
    folder = write_study(tmp_path / "study")
    with pytest.raises(RecordError, match="no run was scored on 'heldout_enzyme'") as caught:
        load_study(folder, validation="heldout_enzyme")
    assert "heldout_enzymes" in (caught.value.hint or "")


def test_a_table_has_no_other_set(tmp_path: Path, full_study: Study) -> None:
    (tmp_path / "study").mkdir()
    full_study.table.write(tmp_path / "study" / "runs.csv")
    with pytest.raises(RecordError, match="one validation set only"):
        load_study(tmp_path / "study", validation="heldout_enzymes")


def test_floors_are_those_of_the_pages_set(
    tmp_path: Path, write_study: Callable[[Path], Path], simulated_corpus: Path
) -> None:
    folder = write_study(tmp_path / "study")
    (folder / "corpus" / "manifest.json").unlink()
    (folder / "corpus").rmdir()
    (folder / "corpus").symlink_to(simulated_corpus, target_is_directory=True)
    corpus = Corpus.open(simulated_corpus)
    rows = validation_rows(corpus, "val_iid", 200_000)
    second = rows[corpus.source[rows] == corpus.source_ids(("metagenome_like",))[0]]
    assert 0 < len(second) < len(rows)
    for name, scored in (("val_iid", rows), ("val_iid@metagenome_like", second)):
        floors = entropy_floors(corpus, scored)
        found = load_study(folder, validation=name).floors
        assert found == {"clm": pytest.approx(floors.clm_per_token), "mlm": pytest.approx(floors.mlm)}
    assert load_study(folder).floors != load_study(folder, validation="val_iid@metagenome_like").floors


def test_differences_are_paired_on_the_page_set_and_its_parts(
    tmp_path: Path, write_study: Callable[[Path], Path]
) -> None:
    folder = write_study(tmp_path / "study")
    rng = np.random.default_rng(0)
    for run in (folder / "runs").iterdir():
        names = ["val_iid", "val_iid@metagenome_like"]
        columns = {"set": np.repeat(names, 20), "row": np.tile(np.arange(20), 2), "loss_sum": rng.normal(100, 5, 40)}
        counts = dict.fromkeys(("n_targets", "n_residue_targets"), np.full(40, 50))
        pq.write_table(pa.table({**columns, **counts, "residue_loss_sum": columns["loss_sum"]}), run / "val.parquet")
    gaps = load_study(folder).gaps
    names = [name for name, _, _ in gaps]
    assert names.count("val_iid") == names.count("val_iid@metagenome_like") == 2 * (3 * 3 + 2)
    assert set(names) == {"val_iid", "val_iid@metagenome_like"}


def test_nothing_to_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no study here"):
        load_study(tmp_path / "nowhere")
    with pytest.raises(RecordError, match="nothing to report yet"):
        write_report(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
