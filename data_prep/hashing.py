"""128-bit hashes of sequences and 64-bit hashes of names, the same in every process and on every machine."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from data_prep.fasta import slices_between

if TYPE_CHECKING:
    from data_prep.fasta import RecordBlock

_BATCH_BYTES: Final = 1 << 18

__all__ = ["hash_names", "hash_sequences", "hash_words"]


def hash_sequences(block: RecordBlock) -> npt.NDArray[np.void]:
    """xxh3_128 of each record's token ids without `<eos>`, as void16[n] in big-endian byte order."""
    edges = np.append(0, np.cumsum(block.lengths + 1))
    # The copies of a batch are gone before the next one is made, so that they stay in the processor's cache.
    firsts = np.searchsorted(edges, np.arange(0, block.tokens.size, _BATCH_BYTES)).tolist()
    parts = [
        b"".join(map(xxh3_128_digest, slices_between(block.tokens, edges[first : last + 1])))
        for first, last in itertools.pairwise([*firsts, len(block)])
    ]
    return np.frombuffer(b"".join(parts), dtype="V16")


def hash_words(digests: npt.NDArray[np.void]) -> npt.NDArray[np.uint64]:
    """The two 64-bit words of 128-bit digests, uint64[n, 2]."""
    return digests.view(">u8").reshape(-1, 2).astype(np.uint64)


def hash_names(names: pa.StringArray) -> npt.NDArray[np.uint64]:
    """xxh3_64 of names in UTF-8, uint64[n]."""
    values = names.cast(pa.binary()).to_numpy(zero_copy_only=False)
    return np.fromiter(map(xxh3_64_intdigest, values), dtype=np.uint64, count=len(values))
