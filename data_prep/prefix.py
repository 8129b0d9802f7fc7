"""The beginning of a source, in whole records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from data_prep.fasta import RecordBlock

__all__ = ["take_residues"]


def take_residues(blocks: Iterator[RecordBlock], n: int) -> Iterator[RecordBlock]:
    """Records until their residues reach `n`; the record that reaches it is the last.

    Which records these are does not depend on how the records are cut into blocks, and nothing is read beyond the
    block of the last one. The counts of normalisation are those of whole blocks: in the last one they include records
    that are left out.

    Parameters
    ----------
    blocks : the records in order.
    n : residues wanted; fewer come out only if there are no more.
    """
    missing = n
    for block in blocks:
        if missing <= 0:
            return
        sums = np.cumsum(block.lengths)
        if not len(sums) or sums[-1] < missing:
            missing -= int(sums[-1]) if len(sums) else 0
            yield block
            continue
        kept = int(np.searchsorted(sums, missing)) + 1
        tokens = block.tokens[: int(sums[kept - 1]) + kept]
        yield replace(block, headers=block.headers[:kept], tokens=tokens, lengths=block.lengths[:kept])
        return
