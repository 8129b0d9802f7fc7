"""Packing, warm batches, masks and the ledger, beside peers doing the same work in the same run.

    python benchmarks/bench_corpus.py [--sequences 300000] [--context 128]

Prints one JSON object: seconds, rates, and ratios (above 1: ours is faster).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from plm_scaling.core.alphabet import EOS
from plm_scaling.core.run import RunConfig, Stream
from plm_scaling.corpus.batches import Batches
from plm_scaling.corpus.format import INDEX_SCHEMA, MANIFEST_NAME, FileEntry, Manifest, SourceStats, SplitStats
from plm_scaling.corpus.ledger import ledger
from plm_scaling.corpus.masks import mlm_mask
from plm_scaling.corpus.order import feistel
from plm_scaling.corpus.packing import open_windows, window_stats
from plm_scaling.corpus.placement import best_fit
from plm_scaling.corpus.reader import Corpus


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def per_call_us(function: Callable[[int], Any], calls: int = 2000) -> float:
    """Median microseconds of `function(k)`, warm."""
    for k in range(calls // 10):
        function(k)
    return float(np.median([timed(lambda k=k: function(k))[0] for k in range(calls)]) * 1e6)  # type: ignore[misc]


def synthetic_corpus(folder: Path, n: int) -> Corpus:
    """Short sequences (log-normal, mean 50), written straight from the format."""
    rng = np.random.default_rng(0)
    length = np.clip(rng.lognormal(np.log(44), 0.5, n), 10, 400).astype(np.int64)
    tokens = rng.integers(4, 24, int(length.sum()) + n, dtype=np.uint8)
    ends = np.cumsum(length + 1)
    tokens[ends - 1] = EOS
    for name in ("shards", "index"):
        (folder / name).mkdir(parents=True)
    (folder / "shards/000000.bin").write_bytes(tokens.tobytes())
    zeros = np.zeros(n, dtype=np.uint32)
    columns = {
        "accession": [str(i) for i in range(n)],
        "source": np.zeros(n, dtype=np.uint16),
        "length": length.astype(np.uint32),
        "hash": [hashlib.md5(i.to_bytes(8, "big")).digest() for i in range(n)],
        "offset": (ends - length - 1).astype(np.uint64),
        "first": np.ones(n, dtype=np.bool_),
        "split": np.zeros(n, dtype=np.uint8),
        **{name: pa.nulls(n, pa.uint32()) for name in ("cluster50", "cluster90")},
        "taxon": zeros,
        "members": zeros,
        "rep_id": pa.nulls(n, pa.string()),
        "evidence": pa.array(np.zeros(n, np.uint8)),
        "flags": zeros,
    }
    pq.write_table(pa.table(columns, schema=INDEX_SCHEMA), folder / "index/000000.parquet")
    total = len(tokens)
    source = SourceStats(
        name="short", files=(), sequences=n, residues=total - n, tokens=total, unique_sequences=n, unique_tokens=total,
        duplicate_sequences=0, duplicate_tokens=0,
    )  # fmt: skip
    files = [
        FileEntry(name=name, bytes=(folder / name).stat().st_size, sha256="")
        for name in ("shards/000000.bin", "index/000000.parquet")
    ]
    Manifest(
        name="bench", sources=(source,), splits=(SplitStats(name="train", sequences=n, tokens=total),), val_share=0.0,
        split_seed=0, shards=(files[0],), index=(files[1],),
    ).write(folder / MANIFEST_NAME)  # fmt: skip
    return Corpus.open(folder)


def bench_packing(corpus: Corpus, context: int) -> dict[str, float]:
    """Against best-fit decreasing one sequence at a time (sorted list of rooms), the usual way to pack."""
    import bisect

    length = corpus.length + 2
    length = length[length <= context]

    def one_by_one() -> int:
        rooms: list[int] = []
        count = 0
        for size in sorted(length.tolist(), reverse=True):
            at = bisect.bisect_left(rooms, size)
            room = rooms.pop(at) if at < len(rooms) else context
            count += at >= len(rooms) and room == context
            bisect.insort(rooms, room - size)
        return count

    ours, _ = timed(lambda: best_fit(length, context))
    peer, _ = timed(one_by_one)
    stats_s, stats = timed(lambda: window_stats(corpus, Stream(), context))
    open_s, windows = timed(lambda: open_windows(corpus, Stream(), context))
    again_s, _ = timed(lambda: open_windows(corpus, Stream(), context))
    return {
        "sequences": len(corpus.length),
        "fill": stats.fill,
        "stats_s": stats_s,
        "pack_and_write_s": open_s,
        "reopen_s": again_s,
        "Mtokens_per_s": windows.stats.tokens / open_s / 1e6,
        "best_fit_vs_one_by_one": peer / ours,
    }


def bench_batches(corpus: Corpus, context: int) -> dict[str, float]:
    """Against a Hugging Face Arrow dataset of the same windows, read at the same indices."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets

    out: dict[str, float] = {}
    for n in (4, 16, 256):
        config = RunConfig(
            corpus_id=corpus.corpus_id, objective="mlm", n_layers=1, d_model=16, context=context, D=10**7,
            batch_tokens=n * context, peak_lr=1e-3, recipe="small",
        )  # fmt: skip
        run = Batches(corpus, config)
        batch = run.at(3)
        at = per_call_us(run.at)
        out[f"at_{n}_us"] = at
        out[f"at_{n}_Mtokens_per_s"] = run.mean_tokens_per_window * n / at
        out[f"mask_{n}_us"] = per_call_us(
            lambda _, b=batch: mlm_mask(b.row, b.residue, b.epoch[:, None], b.tokens, 0)  # type: ignore[misc]
        )
    flat = pa.array(run.windows[0].tokens.reshape(-1))
    table = pa.table({"tokens": pa.FixedSizeListArray.from_arrays(flat, context)})
    peer = datasets.Dataset(table).with_format("numpy")
    peer_us = per_call_us(lambda k: peer[run.order.batch(k)[1].tolist()]["tokens"], 200)
    out["at_256_vs_hf_batched"] = peer_us / out["at_256_us"]
    few = Batches(corpus, config.model_copy(update={"batch_tokens": 16 * context}))
    out["jump_to_step_us"] = per_call_us(lambda k: few.at(k * 7919 + few.n_steps), 200)
    seconds, total = timed(lambda: ledger(corpus, [(config, run.n_steps)])[-1])
    out["ledger_ms"] = seconds * 1e3
    replay, _ = timed(lambda: [run.at(k) for k in range(run.n_steps)])
    out["ledger_vs_reading_all_batches"] = replay / seconds
    assert total.tokens == run.tokens_at(run.n_steps)
    return out


def bench_order() -> dict[str, float]:
    """Against numpy's permutation, which holds all indices."""
    n = 5_000_000
    ours, _ = timed(lambda: feistel(np.arange(n), n, 1))
    peer, _ = timed(lambda: np.random.default_rng(1).permutation(n))
    return {"feistel_Mindex_per_s": n / ours / 1e6, "feistel_vs_numpy_permutation": peer / ours}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=300_000)
    parser.add_argument("--context", type=int, default=128)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = synthetic_corpus(Path(folder) / "corpus", arguments.sequences)
        open_s, rows = timed(lambda: corpus.pool(Stream(unique_tokens=10**6)))
        result = {
            "pool_s": open_s,
            "pool_rows": len(rows),
            "packing": bench_packing(corpus, arguments.context),
            "batches": bench_batches(corpus, arguments.context),
            "order": bench_order(),
        }
    print(json.dumps(result, indent=1, default=float))


if __name__ == "__main__":
    main()
