"""What the runs of all arms are made of: sizes, streams, batches, learning rates; and `Draft`, one run of an arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import ConfigError, PlanError
from plm_scaling.core.recipe import batch_tokens_by_power, batch_tokens_for, beta2_for, default_recipe, peak_lr_for
from plm_scaling.core.run import Objective, RunConfig, Sampling, Stream
from plm_scaling.core.units import format_count
from plm_scaling.core.weight_identity import described_shape, weights_id
from plm_scaling.corpus.mixture import canonical_sources, mixture, token_shares
from plm_scaling.corpus.reader import Corpus
from plm_scaling.sweeps.arm_records import Mixture, Size, is_run_id
from plm_scaling.sweeps.plan_records import SweepSpec
from plm_scaling.sweeps.pools import PoolCost, flops_per_token, pool_cost
from plm_scaling.sweeps.sizes import parse_size, plain_shape, size_text

__all__ = ["TRANSFER_WARMUP", "Draft", "RunParts", "Weights", "at_lr", "roles_of", "started_from", "weighted"]

TRANSFER_WARMUP: Final = 0.05
"""Warm-up of a run that starts from trained weights: twice the usual, since its optimiser starts anew."""
_SHARE_DIGITS: Final = 9
_LR_DIGITS: Final = 6
"""The last digits of a power depend on the C library, and the learning rate is part of a run's id."""


@dataclass(frozen=True)
class Draft:
    """A run and the reasons for it.

    Attributes
    ----------
    init_path, teacher_path : where foreign weights lie that the config names by their hash.
    teacher_shape : of the model it learns from; None where nothing states it.
    """

    config: RunConfig
    roles: tuple[str, ...]
    init_path: str | None = None
    teacher_path: str | None = None
    teacher_shape: ModelShape | None = None


@dataclass(frozen=True)
class Weights:
    """Trained weights that a run starts from or learns from.

    Attributes
    ----------
    name : what configs call them: a run id, or `sha256:` and a hash.
    path : where foreign ones lie; None for a run.
    shape : None where nothing states it.
    """

    name: str
    path: str | None
    shape: ModelShape | None


@dataclass(frozen=True)
class RunParts:
    """Makes configs of a spec on one corpus.

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
    _weights: dict[str, Weights] = field(default_factory=dict)

    def cost(self, streams: tuple[Stream, ...]) -> PoolCost:
        """Cost of a token of these streams."""
        if streams not in self._costs:
            self._costs[streams] = pool_cost(self.corpus, streams, self.spec.context)
        return self._costs[streams]

    def shape(self, size: Size, where: str) -> ModelShape:
        """The shape of a size; one given by numbers has the spec's architecture."""
        return parse_size(size, self.spec.architecture, where=where)

    def config(
        self, objective: Objective, shape: ModelShape, D: int, streams: tuple[Stream, ...], seed: int
    ) -> RunConfig:
        """A run from scratch by the spec's recipe."""
        spec, N = self.spec, shape.N
        recipe = spec.recipe or default_recipe(N)
        batch = self._batch_tokens(N, D)
        half_life = spec.beta2_half_life_tokens
        fields: dict[str, Any] = shape.model_dump() | {
            "corpus_id": self.corpus.corpus_id,
            "objective": objective,
            "context": spec.context,
            "D": D,
            "batch_tokens": batch,
            "peak_lr": _rounded(peak_lr_for(N, batch, recipe) * spec.lr_factor),
            "recipe": recipe,
            "streams": streams,
            "seed": seed,
            "schedule": spec.schedule,
            "weight_decay": spec.weight_decay,
            "dropout": spec.dropout,
            "spike_factor": spec.spike_factor,
            "dtype": self.dtype,
            "validation_tokens": spec.validation_tokens,
            "validation_points": spec.validation_points,
        }
        # What a run does not use stays at its default: it must not give the same run another id.
        if objective == "mlm":
            fields |= {"mask_rate": spec.mask_rate, "mask_refresh": spec.mask_refresh}
        else:
            fields["reverse_share"] = spec.reverse_share
        if spec.warmup_tokens is not None:
            fields["warmup_tokens"] = self.tokens(spec.warmup_tokens, "", "warmup_tokens")
        if spec.schedule == "wsd":
            fields["decay_fraction"] = spec.decay_fraction
        if half_life is not None:
            fields["beta2"] = beta2_for(batch, half_life)
        return RunConfig.model_validate(fields)

    def _batch_tokens(self, N: int, D: int) -> int:
        """The rule's batch as whole windows, at least one; a batch the user gave must be whole already."""
        spec, context = self.spec, self.spec.context
        given = spec.batch_tokens
        if given and given % context:
            raise PlanError(
                f"batch_tokens {given} is no multiple of context {context}",
                where="batch_tokens",
                hint=f"use {max(1, round(given / context)) * context}",
            )
        recipe = spec.recipe or default_recipe(N)
        if spec.batch_rule == "power" and spec.batch_D is not None:
            B0 = given or batch_tokens_for(N, spec.batch_D, recipe)
            return batch_tokens_by_power(D, B0=B0, D0=spec.batch_D, context=context)
        return max(1, (given or batch_tokens_for(N, D, recipe)) // context) * context

    def tokens(self, value: float, where: str, key: str) -> int:
        """A number of tokens at the plan's scale."""
        tokens = round(self.scale * value)
        if tokens < 1:
            place = f"{where}.{key}" if where else key
            raise PlanError(f"{value:g} x scale {self.scale:g} is less than one token", where=place)
        return tokens

    def tokens_for(self, C: float, shape: ModelShape, streams: tuple[Stream, ...], where: str) -> int:
        """Tokens of a model that C FLOPs in the spec's currency, at the plan's scale, pay for."""
        D = round(self.scale * C / flops_per_token(shape, self.cost(streams), self.spec.currency))
        if D < 1:
            raise PlanError(f"{self.scale * C:.3g} FLOPs pay for no token of a {size_text(shape)} model", where=where)
        return D

    # ---- weights -------------------------------------------------------------------------------------------------

    def weights(self, text: str, known: Mapping[str, RunConfig], where: str) -> Weights:
        """The weights of a run id, or at a path; a file is hashed once.

        Parameters
        ----------
        known : runs of the plan so far, by id.

        Raises
        ------
        PlanError : no weights there.
        """
        if is_run_id(text):
            return Weights(text, None, known[text].shape if text in known else None)
        if text not in self._weights:
            try:
                shape = described_shape(Path(text))
                self._weights[text] = Weights(weights_id(Path(text)), text, shape and plain_shape(shape))
            except ConfigError as error:
                raise PlanError(
                    error.what, where=where, why=error.why or f"looked at {error.where}", hint=error.hint
                ) from None
        return self._weights[text]

    # ---- streams -------------------------------------------------------------------------------------------------

    def streams(self, shares: Mixture, sampling: Sampling, exclude: tuple[str, ...]) -> tuple[Stream, ...]:
        """The streams of a mixture."""
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

    def all_streams(self) -> tuple[Stream, ...]:
        """The streams of an arm that asks for nothing else."""
        return self.streams(self.spec.mixture, self.spec.sampling, self.spec.exclude)

    def only(self, source: str) -> Stream:
        """All of one source."""
        names = canonical_sources(self.corpus, (source,))
        return Stream(sources=names, sampling=self.spec.sampling, exclude=self.spec.exclude)

    def limited(self, whole: tuple[Stream, ...], unique_tokens: float, where: str) -> tuple[Stream, ...]:
        """The first tokens of each stream, shared as the tokens drawn are, so that all are repeated equally often.

        More than there are is an error, not a silent cut.
        """
        total = self.tokens(unique_tokens, where, "unique_tokens")
        limited = []
        for stream, wanted in zip(whole, self.shared(whole, total), strict=True):
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

    def shared(self, streams: tuple[Stream, ...], tokens: int) -> list[int]:
        """So many tokens by stream, at the shares they give to a run; at least 1 each."""
        if len(streams) == 1:
            return [tokens]
        return [max(1, round(tokens * share)) for share in token_shares(self.corpus, streams, self.spec.context)]


def roles_of(arm: str, seeds: Sequence[int]) -> tuple[str, ...]:
    """The arm's name; with several seeds its runs are replicates, too."""
    return (arm, "replicate") if len(set(seeds)) > 1 else (arm,)


def started_from(config: RunConfig, weights: str, lr_factor: float) -> RunConfig:
    """The run, started from trained weights: a fresh schedule with twice the warm-up, its peak times `lr_factor`."""
    update: dict[str, Any] = {"init_from": weights, "peak_lr": _rounded(config.peak_lr * lr_factor)}
    if config.warmup_tokens is None:
        update["warmup_fraction"] = TRANSFER_WARMUP
    else:
        update["warmup_tokens"] = 2 * config.warmup_tokens
    return config.model_copy(update=update)


def at_lr(config: RunConfig, factor: float) -> RunConfig:
    """The run with so many times its peak learning rate."""
    return config.model_copy(update={"peak_lr": _rounded(config.peak_lr * factor)})


def weighted(stream: Stream, share: float) -> Stream:
    """The stream at a share of the windows: 1 - 0.3 and 0.7 are the same share, and so the same run."""
    return stream.model_copy(update={"weight": round(share, _SHARE_DIGITS)})


def _rounded(peak_lr: float) -> float:
    return float(f"{peak_lr:.{_LR_DIGITS}g}")
