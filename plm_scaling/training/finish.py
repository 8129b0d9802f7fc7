"""The end of a run: validation of every set, the tables, and `record.json`, written last."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any, Final

from plm_scaling.core.files import writing_atomic
from plm_scaling.core.processor import processor_name
from plm_scaling.core.run import RunRecord
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.corpus.ledger import Ledger, open_ledger
from plm_scaling.training.attempt_log import AttemptLog, remarked_flags
from plm_scaling.training.distillation import teacher_flops
from plm_scaling.training.faults import has_loss_spike
from plm_scaling.training.lineage import lineage, lineage_flags
from plm_scaling.training.live_run import LiveRun
from plm_scaling.training.machine import package_versions
from plm_scaling.training.memory import peak_memory_bytes
from plm_scaling.training.validate import SetScores, summarise, val_table

__all__ = ["unique_tokens", "write_metrics", "write_record", "write_val"]

_METRICS: Final = (
    *("step", "D", "loss", "lr", "grad_norm", "val_loss"),
    *("tokens_per_s", "mfu", "memory_bytes", "flops", "flops_6nd", "D_unique"),
)
_WHOLE: Final = frozenset({"step", "D", "memory_bytes", "D_unique"})


def _write_parquet(folder: RunFolder, name: str, columns: Mapping[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with writing_atomic(folder.path / name) as handle:
        pq.write_table(pa.table(dict(columns)), handle, compression="zstd")


def write_metrics(folder: RunFolder) -> None:
    """`metrics.parquet`: the lines of all attempts, one per step, the last attempt wins."""
    import pyarrow as pa

    lines = folder.metrics()
    types = {name: pa.int64() if name in _WHOLE else pa.float64() for name in _METRICS}
    columns = {name: pa.array([line.get(name) for line in lines], types[name]) for name in _METRICS}
    _write_parquet(folder, folder.metrics_path.name, columns)


def write_val(folder: RunFolder, scored: tuple[SetScores, ...]) -> None:
    """`val.parquet`: the loss of every validation sequence."""
    _write_parquet(folder, folder.val_path.name, val_table(scored))


def _ledger(run: LiveRun) -> Ledger:
    """Of the whole run; counted on first use, then read."""
    earlier = [(record.config, record.steps) for record in lineage(run.folder, run.config)]
    return open_ledger(run.batches.corpus, [*earlier, (run.config, run.batches.n_steps)])


def unique_tokens(run: LiveRun) -> int:
    """Distinct tokens the run has seen so far (`RunRecord.D_unique`, at this step)."""
    total = _ledger(run).rows(run.step)[-1]
    return total.unique + total.seen_earlier


def _flags(run: LiveRun) -> tuple[str, ...]:
    """What happened to the run, in any of its attempts."""
    losses = [line["loss"] for line in run.folder.metrics() if line.get("loss") is not None]
    spiked = ("LOSS_SPIKE",) if has_loss_spike(losses) else ()
    skipped = ("SPIKES_SKIPPED",) if run.engine.skipped() else ()
    return (*remarked_flags(run.folder), *skipped, *spiked)


def _speed(folder: RunFolder, log: AttemptLog) -> tuple[float, float | None]:
    """Tokens per second and MFU of this attempt, or those last logged where it had no step left to train."""
    if log.status.tokens_per_s is not None:
        return log.status.tokens_per_s, log.status.mfu
    logged = (line for line in reversed(folder.metrics()) if line.get("tokens_per_s") is not None)
    line: dict[str, Any] = next(logged, {})
    return line.get("tokens_per_s", 0.0), line.get("mfu")


def write_record(run: LiveRun, scored: tuple[SetScores, ...], log: AttemptLog) -> RunRecord:
    """Account for a run that has ended and, in the first process, write its record."""
    folder, order, batches, config = run.folder, run.order, run.batches, run.config
    earlier = lineage(folder, config)
    source = earlier[-1] if earlier else None
    rows = _ledger(run).rows(batches.n_steps)
    total = rows[-1]
    spent = batches.stats_at(batches.n_steps)
    attempts = folder.attempts()
    tokens_per_s, mfu = _speed(folder, log)
    before = sum(status.seconds for attempt in attempts[:-1] if (status := attempt.status()))
    record = RunRecord(
        config=config,
        roles=order.roles,
        status="complete",
        steps=batches.n_steps,
        D=total.tokens,
        D_unique=total.unique + total.seen_earlier,
        ledger=rows,
        C_6nd=6.0 * config.N * total.tokens,
        C_exact=config.shape.training_flops(positions=spent.positions, sum_length_squared=spent.sum_length_squared),
        device_s=(before + log.seconds) * run.world.size / order.runs_per_device,
        tokens_per_s=tokens_per_s,
        attempts=len(attempts),
        threads=run.conditions.threads,
        world=run.world.size,
        device=run.conditions.device,
        mfu=mfu,
        peak_memory_bytes=peak_memory_bytes(run.engine.device),
        skipped_updates=run.engine.skipped(),
        validation=tuple(summarise(s, config.objective) for s in scored),
        source_run_id=config.init_from,
        source_objective=source.config.objective if source else None,
        N_source=source.config.N if source else None,
        D_source=source.D if source else None,
        C_source=source.C_exact if source else None,
        C_teacher=teacher_flops(run.loss, positions=spent.positions, sum_length_squared=spent.sum_length_squared),
        versions={**package_versions(), "python": platform.python_version(), "processor": processor_name()},
        flags=(*_flags(run), *lineage_flags(config, earlier)),
    )
    if run.world.first:
        record.write(folder.record_path)
    return record
