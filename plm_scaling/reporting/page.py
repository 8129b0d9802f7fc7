"""The report: one offline HTML page, verdict first, every section drawn from a `Study`."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jinja2
from markupsafe import Markup

from plm_scaling.core.files import write_atomic
from plm_scaling.corpus.format import VAL_IID
from plm_scaling.reporting import figures
from plm_scaling.reporting.corpus_section import corpus_sections
from plm_scaling.reporting.decision_section import decision_part
from plm_scaling.reporting.decision_view import SIZE_COMMAND
from plm_scaling.reporting.doubts import limits, named_doubts
from plm_scaling.reporting.drawing import COLORS, DARK
from plm_scaling.reporting.evals_section import evals_sections
from plm_scaling.reporting.groups_section import groups_sections
from plm_scaling.reporting.loading import load_study
from plm_scaling.reporting.seal_section import seal_sections
from plm_scaling.reporting.study import Study
from plm_scaling.reporting.tables import Table, tabulate_ledger, tabulate_runs, tabulate_sources
from plm_scaling.reporting.verdict import answers
from plm_scaling.reporting.wording import percent, power_of_ten, typeset

__all__ = ["render_page", "write_report"]


def write_report(study: Path, out: Path, *, validation: str = VAL_IID, evals: Sequence[Path] = ()) -> Path:
    """Write the report of a study's folder as one self-contained HTML file.

    Parameters
    ----------
    study : folder with plan.json, plan.sealed.json, runs/, fit-clm.json, fit-mlm.json, transfer.json,
        groups-clm.json, groups-mlm.json, size.json, spend.json, allocation.json, evals/, corpus/ (each may be missing).
    out : the HTML file, replaced atomically.
    validation : name of the validation set whose losses are shown.
    evals : files of results of evaluations, instead of evals/*.jsonl.

    Raises
    ------
    RecordError : no such folder, or nothing in it to report; a file of `evals` that cannot be read.
    """
    write_atomic(out, render_page(load_study(study, validation=validation, evals=evals)))
    return out


def render_page(study: Study, *, now: datetime | None = None) -> str:
    """The page's HTML. `now` is the time stated as that of writing (default: the clock's)."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("plm_scaling.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["typeset"] = typeset
    decision = decision_part(study)
    return environment.get_template("report.html.j2").render(
        study=study,
        subtitle=_subtitle(study),
        answers=answers(study),
        limits=limits(study),
        doubts=named_doubts(study),
        decision=decision,
        size_command=SIZE_COMMAND,
        sections=(
            *decision.sections,
            *figures.all_sections(study),
            *groups_sections(study),
            *seal_sections(study),
            *evals_sections(study),
            *corpus_sections(study),
        ),
        corpus=_present([tabulate_sources(study)]),
        ledger=tabulate_ledger(study),
        runs=tabulate_runs(study),
        provenance=_provenance(study, now or datetime.now(UTC)),
        light=Markup(_variables(COLORS)),
        dark=Markup(_variables(DARK)),
    )


def _present(tables: Iterable[Table | None]) -> list[Table]:
    return [table for table in tables if table is not None]


def _variables(colors: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colors.items())


def _subtitle(study: Study) -> str:
    parts = [f"{len(study.table)} complete runs"]
    compute = [row.C_exact for row in study.table if row.C_exact]
    if compute:
        parts.append(f"{power_of_ten(sum(compute))} training FLOPs")
    seconds = [row.device_s for row in study.table if row.device_s]
    if seconds:
        total = sum(seconds)
        parts.append(f"{total / 60:.0f} device minutes" if total < 7200 else f"{total / 3600:.1f} device hours")
    if study.manifest:
        parts.append(f"corpus {study.manifest.name}")
    if study.table:
        parts.append(f"losses on {study.validation}")
    return " \u00b7 ".join(parts)


@dataclass(frozen=True)
class _Fact:
    name: str
    value: str


def _provenance(study: Study, now: datetime) -> list[_Fact]:
    facts = [_Fact("Report written", f"{now:%Y-%m-%d %H:%M} UTC on {platform.system()} {platform.machine()}")]
    if study.plan:
        facts.append(_Fact("Plan", f"{study.plan.name}, {len(study.plan.runs)} runs, {study.plan.content_hash()[:16]}"))
    ids = {row.corpus_id for row in study.table if row.corpus_id}
    facts += [_Fact("Corpus id", corpus_id) for corpus_id in sorted(ids)]
    if study.manifest:
        share = percent(study.manifest.val_share)
        facts.append(_Fact("Split", f"{share} validation, seed {study.manifest.split_seed}"))
    scored = [row for row in study.table if row.validation_id]
    validation = {f"{study.validation}, {row.objective.upper()} {row.validation_id}" for row in scored}
    facts += [_Fact("Validation set", text) for text in sorted(validation)]
    facts += [_Fact(f"Fit of {name.upper()}, data hash", law.data_hash) for name, law in study.laws.items()]
    if study.transfer:
        facts.append(_Fact("Transfer, data hash", study.transfer.data_hash))
    return facts + _run_facts(study)


def _run_facts(study: Study) -> list[_Fact]:
    """Versions and settings of the runs; several values mean that not all runs were made alike."""
    values: dict[str, set[str]] = {}
    for record in study.records.values():
        for name, version in record.versions.items():
            values.setdefault(name, set()).add(version)
        values.setdefault("number format", set()).add(record.config.dtype)
        values.setdefault("threads per run", set()).add(str(record.threads))
        values.setdefault("recipe", set()).add(record.config.recipe)
    return [_Fact(name, ", ".join(sorted(found))) for name, found in values.items()]
