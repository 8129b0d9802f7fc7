"""Scaling studies of protein language models: from FASTA to the model you should train.

Every verb of the command line is one function here, of the same name and arguments; they are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plm_scaling.api import (
        audit,
        check_overlap,
        collect,
        completed_runs,
        demo,
        doctor,
        evaluate_compare,
        evaluate_curves,
        evaluate_floors,
        evaluate_frontier,
        evaluate_generate,
        evaluate_labels,
        evaluate_ls,
        evaluate_memorisation,
        evaluate_run,
        evaluate_score,
        evaluate_sizes,
        evaluate_validate,
        exchange,
        export,
        fit,
        fit_groups,
        halted_runs,
        import_runs,
        laws_causes,
        laws_check,
        laws_choices,
        laws_compare,
        laws_list,
        laws_show,
        ledger,
        plan,
        predict,
        predict_score,
        predict_seal,
        prep,
        report,
        run,
        runs_export,
        runs_sql,
        runs_table,
        simulate,
        size,
        size_allocation,
        size_check,
        size_page,
        size_uses,
        spend,
        statistics,
        status,
        status_isoflop,
        transfer,
        verify,
        watch,
    )
    from plm_scaling.core.errors import PlmScalingError
    from plm_scaling.core.run_table import RunTable

__version__ = "0.1.0"

__all__ = [
    "PlmScalingError",
    "RunTable",
    "__version__",
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

_ELSEWHERE = {"PlmScalingError": "plm_scaling.core.errors", "RunTable": "plm_scaling.core.run_table"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_ELSEWHERE.get(name, "plm_scaling.api")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
