"""The public verbs: every command of the command line is one call of a function here, same name, same arguments.

Functions read and write the files of a study's folder and return the value they wrote. Nothing here prints;
long work reports through callbacks. Heavy packages are imported inside the functions that need them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from plm_scaling.api_audit import audit
from plm_scaling.api_evals import (
    evaluate_compare,
    evaluate_curves,
    evaluate_floors,
    evaluate_frontier,
    evaluate_ls,
    evaluate_run,
    evaluate_validate,
)
from plm_scaling.api_fit import collect, completed_runs, fit, import_runs, laws_choices, predict, transfer
from plm_scaling.api_groups import fit_groups
from plm_scaling.api_labels import evaluate_labels
from plm_scaling.api_laws import laws_causes, laws_check, laws_compare, laws_list, laws_show
from plm_scaling.api_memory import evaluate_generate, evaluate_memorisation, evaluate_sizes
from plm_scaling.api_plan import plan
from plm_scaling.api_runs import halted_runs, runs_export, runs_sql, runs_table, status, status_isoflop, watch
from plm_scaling.api_scores import evaluate_score
from plm_scaling.api_seals import predict_score, predict_seal
from plm_scaling.api_sizing import size, size_allocation, size_check, size_page, size_uses
from plm_scaling.api_spending import exchange, spend

if TYPE_CHECKING:
    from data_prep.inputs import SourceInput
    from data_prep.plan import PrepSpec
    from data_prep.progress import Progress
    from data_prep.simulate import SimulationTruth
    from plm_scaling.corpus.format import Manifest
    from plm_scaling.corpus.ledger_report import LedgerReport
    from plm_scaling.corpus.overlap import OverlapReport
    from plm_scaling.corpus.statistics import CorpusStatistics
    from plm_scaling.execution.slurm_options import SlurmOptions
    from plm_scaling.execution.tasks import Executor, TaskEvent
    from plm_scaling.models.export import Exported
    from plm_scaling.sweeps.plan_records import SweepPlan
    from plm_scaling.sweeps.reconcile import SweepOutcome
    from plm_scaling.training.machine import MachineReport

__all__ = [
    "audit",
    "check_overlap",
    "collect",
    "completed_runs",
    "demo",
    "doctor",
    "evaluate_compare",
    "evaluate_curves",
    "evaluate_floors",
    "evaluate_frontier",
    "evaluate_generate",
    "evaluate_labels",
    "evaluate_ls",
    "evaluate_memorisation",
    "evaluate_run",
    "evaluate_score",
    "evaluate_sizes",
    "evaluate_validate",
    "exchange",
    "export",
    "fit",
    "fit_groups",
    "halted_runs",
    "import_runs",
    "laws_causes",
    "laws_check",
    "laws_choices",
    "laws_compare",
    "laws_list",
    "laws_show",
    "ledger",
    "plan",
    "predict",
    "predict_score",
    "predict_seal",
    "prep",
    "report",
    "run",
    "runs_export",
    "runs_sql",
    "runs_table",
    "simulate",
    "size",
    "size_allocation",
    "size_check",
    "size_page",
    "size_uses",
    "spend",
    "statistics",
    "status",
    "status_isoflop",
    "transfer",
    "verify",
    "watch",
]

_SMALL_INPUT_BYTES = 64_000_000
"""Files as stored that are prepared before a pool of processes is worth starting."""


def prep(
    inputs: Mapping[str, Sequence[Path | str]],
    out: Path,
    spec: PrepSpec | None = None,
    *,
    sources: Sequence[str] = (),
    hold_out: Mapping[str, Sequence[Path]] | None = None,
    workers: int | None = None,
    executor: Executor | None = None,
    cache: Path | None = None,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Manifest:
    """Prepare a corpus.

    Parameters
    ----------
    inputs : source name -> files; earlier sources own the sequences they share with later ones.
    out : folder of the corpus.
    spec : what decides its content.
    sources : named sources (uniref50, ...), addresses, or data sets of the Hugging Face Hub; they come after the files.
    hold_out : name -> files kept out as the split `heldout_NAME`.
    workers : processes on this machine; None for one per core, or for none but this one where the files are small.
    executor : where the tasks run, instead of `workers`.
    cache : folder of downloads.
    overwrite : replace an older corpus.
    progress : called now and then.
    tell : called with lines about each source that is fetched: whose it is, under which licence.
    """
    from data_prep.pipeline import SourceInput, prepare_corpus

    named = [SourceInput(name=name, paths=tuple(paths)) for name, paths in inputs.items()]
    named += [_fetched(word, cache, whole=spec is None or spec.max_residues is None, tell=tell) for word in sources]
    return prepare_corpus(
        named,
        out,
        spec,
        hold_out=hold_out or {},
        executor=executor or _prep_executor(named, workers),
        overwrite=overwrite,
        progress=progress,
    )


def _fetched(word: str, cache: Path | None, *, whole: bool, tell: Callable[[str], None] | None) -> SourceInput:
    """A source by name, on this machine; where only its beginning is wanted, it is read as it arrives."""
    from data_prep.inputs import SourceInput
    from data_prep.sources import fetch_source, resolve_source, stream_items

    source = resolve_source(word, cache=cache)
    for line in source.notes():
        if tell:
            tell(f"{source.name}: {line}")
    items = fetch_source(source, cache) if whole else stream_items(source)
    return SourceInput(source.name, items, origin=source.origin, licence=source.licence)


def _prep_executor(inputs: Sequence[SourceInput], workers: int | None) -> Executor:
    """A pool, unless the work is over before a pool has started."""
    from data_prep.inputs import describe_inputs
    from plm_scaling.execution.inline import InlineExecutor
    from plm_scaling.execution.local import LocalExecutor, default_workers

    if workers is None:
        small = sum(size.bytes for size in describe_inputs(inputs)) < _SMALL_INPUT_BYTES
        workers = 1 if small else default_workers()
    return InlineExecutor() if workers == 1 else LocalExecutor(workers, preload=("data_prep.stages",))


def verify(corpus: Path) -> list[str]:
    """Recompute every checksum and count of a prepared corpus; returns the problems found."""
    from data_prep.pipeline import verify_corpus

    return verify_corpus(corpus)


def statistics(corpus: Path, *, families: Mapping[str, Path] | None = None) -> CorpusStatistics:
    """Lengths, composition, duplicates, clusters, taxa and overlaps of a prepared corpus.

    `families` maps names to FASTA files whose share of the training tokens is wanted (needs MMseqs2).
    """
    from plm_scaling.corpus.reader import Corpus
    from plm_scaling.corpus.statistics import corpus_statistics

    return corpus_statistics(Corpus.open(corpus), families=families or {})


def check_overlap(
    corpus: Path, fasta: Path, *, identity: float = 0.5, coverage: float = 0.8, split: str = "train"
) -> OverlapReport:
    """Compare every sequence of a FASTA file with those of a split: exact copies, and by MMseqs2 what is near."""
    from plm_scaling.corpus.overlap import check_overlap as compare
    from plm_scaling.corpus.reader import Corpus

    return compare(Corpus.open(corpus), fasta, identity=identity, coverage=coverage, split=split)


def simulate(out: Path, *, residues: int = 8_000_000, seed: int = 0) -> SimulationTruth:
    """Write two protein-like FASTA files (UniRef-like, metagenome-like) and their known truth."""
    from data_prep.simulate import simulate_corpus

    return simulate_corpus(out, residues=residues, seed=seed)


def run(
    plan: Path,
    out: Path | None = None,
    *,
    workers: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    per_device: int | Literal["auto"] | None = None,
    only: Sequence[str] = (),
    retry_failed: bool = False,
    max_attempts: int = 3,
    checkpoint_every_s: float = 30.0,
    slurm: SlurmOptions | None = None,
    executor: Executor | None = None,
    watch: bool = False,
    stop_dominated: bool = False,
    pause_share: float = 0.5,
    halt_tolerance: float = 0.1,
    resume_halted: bool = False,
    dry_run: bool = False,
    on_event: Callable[[TaskEvent], None] | None = None,
) -> SweepOutcome:
    """Train what a plan still lacks; `out` is the runs folder (default: `runs/` beside the plan).

    One process per GPU by default, on a machine without one a one-thread process per core. A failing run does not
    stop the others. `per_device` runs share each GPU of this machine; "auto" measures how many do best.

    Parameters
    ----------
    max_attempts : starts of a run that is killed; in a row and without getting further, when this is called again.
    checkpoint_every_s : seconds between checkpoints.
    slurm : train as jobs of the cluster this machine submits to. Ctrl-C cancels them; if this process ends in another
        way they go on, and the next call takes them over.
    executor : where the runs train, instead of `workers` processes here.
    watch : go on until every run is complete or has failed, or gets no further.
    stop_dominated : runs of the larger budgets wait at `pause_share` of their steps, at least .3; those whose predicted
        ends can move ln N_opt of their budget by no more than `halt_tolerance` of the half-width of its interval, all
        together, are halted (`halted.json`), the others go on. What that saved is in the outcome.
    resume_halted : go on with runs that were halted.

    Raises
    ------
    PlanError, CorpusError : of `run_plan`. ConfigError : two answers to where the runs train, or no Slurm here.
    """
    from functools import partial

    from plm_scaling.core.errors import ConfigError
    from plm_scaling.sweeps.devices import placement
    from plm_scaling.sweeps.on_slurm import sweep_executor
    from plm_scaling.sweeps.plan_records import SweepPlan
    from plm_scaling.sweeps.reconcile import run_plan
    from plm_scaling.sweeps.watching import watch_plan

    planned, runs = SweepPlan.read(plan), _runs_of(plan) if out is None else out
    if stop_dominated and (only or resume_halted):
        named = "only" if only else "resume_halted"
        raise ConfigError(f"stop_dominated and {named} do not go together", hint="halt in a call about the whole plan")
    if slurm is not None and executor is None:
        executor = sweep_executor(runs, slurm, max_attempts=max_attempts)
    place = placement(
        planned, executor=executor, device=device, workers=workers, per_device=per_device, dry_run=dry_run
    )
    again = partial(
        run_plan,
        planned,
        plan,
        runs,
        workers=place.workers,
        device=place.device,
        threads=place.threads,
        runs_per_device=place.runs_per_device,
        only=tuple(only),
        max_attempts=max_attempts,
        checkpoint_every_s=checkpoint_every_s,
        executor=executor,
        dry_run=dry_run,
        on_event=on_event,
    )
    if stop_dominated:
        again = partial(_halting, again, planned, runs.resolve(), pause_share, halt_tolerance)
        outcome = again(retry_failed=retry_failed)
    else:
        outcome = again(retry_failed=retry_failed, resume_halted=resume_halted)
    if not watch or dry_run or outcome.all_complete:
        return outcome
    return watch_plan(again, runs, max_attempts=max_attempts)


def _halting(
    one_pass: Callable[..., SweepOutcome],
    plan: SweepPlan,
    runs: Path,
    share: float,
    tolerance: float,
    *,
    retry_failed: bool = False,
) -> SweepOutcome:
    """Passes of `run_plan` with runs paused and decided about in between."""
    from plm_scaling.sweeps.halting import run_halting

    def again(pauses: Mapping[str, float]) -> SweepOutcome:
        return one_pass(retry_failed=retry_failed, pauses=pauses)

    return run_halting(again, plan, runs, share=share, tolerance=tolerance)


def _runs_of(plan: Path) -> Path:
    return plan.parent / "runs"


def ledger(
    plan: Path | str,
    run: str,
    *,
    corpus: Path | str | None = None,
    step: int | None = None,
    at: float | None = None,
    points: int = 200,
    out: Path | str | None = None,
    pictures: Path | str | None = None,
) -> LedgerReport:
    """Which tokens of a run were new, repeated or copies, at a step or at its end; written to `out` if given.

    It follows from the order of the run's batches: the run need not have been trained. The first question about a
    run counts it through and keeps the result beside the corpus' windows.

    Parameters
    ----------
    run : id of a run of the plan, or how it begins.
    corpus : the plan's own by default.
    step : batches trained on; `at`, instead: the first step before which at least so many tokens were drawn.
    points : steps of the curve.
    pictures : folder to draw the curves into.

    Raises
    ------
    PlanError : no such run, or a step or tokens beyond its end. CorpusError : not the corpus of the plan.
    """
    from plm_scaling.core.errors import PlanError, did_you_mean
    from plm_scaling.corpus.ledger_report import ledger_report
    from plm_scaling.corpus.reader import Corpus
    from plm_scaling.sweeps.plan_records import SweepPlan

    plan = Path(plan)
    wanted = SweepPlan.read(plan)
    runs = {one.run_id: (one.config, one.steps) for one in wanted.runs}
    found = [run_id for run_id in runs if run and run_id.startswith(run)]
    if len(found) != 1:
        what = f"{len(found)} runs of the plan begin with {run!r}" if found else f"the plan has no run {run!r}"
        raise PlanError(what, where=str(plan), hint=did_you_mean(run, runs))
    folder = (plan.resolve().parent / wanted.corpus).resolve() if corpus is None else corpus
    made = ledger_report(Corpus.open(folder), runs, found[0], step=step, at=at, points=points)
    if out is not None:
        made.write(Path(out))
    if pictures is not None:
        from plm_scaling.reporting.ledger_figures import write_ledger_figure

        write_ledger_figure(made, Path(pictures))
    return made


def report(study: Path, out: Path | None = None, *, validation: str = "val_iid", evals: Sequence[Path] = ()) -> Path:
    """Write the offline report of a study's folder; returns its path (default: `report.html` in the folder).

    `validation` is the set whose losses the page shows; fits made on another set are marked as such. `evals` are files
    of results of `evaluate_run`, instead of all in evals/ of the folder.
    """
    from plm_scaling.reporting.page import write_report

    return write_report(study, study / "report.html" if out is None else out, validation=validation, evals=evals)


def export(
    source: Path | str,
    out: Path | str,
    *,
    overwrite: bool = False,
    memorisation: Path | str | None = None,
    without_memorisation: bool = False,
) -> Exported:
    """Write the weights of a complete run (or foreign ones) as a folder that transformers loads; see `Exported`.

    Parameters
    ----------
    memorisation : the report of `evaluate_memorisation` about these weights, which is put beside them. Weights that
        were trained on from others need one.
    without_memorisation : let them go without, with a warning.

    Raises
    ------
    ConfigError : something lies at `out`; the report is missing, or of other weights. RefusedError, CheckpointError :
        see `models.export.export_model`.
    """
    from dataclasses import replace

    from plm_scaling.evals.export_check import MEMORISATION, export_warnings
    from plm_scaling.models.export import export_model

    report = None if memorisation is None else Path(memorisation)
    warnings = export_warnings(Path(source), report, unmeasured=without_memorisation)
    made = export_model(Path(source), Path(out), overwrite=overwrite)
    if report is not None:
        (made.folder / MEMORISATION).write_bytes(report.read_bytes())
    return replace(made, warnings=warnings)


def doctor(*, peak: bool = False) -> MachineReport:
    """Versions, devices, measured matrix-product peak and what optional programs are present.

    Parameters
    ----------
    peak : measure the peak of every device, number format and thread count, and keep it: runs then report their MFU.
    """
    from plm_scaling.training.machine import examine_machine

    return examine_machine(peak=peak)


def demo(
    out: Path,
    *,
    minutes: float = 4.0,
    seed: int = 0,
    workers: int | None = None,
    on_stage: Callable[[str], None] | None = None,
    on_event: Callable[[TaskEvent], None] | None = None,
) -> Path:
    """The whole path on a simulated corpus; returns the report's path. Every number in it comes from training here.

    Times a few steps of each model first and scales all budgets by one common factor, so that training fits into
    about `minutes` on this machine.
    """
    from plm_scaling.core.configs import find_config
    from plm_scaling.sweeps.forecast import fit_to_time

    tell = on_stage or (lambda _: None)
    out.mkdir(parents=True, exist_ok=True)
    tell("simulating a protein-like corpus")
    simulate(out / "fasta", seed=seed)
    tell("preparing the corpus")
    inputs = {"uniref_like": [out / "fasta" / "uniref_like.fasta"]}
    inputs["metagenome_like"] = [out / "fasta" / "metagenome_like.fasta"]
    prep(inputs, out / "corpus", overwrite=True)
    spec = out / "sweep.toml"
    spec.write_text(find_config("demo.toml").read_text())
    tell("timing a few training steps of every model")
    scale = fit_to_time(lambda factor: plan(spec, scale=factor), seconds=60 * minutes, workers=workers)
    made = plan(spec, out / "plan.json", scale=scale)
    tell(f"training {len(made.runs)} models (budgets x {scale:.2f})")
    run(out / "plan.json", workers=workers, on_event=on_event)
    tell("fitting the laws")
    laws = [fit(out / "runs", objective=o, out=out / f"fit-{o}.json") for o in ("clm", "mlm")]
    transfer(out / "runs", laws=laws, out=out / "transfer.json")
    tell("writing the report")
    return report(out)
