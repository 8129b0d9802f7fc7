"""Counting a run's ledger at scale: build rate, memory and query time for 1e7 and 1e8 simulated sequences.

    python benchmarks/bench_ledger.py [--sizes 1e7 1e8] [--only CASE...]

What is simulated: the lengths (log-normal, mean 280, sigma .75), the clusters (members anywhere in the corpus, three
per 50 % cluster on average, which is harder on the caches than real corpora are) and the windows' tables of documents
(sequences laid end to end instead of packed: as many documents per window, no tokens at all). What is not: the order
of the batches, the classification of every visit, and the table on disk. The arrays of the corpus and of the windows
lie in memory here; in a real corpus they are memory-mapped, so that the first touch comes from the disk.

Cases: `clusters` one epoch with 50 % and 90 % clusters; `plain` the same without; `copies` with 10 % exact copies
visited; `second_epoch` a second pass over the same windows; `sampled` three epochs of one member per 50 % cluster,
really packed, the time of packing included. Each runs in a process of its own. Prints one JSON object; figures for
1e9 sequences are extrapolated from the largest size and named so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.run import Stream
from plm_scaling.corpus.ledger_count import RecordFacts, StepCounter
from plm_scaling.corpus.ledger_table import StepTable, write_table
from plm_scaling.corpus.ledger_visits import PackedDocs, Schedule, pack_docs
from plm_scaling.corpus.order import BatchOrder, Passes, feistel
from plm_scaling.corpus.windows import cut

CONTEXT: Final = 1024
BATCH: Final = 256
SIGMA: Final = 0.75
MEAN: Final = 280.0
FILL: Final = 0.99
CASES: Final = ("clusters", "plain", "copies", "second_epoch", "sampled")
AT_LARGEST: Final = ("clusters", "plain")
"""Cases run at sizes above 3e7."""


@dataclass
class Simulated:
    """A run of so many epochs, without its tokens."""

    facts: RecordFacts
    schedule: Schedule
    stream: Stream
    epochs: float


def sequences(n: int, case: str) -> RecordFacts:
    """Lengths, addresses and clusters of n records."""
    rng = np.random.default_rng(0)
    length = np.empty(n, dtype=np.int64)
    for begin in range(0, n, 1 << 22):
        part = length[begin : begin + (1 << 22)]
        part[:] = np.maximum(rng.lognormal(np.log(MEAN) - SIGMA**2 / 2, SIGMA, len(part)), 1)
    first = np.ones(n, dtype=np.bool_)
    owner = np.arange(n)
    if case == "copies":
        copies = rng.choice(np.arange(n // 10, n), n // 10, replace=False)
        owner[copies] = rng.integers(0, n // 10, n // 10)
        first[copies] = False
        length = length[owner]
    offset = np.cumsum(np.where(first, length + 1, 0))
    offset -= length + 1
    offset = offset[owner] if case == "copies" else offset
    source = np.zeros(n, dtype=np.uint16)
    if case == "plain":
        return RecordFacts(length, source, offset, first)
    cluster = rng.integers(0, max(1, n // 3), n, dtype=np.uint32)
    half = rng.integers(0, 2, n, dtype=np.uint32)
    if case == "copies":
        cluster, half = cluster[owner], half[owner]
    return RecordFacts(length, source, offset, first, cluster, 2 * cluster + half)


def end_to_end(length: npt.NDArray[np.int64]) -> PackedDocs:
    """Sequences in a mixed order, laid end to end: a window holds those that begin in it. Made in parts, to be lean."""
    n = len(length)
    total = int((-(-(length + 2) // CONTEXT)).sum())
    row, begin = np.empty(total, dtype=np.int64), np.empty(total, dtype=np.int64)
    size = np.empty(total, dtype=np.int32)
    counts: list[npt.NDArray[np.int64]] = []
    done = positions = 0
    for first in range(0, n, 1 << 22):
        rows = feistel(np.arange(first, min(n, first + (1 << 22))), n, 1)
        pieces = cut(rows, length[rows], CONTEXT)
        here = slice(done, done + len(pieces.row))
        row[here], begin[here], size[here] = pieces.row, pieces.begin, pieces.length
        window = (positions + np.cumsum(pieces.length) - pieces.length) // int(CONTEXT * FILL)
        counts.append(np.bincount(window - int(window[0])))
        positions += int(pieces.length.sum())
        done += len(pieces.row)
    # Each part opens a window of its own: one more per four million sequences.
    return PackedDocs(np.concatenate([[0], np.cumsum(np.concatenate(counts))]), row, begin, size)


def simulate(n: int, case: str) -> Simulated:
    facts = sequences(n, case)
    if case == "sampled":
        return simulate_sampled(facts)
    docs = end_to_end(facts.length)
    order = BatchOrder((Passes(len(docs.doc_ptr) - 1),), (1.0,), BATCH, seed=0)
    stream = Stream(duplicates=case == "copies")
    return Simulated(facts, Schedule(order, lambda *_: docs), stream, 2.0 if case == "second_epoch" else 1.0)


def simulate_sampled(facts: RecordFacts) -> Simulated:
    """One member of every cluster in turn, packed for every epoch as `Batches` would."""
    assert facts.cluster50 is not None
    order = np.argsort(facts.cluster50, kind="stable")
    grouped = facts.cluster50[order]
    start = np.flatnonzero(np.concatenate([[True], grouped[1:] != grouped[:-1]]))
    members = np.diff(np.append(start, len(order)))
    kept: dict[int, PackedDocs] = {}

    def docs(_: int, epoch: int) -> PackedDocs:
        if epoch not in kept:
            kept.clear()
            rows = order[start + epoch % members]
            kept[epoch] = pack_docs(rows, facts.length[rows], CONTEXT)
        return kept[epoch]

    sizes = [len(docs(0, epoch).doc_ptr) - 1 for epoch in range(4)]
    kept.clear()
    batches = BatchOrder((Passes(sizes.__getitem__),), (1.0,), BATCH, seed=0)
    return Simulated(facts, Schedule(batches, docs), Stream(sampling="cluster50"), 3.0)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def peak_gb() -> float:
    """Largest resident size since the last `forget_peak`."""
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def resident_gb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


def query_ms(folder: Path, steps: int) -> dict[str, float]:
    """Median and worst of opening the table and summing it at a random step, and of a curve of 200 steps."""
    asked = np.random.default_rng(2).integers(0, steps + 1, 200).tolist()
    one = [timed(lambda k=k: StepTable.load(folder, steps).counts(k))[0] for k in asked]  # type: ignore[misc]
    table = StepTable.load(folder, steps)
    curve, _ = timed(lambda: [table.counts(k) for k in sorted(asked)])
    tokens = table.tokens(steps)
    at, _ = timed(lambda: StepTable.load(folder, steps).step_at(tokens // 3))
    return {
        "query_ms_median": 1e3 * float(np.median(one)),
        "query_ms_worst": 1e3 * max(one),
        "curve_200_ms": 1e3 * curve,
        "step_at_tokens_ms": 1e3 * at,
    }


def run_case(n: int, case: str) -> dict[str, Any]:
    made_s, made = timed(lambda: simulate(n, case))
    inputs = resident_gb()
    passes = made.schedule.order.passes[0]
    draws = sum(passes.size(epoch) for epoch in range(int(made.epochs)))
    steps = draws // BATCH
    counter = StepCounter(made.schedule, made.facts, (made.stream,), CONTEXT, 1)
    simulated = peak_gb()
    forget_peak()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cpu = time.process_time()
        built, table = timed(lambda: write_table(folder, counter, steps, (0,)))
        cpu = time.process_time() - cpu
        out = {
            "case": case,
            "sequences": n,
            "windows": passes.size(0),
            "steps": steps,
            "visits": table.card.pieces,
            "simulation_s": made_s,
            "build_s": built,
            "build_cpu_s": cpu,
            "Mvisits_per_s": table.card.pieces / built / 1e6,
            "Mvisits_per_cpu_s": table.card.pieces / cpu / 1e6,
            "table_mb": sum(path.stat().st_size for path in folder.iterdir()) / 1e6,
            "simulation_peak_gb": simulated,
            "inputs_gb": inputs,
            "peak_rss_gb": peak_gb(),
            "bytes_per_sequence_beside_inputs": (peak_gb() - inputs) * 2**30 / n,
            **query_ms(folder, steps),
        }
        total = table.counts(steps).sum(axis=0).tolist()
    return out | {"counts": dict(zip(table.card.columns, total, strict=True)), "first": table.card.first_tokens}


def extrapolate(found: dict[str, Any]) -> dict[str, Any]:
    """To 1e9 sequences, in proportion; the caches' misses grow a little with size, which this leaves out."""
    factor = 1e9 / found["sequences"]
    return {
        "EXTRAPOLATED_to_1e9_from": found["sequences"],
        "case": found["case"],
        "build_minutes": factor * found["build_s"] / 60,
        "build_cpu_minutes": factor * found["build_cpu_s"] / 60,
        "peak_rss_gb_if_all_in_memory": factor * found["peak_rss_gb"],
        "table_mb": factor * found["table_mb"],
    }


def in_a_process(n: int, case: str) -> dict[str, Any]:
    words = [sys.executable, __file__, "--inside", case, "--sizes", str(n)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"case": case, "sequences": n, "failed": done.stderr[-500:]}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e7, 1e8])
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--inside", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(run_case(int(arguments.sizes[0]), arguments.inside)))
        return
    found = []
    for size in sorted(arguments.sizes):
        cases = [case for case in arguments.only if size <= 3e7 or case in AT_LARGEST]
        found += [in_a_process(int(size), case) for case in cases]
        print(json.dumps(found[-len(cases) :], indent=1), file=sys.stderr, flush=True)
    largest = [one for one in found if one["sequences"] == max(f["sequences"] for f in found) and "failed" not in one]
    print(json.dumps({"measured": found, "extrapolated": [extrapolate(one) for one in largest]}, indent=1))


if __name__ == "__main__":
    main()
