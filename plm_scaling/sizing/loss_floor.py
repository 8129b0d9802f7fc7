"""Whether laws know where the loss stops falling: beyond the runs a law without a floor only carries their slope on."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from plm_scaling.sizing.decision_record import Decision
from plm_scaling.sizing.law_ensemble import LawEnsemble, LawMember

__all__ = ["floor_doubt", "floorless_share"]

_NO_FLOOR: Final = 0.05
"""Nats below which an irreducible loss is none: no protein model of any size comes near."""
_MANY: Final = 0.2
_FAR_DECADES: Final = 0.5
_COUNTED_FORM: Final = 0.02


def floorless_share(ensemble: LawEnsemble) -> float:
    """Share of the draws, by weight, in which nothing stops the loss: E is at zero, or the form has none."""
    return float(sum(member.weight * _floorless(member) for member in ensemble.members))


def _floorless(member: LawMember) -> float:
    floor = next((k for k, parameter in enumerate(member.form.parameters) if parameter.kind == "floor"), None)
    return 1.0 if floor is None else float(np.mean(member.theta[1:, floor] < math.log(_NO_FLOOR)))


def floor_doubt(made: Decision, ensemble: LawEnsemble) -> dict[str, str]:
    """LOSS_FLOOR_UNKNOWN with its sentence, where a plan lies well above the runs and many draws have no floor."""
    share, range_C = floorless_share(ensemble), made.range_C
    if share < _MANY or range_C is None or range_C[1] >= made.C or made.extrapolation_decades < _FAR_DECADES:
        return {}
    said = [form.loss for form in made.forms if form.weight >= _COUNTED_FORM]
    return {
        "LOSS_FLOOR_UNKNOWN": (
            f"the runs do not identify the irreducible loss: in {share:.0%} of the laws, by weight, nothing says where "
            f"the loss stops falling, so that the {made.loss:.2f} nats expected here go on along the slope of the "
            f"runs. The forms say {min(said):.2f} to {max(said):.2f}; larger runs would tell."
        )
    }
