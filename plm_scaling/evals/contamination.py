"""Which sequences of a test set the training corpus holds: as they are, and as relatives at 90 % and 50 % identity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from plm_scaling.core.alphabet import encode
from plm_scaling.core.errors import CorpusError
from plm_scaling.core.records import Record
from plm_scaling.corpus.format import TRAIN
from plm_scaling.corpus.homology import SHORTEST
from plm_scaling.corpus.reader import Corpus
from plm_scaling.corpus.relatives import find_relatives
from plm_scaling.evals.alarms import Alarm, AlarmCode

__all__ = ["Contamination", "check_contamination", "contamination_alarms"]

_SHOWN: Final = 5
_RELATED_SHARE: Final = 0.1


class Contamination(Record):
    """A test set against one split of a corpus. Counts are of distinct sequences, each within the next."""

    task: str
    corpus_id: str
    split: str
    n: int
    """Distinct sequences of the test set."""
    exact: int
    """With a copy in the split."""
    at_90: int | None
    """With a relative at 90 % identity or more, copies included; None where nothing was searched."""
    at_50: int | None
    coverage: float
    """Least share of a test sequence that an alignment covers; the training sequence may be longer."""
    too_short: int
    """Too short for a search (14 residues): of these only copies are found."""
    tool: str
    """Program and version; empty where only copies were looked for."""
    examples: tuple[str, ...] = ()
    """Accessions of the most identical training sequences, a few of them."""

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """What it says about results on this test set."""
        return contamination_alarms(self)


def check_contamination(
    corpus: Corpus,
    sequences: Sequence[str],
    *,
    task: str,
    coverage: float = 0.8,
    split: str = TRAIN,
    threads: int | None = None,
    scratch: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Contamination:
    """Look for every distinct sequence of a test set in a corpus.

    Copies are found by hash. Relatives by MMseqs2, also within longer training sequences: a domain that was trained on
    as part of a protein was trained on. Without the program only copies are counted, and the alarms say so.

    Parameters
    ----------
    sequences : residue letters. For variants of one protein its wild type is the question, and enough.
    coverage : least share of a test sequence that an alignment covers, in [0, 1].
    split, threads, scratch, tell : as in `corpus.relatives.find_relatives`, which keeps what it finds.

    Raises
    ------
    CorpusError : no sequence, a letter that no protein has, or MMseqs2 failed.
    PlanError : the corpus has no such split.
    """
    tokens = []
    for number, sequence in enumerate(dict.fromkeys(sequence.strip().upper() for sequence in sequences), start=1):
        try:
            tokens.append(encode(sequence))
        except ValueError as error:
            raise CorpusError(f"{error}", where=f"{task}, sequence {number}") from None
    tokens = [one for one in tokens if len(one)]
    if not tokens:
        raise CorpusError("no sequence to look for", where=task)
    relatives = find_relatives(corpus, tokens, split=split, threads=threads, scratch=scratch, tell=tell)
    found = relatives.nearest(corpus.rows(split), coverage=coverage, contained=True)
    # Identities are of 32-bit numbers: an edge must round as they do.
    near = [int((found.identity >= np.float32(edge)).sum()) if found.tool else None for edge in (0.9, 0.5)]
    closest = np.argsort(-found.identity, kind="stable")[:_SHOWN]
    rows = found.row[closest]
    return Contamination(
        task=task,
        corpus_id=corpus.corpus_id,
        split=split,
        n=len(tokens),
        exact=int(found.is_copy.sum()),
        at_90=near[0],
        at_50=near[1],
        coverage=coverage,
        too_short=sum(len(one) < SHORTEST for one in tokens),
        tool=found.tool,
        examples=tuple(dict.fromkeys(corpus.accessions(rows[rows >= 0]))),
    )


def contamination_alarms(report: Contamination) -> tuple[Alarm, ...]:
    """Any copy, any near copy, and relatives of a tenth of the set or more, each by its own name."""
    found: list[Alarm] = []

    def alarm(code: AlarmCode, count: int, what: str, consequence: str) -> None:
        share = count / report.n
        sentence = f"{count} of {report.n} sequences of {report.task} ({share:.0%}) {what}: {consequence}."
        found.append(Alarm(code=code, sentence=sentence, value=share, where=report.task))

    if report.exact:
        alarm("CONTAMINATED_EXACT", report.exact, "were trained on as they are", "results on them are not held out")
    if not report.tool:
        rest = report.n - report.exact
        alarm("CONTAMINATION_UNSEARCHED", rest, "were looked for as copies only", "install MMseqs2 to find relatives")
        return tuple(found)
    near, related = (report.at_90 or 0) - report.exact, (report.at_50 or 0) - (report.at_90 or 0)
    if near:
        alarm("CONTAMINATED_90", near, "have a near copy in training (90 % identity)", "count them as trained on")
    if related >= _RELATED_SHARE * report.n:
        alarm("CONTAMINATED_50", related, "have a relative in training (50 to 90 %)", "nothing out of family is shown")
    return tuple(found)
