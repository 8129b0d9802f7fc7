"""A task whose processes are on several nodes: srun starts torchrun on each, and torchrun the processes.

As a program (`python -m plm_scaling.execution.spread TARGET ARGS FILE`) it is one of these processes.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from plm_scaling.core.files import write_atomic
from plm_scaling.execution.task_server import invoke

__all__ = ["main", "run_spread", "spread_command"]

_STRAGGLER_S: Final = 60
"""After the first node's end, for the others to end."""


def run_spread(target: str, args: list[Any], folder: str, shape: Mapping[str, int]) -> int:
    """Call `target` in every process of a job, as torchrun starts them; the first process' exit code.

    SIGTERM is handed on to all of them. A process that is killed ends the others, which is an error: exit code 1.

    Parameters
    ----------
    folder : where the first process leaves its exit code; all nodes see it.
    shape : `nodes`, `processes` of each, `cpus` of each.
    """
    code_path = Path(folder) / "exit_code"
    code_path.unlink(missing_ok=True)
    # This runs on the job's first node, where the processes meet.
    meeting = f"{socket.gethostname()}:{random.SystemRandom().randrange(20_000, 32_000)}"
    process = subprocess.Popen(spread_command(target, args, code_path, shape, meeting))
    signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
    process.wait()
    return int(code_path.read_text()) if code_path.exists() else 1


def spread_command(target: str, args: list[Any], code_path: Path, shape: Mapping[str, int], meeting: str) -> list[str]:
    """What starts the processes; `meeting` is the host and port at which they find each other."""
    nodes = str(shape["nodes"])
    step = ["srun", "--nodes", nodes, "--ntasks", nodes, "--ntasks-per-node=1", f"--cpus-per-task={shape['cpus']}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", nodes]
    torchrun += ["--nproc-per-node", str(shape["processes"]), "--rdzv-backend", "c10d", "--rdzv-endpoint", meeting]
    torchrun += ["--rdzv-id", os.environ.get("SLURM_JOB_ID", "0")]
    call = ["-m", __name__, target, json.dumps(args), str(code_path)]
    return [*step, f"--wait={_STRAGGLER_S}", *torchrun, *call]


def main() -> int:
    """Be one of the processes."""
    target, args, code_path = sys.argv[1:]
    code = invoke(target, json.loads(args))
    if os.environ.get("RANK", "0") == "0":
        write_atomic(Path(code_path), str(code))
    return code


if __name__ == "__main__":
    sys.exit(main())
