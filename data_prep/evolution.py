"""Protein evolution along a branch, for many sequences at once: substitutions, site rates, insertions, deletions.

Sequences of different lengths lie end to end in one uint8 array of *states* (`Sequences`). A state is
`site class * 20 + residue`, so a site keeps its rate class for as long as it lives. A branch is then one table look-up
per site: uint8[states, 65536], indexed by the state and a uniform 16-bit draw, holds the state at the branch's end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.alphabet import STANDARD

__all__ = [
    "LINKER_CLASS",
    "N_RATE_CLASSES",
    "N_RESIDUES",
    "Branch",
    "Sequences",
    "SubstitutionModel",
    "background_frequencies",
    "evolve",
    "exchange_rates",
    "gamma_rates",
    "span_index",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

N_RESIDUES: Final = len(STANDARD)
N_RATE_CLASSES: Final = 4
LINKER_CLASS: Final = N_RATE_CLASSES
"""Sites under no constraint: every branch draws them anew from the background."""
N_DRAWS: Final = 1 << 16


def span_index(starts: Ints, lengths: Ints) -> Ints:
    """Indices of the spans `starts[i] : starts[i] + lengths[i]`, one span after the other.

    Parameters
    ----------
    starts, lengths : int64[n], in elements.

    Returns
    -------
    int64[sum(lengths)].
    """
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if ends.size else 0)


@dataclass(frozen=True)
class Sequences:
    """Sequences end to end: states uint8[sum(lengths)], lengths int64[n] in sites."""

    states: npt.NDArray[np.uint8]
    lengths: Ints

    @cached_property
    def ends(self) -> Ints:
        """int64[n]: one past each sequence's last site."""
        return np.cumsum(self.lengths)

    def take(self, rows: Ints) -> Sequences:
        """The sequences at `rows` (int64[m], repeats allowed), in that order."""
        lengths = self.lengths[rows]
        return Sequences(self.states[span_index(self.ends[rows] - lengths, lengths)], lengths)

    def joined(self, counts: Ints) -> Sequences:
        """Runs of `counts[i]` >= 1 neighbours (int64[m], summing to n) read as one sequence each."""
        return Sequences(self.states, np.add.reduceat(self.lengths, np.cumsum(counts) - counts))

    def residues(self) -> npt.NDArray[np.uint8]:
        """uint8[sum(lengths)]: ASCII letters of the residues."""
        letters = np.frombuffer(STANDARD.encode() * (LINKER_CLASS + 1), dtype=np.uint8)
        return letters[self.states]


def _blosum62_odds() -> Floats:
    """f64[20, 20]: how much more often two residues are aligned than by chance, in the order of `STANDARD`."""
    from Bio.Align import substitution_matrices

    matrix = substitution_matrices.load("BLOSUM62")  # type: ignore[no-untyped-call]
    order = [str(matrix.alphabet).index(letter) for letter in STANDARD]
    scores = np.asarray(matrix, dtype=np.float64)[np.ix_(order, order)]
    return np.asarray(np.exp2(scores / 2.0))  # the scores are in half-bits


def background_frequencies() -> Floats:
    """Residue frequencies under which BLOSUM62's pair frequencies have those same frequencies as margins.

    Solves sum_j p_j 2^(s_ij / 2) = 1 and scales the (nearly normalised: scores are rounded) solution to sum 1.

    Returns
    -------
    f64[20], in the order of `STANDARD`.

    **Source:** Henikoff and Henikoff 1992 (scores in half-bits); Yu, Wootton and Altschul 2003 (implied background).
    """
    frequencies = np.linalg.solve(_blosum62_odds(), np.ones(N_RESIDUES))
    return np.asarray(frequencies / frequencies.sum())


def exchange_rates() -> Floats:
    """Reversible rate matrix whose exchanges are BLOSUM62's, one substitution per site and unit of time.

    Q_ij is proportional to p_j 2^(s_ij / 2) for i != j, the rows sum to 0, and -sum_i p_i Q_ii = 1.

    Returns
    -------
    f64[20, 20], substitutions per site, in the order of `STANDARD`.

    **Source:** Henikoff and Henikoff 1992 (scores); Felsenstein 2004, chapter 13 (reversible models, scaling).
    """
    background = background_frequencies()
    rates = _blosum62_odds() * background
    np.fill_diagonal(rates, 0.0)
    np.fill_diagonal(rates, -rates.sum(axis=1))
    return np.asarray(rates / -(background @ np.diag(rates)))


def gamma_rates(alpha: float, n_classes: int = N_RATE_CLASSES) -> Floats:
    """Mean rates of equally probable classes of a gamma distribution of mean 1.

    Parameters
    ----------
    alpha : shape; the smaller, the more sites hardly change at all.

    Returns
    -------
    f64[n_classes], increasing, of mean 1.

    **Source:** Yang 1994, equation 10.
    """
    from scipy.special import gammainc, gammaincinv

    borders = gammaincinv(alpha, np.arange(n_classes + 1) / n_classes)
    return np.asarray(np.diff(gammainc(alpha + 1.0, borders)) * n_classes)


@dataclass(frozen=True)
class Branch:
    """What happens to every site on one branch.

    Parameters
    ----------
    table : uint8[states, 65536], the state at the end by the state at the start and a uniform draw.
    indel_rates : f64[classes], expected insertions + deletions per site of a class over the whole branch.
    mean_span : mean length of an insertion or a deletion, residues.
    background : f64[20], frequencies of inserted residues.
    """

    table: npt.NDArray[np.uint8]
    indel_rates: Floats
    mean_span: float
    background: Floats


@dataclass(frozen=True)
class SubstitutionModel:
    """BLOSUM62 exchanges, gamma site rates, and indels in proportion to each site's substitutions.

    Parameters
    ----------
    alpha : shape of the gamma distribution of site rates.
    indels_per_substitution : expected insertions + deletions per substitution.
    mean_span : mean length of an indel, residues; lengths are geometric.

    **Source:** Yang 1994 (site rates); Thorne, Kishino and Felsenstein 1992 (geometric lengths).
    """

    alpha: float
    indels_per_substitution: float
    mean_span: float

    @cached_property
    def background(self) -> Floats:
        """f64[20]: the stationary residue frequencies."""
        return background_frequencies()

    @cached_property
    def rates(self) -> Floats:
        """f64[4]: rate of each site class relative to the mean."""
        return gamma_rates(self.alpha)

    def branch(self, length: float) -> Branch:
        """The branch of `length` expected substitutions per site; linker sites start anew on it.

        **Source:** P(t) = exp(Q r t) for a site of rate r.
        """
        from scipy.linalg import expm

        constrained = expm(exchange_rates() * (self.rates * length)[:, None, None]).reshape(-1, N_RESIDUES)
        free = np.tile(self.background, (N_RESIDUES, 1))
        indel_rates = self.indels_per_substitution * length * np.append(self.rates, 1.0)
        return Branch(_lookup(np.concatenate([constrained, free])), indel_rates, self.mean_span, self.background)

    def roots(self, lengths: Ints, rng: np.random.Generator) -> Sequences:
        """New sequences of `lengths` (int64[n], sites): residues from the background, classes uniform."""
        total = int(lengths.sum())
        residues = rng.choice(N_RESIDUES, size=total, p=self.background)
        return Sequences((rng.integers(N_RATE_CLASSES, size=total) * N_RESIDUES + residues).astype(np.uint8), lengths)


def _lookup(probabilities: Floats) -> npt.NDArray[np.uint8]:
    """uint8[states, 65536] whose row s holds each end state as often as f64[states, 20] `probabilities[s]` says."""
    borders = np.rint(np.cumsum(probabilities, axis=1) * N_DRAWS).astype(np.int64)
    borders[:, -1] = N_DRAWS  # the sums are 1 up to rounding
    counts = np.diff(borders, axis=1, prepend=0)
    states = np.arange(counts.shape[0])[:, None] // N_RESIDUES * N_RESIDUES + np.arange(N_RESIDUES)
    return np.repeat(states.ravel().astype(np.uint8), counts.ravel()).reshape(-1, N_DRAWS)


def evolve(sequences: Sequences, branch: Branch, rng: np.random.Generator) -> Sequences:
    """Each sequence after one branch: substitutions, then deletions, then insertions; never empty.

    Returns
    -------
    Sequences : as many as given, in the same order.
    """
    draws = rng.integers(N_DRAWS, size=sequences.states.size, dtype=np.uint16)
    cells = sequences.states.astype(np.int64) << 16
    cells |= draws
    changed = Sequences(branch.table.ravel()[cells], sequences.lengths)
    return _insert(_delete(changed, branch, rng), branch, rng)


def _events(sequences: Sequences, branch: Branch, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Sites (sorted int64[k]) and lengths (int64[k]) of a branch's insertions, or of its deletions.

    Thinning: candidates at the fastest class's rate, each kept with its own class's share of that rate.
    """
    per_kind = branch.indel_rates / 2.0
    fastest = float(per_kind.max())
    size = sequences.states.size
    sites = np.sort(rng.integers(size, size=rng.poisson(fastest * size)))
    rates = per_kind[sequences.states[sites] // N_RESIDUES]
    sites = sites[rng.random(sites.size) * fastest < rates]
    return sites, rng.geometric(1.0 / branch.mean_span, size=sites.size)


def _delete(sequences: Sequences, branch: Branch, rng: np.random.Generator) -> Sequences:
    sites, spans = _events(sequences, branch, rng)
    owners = np.searchsorted(sequences.ends, sites, side="right")
    gone = np.unique(span_index(sites, np.minimum(spans, sequences.ends[owners] - sites)))
    owners = np.searchsorted(sequences.ends, gone, side="right")
    lost = np.bincount(owners, minlength=sequences.lengths.size)
    spared = lost == sequences.lengths  # a protein never vanishes
    return Sequences(
        np.delete(sequences.states, gone[~spared[owners]]),
        np.where(spared, sequences.lengths, sequences.lengths - lost),
    )


def _insert(sequences: Sequences, branch: Branch, rng: np.random.Generator) -> Sequences:
    """Insertions stand before their site, belong to its sequence and inherit its rate class."""
    sites, spans = _events(sequences, branch, rng)
    at = np.repeat(sites, spans)
    new = rng.choice(N_RESIDUES, size=at.size, p=branch.background).astype(np.uint8)
    new += sequences.states[at] // N_RESIDUES * N_RESIDUES
    gained = np.bincount(np.searchsorted(sequences.ends, at, side="right"), minlength=sequences.lengths.size)
    return Sequences(np.insert(sequences.states, at, new), sequences.lengths + gained)
