"""The world behind a simulated corpus: domains evolved along trees, families built from them, and its truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from data_prep.evolution import LINKER_CLASS, N_RESIDUES, Sequences, SubstitutionModel, evolve, span_index
from data_prep.simulation import DOMAIN_LENGTH_RANGE, SimulationSettings, SimulationTruth, SourceTruth

__all__ = ["CLADES", "N_LEAVES", "World", "entropy", "zipf_shares"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

TREE_DEPTH: Final = 3
N_LEAVES: Final = 1 << TREE_DEPTH
CLADES: Final = N_LEAVES // 2
"""Leaves in the half of the tree that a family lives in."""
DOMAIN_COUNTS: Final = (1, 1, 1, 1, 2, 2, 3)
"""Domains of a family, equally probable entries: geometric with ratio 1/2, cut at 3."""
DOMAIN_LENGTH_SIGMA: Final = 0.35


def zipf_shares(n: int, exponent: float) -> Floats:
    """f64[n]: shares proportional to rank^-exponent."""
    weights = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    return np.asarray(weights / weights.sum())


def entropy(counts: Floats) -> float:
    """Nats, of the distribution in proportion to `counts`."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


@dataclass(frozen=True)
class World:
    """Domains at the leaves of their trees, and the families made of them.

    Parameters
    ----------
    leaves : row domain * 8 + leaf, a domain at a leaf; behind these, row k is a linker of k sites.
    domain_lengths : int64[n_domains], sites at the root.
    counts : int64[n_families], domains per family.
    domains, linkers : int64[sum(counts)], family after family: a domain, and the length of the linker before it.
    halves : int64[n_families], 0 or 1.
    """

    settings: SimulationSettings
    seed: int
    model: SubstitutionModel
    leaves: Sequences
    domain_lengths: Ints
    counts: Ints
    domains: Ints
    linkers: Ints
    halves: Ints

    @staticmethod
    def build(settings: SimulationSettings, seed: int) -> World:
        """Evolve every domain along the tree and chain domains to families.

        Parameters
        ----------
        seed : >= 0; the same settings and seed give the same world.
        """
        rng = np.random.default_rng([seed, 0])
        model = SubstitutionModel(settings.gamma_alpha, settings.indels_per_substitution, settings.indel_length)
        n_old, n_all = settings.n_domains, settings.n_domains + settings.n_new_domains
        lengths = settings.domain_length * np.exp(DOMAIN_LENGTH_SIGMA * rng.standard_normal(n_all))
        roots = model.roots(np.clip(np.rint(lengths), *DOMAIN_LENGTH_RANGE).astype(np.int64), rng)
        nodes, branch = roots, model.branch(settings.branch_length)
        for _ in range(TREE_DEPTH):
            nodes = evolve(nodes.take(np.repeat(np.arange(nodes.lengths.size), 2)), branch, rng)
        counts = rng.choice(DOMAIN_COUNTS, size=settings.n_families + settings.n_new_families)
        n_slots, n_old_slots = int(counts.sum()), int(counts[: settings.n_families].sum())
        old = rng.choice(n_old, size=n_old_slots, p=zipf_shares(n_old, settings.domain_zipf))
        # A new family chooses among all domains, the newest being the most popular with it.
        new = n_all - 1 - rng.choice(n_all, size=n_slots - n_old_slots, p=zipf_shares(n_all, settings.domain_zipf))
        linkers = rng.poisson(settings.linker_length, size=n_slots)
        linker_lengths = np.arange(linkers.max() + 1)
        free = np.full(linker_lengths.sum(), LINKER_CLASS * N_RESIDUES, dtype=np.uint8)
        leaves = Sequences(np.append(nodes.states, free), np.append(nodes.lengths, linker_lengths))
        halves = rng.integers(2, size=counts.size)
        return World(settings, seed, model, leaves, roots.lengths, counts, np.concatenate([old, new]), linkers, halves)

    @property
    def n_families(self) -> int:
        """Of both sources together."""
        return self.counts.size

    def ancestors(self, n_families: int) -> Sequences:
        """The first families at their leaves.

        Returns
        -------
        Sequences : row family * 4 + leaf within the family's half.
        """
        counts = np.repeat(self.counts[:n_families], CLADES)
        starts = np.repeat(np.cumsum(self.counts[:n_families]) - self.counts[:n_families], CLADES)
        slots = span_index(starts, counts)
        leaf = np.repeat(
            np.arange(n_families * CLADES) % CLADES + np.repeat(self.halves[:n_families], CLADES) * CLADES, counts
        )
        first_linker = self.domain_lengths.size * N_LEAVES
        rows = np.stack([first_linker + self.linkers[slots], self.domains[slots] * N_LEAVES + leaf], axis=1)
        return self.leaves.take(rows.ravel()).joined(2 * counts)

    def truth(self, residues: int, sources: tuple[SourceTruth, ...]) -> SimulationTruth:
        """The world and what was written of it as one record."""
        background = self.model.background
        chains = np.split(self.domains, np.cumsum(self.counts)[:-1])
        return SimulationTruth(
            seed=self.seed,
            residues=residues,
            settings=self.settings,
            background=tuple(background.tolist()),
            background_entropy=entropy(background),
            site_rates=tuple(self.model.rates.tolist()),
            tree=_newick(0, N_LEAVES, self.settings.branch_length) + ";",
            domain_lengths=tuple(self.domain_lengths.tolist()),
            architectures=tuple(tuple(chain.tolist()) for chain in chains),
            halves=tuple(self.halves.tolist()),
            sources=sources,
        )


def _newick(first: int, n_leaves: int, length: float) -> str:
    """A balanced tree over the leaves `first` and following, without the final semicolon."""
    if n_leaves == 1:
        return str(first)
    half = n_leaves // 2
    left, right = (_newick(start, half, length) for start in (first, first + half))
    return f"({left}:{length:g},{right}:{length:g})"
