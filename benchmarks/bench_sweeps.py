"""Sweeps at scale: overhead of the pool and of a controller, status, queries over all metrics, a plan of 5,000 runs.

    python benchmarks/bench_sweeps.py [--quick] [--json] [--runs 500] [--points 2000] [--planned 5000]

The runs are simulated: their folders hold the files that real runs leave (run.json, record.json, status.json,
metrics.parquet, and metrics.jsonl for one in fifty, which is not complete), with invented numbers. The runs of the pool
do nothing but write a record. Nothing is timed against a limit here; figures belong in `benchmarks/RESULTS.md`.

- `overhead_ms_per_run`: wall time of `run` over all simulated short runs, whole, divided by their number: deciding,
  writing the orders, packing windows, forking, reading the outcome. `pool_ms_per_run`: the pool alone, empty tasks.
- `controller_mb`: what the controller's peak memory grew by while it did so; `server_mb`: the task server's own memory.
- `rerun_s`, `rerun_started`: the same command again, over complete runs.
- `status_s`: `status` of a folder of runs; `status_5000_s`: of a plan of 5,000, as many begun as there are folders.
- `query_s`: one SQL query over the metrics of all runs, connection included, warm; `query_join_s`: joined with `runs`.
- `plan_5000_s`: laying out 5,000 runs and writing the plan; `plan_read_s`: reading it.

Every figure but the sizes is a median; `spread` holds the least and the largest value. `cpu_NAME` is the CPU time, all
threads and processes together, of what NAME is the wall time of.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

SHORT: Final = "bench_sweeps:short_run"
METRICS: Final = ("step", "D", "loss", "lr", "grad_norm", "val_loss", "tokens_per_s", "mfu", "memory_bytes", "flops")
QUERY: Final = "select run_id, count(*) as points, min(loss) as best, max(step) as steps from metrics group by run_id"
JOINED: Final = "select objective, N, avg(m.loss) from runs join metrics m using (run_id) group by all order by all"
STUDY: Final = """
name = "scale"
corpus = "corpus"
context = 64
batch_tokens = 256
currency = "C_6nd"
objectives = ["clm", "mlm"]
max_epochs = 1e9
validation_tokens = 2000
[[grid]]
sizes = ["1x16", "1x32", "2x32", "2x48", "2x64"]
D = [{D}]
seeds = [{seeds}]
"""


def spec_text(n_runs: int) -> str:
    """A spec of `n_runs` runs: 5 sizes x 10 D x 2 objectives x seeds."""
    D = ", ".join(str(round(2e5 * 1.1**k)) for k in range(10))
    return STUDY.format(D=D, seeds=", ".join(map(str, range(math.ceil(n_runs / 100)))))


def make_corpus(folder: Path) -> Path:
    """A small simulated corpus."""
    from data_prep import PrepSpec
    from plm_scaling import api

    api.simulate(folder / "fasta", residues=300_000)
    inputs: dict[str, list[Path | str]] = {path.stem: [path] for path in sorted((folder / "fasta").glob("*.fasta*"))}
    api.prep(inputs, folder / "corpus", PrepSpec(val_share=0.05), workers=1)
    return folder / "corpus"


def short_run(run_dir: str) -> None:
    """What a run of no time at all leaves: an attempt with its status, and a record. Standard library only."""
    run = Path(run_dir)
    attempt = run / "attempts" / "0001"
    attempt.mkdir(parents=True)
    order = json.loads((run / "run.json").read_text())
    (attempt / "status.json").write_text(json.dumps({"schema_version": 1, "status": "complete", "step": 10}))
    (run / "record.json").write_text(json.dumps(record_fields(order["config"], order["roles"])))


def record_fields(config: dict[str, Any], roles: list[str]) -> dict[str, Any]:
    """A record of invented numbers."""
    N = config["n_layers"] * (12 * config["d_model"] ** 2 + 2 * config["d_model"])
    C = 6.0 * N * config["D"]
    loss = {"set_name": "val_iid", "validation_id": f"v-{config['objective']}", "per_token": 2.0 + 1e3 / N}
    loss |= {"per_residue": 2.1, "se": 0.01, "n_targets": 2000, "n_sequences": 20}
    zero = ("repeated_epoch", "repeated_duplicate", "seen_earlier")
    row = {"tokens": config["D"], "residues": config["D"], "unique": config["D"], **dict.fromkeys(zero, 0)}
    return {
        "schema_version": 1, "config": config, "roles": roles, "status": "complete", "steps": 10, "D": config["D"],
        "D_unique": config["D"], "ledger": [{"source": name, **row} for name in ("a", "b", "*")], "C_6nd": C,
        "C_exact": 1.4 * C, "device_s": 1.0, "tokens_per_s": 1e5, "attempts": 1, "threads": 1, "mfu": 0.3,
        "validation": [loss, {**loss, "set_name": "val_cluster"}], "versions": {"torch": "0", "numpy": "0"},
    }  # fmt: skip


def write_runs(plan_path: Path, runs: Path, n_runs: int, points: int) -> None:
    """Folders of the plan's first runs, one in fifty of them broken off."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    planned = json.loads(plan_path.read_text())["runs"][:n_runs]
    random = np.random.default_rng(0)
    for number, run in enumerate(planned):
        config, folder = run["config"], runs / run["run_id"]
        attempt = folder / "attempts" / "0001"
        attempt.mkdir(parents=True)
        order = {"schema_version": 1, "config": config, "roles": run["roles"], "corpus": "../../corpus"}
        (folder / "run.json").write_text(json.dumps(order, indent=1))
        steps = np.arange(1, points + 1)
        columns = {name: random.random(points) for name in METRICS}
        columns |= {
            "memory_bytes": steps * 0 + 10**9,
            "flops": steps * 1e6,
            "step": steps,
            "D": steps * 256,
            "loss": 2 + np.exp(-steps / points) + random.normal(0, 0.1, points),
        }
        status = {"schema_version": 1, "status": "complete", "step": points, "n_steps": points, "loss": 2.2}
        if number % 50 == 49:
            rows = zip(*(column.tolist() for column in columns.values()), strict=True)
            lines = (json.dumps(dict(zip(columns, row, strict=True))) for row in rows)
            (attempt / "metrics.jsonl").write_text("\n".join(lines) + "\n")
            status |= {"status": "interrupted", "reason": "SIGTERM"}
        else:
            pq.write_table(pa.table(columns), folder / "metrics.parquet", compression="zstd")
            (folder / "record.json").write_text(json.dumps(record_fields(config, run["roles"]), indent=1))
        (attempt / "status.json").write_text(json.dumps(status))


def cpu_seconds() -> float:
    """CPU time of this process, its threads, and the processes it has waited for."""
    return sum(os.times()[:4])


def timed(name: str, call: Callable[[], Any], repeats: int, unit: float = 1.0) -> dict[str, list[float]]:
    """Wall time of each call, and its CPU time, which other work on the machine moves less, under NAME and cpu_NAME."""
    wall, cpu = [], []
    for _ in range(repeats):
        begin, spent = time.perf_counter(), cpu_seconds()
        call()
        wall.append((time.perf_counter() - begin) * unit)
        cpu.append((cpu_seconds() - spent) * unit)
    return {name: wall, f"cpu_{name}": cpu}


def own_peak_mb() -> float:
    """Peak resident memory of this process so far, MB; `ru_maxrss` would include that of the process it came from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1e3


def child_memory_mb() -> float:
    """Resident memory of the processes that this one started, MB."""
    import psutil

    return sum(child.memory_info().rss for child in psutil.Process().children()) / 1e6


def controller(plan_path: Path, rounds: int) -> dict[str, Any]:
    """`run` over the plan's simulated short runs, `rounds` times into fresh folders. In a process of its own."""
    from plm_scaling.execution.local import Task, run_tasks
    from plm_scaling.sweeps import reconcile
    from plm_scaling.sweeps.plan_records import SweepPlan

    plan = SweepPlan.read(plan_path)
    reconcile.TRAINER = SHORT
    tasks = [Task(run.run_id, "time:sleep", (0,)) for run in plan.runs]
    n = len(plan.runs)
    found: dict[str, Any] = timed("pool_ms_per_run", lambda: run_tasks(tasks, workers=2), rounds, 1e3 / n)
    reconcile.run_plan(plan.model_copy(update={"runs": plan.runs[:2]}), plan_path, plan_path.parent / "warm-up")
    before, server, ended, started = own_peak_mb(), 0.0, 0, 0

    def look(event: Any) -> None:
        nonlocal server, ended
        ended += event.kind != "started"
        if event.kind != "started" and ended % 50 == 0:
            server = max(server, child_memory_mb())

    for k in range(rounds):

        def again(runs: Path = plan_path.parent / f"short-{k}") -> None:
            nonlocal started
            outcome = reconcile.run_plan(plan, plan_path, runs, workers=2, on_event=look)
            assert outcome.all_complete, outcome.failed
            started += len(outcome.started)

        for name, unit in (("overhead_ms_per_run", 1e3 / n), ("rerun_s", 1.0)):
            for key, values in timed(name, again, 1, unit).items():
                found.setdefault(key, []).extend(values)
    extra = {"controller_mb": own_peak_mb() - before, "controller_peak_mb": own_peak_mb(), "server_mb": server}
    return found | extra | {"rerun_started": started - rounds * n}


def measure(folder: Path, n_runs: int, points: int, n_planned: int, rounds: int) -> dict[str, Any]:
    """All figures, raw."""
    from plm_scaling import api
    from plm_scaling.sweeps.plan_records import SweepPlan

    corpus = make_corpus(folder)
    (folder / "plan.toml").write_text(spec_text(n_runs))
    (folder / "large.toml").write_text(spec_text(n_planned))
    api.plan(folder / "plan.toml", folder / "plan.json", corpus=corpus)
    large = folder / "large.json"
    fewer = max(1, rounds // 2)
    found: dict[str, Any] = timed("plan_5000_s", lambda: api.plan(folder / "large.toml", large, corpus=corpus), fewer)
    found |= timed("plan_read_s", lambda: SweepPlan.read(large), rounds)
    here = Path(__file__).resolve()
    command = [sys.executable, str(here), "--controller", str(folder / "plan.json"), "--rounds", str(fewer)]
    environment = {**os.environ, "PYTHONPATH": str(here.parent)}
    found |= json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
    runs = folder / "runs"
    write_runs(folder / "plan.json", runs, n_runs, points)
    found |= timed("status_s", lambda: api.status(runs), rounds)
    for name, query in (("query_s", QUERY), ("query_join_s", JOINED)):
        api.runs_sql(runs, query)
        found |= timed(name, lambda query=query: api.runs_sql(runs, query), rounds)
    shutil.rmtree(runs)
    write_runs(large, runs, n_runs, 10)
    found |= timed("status_5000_s", lambda: api.status(runs, plan=large), rounds)
    return found


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Medians, and the spread beside them."""
    spread = {name: [min(v), max(v)] for name, v in found.items() if isinstance(v, list)}
    medians = {name: statistics.median(v) if isinstance(v, list) else v for name, v in found.items()}
    return {
        **{name: round(value, 4) for name, value in medians.items()},
        "spread": {name: [round(low, 4), round(high, 4)] for name, (low, high) in spread.items()},
    }


def main() -> None:
    """Measure in a temporary folder and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds of each instead of seven")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--planned", type=int, default=5000)
    parser.add_argument("--rounds", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--controller", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    rounds = given.rounds or (3 if given.quick else 7)
    if given.controller:
        print(json.dumps(controller(given.controller, rounds)))
        return
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"runs": given.runs, "points": given.points, "planned": given.planned}
        result = summary(measure(Path(folder), given.runs, given.points, given.planned, rounds)) | sizes
    if given.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        low, high = result["spread"].get(name, ("", ""))
        if name != "spread":
            print(f"{name:22} {value:>12} {f'{low} to {high}' if low != '' else ''}")


if __name__ == "__main__":
    main()
