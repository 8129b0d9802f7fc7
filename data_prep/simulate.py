"""Protein-like corpora with a known truth: two FASTA sources, families along trees, planted exact duplicates.

A *domain* is a root sequence and its descendants at the leaves of one binary tree. A *family* is a chain of one to
three domains (popular ones are used again and again: domain shuffling) with a free linker before each, and lives in
one half of the tree. A *record* is a family at one leaf (its clade) after one more branch, the tip.

uniref_like      families of steep Zipf sizes, short tips: much redundancy to learn from
metagenome_like  the same families and as many new ones, flatter sizes, split off on a branch of its own, longer tips

Records are made in rounds of fixed size, so memory grows only by an 8-byte hash per record, and a smaller corpus is a
prefix of a larger one of the same seed. Two records are equal only where a copy was planted: the truth is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt
import xxhash

from data_prep.evolution import Branch, Sequences, evolve
from data_prep.families import CLADES, World, entropy, zipf_shares
from data_prep.simulation import (
    MetagenomeSettings,
    SimulationSettings,
    SimulationTruth,
    SourceSettings,
    SourceTruth,
)
from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.errors import ConfigError
from plm_scaling.core.files import writing_atomic

__all__ = [
    "ROUND_RESIDUES",
    "TRUTH_NAME",
    "MetagenomeSettings",
    "SimulationSettings",
    "SimulationTruth",
    "SourceSettings",
    "SourceTruth",
    "simulate_corpus",
]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

TRUTH_NAME: Final = "truth.json"
ROUND_RESIDUES: Final = 1_000_000
"""Residues made at a time, both sources together, about."""
LEAST_FRESH: Final = 0.1
"""A round with a smaller share of unseen sequences: the settings cannot make many more."""
FRESH, COPY, SHARED = range(3)


def simulate_corpus(
    out: Path, *, residues: int = 8_000_000, seed: int = 0, settings: SimulationSettings | None = None
) -> SimulationTruth:
    """Write `uniref_like.fasta`, `metagenome_like.fasta` and `truth.json` into the folder `out`.

    Headers read `>UR_0000001 fam=12 clade=1`. The same arguments give the same bytes.

    Parameters
    ----------
    residues : of both sources together; each source ends with the record that reaches its share.
    seed : of every random choice, >= 0.
    settings : the world; None for the recommended one.

    Raises
    ------
    ConfigError : a size or seed that makes no sense, or settings too narrow for so many distinct sequences.
    """
    settings = settings or SimulationSettings()
    _check(out, residues, seed)
    world = World.build(settings, seed)
    second_quota = max(1, round(residues * settings.metagenome_share))
    with (
        writing_atomic(out / "uniref_like.fasta") as first_file,
        writing_atomic(out / "metagenome_like.fasta") as second_file,
    ):
        (out / TRUTH_NAME).unlink(missing_ok=True)  # written last: a truth never stands beside other files
        first = _Writer("uniref_like", "UR", residues - second_quota, first_file, world.n_families)
        second = _Writer("metagenome_like", "MG", second_quota, second_file, world.n_families)
        _fill(world, first, second)
    truth = world.truth(residues, (first.truth(), second.truth()))
    truth.write(out / TRUTH_NAME)
    return truth


def _check(out: Path, residues: int, seed: int) -> None:
    if residues < 2:
        raise ConfigError("a simulation needs at least 2 residues", where="residues", why=f"got {residues}")
    if seed < 0:
        raise ConfigError("a seed cannot be negative", where="seed", why=f"got {seed}")
    if out.exists() and not out.is_dir():
        raise ConfigError("not a folder", where=str(out), hint="name a folder to write the FASTA files into")


def _fill(world: World, first: _Writer, second: _Writer) -> None:
    """Make round after round of both sources until both writers have what they want.

    Rounds never depend on the corpus's size, which makes a smaller corpus a prefix of a larger one. So the records
    shared between the sources come from the first round, which every corpus of more than one round holds.
    """
    settings, seen = world.settings, set[int]()
    sources = (
        _Source.build(world, settings.uniref, 0, settings.n_families, 1.0 - settings.metagenome_share),
        _Source.build(world, settings.metagenome, 1, world.n_families, settings.metagenome_share),
    )
    pool = _Records.none()
    number = 0
    while not (first.full and second.full):
        rngs = [np.random.default_rng([world.seed, 2, number, source]) for source in range(2)]
        fresh = [source.fresh(rng, seen) for source, rng in zip(sources, rngs, strict=True)]
        batch = _with_copies(fresh[0], pool, settings.uniref.duplicate_share, 0.0, rngs[0])
        written = first.write(batch)
        if number == 0:
            pool = batch.pick(np.flatnonzero(batch.kinds[:written] == FRESH))
        share = settings.metagenome.shared_share
        second.write(_with_copies(fresh[1], pool, settings.metagenome.duplicate_share, share, rngs[1]))
        number += 1


@dataclass(frozen=True)
class _Records:
    """Records before they have accessions; kinds int64[n] is FRESH, COPY (within the source) or SHARED (across)."""

    sequences: list[bytes]
    families: Ints
    clades: Ints
    kinds: Ints

    @staticmethod
    def none() -> _Records:
        return _Records([], *(np.zeros(0, dtype=np.int64) for _ in range(3)))

    def pick(self, rows: Ints) -> _Records:
        chosen = [self.sequences[row] for row in rows.tolist()]
        return _Records(chosen, self.families[rows], self.clades[rows], self.kinds[rows])

    def marked(self, kind: int) -> _Records:
        return _Records(self.sequences, self.families, self.clades, np.full_like(self.kinds, kind))

    def plus(self, other: _Records) -> _Records:
        mine, theirs = (self.families, self.clades, self.kinds), (other.families, other.clades, other.kinds)
        columns = (np.append(a, b) for a, b in zip(mine, theirs, strict=True))
        return _Records(self.sequences + other.sequences, *columns)


@dataclass(frozen=True)
class _Source:
    """A source's families at its own leaves, and how a round of members is drawn from them."""

    world: World
    ancestors: Sequences
    cumulative: Floats
    ranking: Ints
    tip: Branch
    n_drawn: int

    @staticmethod
    def build(world: World, settings: SourceSettings, number: int, n_families: int, share: float) -> _Source:
        """The first `n_families` families, ranked by size in a random order of this source's own."""
        rng = np.random.default_rng([world.seed, 1, number])
        ancestors = evolve(world.ancestors(n_families), world.model.branch(settings.split_length), rng)
        lengths = ancestors.lengths.reshape(-1, CLADES).mean(axis=1)
        sizes, ranking = zipf_shares(n_families, settings.zipf), _ranking(lengths, rng)
        mean_length = float(sizes @ lengths[ranking])
        n_drawn = max(64, round(ROUND_RESIDUES * share / mean_length))
        tip = world.model.branch(settings.tip_length)
        return _Source(world, ancestors, np.cumsum(sizes), ranking, tip, n_drawn)

    def fresh(self, rng: np.random.Generator, seen: set[int]) -> _Records:
        """One round's members, without those whose sequence is in `seen` (hashes; the new ones are added)."""
        ranks = np.searchsorted(self.cumulative, rng.random(self.n_drawn) * self.cumulative[-1], side="right")
        families, clades = self.ranking[ranks], rng.integers(CLADES, size=self.n_drawn)
        members = evolve(self.ancestors.take(families * CLADES + clades), self.tip, rng)
        letters, ends = members.residues().tobytes(), members.ends.tolist()
        sequences = [letters[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        kept = []
        for row, sequence in enumerate(sequences):
            if (key := xxhash.xxh3_64_intdigest(sequence)) not in seen:
                seen.add(key)
                kept.append(row)
        if len(kept) < LEAST_FRESH * self.n_drawn:
            raise ConfigError(
                f"these settings make hardly more than {len(seen)} distinct sequences",
                where="SimulationSettings",
                why=f"only {len(kept)} of {self.n_drawn} more were new",
                hint="ask for fewer residues, or for more families, longer domains or longer tips",
            )
        leaves = self.world.halves[families] * CLADES + clades
        records = _Records(sequences, families, leaves, np.full(self.n_drawn, FRESH))
        return records.pick(np.array(kept, dtype=np.int64))


def _ranking(lengths: Floats, rng: np.random.Generator) -> Ints:
    """A random order of families that begins with one of about average length (f64[n], residues).

    The largest family can be a third of a source: a typical one there keeps corpora of different seeds alike.
    """
    order = rng.permutation(lengths.size)
    away = np.abs(lengths[order] / lengths.mean() - 1.0)
    typical = int(np.argmax(away <= max(0.1, float(away.min()))))
    order[[0, typical]] = order[[typical, 0]]
    return order


def _with_copies(
    fresh: _Records, pool: _Records, duplicate_share: float, shared_share: float, rng: np.random.Generator
) -> _Records:
    """Fresh records with copies of themselves, each somewhere behind its original, and of the pool's, anywhere.

    Both shares are of the records returned.
    """
    n_fresh = len(fresh.sequences)
    n_all = n_fresh / (1.0 - duplicate_share - shared_share)
    # Places first: drawn after their originals, copies would gather at the end of a round.
    behind = rng.random(round(duplicate_share * n_all)) * n_fresh
    originals = (rng.random(behind.size) * behind).astype(np.int64)
    n_shared = round(shared_share * n_all) if pool.sequences else 0
    shared = rng.choice(max(1, len(pool.sequences)), size=n_shared, replace=n_shared > len(pool.sequences))
    mixed = fresh.plus(fresh.pick(originals).marked(COPY)).plus(pool.pick(shared).marked(SHARED))
    places = np.concatenate([np.arange(n_fresh), behind, rng.random(n_shared) * n_fresh])
    return mixed.pick(np.argsort(places, kind="stable"))


@dataclass
class _Writer:
    """Writes one source's FASTA up to the record that reaches `quota` residues, and counts what it wrote."""

    name: str
    prefix: str
    quota: int
    handle: BinaryIO
    n_families: int
    residues: int = 0
    kinds: Ints = field(default_factory=lambda: np.zeros(3, dtype=np.int64))
    family_records: Ints = field(init=False)
    letters: Ints = field(default_factory=lambda: np.zeros(256, dtype=np.int64))

    def __post_init__(self) -> None:
        self.family_records = np.zeros(self.n_families, dtype=np.int64)

    @property
    def full(self) -> bool:
        return self.residues >= self.quota

    def write(self, records: _Records) -> int:
        """Write as many records as are still wanted; returns how many these are."""
        if self.full:
            return 0
        reached = self.residues + np.cumsum([len(sequence) for sequence in records.sequences])
        n_written = min(int(np.searchsorted(reached, self.quota)) + 1, reached.size)
        families, clades = records.families[:n_written], records.clades[:n_written]
        numbers = range(int(self.kinds.sum()) + 1, int(self.kinds.sum()) + n_written + 1)
        rows = zip(numbers, families.tolist(), clades.tolist(), records.sequences, strict=False)
        lines = [b">%b_%07d fam=%d clade=%d\n%b\n" % (self.prefix.encode(), *row) for row in rows]
        self.handle.write(b"".join(lines))
        text = np.frombuffer(b"".join(records.sequences[:n_written]), dtype=np.uint8)
        self.residues = int(reached[n_written - 1])
        self.letters += np.bincount(text, minlength=256)
        self.kinds += np.bincount(records.kinds[:n_written], minlength=3)
        self.family_records += np.bincount(families, minlength=self.n_families)
        return n_written

    def truth(self) -> SourceTruth:
        counts = self.letters[np.frombuffer(STANDARD.encode(), dtype=np.uint8)]
        return SourceTruth(
            name=self.name,
            file=f"{self.name}.fasta",
            records=int(self.kinds.sum()),
            unique_records=int(self.kinds[FRESH]),
            duplicates_within=int(self.kinds[COPY]),
            duplicates_across=int(self.kinds[SHARED]),
            residues=self.residues,
            residue_counts=tuple(counts.tolist()),
            unigram_entropy=entropy(counts.astype(np.float64)),
            family_records=tuple(self.family_records.tolist()),
        )
