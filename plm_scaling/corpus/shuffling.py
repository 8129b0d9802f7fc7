"""Sequences with their residues in random order: what a model learns from composition and length alone."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.corpus.mixing import GOLDEN, mix64
from plm_scaling.corpus.reader import Corpus

__all__ = ["gather_shuffled"]

Int = npt.NDArray[np.int64]

_SHUFFLE_KEY: Final = np.uint64(0x73687566666C6531)
"""Fixed for ever: one order per sequence, whatever the corpus, the epoch or the run's seed."""


def gather_shuffled(corpus: Corpus, row: Int, begin: Int, size: Int) -> npt.NDArray[np.uint8]:
    """Spans of sequences whose residues were permuted, laid end to end: uint8[sum(size)].

    The order is a pure function of the sequence's content hash, so exact copies share it, and the pieces of a long
    sequence are pieces of one permutation. `<eos>` stays last.

    Parameters
    ----------
    row : int64[n], records of the corpus.
    begin : int64[n], first token of each span within its sequence.
    size : int64[n], tokens of each span, `<eos>` included where it is reached.

    **Source:** sorting by random keys (Knuth 1997, section 3.4.2, exercise 7), the keys from SplitMix64.
    """
    used, which = np.unique(row, return_inverse=True)
    length = corpus.length[used].astype(np.int64) + 1
    first = np.cumsum(length) - length
    tokens = corpus.gather(corpus.offset[used], length)
    document = np.repeat(np.arange(len(used)), length)
    place = np.arange(len(tokens)) - first[document]
    streams = mix64(corpus.hash[used, 0] ^ mix64(corpus.hash[used, 1] + _SHUFFLE_KEY))
    keys = mix64(streams[document] + np.uint64(GOLDEN) * place.astype(np.uint64))
    keys[first + length - 1] = np.iinfo(np.uint64).max
    shuffled = tokens[np.lexsort((place, keys, document))]
    index = np.repeat(first[which] + begin - (np.cumsum(size) - size), size)
    out: npt.NDArray[np.uint8] = shuffled[index + np.arange(len(index))]
    return out
