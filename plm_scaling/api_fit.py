"""The verbs that read a table of runs and fit laws to it; `plm_scaling.api` has them too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from plm_scaling.core.errors import ConfigError

if TYPE_CHECKING:
    from plm_scaling.core.run_table import RunTable
    from plm_scaling.laws.completed_table import CompletedTable
    from plm_scaling.laws.denoise import FinalLoss
    from plm_scaling.laws.imported import Imported
    from plm_scaling.laws.law_fit import LawFit
    from plm_scaling.laws.points import PredictedPoints
    from plm_scaling.sizing.law_choices import LawChoices
    from plm_scaling.transfers.transfer_fit import TransferFit

__all__ = ["collect", "completed_runs", "fit", "import_runs", "laws_choices", "predict", "transfer"]


def collect(table: Path | str, *, validation: str = "val_iid", objective: str | None = None) -> RunTable:
    """A run table from a runs folder, a CSV or a Parquet file; `objective` is that of a table which does not say."""
    table = Path(table)
    if table.is_dir():
        from plm_scaling.sweeps.runs import collect_runs

        return collect_runs(table, validation=validation)
    from plm_scaling.core.run_table import RunTable

    return RunTable.read(table, objective=objective)


def import_runs(
    name: str,
    path: Path | str,
    out: Path | str | None = None,
    *,
    loss: FinalLoss = "denoised",
    objective: str | None = None,
    columns: Mapping[str, str] | None = None,
    validation: str = "val_iid",
) -> Imported:
    """Runs that were logged elsewhere as a run table; at `out`: the table, its curves and a report beside it.

    Parameters
    ----------
    name : cheng2024, csv, wandb, tensorboard, or runs (a runs folder of this package).
    loss : how a final loss is read off a curve; nothing is read where the source has no curves, or where every
        evaluation scored one fixed set (runs).
    objective : clm or mlm, where the source does not say.
    columns : our name -> the source's column, or a number for all runs.
    validation : name of the validation set (runs only).

    Raises
    ------
    RecordError : nothing readable at `path`. ConfigError : no such importer or column.
    """
    from plm_scaling.laws.published import import_table, with_final_losses, write_imported

    path = Path(path)
    if name == "runs":
        from plm_scaling.corpus.format import VAL_IID
        from plm_scaling.laws.exports import imported_own_runs

        runs = collect(path, validation=validation)
        imported = imported_own_runs(path, runs, with_curves=validation == VAL_IID)
    else:
        imported = with_final_losses(import_table(name, path, columns=columns, objective=objective), loss)
    if out is not None:
        write_imported(imported, Path(out), importer=name, source=path)
    return imported


def fit(
    table: Path | str,
    *,
    objective: str | None = None,
    schedule: str | None = None,
    form: str = "auto",
    plateau: float | None = None,
    max_compute: float | None = None,
    delta: float = 1e-3,
    validation: str = "val_iid",
    currency: Literal["auto", "C_exact", "C_6nd"] = "auto",
    draws: int = 4000,
    seed: int = 0,
    partial: bool | CompletedTable = False,
    pictures: Path | str | None = None,
    out: Path | str | None = None,
) -> LawFit:
    """Fit the laws of one objective to a table of runs; written to `out` if given.

    Parameters
    ----------
    table : a runs folder, CSV or Parquet file.
    objective : needed only where the table holds both, or does not say.
    schedule : cosine or wsd, where the table holds runs of both: no law mixes them.
    form : a form of L(N, D), or `auto`: the one that predicts larger budgets best from smaller ones.
    plateau : L0 of bounded forms in nats; None leaves it free.
    max_compute : runs of more than this many FLOPs are left out.
    delta : border of Huber's quadratic zone in units of ln L; inf is least squares, 0 least absolute deviations.
    validation : name of the validation set whose losses are fitted (runs folders only).
    partial : take in runs that have not ended, with the loss predicted for their ends and its error; or what
        `completed_runs` gave for this table and objective.
    pictures : folder to draw the fit into.
    """
    from plm_scaling.laws.combine import fit_laws

    table = Path(table)
    completed = partial or None
    if completed is True:
        completed = completed_runs(table, objective=objective, validation=validation)
    runs = completed.table if completed else collect(table, validation=validation, objective=objective)
    if schedule is not None:
        runs = runs.where(lambda row: row.schedule == schedule)
    chosen = _objective_of(runs, objective, table)
    clusters = None
    if table.is_dir():
        from plm_scaling.sweeps.runs import read_clusters

        # Only runs that went to their ends were scored by sequence.
        scored = runs.of(chosen).where(lambda row: row.schedule_complete and not row.is_imputed)
        clusters = read_clusters(table, [row.run_id for row in scored], validation)
    fitted = fit_laws(
        runs,
        chosen,
        form=form,
        plateau=plateau,
        max_compute=max_compute,
        huber_delta=delta,
        currency=currency,
        draws=draws,
        seed=seed,
        clusters=completed.losses(clusters) if completed else clusters,
    )
    if out is not None:
        fitted.write(Path(out))
    if pictures is not None:
        from plm_scaling.reporting.fit_figures import write_fit_figures

        write_fit_figures(fitted, runs, Path(pictures))
    return fitted


def completed_runs(table: Path | str, *, objective: str | None = None, validation: str = "val_iid") -> CompletedTable:
    """Runs, the unfinished ones with the final losses that their first parts foretell.

    Parameters
    ----------
    table : a runs folder (training losses are looked at), or a CSV or Parquet file with the column D_planned and its
        curves beside it (`NAME.curves.parquet`).

    Raises
    ------
    ConfigError : both objectives and none chosen. RecordError : no curves beside the table.
    """
    from plm_scaling.laws.completed_table import complete_table
    from plm_scaling.laws.curves import Curves, curves_path

    table = Path(table)
    runs = collect(table, validation=validation, objective=objective)
    chosen = _objective_of(runs, objective, table)
    if table.is_dir():
        from plm_scaling.sweeps.unfinished import completed_folder

        return completed_folder(table, chosen, validation)
    return complete_table(runs, Curves.read(curves_path(table)), chosen)


def predict(
    law: Path | str, points: Path | str, *, out: Path | str | None = None, level: float = 0.90
) -> PredictedPoints:
    """Losses that a fit predicts at the points of a CSV (columns N, D, optionally batch_tokens); a CSV at `out`.

    Raises
    ------
    RefusedError : the fit holds no surface. RecordError : a point without N or D.
    """
    from plm_scaling.laws.law_fit import LawFit
    from plm_scaling.laws.points import predict_points

    predicted = predict_points(LawFit.read(Path(law)), Path(points), level=level)
    if out is not None:
        predicted.write(Path(out))
    return predicted


def transfer(
    table: Path | str,
    *,
    validation: str = "val_iid",
    laws: Sequence[LawFit] = (),
    out: Path | str | None = None,
) -> TransferFit:
    """Effectively transferred tokens of every scratch/transferred pair of a table; written to `out` if given.

    With D_t come its worth per source token and net of the source's compute, the best source share of a fixed
    budget, the trend over sizes and, where the design identifies them, the exponents of D_t = k D_f^a N^b. What is
    refused stands in `refusals`.

    Parameters
    ----------
    table : a runs folder, CSV or Parquet file with columns source_run_id (and source_objective, D_source, C_source).
    validation : name of the validation set whose losses are compared (runs folders only).
    laws : fits of the target objectives; D_t is read off all forms they hold and off the scratch runs of the pair's
        own size. An objective without one has several forms fitted to the table's scratch runs.
    """
    from plm_scaling.transfers.tokens import transferred_tokens

    folder = Path(table)
    runs = collect(folder, validation=validation)
    gap_of = None
    if folder.is_dir():
        from plm_scaling.sweeps.runs import paired_gap

        def gap_of(first: str, second: str) -> tuple[float, float]:
            return paired_gap(folder, first, second, validation)

    fitted = transferred_tokens(runs, {law.objective: law for law in laws}, gap_of=gap_of)
    if out is not None:
        fitted.write(Path(out))
    return fitted


def laws_choices(
    table: Path,
    objective: str | None = None,
    *,
    flops: float | None = None,
    currency: Literal["C_6nd", "C_exact"] = "C_6nd",
    law: Path | None = None,
    draws: int = 200,
    validation: str = "val_iid",
) -> LawChoices:
    """What choices of the analysis do to the exponent of N_opt and to N_opt at a budget, on the runs of a table.

    Parameters
    ----------
    table : a runs folder, CSV or Parquet file; with NAME.curves.parquet beside it the final loss is a choice too.
    objective : needed only where the table holds both, or does not say.
    flops : budget at which N_opt is given; None for the table's largest.
    currency : compute that the budgets were placed on.
    law : fit.json of the same objective, to stand beside the rest.
    draws : resamples of the runs behind the envelopes' intervals.

    Raises
    ------
    FitError : no usable run. ConfigError : a fit of the other objective.
    """
    from plm_scaling.laws.curves import Curves, curves_path
    from plm_scaling.laws.law_fit import LawFit
    from plm_scaling.sizing.law_choices import choices_of

    runs = collect(table, validation=validation, objective=objective)
    beside = curves_path(table)
    return choices_of(
        runs,
        _objective_of(runs, objective, table),
        curves=Curves.read(beside) if table.is_file() and beside.is_file() else None,
        C=flops,
        currency=currency,
        fit=None if law is None else LawFit.read(law),
        draws=draws,
    )


def _objective_of(runs: RunTable, objective: str | None, table: Path) -> Any:
    present = sorted({row.objective for row in runs})
    if objective is None and len(present) == 1:
        return present[0]
    if objective not in present:
        raise ConfigError(
            f"the table holds {' and '.join(present) or 'no complete runs'}"
            + (f", not {objective}" if objective else ": which one?"),
            where=str(table),
            hint="--objective " + ("|".join(present) or "after some runs are complete"),
        )
    return objective
