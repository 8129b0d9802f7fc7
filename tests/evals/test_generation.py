"""What a model writes is measured like natural and shuffled sequences, and each number is what it says."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from data_prep import PrepSpec
from plm_scaling import api
from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.errors import CorpusError, RefusedError
from plm_scaling.corpus.reader import Corpus
from plm_scaling.evals.adapters.doubles import MarkovModel, UniformModel
from plm_scaling.evals.generation import GenerationReport, evaluate_generation, group_quality, shuffled_sequences
from plm_scaling.evals.novelty import WORD, measure_novelty, sequence_clusters
from plm_scaling.evals.pairs import paired_rows
from plm_scaling.evals.results import read_rows
from plm_scaling.evals.run_tasks import run_tasks
from plm_scaling.evals.sampling import Drawn
from plm_scaling.evals.sieve import sieve
from plm_scaling.evals.structure_judge import JudgedFile, JudgedStructure
from plm_scaling.evals.task import Asked, match_tasks
from plm_scaling.evals.tasks import all_tasks

LETTERS = np.array(list(STANDARD))


def proteins(seed: int, count: int, length: int = 90) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(LETTERS, length)) for _ in range(count)]


KNOWN = proteins(0, 30)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("generation")
    (folder / "a.fasta").write_text("".join(f">p{i}\n{one}\n" for i, one in enumerate(KNOWN)))
    api.prep({"a": [folder / "a.fasta"]}, folder / "corpus", PrepSpec(val_share=0.2))
    return Corpus.open(folder / "corpus")


def test_known_words_and_the_nearest_by_hand(corpus: Corpus) -> None:
    """Shares of words by sets of strings; a copy, a mutant and a shift are found, a stranger is not."""
    trained = [KNOWN[int(name[1:])] for name in corpus.accessions(corpus.rows("train"))]
    held = next(one for one in KNOWN if one not in trained)
    mutant = trained[1][:40] + "W" + trained[1][41:]
    asked = [trained[0], mutant, "MK" + trained[2], held, trained[3][:20] + held[:30], "MKV", trained[4][:10] + "X" * 9]
    found = measure_novelty(corpus, asked, search=False)
    words = {one[k : k + WORD] for one in trained for k in range(len(one) - WORD + 1)}
    for sequence, share in zip(asked, found.known_words, strict=True):
        own = {sequence[k : k + WORD] for k in range(len(sequence) - WORD + 1) if "X" not in sequence[k : k + WORD]}
        assert np.isnan(share) if not own else share == pytest.approx(len(own & words) / len(own))
    assert found.identity[:3] == pytest.approx([1.0, 89 / 90, 90 / 92])
    assert found.identity[3] == 0.0
    assert found.copy.tolist() == [True, *[False] * 6]


def test_clusters_are_of_relatives() -> None:
    first, second = proteins(1, 2)
    rng = np.random.default_rng(2)

    def relative(sequence: str, share: float) -> str:
        return "".join(letter if rng.random() > share else str(rng.choice(LETTERS)) for letter in sequence)

    family = [relative(first, 0.3) for _ in range(4)]
    assert sequence_clusters([first, second, *family]) == [0, 1, 0, 0, 0, 0]
    assert sequence_clusters(["MKV", "MKV", "WWWW"]) == [1, 1, 0]


def test_a_chains_samples_have_its_entropy_and_lengths(corpus: Corpus) -> None:
    """Nats per residue of a uniform chain are ln 20, lengths geometric, all new, unlike, and not of low complexity."""
    chain = MarkovModel(np.full((20, 20), 0.05), end=0.04)
    natural = KNOWN[:20]
    report = evaluate_generation(
        chain, n=60, natural=natural, corpus=corpus, longest=120, search=False, draws=50, seed=5
    )
    drawn, real, random = report.groups
    assert [group.name for group in report.groups] == ["drawn", "natural", "natural, shuffled"]
    assert drawn.nats is not None
    assert drawn.nats.value == pytest.approx(math.log(20))
    assert abs(drawn.length - 25) < 4 * 25 / math.sqrt(60)
    assert report.ended > 0.95
    assert (drawn.unique, drawn.copies) == (1.0, 0)
    assert drawn.known_words == pytest.approx(0.0, abs=0.01)
    assert real.known_words is not None
    assert real.known_words > 0.6  # most of them were trained on
    assert random.known_words == 0.0
    assert random.composition_distance == pytest.approx(0.0, abs=1e-12)
    assert random.length == real.length
    assert report.warnings == ()
    assert GenerationReport.model_validate_json(report.model_dump_json()) == report


def test_the_sieve_counts_every_sequence_under_its_first_fault(corpus: Corpus) -> None:
    """One of each fault, a relative that is far enough, and a new one; held-out records are no copies."""
    trained = [KNOWN[int(name[1:])] for name in corpus.accessions(corpus.rows("train"))]
    held = next(one for one in KNOWN if one not in trained)
    new, poor = proteins(8, 1)[0], "AAAAAC" * 10
    near, far = trained[1][:40] + "WWW" + trained[1][43:], trained[2][:60] + new[:30]
    texts = [new, poor, new, trained[0], near, far, held, "MKV"]
    drawn = [Drawn(new, False, 0.0), *(Drawn(one, True, 0.0) for one in [proteins(9, 1)[0], *texts[1:]])]
    kept, found = sieve(drawn, corpus=corpus, search=False)
    assert [one.sequence for one in kept] == [proteins(9, 1)[0], far, held]
    faults = (found.cut, found.short, found.low_complexity, found.drawn_before, found.copies, found.near)
    assert faults == (1, 1, 1, 1, 1, 1)
    assert found.n == len(drawn) == found.kept + sum(faults)
    assert found.tokens == sum(len(one.sequence) + 1 for one in kept)
    kept, found = sieve(drawn, shortest=1)
    assert (found.kept, found.copies, found.near) == (6, 0, 0)


def test_collapse_is_said() -> None:
    """A model of one letter: one sequence over and over, of low complexity, never ended."""
    row = np.full(20, 1e-9)
    row[0] = 1.0 - 19e-9
    flat = np.tile(row / row.sum(), (20, 1))
    report = evaluate_generation(MarkovModel(flat, row / row.sum()), n=5, natural=KNOWN[:5], longest=30, draws=20)
    drawn = report.groups[0]
    assert (drawn.low_complexity, drawn.unique, drawn.clusters) == (1.0, 0.2, 0.2)
    assert drawn.composition_distance > 1.0
    said = " ".join(report.warnings)
    for words in ("5 of 5 sequences were cut", "4 of 5 sequences were drawn before", "low complexity"):
        assert words in said
    with pytest.raises(RefusedError, match="nothing was drawn"):
        evaluate_generation(UniformModel(), n=0)


class EagerJudge:
    """Trusts what repeats itself more than what does not."""

    name = "eager"

    def judge(self, sequences: Sequence[str]) -> list[JudgedStructure | None]:
        return [JudgedStructure(100.0 * (1 - len(set(one)) / 21), 0.5) for one in sequences]


def test_structures_are_judged_beside_natural_ones() -> None:
    drawn, _ = group_quality("drawn", ["AAAAAAAAAAAA"], judge=EagerJudge())
    natural, _ = group_quality("natural", KNOWN[:3], judge=EagerJudge())
    assert drawn.plddt is not None
    assert natural.plddt is not None
    assert drawn.plddt > natural.plddt
    assert (drawn.ptm, drawn.judged) == (0.5, 1)
    row = np.full(20, 1e-9)
    row[0] = 1.0 - 19e-9
    collapsed = MarkovModel(np.tile(row / row.sum(), (20, 1)), row / row.sum())
    report = evaluate_generation(collapsed, n=2, natural=KNOWN[:3], judge=EagerJudge(), longest=20, draws=20)
    assert "look for repeats" in report.warnings[-1]
    assert report.judge == "eager"


def test_judgements_made_elsewhere(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("sequence,plddt,ptm\nMKV,81.5,0.7\nAAA,40,\n")
    (tmp_path / "a.json").write_text(json.dumps([{"sequence": "mkv", "plddt": 81.5, "ptm": 0.7}]))
    for path in (table, tmp_path / "a.json"):
        assert JudgedFile(path).judge(["MKV", "GGG"]) == [JudgedStructure(81.5, 0.7), None]
    folder = tmp_path / "models"
    folder.mkdir()
    lines = [
        f"ATOM  {k:5d}  CA  {name} A{k:4d}    {k:8.3f}{0:8.3f}{0:8.3f}  1.00{b:6.2f}           C"
        for k, (name, b) in enumerate((("MET", 0.9), ("LYS", 0.8), ("VAL", 0.7)), start=1)
    ]
    (folder / "one.pdb").write_text("\n".join([*lines, "END", ""]))
    (judged,) = JudgedFile(folder).judge(["MKV"])
    assert judged is not None
    assert judged.plddt == pytest.approx(80.0)
    table.write_text("sequence,plddt\nMKV,-3\n")
    with pytest.raises(CorpusError, match="row 1"):
        JudgedFile(table)
    with pytest.raises(CorpusError, match="cannot read"):
        JudgedFile(tmp_path / "none.json")


def test_shuffling_keeps_composition() -> None:
    for before, after in zip(KNOWN[:3], shuffled_sequences(KNOWN[:3]), strict=True):
        assert before != after
        assert sorted(before) == sorted(after)


def test_generation_is_a_task_beside_natural_proteins(tmp_path: Path, corpus: Corpus) -> None:
    """One row a quality, the same numbers as the report; asked once; no natural proteins, no number."""
    (tmp_path / "far.fasta").write_text("".join(f">n{k}\n{one[:40]}\n" for k, one in enumerate(KNOWN[:12])))
    chain = MarkovModel(np.full((20, 20), 0.05), end=0.1)
    asked = Asked(sequences=tmp_path / "far.fasta", corpus=corpus.path, limit=12, resamples=50, seed=5)
    out = tmp_path / "rows.jsonl"
    tasks = match_tasks(["generation"], all_tasks())
    steps = run_tasks([lambda: chain], tasks, asked, out)
    assert [step.outcome for step in steps] == ["done"]
    rows = {row.metric: row for row in read_rows(out)}
    assert set(rows) == {"perplexity", "length", "unique", "diversity", "novelty"}
    report = evaluate_generation(
        chain, n=12, natural=[one[:40] for one in KNOWN[:12]], corpus=corpus, longest=40, draws=50, seed=5
    )
    drawn, natural, _ = report.groups
    assert rows["perplexity"].value == pytest.approx(20.0)
    assert (rows["length"].value, rows["unique"].value) == (drawn.length, drawn.unique)
    assert rows["diversity"].value == drawn.clusters
    assert drawn.nearest_identity is not None
    assert rows["novelty"].value == 1.0 - drawn.nearest_identity
    near = {one.name: one.value for one in rows["novelty"].references}
    assert natural.nearest_identity is not None
    assert near["natural"] == 1.0 - natural.nearest_identity < near["natural, shuffled"]
    assert rows["length"].low is not None
    assert rows["length"].low <= rows["length"].value
    assert all(row.corpus_id and row.data_sha256 and row.task == f"generation/{name}" for name, row in rows.items())
    assert [step.outcome for step in run_tasks([lambda: chain], tasks, asked, out)] == ["kept"]
    assert run_tasks([lambda: chain], tasks, Asked(), out)[0].outcome == "no data"
    with pytest.raises(RefusedError, match="nothing to compare"):
        paired_rows(out, chain.info.name)
