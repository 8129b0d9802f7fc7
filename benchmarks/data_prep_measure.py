"""Measuring: tasks that take turns, medians with their spread, and the memory of a whole process tree."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil


@dataclass
class Times:
    """Seconds of each round, by the clock and of the processor (all threads of this process)."""

    clock: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def of(self, kind: str) -> list[float]:
        """Of one kind, `clock` or `cpu`."""
        return self.clock if kind == "clock" else self.cpu


def interleaved(tasks: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Times]:
    """Every task once per round, in turns, so that other work on the machine disturbs all alike."""
    times = {name: Times() for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            clock, cpu = time.perf_counter(), time.process_time()
            task()
            times[name].cpu.append(time.process_time() - cpu)
            times[name].clock.append(time.perf_counter() - clock)
    return times


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float]) -> float:
    """Half the distance of the quartiles, as a share of the median."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2 / median(values)


def rate(amount: float, times: Times, kind: str = "cpu") -> float:
    """Median of amount per second."""
    return amount / median(times.of(kind))


def ratio(ours: tuple[float, Times], other: tuple[float, Times], kind: str = "cpu") -> float:
    """How many times faster ours is: the median over rounds of the ratio of the rates of (amount, times) in a round."""
    (amount, times), (other_amount, other_times) = ours, other
    pairs = zip(times.of(kind), other_times.of(kind), strict=True)
    return median([amount / own / (other_amount / its) for own, its in pairs])


def print_table(title: str, rows: Mapping[str, tuple[float, Times]], unit: str, first: str) -> None:
    """Rates by the clock and per CPU second, their spread, and how many times faster the row `first` is."""
    print(f"\n{title}")
    print(f"  {'':44s} {unit:>10s} {'+-':>6s} {'per CPU s':>10s} {'+-':>6s}  {'ours / it':>9s} {'by CPU':>8s}")
    for name, (amount, times) in rows.items():
        columns = " ".join(
            f"{rate(amount, times, kind):10.2f} {spread(times.of(kind)):6.1%}" for kind in ("clock", "cpu")
        )
        ratios = " ".join(f"{ratio(rows[first], (amount, times), kind):9.2f}" for kind in ("clock", "cpu"))
        print(f"  {name:44s} {columns}  {ratios}")


def in_new_process(script: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Run `script ARGUMENTS`, which prints a JSON object last, and add the peak memory of it and all its children.

    `tree_mb` is the largest sum of proportional set sizes (shared pages count once) seen, `largest_mb` the largest
    resident set that any one of them ever had; looked at every 20 ms. (`getrusage` will not do: a new program inherits
    the peak of the one that started it.)
    """
    process = subprocess.Popen([sys.executable, str(script), *arguments], stdout=subprocess.PIPE, text=True)
    root, tree, largest = psutil.Process(process.pid), 0, 0
    while process.poll() is None:
        together, alone = _memory(root)
        tree, largest = max(tree, together), max(largest, alone)
        time.sleep(0.02)
    out = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"{script.name} {' '.join(arguments)} ended with {process.returncode}\n{out}")
    return {**json.loads(out.splitlines()[-1]), "tree_mb": tree / 1e6, "largest_mb": largest / 1e6}


def _memory(root: psutil.Process) -> tuple[int, int]:
    """Bytes of all processes of a tree together now, and the peak of the largest."""
    together = largest = 0
    try:
        for process in (root, *root.children(recursive=True)):
            together += process.memory_full_info().pss
            status = Path(f"/proc/{process.pid}/status").read_text()
            largest = max(largest, 1024 * int(status.partition("VmHWM:")[2].split()[0]))
    except (psutil.Error, OSError, IndexError):
        return 0, largest  # one of them has just ended
    return together, largest
