"""Print a finished study as Markdown for RESULTS.md: runs, floors, minima, exponents, transfer.

python benchmarks/study_tables.py STUDY [--validation heldout_distant ...]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from plm_scaling import api
from plm_scaling.cli.fit_screen import law_rows
from plm_scaling.core.run import RunRecord
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.units import format_count, format_with_error
from plm_scaling.corpus.floors import entropy_floors
from plm_scaling.corpus.reader import Corpus
from plm_scaling.corpus.validation import validation_rows

OBJECTIVES = ("clm", "mlm")


def records_of(runs: Path) -> list[RunRecord]:
    found = (RunFolder(path).record() for path in sorted(runs.iterdir()) if path.is_dir())
    return sorted((r for r in found if r), key=lambda r: (r.config.objective, r.roles, r.C_exact, r.config.N))


def run_lines(records: list[RunRecord], sets: list[str]) -> Iterator[str]:
    yield f"| objective | roles | shape | N | D | unique | repeated | C_exact | batch | seed | {' | '.join(sets)} |"
    yield "|---" * (10 + len(sets)) + "|"
    for r in records:
        total = r.ledger[-1]
        losses = {v.set_name: v for v in r.validation}
        shown = " | ".join(format_with_error(losses[s].per_token, losses[s].se) for s in sets)
        c = r.config
        yield (
            f"| {c.objective} | {', '.join(r.roles)} | {c.n_layers}x{c.d_model} | {format_count(c.N)} "
            f"| {format_count(r.D)} | {format_count(total.unique)} | {format_count(total.tokens - total.unique)} "
            f"| {r.C_exact:.2e} | {c.batch_tokens} | {c.seed} | {shown} |"
        )


def floor_lines(corpus: Corpus, records: list[RunRecord], sets: list[str]) -> Iterator[str]:
    limit = records[0].config.validation_tokens
    yield "| set | tokens scored | CLM floor, per token | CLM floor, per residue | MLM floor |\n|---|---|---|---|---|"
    for name in sets:
        rows = validation_rows(corpus, name, limit)
        floors = entropy_floors(corpus, rows)
        scored = int((corpus.length[rows] + 1).sum())
        yield (
            f"| {name} | {scored:,} | {floors.clm_per_token:.4f} | {floors.clm_per_residue:.4f} | {floors.mlm:.4f} |"
        )


def law_lines(runs: Path, sets: list[str]) -> Iterator[str]:
    for name in sets:
        for objective in OBJECTIVES:
            fitted = api.fit(runs, objective=objective, validation=name)
            yield f"\n**{objective.upper()} on {name}** ({fitted.n_runs} runs)\n"
            yield "| quantity | estimate | flags |\n|---|---|---|"
            for row in law_rows(fitted):
                yield f"| {row['quantity']} | {row['estimate']} | {row['flags']} |"


def count(value: float | None) -> str:
    return "not measured" if value is None else format_count(value)


def transfer_lines(runs: Path, sets: list[str]) -> Iterator[str]:
    for name in sets:
        for pair in api.transfer(runs, validation=name).pairs:
            worth = f"{pair.D_t_per_source_token:.2f}" if pair.D_t_per_source_token is not None else "-"
            yield (
                f"- {name}: gap {format_with_error(pair.gap, pair.gap_total_se or pair.gap_se)} nats, "
                f"D_t {count(pair.D_t)} [{count(pair.D_t_low)}, {count(pair.D_t_high)}], {worth} per source token, "
                f"net {count(pair.net_tokens)} tokens; {', '.join(pair.flags) or 'no flags'}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--validation", nargs="*", help="sets to show (default: all)")
    given = parser.parse_args()
    runs = given.study / "runs"
    records = records_of(runs)
    sets = given.validation or [v.set_name for v in records[0].validation if "@" not in v.set_name]
    device_h = sum(r.device_s for r in records) / 3600
    print(f"{len(records)} runs, {sum(r.C_exact for r in records):.3g} exact FLOPs, {device_h:.2f} core-hours\n")
    corpus = Corpus.open(
        RunFolder(runs / records[0].config.run_id).order().corpus_path(runs / records[0].config.run_id)
    )
    for lines in (
        run_lines(records, sets),
        floor_lines(corpus, records, sets),
        law_lines(runs, sets),
        transfer_lines(runs, sets),
    ):
        print("\n".join(lines), end="\n\n")


if __name__ == "__main__":
    main()
