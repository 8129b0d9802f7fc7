"""`sieve`: which drawn sequences may serve as training data, and why the others may not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from plm_scaling.core.records import Record
from plm_scaling.corpus.reader import Corpus
from plm_scaling.evals.low_complexity import low_complexity_share
from plm_scaling.evals.novelty import measure_novelty
from plm_scaling.evals.sampling import Drawn

__all__ = ["Sieved", "sieve"]

_MOST_LOW: Final = 0.5


class Sieved(Record):
    """How many sequences a filter let through; every other one is counted under its first fault."""

    n: int
    """Drawn."""
    kept: int
    tokens: int
    """Of those kept, an `<eos>` each."""
    cut: int
    """Not ended by the model."""
    short: int
    low_complexity: int
    """More than half of their windows of 20 residues."""
    drawn_before: int
    copies: int
    """Of records of the corpus; 0 without one."""
    near: int
    """As identical as `near_identity` to the nearest record found, or more; 0 without a corpus."""
    shortest: int
    """Residues."""
    near_identity: float

    @property
    def sentence(self) -> str:
        """In words."""
        faults = (
            (self.cut, "cut"),
            (self.short, f"shorter than {self.shortest}"),
            (self.drawn_before, "drawn before"),
            (self.low_complexity, "of low complexity"),
            (self.copies, "copies of records"),
            (self.near, f"{self.near_identity:.0%} identical to one or more"),
        )
        left_out = ", ".join(f"{count} {what}" for count, what in faults if count)
        return f"{self.kept} of {self.n} ({self.tokens:,} tokens)" + (f"; left out {left_out}" if left_out else "")


def sieve(
    drawn: Sequence[Drawn],
    *,
    corpus: Corpus | None = None,
    shortest: int = 30,
    near: float = 0.9,
    search: bool = True,
) -> tuple[list[Drawn], Sieved]:
    """Leave out what is cut, short, of low complexity, drawn before, or (nearly) in the training split of a corpus.

    Parameters
    ----------
    shortest : residues of the shortest that is kept.
    near : least identity to a record that counts as near, see `novelty.measure_novelty`; above 1 keeps all but
        copies.
    search : see `novelty.measure_novelty`.

    Raises
    ------
    CorpusError : as `measure_novelty`.
    """
    seen: set[str] = set()
    fault = ["" for _ in drawn]
    for k, one in enumerate(drawn):
        if not one.ended:
            fault[k] = "cut"
        elif len(one.sequence) < shortest:
            fault[k] = "short"
        elif one.sequence in seen:
            fault[k] = "drawn_before"
        elif low_complexity_share(one.sequence) > _MOST_LOW:
            fault[k] = "low_complexity"
        seen.add(one.sequence)
    left = np.array([k for k in range(len(drawn)) if not fault[k]], dtype=np.int64)
    if corpus is not None and len(left):
        found = measure_novelty(corpus, [drawn[k].sequence for k in left], search=search)
        for k in left[found.identity >= near]:
            fault[k] = "near"
        for k in left[found.copy]:
            fault[k] = "copies"
    kept = [one for one, why in zip(drawn, fault, strict=True) if not why]
    counts = Counter(why for why in fault if why)
    return kept, Sieved(
        n=len(drawn),
        kept=len(kept),
        tokens=sum(len(one.sequence) + 1 for one in kept),
        cut=counts["cut"],
        short=counts["short"],
        low_complexity=counts["low_complexity"],
        drawn_before=counts["drawn_before"],
        copies=counts["copies"],
        near=counts["near"],
        shortest=shortest,
        near_identity=near,
    )
