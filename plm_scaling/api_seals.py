"""The verbs that seal predictions of runs not yet made, and score them after; `plm_scaling.api` has them too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plm_scaling.sweeps.seal_records import Seal
    from plm_scaling.sweeps.seal_scores import SealScore

__all__ = ["predict_score", "predict_seal"]


def predict_seal(law: Path | str, plan: Path | str, *, runs: Path | str | None = None, dry_run: bool = False) -> Seal:
    """Predict the planned runs that have not begun, and add the sealed predictions beside the plan.

    Parameters
    ----------
    law : fit.json.
    plan : plan.json; the seals go to `plan.sealed.json` beside it, and the plan stays as it is.
    runs : folder the plan's runs are trained in (default: `runs/` beside the plan).
    dry_run : predict, and write nothing.

    Runs on another corpus, or by another recipe, than those behind the law are left out. What the law's fit does not
    say of its runs stands in the seal's `flags` and `notes`.

    Raises
    ------
    RefusedError : no run can be sealed, each with its reason; or the fit predicts no losses.
    RecordError : an earlier seal of the plan is broken.
    """
    from plm_scaling import __version__
    from plm_scaling.sweeps.sealing import add_seal

    plan = Path(plan)
    runs = plan.parent / "runs" if runs is None else Path(runs)
    return add_seal(plan, Path(law), runs, version=__version__, write=not dry_run)


def predict_score(plan: Path | str, *, runs: Path | str | None = None) -> tuple[SealScore, ...]:
    """Every seal of a plan with the losses its runs have ended with by now.

    Parameters
    ----------
    plan : plan.json, or where it was: only the seals beside it are read.
    runs : folder the plan's runs are trained in (default: `runs/` beside the plan).

    Raises
    ------
    RecordError : no seals here, a broken seal, or a damaged record.
    """
    from plm_scaling.core.errors import RecordError
    from plm_scaling.sweeps.seal_records import read_seals, seals_path
    from plm_scaling.sweeps.seal_scores import score_seals

    plan = Path(plan)
    found = read_seals(seals_path(plan))
    if not found.seals:
        hint = f"plm-scaling predict FIT.json --seal {plan}, before its runs are trained"
        raise RecordError("nothing is sealed here", where=str(seals_path(plan)), hint=hint)
    return score_seals(found, plan.parent / "runs" if runs is None else Path(runs))
