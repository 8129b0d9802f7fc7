"""Short horizons out of a long run: before its decay, a `wsd` run is the beginning of every run with a smaller D."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from plm_scaling.core.errors import CheckpointError, RecordError
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.training.checkpoint import kept_path, offer_kept, remove_checkpoints, stated
from plm_scaling.training.live_run import LiveRun

__all__ = ["take_over_trunk"]

_MAY_DIFFER: Final = ("D", "validation_tokens", "validation_points")


def take_over_trunk(run: LiveRun) -> str:
    """Set a run that has not begun to the state its trunk had where this run's decay begins. All processes take part.

    The result is that of training from scratch, bit for bit; only the loss of the first logged line is averaged over
    fewer steps. Where that cannot be, nothing is changed: training from scratch gives the same result.

    Returns
    -------
    remark : what is to be said about it, empty without a trunk. `run.step` tells whether the state was taken over.
    """
    trunk_id, begin = run.order.trunk, run.schedule.decay_begins
    if trunk_id is None:
        return ""
    trunk = run.folder.sibling(trunk_id)
    kept = kept_path(trunk.checkpoint_path, begin)
    obstacle = _obstacle(run, trunk, kept, begin)
    if run.world.any(bool(obstacle)):
        return f"trained from scratch, not branched from run {trunk_id}: {obstacle or 'another process cannot'}"
    if damage := _load(run, kept, begin):
        return f"trained from scratch, not branched from run {trunk_id}: {damage}"
    run.step = begin
    return f"the first {begin:,} of {run.batches.n_steps:,} steps were taken over from run {trunk_id}"


def _obstacle(run: LiveRun, trunk: RunFolder, kept: Path, begin: int) -> str:
    """Why the trunk's state is not what this run would come to; empty if it is."""
    config = run.config
    try:
        other = trunk.order().config
        if not kept.is_file():
            return f"{kept} is not there"
        state = stated(kept)
    except (RecordError, CheckpointError) as error:
        return str(error)
    if config.schedule != "wsd" or begin < run.schedule.warmup_steps:
        return "runs of different D have no common part: it needs the schedule wsd, decaying after the warm-up"
    if other.D < config.D:
        return f"the trunk is shorter ({other.D:,} tokens)"
    same = {name: getattr(config, name) for name in _MAY_DIFFER}
    if other.model_copy(update=same) != config:
        changed = sorted(k for k in type(config).model_fields if getattr(other, k) != getattr(config, k))
        return f"the runs differ in {', '.join(k for k in changed if k not in _MAY_DIFFER)}"
    if (state.run_id, state.step) != (trunk.path.name, begin):
        return f"{kept} is the state of run {state.run_id} at step {state.step}"
    if state.conditions() != run.conditions.conditions() or state.world != run.world.size:
        return "the trunk was trained under other conditions (threads, device, number format, torch, processes)"
    return ""


def _load(run: LiveRun, kept: Path, begin: int) -> str:
    """Lay the state where the engine looks for checkpoints, and let it; returns the damage, empty if there is none."""
    folder = run.folder.checkpoint_path / "trunk"
    damage: list[CheckpointError] = []
    if run.world.first:
        offer_kept(kept, folder, begin)
    run.world.totals([0])  # the others wait for the file
    try:
        state = run.engine.load_newest(folder, damage.append)
    except CheckpointError as error:  # another kind of engine
        return str(error)
    finally:
        run.world.totals([0])
        if run.world.first:
            remove_checkpoints(folder)
            folder.rmdir()
    return "" if state else "; ".join(str(error) for error in damage) or "the engine cannot read it"
