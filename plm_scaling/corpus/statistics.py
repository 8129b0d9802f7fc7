"""Statistics of a prepared corpus: lengths, composition, copies, clusters, taxa, overlap of its sources."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from plm_scaling.core.alphabet import EOS, FIRST_RESIDUE, LAST_RESIDUE, SYMBOLS, VOCAB_SIZE
from plm_scaling.core.records import Record
from plm_scaling.corpus.floors import clm_floor, count_symbols, mlm_floor
from plm_scaling.corpus.format import ClusterStats, Leakage, RecordCount, SplitStats
from plm_scaling.corpus.reader import Corpus
from plm_scaling.corpus.statistics_families import FamilyShare, near_families
from plm_scaling.corpus.statistics_scan import ALL_SOURCES, CopyScan, IndexScan, Tally, has_column, scan_index

__all__ = [
    "LENGTH_EDGES",
    "QUANTILES",
    "VIRAL_CHOICE",
    "ClusterSizes",
    "CorpusStatistics",
    "FamilyShare",
    "Lengths",
    "SizeBin",
    "SourceStatistics",
    "TaxonShare",
    "corpus_statistics",
]

Int = npt.NDArray[np.int64]

VIRAL_CHOICE: Final = (
    "Leaving viruses out is a biosecurity choice: such a model knows less of viral proteins, and is worse for "
    "capsids (AAV) and whatever else is learnt from them. Without a taxonomy, viral is judged by the organism that a "
    "header names; a header without one counts as not viral."
)
LENGTH_EDGES: Final = (1, *(round(10 * 2 ** (k / 3)) for k in range(48)))
"""Lower edges of the length bins in residues: 1, 10, 13, 16, 20, ..., three per doubling; the last has no end."""
QUANTILES: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_TAXA_SHOWN: Final = 20
_BLOCK: Final = 1 << 22
_RESIDUES: Final = slice(FIRST_RESIDUE, LAST_RESIDUE + 1)
_NO_FAMILIES: Final[Mapping[str, Path]] = MappingProxyType({})


class Lengths(Record):
    """Lengths of sequences, in residues."""

    shortest: int
    longest: int
    mean: float
    quantiles: tuple[int, ...]
    """At the probabilities `QUANTILES`: the least length that so large a share of the sequences does not exceed."""
    histogram: tuple[int, ...]
    """Sequences by bin (`LENGTH_EDGES`), up to the last that holds any."""


class SizeBin(Record):
    """Groups of similar size: sequences by their number of copies, or clusters by their number of sequences."""

    smallest: int
    largest: int
    groups: int
    members: int


class ClusterSizes(Record):
    """Sizes of the clusters of unique sequences at one identity."""

    percent: int
    clusters: int
    """Also the effective number of sequences, the sum over all sequences of 1 / size of their cluster."""
    singletons: int
    largest: int
    sizes: tuple[SizeBin, ...]


class SourceStatistics(Record):
    """One source, or all of them together."""

    name: str
    sequences: int
    tokens: int
    unique_sequences: int
    """First occurrences; what earlier sources hold too counts there."""
    unique_tokens: int
    different_sequences: int
    """Without the copies inside the source, whatever earlier sources hold."""
    copies_within: RecordCount
    """Records that repeat one of the same source."""
    copies_across: RecordCount
    """First records in this source of sequences that an earlier source has."""
    lengths: Lengths | None
    """Of all records, copies included; of all sources together: of the unique sequences. None without any."""
    residues: dict[str, int]
    """Occurrences of each residue letter in the unique sequences."""
    entropy_per_residue: float | None
    """Unigram entropy of the unique sequences, nats: the plateau L0 of a law for CLM, per residue."""
    entropy_per_token: float | None
    """The same with `<eos>` as a symbol, per token."""
    mlm_plateau: float | None
    """Least MLM loss without context, nats per target (`floors.mlm_floor`)."""
    train: RecordCount
    """Unique sequences of the training split."""
    viral: RecordCount
    """Those of them that are flagged viral."""
    effective_sequences: float | None = None
    """Sum over the different sequences of 1 / size of their 50 % cluster."""
    flagged: dict[str, RecordCount] = Field(default_factory=dict)
    """Records by flag, copies included."""
    dropped: dict[str, RecordCount] = Field(default_factory=dict)
    """Records that the preparation left out, by reason."""


class TaxonShare(Record):
    """Unique training sequences of one taxon."""

    taxon: int
    sequences: int
    tokens: int


class CorpusStatistics(Record):
    """What a corpus is made of."""

    corpus_id: str
    name: str
    sources: tuple[SourceStatistics, ...]
    total: SourceStatistics
    multiplicity: tuple[SizeBin, ...]
    """Unique sequences by the number of their records."""
    overlap: tuple[tuple[float, ...], ...]
    """[i][j]: share of source i's different sequences that source j holds too."""
    overlap50: tuple[tuple[float, ...], ...] = ()
    """[i][j]: share of source i's different sequences in whose 50 % cluster source j has a sequence."""
    cluster_sizes: tuple[ClusterSizes, ...] = ()
    clusters: ClusterStats | None = None
    n_taxa: int = 0
    """Taxa named by unique training sequences."""
    taxa: tuple[TaxonShare, ...] = ()
    """The 20 with the most tokens."""
    taxon_unknown: RecordCount
    """Unique training sequences whose header names no taxon."""
    families: tuple[FamilyShare, ...] = ()
    splits: tuple[SplitStats, ...]
    leakage: tuple[Leakage, ...] = ()
    has_flags: bool = True
    """False where an older release prepared the corpus: nothing is known of flags and taxa."""
    notes: tuple[str, ...] = ()
    """What could not be said, and why."""


def corpus_statistics(corpus: Corpus, *, families: Mapping[str, Path] = _NO_FAMILIES) -> CorpusStatistics:
    """Statistics of a corpus; the index is read twice and every stored token once, in stretches.

    Parameters
    ----------
    families : name -> FASTA file of a family of interest; needs MMseqs2, without which a note says so.

    Raises
    ------
    CorpusError : a family's file that cannot be read.
    """
    manifest = corpus.manifest
    scan = scan_index(corpus)
    symbols = _symbols_by_source(corpus, scan)
    near, notes = near_families(corpus, families)
    clusters = scan.clusters
    taxa = scan.taxa
    known = taxa.keys > 0
    order = np.flatnonzero(known)[np.argsort(-taxa.counts[known, 1], kind="stable")][:_TAXA_SHOWN]
    return CorpusStatistics(
        corpus_id=corpus.corpus_id,
        name=manifest.name,
        sources=tuple(_source(corpus, number, scan, symbols[number]) for number in range(len(manifest.sources))),
        total=_total(corpus, scan, symbols.sum(axis=0)),
        multiplicity=_size_bins(scan.copies.sizes, n_single=scan.n_unique - int(scan.copies.sizes[:, 1].sum())),
        overlap=_shares(scan.copies.shared, scan.copies),
        overlap50=_shares(clusters.near, scan.copies) if clusters else (),
        cluster_sizes=tuple(_cluster_sizes(p, sizes) for p, sizes in clusters.sizes.items()) if clusters else (),
        clusters=manifest.clusters,
        n_taxa=int(np.count_nonzero(known)),
        taxa=tuple(
            TaxonShare(taxon=int(taxa.keys[i]), sequences=int(taxa.counts[i, 0]), tokens=int(taxa.counts[i, 1]))
            for i in order
        ),
        taxon_unknown=_record_count(taxa.counts[~known].sum(axis=0)),
        families=near,
        splits=manifest.splits,
        leakage=manifest.leakage,
        has_flags=has_column(corpus, "flags"),
        notes=(*_notes(corpus), *notes),
    )


def _total(corpus: Corpus, scan: IndexScan, symbols: Int) -> SourceStatistics:
    """All sources together, where a sequence of several is one."""
    sources, unique = corpus.manifest.sources, scan.lengths[ALL_SOURCES]
    flagged: dict[str, RecordCount] = {}
    dropped: dict[str, RecordCount] = {}
    for source in sources:
        _add_counts(flagged, source.flagged)
        _add_counts(dropped, source.dropped)
    return SourceStatistics(
        name="all",
        sequences=corpus.manifest.n_sequences,
        tokens=sum(source.tokens for source in sources),
        unique_sequences=scan.n_unique,
        unique_tokens=int(unique.counts[:, 1].sum()),
        different_sequences=scan.n_unique,
        copies_within=_record_count(scan.copies.within.sum(axis=0)),
        copies_across=_record_count(scan.copies.across.sum(axis=0)),
        lengths=_lengths(unique),
        train=_record_count(scan.train.sum(axis=0)),
        viral=_record_count(scan.viral.sum(axis=0)),
        effective_sequences=float(scan.clusters.sizes[50][:, 1].sum()) if scan.clusters else None,
        flagged=flagged,
        dropped=dropped,
        **_composition(symbols),
    )


def _source(corpus: Corpus, number: int, scan: IndexScan, symbols: Int) -> SourceStatistics:
    source, copies = corpus.manifest.sources[number], scan.copies
    return SourceStatistics(
        name=source.name,
        sequences=source.sequences,
        tokens=source.tokens,
        unique_sequences=source.unique_sequences,
        unique_tokens=source.unique_tokens,
        different_sequences=int(copies.shared[number, number]),
        copies_within=_record_count(copies.within[number]),
        copies_across=_record_count(copies.across[number]),
        lengths=_lengths(scan.lengths.get(number, Tally())),
        train=_record_count(scan.train[number]),
        viral=_record_count(scan.viral[number]),
        effective_sequences=float(scan.clusters.effective[number]) if scan.clusters else None,
        flagged=source.flagged,
        dropped=source.dropped,
        **_composition(symbols),
    )


def _record_count(pair: Int) -> RecordCount:
    return RecordCount(sequences=int(pair[0]), tokens=int(pair[1]))


def _add_counts(total: dict[str, RecordCount], more: Mapping[str, RecordCount]) -> None:
    for name, count in more.items():
        so_far = total.get(name, RecordCount(sequences=0, tokens=0))
        sequences, tokens = so_far.sequences + count.sequences, so_far.tokens + count.tokens
        total[name] = RecordCount(sequences=sequences, tokens=tokens)


def _lengths(tally: Tally) -> Lengths | None:
    if not len(tally.keys):
        return None
    sequences = tally.counts[:, 0]
    upto = np.cumsum(sequences)
    at = np.searchsorted(upto, np.ceil(np.array(QUANTILES) * upto[-1]))
    place = np.searchsorted(LENGTH_EDGES, tally.keys, side="right") - 1
    histogram = np.bincount(place, weights=sequences).astype(np.int64)
    return Lengths(
        shortest=int(tally.keys[0]),
        longest=int(tally.keys[-1]),
        mean=float((tally.keys * sequences).sum() / upto[-1]),
        quantiles=tuple(tally.keys[at].tolist()),
        histogram=tuple(histogram.tolist()),
    )


def _composition(symbols: Int) -> dict[str, Any]:
    """The fields that follow from how often each symbol occurs."""
    residues = symbols[_RESIDUES]
    if not residues.any():
        return {"residues": {}, "entropy_per_residue": None, "entropy_per_token": None, "mlm_plateau": None}
    tokens = symbols[np.r_[_RESIDUES, EOS]]
    return {
        "residues": dict(zip(SYMBOLS[_RESIDUES], residues.tolist(), strict=True)),
        "entropy_per_residue": clm_floor(residues, residues),
        "entropy_per_token": clm_floor(tokens, tokens),
        "mlm_plateau": mlm_floor(residues, residues),
    }


def _symbols_by_source(corpus: Corpus, scan: IndexScan) -> Int:
    """int64[sources, 33]: occurrences of each symbol in each source's unique sequences."""
    counts = np.zeros((len(corpus.manifest.sources), VOCAB_SIZE), dtype=np.int64)
    for number, source in enumerate(corpus.manifest.sources):
        if not source.unique_tokens:
            continue
        begin, end = int(scan.begin[number]), int(scan.end[number])
        if end - begin == source.unique_tokens:  # as data_prep lays them out: a source's sequences are neighbours
            counts[number] = _symbols_between(corpus, begin, end)
        else:
            counts[number] = count_symbols(corpus, np.flatnonzero(corpus.first & (corpus.source == number)))
    return counts


def _symbols_between(corpus: Corpus, begin: int, end: int) -> Int:
    """int64[33]: occurrences of each symbol among the stored tokens of a range of addresses."""
    pairs, odd = np.zeros(1 << 16, dtype=np.int64), np.zeros(256, dtype=np.int64)
    start = 0
    for shard in corpus.shards:
        low, high = max(begin - start, 0), min(end - start, len(shard))
        for at in range(low, high, _BLOCK):
            piece = shard[at : min(at + _BLOCK, high)]
            # Two tokens are counted as one number: half the work.
            even = len(piece) // 2 * 2
            pairs += np.bincount(np.ascontiguousarray(piece[:even]).view("<u2"), minlength=1 << 16)
            odd += np.bincount(piece[even:], minlength=256)
        start += len(shard)
    table = pairs.reshape(256, 256)
    counts: Int = (table.sum(axis=0) + table.sum(axis=1) + odd)[:VOCAB_SIZE]
    return counts


def _size_bins(sizes: Int, n_single: int = 0) -> tuple[SizeBin, ...]:
    """Groups by size 1, 2, 3-4, 5-8, ...; `n_single` groups of one member are not in `sizes`, int64[k, 2]."""
    single = [SizeBin(smallest=1, largest=1, groups=n_single, members=n_single)] if n_single else []
    if not len(sizes):
        return tuple(single)
    size, times = sizes.T
    doubling = np.ceil(np.log2(size)).astype(np.int64)
    groups = np.bincount(doubling, weights=times).astype(np.int64)
    members = np.bincount(doubling, weights=size * times).astype(np.int64)
    return tuple(single) + tuple(
        SizeBin(smallest=2**k // 2 + 1, largest=2**k, groups=int(groups[k]), members=int(members[k]))
        for k in np.flatnonzero(groups).tolist()
    )


def _cluster_sizes(percent: int, sizes: Int) -> ClusterSizes:
    return ClusterSizes(
        percent=percent,
        clusters=int(sizes[:, 1].sum()),
        singletons=int(sizes[sizes[:, 0] == 1, 1].sum()),
        largest=int(sizes[:, 0].max(initial=0)),
        sizes=_size_bins(sizes),
    )


def _shares(shared: Int, copies: CopyScan) -> tuple[tuple[float, ...], ...]:
    """Of each source's different sequences."""
    different = np.maximum(np.diagonal(copies.shared), 1)
    return tuple(tuple(row) for row in (shared / different[:, None]).tolist())


def _notes(corpus: Corpus) -> list[str]:
    """What this corpus cannot tell."""
    manifest = corpus.manifest
    if not has_column(corpus, "flags"):
        return ["An older release prepared this corpus: it has no clusters, flags or taxa."]
    if manifest.clusters is None:
        return ["The corpus was prepared without clusters, so nothing is said about near-duplicates and leakage."]
    return []
