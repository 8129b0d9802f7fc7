from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from plm_scaling.core.errors import ConfigError
from plm_scaling.evals.assays import group_weights, load_assay_scores, resampled_weights
from plm_scaling.evals.baselines import find_baselines

PROTEINGYM = Path("evals") / "proteingym"


def mean_of(model: str, *, by_function: bool = False, **group: str) -> float:
    table = load_assay_scores()
    weights = group_weights(table, table.where(**group), by_function=by_function)
    return float(table.of([model])[0] @ weights)


def test_means_of_assays_are_the_published_ones() -> None:
    """Every published mean of every model, overall, by function and by depth, to its last digit."""
    checked = 0
    for row in find_baselines(benchmark="proteingym.subs"):
        kind, _, name = row.parts.split.partition("_")
        if not kind:
            ours = mean_of(row.model, by_function=True)
        elif kind == "Function":
            ours = mean_of(row.model, function=name)
        else:
            ours = mean_of(row.model, depth=kind)
        assert ours == pytest.approx(row.value, abs=5.01e-4), (row.model, row.metric)
        checked += 1
    assert checked == 261


def test_single_assays_are_the_published_ones() -> None:
    rows = [row for row in find_baselines(benchmark="proteingym.dms") if "indels" not in row.parts.split]
    assert len(rows) == 145
    for row in rows:
        assert mean_of(row.model, assay=row.parts.split) == pytest.approx(row.value, abs=1e-9), row.metric


def test_the_table_is_a_part_of_the_published_one(test_data: Path) -> None:
    """Taxa are in no row of the scores we ship: they must come out of the assays."""
    folder = test_data / PROTEINGYM
    with (folder / "Summary_performance_DMS_substitutions_Spearman.csv").open() as handle:
        summary = {row["Model_name"]: row for row in csv.DictReader(handle)}
    names = {
        "ESM2 (15B)": "esm2_t48_15B_UR50D",
        "Progen2 XL": "progen2-xlarge",
        "Progen3 3B": "progen3-3b",
        "RITA XL": "rita-xl",
        "CARP (640M)": "carp-640m",
        "GEMME": "gemme",
        "PoET (200M)": "poet-200m",
        "ESCOTT": "escott",
        "VenusREM": "venusrem",
        "EVE (ensemble)": "eve-ensemble",
    }
    taxa = {
        "Virus": "Taxa_Virus",
        "Human": "Taxa_Human",
        "Prokaryote": "Taxa_Prokaryote",
        "Eukaryote": "Taxa_Other_Eukaryote",
    }
    for theirs, ours in names.items():
        for taxon, column in taxa.items():
            assert mean_of(ours, taxon=taxon) == pytest.approx(float(summary[theirs][column]), abs=5.01e-4)
    with (folder / "DMS_substitutions_Spearman_DMS_level.csv").open() as handle:
        for k, row in enumerate(csv.DictReader(handle)):
            assert load_assay_scores().assays[k] == row["DMS ID"]
            for theirs, ours in names.items():
                assert load_assay_scores().of([ours])[0, k] == float(row[theirs])


@pytest.mark.parametrize("by_function", [True, False])
def test_proteins_drawn_anew_against_a_plain_count(by_function: bool) -> None:
    """Each draw is the mean over a list of proteins, some of them several times."""
    table = load_assay_scores()
    chosen = table.where(taxon="Virus")
    drawn = resampled_weights(table, chosen, by_function=by_function, draws=40, seed=3)
    inside = sorted({p for p, use in zip(table.proteins, chosen, strict=True) if use})
    counts = np.random.default_rng(3).multinomial(len(inside), np.full(len(inside), 1 / len(inside)), size=40)
    score = table.of(["esm2_t33_650M_UR50D"])[0]
    for weights, count in zip(drawn, counts, strict=True):
        means: dict[str, list[float]] = {}
        for protein, times in zip(inside, count, strict=True):
            rows = [k for k in range(len(score)) if chosen[k] and table.proteins[k] == protein]
            for kind in {table.functions[k] if by_function else "" for k in rows}:
                own = [score[k] for k in rows if kind in ("", table.functions[k])]
                means.setdefault(kind, []).extend([float(np.mean(own))] * int(times))
        expected = np.mean([np.mean(values) for values in means.values() if values])
        assert weights @ score == pytest.approx(expected, rel=1e-12)
        assert weights.sum() == pytest.approx(1.0)
        assert not weights[~chosen].any()


def test_a_model_without_scores_is_named() -> None:
    with pytest.raises(ConfigError, match="no scores per assay"):
        load_assay_scores().of(["esm2_t33_650M"])
