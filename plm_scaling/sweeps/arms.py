"""The arms of a sweep, each expanded into the runs it asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from plm_scaling.core.errors import PlanError
from plm_scaling.core.recipe import batch_tokens_for, default_recipe, peak_lr_for
from plm_scaling.core.run import Objective, RunConfig, Sampling, Stream
from plm_scaling.core.units import block_parameters, format_count
from plm_scaling.corpus.mixture import canonical_sources, mixture, token_shares
from plm_scaling.corpus.reader import Corpus
from plm_scaling.sweeps.plan_records import (
    DataArm,
    DiversityArm,
    GridArm,
    IsoflopArm,
    Mixture,
    RepeatsArm,
    SweepSpec,
    TransferArm,
)
from plm_scaling.sweeps.pools import PoolCost, flops_per_token, pool_cost

__all__ = ["TRANSFER_WARMUP", "ArmExpander", "Draft", "parse_size"]

TRANSFER_WARMUP: Final = 0.05
"""Warm-up of a transferred run: twice the usual, since its optimiser starts anew on trained weights."""
_SIZE: Final = re.compile(r"^\s*([1-9][0-9]*)\s*[xX]\s*([1-9][0-9]*)\s*$")
_LR_DIGITS: Final = 6
"""The last digits of a power depend on the C library, and the learning rate is part of a run's id."""


@dataclass(frozen=True)
class Draft:
    """A run and the reasons for it."""

    config: RunConfig
    roles: tuple[str, ...]


def parse_size(text: str, *, where: str = "") -> tuple[int, int]:
    """Layers and width of a size written as "2x64".

    Raises
    ------
    PlanError : anything else, or an odd width (rotary positions come in pairs).
    """
    match = _SIZE.match(text)
    if not match:
        raise PlanError(f"{text!r} is no size", where=where, hint='write "layers x width", as "2x64"')
    n_layers, d_model = int(match[1]), int(match[2])
    if d_model % 2:
        raise PlanError(f"{text!r}: width {d_model} is odd", where=where, hint="best a multiple of 16")
    return n_layers, d_model


@dataclass(frozen=True)
class ArmExpander:
    """Turns the arms of a spec into drafts, on one corpus.

    Attributes
    ----------
    scale : factor on every budget and every number of tokens (unique ones too, so that epochs stay).
    dtype : number format of the runs.
    """

    spec: SweepSpec
    corpus: Corpus
    scale: float
    dtype: Literal["fp32", "bf16"]
    _costs: dict[tuple[Stream, ...], PoolCost] = field(default_factory=dict)

    def drafts(self) -> Iterator[Draft]:
        """The runs of all arms, with repetitions where arms share runs.

        Raises
        ------
        PlanError : a size, source, share or number of tokens that cannot be used, named with its arm.
        """
        spec = self.spec
        for number, isoflop in enumerate(spec.isoflop):
            yield from self._isoflop(isoflop, f"isoflop[{number}]")
        for number, grid in enumerate(spec.grid):
            yield from self._grid(grid, f"grid[{number}]")
        for number, repeats in enumerate(spec.repeats):
            yield from self._repeats(repeats, f"repeats[{number}]")
        for number, transfer in enumerate(spec.transfer):
            yield from self._transfer(transfer, f"transfer[{number}]")
        for number, diversity in enumerate(spec.diversity):
            yield from self._diversity(diversity, f"diversity[{number}]")
        for number, data in enumerate(spec.data):
            yield from self._data(data, f"data[{number}]")

    def cost(self, streams: tuple[Stream, ...]) -> PoolCost:
        """Cost of a token of these streams."""
        if streams not in self._costs:
            self._costs[streams] = pool_cost(self.corpus, streams, self.spec.context)
        return self._costs[streams]

    # ---- arms ----------------------------------------------------------------------------------------------------

    def _isoflop(self, arm: IsoflopArm, where: str) -> Iterator[Draft]:
        streams = self._all()
        seeds = arm.seeds or self.spec.seeds
        for size in arm.sizes:
            shape = parse_size(size, where=where)
            per_token = flops_per_token(*shape, self.cost(streams), self.spec.currency)
            D = round(self.scale * arm.C / per_token)
            if D < 1:
                raise PlanError(f"{self.scale * arm.C:.3g} FLOPs pay for no token of a {size} model", where=where)
            for objective in arm.objectives or self.spec.objectives:
                for seed in seeds:
                    yield Draft(self._config(objective, shape, D, streams, seed), _roles("isoflop", seeds))

    def _grid(self, arm: GridArm, where: str) -> Iterator[Draft]:
        streams = self._all()
        seeds = arm.seeds or self.spec.seeds
        for size in arm.sizes:
            shape = parse_size(size, where=where)
            for D in arm.D:
                tokens = self._tokens(D, where, "D")
                for objective in arm.objectives or self.spec.objectives:
                    for seed in seeds:
                        yield Draft(self._config(objective, shape, tokens, streams, seed), _roles("grid", seeds))

    def _repeats(self, arm: RepeatsArm, where: str) -> Iterator[Draft]:
        shape = parse_size(arm.size, where=where)
        D = self._tokens(arm.D, where, "D")
        pools = [self._limited(self._all(), U, where) for U in arm.unique_tokens]
        for objective in arm.objectives or self.spec.objectives:
            for seed in arm.seeds or self.spec.seeds:
                for streams in (self._all(), *pools):
                    config = self._config(objective, shape, D, streams, seed)
                    if objective == "mlm" and not arm.mask_refresh:
                        config = config.model_copy(update={"mask_refresh": False})
                    yield Draft(config, ("repeats",))

    def _transfer(self, arm: TransferArm, where: str) -> Iterator[Draft]:
        shape = parse_size(arm.size, where=where)
        source_objective, target_objective = _directions(arm)
        D, D_source = self._tokens(arm.D, where, "D"), self._tokens(arm.D_source, where, "D_source")
        source_streams, target_streams = self._phases(arm, D_source, D, where)
        for seed in arm.seeds or self.spec.seeds:
            source = self._config(source_objective, shape, D_source, source_streams, seed)
            yield Draft(source, ("transfer_source",))
            scratch = self._config(target_objective, shape, D, target_streams, seed)
            update = {
                "init_from": source.run_id,
                "warmup_fraction": TRANSFER_WARMUP,
                "peak_lr": _rounded(scratch.peak_lr * arm.lr_factor),
            }
            yield Draft(scratch.model_copy(update=update), ("transfer_target",))
            yield Draft(scratch, ("transfer_scratch",))
            for other in arm.scratch_D:
                tokens = self._tokens(other, where, "scratch_D")
                yield Draft(self._config(target_objective, shape, tokens, target_streams, seed), ("transfer_scratch",))

    def _diversity(self, arm: DiversityArm, where: str) -> Iterator[Draft]:
        if arm.first == arm.second:
            raise PlanError(f"first and second are both {arm.first!r}", where=where, hint="name two sources")
        for share in arm.shares:
            if not 0 < share < 1:
                raise PlanError(f"share {share:g} is not between 0 and 1", where=f"{where}.shares")
        shape = parse_size(arm.size, where=where)
        D = self._tokens(arm.D, where, "D")
        (first,) = self._limited((self._only(arm.first),), arm.unique_tokens, where)
        second = self._only(arm.second)
        mixed = [
            (first.model_copy(update={"weight": _weight(1 - s)}), second.model_copy(update={"weight": _weight(s)}))
            for s in arm.shares
        ]
        for objective in arm.objectives or self.spec.objectives:
            for seed in arm.seeds or self.spec.seeds:
                for streams in ((first,), *mixed, (second,)):
                    yield Draft(self._config(objective, shape, D, streams, seed), ("diversity",))

    def _data(self, arm: DataArm, where: str) -> Iterator[Draft]:
        if not (arm.exclude or arm.sampling or arm.mixture):
            raise PlanError("the arm varies nothing", where=where, hint="list exclude, sampling or mixture")
        shape = parse_size(arm.size, where=where)
        D = self._tokens(arm.D, where, "D")
        choices = [
            self._streams(shares, sampling, exclude)
            for shares in arm.mixture or (self.spec.mixture,)
            for sampling in arm.sampling or (self.spec.sampling,)
            for exclude in arm.exclude or (self.spec.exclude,)
        ]
        for objective in arm.objectives or self.spec.objectives:
            for seed in arm.seeds or self.spec.seeds:
                for streams in choices:
                    yield Draft(self._config(objective, shape, D, streams, seed), ("data",))

    # ---- parts of a run ------------------------------------------------------------------------------------------

    def _config(
        self, objective: Objective, shape: tuple[int, int], D: int, streams: tuple[Stream, ...], seed: int
    ) -> RunConfig:
        spec, N = self.spec, block_parameters(*shape)
        recipe = spec.recipe or default_recipe(N)
        batch = self._batch_tokens(spec.batch_tokens or batch_tokens_for(N, D, recipe))
        return RunConfig(
            corpus_id=self.corpus.corpus_id,
            objective=objective,
            n_layers=shape[0],
            d_model=shape[1],
            context=spec.context,
            D=D,
            batch_tokens=batch,
            peak_lr=_rounded(peak_lr_for(N, batch, recipe) * spec.lr_factor),
            recipe=recipe,
            streams=streams,
            seed=seed,
            dtype=self.dtype,
            validation_tokens=spec.validation_tokens,
            validation_points=spec.validation_points,
        )

    def _batch_tokens(self, wanted: int) -> int:
        """The recipe's batch as whole windows, at least one; a batch the user gave must be whole already."""
        context = self.spec.context
        if self.spec.batch_tokens and wanted % context:
            raise PlanError(
                f"batch_tokens {wanted} is no multiple of context {context}",
                where="batch_tokens",
                hint=f"use {max(1, round(wanted / context)) * context}",
            )
        return max(1, wanted // context) * context

    def _tokens(self, value: float, where: str, key: str) -> int:
        tokens = round(self.scale * value)
        if tokens < 1:
            raise PlanError(f"{value:g} x scale {self.scale:g} is less than one token", where=f"{where}.{key}")
        return tokens

    def _streams(self, shares: Mixture, sampling: Sampling, exclude: tuple[str, ...]) -> tuple[Stream, ...]:
        # An arm's own shares by source name the sources themselves.
        named = not isinstance(shares, str) and shares is not self.spec.mixture
        return mixture(
            self.corpus,
            shares,
            () if named else self.spec.sources,
            context=self.spec.context,
            sampling=sampling,
            exclude=exclude,
        )

    def _all(self) -> tuple[Stream, ...]:
        return self._streams(self.spec.mixture, self.spec.sampling, self.spec.exclude)

    def _only(self, source: str) -> Stream:
        names = canonical_sources(self.corpus, (source,))
        return Stream(sources=names, sampling=self.spec.sampling, exclude=self.spec.exclude)

    def _limited(self, whole: tuple[Stream, ...], unique_tokens: float, where: str) -> tuple[Stream, ...]:
        """The first tokens of each stream, shared as the tokens drawn are, so that all are repeated equally often.

        More than there are is an error, not a silent cut.
        """
        total = self._tokens(unique_tokens, where, "unique_tokens")
        limited = []
        for stream, wanted in zip(whole, self._shared(whole, total), strict=True):
            have = self.corpus.pool_tokens(stream)
            if wanted > have:
                raise PlanError(
                    f"{format_count(wanted)} unique tokens wanted, the training split of "
                    f"{', '.join(stream.sources) or 'the corpus'} holds {format_count(have)}",
                    where=f"{where}.unique_tokens",
                    hint="lower unique_tokens, or prepare more sequences",
                )
            limited.append(stream.model_copy(update={"unique_tokens": wanted}))
        return tuple(limited)

    def _shared(self, streams: tuple[Stream, ...], tokens: int) -> list[int]:
        """So many tokens by stream, at the shares they give to a run; at least 1 each."""
        if len(streams) == 1:
            return [tokens]
        return [max(1, round(tokens * share)) for share in token_shares(self.corpus, streams, self.spec.context)]

    def _phases(
        self, arm: TransferArm, D_source: int, D: int, where: str
    ) -> tuple[tuple[Stream, ...], tuple[Stream, ...]]:
        """Streams of the source and of the target (and its scratch partners, which see the same pools)."""
        whole = self._all()
        if arm.overlap == "shared":
            return whole, whole
        sources, targets = [], []
        shares = zip(whole, self._shared(whole, D_source), self._shared(whole, D), strict=True)
        for stream, first, second in shares:
            have = self.corpus.pool_tokens(stream)
            # Too few tokens for one pass each: both phases repeat their part equally often.
            border = first if first + second <= have else have * first // (first + second)
            if not 0 < border < have:
                raise PlanError(f"{have} tokens cannot be split into two disjoint phases", where=where)
            sources.append(stream.model_copy(update={"unique_tokens": border}))
            targets.append(stream.model_copy(update={"start_tokens": border}))
        return tuple(sources), tuple(targets)


def _roles(arm: str, seeds: Sequence[int]) -> tuple[str, ...]:
    return (arm, "replicate") if len(set(seeds)) > 1 else (arm,)


def _directions(arm: TransferArm) -> tuple[Objective, Objective]:
    return ("clm", "mlm") if arm.direction == "clm->mlm" else ("mlm", "clm")


def _rounded(peak_lr: float) -> float:
    return float(f"{peak_lr:.{_LR_DIGITS}g}")


def _weight(share: float) -> float:
    """1 - 0.3 and 0.7 are the same share, and so the same run."""
    return round(share, 9)
