"""Floors of the published splits, with the small CNN, and the time each takes.

    python benchmarks/bench_floors.py DATA [--quick] [--no-cnn] [--task NAME ...]

DATA holds `aav_capsid_28mer.csv`, FLIP's GB1 splits in a folder ending in `gb1` and TAPE's `remote_homology.*.csv`,
plain or .gz, at any depth. --quick: two splits of the capsid library, without intervals.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from plm_scaling.evals.bootstrap import bootstrap_metric
from plm_scaling.evals.cnn import fit_cnn
from plm_scaling.evals.floors import EncodedTable, floor_names, floor_scores, metric_of
from plm_scaling.evals.metrics import measure
from plm_scaling.evals.splits import Split
from plm_scaling.evals.supervised_tasks import TASKS, task_table
from plm_scaling.evals.task import Asked

QUICK = ("aav28.sampled", "aav28.low_vs_high")
FULL = (
    *QUICK,
    *("aav28.one_vs_many", "aav28.two_vs_many", "aav28.seven_vs_many"),
    *("flip.gb1.one_vs_rest", "flip.gb1.three_vs_rest", "flip.gb1.low_vs_high", "fold"),
)


def row(task: str, name: str, data: EncodedTable, split: Split, started: float, scores: object, draws: int) -> None:
    """One line of the table."""
    seconds, truth = time.process_time() - started, data.table.targets[split.test]
    found = measure(metric_of(data.table), truth, scores)  # type: ignore[arg-type]
    interval = ""
    if draws and found.value is not None:
        ends = bootstrap_metric(metric_of(data.table), truth, scores, draws=draws)  # type: ignore[arg-type]
        interval = f"{ends.low:.3f} to {ends.high:.3f}"
    value = "none" if found.value is None else f"{found.value:.3f}"
    print(
        f"| {task} | {len(split.train):,} / {len(split.test):,} | {name} | {value} | {interval} | {seconds:.1f} |",
        flush=True,
    )


def main() -> None:
    """Prints a Markdown table; seconds are CPU time of fitting and predicting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--no-cnn", action="store_true")
    parser.add_argument("--task", action="append", help="Instead of those measured by default; may be repeated.")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| split | train / test | floor | value | 95 % | CPU s |\n|---|---|---|---|---|---|")
    known = {task.name for task in TASKS}
    for task in asked.task or (QUICK if asked.quick else FULL):
        assert task in known
        data, split = task_table(task, Asked(data=asked.data))
        draws = 0 if asked.quick else 1000
        for name in floor_names(data.table):
            if name in ("mutations", "blosum62") and data.table.wild_type is None:
                continue
            if task == "fold" and name == "one-hot":
                continue
            started = time.process_time()
            scores = floor_scores(data, name, split.train, split.test, validation=split.validation)
            row(task, name, data, split, started, scores, draws)
        if data.table.kind == "values" and not asked.no_cnn and len(split.train) >= 300:
            started = time.process_time()
            fit = fit_cnn(data.letters[split.train][:, data.sites], data.table.targets[split.train])
            scores = fit.predict(data.letters[split.test][:, data.sites])
            row(task, f"CNN, epoch {fit.epoch}", data, split, started, scores, draws)


if __name__ == "__main__":
    main()
