"""The verbs about the decision; part of `plm_scaling.api`, where they are found with the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plm_scaling.sizing.allocation_record import AllocationPlan
    from plm_scaling.sizing.recommendation import Recommendation
    from plm_scaling.sizing.use_plan import UsePlan
    from plm_scaling.sizing.worked_examples import ExamplesReport

__all__ = ["size", "size_allocation", "size_check", "size_page", "size_uses"]


def size(
    *,
    objective: str,
    gpu_hours: float | None = None,
    usd: float | None = None,
    flops: float | None = None,
    gpu: str = "a100",
    n_gpus: int = 1,
    unique_tokens: float | None = None,
    mfu: float | None = None,
    usd_per_gpu_hour: float | None = None,
    laws: Sequence[Path | str] = (),
    force: bool = False,
    out: Path | None = None,
) -> Recommendation:
    """Model size, tokens, epochs and cost for a budget, with the regret of other sizes under uncertain laws.

    Exactly one of `gpu_hours`, `usd` and `flops` is the budget; `unique_tokens` are the distinct training tokens at
    hand; `mfu` and `usd_per_gpu_hour` replace the GPU's defaults.

    Parameters
    ----------
    laws : fit.json files and published laws as `zoo:NAME`; the first gives N, the others of this objective widen its
        band. None given: fits of the logs released with the published laws, and those laws.
    out : file to write, such as STUDY/size.json, which opens the study's report with the decision.

    Raises
    ------
    RefusedError : more than 1.5 decades outside the law's range, unless `force`.
    """
    from plm_scaling.sizing.chosen_laws import read_laws
    from plm_scaling.sizing.quantity_bounds import check_quantities
    from plm_scaling.sizing.recommend import Budget, recommend

    check_quantities(
        gpu_hours=gpu_hours,
        usd=usd,
        flops=flops,
        unique_tokens=unique_tokens,
        mfu=mfu,
        usd_per_gpu_hour=usd_per_gpu_hour,
        n_gpus=n_gpus,
    )
    budget = Budget(gpu_hours=gpu_hours, usd=usd, flops=flops)
    answer = recommend(
        budget,
        objective,
        gpu=gpu,
        n_gpus=n_gpus,
        unique_tokens=unique_tokens,
        mfu=mfu,
        usd_per_gpu_hour=usd_per_gpu_hour,
        laws=read_laws(laws) or None,
        force=force,
    )
    if out is not None:
        answer.write(out)
    return answer


def size_uses(
    *,
    objective: str,
    sequences: float,
    length: float,
    use: str = "single_pass",
    passes: float | None = None,
    gpu_hours: float | None = None,
    usd: float | None = None,
    flops: float | None = None,
    gpu: str = "a100",
    unique_tokens: float | None = None,
    mfu: float | None = None,
    usd_per_gpu_hour: float | None = None,
    laws: Sequence[Path | str] = (),
    force: bool = False,
) -> UsePlan:
    """The model to train when its uses are paid for too: at the loss the budget reaches, the least cost over its life.

    Parameters
    ----------
    sequences, length, passes : what is read or generated over the model's life; passes default to what `use` asks for.
    use : single_pass, masked_marginals, pseudo_likelihood, generation or embedding.

    Raises
    ------
    ConfigError : an unknown use or accelerator. RefusedError : as `size`.
    """
    from plm_scaling.sizing.chosen_laws import read_laws
    from plm_scaling.sizing.quantity_bounds import check_quantities
    from plm_scaling.sizing.recommend import Budget, recommend
    from plm_scaling.sizing.serving import job_of
    from plm_scaling.sizing.situations import ensemble_for
    from plm_scaling.sizing.use_plan import plan_uses

    check_quantities(
        sequences=sequences,
        length=length,
        passes=passes,
        gpu_hours=gpu_hours,
        usd=usd,
        flops=flops,
        unique_tokens=unique_tokens,
        mfu=mfu,
        usd_per_gpu_hour=usd_per_gpu_hour,
    )
    job, found = job_of(use, sequences, length, passes=passes), read_laws(laws)
    answer = recommend(
        Budget(gpu_hours=gpu_hours, usd=usd, flops=flops),
        objective,
        gpu=gpu,
        unique_tokens=unique_tokens,
        mfu=mfu,
        usd_per_gpu_hour=usd_per_gpu_hour,
        laws=found or None,
        force=force,
    )
    return plan_uses(
        ensemble_for(objective, found),
        answer.C,
        [job],
        unique_tokens=unique_tokens,
        gpu=gpu,
        mfu=mfu,
        usd_per_gpu_hour=usd_per_gpu_hour,
    )


def size_allocation(
    *,
    objective: str,
    nodes: int,
    gpus_per_node: int,
    hours: float,
    expires: str | None = None,
    queue_limit: float | None = 24.0,
    gpu: str = "a100",
    unique_tokens: float | None = None,
    mfu: float | None = None,
    laws: Sequence[Path | str] = (),
    force: bool = False,
) -> AllocationPlan:
    """How to split an allocation into pilots, sweep, final run, evaluation and reserve, with the risk of each split.

    Parameters
    ----------
    nodes, gpus_per_node : used at a time.
    hours : node-hours granted.
    expires : when the grant ends: 1400h, 60d, or a date; None if it does not.
    queue_limit : longest job, hours; None for no limit.

    Raises
    ------
    ConfigError : an end that has passed, or an unknown accelerator.
    RefusedError : no final run fits, or the laws are too far from their runs (unless `force`).
    """
    from datetime import datetime

    from plm_scaling.sizing.allocation import plan_allocation
    from plm_scaling.sizing.allocation_risk import Allocation, hours_until
    from plm_scaling.sizing.chosen_laws import laws_sha256, read_laws
    from plm_scaling.sizing.quantity_bounds import check_quantities
    from plm_scaling.sizing.situations import ensemble_for

    check_quantities(
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        hours=hours,
        queue_limit=queue_limit,
        unique_tokens=unique_tokens,
        mfu=mfu,
    )
    granted = Allocation.checked(
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        node_hours=hours,
        wall_hours=None if expires is None else hours_until(expires, datetime.now().astimezone()),
        queue_limit_hours=queue_limit,
    )
    found = read_laws(laws)
    ensemble = ensemble_for(objective, found)
    plan = plan_allocation(ensemble, granted, gpu=gpu, mfu=mfu, unique_tokens=unique_tokens, force=force)
    return plan.model_copy(update={"laws_sha256": laws_sha256(objective, found)})


def size_page(
    out: Path,
    *,
    objective: str | None = None,
    gpu_hours: float | None = None,
    usd: float | None = None,
    flops: float | None = None,
    gpu: str = "a100",
    n_gpus: int = 1,
    unique_tokens: float | None = None,
    mfu: float | None = None,
    usd_per_gpu_hour: float | None = None,
    laws: Sequence[Path | str] = (),
    force: bool = False,
) -> Path:
    """The question as an offline page with sliders, opening at the arguments of `size`; without a budget at its own.

    Raises
    ------
    ConfigError : an unknown accelerator, or a law that does not size a budget. RefusedError : a fit that says nothing.
    """
    from plm_scaling.reporting.page_laws import laws_for_page
    from plm_scaling.reporting.sizing_page import page_question, write_sizing_page
    from plm_scaling.sizing.chosen_laws import read_laws
    from plm_scaling.sizing.quantity_bounds import check_quantities

    check_quantities(
        gpu_hours=gpu_hours,
        usd=usd,
        flops=flops,
        unique_tokens=unique_tokens,
        mfu=mfu,
        usd_per_gpu_hour=usd_per_gpu_hour,
        n_gpus=n_gpus,
    )
    question = page_question(
        objective=objective or "",
        gpu_hours=gpu_hours,
        usd=usd,
        flops=flops,
        unique_tokens=unique_tokens,
        gpu=gpu,
        gpus=n_gpus,
        mfu=mfu,
        usd_per_gpu_hour=usd_per_gpu_hour,
        force=force,
    )
    return write_sizing_page(out, laws_for_page(read_laws(laws) or None), question=question)


def size_check(examples: Path | str, *, page: bool = False) -> ExamplesReport:
    """The engine held against a file of worked examples: every case, and each number that did not come out.

    Parameters
    ----------
    page : ask the code of the sizing page instead, under node.

    Raises
    ------
    ConfigError : no such file, an example that cannot be asked (unknown kind or law form, a key missing or wrong), or
        no node on the PATH.
    """
    if page:
        from plm_scaling.reporting.page_examples import check_page

        return check_page(examples)
    from plm_scaling.sizing.worked_examples import check_examples

    return check_examples(examples)
