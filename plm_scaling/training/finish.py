"""The end of a run: validation of every set, the tables, and `record.json`, written last."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

from plm_scaling.core.files import writing_atomic
from plm_scaling.core.processor import processor_name
from plm_scaling.core.run import RunRecord
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.corpus.ledger import ledger
from plm_scaling.training.attempt_log import AttemptLog
from plm_scaling.training.lineage import lineage
from plm_scaling.training.live_run import LiveRun
from plm_scaling.training.machine import package_versions
from plm_scaling.training.validate import SetScores, summarise, val_table

__all__ = ["write_metrics", "write_record", "write_val"]

_METRICS = ("step", "D", "loss", "lr", "grad_norm", "val_loss")


def _write_parquet(folder: RunFolder, name: str, columns: Mapping[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with writing_atomic(folder.path / name) as handle:
        pq.write_table(pa.table(dict(columns)), handle, compression="zstd")


def write_metrics(folder: RunFolder) -> None:
    """`metrics.parquet`: the lines of all attempts, one per step, the last attempt wins."""
    import pyarrow as pa

    lines = folder.metrics()
    types = {"step": pa.int64(), "D": pa.int64()}
    columns = {name: pa.array([line.get(name) for line in lines], types.get(name, pa.float64())) for name in _METRICS}
    _write_parquet(folder, folder.metrics_path.name, columns)


def write_val(folder: RunFolder, scored: tuple[SetScores, ...]) -> None:
    """`val.parquet`: the loss of every validation sequence."""
    _write_parquet(folder, folder.val_path.name, val_table(scored))


def write_record(run: LiveRun, scored: tuple[SetScores, ...], log: AttemptLog, flags: tuple[str, ...]) -> RunRecord:
    """Account for a run that has ended and, in the first process, write its record."""
    folder, order, batches, config = run.folder, run.order, run.batches, run.config
    earlier = lineage(folder, config)
    source = earlier[-1] if earlier else None
    rows = ledger(batches.corpus, [*((r.config, r.steps) for r in earlier), (config, batches.n_steps)])
    total = rows[-1]
    spent = batches.stats_at(batches.n_steps)
    attempts = folder.attempts()
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
        device_s=(before + log.seconds) * run.world.size,
        tokens_per_s=log.status.tokens_per_s or 0.0,
        attempts=len(attempts),
        threads=run.conditions.threads,
        world=run.world.size,
        device=run.conditions.device,
        skipped_updates=run.engine.skipped(),
        validation=tuple(summarise(s, config.objective) for s in scored),
        source_run_id=config.init_from,
        source_objective=source.config.objective if source else None,
        N_source=source.config.N if source else None,
        D_source=source.D if source else None,
        C_source=source.C_exact if source else None,
        versions={**package_versions(), "python": platform.python_version(), "processor": processor_name()},
        flags=flags,
    )
    if run.world.first:
        record.write(folder.record_path)
    return record
