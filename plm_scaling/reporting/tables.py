"""The report's tables: laws, sources, token ledger, runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plm_scaling.core.run import LedgerRow, RunRecord
from plm_scaling.core.run_table import RunRow
from plm_scaling.core.units import format_count
from plm_scaling.laws.law_fit import Interval
from plm_scaling.laws.surface import form_of
from plm_scaling.reporting.mixtures import diversity_sources
from plm_scaling.reporting.study import OBJECTIVES, Study, source_set
from plm_scaling.reporting.wording import (
    count,
    count_interval,
    count_range,
    flag_words,
    form_words,
    measured,
    number_interval,
    percent,
    power_of_ten,
    signed,
    split_flags,
    token_gain,
)

__all__ = [
    "Table",
    "tabulate_exponents",
    "tabulate_forms",
    "tabulate_ledger",
    "tabulate_minima",
    "tabulate_parts",
    "tabulate_runs",
    "tabulate_sources",
    "tabulate_surfaces",
    "tabulate_transfer",
    "tabulate_validation",
]

_ABSENT = "\u2013"
_ROLES = (
    "isoflop",
    "grid",
    "replicate",
    "repeats",
    "diversity",
    "transfer_source",
    "transfer_scratch",
    "transfer_target",
)


_SEVERAL_SETS = ("diversity", "transfer_target", "transfer_scratch")


@dataclass(frozen=True)
class Table:
    """Cells as text; the first `text_columns` columns are words, the others numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1


def _table(title: str, header: str, rows: Sequence[tuple[str, ...]], text_columns: int = 1) -> Table | None:
    return Table(title, tuple(header.split("|")), tuple(rows), text_columns) if rows else None


def tabulate_minima(study: Study) -> Table | None:
    """Per objective and budget: the minimum, its interval, and why it may be doubted."""
    rows = []
    for objective in OBJECTIVES:
        law = study.laws.get(objective)
        for row in law.isoflop.rows if law and law.isoflop else ():
            rows.append(
                (
                    objective.upper(),
                    power_of_ten(row.C),
                    str(len(row.N)),
                    count_interval(row.N_opt) if row.N_opt else _ABSENT,
                    format_count(row.D_opt) if row.D_opt else _ABSENT,
                    f"{row.L_opt:.3f}" if row.L_opt is not None else _ABSENT,
                    count_range(*row.N_band) if row.N_band else _ABSENT,
                    f"{row.depth:.3f}" if row.depth is not None else _ABSENT,
                    flag_words(row.flags),
                )
            )
    header = "Objective|C, FLOPs|Sizes|N_opt (95 %)|D_opt|Loss|N within +0.01 nats|Depth, nats|Doubts"
    return _table("Minima", header, rows)


def tabulate_exponents(study: Study) -> Table | None:
    """Exponents by method and currency."""
    rows = []
    for objective in OBJECTIVES:
        law = study.laws.get(objective)
        if law is None:
            continue
        for fit in (law.isoflop, law.isoflop_other_currency):
            if fit:
                a_N = number_interval(fit.a_N) if fit.a_N else "refused"
                a_D = number_interval(fit.a_D) if fit.a_D else "refused"
                rows.append((objective.upper(), f"IsoFLOP minima, {fit.currency}", a_N, a_D, flag_words(fit.flags)))
        if law.surface:
            a_N = number_interval(law.surface.a_N) if law.surface.a_N else "refused"
            method = f"fitted surface ({form_words(law.surface)}), 6ND"
            rows.append((objective.upper(), method, a_N, _ABSENT, flag_words(law.surface.flags)))
    return _table("Exponents", "Objective|Method|N_opt ~ C^a, a (95 %)|D_opt ~ C^a, a (95 %)|Doubts", rows, 2)


def tabulate_surfaces(study: Study) -> Table | None:
    """Parameters of the fitted surfaces with their intervals; forms differ in their parameters."""
    fits = [(name, law.surface) for name in OBJECTIVES if (law := study.laws.get(name)) and law.surface]
    names = tuple(dict.fromkeys(name for _, fit in fits for name in fit.parameters))
    rows = []
    for objective, fit in fits:
        tokens = {parameter.name for parameter in form_of(fit).parameters if parameter.unit == "tokens"}
        values = [_parameter(fit.parameters.get(name), counts=name in tokens) for name in names]
        quality = (percent(fit.rms_relative_error), percent(fit.starts_agreeing), flag_words(fit.flags))
        at = f"N0 = {format_count(fit.N0)}, D0 = {format_count(fit.D0)}"
        rows.append((objective.upper(), form_words(fit), at, *values, *quality))
    header = ("Objective|Form|Centred at", *names, "RMS error|Starts agreeing|Doubts")
    return _table("Fitted surfaces: A0 and B0 are the terms at N0 and D0", "|".join(header), rows, 3)


def _parameter(interval: Interval | None, *, counts: bool) -> str:
    if interval is None:
        return _ABSENT
    return count_interval(interval) if counts else number_interval(interval)


def tabulate_forms(study: Study) -> Table | None:
    """Every form that was tried, with its error on budgets beyond those it was fitted to."""
    rows = []
    for objective in OBJECTIVES:
        law = study.laws.get(objective)
        for score in law.forms if law else ():
            rows.append(
                (
                    objective.upper(),
                    form_words(score),
                    str(score.n_parameters),
                    _error(score.extrapolation),
                    percent(score.coverage) if score.coverage is not None else _ABSENT,
                    _error(score.leave_one_out),
                    _error(score.rms_relative_error),
                    percent(score.weight),
                )
            )
    header = (
        "Objective|Form|Parameters|Error on larger budgets|Of those inside the 90 % interval|One run left out"
        "|RMS in sample|Weight"
    )
    return _table("Forms that were tried", header, rows, 2)


def _error(share: float | None) -> str:
    """Two decimals: forms differ by hundredths of a percent."""
    return _ABSENT if share is None else f"{100 * share:.2f}\u00a0%"


def tabulate_transfer(study: Study) -> Table | None:
    """Every pair with what it gained and what the source cost."""
    rows = []
    for pair in study.transfer.pairs if study.transfer else ():
        rows.append(
            (
                f"{pair.source_objective.upper()} \u2192 {pair.objective.upper()}",
                format_count(pair.N),
                format_count(pair.D),
                format_count(pair.D_source),
                signed(pair.gap, pair.gap_total_se or pair.gap_se),
                token_gain(pair) or _ABSENT,
                _number(pair.D_t_per_source_token),
                _count_or_absent(pair.net_tokens),
                signed(-pair.net_loss_gain, None) if pair.net_loss_gain is not None else _ABSENT,
                pair.method or _ABSENT,
                flag_words(pair.flags),
            )
        )
    header = (
        "Pair|N|D|D of source|Gap, nats|D_t (95 %)|D_t per source token|D_t net of source|Gap at equal total cost, nats"
    )
    return _table("Transfer pairs", header + "|Method|Doubts", rows)


def tabulate_sources(study: Study) -> Table | None:
    """What the corpus holds, per source."""
    rows = [
        (
            source.name,
            format_count(source.sequences),
            format_count(source.residues),
            format_count(source.tokens),
            format_count(source.unique_tokens),
            percent(source.duplicate_tokens / source.tokens) if source.tokens else _ABSENT,
        )
        for source in (study.manifest.sources if study.manifest else ())
    ]
    return _table("Sources", "Source|Sequences|Residues|Tokens|Unique tokens|Exact duplicates", rows)


def tabulate_runs(study: Study) -> Table | None:
    """Every run with its loss."""
    rows = [
        (
            row.run_id,
            row.objective.upper(),
            _roles(row.role),
            format_count(row.N),
            format_count(row.D),
            _number(row.epochs),
            power_of_ten(row.C_exact) if row.C_exact else _ABSENT,
            str(row.seed) if row.seed is not None else _ABSENT,
            measured(row.loss, row.loss_se),
            f"{row.device_s:.0f}" if row.device_s is not None else _ABSENT,
            flag_words(split_flags(row.flags)),
        )
        for row in _ordered(study)
    ]
    header = "Run|Objective|Role|N|D|Epochs|C_exact|Seed|Loss \u00b1 SE|Seconds|Doubts"
    return _table("Runs", header, rows, 3)


def _ordered(study: Study) -> list[RunRow]:
    """Objective by objective, in the order of the report's sections."""

    def place(row: RunRow) -> tuple[float, ...]:
        first = row.role.split(",")[0]
        role = _ROLES.index(first) if first in _ROLES else len(_ROLES)
        return (OBJECTIVES.index(row.objective), role, row.N, row.D, row.seed or 0)

    return sorted(study.table, key=place)


def tabulate_ledger(study: Study) -> Table | None:
    """Training tokens of every run: unique, repeated, seen by an earlier run, and from which source."""
    rows = []
    for row in _ordered(study):
        record = study.records.get(row.run_id)
        total = next((entry for entry in record.ledger if entry.source == "*"), None) if record else None
        if record and total and total.tokens:
            shares = (total.unique, total.repeated_epoch, total.repeated_duplicate, total.seen_earlier)
            cells = tuple(percent(part / total.tokens) for part in shares)
            sources = _source_shares(record, total)
            rows.append(
                (
                    row.run_id,
                    row.objective.upper(),
                    _roles(row.role),
                    sources,
                    format_count(total.tokens),
                    *cells,
                )
            )
    header = "Run|Objective|Role|Sources|Tokens|Unique|Repeated|Exact copies|Seen by earlier run"
    return _table("Token ledger", header, rows, 4)


def _source_shares(record: RunRecord, total: LedgerRow) -> str:
    parts = [entry for entry in record.ledger if entry.source != "*" and entry.tokens]
    return ", ".join(f"{entry.source} {percent(entry.tokens / total.tokens)}" for entry in parts) or _ABSENT


def tabulate_validation(study: Study) -> Table | None:
    """Loss of every run of the diversity and transfer arms on every whole validation set, where there are several."""
    names = study.validation_sets()
    if len(names) < 2:
        return None
    return _losses(study, "Loss by validation set, nats per token", names, _SEVERAL_SETS)


def tabulate_parts(study: Study) -> Table | None:
    """Loss of every run of the diversity arms on each compared source's own validation sequences."""
    names = [name for source in diversity_sources(study) if (name := source_set(study, source))]
    if not names:
        return None
    title = "Loss by source of the validation sequences, nats per token"
    return _losses(study, title, (study.validation, *names), ("diversity",))


def _losses(study: Study, title: str, names: Sequence[str], roles: Sequence[str]) -> Table | None:
    rows = []
    for row in _ordered(study):
        record = study.records.get(row.run_id)
        if record and any(row.has_role(role) for role in roles):
            losses = {loss.set_name: measured(loss.per_token, loss.se) for loss in record.validation}
            cells = tuple(losses.get(name, _ABSENT) for name in names)
            sources = "+".join("/".join(stream.sources) or "all" for stream in record.config.streams)
            rows.append((row.run_id, row.objective.upper(), _roles(row.role), sources, *cells))
    return _table(title, "|".join(("Run|Objective|Role|Sources", *names)), rows, 4)


def _roles(role: str) -> str:
    return role.replace("_", " ").replace(",", ", ")


def _count_or_absent(value: float | None) -> str:
    return _ABSENT if value is None else count(value)


def _number(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:.0f}" if value >= 9.95 else f"{value:.2g}"
