"""The settings of a simulated corpus, and the truth about one that was made (`data_prep.simulate`)."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from plm_scaling.core.records import Record

__all__ = [
    "DOMAIN_LENGTH_RANGE",
    "MetagenomeSettings",
    "SimulationSettings",
    "SimulationTruth",
    "SourceSettings",
    "SourceTruth",
]

DOMAIN_LENGTH_RANGE: Final = (15, 200)
"""Shortest and longest domain at its root, residues."""


class SourceSettings(Record):
    """What sets one source apart from the other; the defaults are those of `uniref_like`."""

    zipf: float = Field(default=1.4, ge=0.0)
    """Expected members of the k-th largest family are proportional to k^-zipf."""
    split_length: float = Field(default=0.0, ge=0.0)
    """Substitutions per site between the tree's leaves and this source's own."""
    tip_length: float = Field(default=0.05, ge=0.0)
    """Substitutions per site between a leaf and a record."""
    duplicate_share: float = Field(default=0.05, ge=0.0, le=0.4)
    """Share of the records that are exact copies of an earlier record of this source."""


class MetagenomeSettings(SourceSettings):
    """`metagenome_like`: flatter family sizes, more divergence, and records shared with the first source."""

    zipf: float = Field(default=1.2, ge=0.0)
    split_length: float = Field(default=0.05, ge=0.0)
    tip_length: float = Field(default=0.08, ge=0.0)
    shared_share: float = Field(default=0.03, ge=0.0, le=0.4)
    """Share of the records that are exact copies of a record of the first source."""


class SimulationSettings(Record):
    """The evolutionary world and its two sources; the defaults show scaling within minutes on a laptop."""

    n_domains: int = Field(default=600, ge=1)
    n_families: int = Field(default=4000, ge=1)
    """Families of the first source."""
    n_new_domains: int = Field(default=600, ge=0)
    n_new_families: int = Field(default=4000, ge=0)
    """Families the second source has besides those of the first."""
    domain_zipf: float = Field(default=0.7, ge=0.0)
    """How unevenly families choose their domains."""
    domain_length: float = Field(default=30.0, ge=DOMAIN_LENGTH_RANGE[0], le=DOMAIN_LENGTH_RANGE[1])
    """Median length of a domain, residues."""
    linker_length: float = Field(default=2.0, ge=0.0, le=100.0)
    """Mean of the Poisson lengths of linkers, residues."""
    branch_length: float = Field(default=0.04, ge=0.0)
    """Substitutions per site on each of the tree's three levels."""
    gamma_alpha: float = Field(default=0.4, gt=0.0)
    """Shape of the gamma distribution of site rates."""
    indels_per_substitution: float = Field(default=0.02, ge=0.0, le=1.0)
    indel_length: float = Field(default=2.0, ge=1.0)
    """Mean length of an insertion or a deletion, residues."""
    metagenome_share: float = Field(default=0.4, gt=0.0, lt=1.0)
    """Share of the residues that `metagenome_like` holds."""
    uniref: SourceSettings = SourceSettings()
    metagenome: MetagenomeSettings = MetagenomeSettings()


class SourceTruth(Record):
    """Exact counts of one source as written."""

    name: str
    file: str
    records: int
    unique_records: int
    """Records whose sequence occurs neither earlier in this source nor in the first."""
    duplicates_within: int
    """Records equal to an earlier record of this source."""
    duplicates_across: int
    """Records equal to a record of the first source."""
    residues: int
    residue_counts: tuple[int, ...]
    """Over all records, in the order of the 20 standard residues."""
    unigram_entropy: float
    """Of `residue_counts`, nats per residue."""
    family_records: tuple[int, ...]
    """Records of each family, copies included."""


class SimulationTruth(Record):
    """What a simulated corpus was made from, and what it holds."""

    seed: int
    residues: int
    """As asked for; each source ends with the record that reaches its share."""
    settings: SimulationSettings
    background: tuple[float, ...]
    """Stationary frequencies of the 20 standard residues."""
    background_entropy: float
    """Nats per residue."""
    site_rates: tuple[float, ...]
    """Of the equally probable gamma classes, relative to their mean."""
    tree: str
    """Newick, substitutions per site; the leaves are the clades of the FASTA headers. One tree for every domain."""
    domain_lengths: tuple[int, ...]
    """At the root, residues."""
    architectures: tuple[tuple[int, ...], ...]
    """Domains of each family, N-terminal first."""
    halves: tuple[int, ...]
    """Which half of the tree's leaves each family lives in: 0 or 1."""
    sources: tuple[SourceTruth, ...]
