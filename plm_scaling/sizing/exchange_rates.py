"""What a token of another source is worth in fresh tokens of the target, fitted to runs on mixtures of the two."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from plm_scaling.core.errors import ConfigError, FitError, RefusedError
from plm_scaling.core.records import Record
from plm_scaling.core.run import Objective, Stream
from plm_scaling.core.run_row import RunRow
from plm_scaling.core.run_table import RunTable
from plm_scaling.core.units import format_count
from plm_scaling.laws.interval import Interval
from plm_scaling.laws.law_fit import Refusal
from plm_scaling.sizing.law_ensemble import LawEnsemble
from plm_scaling.sizing.token_source import TokenSource

__all__ = ["ExchangePoint", "ExchangeRate", "ExchangeRates", "fit_exchange_rates", "source_at_rate", "sources_text"]

FloatArray = npt.NDArray[np.float64]

_SAMPLES: Final = 600
_ALIKE: Final = 0.03
_TOKENS: Final = np.geomspace(1e4, 1e18, 281)
_OPEN: Final = 0.1
"""With more than this share of the samples without an end, there is none."""
_SATURATIONS: Final = np.append(np.geomspace(0.02, 50.0, 40), np.inf)
"""In units of the most tokens of the source that were run."""
_LEAST_SIZES: Final = 3
_SURE: Final = 0.975
_EARLY: Final = 0.05
"""A saturation below this share of the most tokens run leaves only its product with the rate determined."""


class ExchangePoint(Record):
    """One mixture: so many tokens of the source beside those of the target."""

    run_ids: tuple[str, ...]
    share: float
    tokens: float
    """Of the source."""
    worth: Interval
    """Fresh target tokens that they stood for."""
    rho: Interval
    """`worth` per token."""


class ExchangeRate(Record):
    """The worth of one source at one size: u tokens are worth rho u / (1 + u / saturation_tokens) of the target."""

    source: str
    target: str
    objective: Objective
    N: float
    D: float
    """Tokens of every run."""
    unique_target_tokens: float | None
    points: tuple[ExchangePoint, ...]
    rho: Interval
    """Of few tokens, 95 %."""
    saturation_tokens: Interval | None = None
    """Tokens after which they are worth half as much; None where the runs do not tell."""
    validation_id: str | None = None
    flags: tuple[str, ...] = ()


class ExchangeRates(Record):
    """All rates of a table, how they change with size, and what could not be told."""

    rates: tuple[ExchangeRate, ...]
    slopes: dict[str, Interval] = Field(default_factory=dict)
    """Source and objective -> d ln rho / d ln N, where three sizes or more were run."""
    sentences: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    def nearest(self, source: str, objective: str, N: float) -> ExchangeRate | None:
        """The rate measured at the size nearest to N."""
        own = [rate for rate in self.rates if (rate.source, rate.objective) == (source, objective)]
        return min(own, key=lambda rate: abs(math.log(rate.N / N)), default=None)


@dataclass(frozen=True)
class _Mix:
    """One arm, all its seeds."""

    rows: tuple[RunRow, ...]
    target_tokens: float
    target_unique: float | None
    source: str
    source_tokens: float
    source_unique: float | None

    @property
    def log_loss(self) -> float:
        return float(np.mean(np.log([row.loss for row in self.rows])))

    def se(self, noise_sd: float) -> float:
        """Of ln L: the noise of a run, or the stated error where that is larger, over the seeds."""
        stated = [row.loss_se / row.loss for row in self.rows if row.loss_se]
        return max([noise_sd, *stated]) / math.sqrt(len(self.rows))


def fit_exchange_rates(table: RunTable, ensemble: LawEnsemble, *, target: str = "", seed: int = 0) -> ExchangeRates:
    """Exchange rates from diversity runs: runs of equal N and D whose tokens come from one source, another, or both.

    At every size the run on the target alone fixes the level of the laws; the loss of a mixture is read back as fresh
    target tokens, and what the target's own part (with its repeats) does not explain is the source's. The interval
    holds draws, forms, the law of repeats, and the noise of the runs.

    Parameters
    ----------
    table : runs with the column `streams`; losses should be those on the target's own validation sequences, since a
        validation set of both sources also rewards being nearer to it.
    ensemble : laws of the target, of the objective of the runs.
    target : name of the source that counts as one; empty: the source of the runs on a limited part of one.

    Raises
    ------
    FitError : no diversity runs of this objective with streams, or none that can be compared.
    ConfigError : no run is on the target.

    **Source:** definition of effectively transferred data at equal loss, Hernandez et al. 2021, section 1.
    """
    rows = [row for row in table.of(ensemble.objective) if row.streams and row.schedule_complete and not row.excluded]
    rows = [row for row in rows if row.has_role("diversity") or row.has_role("data")]
    if not rows:
        raise FitError(
            f"no {ensemble.objective.upper()} runs on mixtures of sources in this table",
            why="they have the role `diversity` (or `data`) and the column `streams`",
            hint="a [[diversity]] arm in the sweep makes them",
        )
    target = target or _usual_target(rows)
    rates: list[ExchangeRate] = []
    refusals: list[Refusal] = []
    for group in _alike(rows):
        found, refused = _of_group(group, ensemble, target, seed)
        rates += found
        refusals += refused
    if not rates:
        reason = refusals[0].reason if refusals else f"no run is on {target} alone"
        raise FitError("no exchange rate can be read off these runs", why=reason)
    slopes = _slopes(rates)
    return ExchangeRates(
        rates=tuple(rates), slopes=slopes, sentences=tuple(map(_sentence, rates)), refusals=tuple(refusals)
    )


def source_at_rate(
    rate: ExchangeRate, *, tokens: float = math.inf, usd_per_token: float = 0.0, generated: bool = False
) -> TokenSource:
    """A measured source as something that can be taken: so many tokens at a price.

    Raises
    ------
    RefusedError : the interval of the rate is open, or the mix of sources counts and not the number of tokens.
    """
    if "MIX_MATTERS" in rate.flags:
        raise RefusedError(
            f"{rate.source} has no exchange rate on this validation set",
            why="more of its tokens are worth less than fewer: the set rewards training on its own mix of sources",
            hint="losses on the target's sequences alone (--validation val_iid@TARGET)",
        )
    if not all(math.isfinite(end) for end in (rate.rho.low, rate.rho.value, rate.rho.high)):
        raise RefusedError(
            f"the exchange rate of {rate.source} is open",
            why="losses as low as these lie beyond the target's law, so that no number of tokens stands for them",
            hint="runs with a smaller share of the source",
        )
    limit = math.inf if rate.saturation_tokens is None else rate.saturation_tokens.value
    return TokenSource.checked(
        name=rate.source,
        kind="generated" if generated else "sequenced",
        tokens=tokens,
        usd_per_token=usd_per_token,
        rho=rate.rho,
        saturation_tokens=limit,
        status="measured",
        evidence=f"{len(rate.points)} mixtures, N {format_count(rate.N, 2)}, D {format_count(rate.D, 2)}",
        flags=rate.flags,
    )


def sources_text(rates: ExchangeRates) -> str:
    """The rates as TOML that `read_sources` understands, at the largest size of every source; open ones as comments."""
    lines = [
        '# Exchange rates fitted to diversity runs. Add usd_per_token, tokens and kind = "generated" where they hold.'
    ]
    largest = {rate.source: rate for rate in sorted(rates.rates, key=lambda rate: rate.N)}
    for rate in largest.values():
        try:
            source = source_at_rate(rate)
        except RefusedError as error:
            lines.append(f"\n# {error.what}: {error.why}")
            continue
        rho = ", ".join(f"{name} = {getattr(source.rho, name):.6g}" for name in ("value", "low", "high", "level"))
        lines += ["", "[[source]]", f"name = {json.dumps(source.name)}", f"rho = {{ {rho} }}"]
        if math.isfinite(source.saturation_tokens):
            lines.append(f"saturation_tokens = {source.saturation_tokens:.6g}")
        lines += [f'status = "{source.status}"', f"evidence = {json.dumps(source.evidence)}"]
    return "\n".join(lines) + "\n"


def _usual_target(rows: Sequence[RunRow]) -> str:
    for row in rows:
        streams = _streams(row)
        if len(streams) == 1 and streams[0].unique_tokens is not None and len(streams[0].sources) == 1:
            return streams[0].sources[0]
    raise ConfigError(
        "which source is the target?", why="no run is on a limited part of a single source", hint="name the target"
    )


def _streams(row: RunRow) -> tuple[Stream, ...]:
    return tuple(Stream.model_validate(stream) for stream in json.loads(row.streams or "[]"))


def _alike(rows: Sequence[RunRow]) -> list[list[RunRow]]:
    """Runs of equal objective, validation set, N and D."""
    groups: list[list[RunRow]] = []
    for row in sorted(rows, key=lambda row: (row.validation_id or "", row.N, row.D)):
        for group in groups:
            first = group[0]
            near = all(abs(math.log(getattr(row, name) / getattr(first, name))) < _ALIKE for name in ("N", "D"))
            if near and row.validation_id == first.validation_id and row.recipe_key == first.recipe_key:
                group.append(row)
                break
        else:
            groups.append([row])
    return groups


def _of_group(
    group: Sequence[RunRow], ensemble: LawEnsemble, target: str, seed: int
) -> tuple[list[ExchangeRate], list[Refusal]]:
    mixes, refusals = _mixes(group, target)
    alone = [mix for mix in mixes if mix.source_tokens == 0]
    others = dict.fromkeys(mix.source for mix in mixes if mix.source_tokens > 0)
    if not others:
        return [], refusals
    if not alone:
        what = f"exchange rates at {format_count(group[0].N, 2)} parameters"
        reason = f"no run of this size is on {target} alone"
        return [], [*refusals, Refusal(quantity=what, code="NO_REFERENCE", reason=reason)]
    # The reference with the fewest unique tokens is the one mixtures are made from.
    reference = min(alone, key=lambda mix: mix.target_unique or math.inf)
    reader = _Reader(ensemble, group[0].N, reference, seed)
    return [
        _rate(reader, [mix for mix in mixes if mix.source == source and mix.source_tokens > 0], target, group[0])
        for source in others
    ], refusals


def _mixes(group: Sequence[RunRow], target: str) -> tuple[list[_Mix], list[Refusal]]:
    """Arms of the target with at most one other source; others are named and left out."""
    by_streams: dict[str, list[RunRow]] = {}
    for row in group:
        by_streams.setdefault(row.streams or "", []).append(row)
    made, refusals = [], []
    for rows in by_streams.values():
        streams = _streams(rows[0])
        total = sum(stream.weight for stream in streams)
        plain = all(len(s.sources) == 1 and not s.exclude and not s.shuffled and s.sampling == "flat" for s in streams)
        own = [stream for stream in streams if stream.sources == (target,)]
        other = [stream for stream in streams if stream.sources != (target,)]
        if not plain or len(own) > 1 or len(other) > 1:
            reason = "its streams are not one range of the target and one of another source, visited plainly"
            refusals.append(Refusal(quantity=rows[0].run_id, code="NOT_A_PAIR", reason=reason))
            continue
        D = rows[0].D
        made.append(
            _Mix(
                rows=tuple(rows),
                target_tokens=D * own[0].weight / total if own else 0.0,
                target_unique=float(own[0].unique_tokens) if own and own[0].unique_tokens else None,
                source=other[0].sources[0] if other else "",
                source_tokens=D * other[0].weight / total if other else 0.0,
                source_unique=float(other[0].unique_tokens) if other and other[0].unique_tokens else None,
            )
        )
    return made, refusals


class _Reader:
    """Losses at one size read as fresh target tokens, by samples of laws and noise."""

    def __init__(self, ensemble: LawEnsemble, N: float, reference: _Mix, seed: int) -> None:
        self.ensemble, self.N = ensemble, N
        rng = np.random.default_rng(seed)
        weights = np.cumsum(ensemble.draw_weights)
        at = (rng.permutation(_SAMPLES) + 0.5) / _SAMPLES
        self.draws = np.minimum(np.searchsorted(weights, at), len(weights) - 1)
        self.curves = np.log(ensemble.losses(N, _TOKENS))[self.draws]
        self.rng = rng
        level = self.log_loss(reference.target_tokens, reference.target_unique)
        self.shift = self.seen(reference) - level

    def seen(self, mix: _Mix) -> FloatArray:
        """Ln of an arm's loss with its noise, float64[samples]."""
        noise = self.rng.standard_normal(_SAMPLES) * mix.se(self.ensemble.noise_sd)
        return np.asarray(mix.log_loss + noise)

    def log_loss(self, D: float, unique: float | None) -> FloatArray:
        """By every sample's law, float64[samples]."""
        return np.asarray(np.log(self.ensemble.losses(self.N, D, unique)[self.draws, 0]))

    def fresh(self, log_loss: FloatArray) -> FloatArray:
        """Fresh target tokens that lead to a loss, by every sample's law; inf where none do."""
        log_D = np.log(_TOKENS)
        pairs = zip(log_loss, self.curves, strict=True)
        return np.exp([np.interp(-value, -curve, log_D, left=log_D[0], right=np.inf) for value, curve in pairs])

    def worth(self, mix: _Mix) -> FloatArray:
        """Fresh target tokens that an arm's source tokens stand for, float64[samples]."""
        own = np.zeros(_SAMPLES)
        if mix.target_tokens > 0:
            own = self.fresh(self.log_loss(mix.target_tokens, mix.target_unique))
        return self.fresh(self.seen(mix) - self.shift) - own


def _rate(reader: _Reader, mixes: Sequence[_Mix], target: str, first: RunRow) -> ExchangeRate:
    tokens = np.array([mix.source_tokens for mix in mixes])
    worth = np.stack([reader.worth(mix) for mix in mixes])
    points = tuple(
        ExchangePoint(
            run_ids=tuple(row.run_id for row in mix.rows),
            share=mix.source_tokens / mix.rows[0].D,
            tokens=mix.source_tokens,
            worth=_interval(row),
            rho=_interval(row / mix.source_tokens),
        )
        for mix, row in sorted(zip(mixes, worth, strict=True), key=lambda pair: pair[0].source_tokens)
    )
    rho, limits = _fitted(tokens, worth)
    closed = np.isfinite(limits)
    known = len(np.unique(tokens.round(-3))) > 1 and float(np.mean(~closed)) <= _OPEN
    if not known:
        rho, _ = _fitted(tokens, worth, np.array([np.inf]))
    interval = _interval(rho)
    flags = [] if known else ["SATURATION_OPEN"]
    flags += ["MIX_MATTERS"] if _falls(tokens, worth) else []
    if known and float(np.median(limits[closed])) < _EARLY * tokens.max():
        flags.append("SATURATED_EARLY")
    flags += ["RATE_OPEN"] if not all(math.isfinite(end) for end in (interval.low, interval.high)) else []
    flags += ["HARMFUL"] if interval.high < 0 else (["NO_DETECTABLE_WORTH"] if interval.low <= 0 else [])
    if any(mix.source_unique is not None and mix.source_unique < 0.9 * mix.source_tokens for mix in mixes):
        flags.append("SOURCE_REPEATED")
    return ExchangeRate(
        source=mixes[0].source,
        target=target,
        objective=first.objective,
        N=first.N,
        D=first.D,
        unique_target_tokens=next((mix.target_unique for mix in mixes if mix.target_unique), None),
        points=points,
        rho=interval,
        saturation_tokens=_interval(limits[closed]) if known else None,
        validation_id=first.validation_id,
        flags=tuple(flags),
    )


def _falls(tokens: FloatArray, worth: FloatArray) -> bool:
    """Whether more tokens of the source are surely worth less in all: then something else than their number counts."""
    order = np.argsort(tokens)
    rows = worth[order]
    return any(float(np.mean(later < earlier)) > _SURE for earlier, later in pairwise(rows) if earlier.mean() > 0)


def _fitted(
    tokens: FloatArray, worth: FloatArray, saturations: FloatArray = _SATURATIONS
) -> tuple[FloatArray, FloatArray]:
    """Least squares of worth float64[J, samples] by rho u / (1 + u / S): rho and S, float64[samples] each."""
    finite = np.where(np.isfinite(worth), worth, np.nan)
    spread = np.array([np.nanstd(row) if np.isfinite(row).sum() > 1 else np.nan for row in finite])
    sigma = np.where(np.isfinite(spread) & (spread > 0), spread, 1.0)
    best = np.full(worth.shape[1], np.inf)
    rho, limit = np.full(worth.shape[1], np.nan), np.full(worth.shape[1], np.inf)
    open_ = ~np.isfinite(worth).all(axis=0)
    y = np.where(np.isfinite(worth), worth, 0.0) / sigma[:, None]
    for saturation in saturations * tokens.max():
        f = tokens / (1.0 + tokens / saturation) / sigma
        slope = f @ y / (f @ f)
        misfit = ((y - f[:, None] * slope) ** 2).sum(axis=0)
        # A limit is believed only where it explains more than the last digits.
        better = misfit < best * (1.0 - 1e-9)
        best, rho, limit = (
            np.where(better, new, old) for new, old in ((misfit, best), (slope, rho), (saturation, limit))
        )
    return np.where(open_, np.inf, rho), limit


def _interval(samples: FloatArray) -> Interval:
    """Median and central 95 %."""
    low, value, high = (float(q) for q in np.quantile(samples, [0.025, 0.5, 0.975], method="inverted_cdf"))
    return Interval(value=value, low=low, high=high)


def _slopes(rates: Sequence[ExchangeRate]) -> dict[str, Interval]:
    """Change of ln rho with ln N where three sizes were run and all rates are above zero.

    The intervals of the rates are taken as independent normal errors of ln rho.
    """
    found = {}
    for source, objective in dict.fromkeys((rate.source, rate.objective) for rate in rates):
        own = [rate for rate in rates if (rate.source, rate.objective) == (source, objective)]
        sizes = {round(math.log(rate.N), 1) for rate in own}
        usable = all(rate.rho.low > 0 and math.isfinite(rate.rho.high) for rate in own)
        if len(sizes) < _LEAST_SIZES or not usable:
            continue
        x = np.log([rate.N for rate in own])
        x = x - x.mean()
        y = np.log([rate.rho.value for rate in own])
        sd = np.array([math.log(rate.rho.high / rate.rho.low) / (2 * 1.96) for rate in own])
        w = 1.0 / np.maximum(sd, 1e-6) ** 2
        x = x - (w @ x) / w.sum()
        slope, se = float((w * x) @ y / ((w * x) @ x)), float(1.0 / math.sqrt((w * x) @ x))
        found[f"{source}, {objective}"] = Interval(value=slope, low=slope - 1.96 * se, high=slope + 1.96 * se)
    return found


def _sentence(rate: ExchangeRate) -> str:
    at = f"at {format_count(rate.N, 2)} parameters"
    what = (
        f"one token of {rate.source} is worth {rate.rho.value:.2g} of {rate.target} ({rate.rho.low:.2g} to "
        f"{rate.rho.high:.2g}) {at}, {rate.objective.upper()}"
    )
    if "MIX_MATTERS" in rate.flags:
        worths = ", ".join(f"{format_count(p.worth.value, 2)} for {format_count(p.tokens, 2)}" for p in rate.points)
        return (
            f"no exchange rate of {rate.source} {at}, {rate.objective.upper()}: more is worth less ({worths}); "
            "nearness to the validation set's mix counts: compare losses on the target's sequences alone."
        )
    if "HARMFUL" in rate.flags:
        return f"tokens of {rate.source} make it worse {at}: {what}."
    if "NO_DETECTABLE_WORTH" in rate.flags:
        return f"no detectable worth: {what}."
    if rate.saturation_tokens is None:
        return f"{what}; whether it wears off with more of them these runs do not tell."
    if "SATURATED_EARLY" in rate.flags:
        return f"{what}, but all that is sure is what the smallest amount run was worth: they wear off before it."
    return f"{what}; half as much after {format_count(rate.saturation_tokens.value, 2)} tokens."
