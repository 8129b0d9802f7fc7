"""All tasks there are, in the order they are best asked."""

from __future__ import annotations

from functools import lru_cache

from plm_scaling.evals.task import Task

__all__ = ["all_tasks"]


@lru_cache(maxsize=1)
def all_tasks() -> tuple[Task, ...]:
    """Likelihood first, then what is scored without labels, what learns from them, structure, and what is drawn."""
    from plm_scaling.evals import (
        contact_tasks,
        generation_tasks,
        likelihood_tasks,
        proteingym_tasks,
        residue_tasks,
        supervised_tasks,
        zero_shot_tasks,
    )

    return (
        *likelihood_tasks.TASKS,
        *zero_shot_tasks.TASKS,
        *proteingym_tasks.TASKS,
        *supervised_tasks.TASKS,
        *residue_tasks.TASKS,
        *contact_tasks.TASKS,
        *generation_tasks.TASKS,
    )
