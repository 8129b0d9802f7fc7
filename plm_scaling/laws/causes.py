"""Why Kaplan et al. and Hoffmann et al. disagree about N_opt ~ C^a: one cause switched at a time.

On the minima that Porian et al. 2024 published, and on runs of one's own that differ by one cause.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from plm_scaling.core.errors import FitError
from plm_scaling.core.records import Record
from plm_scaling.core.run_table import RunTable
from plm_scaling.laws.forms import FloatArray
from plm_scaling.laws.interval import Interval
from plm_scaling.laws.isoflop import ISOFLOP_WINDOW, fit_isoflop
from plm_scaling.laws.law_fit import IsoflopFit
from plm_scaling.laws.noise import law_runs, pooled_seed_noise
from plm_scaling.laws.power_laws import bootstrap_power_law

__all__ = ["CauseReading", "CauseSwitch", "CauseTable", "causes_of_runs", "published_causes"]

_CSV: Final = Path(__file__).with_name("porian2024.csv")
_SOURCE: Final = (
    "Porian et al. 2024, Resolving discrepancies in compute-optimal scaling of language models: released minima on "
    "RefinedWeb (MIT licence, the authors)"
)

_PAIRED_DRAWS: Final = 100

_ORDER: Final[Mapping[str, Mapping[str, str]]] = {
    "counting": {"kaplan": "head left out", "standard": "head counted", "attention": "head and attention counted"},
    "warmup": {"long": "one long warm-up", "short": "warm-up by size"},
    "decay": {"kaplan": "decay as Kaplan", "chinchilla": "decay to each budget", "const": "constant rate"},
    "tuning": {"base": "not tuned", "tuned": "tuned by size"},
}
"""Each cause with its settings from Kaplan's side to Chinchilla's, and their names for people."""


class CauseReading(Record):
    """The exponent of one configuration."""

    name: str
    a_N: Interval | None
    """95 %; None where too few budgets have a minimum."""
    n_minima: int
    flags: tuple[str, ...] = ()


class CauseSwitch(Record):
    """What a change of configuration does to the exponent."""

    cause: str
    """What is switched; several joined by + where they were never switched apart."""
    change: str
    fixed: str
    """All else."""
    a_before: float
    a_after: float
    shift: Interval
    """a_after - a_before, the two taken as independent but for `counting` on runs of one's own."""

    @property
    def resolved(self) -> bool:
        """Whether the interval of the shift leaves zero out."""
        return self.shift.low > 0 or self.shift.high < 0


class CauseTable(Record):
    """Exponents of all configurations, and the switches between them."""

    source: str
    readings: tuple[CauseReading, ...]
    switches: tuple[CauseSwitch, ...]
    notes: tuple[str, ...] = ()


class _Setting(NamedTuple):
    tuning: str
    warmup: str
    decay: str
    counting: str

    def words(self, without: Sequence[str] = ()) -> str:
        """The settings for people, those of some causes left out."""
        return ", ".join(_ORDER[cause][getattr(self, cause)] for cause in _ORDER if cause not in without)


def published_causes() -> CauseTable:
    """The published minima of ten configurations: exponents as weighted log-log lines, and every switch there is.

    Configurations that differ by one cause are compared; those that no chain of such pairs joins, by two.

    **Source:** Porian et al. 2024, released minima and their standard deviations; weights 1 / sd^2 as in their fits.
    The intervals come from the scatter about the line and are somewhat wider than theirs, which come from seed noise.
    """
    minima: dict[_Setting, list[tuple[float, float, float]]] = {}
    with _CSV.open(newline="", encoding="ascii") as handle:
        for row in csv.DictReader(handle):
            setting = _Setting(*(row[cause] for cause in _Setting._fields))
            minima.setdefault(setting, []).append((float(row["C"]), float(row["N"]), float(row["log_N_sd"])))
    exponents = {setting: _weighted_exponent(np.array(points)) for setting, points in minima.items()}
    readings = [CauseReading(name=s.words(), a_N=a, n_minima=len(minima[s])) for s, a in exponents.items()]
    return CauseTable(
        source=_SOURCE,
        readings=tuple(sorted(readings, key=lambda reading: -(reading.a_N.value if reading.a_N else 0.0))),
        switches=tuple(_switches(exponents)),
        notes=(
            "with the head left out and with attention counted the minima are of training losses, else of validation "
            "losses",
            "tuning and a constant rate were only changed together",
        ),
    )


def _weighted_exponent(points: FloatArray) -> Interval:
    """Exponent of N_opt in C through points [n, (C, N, sd of ln N)], with the interval of their scatter about it."""
    return bootstrap_power_law(points[:, 0], points[:, 1], points[:, 2] ** -2.0, draws=2000).a


def _switches(exponents: Mapping[_Setting, Interval]) -> Iterator[CauseSwitch]:
    pairs = [(a, b, _steps(a, b)) for a, b in permutations(exponents, 2)]
    single = [(a, b, steps) for a, b, steps in pairs if steps is not None and len(steps) == 1]
    joined = _components(exponents, [(a, b) for a, b, _ in single])
    both = [(a, b, s) for a, b, s in pairs if s is not None and len(s) == 2 and joined[a] != joined[b]]
    for a, b, steps in sorted(
        [*single, *both], key=lambda p: (len(p[2] or ()), list(_ORDER).index((p[2] or ("",))[0]))
    ):
        causes = steps or ()
        change = "; ".join(f"{_ORDER[c][getattr(a, c)]} -> {_ORDER[c][getattr(b, c)]}" for c in causes)
        yield _switch(" + ".join(causes), change, b.words(without=causes), exponents[a], exponents[b])


def _steps(a: _Setting, b: _Setting) -> tuple[str, ...] | None:
    """Causes in which b is one step nearer to Chinchilla's side than a; None if any other differs otherwise."""
    made = []
    for cause, settings in _ORDER.items():
        order = list(settings)
        step = order.index(getattr(b, cause)) - order.index(getattr(a, cause))
        if step not in (0, 1):
            return None
        if step:
            made.append(cause)
    return tuple(made)


def _components(nodes: Mapping[_Setting, object], edges: Sequence[tuple[_Setting, _Setting]]) -> dict[_Setting, int]:
    label = {node: k for k, node in enumerate(nodes)}
    for _ in nodes:
        for a, b in edges:
            label[a] = label[b] = min(label[a], label[b])
    return label


def _switch(cause: str, change: str, fixed: str, before: Interval, after: Interval) -> CauseSwitch:
    shift = after.value - before.value
    down = math.hypot(after.value - after.low, before.high - before.value)
    up = math.hypot(after.high - after.value, before.value - before.low)
    return CauseSwitch(
        cause=cause,
        change=change,
        fixed=fixed,
        a_before=before.value,
        a_after=after.value,
        shift=Interval(value=shift, low=shift - down, high=shift + up),
    )


def causes_of_runs(
    tables: Mapping[str, RunTable], objective: str, *, all_parameters: Mapping[str, float] | None = None
) -> CauseTable:
    """Exponents through the isoFLOP minima of tables that differ by one cause each, against the first.

    Parameters
    ----------
    tables : name -> runs; the first is what the others are compared with.
    all_parameters : run id -> parameters with embedding and head; the first table is then also read in these.

    Raises
    ------
    FitError : fewer than two tables (or one and its `all_parameters`), or no usable run in one.
    """
    names = list(tables)
    readings = [_reading(name, _fit(table, objective)) for name, table in tables.items()]
    switches = [
        _switch(other.name, f"{readings[0].name} -> {other.name}", "all else", readings[0].a_N, other.a_N)
        for other in readings[1:]
        if readings[0].a_N is not None and other.a_N is not None
    ]
    if names and all_parameters:
        counted = _recounted(tables[names[0]], all_parameters)
        reading = _reading(f"{names[0]}, all parameters counted", _fit(counted, objective))
        switches += _counting(readings[0], reading, tables[names[0]], counted, objective)
        readings.append(reading)
    if len(readings) < 2:
        raise FitError("one set of runs has no other to be compared with", hint="name two or more runs folders")
    return CauseTable(
        source="runs of your own", readings=tuple(readings), switches=tuple(switches), notes=_notes(readings)
    )


def _fit(table: RunTable, objective: str, draws: int = 1000) -> IsoflopFit:
    return fit_isoflop(table, objective, window=ISOFLOP_WINDOW, draws=draws)


def _recounted(table: RunTable, all_parameters: Mapping[str, float]) -> RunTable:
    return RunTable(tuple(row.model_copy(update={"N": all_parameters[row.run_id]}) for row in table))


def _counting(
    before: CauseReading, after: CauseReading, table: RunTable, counted: RunTable, objective: str
) -> list[CauseSwitch]:
    """The same runs counted in two ways share their noise: losses are drawn anew for both at once."""
    noise = pooled_seed_noise(law_runs(table, objective))
    if before.a_N is None or after.a_N is None or noise is None:
        return []
    rng, shifts = np.random.default_rng(0), []
    for _ in range(_PAIRED_DRAWS):
        losses = np.array([row.loss for row in table]) + noise.sd * rng.standard_normal(len(table.rows))
        pair = [_fit(_with_losses(one, losses), objective, draws=2).a_N for one in (table, counted)]
        if pair[0] is not None and pair[1] is not None:
            shifts.append(pair[1].value - pair[0].value)
    if len(shifts) < _PAIRED_DRAWS // 2:
        return []
    made = _switch("counting", "blocks -> all parameters", "the same runs", before.a_N, after.a_N)
    low, middle, high = np.quantile(shifts, [0.025, 0.5, 0.975]) - np.median(shifts) + made.shift.value
    return [made.model_copy(update={"shift": Interval(value=float(middle), low=float(low), high=float(high))})]


def _with_losses(table: RunTable, losses: FloatArray) -> RunTable:
    return RunTable(tuple(row.model_copy(update={"loss": float(x)}) for row, x in zip(table, losses, strict=True)))


def _reading(name: str, fit: IsoflopFit) -> CauseReading:
    minima = sum(row.N_opt is not None for row in fit.rows)
    flags = dict.fromkeys([*fit.flags, *(flag for row in fit.rows for flag in row.flags)])
    return CauseReading(name=name, a_N=fit.a_N, n_minima=minima, flags=tuple(flags))


def _notes(readings: Sequence[CauseReading]) -> tuple[str, ...]:
    blind = [reading.name for reading in readings if reading.a_N is None]
    if not blind:
        return ()
    return (f"too few budgets have a minimum inside the sizes tried: {', '.join(blind)}",)
