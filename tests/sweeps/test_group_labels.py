from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plm_scaling import api
from plm_scaling.core.errors import ConfigError, CorpusError, RecordError, RefusedError
from plm_scaling.core.run import RunRecord, Stream, ValidationLoss
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder
from plm_scaling.corpus.reader import Corpus
from plm_scaling.laws.group_fit import GroupFit
from plm_scaling.reporting.groups_section import groups_sections
from plm_scaling.reporting.loading import load_study
from plm_scaling.reporting.page import render_page
from plm_scaling.sweeps.group_labels import label_records, read_sweep_losses, training_shares
from plm_scaling.sweeps.plan import plan_sweep
from plm_scaling.sweeps.plan_records import GridArm, SweepSpec
from tests.conftest import Screen
from tests.sweeps.conftest import build_corpus

SLOPES = {"known": -0.10, "new": -0.04}
"""Of the losses of each source in ln D."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine runs whose losses by sequence follow a law of their source; the files that real runs leave."""
    folder = tmp_path_factory.mktemp("study")
    corpus = build_corpus(folder / "corpus", sequences={"known": 300, "new": 200}, clusters=40)
    grid = GridArm(sizes=("1x16", "1x24", "2x24"), D=(2e4, 4e4, 8e4), objectives=("clm",))
    plan = plan_sweep(SweepSpec(name="t", corpus="c", context=64, grid=(grid,)), corpus)
    rng = np.random.default_rng(0)
    rows = np.sort(corpus.rows("val_iid"))
    targets = corpus.length[rows] + 1
    slope = np.array([SLOPES[corpus.manifest.sources[source].name] for source in corpus.source[rows]])
    own = 0.1 * rng.standard_normal(len(rows))
    for run in plan.runs:
        config, place = run.config, RunFolder(folder / "runs" / run.run_id)
        RunOrder(config=config, roles=run.roles, corpus="../../corpus").write(place.order_path)
        loss = 2.5 - 0.05 * np.log(config.N / 3e3) + slope * np.log(config.D / 4e4) + own
        sums = (loss + 0.002 * rng.standard_normal()) * targets
        mean = float(sums.sum() / targets.sum())
        scored = ValidationLoss(
            set_name="val_iid", validation_id="v", per_token=mean, per_residue=mean, se=0.01,
            n_targets=int(targets.sum()), n_sequences=len(rows),
        )  # fmt: skip
        columns = {"row": rows, "loss_sum": sums, "n_targets": targets}
        columns |= {"residue_loss_sum": sums, "n_residue_targets": targets}
        pq.write_table(pa.table({"set": ["val_iid"] * len(rows), **columns}), place.val_path)
        RunRecord(
            config=config, roles=run.roles, status="complete", steps=100, D=config.D, D_unique=config.D, ledger=(),
            validation=(scored,), C_6nd=6.0 * config.N * config.D, C_exact=6.0 * config.N * config.D, device_s=1.0,
            tokens_per_s=1.0, attempts=1, threads=1,
        ).write(place.record_path)  # fmt: skip
    return folder


def test_groups_of_a_runs_folder(study: Path, cli: Callable[..., Screen], tmp_path: Path) -> None:
    out = tmp_path / "groups.json"
    screen = cli("fit", study / "runs", "--by", "source", "--form", "multiplicative", "--draws", 200, "-o", out)
    assert screen.code == 0, screen.err
    fit = GroupFit.read(out)
    assert {group.name for group in fit.groups} == set(SLOPES)
    for name, slope in SLOPES.items():
        found = fit.group(name).per_doubling_D
        assert found.low <= np.log(2) * slope <= found.high
        assert found.high - found.low < 0.02
        assert name in screen.out
    assert fit.group("known").fastest_D > 0.95
    known, new = (fit.group(name).homologous_tokens or 0.0 for name in SLOPES)
    assert known + new == pytest.approx(fit.D_largest)
    assert known > 1.2 * new


def test_taxa_are_groups_and_unknown_ones_are_none(study: Path, tmp_path: Path) -> None:
    corpus = build_corpus(tmp_path / "corpus", sequences={"a": 6}, taxa=(0, 9606, 562))
    labels = label_records(corpus, "taxon")
    assert labels.names == ("562", "9606")
    assert labels.number.tolist() == [-1, 1, 0, -1, 1, 0]


def test_the_report_shows_the_groups_beside_the_runs(study: Path) -> None:
    fit = api.fit_groups(study / "runs", by="source", form="multiplicative", draws=60, out=study / "groups-clm.json")
    try:
        read = load_study(study)
        assert dict(read.groups) == {"clm": fit}
        (section,) = groups_sections(read)
        said = " ".join(section.points)
        assert "CLM by source: a doubling of D changes the loss of known most" in said
        assert "that of new least" in said
        assert len(section.panels) == 2
        (table,) = section.tables
        assert [row[0] for row in table.rows] == ["known", "new"]
        assert not any(note.startswith("SLOPES") for note in section.alarms)
        page = render_page(read)
        assert page.count("<svg") >= 2
        assert section.title in page
        many = tuple(fit.groups[k % 2].model_copy(update={"name": f"g{k}"}) for k in range(30))
        (large,) = groups_sections(dataclasses.replace(read, groups={"clm": fit.model_copy(update={"groups": many})}))
        assert len(large.tables[0].rows) == 20
        assert "10 between them are in the file" in large.tables[0].title
        (study / "groups-mlm.json").write_text("{")
        assert any("The fit of MLM by group cannot be read" in text for text in load_study(study).missing)
    finally:
        for path in study.glob("groups-*.json"):
            path.unlink()


def test_groups_of_a_users_file(study: Path, tmp_path: Path) -> None:
    corpus = Corpus.open(study / "corpus")
    rows = corpus.rows("val_iid")
    table = tmp_path / "families.csv"
    kinds = ["even" if row % 20 < 10 else "odd" for row in rows]
    lines = [f"{name},{kind}" for kind, name in zip(kinds, corpus.accessions(rows), strict=True)]
    table.write_text(
        "accession,family\n" + "\n".join(lines[:-4]) + "\nnot_there,even\n" + f"{corpus.accessions([0])[0]},even\n"
    )
    labels = label_records(corpus, "family", table)
    assert labels.names == ("even", "odd")
    assert (labels.number >= 0).sum() == len(rows) - 4 + 1
    share = training_shares(corpus, RunFolder(next((study / "runs").iterdir())).order().config, labels)
    assert share[0] == pytest.approx((corpus.length[0] + 1) / corpus.pool_tokens(Stream()))
    assert share[1] == 0
    fit = api.fit_groups(study / "runs", by="family", groups=table, form="multiplicative", draws=60)
    assert "NO_HOMOLOGOUS_TOKENS" in fit.group("odd").flags
    table.write_text("accession,clan\nx,y\n")
    with pytest.raises(ConfigError, match="no column family"):
        label_records(corpus, "family", table)
    with pytest.raises(RecordError, match="names no record"):
        label_records(corpus, "clan", table)


def test_clusters_sets_and_what_is_no_column(study: Path) -> None:
    corpus = Corpus.open(study / "corpus")
    labels = label_records(corpus, "cluster50")
    assert len(labels.names) == len(np.unique(corpus.cluster(50)))
    with pytest.raises(ConfigError, match="no column 'sources'"):
        label_records(corpus, "sources")
    with pytest.raises(CorpusError, match="no record of the corpus has a taxon"):
        label_records(corpus, "taxon")
    with pytest.raises(RefusedError, match="1 groups"):
        api.fit_groups(study / "runs", by="set", form="multiplicative", draws=50)
    with pytest.raises(ConfigError, match="need a runs folder"):
        api.fit_groups(study / "plan.csv", by="source")


def test_runs_scored_on_other_sequences_are_not_mixed(study: Path) -> None:
    runs = sorted(path.name for path in (study / "runs").iterdir())
    kept = (study / "runs" / runs[0] / "val.parquet").read_bytes()
    table = pq.read_table(study / "runs" / runs[0] / "val.parquet")
    try:
        pq.write_table(table.slice(1), study / "runs" / runs[0] / "val.parquet")
        with pytest.raises(RefusedError, match="not of the same sequences"):
            read_sweep_losses(study / "runs", runs)
    finally:
        (study / "runs" / runs[0] / "val.parquet").write_bytes(kept)
