"""A trace of a few steps of a run, for `chrome://tracing` or Perfetto, and a table of the costliest operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

__all__ = ["profiled_steps"]

_WARM_UP: Final = 3
"""Steps before the trace begins: first calls allocate and choose kernels."""
_ROWS: Final = 15


@contextmanager
def profiled_steps(steps: int, path: Path | None, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """What the loop calls after every step; after a few of them, `steps` steps are traced. It changes no result.

    Parameters
    ----------
    steps : to trace; 0 traces nothing. Of a run that ends sooner, what there is.
    path : where the trace goes, Chrome's JSON; None traces nothing.
    say : prints the table.
    """
    if steps <= 0 or path is None:
        yield lambda: None
        return
    gpu = torch.cuda.is_available()
    # What torch.profiler.profile is made of; that one also imports the compiler, which takes seconds.
    profiler: Any = torch.autograd.profiler.profile(use_device="cuda" if gpu else None, use_kineto=True)
    done = 0
    tracing = False

    def finish() -> None:
        nonlocal tracing
        tracing = False
        profiler.__exit__(None, None, None)
        profiler.export_chrome_trace(str(path))
        sort = "self_device_time_total" if gpu else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=sort, row_limit=_ROWS)
        say(f"{table}\ntrace of {done - _WARM_UP} steps: {path}")

    def after_step() -> None:
        nonlocal done, tracing
        done += 1
        if done == _WARM_UP:
            profiler.__enter__()
            tracing = True
        elif tracing and done == _WARM_UP + steps:
            finish()

    try:
        yield after_step
    finally:
        if tracing:
            finish()
