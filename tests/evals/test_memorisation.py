"""A model that has learnt sequences by heart is caught, one that has learnt their family alone is not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.errors import RefusedError
from plm_scaling.evals.adapters.base import Direction, FloatArray, Letters, Query
from plm_scaling.evals.adapters.doubles import PlantedProfile, UniformModel
from plm_scaling.evals.memorisation import MemorisationReport, exposure_of, measure_memorisation, references_of

LENGTH, COUNT = 24, 12
RNG = np.random.default_rng(4)
PROFILE = 0.55 * np.eye(20)[RNG.integers(0, 20, LENGTH)] + 0.45 * RNG.dirichlet(np.full(20, 0.5), size=LENGTH)


def family(count: int, seed: int) -> list[str]:
    """Sequences of one length with a profile in common."""
    rng = np.random.default_rng(seed)
    return ["".join(STANDARD[rng.choice(20, p=row)] for row in PROFILE) for _ in range(count)]


SEEN, UNSEEN = family(COUNT, 1), family(40, 2)


class ByHeart(PlantedProfile):
    """Knows the family, and goes on with a sequence it has seen as soon as eight residues say which one it is."""

    def __init__(self, sequences: Sequence[str], *, masked: bool = False) -> None:
        super().__init__(np.log(PROFILE + 1e-9) - np.log((PROFILE + 1e-9).sum(axis=1, keepdims=True)))
        self._sequences = sequences
        abilities = ("masked",) if masked else ("causal",)
        self._info = self._info.model_copy(update={"abilities": abilities, "name": "by heart"})

    def _sure(self, row: FloatArray, letter: str) -> FloatArray:
        p = 0.05 * np.exp(row)
        p[STANDARD.index(letter)] += 0.95
        return np.log(p)

    def residue_logprobs(
        self, sequences: Sequence[str], *, direction: Direction = "forward", letters: Letters = "20"
    ) -> list[FloatArray]:
        answers = []
        for sequence in sequences:
            found = []
            for k, letter in enumerate(sequence):
                row = self.logprobs_LA[k]
                known = [one for one in self._sequences if k >= 8 and one.startswith(sequence[:k])]
                found.append((self._sure(row, known[0][k]) if known else row)[STANDARD.index(letter)])
            answers.append(np.array([*found, 0.0] if letters == "raw" else found))
        return answers

    def masked_logprobs(self, queries: Sequence[Query], *, letters: Letters = "20") -> list[FloatArray]:
        answers = []
        for query in queries:
            hidden = set(query.masked)
            shown = [k for k in range(LENGTH) if k not in hidden]
            known = [one for one in self._sequences if all(one[k] == query.sequence[k] for k in shown)]
            rows = [self.logprobs_LA[k] for k in query.read]
            answers.append(
                np.array([self._sure(row, known[0][k]) for row, k in zip(rows, query.read, strict=True)])
                if known
                else np.array(rows)
            )
        return answers


@pytest.mark.parametrize("masked", [False, True], ids=["causal", "masked"])
def test_what_was_learnt_by_heart_is_found(masked: bool) -> None:
    report = measure_memorisation(ByHeart(SEEN, masked=masked), SEEN, UNSEEN, references=15, draws=200)
    assert report.how == ("masked" if masked else "causal")
    assert report.seen.exact == report.seen.near == COUNT
    assert report.unseen.exact == 0
    assert report.seen.recovered == 1.0
    assert report.unseen.recovered < 0.8
    assert report.made < 0.2
    assert report.seen.exposure > 3.5 > report.unseen.exposure  # of at most log2 16 = 4
    assert report.exposure_gap.low > 0.0
    assert report.membership.value > 0.95
    (alarm,) = report.alarms
    assert alarm.code == "MEMORISED"
    assert f"{COUNT} of {COUNT} training sequences come back" in alarm.sentence
    assert MemorisationReport.model_validate_json(report.model_dump_json()) == report


@pytest.mark.parametrize("masked", [False, True], ids=["causal", "masked"])
def test_what_was_learnt_of_the_family_is_no_memory(masked: bool) -> None:
    """The profile alone: seen and unseen are alike, whatever a natural sequence owes to being natural."""
    honest = ByHeart([], masked=masked)
    report = measure_memorisation(honest, SEEN, UNSEEN, before=honest, references=15, draws=200)
    assert report.alarms == ()
    assert report.exposure_gap.low < 0.0 < report.exposure_gap.high
    assert report.membership.low < 0.5 < report.membership.high
    assert report.membership_gain is not None
    assert report.membership_gain.value == 0.5  # nothing was gained since
    assert report.made < 0.2


def test_the_model_before_makes_membership_sharp() -> None:
    """Against mutants every natural sequence stands out, seen or not; against the model before only the seen do."""
    alone = [one + "A" * k for k, one in enumerate(UNSEEN[:6])]
    with pytest.raises(RefusedError, match="in both groups"):
        measure_memorisation(UniformModel(), SEEN, [*UNSEEN, SEEN[0]])
    report = measure_memorisation(ByHeart(SEEN), SEEN, UNSEEN[:6], before=ByHeart([]), references=15, draws=100)
    assert report.membership_gain is not None
    assert report.membership_gain.value > 0.99
    assert report.exposure_gap.units == 6  # of the smaller group: its interval is as wide as that makes it
    assert 0.0 < report.made < 1.0
    flat = measure_memorisation(UniformModel(), SEEN, alone, references=7, draws=50)
    assert flat.seen.exposure == pytest.approx(flat.unseen.exposure) == pytest.approx(math.log2(8 / 4.5))
    assert flat.alarms == ()


def test_exposure_and_references() -> None:
    assert exposure_of(2.0, [1.0, 0.0, -1.0]) == 2.0
    assert exposure_of(-2.0, [1.0, 0.0, -1.0]) == 0.0
    ranks = [exposure_of(x, np.arange(999.0)) for x in np.arange(999.0) + 0.5]
    assert np.mean(ranks) == pytest.approx(math.log2(math.e), abs=0.02)  # by chance
    rng = np.random.default_rng(0)
    near, far, longer = "MKTAYIAKQRAA", "WWWWWWWWWWWW", "MKTAYIAKQRQISAA"
    chosen, made = references_of("MKTAYIAKQRQI", [far, longer, near], frozenset({near}), count=4, random=rng)
    assert (chosen[0], made) == (near, 3)
    assert all(len(one) == 12 and one != near for one in chosen[1:])


def test_too_little_to_tell() -> None:
    with pytest.raises(RefusedError, match="4 seen"):
        measure_memorisation(UniformModel(), SEEN[:4], UNSEEN)
    with pytest.raises(RefusedError, match="3 residues"):
        measure_memorisation(UniformModel(), ["MKV", *SEEN], UNSEEN)
