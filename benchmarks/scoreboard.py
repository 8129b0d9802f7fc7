"""Fit small, predict large, on every published table at hand: the automatic procedure beside its peers.

    PLM_SCALING_TEST_DATA=... python benchmarks/scoreboard.py [--draws 400] [--out benchmarks/scoreboard.md]

Nothing is chosen by hand: of every table the runs a law is about are cut at two computes given by one rule, each tool
is fitted to the runs below with its own defaults, and its predictions are held against the runs above. Tables and
packages that are missing are named; a package that fails says how. Peers: `pip install plm-scaling[bench]`
(simple-scaling-laws from Python 3.12 on).
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ[_name] = "1"

import argparse  # noqa: E402
import csv  # noqa: E402
import platform  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from collections import defaultdict  # noqa: E402
from collections.abc import Callable, Iterable  # noqa: E402
from concurrent.futures import ProcessPoolExecutor  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from datetime import UTC, datetime  # noqa: E402
from importlib.metadata import version  # noqa: E402
from itertools import repeat  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
from law_peers import PACKAGES, Runs, find_peers, missing_peers  # noqa: E402

from plm_scaling import __version__  # noqa: E402
from plm_scaling.core.run_table import RunRow, RunTable  # noqa: E402
from plm_scaling.core.units import six_nd  # noqa: E402
from plm_scaling.laws.combine import fit_laws  # noqa: E402
from plm_scaling.laws.interval import binomial_interval  # noqa: E402
from plm_scaling.laws.noise import law_runs  # noqa: E402
from plm_scaling.laws.predict import predict_losses  # noqa: E402

Array = npt.NDArray[np.float64]
Predicted = tuple[Array, Array | None, Array | None]
"""Loss, and the ends of the 90 % interval of a new run where the tool has one."""

LEVEL = 0.90
FEWEST_FITTED, FEWEST_TESTED = 18, 5
ASKED = ("chinchilla", "simple-scaling-laws")
CUTS: dict[str, Callable[[Array], float]] = {
    "a decade below the largest run": lambda C: float(C.max()) / 10.0,
    "the median compute": lambda C: float(np.median(C)),
}
"""Name -> compute up to which runs are fitted."""


@dataclass(frozen=True)
class Split:
    """The runs of one table on either side of a cut."""

    table: str
    objective: str
    cut: str
    fitted: RunTable
    tested: RunTable

    @property
    def decades(self) -> float:
        """From the largest run fitted to the largest tested."""
        ends = [float((6 * part.column("N") * part.column("D")).max()) for part in (self.fitted, self.tested)]
        return float(np.log10(ends[1] / ends[0]))


@dataclass(frozen=True)
class Score:
    """One tool on one split; shares of the measured loss."""

    split: Split
    tool: str
    error: float = float("nan")
    bias: float = float("nan")
    inside: int | None = None
    width: float | None = None
    """Median of high / low - 1."""
    seconds: float = 0.0
    failure: str = ""


# ---- tables ---------------------------------------------------------------------------------------------------------


def csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def to_table(rows: Iterable[dict[str, str]], columns: Iterable[str] = ("N", "D", "loss")) -> RunTable:
    found = (
        {"run_id": f"r{i}", "objective": "clm", **{name: float(row[name]) for name in columns}}
        for i, row in enumerate(rows)
    )
    return RunTable(tuple(RunRow.model_validate(row) for row in found))


def load_epoch(data: Path) -> dict[str, RunTable]:
    rows = csv_rows(data / "law_tables" / "epoch_chinchilla.csv")
    return {"Chinchilla, Epoch's extraction": to_table(row for row in rows if row["outlier"] == "False")}


def load_kyotakano(data: Path) -> dict[str, RunTable]:
    rows = csv_rows(data / "law_tables" / "kyotakano_chinchilla.csv")
    return {"Chinchilla, second extraction": to_table(rows)}


def load_datablations(data: Path) -> dict[str, RunTable]:
    rows = csv_rows(data / "law_tables" / "datablations_fit182.csv")
    return {"Muennighoff 2023": to_table(rows, ("N", "D", "loss", "epochs"))}


def load_porian(data: Path) -> dict[str, RunTable]:
    by_config: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    for row in csv_rows(data / "law_tables" / "porian_rw_isoflop_points.csv"):
        by_config[row["config"]].append(row)
    return {f"Porian 2024, {name.replace('|', ' ')}": to_table(rows) for name, rows in by_config.items()}


def load_cheng(data: Path) -> dict[str, RunTable]:
    from plm_scaling import api

    table = api.import_runs("cheng2024", data / "cheng2024_logs").table
    return {f"Cheng 2024 proteins, {objective.upper()}": table.of(objective) for objective in ("clm", "mlm")}


SOURCES: dict[str, Callable[[Path], dict[str, RunTable]]] = {
    "cheng2024_logs": load_cheng,
    "law_tables/epoch_chinchilla.csv": load_epoch,
    "law_tables/kyotakano_chinchilla.csv": load_kyotakano,
    "law_tables/porian_rw_isoflop_points.csv": load_porian,
    "law_tables/datablations_fit182.csv": load_datablations,
}


def load_tables(data: Path) -> tuple[dict[str, RunTable], list[str]]:
    """Tables by name, and what is not at hand."""
    tables: dict[str, RunTable] = {}
    missing = []
    for name, load in SOURCES.items():
        if (data / name).exists():
            tables |= load(data)
        else:
            missing.append(name)
    return tables, missing


def split_table(name: str, table: RunTable) -> tuple[list[Split], list[str]]:
    """A table cut by every rule, and the cuts that leave too few runs on a side."""
    objective = next(iter(table)).objective
    runs = law_runs(table, objective)
    splits, left_out = [], []
    for cut, rule in CUTS.items():
        at = rule(np.array([six_nd(row.N, row.D) for row in runs]))
        below = runs.where(lambda row: six_nd(row.N, row.D) <= at)  # noqa: B023
        above = runs.where(lambda row: six_nd(row.N, row.D) > at)  # noqa: B023
        if any(len(split.fitted) == len(below) for split in splits):
            left_out.append(f"{name}, {cut}: the same runs as under the cut before")
        elif len(below) >= FEWEST_FITTED and len(above) >= FEWEST_TESTED:
            splits.append(Split(name, objective, cut, below, above))
        else:
            left_out.append(f"{name}, {cut}: {len(below)} runs below, {len(above)} above")
    return splits, left_out


# ---- tools ----------------------------------------------------------------------------------------------------------


def our_prediction(split: Split, form: str, draws: int) -> Predicted:
    law = fit_laws(split.fitted, split.objective, form=form, draws=draws)
    columns = (split.tested.column(name) for name in ("N", "D", "batch_tokens"))
    found = predict_losses(law, *columns, level=LEVEL)
    return found.loss, found.low, found.high


def as_runs(name: str, table: RunTable) -> Runs:
    return Runs(name, table.column("N"), table.column("D"), table.column("loss"))


def tools_for(split: Split, draws: int) -> dict[str, Callable[[], Predicted]]:
    """Every tool at hand, ready to fit and predict."""
    tools: dict[str, Callable[[], Predicted]] = {
        "plm-scaling": lambda: our_prediction(split, "auto", draws),
        "plm-scaling, Chinchilla's form": lambda: our_prediction(split, "chinchilla", draws),
    }
    fitted, tested = as_runs(split.table, split.fitted), as_runs(split.table, split.tested)
    for peer in find_peers(fitted, at=tested):
        if peer.name in ASKED:
            interval, fit = peer.interval, peer.fit
            tools[peer.name] = (lambda f=interval: f(LEVEL)) if interval else (lambda f=fit: (f(), None, None))
    return tools


def score_tool(split: Split, tool: str, predict: Callable[[], Predicted]) -> Score:
    """What a tool predicts of the runs above the cut; whatever it raises becomes its result."""
    started = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loss, low, high = predict()
    except Exception as error:  # a peer may fail in any way, and that is a result
        lines = str(error).strip().splitlines() or [""]
        return Score(split, tool, failure=f"{type(error).__name__}: {lines[0][:90]}")
    seconds = time.process_time() - started
    measured = split.tested.column("loss")
    if not np.isfinite(loss).all():
        return Score(split, tool, seconds=seconds, failure="predicted no finite losses")
    errors = loss / measured - 1.0
    known = low is not None and high is not None
    return Score(
        split,
        tool,
        error=float(np.abs(errors).mean()),
        bias=float(errors.mean()),
        inside=int(((low <= measured) & (measured <= high)).sum()) if known else None,
        width=float(np.median(high / low - 1.0)) if known else None,
        seconds=seconds,
    )


def score_split(split: Split, draws: int) -> list[Score]:
    """Every tool on one split."""
    scores = []
    for tool, predict in tools_for(split, draws).items():
        score = score_tool(split, tool, predict)
        told = score.failure or f"{score.error:.4%}"
        print(f"{split.table} | {split.cut} | {tool}: {told}, {score.seconds:.0f} s", file=sys.stderr, flush=True)
        scores.append(score)
    return scores


# ---- the page -------------------------------------------------------------------------------------------------------


def page(scores: list[Score], notes: list[str], draws: int) -> str:
    lines = [
        "# Scoreboard: fit small, predict large",
        "",
        f"Written by `make scoreboard` on {datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, Python "
        f"{platform.python_version()}; " + ", ".join(_versions()) + ". One thread a tool; seconds are "
        "of CPU.",
        "",
        "The same automatic procedure on every table: of the runs a law is about (`law_runs`: from scratch, to the "
        "end, at most four epochs where a table states them) those up to the cut are fitted, those above predicted. "
        "Error: mean of |predicted / measured - 1|. Inside: runs in the 90 % interval of a new run (95 % binomial "
        "interval, too narrow since runs of one law err together). Width: median of high / low - 1. "
        f"plm-scaling: `fit --form auto`, {draws:,} draws; simple-scaling-laws: defaults, new-run intervals; "
        "chinchilla: 243 starts, Huber 1e-3 on ln L, no intervals. Only plm-scaling is told batch sizes, where a table "
        "has them. Final losses of the protein logs are read after the noise that runs share is taken off, which is "
        "estimated from all runs, tested ones included; every tool gets the same.",
    ]
    for cut in CUTS:
        mine = [score for score in scores if score.split.cut == cut]
        if mine:
            lines += ["", f"## Fitted up to {cut}", "", *_score_lines(mine), "", *_summary(mine)]
    if notes:
        lines += ["", "## Left out", "", *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"


def _versions() -> list[str]:
    found = ["numpy", "scipy", *(name for name in ASKED if name not in missing_peers())]
    return [f"plm-scaling {__version__}", *(f"{name} {version(name)}" for name in found)]


def _score_lines(scores: list[Score]) -> list[str]:
    lines = ["| table | fitted, tested, decades | tool | error | mean error | inside 90 % | width | CPU s |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for score in scores:
        split = score.split
        runs = f"{len(split.fitted)}, {len(split.tested)}, {split.decades:.2f}"
        if score.failure:
            lines.append(f"| {split.table} | {runs} | {score.tool} | failed: {score.failure} | | | | |")
            continue
        best = min(other.error for other in scores if other.split.table == split.table and not other.failure)
        error = f"{100 * score.error:.2f} %"
        lines.append(
            f"| {split.table} | {runs} | {score.tool} | {f'**{error}**' if score.error == best else error} | "
            f"{100 * score.bias:+.2f} % | {_inside(score)} | "
            f"{'-' if score.width is None else f'{100 * score.width:.1f} %'} | {score.seconds:.1f} |"
        )
    return lines


def _inside(score: Score) -> str:
    if score.inside is None:
        return "-"
    n = len(score.split.tested)
    low, high = binomial_interval(score.inside, n)
    return f"{100 * score.inside / n:.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def _summary(scores: list[Score]) -> list[str]:
    """Tools over the tables where none failed."""
    failed = {score.split.table for score in scores if score.failure}
    kept = [score for score in scores if score.split.table not in failed]
    splits = {score.split.table for score in kept}
    if not splits:
        return ["No table on which every tool answered."]
    best = {key: min(s.error for s in kept if s.split.table == key) for key in splits}
    lines = [f"Over the {len(splits)} tables on which every tool answered:", ""]
    lines += ["| tool | geometric mean error | best on | inside 90 % |", "|---|---|---|---|"]
    for tool in dict.fromkeys(score.tool for score in kept):
        mine = [score for score in kept if score.tool == tool]
        mean = float(np.exp(np.mean([np.log(score.error) for score in mine])))
        won = sum(score.error == best[score.split.table] for score in mine)
        known = [(score.inside, len(score.split.tested)) for score in mine if score.inside is not None]
        runs = sum(n for _, n in known)
        share = f"{100 * sum(inside for inside, _ in known) / runs:.0f} % of {runs} runs" if runs else "-"
        lines.append(f"| {tool} | {100 * mean:.2f} % | {won} | {share} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("scoreboard.md"))
    parser.add_argument("--workers", type=int, default=1, help="splits at a time, a process each")
    parser.add_argument("--partial", type=Path, help="where to write the page after every split, too")
    parser.add_argument("--only", default="", help="tables whose name holds this")
    args = parser.parse_args()
    data = os.environ.get("PLM_SCALING_TEST_DATA", "")
    if not data:
        sys.exit("set PLM_SCALING_TEST_DATA to the folder that holds law_tables/ and cheng2024_logs/")
    tables, missing = load_tables(Path(data))
    notes = [f"{name}: not at hand." for name in missing]
    notes += [f"{name}: not installed." for name in ASKED if name in missing_peers() and name in PACKAGES]
    splits: list[Split] = []
    for name, table in tables.items():
        if args.only in name:
            cut, left_out = split_table(name, table)
            splits += cut
            notes += [f"{text}." for text in left_out]
    splits.sort(key=lambda split: list(CUTS).index(split.cut))
    scores: list[Score] = []
    with ProcessPoolExecutor(args.workers) as pool:
        for found in pool.map(score_split, splits, repeat(args.draws)):
            scores += found
            if args.partial:
                args.partial.write_text(page(scores, [*notes, "More splits are under way."], args.draws))
    args.out.write_text(page(scores, notes, args.draws))
    print(f"wrote {args.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
