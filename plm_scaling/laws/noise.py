"""How far a loss moves when only the seed changes, and which runs a law may be fitted to."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

import numpy as np

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.forms import FloatArray

__all__ = [
    "PAIRED_SHARE",
    "PREDICTED",
    "LossNoise",
    "law_runs",
    "loss_errors",
    "pooled_seed_noise",
    "replicate_groups",
    "unlimited_streams",
]

PAIRED_SHARE: Final = 0.4
"""Share of a run's validation standard error that remains between two runs scored on the same sequences.

Measured on a simulated corpus: .2-.3 for CLM, .3-.45 for MLM; the upper end is used."""

PREDICTED: Final = "predicted"
"""`final_loss` of a row whose loss was predicted, whatever becomes of its flags: it measures no noise between seeds."""

SAME_D: Final = 0.02
"""Replicates' numbers of tokens differ by less than this share."""

_LAW_ROLES: Final = ("isoflop", "grid", "replicate", "transfer_scratch", "transfer_source")


_NEARLY_NEW: Final = 4.0
"""Epochs."""


@dataclass(frozen=True)
class LossNoise:
    """Standard deviation of a run's loss between seeds, nats, and the degrees of freedom behind it (inf: known)."""

    sd: float
    df: float = math.inf

    def factors(self, draws: int, rng: np.random.Generator) -> FloatArray:
        """float64[draws]: plausible true sd over the estimated one; normal noise times these is Student's t."""
        if not math.isfinite(self.df):
            return np.ones(draws)
        return np.asarray(np.sqrt(self.df / rng.chisquare(self.df, size=draws)))


def unlimited_streams(row: RunRow) -> bool:
    """Whether the run drew from all the data there is (no stream cut to some unique tokens) as they are."""
    if not row.streams:
        return True
    try:
        streams = json.loads(row.streams)
    except ValueError:
        return True
    return all(stream.get("unique_tokens") is None and not stream.get("shuffled") for stream in streams)


def law_runs(table: RunTable, objective: str) -> RunTable:
    """The runs a law of compute, size and tokens is about: trained from scratch to the end on uncut data.

    Repeat, diversity and transfer-target runs answer other questions and stay out; the scratch partners and sources
    of transfers are runs like any other. Of a table without roles, runs of more than four epochs stay out: up to four
    are worth nearly as much as new data. Rows with a flag of `EXCLUDED_FLAGS` stay out in every case.

    **Source:** Muennighoff et al. 2023, section 6 (four epochs).
    """

    def belongs(row: RunRow) -> bool:
        return (
            ((row.role == "" and (row.epochs or 1.0) <= _NEARLY_NEW) or any(row.has_role(role) for role in _LAW_ROLES))
            and row.source_run_id is None
            and row.schedule_complete
            and not row.excluded
            and unlimited_streams(row)
            and math.isfinite(row.loss)
            and row.loss > 0
        )

    return table.of(objective).where(belongs)


def _setting(row: RunRow) -> Hashable:
    """Everything but the seed and D that a run's loss depends on."""
    recipe = (row.batch_tokens, row.peak_lr, row.mask_refresh, *row.recipe_key)
    return (row.objective, row.N, *recipe, row.streams, row.validation_id, row.corpus_id)


def replicate_groups(table: RunTable) -> list[list[RunRow]]:
    """Measured runs of several seeds that differ by nothing else; each seed draws other windows, so D differs a little.

    A predicted end is none of them: its error is the prediction's, and the scatter between two says nothing of seeds.
    """
    groups: list[list[RunRow]] = []
    measured = (row for row in table if not row.is_imputed and row.final_loss != PREDICTED)
    for row in sorted(measured, key=lambda r: (repr(_setting(r)), r.D)):
        last = groups[-1] if groups else []
        if last and _setting(last[0]) == _setting(row) and row.D <= last[0].D * (1 + SAME_D):
            last.append(row)
        else:
            groups.append([row])
    return [group for group in groups if len({row.seed for row in group}) > 1]


def pooled_seed_noise(table: RunTable) -> LossNoise | None:
    """Pooled standard deviation of the measured loss between seeds at equal settings; None without replicates.

    **Source:** pooled variance, sum of squares within settings over the sum of their degrees of freedom.
    """
    by_seed = ({row.seed: row.loss for row in group} for group in replicate_groups(table))
    replicated = [np.array(list(losses.values())) for losses in by_seed]
    df = sum(len(losses) - 1 for losses in replicated)
    if not df:
        return None
    squares = sum(float(((losses - losses.mean()) ** 2).sum()) for losses in replicated)
    return LossNoise(math.sqrt(squares / df), float(df)) if squares > 0 else None


def loss_errors(rows: RunTable, n_seeds: FloatArray, noise: LossNoise | None, loss_se: FloatArray) -> FloatArray:
    """Standard error of mean losses against each other, nats, float64[k]; zero where nothing is known.

    Seed noise falls with the number of seeds. Validation noise does not, since all runs are scored on the same
    sequences, but only its paired share tells runs apart.
    """
    ids = {row.validation_id for row in rows}
    share = PAIRED_SHARE if len(ids) == 1 and None not in ids else 1.0
    seeds = (noise.sd if noise else 0.0) ** 2 / n_seeds
    return np.asarray(np.sqrt(seeds + (share * np.nan_to_num(loss_se)) ** 2))
