"""Test sets against a corpus: every planted copy and relative is counted, whole or within a longer protein."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep import PrepSpec
from plm_scaling import api
from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import CorpusError
from plm_scaling.corpus.homology import find_mmseqs
from plm_scaling.corpus.reader import Corpus
from plm_scaling.evals.adapters.own_models import random_weights
from plm_scaling.evals.contamination import Contamination, check_contamination
from plm_scaling.evals.data_alarms import table_alarms
from plm_scaling.evals.supervised_tasks import TASKS
from plm_scaling.evals.task import Asked, match_tasks

LETTERS = np.array(list("ACDEFGHIKLMNPQRSTVWY"))


@pytest.fixture(scope="module")
def proteins() -> list[str]:
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(LETTERS, 160)) for _ in range(30)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, proteins: list[str]) -> Corpus:
    folder = tmp_path_factory.mktemp("contamination")
    (folder / "a.fasta").write_text("".join(f">p{i}\n{one}\n" for i, one in enumerate(proteins)))
    api.prep({"a": [folder / "a.fasta"]}, folder / "corpus", PrepSpec(val_share=0.2))
    return Corpus.open(folder / "corpus")


def mutated(sequence: str, share: float, rng: np.random.Generator) -> str:
    out = list(sequence)
    for i in rng.choice(len(out), round(share * len(out)), replace=False):
        out[i] = rng.choice(LETTERS[out[i] != LETTERS])
    return "".join(out)


def trained(corpus: Corpus, proteins: list[str]) -> list[str]:
    return [proteins[int(name[1:])] for name in corpus.accessions(corpus.rows("train"))]


@pytest.mark.slow
def test_planted_copies_and_relatives_are_counted(corpus: Corpus, proteins: list[str]) -> None:
    try:
        find_mmseqs()
    except CorpusError:
        pytest.skip("MMseqs2 is not installed here")
    rng, known = np.random.default_rng(1), trained(corpus, proteins)
    asked = [
        *(known[0], known[0].lower(), known[1]),  # two copies, one of them twice
        mutated(known[2], 0.04, rng),
        known[3][30:130],  # a domain of what was trained on
        mutated(known[4], 0.3, rng),
        *("".join(rng.choice(LETTERS, 120)) for _ in range(3)),
        "MKV",
    ]
    report = check_contamination(corpus, asked, task="planted")
    assert (report.n, report.exact, report.at_90, report.at_50, report.too_short) == (9, 2, 4, 5, 1)
    assert [alarm.code for alarm in report.alarms] == ["CONTAMINATED_EXACT", "CONTAMINATED_90", "CONTAMINATED_50"]
    assert report.alarms[0].value == pytest.approx(2 / 9)
    assert "2 of 9 sequences of planted (22%) were trained on as they are" in report.alarms[0].sentence
    assert set(report.examples) >= {f"p{proteins.index(one)}" for one in (known[0], known[1], known[3])}
    assert Contamination.model_validate_json(report.model_dump_json()) == report


def test_without_the_program_it_is_said(
    corpus: Corpus, proteins: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    report = check_contamination(corpus, [trained(corpus, proteins)[0], "M" * 50], task="two")
    assert (report.exact, report.at_90, report.at_50, report.tool) == (1, None, None, "")
    assert [alarm.code for alarm in report.alarms] == ["CONTAMINATED_EXACT", "CONTAMINATION_UNSEARCHED"]
    clean = check_contamination(corpus, proteins, task="held out", split="val_iid")
    assert clean.exact == len(corpus.rows("val_iid"))
    with pytest.raises(CorpusError, match="sequence 2"):
        check_contamination(corpus, ["MKV", "MK1"], task="bad")
    with pytest.raises(CorpusError, match="no sequence"):
        check_contamination(corpus, [""], task="empty")


def test_rows_of_tables_say_what_of_them_was_trained_on(
    corpus: Corpus, proteins: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Variants by the protein that they are variants of, known or not; other tables by every test sequence."""
    monkeypatch.setenv("PATH", str(tmp_path))
    rng, wild = np.random.default_rng(2), trained(corpus, proteins)[0]
    library = [mutated(wild, 0.03, rng) for _ in range(40)]
    asked = Asked(data=tmp_path, corpus=corpus.path, resamples=20)
    exact = ["CONTAMINATED_EXACT", "CONTAMINATION_UNSEARCHED"]
    assert [alarm.code for alarm in table_alarms(asked, "t", library)] == exact
    assert [alarm.code for alarm in table_alarms(asked, "t", library[:1], wild_type=wild)] == exact
    assert [alarm.code for alarm in table_alarms(asked, "t", library[:1])] == exact[1:]
    others = ["".join(rng.choice(LETTERS, 160)) for _ in range(5)]
    (copy, _) = table_alarms(asked, "t", [*others, wild])
    assert "1 of 6 sequences of t" in copy.sentence
    assert table_alarms(Asked(), "t", library) == ()
    (tmp_path / "gb1").mkdir()
    rows = [f"{one},{k},{'test' if k % 2 else 'train'},False" for k, one in enumerate(library)]
    (tmp_path / "gb1" / "sampled.csv").write_text("sequence,target,set,validation\n" + "\n".join(rows) + "\n")
    [task] = match_tasks(["flip.gb1.sampled"], TASKS)
    answers = task.measure(task, random_weights(ModelShape(n_layers=1, d_model=16)), asked)
    assert all(set(exact) <= set(answer.row.flags) for answer in answers)
    assert "results on them are not held out" in " ".join(answers[0].row.warnings)
