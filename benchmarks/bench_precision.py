"""Does bf16 change what is learnt? The same small runs in fp32 and bf16: `bench_precision.py [tokens] [seeds]`.

Needs real sequences: PLM_SCALING_TEST_DATA, a folder whose `corpus` holds FASTA files.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from data_prep.pipeline import PrepSpec, SourceInput, prepare_corpus
from plm_scaling.core.run import Objective, RunConfig
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder
from plm_scaling.corpus.reader import Corpus
from plm_scaling.training.loop import train

VARIABLE = "PLM_SCALING_TEST_DATA"
FILES = "ncbi-*.fasta.gz"
"""Small bacterial proteomes: 1.6 M residues."""


def real_corpus(folder: Path) -> Corpus:
    files = sorted((Path(os.environ[VARIABLE]) / "corpus").glob(FILES))
    prepare_corpus([SourceInput("real", files)], folder / "corpus", PrepSpec(val_share=0.05))
    return Corpus.open(folder / "corpus")


def loss_of(
    corpus: Corpus, folder: Path, objective: Objective, dtype: Literal["fp32", "bf16"], seed: int, D: int
) -> tuple[float, float]:
    """Validation loss in nats per token, and CPU seconds."""
    config = RunConfig(
        corpus_id=corpus.corpus_id,
        objective=objective,
        n_layers=2,
        d_model=64,
        context=256,
        D=D,
        batch_tokens=1024,
        peak_lr=5e-3,
        recipe="small",
        seed=seed,
        dtype=dtype,
        validation_tokens=100_000,
        validation_points=1,
    )
    run = RunFolder(folder / config.run_id)
    RunOrder(config=config, corpus=str(corpus.path), device="cpu").write(run.order_path)
    begin = time.process_time()
    return train(run.path).validation[0].per_token, time.process_time() - begin


def compare(corpus: Corpus, folder: Path, objective: Objective, D: int, n_seeds: int) -> None:
    """Print the losses of every seed, and the mean paired difference beside the noise between seeds."""
    losses, seconds = np.empty((n_seeds, 2)), np.empty((n_seeds, 2))
    for seed in range(n_seeds):
        for place, dtype in enumerate(("fp32", "bf16")):
            losses[seed, place], seconds[seed, place] = loss_of(corpus, folder, objective, dtype, seed, D)
        print(f"{objective} seed {seed}: fp32 {losses[seed, 0]:.4f}, bf16 {losses[seed, 1]:.4f} nats/token", flush=True)
    difference = losses[:, 1] - losses[:, 0]
    spread, noise = difference.std(ddof=1), losses[:, 0].std(ddof=1)
    print(
        f"{objective}: bf16 - fp32 = {difference.mean():+.5f} nats, sd {spread:.5f}, standard error "
        f"{spread / np.sqrt(n_seeds):.5f}; between seeds sd {noise:.5f} (fp32); "
        f"CPU {np.median(seconds[:, 0]):.1f} and {np.median(seconds[:, 1]):.1f} s a run"
    )


def main() -> int:
    if VARIABLE not in os.environ:
        print(f"skipped: {VARIABLE} is not set, and this comparison needs real sequences")
        return 0
    D, n_seeds = (int(float(given)) for given in (sys.argv[1:] + ["150000", "3"][len(sys.argv) - 1 :])[:2])
    with tempfile.TemporaryDirectory() as folder:
        corpus = real_corpus(Path(folder))
        print(f"2 x 64, {D:,} tokens, {n_seeds} seeds, {sum(s.tokens for s in corpus.manifest.sources):,} real tokens")
        for objective in ("clm", "mlm"):
            compare(corpus, Path(folder), objective, D, n_seeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
