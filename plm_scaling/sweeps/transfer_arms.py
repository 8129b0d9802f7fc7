"""Arms that pass on what a model learnt from one objective to the other, with the controls that say what was passed."""

from __future__ import annotations

from collections.abc import Iterator

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import PlanError
from plm_scaling.core.run import Objective, RunConfig, Stream
from plm_scaling.sweeps.arm_records import TransferArm, TransferGridArm
from plm_scaling.sweeps.drafts import Draft, RunParts, at_lr, started_from
from plm_scaling.sweeps.pools import flops_per_token

__all__ = ["transfer_grid_runs", "transfer_runs"]

Streams = tuple[Stream, ...]


def transfer_grid_runs(parts: RunParts, arm: TransferGridArm, where: str) -> Iterator[Draft]:
    """The pairs of every size and share, and per size the scratch run of all tokens.

    Raises
    ------
    PlanError : a size or a number of tokens that cannot be used.
    """
    every_D = arm.D * len(arm.sizes) if len(arm.D) == 1 else arm.D
    for number, size in enumerate(arm.sizes):
        D = _tokens_of(parts, arm.C, size, where) if arm.C is not None else every_D[number]
        for share in arm.source_shares:
            pair = TransferArm(
                size=size,
                D=(1.0 - share) * D,
                D_source=share * D,
                direction=arm.direction,
                overlap=arm.overlap,
                lr_factor=arm.lr_factor,
                scratch_D=(D,),
                controls=arm.controls,
                lr_factors=arm.lr_factors,
                seeds=arm.seeds,
            )
            yield from transfer_runs(parts, pair, where)


def _tokens_of(parts: RunParts, C: float, size: str, where: str) -> float:
    """Tokens that C FLOPs train, before the plan's scale."""
    cost = parts.cost(parts.all_streams())
    return C / flops_per_token(parts.shape(size, where), cost, parts.spec.currency)


def transfer_runs(parts: RunParts, arm: TransferArm, where: str) -> Iterator[Draft]:
    """Source, transferred run and scratch runs of every seed, then the controls and the other learning rates.

    Raises
    ------
    PlanError : a size or a number of tokens that cannot be used.
    """
    shape = parts.shape(arm.size, where)
    D, D_source = parts.tokens(arm.D, where, "D"), parts.tokens(arm.D_source, where, "D_source")
    source_objective, target_objective = _directions(arm)
    source_streams, target_streams = _phases(parts, arm, D_source, D, where)
    for seed in arm.seeds or parts.spec.seeds:
        source = parts.config(source_objective, shape, D_source, source_streams, seed)
        yield Draft(source, ("transfer_source",))
        scratch = parts.config(target_objective, shape, D, target_streams, seed)
        transferred = started_from(scratch, source.run_id, arm.lr_factor)
        yield Draft(transferred, ("transfer_target",))
        yield Draft(scratch, ("transfer_scratch",))
        for other in arm.scratch_D:
            tokens = parts.tokens(other, where, "scratch_D")
            yield Draft(parts.config(target_objective, shape, tokens, target_streams, seed), ("transfer_scratch",))
        yield from _controls(parts, arm, shape, source, scratch)
        for factor in arm.lr_factors:
            if factor != 1.0:
                yield Draft(at_lr(transferred, factor), ("lr_probe",))
                yield Draft(at_lr(scratch, factor), ("lr_probe",))


def _controls(
    parts: RunParts, arm: TransferArm, shape: ModelShape, source: RunConfig, scratch: RunConfig
) -> Iterator[Draft]:
    """Other sources of the same tokens, each with the run that starts from it on the target's schedule."""
    if "rewarmed" in arm.controls:
        same = parts.config(scratch.objective, shape, source.D, source.streams, source.seed)
        yield Draft(same, ("transfer_source",))
        yield Draft(started_from(scratch, same.run_id, arm.lr_factor), ("rewarmed",))
    if "shuffled" in arm.controls:
        streams = tuple(stream.model_copy(update={"shuffled": True}) for stream in source.streams)
        shuffled = source.model_copy(update={"streams": streams})
        yield Draft(shuffled, ("shuffled_source",))
        yield Draft(started_from(scratch, shuffled.run_id, arm.lr_factor), ("transfer_target",))


def _phases(
    parts: RunParts, arm: TransferArm, D_source: int, D: int, where: str
) -> tuple[tuple[Stream, ...], tuple[Stream, ...]]:
    """Streams of the source and of the target (and its scratch partners, which see the same pools)."""
    whole = parts.all_streams()
    if arm.overlap == "shared":
        return whole, whole
    sources, targets = [], []
    shares = zip(whole, parts.shared(whole, D_source), parts.shared(whole, D), strict=True)
    for stream, first, second in shares:
        have = parts.corpus.pool_tokens(stream)
        # Too few tokens for one pass each: both phases repeat their part equally often.
        border = first if first + second <= have else have * first // (first + second)
        if not 0 < border < have:
            raise PlanError(f"{have} tokens cannot be split into two disjoint phases", where=where)
        sources.append(stream.model_copy(update={"unique_tokens": border}))
        targets.append(stream.model_copy(update={"start_tokens": border}))
    return tuple(sources), tuple(targets)


def _directions(arm: TransferArm) -> tuple[Objective, Objective]:
    return ("clm", "mlm") if arm.direction == "clm->mlm" else ("mlm", "clm")
