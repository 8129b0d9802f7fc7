"""Score a validation set: the loss of every sequence, and its mean with a standard error.

Shapes: S scored positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from plm_scaling.core.alphabet import EOS
from plm_scaling.core.run import Objective, RunConfig, ValidationLoss
from plm_scaling.corpus.batches import window_batch
from plm_scaling.corpus.reader import Corpus
from plm_scaling.corpus.validation import VALIDATION_MASK_SEED, ValidationSet
from plm_scaling.training.objectives import packed_input
from plm_scaling.training.steps import GradientStep
from plm_scaling.training.world import World

__all__ = ["SetScores", "score_set", "scores_by_source", "scoring_windows", "summarise", "val_table"]

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

_FEWEST_SEQUENCES: Final = 10
_POSITIONS: Final = 2048
"""Positions scored at once: large enough to hide the cost of calls, small enough for the caches."""


@dataclass(frozen=True)
class SetScores:
    """Losses of a validation set by sequence, in the order of its rows.

    Attributes
    ----------
    row : int64[n], record of the corpus.
    loss_sum, residue_loss_sum : float64[n], nats over all targets and over residues only.
    n_targets, n_residue_targets : int64[n]; a short sequence may have no masked residue.
    """

    name: str
    validation_id: str
    row: Int
    loss_sum: Float
    n_targets: Int
    residue_loss_sum: Float
    n_residue_targets: Int

    @property
    def per_token(self) -> float:
        """Mean loss over all targets, nats."""
        return float(self.loss_sum.sum() / max(1, self.n_targets.sum()))


def scoring_windows(context: int) -> int:
    """Windows scored at once."""
    return max(1, _POSITIONS // context)


def score_set(
    step: GradientStep, validation: ValidationSet, config: RunConfig, world: World | None = None
) -> SetScores:
    """Loss of every sequence of a validation set, the same in all processes.

    Parameters
    ----------
    step : made for `scoring_windows(context)` windows.
    world : the processes that share the work; each scores every `size`-th batch, all equally often.
    """
    world = world or World()
    width, windows = scoring_windows(config.context), validation.windows
    rows, losses, residues = [], [], []
    for first in range(0, windows.n_windows, width * world.size):
        # A batch is filled up with its first window again, which is not counted; past the end there is nothing new.
        begin = first + width * world.rank
        index = np.arange(begin, begin + width)
        n_new = max(0, min(width, windows.n_windows - begin))
        batch = window_batch(windows, np.where(index < windows.n_windows, index, begin if n_new else first))
        packed = packed_input(
            batch, config.objective, mask_seed=VALIDATION_MASK_SEED, mask_rate=config.mask_rate, mask_refresh=False
        )
        scored = packed.scored_S.numpy()
        n_scored = int(np.searchsorted(scored, n_new * config.context))
        rows.append(batch.row.reshape(-1)[scored[:n_scored]])
        losses.append(step.losses(packed)[:n_scored].to("cpu", torch.float64).numpy())
        residues.append(packed.target_S.numpy()[:n_scored] != EOS)
    return _by_sequence(validation, np.concatenate(rows), np.concatenate(losses), np.concatenate(residues), world)


def _by_sequence(
    validation: ValidationSet, row: Int, loss: Float, residue: npt.NDArray[np.bool_], world: World
) -> SetScores:
    order = np.argsort(validation.rows, kind="stable")
    place = order[np.searchsorted(validation.rows, row, sorter=order)]
    n = len(validation.rows)
    sums = np.stack([np.bincount(place, weights=weights, minlength=n) for weights in (loss, loss * residue)])
    counts = np.stack([np.bincount(place, minlength=n), np.bincount(place[residue], minlength=n)])
    world.sum_(torch.from_numpy(sums))  # in place
    world.sum_(torch.from_numpy(counts))
    return SetScores(
        name=validation.name,
        validation_id=validation.validation_id,
        row=validation.rows,
        loss_sum=sums[0],
        n_targets=counts[0],
        residue_loss_sum=sums[1],
        n_residue_targets=counts[1],
    )


def scores_by_source(scores: SetScores, corpus: Corpus) -> tuple[SetScores, ...]:
    """The part of each source of a set that holds several, named SET@SOURCE; handfuls of sequences are left out."""
    source = corpus.source[scores.row]
    present, counts = np.unique(source[scores.n_targets > 0], return_counts=True)
    if len(present) < 2:
        return ()
    names = [stats.name for stats in corpus.manifest.sources]
    kept = present[counts >= _FEWEST_SEQUENCES].tolist()
    return tuple(_part(scores, names[number], source == number) for number in kept)


def _part(scores: SetScores, source: str, here: npt.NDArray[np.bool_]) -> SetScores:
    return SetScores(
        name=f"{scores.name}@{source}",
        validation_id=f"{scores.validation_id}@{source}",
        row=scores.row[here],
        loss_sum=scores.loss_sum[here],
        n_targets=scores.n_targets[here],
        residue_loss_sum=scores.residue_loss_sum[here],
        n_residue_targets=scores.n_residue_targets[here],
    )


def summarise(scores: SetScores, objective: Objective) -> ValidationLoss:
    """Mean losses of a set and the standard error of the mean over sequences.

    **Source:** Cochran 1977, equation 6.13 (ratio estimator): sequences are drawn, their targets come along.
    """
    has = scores.n_targets > 0
    n, targets = int(has.sum()), int(scores.n_targets.sum())
    residual = scores.loss_sum[has] - scores.per_token * scores.n_targets[has]
    se = math.sqrt(float(residual @ residual) * n / (n - 1)) / targets if n > 1 else math.inf
    per_residue = float(scores.residue_loss_sum.sum() / max(1, scores.n_residue_targets.sum()))
    return ValidationLoss(
        set_name=scores.name,
        validation_id=scores.validation_id,
        per_token=scores.per_token,
        per_residue=scores.per_token if objective == "mlm" else per_residue,
        se=se,
        n_targets=targets,
        n_sequences=n,
    )


def val_table(scored: Iterable[SetScores]) -> dict[str, npt.NDArray[np.generic] | list[str]]:
    """Columns of `val.parquet`: set, row, loss_sum, n_targets, residue_loss_sum, n_residue_targets.

    A corpus without validation sequences gives a table without rows.
    """
    sets = list(scored)
    columns = {
        "row": np.int64,
        "loss_sum": np.float64,
        "n_targets": np.int64,
        "residue_loss_sum": np.float64,
        "n_residue_targets": np.int64,
    }
    table: dict[str, npt.NDArray[np.generic] | list[str]] = {"set": [s.name for s in sets for _ in range(len(s.row))]}
    return table | {
        name: np.concatenate([np.empty(0, kind), *(getattr(s, name) for s in sets)]) for name, kind in columns.items()
    }
