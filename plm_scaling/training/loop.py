"""Train one run: read `run.json`, resume, step, log, validate, record. One readable loop.

Nothing random is drawn while training but by keys: the data, the masks, the initial weights and what dropout drops are
pure functions of the config. Weights, both AdamW moments and the step are therefore the whole state, and a resumed run
ends bit for bit like one that was never stopped, on a CPU with the same number of threads and processes.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch

from plm_scaling.core.errors import Diverged, RunError, TakenOver
from plm_scaling.core.run import RunRecord
from plm_scaling.core.run_folder import Attempt, RunFolder
from plm_scaling.corpus.format import VAL_IID
from plm_scaling.corpus.mixing import mix_key
from plm_scaling.corpus.validation import ValidationSet
from plm_scaling.training.attempt_log import AttemptLog, Progress
from plm_scaling.training.branch import take_over_trunk
from plm_scaling.training.checkpoint import damaged_checkpoints, keep_checkpoint, remove_checkpoints, save_weights
from plm_scaling.training.faults import named_fault, reason_of
from plm_scaling.training.feed import feed
from plm_scaling.training.finish import unique_tokens, write_metrics, write_record, write_val
from plm_scaling.training.live_run import LiveRun, check_finite, check_owner, prepare_run, resume_run, save_run
from plm_scaling.training.meter import Meter
from plm_scaling.training.objectives import PackedInput, packed_inputs
from plm_scaling.training.profiling import profiled_steps
from plm_scaling.training.trackers import Trackers, require_trackers
from plm_scaling.training.validate import SetScores, score_set, scores_by_source, scoring_windows
from plm_scaling.training.world import World

__all__ = ["Interrupted", "Paused", "next_checkpoint", "train"]

_LOG_POINTS: Final = 300
_PREPARED: Final = 8192
"""Positions whose inputs are made at once."""
_DROPOUT_KEY: Final = 0x64726F70
_CHECKPOINT_SHARE: Final = 0.05
"""Most of the time that checkpoints may take."""


class Interrupted(RunError):
    """The run was asked to stop before its end. Its checkpoint is written; starting it again continues it."""

    exit_code = 3


class Paused(Interrupted):
    """The run has come to the share of its steps at which its order has it wait. That is what was asked for."""

    exit_code = 0


def train(
    run_dir: Path,
    *,
    on_progress: Progress | None = None,
    on_attempt: Callable[[Attempt], None] | None = None,
    threads: int | None = None,
    time_limit_s: float | None = None,
    force_resume: bool = False,
    world: World | None = None,
    changes: Mapping[str, Any] | None = None,
    profile: int = 0,
) -> RunRecord:
    """Carry out, or continue, the run whose order lies in `run_dir`. A complete run returns its record at once.

    Parameters
    ----------
    run_dir : folder with `run.json`.
    on_progress : called about once a second with the run's status.
    on_attempt : called once with the attempt's folder.
    threads : CPU threads, overriding the order's.
    time_limit_s : stop with a checkpoint after so many seconds.
    force_resume : continue a checkpoint made under other conditions (threads, device, dtype, torch); the result is
        then flagged FORCED_RESUME.
    world : the processes that train together; only the first writes the run's files.
    changes : fields of the order to change for this attempt (`micro_windows`, `recompute`, `trackers`).
    profile : steps to trace into the attempt's `trace.json`; the table of operators is printed.

    Raises
    ------
    Diverged : loss or gradient stopped being finite; recorded as such.
    Interrupted : a signal, Ctrl-C or the time limit; a checkpoint is written.
    Paused : the order has the run wait at this share of its steps; a checkpoint is written.
    CheckpointError : the checkpoint belongs to another run, or to other conditions.
    TakenOver : another process trains this run, or has taken it over meanwhile.
    RunError : the run it starts from is not complete, a package is missing, or the disk or the memory did not suffice.
    """
    folder, world = RunFolder(Path(run_dir)), world or World()
    order = folder.order().model_copy(update=dict(changes or {}))
    if record := folder.record():
        return record
    with folder.locked() if world.first else nullcontext(), _torch_settings(threads or order.threads):
        if world.first and (record := folder.record()):
            return record
        attempt = folder.new_attempt() if world.first else None
        if world.first and (record := folder.record()):  # once more: the lock may be worth nothing
            return record
        if on_attempt and attempt:
            on_attempt(attempt)
        with AttemptLog(attempt, 0, on_progress) as log:
            try:
                with _on_signals(_interrupt):
                    require_trackers(order.trackers)
                    run = prepare_run(folder, order, world)
                    _begin(run, log, force=force_resume)
                    _watch(run, log)
                    with _stop_on_signal() as stop, profiled_steps(profile, _trace_path(attempt), print) as after_step:
                        _steps(run, log, stop, time_limit_s, after_step)
                    return _finish(run, log)
            except (Interrupted, TakenOver, KeyboardInterrupt) as error:
                log.end("interrupted", reason_of(error))
                raise
            except Diverged as error:
                log.end("diverged", reason_of(error))
                raise
            except BaseException as error:
                named = named_fault(error, folder, order, world.size)
                reason = reason_of(named or error)
                log.end("failed", told := world.blame(reason))
                if told != reason:  # another process failed first, this one lost its connection
                    raise RunError(told, where=str(folder.path)) from error
                if named:
                    raise named from error
                raise


def _begin(run: LiveRun, log: AttemptLog, *, force: bool) -> None:
    """Resume, branch or start anew, and say aloud whatever is not as it should be; the record gets the flags."""
    flags = resume_run(run, log, force=force)
    place = f"goes on from step {run.step}" if run.step else "starts anew"
    remarks = {"DAMAGED_CHECKPOINT": f"a checkpoint is damaged and was passed over, the run {place}"}
    for flag in dict.fromkeys(flags):
        log.warn(remarks.get(flag, f"the run {place}"), flag)
    if damaged := damaged_checkpoints(run.folder.checkpoint_path):
        log.warn(f"set aside as damaged: {', '.join(map(str, damaged))}")
    if "DAMAGED_CHECKPOINT" in flags and run.step == 0:
        log.warn("no checkpoint is whole, everything is computed again", "STARTED_ANEW")
    if run.step == 0 and (remark := take_over_trunk(run)):
        log.warn(remark, "BRANCHED" if run.step else "")
    if run.engine.device.type == "cuda" and run.config.dtype == "fp32":
        log.warn("fp32 on a GPU is several times slower than bf16; dtype belongs to the plan, so plan again for bf16")
    _warn_of_changes(run, log)


def _warn_of_changes(run: LiveRun, log: AttemptLog) -> None:
    """Say which fields of the order this attempt was told to change; what the order leaves open is no change."""
    ordered = run.folder.order()
    for name in ("micro_windows", "recompute"):
        said, used = getattr(ordered, name), getattr(run.order, name)
        if said is not None and used != said:
            log.warn(f"{name} {used}, the order says {said}", f"{name.upper()}_CHANGED")


def _watch(run: LiveRun, log: AttemptLog) -> None:
    """What is measured and where it goes; from here on speed counts."""
    D, size = run.batches.tokens_at(run.step), run.world.size
    threads = run.conditions.threads
    meter = Meter.of(run.config, run.batches, run.engine.device, threads=threads, world_size=size)
    names = run.order.trackers if run.world.first else ()
    lost = partial(log.warn, flag="TRACKER_LOST")
    log.watch(meter, Trackers(names, run.folder.path, run.config, D, lost))
    log.progress(run.step, D)


def _trace_path(attempt: Attempt | None) -> Path | None:
    return attempt.path / "trace.json" if attempt else None


def _steps(
    run: LiveRun, log: AttemptLog, stop: list[str], time_limit_s: float | None, after_step: Callable[[], None]
) -> None:
    """The loop."""
    config, batches, world, n_steps = run.config, run.batches, run.world, run.batches.n_steps
    log_every = max(1, n_steps // _LOG_POINTS)
    val_steps = {-(-n_steps * k // config.validation_points) for k in range(1, config.validation_points)}
    pause_at = run.order.pause_step(n_steps)
    _keep(run)
    _pause(run, log, pause_at)
    checkpoint_at = time.perf_counter() + run.order.checkpoint_every_s
    for batch in _inputs(run):
        if time_limit_s is not None and log.seconds > time_limit_s:
            stop.append(f"the time limit of {time_limit_s:g} s")
        due = world.first and time.perf_counter() >= checkpoint_at
        # What the processes have to agree on, told in one go.
        n_targets, n_stop, n_due = world.totals([len(batch.target_S), bool(stop), due])
        lr = run.schedule.at(run.step)
        key = mix_key(config.seed, _DROPOUT_KEY, run.step, world.rank) if config.dropout else 0
        run.sums.loss += run.engine.gradients(batch, n_targets, key)
        run.sums.norm += run.engine.update(run.step, lr)
        run.sums.n_targets += n_targets
        run.sums.n_steps += 1
        run.step += 1
        is_val = run.step in val_steps
        if is_val or run.step % log_every == 0 or run.step == n_steps:
            _log(run, log, lr, is_val=is_val)
        if log.is_due():
            log.progress(run.step, batches.tokens_at(run.step))
        if n_stop or n_due or run.step in (n_steps, pause_at) or run.step in run.order.keep_steps:
            begin = time.perf_counter()
            save_run(run, log)
            _keep(run)
            checkpoint_at = next_checkpoint(run.order.checkpoint_every_s, begin, time.perf_counter())
        if n_stop and run.step < n_steps:
            run.engine.settle()
            log.progress(run.step, batches.tokens_at(run.step))
            cause = stop[0] if stop else "a signal to another process"
            raise Interrupted(f"stopped by {cause} after step {run.step} of {n_steps}", hint="start it again")
        _pause(run, log, pause_at)
        after_step()


def _pause(run: LiveRun, log: AttemptLog, pause_at: int | None) -> None:
    """End the attempt where the order has the run wait. All processes know the order, so none has to be told."""
    n_steps = run.batches.n_steps
    if pause_at is not None and pause_at <= run.step < n_steps:
        run.engine.settle()
        log.progress(run.step, run.batches.tokens_at(run.step))
        raise Paused(f"paused at {run.step / n_steps:.0%} for a decision")


def next_checkpoint(every_s: float, begin: float, end: float) -> float:
    """When the next checkpoint is due: after `every_s`, or so late that checkpoints take 5 % of the time.

    Parameters
    ----------
    every_s : seconds the order asks for; 0 for one after every step.
    begin, end : of the last checkpoint, in seconds of any clock.
    """
    return end + (max(every_s, (end - begin) / _CHECKPOINT_SHARE) if every_s else 0.0)


def _keep(run: LiveRun) -> None:
    """Keep the state of this step for other runs, if the order says so; on a resume, too: a kill may come before."""
    if run.world.first and run.step in run.order.keep_steps:
        keep_checkpoint(run.folder.checkpoint_path, run.step)


def _inputs(run: LiveRun) -> Iterator[PackedInput]:
    """What this process shows the model at every step from the current one on."""
    return feed(_made_inputs(run), run.engine.device, micro_windows=run.order.micro_windows)


def _made_inputs(run: LiveRun) -> Iterator[PackedInput]:
    """The same, as they are made."""
    config, world, n_steps = run.config, run.world, run.batches.n_steps
    ahead = max(1, _PREPARED * world.size // config.batch_tokens)
    for begin in range(run.step, n_steps, ahead):
        yield from packed_inputs(
            [run.batches.at(step, world.rank, world.size) for step in range(begin, min(begin + ahead, n_steps))],
            config.objective,
            mask_seed=config.seed,
            mask_rate=config.mask_rate,
            mask_refresh=config.mask_refresh,
            reverse_share=config.reverse_share,
        )


def _log(run: LiveRun, log: AttemptLog, lr: float, *, is_val: bool) -> None:
    check_finite(run)  # waits for the device: what the speed is measured over is done
    sums, D = run.sums, run.batches.tokens_at(run.step)
    loss = run.world.sum_(sums.loss).item() / max(1, sums.n_targets)
    line = {"loss": loss, "lr": lr, "grad_norm": sums.norm.item() / sums.n_steps, **log.speed(D)}
    log.status = log.status.model_copy(update={"loss": loss})
    val_loss = _score_val_iid(run, log) if is_val else None
    # Counting the ledger takes a moment the first time, so unique tokens stand where the run pauses anyway.
    unique = unique_tokens(run) if is_val and run.world.first else None
    log.metrics(step=run.step, D=D, **line, val_loss=val_loss, D_unique=unique)
    run.reset_sums()


def _score(run: LiveRun, log: AttemptLog, sets: list[ValidationSet]) -> tuple[SetScores, ...]:
    begin = time.perf_counter()
    context = run.config.context
    step = run.engine.scorer(scoring_windows(context), context)
    scored = tuple(score_set(step, validation, run.config, run.world) for validation in sets)
    log.scoring_s += time.perf_counter() - begin
    return scored


def _score_val_iid(run: LiveRun, log: AttemptLog) -> float | None:
    sets = [validation for validation in run.sets if validation.name == VAL_IID]
    return _score(run, log, sets)[0].per_token if sets else None


def _finish(run: LiveRun, log: AttemptLog) -> RunRecord:
    """Score every set, write weights and tables, and the record last."""
    scored = _score(run, log, run.sets)
    scored += tuple(part for scores in scored for part in scores_by_source(scores, run.batches.corpus))
    val_loss = next((s.per_token for s in scored if s.name == VAL_IID), None)
    last = run.folder.latest_metrics() or {}
    log.metrics(**{**last, "val_loss": val_loss, "D_unique": unique_tokens(run) if run.world.first else None})
    run.engine.settle()
    weights = run.engine.weights()
    log.progress(run.step, run.batches.tokens_at(run.step))
    check_owner(run, log)
    if run.world.first:
        save_weights(run.folder.weights_path, weights, run.config.run_id)
        write_metrics(run.folder)
        write_val(run.folder, scored)
    check_owner(run, log)  # the tables take a moment, and the record is what counts
    record = write_record(run, scored, log)
    if run.world.first:
        remove_checkpoints(run.folder.checkpoint_path)
    log.end("complete")
    return record


@contextmanager
def _torch_settings(threads: int) -> Iterator[None]:
    """The settings a run's bits depend on, put back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # moments of symbols that do not occur decay into denormals, which are slow
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(False)


@contextmanager
def _stop_on_signal() -> Iterator[list[str]]:
    """A list that signals write their names into; a step and a checkpoint are not broken off, however many come."""
    caught: list[str] = []
    with _on_signals(lambda number, _: caught.append(signal.Signals(number).name)):
        yield caught


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Before the first step and after the last there is nothing to save: what is there lies on the disk."""
    raise Interrupted(f"stopped by {signal.Signals(number).name} outside of the steps", hint="start it again")


@contextmanager
def _on_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle what schedulers send before they kill, SIGTERM, SIGUSR1 or SIGUSR2, and Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():  # signals reach only the main thread
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
