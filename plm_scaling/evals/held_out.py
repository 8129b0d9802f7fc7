"""`HeldOutLosses`: nats and targets of every sequence of a held-out set, under one named protocol. n sequences.

Protocols are never mixed, in a table or in a mean: a masked model that sees 85 % of a sequence, one that sees all but a
residue, and a causal one that sees what came before answer different questions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from plm_scaling.core.alphabet import FIRST_RESIDUE, MASK, STANDARD, decode
from plm_scaling.core.errors import ConfigError, PlmScalingError, did_you_mean
from plm_scaling.corpus.masks import mlm_mask
from plm_scaling.corpus.validation import VALIDATION_MASK_SEED
from plm_scaling.evals.adapters.asking import need, residue_ids
from plm_scaling.evals.adapters.base import Adapter, FloatArray, Letters, ModelInfo, Query
from plm_scaling.evals.cost import Cost
from plm_scaling.evals.letters import amino_ids, letter_columns
from plm_scaling.evals.likelihoods import Directions, clm_totals
from plm_scaling.evals.site_nats import site_nats
from plm_scaling.evals.site_sample import sample_sites
from plm_scaling.evals.windows import room

__all__ = ["LossProtocol", "HeldOutLosses", "held_out_losses"]

LossProtocol = Literal["clm", "mlm15", "mlm1"]
"""clm: every residue given those before it; mlm15: a fixed 15 % of the residues, 80/10/10; mlm1: one at a time."""
_PROTOCOLS: Final = ("clm", "mlm15", "mlm1")
_RATE: Final = 0.15
_AT_ONCE: Final = 2048


@dataclass(frozen=True)
class HeldOutLosses:
    """Losses by sequence.

    Attributes
    ----------
    key : the protocol with all that changes its numbers; only equal keys are compared.
    sums : float64[n], nats over the targets.
    targets : int64[n]; a short sequence may have none under mlm15.
    """

    info: ModelInfo
    key: str
    sums: FloatArray
    targets: npt.NDArray[np.int64]
    cost: Cost = field(default_factory=Cost)

    def __len__(self) -> int:
        return len(self.sums)


def held_out_losses(
    adapter: Adapter,
    sequences: Sequence[str],
    protocol: LossProtocol | Literal["auto"] = "auto",
    *,
    letters: Letters = "20",
    directions: Directions = "auto",
    per_sequence: int | None = None,
) -> HeldOutLosses:
    """The loss of every sequence; X, B, U, Z and O are shown and not scored, but by `raw` letters of clm.

    Of a model over tokens of several residues it is the loss of its own tokens, counted by residue.

    Parameters
    ----------
    protocol : auto: clm of a causal model, mlm15 of a masked one.
    letters : 20 renormalises over the amino acids and leaves the end of a sequence out; raw does neither.
    directions : of clm.
    per_sequence : of mlm1: so many sites of each sequence, drawn by content, instead of all.

    Raises
    ------
    ConfigError : an unknown protocol, or no sequence.
    RefusedError : the model cannot do it.
    PlmScalingError : a loss that is no finite number.
    """
    info = adapter.info
    chosen: LossProtocol = _usual(info) if protocol == "auto" else protocol
    if chosen not in _PROTOCOLS:
        raise ConfigError(f"there is no protocol {chosen!r}", hint=did_you_mean(chosen, _PROTOCOLS))
    if not sequences:
        raise ConfigError("no sequence to score")
    if chosen == "clm":
        totals = clm_totals(adapter, sequences, directions=directions, letters=letters)
        whole = letters == "raw" or totals.pieces  # tokens of several residues are counted with all they hold
        end = int(letters == "raw")
        count = [len(s) + end if whole else int((amino_ids(s) >= 0).sum()) for s in sequences]
        key = "/".join(["clm", *totals.protocol, f"letters {letters}", f"window {totals.windows}"])
        found = HeldOutLosses(info, key, -totals.values, np.array(count), totals.cost)
    elif chosen == "mlm1":
        found = _one_at_a_time(adapter, sequences, letters, per_sequence)
    else:
        found = _at_fixed_masks(adapter, sequences, letters)
    if len(bad := np.flatnonzero(~np.isfinite(found.sums))):
        raise PlmScalingError(
            f"{info.name} gives {len(bad)} of {len(sequences)} sequences no finite loss",
            where=f"sequence {bad[0] + 1}",
            hint="damaged weights, or a half-precision overflow: check the weights, and score in float32",
        )
    return found


def _usual(info: ModelInfo) -> LossProtocol:
    causal = {"causal", "total"} & set(info.abilities)
    return "clm" if causal and (info.objective == "clm" or "masked" not in info.abilities) else "mlm15"


def _one_at_a_time(
    adapter: Adapter, sequences: Sequence[str], letters: Letters, per_sequence: int | None
) -> HeldOutLosses:
    sample = sample_sites(sequences, per_sequence=per_sequence or max(map(len, sequences)))
    found = site_nats(adapter, sequences, sample, method="masked", letters=letters, draws=2)
    sums = np.bincount(sample.sequence, weights=found.values, minlength=len(sequences)).astype(np.float64)
    count = np.bincount(sample.sequence, minlength=len(sequences))
    sites = f"{per_sequence} sites each" if per_sequence else "all sites"
    key = f"mlm1/{sites}/letters {letters}/window {'per site' if found.cut else 'whole'}"
    return HeldOutLosses(adapter.info, key, sums, count, found.cost)


def _at_fixed_masks(adapter: Adapter, sequences: Sequence[str], letters: Letters) -> HeldOutLosses:
    """Masks by the letters of a sequence, whatever stands beside it; longer ones in consecutive pieces, as trained."""
    need(adapter.info, "masked")
    width = room(adapter.info.context, max(map(len, sequences)))
    column = letter_columns(adapter.info, letters)
    owners: list[int] = []
    truths: list[npt.NDArray[np.int64]] = []
    queries: list[Query] = []
    for number, sequence in enumerate(sequences):
        for query, truth in _masked_pieces(sequence, width):
            owners.append(number)
            truths.append(truth)
            queries.append(query)
    sums, count = np.zeros(len(sequences)), np.zeros(len(sequences), dtype=np.int64)
    for begin in range(0, len(queries), _AT_ONCE):
        part = slice(begin, begin + _AT_ONCE)
        answers = adapter.masked_logprobs(queries[part], letters=letters)
        for owner, truth, logprobs in zip(owners[part], truths[part], answers, strict=True):
            sums[owner] -= logprobs[np.arange(len(truth)), column[truth]].sum()
            count[owner] += len(truth)
    tokens = sum(len(query.sequence) + 2 for query in queries)
    cut = "consecutive" if any(len(sequence) > width for sequence in sequences) else "whole"
    key = f"mlm15/80-10-10, seed {VALIDATION_MASK_SEED:#x}/letters {letters}/window {cut}"
    return HeldOutLosses(adapter.info, key, sums, count, Cost(int(count.sum()), len(queries), tokens, tokens))


def _masked_pieces(sequence: str, width: int) -> list[tuple[Query, npt.NDArray[np.int64]]]:
    """What a model is shown of a sequence, with the true amino acid at each site it is asked about."""
    ids = residue_ids(sequence).astype(np.uint8)
    row = np.full(len(ids), _row_of(sequence), dtype=np.int64)
    shown, targets = mlm_mask(row, np.arange(len(ids)), 0, ids, VALIDATION_MASK_SEED, _RATE)
    hidden = shown == MASK
    scored = targets & (ids < FIRST_RESIDUE + len(STANDARD))
    letters = decode(np.where(hidden, ids, shown))  # a masked site keeps its letter, which the model is not shown
    pieces = []
    for begin in range(0, len(ids), width):
        end = min(begin + width, len(ids))
        read = np.flatnonzero(scored[begin:end])
        if len(read):
            masked = tuple(np.flatnonzero(hidden[begin:end]).tolist())
            query = Query(letters[begin:end], masked=masked, read=tuple(read.tolist()))
            pieces.append((query, ids[begin + read].astype(np.int64) - FIRST_RESIDUE))
    return pieces


def _row_of(sequence: str) -> int:
    """A number for a sequence that follows from its letters: equal sequences have equal masks, in any file."""
    return int.from_bytes(hashlib.sha256(sequence.encode()).digest()[:8], "little", signed=True)
