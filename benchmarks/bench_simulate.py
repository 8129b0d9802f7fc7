"""Speed, memory and structure of simulated corpora: `python benchmarks/bench_simulate.py [residues] [seeds]`."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt

from data_prep.simulate import SimulationSettings, SimulationTruth, simulate_corpus
from plm_scaling.core.alphabet import STANDARD

ORDERS = ("unigram", "bigram", "trigram")
START = len(STANDARD)  # stands before each sequence's first residue


def unique_sequences(path: Path) -> list[bytes]:
    lines = path.read_bytes().split(b"\n")[1::2]
    return list(dict.fromkeys(lines))


def contexts(sequences: list[bytes]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Residue, residue before and the one before that, for every residue of the sequences."""
    table = np.full(256, START, dtype=np.int64)
    table[np.frombuffer(STANDARD.encode(), dtype=np.uint8)] = np.arange(len(STANDARD))
    flat = table[np.frombuffer(b"".join(b"--" + s for s in sequences), dtype=np.uint8)]
    here = flat[2:] != START
    return flat[2:][here], flat[1:-1][here], flat[:-2][here]


def ngram_entropies(sequences: list[bytes], held_out: int = 100, weight: float = 20.0) -> Iterator[float]:
    """Cross-entropies (nats per residue) of smoothed 1-, 2-, 3-grams on every `held_out`-th sequence.

    Each order is smoothed towards the one below by `weight` pseudo-counts.

    **Source:** MacKay and Bauman Peto 1995 (hierarchical Dirichlet language model, fixed weights).
    """
    valid = sequences[::held_out]
    train = [s for i, s in enumerate(sequences) if i % held_out]
    size = len(STANDARD) + 1
    x, before, last = contexts(train)
    y, y_before, y_last = contexts(valid)
    counts = np.bincount((last * size + before) * size + x, minlength=size**3).reshape(size, size, size)
    lower = np.full(y.size, 1.0 / len(STANDARD))
    tables = (counts.sum((0, 1)), counts.sum(0), counts)
    for table, context in zip(tables, ((), (y_before,), (y_last, y_before)), strict=True):
        lower = (table[(*context, y)] + weight * lower) / (table.sum(-1)[context] + weight)
        yield float(-np.log(lower).mean())


def report(truth: SimulationTruth, folder: Path, seconds: float) -> None:
    total = sum(source.residues for source in truth.sources)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"seed {truth.seed}: {total / 1e6:.2f} M residues in {seconds:.2f} s = {total / seconds / 1e6:.1f} M/s", end=""
    )
    print(f", peak {peak:.0f} MB")
    for source in truth.sources:
        sequences = unique_sequences(folder / source.file)
        entropies = zip(ORDERS, ngram_entropies(sequences), strict=True)
        print(
            f"  {source.name:16} {source.records} records, {source.unique_records} unique, "
            f"{source.duplicates_within} + {source.duplicates_across} copies (within + across); "
            f"mean length {source.residues / source.records:.1f}; "
            f"top family {max(source.family_records) / source.records:.3f}; "
            + ", ".join(f"{name} {value:.3f}" for name, value in entropies),
            flush=True,
        )


def main() -> None:
    residues = int(float(sys.argv[1])) if len(sys.argv) > 1 else 16_000_000
    n_seeds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    settings = SimulationSettings()
    for seed in range(n_seeds):
        with tempfile.TemporaryDirectory() as name:
            begin = time.perf_counter()
            truth = simulate_corpus(Path(name), residues=residues, seed=seed, settings=settings)
            report(truth, Path(name), time.perf_counter() - begin)


if __name__ == "__main__":
    main()
