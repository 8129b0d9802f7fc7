"""From FASTA files to a prepared corpus: parse, find exact duplicates, split, write shards and index.

The first pass parses every file once and spills tokens and hashes; the second writes what stays. All of it happens in
a temporary folder beside the corpus, which gets its name only when it is complete.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import importlib.metadata
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from data_prep.dedup import find_duplicates
from data_prep.inputs import InputSize, SourceInput, describe_inputs, held_out_sources
from data_prep.reading import FirstPass, Progress
from data_prep.shards import check_shard_bytes
from data_prep.split import SplitRule
from data_prep.streams import BLOCK_BYTES
from data_prep.verify import verify_corpus
from data_prep.workplace import workplace
from data_prep.writing import SecondPass
from plm_scaling.core.errors import CorpusError
from plm_scaling.corpus.format import MANIFEST_NAME, MAX_SHARD_BYTES, Manifest

__all__ = ["InputSize", "Progress", "SourceInput", "describe_inputs", "prepare_corpus", "verify_corpus"]

_NO_HOLD_OUT: Final[Mapping[str, Sequence[Path]]] = MappingProxyType({})
_VERSIONED: Final = ("plm-scaling", "numpy", "pyarrow", "xxhash")


def prepare_corpus(
    inputs: Sequence[SourceInput],
    out: Path,
    *,
    val_share: float = 0.01,
    split_seed: int = 0,
    hold_out: Mapping[str, Sequence[Path]] = _NO_HOLD_OUT,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    block_bytes: int = BLOCK_BYTES,
    progress: Callable[[Progress], None] | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Turn protein FASTA files into a corpus: tokenised, de-duplicated, split, checked in.

    The same input gives the same bytes, whatever `block_bytes`. Memory does not grow with the input.

    Parameters
    ----------
    inputs : the sources in order of priority: of equal sequences the first is stored, the others are its copies.
    out : folder of the corpus; it appears when it is complete.
    val_share : expected share of the unique sequences that becomes `val_iid`.
    split_seed : another seed draws other validation sequences.
    hold_out : name -> files; each set becomes the split and the source `heldout_NAME`. It comes before all inputs,
        so that every exact copy of its sequences leaves the training data.
    max_shard_bytes : largest shard in bytes (tokens).
    block_bytes : text read at a time, in bytes.
    progress : called after each block read and each batch written.
    overwrite : replace an older corpus at `out`.

    Raises
    ------
    ConfigError : names, shares or sizes that make no sense.
    CorpusError : an input that cannot be used, no sequence at all, or something in the way at `out`.
    """
    bytes_total = sum(size.bytes for size in describe_inputs(inputs, hold_out=hold_out))
    rule = SplitRule(tuple(hold_out), val_share, split_seed)
    max_length = check_shard_bytes(max_shard_bytes) - 1
    told = progress or (lambda _: None)
    try:
        with workplace(out, overwrite=overwrite) as place:
            first_pass = FirstPass(place.spill, max_length, block_bytes, bytes_total, told)
            read = first_pass.read((*held_out_sources(hold_out), *inputs))
            second_pass = SecondPass(read, find_duplicates(read.hashes, place.spill), rule)
            shards, index = second_pass.write(place, max_shard_bytes, told)
            manifest = Manifest(
                name=out.absolute().name,
                sources=second_pass.source_stats(),
                splits=second_pass.split_stats(),
                val_share=val_share,
                split_seed=split_seed,
                shards=shards,
                index=index,
                versions=_versions(),
                created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            )
            manifest.write(place.corpus / MANIFEST_NAME)
            place.publish()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        raise CorpusError(f"cannot write the corpus: {error.strerror}", where=str(out)) from error
    return manifest


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _VERSIONED:
        # A source tree that was not installed has no version.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
