"""The verbs about how to spend a budget; part of `plm_scaling.api`, where they are found with the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plm_scaling.sizing.exchange_rates import ExchangeRates
    from plm_scaling.sizing.spending_view import SpendingView

__all__ = ["exchange", "spend"]


def spend(
    *,
    objectives: Sequence[str],
    gpu_hours: float | None = None,
    usd: float | None = None,
    flops: float | None = None,
    gpu: str = "a100",
    unique_tokens: float | None = None,
    mfu: float | None = None,
    usd_per_gpu_hour: float | None = None,
    laws: Sequence[Path | str] = (),
    sources: Path | None = None,
    usd_per_token: float | None = None,
    metric: str = "",
    metric_table: Path | None = None,
    lower_is_better: bool = False,
    public_losses: Mapping[str, float] | None = None,
    transfer: Path | None = None,
    teacher: str = "",
    teacher_free: bool = True,
    unverified: bool = False,
    proprietary_tokens: float | None = None,
    proprietary_length: float | None = None,
    proprietary_runs: Path | None = None,
    usd_per_nat: float | None = None,
    pilots: bool = True,
    force: bool = False,
) -> SpendingView:
    """Every way to spend a budget beside the others, what a dollar more buys, and which pilots to run first.

    Parameters
    ----------
    objectives : clm, mlm, or both where that is open.
    laws : fit.json files and `zoo:NAME`; each objective takes the first of its own, or the released logs' fits.
    sources : TOML file of `[[source]]` tables: more tokens, their price and exchange rate.
    usd_per_token : price of a new unique token of the target, where no source has one.
    metric : what decides across objectives: fitness, contacts, capsid, ... or a name of your own; published scores of
        public models and alignments join where there are any.
    metric_table : CSV with loss, metric and, for both objectives, objective: scored models of your own;
        rows with model and no loss are public models that were scored on the same data.
    public_losses : losses of public models, by name, on the validation set of the laws.
    transfer : transfer.json of your own pairs.
    teacher, teacher_free : the model to distil, and whether it is there already.
    unverified : rank what rests on coefficients nobody has checked.
    proprietary_tokens : distinct tokens of sequences of your own (capsids, enzymes): what they can be used for.
    proprietary_length : tokens of one of them, for the cost of attention; None: that of public ones.
    proprietary_runs : CSV with model, method, tokens, loss and, where scored, metric: what was measured on them.
    usd_per_nat : what lowering the loss by one nat is worth, for the pilots.

    Raises
    ------
    ConfigError : an unknown objective, model, accelerator, or a file that cannot be used.
    RefusedError : a law that states no loss, or too far from the budget (unless `force`).
    """
    from plm_scaling.sizing.chosen_laws import laws_sha256, read_laws
    from plm_scaling.sizing.costs import Budget
    from plm_scaling.sizing.metric_map import read_metric_table
    from plm_scaling.sizing.own_sequences import read_adapted_runs
    from plm_scaling.sizing.published_scores import measured_scores, published_scores
    from plm_scaling.sizing.quantity_bounds import check_quantities
    from plm_scaling.sizing.situations import make_situations
    from plm_scaling.sizing.spending_view import read_sources, view_spending
    from plm_scaling.sizing.token_source import TokenSource
    from plm_scaling.transfers.transfer_fit import TransferFit

    check_quantities(
        gpu_hours=gpu_hours,
        usd=usd,
        flops=flops,
        unique_tokens=unique_tokens,
        mfu=mfu,
        usd_per_gpu_hour=usd_per_gpu_hour,
        usd_per_token=usd_per_token,
        usd_per_nat=usd_per_nat,
        proprietary_tokens=proprietary_tokens,
        proprietary_length=proprietary_length,
    )
    for name, loss in (public_losses or {}).items():
        check_quantities(name, loss=loss)
    offered = read_sources(sources) if sources else ()
    if usd_per_token is not None and not any(one.kind == "sequenced" for one in offered):
        offered += (TokenSource.checked(name="new tokens", usd_per_token=usd_per_token),)
    found = read_laws(laws)
    situations, purchase = make_situations(
        Budget(gpu_hours=gpu_hours, usd=usd, flops=flops),
        objectives,
        laws=found,
        gpu=gpu,
        mfu=mfu,
        usd_per_gpu_hour=usd_per_gpu_hour,
        unique_tokens=unique_tokens,
        sources=offered,
        transfer=TransferFit.read(transfer) if transfer else None,
        public_losses=public_losses,
        teacher=teacher,
        teacher_free=teacher_free,
        unverified=unverified,
        own_tokens=proprietary_tokens,
        own_length=proprietary_length,
        own_runs=read_adapted_runs(proprietary_runs) if proprietary_runs else (),
        force=force,
    )
    published, higher = published_scores(metric)
    measured = measured_scores(metric_table) if metric_table else ()
    here = {score.name for score in measured}
    view = view_spending(
        situations,
        metric=metric,
        points=read_metric_table(metric_table) if metric_table else (),
        scores=(*measured, *(score for score in published if score.name not in here)),
        higher_is_better=higher and not lower_is_better,
        usd_per_token=usd_per_token,
        usd_per_nat=usd_per_nat,
        fixed=purchase.fixed,
        price=purchase.price,
        pilots=pilots,
    )
    return view.model_copy(
        update={"laws_sha256": {name: laws_sha256(name, found) for name in dict.fromkeys(objectives)}}
    )


def exchange(
    runs: Path,
    *,
    objective: str,
    laws: Sequence[Path | str] = (),
    target: str = "",
    validation: str = "val_iid",
    out: Path | None = None,
) -> ExchangeRates:
    """What a token of other sources is worth in tokens of the target, from diversity runs.

    Parameters
    ----------
    runs : a runs folder, CSV or Parquet file.
    laws : as in `spend`; a fit of the target's runs is best.
    target : source that counts as one; empty: the one that runs draw a limited part of.
    validation : validation set whose losses are compared; that of the target alone, `val_iid@TARGET`, tells worth
        from likeness (runs folders only).
    out : TOML file to write the rates to, as `spend` reads sources; prices and tokens are yours to add.

    Raises
    ------
    FitError : no diversity runs of this objective, or none that can be compared.
    """
    from plm_scaling.core.files import write_atomic
    from plm_scaling.core.run_table import RunTable
    from plm_scaling.sizing.chosen_laws import read_laws
    from plm_scaling.sizing.exchange_rates import fit_exchange_rates, sources_text
    from plm_scaling.sizing.situations import ensemble_for
    from plm_scaling.sweeps.runs import collect_runs

    table = collect_runs(runs, validation=validation) if runs.is_dir() else RunTable.read(runs, objective=objective)
    found = fit_exchange_rates(table, ensemble_for(objective, read_laws(laws)), target=target)
    if out is not None:
        write_atomic(out, sources_text(found))
    return found
