"""Tiny prepared corpora written by hand, straight from corpus/format.py: sequences in, an opened `Corpus` out.

from made import make_corpus  # the folder of this file is on the path once its conftest is loaded

corpus = make_corpus(tmp_path / "c", ["LAGV", "LAGVM", "WWC", "LAGV"], cluster50=[0, 0, 1, 0])
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from plm_scaling.core.alphabet import EOS, encode
from plm_scaling.corpus.format import (
    EXCLUDED,
    FLAGS,
    INDEX_SCHEMA,
    MANIFEST_NAME,
    TRAIN,
    VAL_CLUSTER,
    VAL_IID,
    ClusterStats,
    FileEntry,
    Manifest,
    SourceStats,
    SplitStats,
)
from plm_scaling.corpus.reader import Corpus

SPLITS = (TRAIN, VAL_IID, VAL_CLUSTER, EXCLUDED)


def make_corpus(
    folder: Path,
    sequences: Sequence[str],
    *,
    source: Sequence[int] | None = None,
    cluster50: Sequence[int] | None = None,
    cluster90: Sequence[int] | None = None,
    flags: Sequence[Sequence[str]] | None = None,
    split: Sequence[str] | None = None,
    names: Sequence[str] = (),
    n_shards: int = 1,
) -> Corpus:
    """Write and open a corpus with one record per sequence, in this order.

    Equal sequences are copies of the first: they share its tokens, its split and its clusters, whatever the
    arguments say of them. Their flags are their own.

    Parameters
    ----------
    source : number of each record's source, 0, 1, ... in order of priority; all 0 if not given. Records need not
        be sorted by source.
    cluster50, cluster90 : number of each record's cluster; with `cluster50` alone every sequence is a 90 % cluster.
    flags : names of each record's flags.
    split : name of each record's split; all train if not given.
    names : of the sources; s0, s1, ... if not given.
    n_shards : files the tokens are spread over.
    """
    n = len(sequences)
    source = [0] * n if source is None else list(source)
    names = list(names) or [f"s{number}" for number in range(max(source) + 1)]
    first_row: dict[str, int] = {}
    for row, sequence in enumerate(sequences):
        first_row.setdefault(sequence, row)
    owner = [first_row[sequence] for sequence in sequences]
    splits = list(dict.fromkeys((*SPLITS, *(split or ()))))
    in_split = [splits.index(split[o]) if split else 0 for o in owner]
    size = [len(sequence) + 1 for sequence in sequences]
    is_first = [o == row for row, o in enumerate(owner)]
    starts = np.cumsum([s * f for s, f in zip(size, is_first, strict=True)]) - size  # right for first occurrences
    if cluster50 is not None and cluster90 is None:
        cluster90 = list(range(n))
    columns = {
        "accession": [f"{names[s]}_{row}" for row, s in enumerate(source)],
        "source": source,
        "length": [len(sequence) for sequence in sequences],
        "hash": [hashlib.md5(sequence.encode()).digest() for sequence in sequences],
        "offset": [int(starts[o]) for o in owner],
        "first": is_first,
        "split": in_split,
        "cluster50": [None if cluster50 is None else cluster50[o] for o in owner],
        "cluster90": [None if cluster90 is None else cluster90[o] for o in owner],
        "taxon": [0] * n,
        "members": [0] * n,
        "rep_id": [None] * n,
        "evidence": [0] * n,
        "flags": [sum(1 << FLAGS.index(name) for name in (flags[row] if flags else ())) for row in range(n)],
    }
    (folder / "shards").mkdir(parents=True)
    (folder / "index").mkdir()
    table = pa.Table.from_pydict(columns, schema=INDEX_SCHEMA)
    index = []
    for number, part in enumerate(np.array_split(np.arange(n), min(n, 2))):  # two files, so that reading joins them
        pq.write_table(table.slice(int(part[0]), len(part)), folder / f"index/{number:06d}.parquet")
        index.append(_entry(folder, f"index/{number:06d}.parquet"))
    manifest = Manifest(
        name=folder.name,
        sources=tuple(_source_stats(name, number, source, size, is_first) for number, name in enumerate(names)),
        splits=tuple(_split_stats(name, number, in_split, size, is_first) for number, name in enumerate(splits)),
        val_share=0.1,
        split_seed=0,
        shards=_write_shards(folder, list(first_row), n_shards),
        index=tuple(index),
        clusters=_cluster_stats(columns["cluster50"], columns["cluster90"], is_first) if cluster50 else None,
    )
    manifest.write(folder / MANIFEST_NAME)
    return Corpus.open(folder)


def random_sequences(rng: np.random.Generator, count: int, mean: float = 30, longest: int = 200) -> list[str]:
    """Different sequences of log-normal lengths."""
    lengths = np.clip(rng.lognormal(np.log(mean), 0.5, count).astype(int), 1, longest)
    letters = np.array(list("LAGVSERTIDPKQNFYMHWC"))
    found: dict[str, None] = {}
    for size in lengths.tolist():
        while (sequence := "".join(rng.choice(letters, size))) in found:
            size += 1
        found[sequence] = None
    return list(found)


def clustered_corpus(
    folder: Path, *, seed: int = 0, clusters: int = 40, largest: int = 6, copies: int = 0, sources: int = 1
) -> Corpus:
    """Random clusters of 1 to `largest` sequences (each halved into 90 % clusters), and some exact copies."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, largest + 1, clusters)
    cluster50 = np.repeat(np.arange(clusters), sizes)
    sequences = random_sequences(rng, len(cluster50))
    order = rng.permutation(len(cluster50))  # members of a cluster are not neighbours
    again = rng.integers(0, len(order), copies)
    chosen = np.concatenate([order, order[again]]) if copies else order
    cluster90 = 2 * cluster50 + rng.integers(0, 2, len(cluster50))
    return make_corpus(
        folder,
        [sequences[i] for i in chosen],
        source=np.sort(rng.integers(0, sources, len(chosen))).tolist(),
        cluster50=cluster50[chosen].tolist(),
        cluster90=cluster90[chosen].tolist(),
        names=[f"s{number}" for number in range(sources)],
    )


def _entry(folder: Path, name: str) -> FileEntry:
    data = (folder / name).read_bytes()
    return FileEntry(name=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _write_shards(folder: Path, unique: list[str], n_shards: int) -> tuple[FileEntry, ...]:
    entries = []
    for number, group in enumerate(np.array_split(np.arange(len(unique)), n_shards)):
        name = f"shards/{number:06d}.bin"
        (folder / name).write_bytes(b"".join(bytes([*encode(unique[i]).tolist(), EOS]) for i in group))
        entries.append(_entry(folder, name))
    return tuple(entries)


def _source_stats(name: str, number: int, source: list[int], size: list[int], first: list[bool]) -> SourceStats:
    here = [row for row, of in enumerate(source) if of == number]
    unique = [row for row in here if first[row]]
    tokens, unique_tokens = sum(size[row] for row in here), sum(size[row] for row in unique)
    return SourceStats(
        name=name,
        files=(),
        sequences=len(here),
        residues=tokens - len(here),
        tokens=tokens,
        unique_sequences=len(unique),
        unique_tokens=unique_tokens,
        duplicate_sequences=len(here) - len(unique),
        duplicate_tokens=tokens - unique_tokens,
    )


def _split_stats(name: str, number: int, split: list[int], size: list[int], first: list[bool]) -> SplitStats:
    here = [row for row, of in enumerate(split) if of == number and first[row]]
    return SplitStats(name=name, sequences=len(here), tokens=sum(size[row] for row in here))


def _cluster_stats(cluster50: list[int], cluster90: list[int], first: list[bool]) -> ClusterStats:
    of50 = [cluster for cluster, new in zip(cluster50, first, strict=True) if new]
    of90 = {cluster for cluster, new in zip(cluster90, first, strict=True) if new}
    return ClusterStats(
        tool="by hand",
        settings=(),
        n_clusters90=len(of90),
        n_clusters50=len(set(of50)),
        largest50=max(of50.count(cluster) for cluster in set(of50)),
    )
