"""The arm that asks how well the recipe's learning rate is tuned at the corners of a study."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import PlanError
from plm_scaling.core.run import Objective
from plm_scaling.sweeps.arm_records import LrProbeArm
from plm_scaling.sweeps.drafts import Draft, RunParts, at_lr

__all__ = ["lr_probe_runs"]

Corner = tuple[ModelShape, int]
"""A shape and its training tokens."""


def lr_probe_runs(parts: RunParts, arm: LrProbeArm, where: str) -> Iterator[Draft]:
    """Every factor at every corner; the recipe's own learning rate makes a run of the study like any other.

    Raises
    ------
    PlanError : no corners given, and no arm to take them from.
    """
    for objective in arm.objectives or parts.spec.objectives:
        corners, role = _corners(parts, arm, objective, where)
        for (shape, D), seed in product(corners, arm.seeds or parts.spec.seeds[:1]):
            config = parts.config(objective, shape, D, parts.all_streams(), seed)
            for factor in arm.factors:
                yield Draft(at_lr(config, factor), (role, "lr_probe") if factor == 1.0 else ("lr_probe",))


def _corners(parts: RunParts, arm: LrProbeArm, objective: Objective, where: str) -> tuple[list[Corner], str]:
    """The corners of an objective, and the role of their runs at the recipe's learning rate."""
    spec, streams = parts.spec, parts.all_streams()
    if arm.sizes:
        shapes = [parts.shape(size, where) for size in arm.sizes]
        if arm.C:
            return [(s, parts.tokens_for(C, s, streams, where)) for s, C in product(_ends(shapes), _two(arm.C))], "grid"
        return [(s, parts.tokens(D, where, "D")) for s, D in product(_ends(shapes), _two(arm.D))], "grid"
    rows = [one for one in spec.isoflop if objective in (one.objectives or spec.objectives)]
    if rows:
        found = []
        for C in _two(one.C for one in rows):
            shapes = [parts.shape(size, where) for one in rows if one.C == C for size in one.sizes]
            found += [(shape, parts.tokens_for(C, shape, streams, where)) for shape in _ends(shapes)]
        return found, "isoflop"
    grids = [one for one in spec.grid if objective in (one.objectives or spec.objectives)]
    if not grids:
        raise PlanError(
            f"no isoflop or grid arm of {objective} has corners to probe",
            where=where,
            hint="give sizes and D, or sizes and C, two of each",
        )
    shapes = [parts.shape(size, where) for one in grids for size in one.sizes]
    lengths = _two(D for one in grids for D in one.D)
    return [(shape, parts.tokens(D, where, "D")) for shape, D in product(_ends(shapes), lengths)], "grid"


def _two(values: Iterable[float]) -> list[float]:
    """The smallest and the largest."""
    every = sorted(set(values))
    return every if len(every) < 2 else [every[0], every[-1]]


def _ends(shapes: Iterable[ModelShape]) -> list[ModelShape]:
    """The smallest and the largest shape."""
    every = sorted(set(shapes), key=lambda shape: shape.N)
    return every if len(every) < 2 else [every[0], every[-1]]
