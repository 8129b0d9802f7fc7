"""ProteinGym's leaderboard comes out of its scores by assay; its files are read and every misfit is named."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.errors import ConfigError, CorpusError, PlmScalingError, RefusedError
from plm_scaling.evals import proteingym_tasks
from plm_scaling.evals.adapters.doubles import PlantedProfile, UniformModel
from plm_scaling.evals.pairs import paired_rows
from plm_scaling.evals.proteingym import (
    PROTEINGYM_METRICS,
    read_assay,
    read_reference,
    read_score_table,
)
from plm_scaling.evals.proteingym_summary import summarise_assays
from plm_scaling.evals.results import read_rows
from plm_scaling.evals.run_tasks import run_tasks
from plm_scaling.evals.task import Asked, answer_hash

PROTEINGYM = Path("evals") / "proteingym"
WILD = "MKTAYIAKQRQISFVKSHFSRQ"
MEAN = ("proteingym.subs", "spearman")


def test_the_leaderboard_of_all_models(test_data: Path) -> None:
    """97 models: average, 5 functions, 3 depths, 4 taxa, and the standard error of the difference to the first."""
    folder = test_data / PROTEINGYM
    table = read_score_table(folder / "DMS_substitutions_Spearman_DMS_level.csv")
    ours = {line.model: line for line in summarise_assays(table, draws=4000)}
    with (folder / "Summary_performance_DMS_substitutions_Spearman.csv").open() as handle:
        published = list(csv.DictReader(handle))
    taxa = {"Human": "Human", "Eukaryote": "Other_Eukaryote", "Prokaryote": "Prokaryote", "Virus": "Virus"}
    checked = 0
    for row in published:
        line = ours[row["Model_name"]]
        pairs = [(line.average, row["Average_Spearman"])]
        pairs += [(value, row[f"Function_{name}"]) for name, value in line.functions.items()]
        pairs += [(value, row[f"{name}_MSA_depth"]) for name, value in line.depths.items()]
        pairs += [(value, row[f"Taxa_{taxa[name]}"]) for name, value in line.taxa.items()]
        assert len(pairs) == 13
        for value, text in pairs:
            assert abs(value - float(text)) <= 5.01e-4, (line.model, row)
            checked += 1
        assert abs(line.se_of_difference - float(row["Bootstrap_standard_error_Spearman"])) <= 1.2e-3
    assert checked == 97 * 13
    assert [m for m, line in ours.items() if line.flags] == ["Protriever"]


def test_models_without_scores_are_not_ranked(test_data: Path) -> None:
    assays = read_reference(test_data / PROTEINGYM / "DMS_substitutions.csv")
    assert len(assays) == 217
    assert {assay.depth for assay in assays} == {"Low", "Medium", "High"}
    table = read_score_table(test_data / PROTEINGYM / "DMS_substitutions_Spearman_DMS_level.csv")
    with pytest.raises(RefusedError, match="no model has a score"):
        summarise_assays(replace(table, scores_MA=np.full_like(table.scores_MA, np.nan)))


# ---- made-up assays ------------------------------------------------------------------------------------------------

_PROFILE = np.random.default_rng(0).normal(size=(len(WILD), len(STANDARD)))


def made(folder: Path, *, break_row: dict[str, str] | None = None, drop: str = "") -> Path:
    """A reference file and two assays, one with substitutions of 1 to 3 residues, one with indels."""
    rng = np.random.default_rng(1)
    with (folder / "reference.csv").open("w") as handle:
        handle.write("DMS_id,DMS_filename,UniProt_ID,taxon,target_seq,coarse_selection_type,MSA_Neff_L_category\n")
        handle.write(f"A_one,A.csv,A_HUMAN,Human,{WILD},Activity,low\n")
        handle.write(f"B_indel,B.csv,B_YEAST,Eukaryote,{WILD},Stability,\n")
    rows = []
    for k in range(90):
        sites = sorted(rng.choice(len(WILD), size=1 + k % 3, replace=False))
        letters = [rng.choice([a for a in STANDARD if a != WILD[site]]) for site in sites]
        mutated = list(WILD)
        for site, letter in zip(sites, letters, strict=True):
            mutated[site] = letter
        value = sum(
            _PROFILE[s, STANDARD.index(a)] - _PROFILE[s, STANDARD.index(WILD[s])]
            for s, a in zip(sites, letters, strict=True)
        )
        mutant = ":".join(f"{WILD[s]}{s + 1}{a}" for s, a in zip(sites, letters, strict=True))
        row = {"mutant": mutant, "mutated_sequence": "".join(mutated), "DMS_score": str(np.exp(value))}
        rows.append(row | {"DMS_score_bin": str(int(value > -1))})
    rows[41] |= break_row or {}
    for name, lines in (
        ("A", rows),
        ("B", [{"mutated_sequence": WILD[:k], "DMS_score": str(k)} for k in range(5, 20)]),
    ):
        with (folder / f"{name}.csv").open("w", newline="") as handle:
            names = [key for key in lines[0] if key != drop]
            writer = csv.DictWriter(handle, names, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(lines)
    return folder / "reference.csv"


def test_assays_are_read(tmp_path: Path) -> None:
    substitutions, indels = (read_assay(tmp_path / one.filename, one) for one in read_reference(made(tmp_path)))
    assert (len(substitutions.variants), len(indels.variants)) == (90, 15)
    assert {len(variant.substitutions) for variant in substitutions.variants} == {1, 2, 3}
    assert {variant.indel for variant in indels.variants} == {True}
    assert np.array_equal(substitutions.fit, substitutions.measured > np.exp(-1))  # the file's own classes
    assert indels.fit.sum() == 8  # no classes in the file: at or above the median


@pytest.mark.parametrize(
    ("broken", "error", "said"),
    [
        ({"mutant": "W3A"}, ConfigError, r"A\.csv: variant 42, 'W3A'"),
        ({"mutated_sequence": WILD}, CorpusError, r"A\.csv:43: .* does not make the sequence"),
        ({"DMS_score": "nan"}, CorpusError, r"A\.csv:43: DMS_score is 'nan'"),
        ({"DMS_score_bin": "2"}, CorpusError, r"A\.csv:43: class 2 is neither"),
    ],
)
def test_misfits_are_named_with_their_line(
    tmp_path: Path, broken: dict[str, str], error: type[PlmScalingError], said: str
) -> None:
    assay = read_reference(made(tmp_path, break_row=broken))[0]
    with pytest.raises(error, match=said):
        read_assay(tmp_path / "A.csv", assay)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    assay = read_reference(made(tmp_path, drop="DMS_score"))[0]
    with pytest.raises(CorpusError, match="no column DMS_score"):
        read_assay(tmp_path / "A.csv", assay)


# ---- as a task -----------------------------------------------------------------------------------------------------


class Planted(PlantedProfile):
    """Likes what the made-up assay measures."""

    def __init__(self) -> None:
        super().__init__(_PROFILE - np.log(np.exp(_PROFILE).sum(axis=1, keepdims=True)))


def two_substitution_assays(folder: Path, third: str = "") -> Path:
    """Two proteins with the same variants, as their files are published, and a reference file that names a third."""
    made(folder)
    reference = folder / "DMS_substitutions.csv"
    header = "DMS_id,DMS_filename,UniProt_ID,taxon,target_seq,coarse_selection_type,MSA_Neff_L_category\n"
    lines = [
        f"A_one,A.csv,A_HUMAN,Human,{WILD},Activity,low\n",
        f"A_two,A2.csv,B_YEAST,Eukaryote,{WILD},Stability,high\n",
    ]
    reference.write_text(header + "".join(lines) + f"A_three,A3.csv,C_VIRUS,Virus,{WILD},Binding,high\n")
    (folder / "A2.csv").write_text((folder / "A.csv").read_text())
    if third:
        (folder / "A3.csv").write_text(third)
    return reference


def test_assays_as_a_task(tmp_path: Path) -> None:
    """Rows by assay and metric, and the means; assays that come later are asked; a broken one costs itself alone."""
    (tmp_path / "data").mkdir()
    two_substitution_assays(tmp_path / "data")
    (task,) = [one for one in proteingym_tasks.TASKS if one.name == "proteingym.subs"]
    asked, out = Asked(data=tmp_path / "data", resamples=40), tmp_path / "rows.jsonl"
    assert [step.outcome for step in run_tasks([Planted], [task], asked, out)] == ["done"]
    rows = {(row.task, row.metric): row for row in read_rows(out)}
    main = rows["proteingym.subs", "spearman"]
    assert (main.value, main.n, main.clusters) == (pytest.approx(1.0), 2, "protein")
    assert "PARTIAL" in main.flags
    assert "2 of 3 assays" in main.warnings[0]
    assert {metric for name, metric in rows if name == "proteingym.subs/A_one"} == set(PROTEINGYM_METRICS)
    assert rows["proteingym.subs/A_one", "auc"].value == 1.0
    assert {floor.name for floor in rows["proteingym.subs/A_one", "spearman"].floors} >= {"BLOSUM62", "mutation count"}
    assert [step.outcome for step in run_tasks([Planted], [task], asked, out)] == ["kept"]
    two_substitution_assays(tmp_path / "data", third="mutant,DMS_score\nW1A,1\n")
    (step,) = run_tasks([Planted], [task], asked, out)
    assert step.outcome == "done"
    assert any("1 assays could not be scored, the first" in said for said in step.rows[0].warnings)
    other = Planted()
    other.logprobs_LA = np.roll(other.logprobs_LA, 1, axis=1)
    other._info = other.info.model_copy(update={"name": "rolled"})
    run_tasks([lambda: other], [task], asked, out)
    differences = {(row.task, row.metric): row for row in paired_rows(out, "rolled")}
    apart = differences["proteingym.subs", "spearman"]
    assert apart.value - apart.value_against == pytest.approx(apart.difference.value)
    assert apart.difference.unit == "cluster"
    (rolled,) = [row for row in read_rows(out) if (row.task, row.metric, row.model.name) == (*MEAN, "rolled")]
    kept = tmp_path / "rows.scores" / f"{answer_hash(rolled)}.npz"
    with np.load(kept) as data:
        np.savez(kept, truth=data["truth"], scores=data["scores"], clusters=data["clusters"][::-1])
    with pytest.raises(RefusedError, match="answered other examples"):  # as many assays, of other proteins
        paired_rows(out, "rolled", tasks=[MEAN[0]])
    assert [one.outcome for one in run_tasks([UniformModel], [task], asked, out)] == ["failed"]  # constant scores
