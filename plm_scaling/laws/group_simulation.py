"""Simulated sweeps whose groups have known laws: what recovers them can be tested. R runs, G groups, K sequences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from plm_scaling.core.run_row import RunRow
from plm_scaling.core.run_table import RunTable
from plm_scaling.laws.group_losses import GroupLosses
from plm_scaling.laws.jets import FloatArray

__all__ = ["GroupWorld", "SimulatedSweep", "simulate_groups"]


@dataclass(frozen=True)
class GroupWorld:
    """L_g = E_g + A_g (N/N0)^-alpha_g + B_g (D/D0)^-beta_g, and the noise of sequences, seeds and single groups.

    Spreads are standard deviations over groups: of E in nats, of ln A and ln B, of alpha and beta. Sequences differ
    from their group in loss (`sequence_sd`) and in slope (`sequence_slope_sd`, share of A and B), with a Student tail
    of 4 degrees of freedom.
    """

    groups: int = 30
    smallest: int = 3
    """Validation sequences of the smallest group; sizes fall as a power of the rank from `largest`."""
    largest: int = 120
    E: float = 1.6
    A: float = 0.4
    B: float = 0.5
    alpha: float = 0.3
    beta: float = 0.35
    spread_E: float = 0.25
    spread_A: float = 0.3
    spread_B: float = 0.3
    spread_exponent: float = 0.0
    per_ln_tokens: float = -0.03
    """Change of E_g per ln of the group's training tokens, nats."""
    sequence_sd: float = 0.25
    sequence_slope_sd: float = 0.3
    seed_sd: float = 0.01
    """Of a run, common to all groups; nats."""
    group_seed_sd: float = 0.005
    """Of a group in a run; nats."""
    sizes: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    """N over N0 of each budget; D makes the compute."""
    budgets: tuple[float, ...] = (0.25, 1.0, 4.0, 16.0)
    """N D over N0 D0."""


@dataclass(frozen=True)
class SimulatedSweep:
    """A sweep and its truth."""

    runs: RunTable
    losses: GroupLosses
    world: GroupWorld
    parameters: FloatArray
    """float64[G, 5]: E, A, B, alpha, beta of each group."""
    N0: float
    D0: float

    def loss(self, N: float, D: float) -> FloatArray:
        """True losses of the groups, float64[G]."""
        E, A, B, alpha, beta = self.parameters.T
        return np.asarray(E + A * (N / self.N0) ** -alpha + B * (D / self.D0) ** -beta)

    def per_doubling(self, N: float, D: float) -> FloatArray:
        """True changes of the groups' losses per doubling of N and of D at a point, float64[G, 2]."""
        _, A, B, alpha, beta = self.parameters.T
        of_N = -alpha * A * (N / self.N0) ** -alpha
        of_D = -beta * B * (D / self.D0) ** -beta
        return np.asarray(np.log(2.0) * np.stack([of_N, of_D], axis=1))


def simulate_groups(world: GroupWorld, seed: int) -> SimulatedSweep:
    """One sweep of a world; the loss of all sequences is what the simulated validation set says."""
    rng = np.random.default_rng(seed)
    G = world.groups
    N0, D0 = 2e4, 2e6
    points = [(N0 * size, D0 * budget / size) for budget in world.budgets for size in world.sizes]
    N, D = np.array(points).T
    sizes = np.geomspace(world.largest, world.smallest, G).round().astype(np.int64)
    tokens = np.exp(rng.normal(0.0, 1.0, G)) * sizes
    share = tokens / tokens.sum()
    ln_share = np.log(share) - np.log(share).mean()
    E = world.E + world.per_ln_tokens * ln_share + world.spread_E * rng.standard_normal(G)
    A = world.A * np.exp(world.spread_A * rng.standard_normal(G))
    B = world.B * np.exp(world.spread_B * rng.standard_normal(G))
    alpha = world.alpha + world.spread_exponent * rng.standard_normal(G)
    beta = world.beta + world.spread_exponent * rng.standard_normal(G)
    label = np.repeat(np.arange(G), sizes)
    K = len(label)
    targets = np.exp(rng.normal(5.0, 0.6, K)).round() + 10.0

    def tail() -> FloatArray:
        return np.asarray(rng.standard_t(4, K) / np.sqrt(2.0))

    own = world.sequence_sd * tail()
    own_A, own_B = world.sequence_slope_sd * tail(), world.sequence_slope_sd * tail()
    term_A = A[:, None] * (N / N0) ** -alpha[:, None]
    term_B = B[:, None] * (D / D0) ** -beta[:, None]
    common = world.seed_sd * rng.standard_normal(len(N))
    single = world.group_seed_sd * rng.standard_normal((G, len(N)))
    group = E[:, None] + term_A + term_B + common + single
    loss = group[label] + own[:, None] + own_A[:, None] * term_A[label] + own_B[:, None] * term_B[label]
    sums = (loss * targets[:, None]).T
    reference = sums.sum(axis=1) / targets.sum()
    rows = tuple(
        RunRow(
            run_id=f"run-{i}", objective="clm", role="isoflop", N=float(N[i]), D=float(D[i]), loss=float(reference[i]),
            C_6nd=6.0 * float(N[i] * D[i]), C_exact=6.0 * float(N[i] * D[i]), validation_id="simulated",
        )
        for i in range(len(N))
    )  # fmt: skip
    names = tuple(f"group-{g}" for g in range(G))
    losses = GroupLosses(tuple(row.run_id for row in rows), sums, targets, label, names, targets - 1.0, share)
    return SimulatedSweep(RunTable(rows), losses, world, np.stack([E, A, B, alpha, beta], axis=1), N0, D0)
