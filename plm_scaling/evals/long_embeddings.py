"""Activations of proteins of any length: those longer than a model's context are read in overlapping windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plm_scaling.core.errors import PlmScalingError
from plm_scaling.evals.adapters.base import Adapter, Float32Array, FloatArray, Pool
from plm_scaling.evals.windows import covering_windows, edge_weights, room

__all__ = ["embed_any_length"]


def embed_any_length(
    adapter: Adapter, sequences: Sequence[str], *, layer: int = -1, pool: Pool = "mean"
) -> list[Float32Array]:
    """As `Adapter.embed`, whatever the length; residues that several windows hold get a weighted mean of them.

    What a window cannot see is missing from its activations: proteins that fit and proteins that do not are read in
    different ways, so a table that mixes them says so.

    Raises
    ------
    PlmScalingError : activations that are no finite numbers; names the first such sequence.
    """
    width = room(adapter.info.context, max(map(len, sequences), default=0))
    pieces, owners = [], []
    for k, sequence in enumerate(sequences):
        if len(sequence) > width:
            spans = covering_windows(len(sequence), width)
            pieces += [sequence[begin:end] for begin, end in spans]
            owners += [k] * len(spans)
    if not pieces:
        return _finite(adapter, sequences, adapter.embed(sequences, layer=layer, pool=pool))
    short = [k for k, sequence in enumerate(sequences) if len(sequence) <= width]
    read = adapter.embed([sequences[k] for k in short], layer=layer, pool=pool) if short else []
    found = dict(zip(short, read, strict=True))
    read = adapter.embed(pieces, layer=layer, pool="none")
    for k in dict.fromkeys(owners):
        parts = [part for part, owner in zip(read, owners, strict=True) if owner == k]
        whole = _joined(parts, len(sequences[k]), width, causal=adapter.info.objective == "clm")
        found[k] = np.asarray(whole.mean(axis=0) if pool == "mean" else whole, dtype=np.float32)
    return _finite(adapter, sequences, [found[k] for k in range(len(sequences))])


def _finite(adapter: Adapter, sequences: Sequence[str], found: list[Float32Array]) -> list[Float32Array]:
    """The same, or a refusal: a head on what is no number is no number, or silently none of the model."""
    if bad := [k for k, values in enumerate(found) if not np.isfinite(values).all()]:
        raise PlmScalingError(
            f"{adapter.info.name} shows activations of {len(bad)} of {len(found)} sequences that are no finite numbers",
            where=f"sequence {bad[0] + 1}, {sequences[bad[0]][:24]}",
            hint="damaged weights, or a half-precision overflow: check the weights, and score in float32",
        )
    return found


def _joined(parts: Sequence[Float32Array], length: int, width: int, *, causal: bool) -> FloatArray:
    """Activations float64[L, D] from those of its windows."""
    spans = covering_windows(length, width)
    whole = np.zeros((length, parts[0].shape[1]))
    for (begin, end), weights, part in zip(
        spans, edge_weights(spans, length, "left" if causal else "both"), parts, strict=True
    ):
        whole[begin:end] += weights[:, None] * part
    return whole
