"""How good the estimate of training memory is: estimated over measured growth of resident memory, by shape.

python benchmarks/bench_memory.py
"""

from __future__ import annotations

import json
import subprocess
import sys

import torch

from plm_scaling.core.memory_estimate import training_bytes
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_order import RunOrder
from plm_scaling.training.memory import peak_memory_bytes
from plm_scaling.training.sharing import Stepper

SHAPES = (
    *("plm mlm 2x64 128 8192", "plm mlm 4x256 512 8192", "plm clm 4x256 512 8192", "plm mlm 6x384 1024 8192"),
    *("plm mlm 6x384 1024 16384", "esm2 mlm 4x256 512 8192", "esm2 mlm 6x384 1024 16384"),
    *("progen2 clm 6x384 1024 16384", "plm mlm 12x640 256 4096"),
)
STEPS = 3


def measure(shape: str) -> dict[str, object]:
    """Growth of this process' peak over a few steps, beside the estimate."""
    architecture, objective, size, context, batch = shape.split()
    n_layers, d_model = map(int, size.split("x"))
    config = RunConfig.checked(
        architecture=architecture, objective=objective, n_layers=n_layers, d_model=d_model, context=int(context),
        batch_tokens=int(batch), corpus_id="", D=int(batch), peak_lr=1e-4, recipe="small",
    )  # fmt: skip
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    before = peak_memory_bytes(cpu) or 0
    step = Stepper(RunOrder(config=config, corpus=""), cpu)
    for _ in range(STEPS):
        step()
    grown = (peak_memory_bytes(cpu) or 0) - before
    estimate = sum(training_bytes(config, config.batch_tokens))
    return {
        "shape": shape,
        "N": config.N,
        "grown_MB": grown // 10**6,
        "estimate_over_grown": round(estimate / grown, 2),
    }


def main() -> None:
    """Every shape in a process of its own: a peak never goes down."""
    if len(sys.argv) > 1 and sys.argv[1] in SHAPES:
        print(json.dumps(measure(sys.argv[1])))
        return
    for shape in SHAPES:
        done = subprocess.run([sys.executable, __file__, shape], capture_output=True, text=True, check=True)
        print(done.stdout.strip())


if __name__ == "__main__":
    main()
