"""Speed, FLOPs, memory and the measured peak: what a line of metrics says, against counts made another way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from plm_scaling.core.processor import cpu_count, processor_name
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder
from plm_scaling.corpus.batches import Batches
from plm_scaling.corpus.ledger import ledger
from plm_scaling.corpus.reader import Corpus
from plm_scaling.models.build import build_model
from plm_scaling.training import memory, peak
from plm_scaling.training.attempt_log import AttemptLog, remarked_flags
from plm_scaling.training.loop import train
from plm_scaling.training.memory import fitting_order, memory_advice, peak_memory_bytes, window_bytes
from plm_scaling.training.meter import Meter, flops_per_token
from plm_scaling.training.objectives import packed_input
from plm_scaling.training.peak import Peak, known_peak, measure_peaks, peaks_path, store_peaks
from plm_scaling.training.speed import random_batch

MakeRun = Callable[..., RunFolder]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def a_peak(flops_per_s: float = 1e9, dtype: str = "fp32", threads: int = 1) -> Peak:
    version = torch.__version__.partition("+")[0]
    return Peak(device=processor_name(), torch=version, dtype=dtype, threads=threads, flops_per_s=flops_per_s, size=64)


def test_a_line_says_what_it_cost(make_run: MakeRun, corpus: Corpus) -> None:
    store_peaks([a_peak(2e9), a_peak(9e9, threads=2)])
    folder = make_run(validation_points=2)
    record = train(folder.path)
    rows = pq.read_table(folder.metrics_path).to_pylist()
    batches = Batches(corpus, record.config)
    for row in rows:
        assert row["flops_6nd"] == 6 * record.config.N * row["D"]
        spent = batches.stats_at(row["step"])
        exact = record.config.shape.training_flops(
            positions=spent.positions, sum_length_squared=spent.sum_length_squared
        )
        assert row["flops"] == pytest.approx(exact, rel=0.1 if row["step"] < 10 else 0.02)
        assert row["mfu"] == pytest.approx(row["tokens_per_s"] * row["flops"] / row["D"] / 2e9)
        assert row["memory_bytes"] > 1e7
    whole = batches.pass_stats(0, 0)
    per_pass = record.config.shape.training_flops(
        positions=whole.positions, sum_length_squared=whole.sum_length_squared
    )
    assert flops_per_token(record.config, batches) == pytest.approx(per_pass / whole.tokens, rel=1e-12)
    assert record.mfu == pytest.approx(record.tokens_per_s * flops_per_token(record.config, batches) / 2e9)
    assert record.peak_memory_bytes is not None
    assert record.peak_memory_bytes >= max(row["memory_bytes"] for row in rows)
    status = folder.attempts()[0].status()
    assert status is not None
    assert (status.mfu, status.memory_bytes is None) == (record.mfu, False)
    scored = [row for row in rows if row["val_loss"] is not None]
    assert [row["D_unique"] is not None for row in rows] == [row in scored for row in rows]
    for row in scored:
        total = ledger(corpus, [(record.config, row["step"])])[-1]
        assert row["D_unique"] == total.unique
    assert scored[-1]["D_unique"] == record.D_unique


def test_streams_count_by_their_shares(corpus: Corpus, make_run: MakeRun) -> None:
    streams = [{"sources": ["near"], "weight": 3}, {"sources": ["far"], "weight": 1}]
    config = make_run(streams=streams, D=60_000).order().config
    batches = Batches(corpus, config)
    spent = batches.stats_at(batches.n_steps)
    exact = config.shape.training_flops(positions=spent.positions, sum_length_squared=spent.sum_length_squared)
    assert flops_per_token(config, batches) == pytest.approx(exact / spent.tokens, rel=0.01)


def test_an_unmeasured_machine_has_no_mfu(make_run: MakeRun) -> None:
    store_peaks([a_peak(threads=7), a_peak(dtype="bf16")])
    record = train(make_run(D=2000).path)
    assert record.mfu is None
    assert record.tokens_per_s > 0


def test_validation_and_preparation_are_not_part_of_the_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("plm_scaling.training.attempt_log.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("plm_scaling.training.meter.peak_memory_bytes", lambda device: 5)
    log = AttemptLog(None, 10)
    log.watch(Meter(exact=3.0, six_n=2.0, peak=100.0, device=CPU), _NoTrackers())  # type: ignore[arg-type]
    clock[0] = 50.0  # the model was built
    log.progress(0, 1000)
    assert log.status.tokens_per_s is None
    clock[0] = 60.0
    assert log.speed(1100) == {
        "tokens_per_s": 10.0,
        "mfu": 0.3,
        "memory_bytes": 5,
        "flops": 3300.0,
        "flops_6nd": 2200.0,
    }
    clock[0], log.scoring_s = 80.0, 15.0
    assert log.speed(1300)["tokens_per_s"] == 40.0
    assert (log.status.tokens_per_s, log.status.mfu, log.status.memory_bytes) == (20.0, 0.6, 5)
    clock[0] = 1000.0  # the weights are written
    log.progress(9, 1300)
    assert log.status.tokens_per_s == 20.0


class _NoTrackers:
    def write(self, line: object) -> None: ...


def test_lines_are_valid_json_and_whole(make_run: MakeRun) -> None:
    folder = make_run()
    attempt = folder.new_attempt()
    with AttemptLog(attempt, 5) as log, attempt.metrics_path.open() as reader:
        log.metrics(step=1, D=5, loss=float("nan"), lr=float("inf"), grad_norm=None)
        assert json.loads(reader.readline()) == {"step": 1, "D": 5, "loss": None, "lr": None, "grad_norm": None}
        log.warn("look", "A_FLAG")
        log.warn("only said")
        log.metrics(step=2, D=7, loss=1.5)
        lines = [json.loads(line) for line in reader.read().splitlines()]
        assert [line.get("step") for line in lines] == [None, None, 2]
    assert [line["step"] for line in folder.metrics()] == [1, 2]
    again = folder.new_attempt()
    with AttemptLog(again, 5) as log:
        log.warn("twice", "A_FLAG")
        log.warn("new", "B_FLAG")
    again.metrics_path.write_text(again.metrics_path.read_text() + '{"flag": "TORN')
    assert remarked_flags(folder) == ("A_FLAG", "B_FLAG")


# Peaks


def test_peaks_are_kept_and_found_by_all_conditions(tmp_path: Path) -> None:
    assert peaks_path() == tmp_path / "cache" / "plm-scaling" / "peaks.json"
    assert known_peak(CPU, "fp32", 1) is None
    assert store_peaks([a_peak(1e9), a_peak(3e9, threads=2)]) == peaks_path()
    store_peaks([a_peak(2e9), a_peak(5e8, dtype="bf16")])
    assert known_peak(CPU, "fp32", 1) == 2e9
    assert known_peak(CPU, "fp32", 2) == 3e9
    assert known_peak(CPU, "bf16", 1) == 5e8
    assert known_peak(CPU, "bf16", 2) is None
    other = a_peak(7e9).model_copy(update={"torch": "1.0", "threads": 5})
    store_peaks([other])
    assert known_peak(CPU, "fp32", 5) is None
    peaks_path().write_text("{")
    assert known_peak(CPU, "fp32", 1) is None


def test_a_measured_peak_is_the_fastest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measure_peaks(cpu_sizes=(8, 96), seconds=0.002)
    counts = sorted({1, cpu_count()})
    assert [(p.dtype, p.threads) for p in found if p.threads] == [(d, n) for d in ("fp32", "bf16") for n in counts]
    assert all(p.flops_per_s > 1e6 for p in found)
    assert found[0].size == 96  # calls of tiny products cost more than their arithmetic
    assert torch.get_num_threads() == 1
    ticks = iter([0.0, 9.0, 10.0, 12.0, 20.0, 23.0, 30.0, 34.0])
    monkeypatch.setattr(peak.time, "perf_counter", lambda: next(ticks))
    assert peak._flops_per_s(CPU, torch.float32, 10, seconds=1.0) == 2 * 10**3 / 2.0  # the first one is warm-up


# Memory


def test_the_peak_of_this_process() -> None:
    before = peak_memory_bytes(CPU)
    held = torch.ones(60_000_000)
    after = peak_memory_bytes(CPU)
    del held
    assert before is not None
    assert after is not None
    assert after > before
    assert 0.5 < after / (memory.resource.getrusage(memory.resource.RUSAGE_SELF).ru_maxrss * 1024) <= 1.001


def test_the_peak_where_there_is_no_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "absent")
    assert (peak_memory_bytes(CPU) or 0) > 1e7


def test_an_estimate_is_near_what_autograd_keeps(make_run: MakeRun) -> None:
    order = make_run(n_layers=4, d_model=64, context=128, batch_tokens=1024).order()
    config = order.config
    model = build_model(config.shape, causal=True, context=128)
    packed = packed_input(random_batch(8, 128), "clm", mask_seed=0, mask_rate=0.15)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not any(tensor.untyped_storage().data_ptr() == p.untyped_storage().data_ptr() for p in model.parameters()):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(packed.documents, packed.scored_S).sum()
    state, activations = window_bytes(order)
    assert state == 16 * config.N_total
    assert 1.0 < activations / sum(kept.values()) < 2.2  # gradients are held beside what is kept
    half = RunOrder.model_validate(order.model_dump() | {"micro_windows": 4})
    assert window_bytes(half)[1] == activations // 2
    assert window_bytes(order, world_size=2)[1] == activations // 2
    sizes = [window_bytes(order.model_copy(update={"recompute": r}))[1] for r in ("none", "every_other", "all")]
    assert sizes == sorted(sizes, reverse=True)
    assert "8 windows of 128" in memory_advice(order)[0]
    assert fitting_order(order, 1, state + activations) == order
    assert fitting_order(order, 1, state + activations / 3).micro_windows == 2
    assert fitting_order(order, 1, 0.0).micro_windows == 1
    assert fitting_order(half, 1, 0.0) == half
