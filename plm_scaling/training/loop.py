"""Train one run: read `run.json`, resume, step, log, validate, record. One readable loop.

Nothing random is drawn while training: the data, the masks and the initial weights are pure functions of the config.
Weights, both AdamW moments and the step are therefore the whole state, and a resumed run ends bit for bit like one
that was never stopped, on a CPU with the same number of threads.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch

from plm_scaling.core.errors import Diverged, RunError
from plm_scaling.core.recipe import learning_rate_at
from plm_scaling.core.run import RunRecord
from plm_scaling.core.run_folder import Attempt, RunFolder
from plm_scaling.corpus.format import VAL_IID
from plm_scaling.corpus.validation import ValidationSet
from plm_scaling.training.attempt_log import AttemptLog, Progress
from plm_scaling.training.checkpoint import remove_checkpoints, save_weights
from plm_scaling.training.finish import write_metrics, write_record, write_val
from plm_scaling.training.live_run import LiveRun, check_finite, prepare_run, resume_run, save_run
from plm_scaling.training.objectives import PackedInput, packed_inputs
from plm_scaling.training.steps import gradient_step
from plm_scaling.training.validate import SetScores, score_set, scores_by_source, scoring_windows

__all__ = ["Interrupted", "train"]

_LOG_POINTS: Final = 300
_PREPARED: Final = 8192
"""Positions whose inputs are made at once."""


class Interrupted(RunError):
    """The run was asked to stop before its end. Its checkpoint is written; starting it again continues it."""

    exit_code = 3


def train(
    run_dir: Path,
    *,
    on_progress: Progress | None = None,
    on_attempt: Callable[[Attempt], None] | None = None,
    threads: int | None = None,
    time_limit_s: float | None = None,
    force_resume: bool = False,
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

    Raises
    ------
    Diverged : loss or gradient stopped being finite; recorded as such.
    Interrupted : SIGTERM, Ctrl-C or the time limit; a checkpoint is written.
    CheckpointError : the checkpoint belongs to another run, or to other conditions.
    RunError : another process trains this run, or the run it starts from is not complete.
    """
    folder = RunFolder(Path(run_dir))
    order = folder.order()
    if record := folder.record():
        return record
    with folder.locked(), _torch_settings(threads or order.threads):
        if record := folder.record():
            return record
        attempt = folder.new_attempt()
        if on_attempt:
            on_attempt(attempt)
        with AttemptLog(attempt, 0, on_progress) as log:
            try:
                run = prepare_run(folder, order)
                flags = resume_run(run, log, force=force_resume)
                with _stop_on_signal() as stop:
                    _steps(run, log, stop, time_limit_s)
                return _finish(run, log, flags)
            except (Interrupted, KeyboardInterrupt) as error:
                log.end("interrupted", str(error) or "Ctrl-C")
                raise
            except Diverged as error:
                log.end("diverged", str(error))
                raise
            except BaseException as error:
                log.end("failed", f"{type(error).__name__}: {error}")
                raise


def _steps(run: LiveRun, log: AttemptLog, stop: list[str], time_limit_s: float | None) -> None:
    """The loop."""
    config, batches, n_steps = run.config, run.batches, run.batches.n_steps
    model_step = gradient_step(run.model, run.flat, config.windows_per_batch, config.context)
    log_every = max(1, n_steps // _LOG_POINTS)
    val_steps = {-(-n_steps * k // config.validation_points) for k in range(1, config.validation_points)}
    log.progress(run.step, batches.tokens_at(run.step))
    checkpoint_at = time.perf_counter() + run.order.checkpoint_every_s
    for batch in _inputs(run):
        lr = learning_rate_at(
            run.step,
            n_steps,
            config.peak_lr,
            warmup_fraction=config.warmup_fraction,
            final_fraction=config.final_lr_fraction,
        )
        run.sums.loss += model_step.gradients(batch)
        run.sums.norm += run.optimiser.update(run.step, lr)
        run.sums.n_targets += len(batch.target_S)
        run.sums.n_steps += 1
        run.step += 1
        is_val = run.step in val_steps
        if is_val or run.step % log_every == 0 or run.step == n_steps:
            _log(run, log, lr, _score_val_iid(run, log) if is_val else None)
        if log.is_due():
            log.progress(run.step, batches.tokens_at(run.step))
        if time_limit_s is not None and log.seconds > time_limit_s:
            stop.append(f"the time limit of {time_limit_s:g} s")
        if stop or time.perf_counter() >= checkpoint_at or run.step == n_steps:
            save_run(run, log)
            checkpoint_at = time.perf_counter() + run.order.checkpoint_every_s
        if stop and run.step < n_steps:
            raise Interrupted(f"stopped by {stop[0]} after step {run.step} of {n_steps}", hint="start it again")


def _inputs(run: LiveRun) -> Iterator[PackedInput]:
    """What the model is shown at every step from the current one on."""
    config, n_steps = run.config, run.batches.n_steps
    ahead = max(1, _PREPARED // config.batch_tokens)
    for begin in range(run.step, n_steps, ahead):
        yield from packed_inputs(
            [run.batches.at(step) for step in range(begin, min(begin + ahead, n_steps))],
            config.objective,
            mask_seed=config.seed,
            mask_rate=config.mask_rate,
            mask_refresh=config.mask_refresh,
        )


def _log(run: LiveRun, log: AttemptLog, lr: float, val_loss: float | None) -> None:
    check_finite(run)
    sums, D = run.sums, run.batches.tokens_at(run.step)
    loss = sums.loss.item() / max(1, sums.n_targets)
    log.metrics(step=run.step, D=D, loss=loss, lr=lr, grad_norm=sums.norm.item() / sums.n_steps, val_loss=val_loss)
    log.status = log.status.model_copy(update={"loss": loss})
    run.reset_sums()


def _score(run: LiveRun, log: AttemptLog, sets: list[ValidationSet]) -> tuple[SetScores, ...]:
    begin = time.perf_counter()
    context = run.config.context
    step = gradient_step(run.model, run.flat, scoring_windows(context), context, backward=False)
    scored = tuple(score_set(step, validation, run.config) for validation in sets)
    log.scoring_s += time.perf_counter() - begin
    return scored


def _score_val_iid(run: LiveRun, log: AttemptLog) -> float | None:
    sets = [validation for validation in run.sets if validation.name == VAL_IID]
    return _score(run, log, sets)[0].per_token if sets else None


def _finish(run: LiveRun, log: AttemptLog, flags: tuple[str, ...]) -> RunRecord:
    """Score every set, write weights and tables, and the record last."""
    scored = _score(run, log, run.sets)
    scored += tuple(part for scores in scored for part in scores_by_source(scores, run.batches.corpus))
    val_loss = next((s.per_token for s in scored if s.name == VAL_IID), None)
    last = run.folder.latest_metrics() or {}
    log.metrics(**{**last, "val_loss": val_loss})
    weights = {name: p.detach() for name, p in run.model.named_parameters()}
    save_weights(run.folder.weights_path, weights, run.config.run_id)
    write_metrics(run.folder)
    write_val(run.folder, scored)
    log.progress(run.step, run.batches.tokens_at(run.step))
    record = write_record(
        run.folder,
        run.order,
        run.batches,
        scored,
        seconds=log.seconds,
        tokens_per_s=log.status.tokens_per_s or 0.0,
        threads=run.conditions.threads,
        flags=flags,
    )
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
    """A list that SIGTERM and SIGINT write their names into; signals reach only the main thread."""
    caught: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {n: signal.signal(n, lambda number, _: caught.append(signal.Signals(number).name)) for n in numbers}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
