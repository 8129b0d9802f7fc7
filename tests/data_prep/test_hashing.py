from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import hashing
from data_prep.fasta import RecordBlock
from data_prep.hashing import hash_names, hash_sequences, hash_words
from plm_scaling.core.alphabet import EOS, encode


def block_of(*sequences: str) -> RecordBlock:
    tokens = np.concatenate([np.empty(0, np.uint8), *(np.append(encode(s), np.uint8(EOS)) for s in sequences)])
    lengths = np.array([len(s) for s in sequences], dtype=np.int64)
    return RecordBlock([b""] * len(sequences), tokens, lengths, {})


def digests_of(sequences: list[str]) -> list[bytes]:
    return [xxhash.xxh3_128_digest(encode(sequence).tobytes()) for sequence in sequences]


def test_hashes_are_xxh3_128_of_the_residue_ids() -> None:
    sequences = ["ACD", "MKV", "ACD", "X" * 300]
    assert [digest.tobytes() for digest in hash_sequences(block_of(*sequences))] == digests_of(sequences)


@given(st.lists(st.text("ACDEFGHIKLMNPQRSTVWYXBUZO", min_size=1, max_size=40), max_size=30), st.integers(1, 60))
@settings(max_examples=100, deadline=None)
def test_batches_change_nothing(sequences: list[str], batch: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashing, "_BATCH_BYTES", batch)
        assert [digest.tobytes() for digest in hash_sequences(block_of(*sequences))] == digests_of(sequences)


def test_words_are_the_big_endian_halves() -> None:
    [[high, low]] = hash_words(hash_sequences(block_of("ACD")))
    assert (int(high) << 64) + int(low) == xxhash.xxh3_128_intdigest(encode("ACD").tobytes())


def test_names_hash_alike_in_every_process() -> None:
    names = ["P1", "\u03b1", "", "P1"]
    here = hash_names(pa.array(names, pa.string())).tolist()
    assert here == [xxhash.xxh3_64_intdigest(name.encode()) for name in names]
    program = "import pyarrow, data_prep.hashing as h; print(h.hash_names(pyarrow.array(['P1']))[0])"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(told.stdout) == here[0]


def test_names_of_a_slice_and_of_nothing() -> None:
    names = pa.array(["a", "b", "c"], pa.string())
    assert hash_names(names[1:]).tolist() == hash_names(names).tolist()[1:]
    assert hash_names(names[:0]).tolist() == []
