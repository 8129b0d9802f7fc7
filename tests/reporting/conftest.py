"""A synthetic study: the tables a demo of this size gives, as in-memory values and as a folder."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plm_scaling.core.run import LedgerRow, RunConfig, RunRecord, Stream, ValidationLoss
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.corpus.format import FileEntry, Manifest, SourceStats, SplitStats
from plm_scaling.laws.law_fit import Interval, IsoflopFit, IsoflopRow, LawFit, SurfaceFit
from plm_scaling.reporting.loading import comparison_pairs
from plm_scaling.reporting.study import Curve, Study
from plm_scaling.sweeps.plan_records import PlannedRun, SweepPlan
from plm_scaling.transfers.transfer_fit import TransferFit, TransferPair
from tests.reporting.devtools import Tab, browser_tab, find_browser

SHAPES = {"6k": (2, 16), "14k": (2, 24), "25k": (2, 32), "55k": (2, 48), "98k": (2, 64), "221k": (2, 96)}
GRID: dict[str, dict[float, dict[str, float]]] = {
    "clm": {
        1.25e11: {"6k": 1.725, "14k": 1.599, "25k": 1.650, "55k": 1.720},
        5e11: {"14k": 1.469, "25k": 1.420, "55k": 1.345, "98k": 1.442},
        2e12: {"25k": 1.303, "55k": 1.206, "98k": 1.190, "221k": 1.201},
    },
    "mlm": {
        1.25e11: {"6k": 2.111, "14k": 2.082, "25k": 2.214, "55k": 2.257},
        5e11: {"6k": 1.869, "14k": 1.735, "25k": 1.797, "55k": 1.862, "98k": 2.025},
        2e12: {"25k": 1.493, "55k": 1.390, "98k": 1.532, "221k": 1.719},
    },
}
REPEATS = {"clm": {4.0: 1.352, 15.0: 1.459, 60.0: 3.474}, "mlm": {4.0: 1.858, 15.0: 1.866, 60.0: 1.930}}
DIVERSITY = {"clm": (1.459, 1.402, 1.421), "mlm": (1.905, 1.894, 1.915)}
FIRST, SECOND = "uniref_like", "metagenome_like"
CORPUS = "c0ffee" * 10 + "c0de"
Row = tuple[RunRow, RunRecord, Curve]


def _config(objective: Any, size: str, D: float, **more: Any) -> RunConfig:
    n_layers, d_model = SHAPES[size]
    settings = {"batch_tokens": 512 if D < 2.5e6 else 1024, "peak_lr": 5e-3, "recipe": "small", **more}
    return RunConfig(
        corpus_id=CORPUS, objective=objective, n_layers=n_layers, d_model=d_model, context=128, D=round(D), **settings
    )


def _ledger(config: RunConfig, unique: float, earlier: bool) -> tuple[LedgerRow, ...]:
    names = [name for stream in config.streams for name in stream.sources] or [FIRST, SECOND]
    rows = []
    for name, tokens in [("*", config.D), *((name, config.D // len(names)) for name in names)]:
        first = min(tokens, int(unique * tokens / config.D))
        copies = (tokens - first) // 50
        seen = first // 2 if earlier else 0
        rows.append(
            LedgerRow(
                source=name,
                tokens=tokens,
                residues=int(tokens * 0.98),
                unique=first - seen,
                repeated_epoch=tokens - first - copies,
                repeated_duplicate=copies,
                seen_earlier=seen,
                seen_earlier_clm=seen,
            )
        )
    return tuple(rows)


def _curve(config: RunConfig, loss: float, start: float = 2.9, lowest: float | None = None) -> Curve:
    """A plausible curve; with `lowest` the validation loss turns upwards after a quarter of the run."""
    D = np.linspace(0.01, 1, 240) * config.D
    wave = 0.03 * np.sin(np.arange(240) * 12.9898)
    t = np.array([0.05, 0.1, 0.25, 0.5, 0.75, 1.0])
    if lowest is None:
        return Curve(D, loss + (start - loss) * np.exp(-5 * D / config.D) + wave, t * config.D,
                     loss + (start - loss) * np.exp(-5 * t) * (1 - t))  # fmt: skip
    train = 0.5 * lowest + (start - 0.5 * lowest) * np.exp(-6 * D / config.D) + wave
    val = np.interp(t, [0.05, 0.25, 1.0], [2.6, lowest, loss])
    return Curve(D, train, t * config.D, val)


def _run(config: RunConfig, role: str, loss: float, *, unique: float, curve: Curve | None = None,
         source: RunRecord | None = None, flags: str = "") -> Row:  # fmt: skip
    C = config.C_6nd * 1.18
    streams = json.dumps([stream.identity() for stream in config.streams])
    lineage: dict[str, Any] = {}
    if source:
        lineage = {"source_run_id": source.config.run_id, "source_objective": source.config.objective}
        lineage |= {"N_source": source.config.N, "D_source": source.D, "C_source": source.C_exact}
    row = RunRow(
        run_id=config.run_id, objective=config.objective, role=role, N=config.N, D=config.D, loss=loss, loss_se=0.0162,
        D_unique=unique, epochs=config.D / unique, C_6nd=config.C_6nd, C_exact=C, device_s=13.2,
        batch_tokens=config.batch_tokens, corpus_id=CORPUS, validation_id=f"val-{config.objective}", streams=streams,
        seed=config.seed, flags=flags, **lineage,
    )  # fmt: skip
    sets = {"": (0.0, 131_072), "@" + FIRST: (_own_shift(config, FIRST), 98_304), "@" + SECOND: (0.2, 32_768)}
    losses = {f"val_iid{part}": (f"val-{config.objective}{part}", *rest) for part, rest in sets.items()}
    losses["heldout_enzymes"] = (f"held-{config.objective}", 0.061, 60_000)
    validation = tuple(
        ValidationLoss(set_name=name, validation_id=validation_id, per_token=loss + shift,
                       per_residue=loss + shift - 0.02, se=0.0162, n_targets=targets, n_sequences=2400)
        for name, (validation_id, shift, targets) in losses.items()
    )  # fmt: skip
    record = RunRecord(
        config=config, roles=tuple(role.split(",")), status="complete", steps=config.D // config.batch_tokens,
        D=config.D, D_unique=round(unique), ledger=_ledger(config, unique, source is not None), C_6nd=config.C_6nd,
        C_exact=C, device_s=13.2, tokens_per_s=160_000, attempts=1, threads=1, validation=validation,
        versions={"plm-scaling": "0.1.0", "torch": "2.13.0", "machine": "x86_64, 2 cores"}, **lineage,
    )  # fmt: skip
    return row, record, curve or _curve(config, loss)


def _own_shift(config: RunConfig, source: str) -> float:
    """Loss on a source's own sequences against the whole set's: a run that never saw the source does badly on it."""
    known = [name for stream in config.streams for name in stream.sources]
    return 0.5 if known and source not in known else -0.05


def _isoflop_runs(objective: str) -> list[Row]:
    runs = []
    for C, cells in GRID[objective].items():
        for size, loss in cells.items():
            seeds = (0, 1, 2) if (C, size) == (5e11, "55k") else (0,)
            for seed in seeds:
                n_layers, d_model = SHAPES[size]
                D = C / (6 * (12 * n_layers * d_model**2 + 2 * n_layers * d_model))
                config = _config(objective, size, D, seed=seed)
                shift = (0.0, -0.010, 0.006)[seed]
                role = "isoflop,replicate" if len(seeds) > 1 else "isoflop"
                flags = "DATA_EXHAUSTED" if D > 5e6 and size == "6k" else ""
                runs.append(_run(config, role, loss + shift, unique=D * 0.98, flags=flags))
    return runs


def _arm_runs(objective: str) -> list[Row]:
    D = 5e11 / (6 * 55488)
    runs = []
    for epochs, loss in REPEATS[objective].items():
        config = _config(objective, "55k", D, streams=(Stream(unique_tokens=round(D / epochs)),))
        overfit = objective == "clm" and epochs > 50
        curve = _curve(config, loss, lowest=1.818 if overfit else None)
        runs.append(_run(config, "repeats", loss, unique=D / epochs, curve=curve))
    U = round(D / 12)
    first = Stream(sources=(FIRST,), unique_tokens=U)
    mixtures = ((first,), (first, Stream(sources=(SECOND,))), (Stream(sources=(SECOND,)),))
    for streams, loss, unique in zip(mixtures, DIVERSITY[objective], (U, U + D / 2, D), strict=True):
        runs.append(_run(_config(objective, "55k", D, streams=streams), "diversity", loss, unique=unique))
    return runs


def _transfer_runs(source: RunRecord) -> list[Row]:
    D = source.config.D
    target = _config("mlm", "55k", D, init_from=source.config.run_id, warmup_fraction=0.05)
    runs = [_run(target, "transfer_target", 1.579, unique=D, source=source)]
    for factor, loss in ((0.5, 2.121), (2.0, 1.617), (4.0, 1.390)):
        runs.append(_run(_config("mlm", "55k", D * factor * 1.001), "transfer_scratch", loss, unique=D * factor))
    return runs


def _between(value: float, low: float, high: float) -> Interval:
    return Interval(value=value, low=low, high=high)


def _isoflop_row(C: float, cells: dict[str, float], noise: float) -> IsoflopRow:
    N = np.array([RunConfig.model_construct(n_layers=SHAPES[s][0], d_model=SHAPES[s][1]).N for s in cells], float)
    loss = np.array(list(cells.values()))
    seeds = tuple(3 if (C, s) == (5e11, "55k") else 1 for s in cells)
    common: dict[str, Any] = {
        "C": C * 1.18,
        "N": tuple(N),
        "D": tuple(C / 6 / N),
        "loss": tuple(loss),
        "n_seeds": seeds,
    }
    a, b, c = np.polyfit(np.log(N), loss, 2)
    best = int(loss.argmin())
    depth = float(min(loss[0], loss[-1]) - loss[best])
    if best in (0, len(loss) - 1):
        return IsoflopRow(**common, depth=depth, flags=("NO_INTERIOR_MINIMUM",))
    center = -b / (2 * a)
    width = noise / (a * 1.1)
    N_opt = _between(math.exp(center), math.exp(center - 1.2 * width), math.exp(center + 1.4 * width))
    band = math.sqrt(0.01 / a)
    return IsoflopRow(
        **common, curvature=a, N_opt=N_opt, D_opt=C / 6 / N_opt.value, L_opt=float(c - b * b / (4 * a)), depth=depth,
        N_band=(math.exp(center - band), math.exp(center + band)), flags=("SHALLOW_MINIMUM",) if depth < 0.03 else (),
    )  # fmt: skip


def _surface(objective: str) -> SurfaceFit:
    clm = objective == "clm"
    parameters = {
        "E": _between(0.62, 0.31, 0.84) if clm else _between(0.71, 0.22, 1.02),
        "A0": _between(0.31, 0.24, 0.41) if clm else _between(0.24, 0.17, 0.36),
        "B0": _between(0.42, 0.33, 0.55) if clm else _between(0.82, 0.61, 1.07),
        "alpha": _between(0.38, 0.27, 0.52) if clm else _between(0.41, 0.25, 0.60),
        "beta": _between(0.52, 0.41, 0.66) if clm else _between(0.55, 0.42, 0.71),
    }
    return SurfaceFit(
        N0=55_000, D0=1.5e6, parameters=parameters, huber_delta=1e-3, objective_value=2.1e-4, starts=576,
        starts_agreeing=0.94, rms_relative_error=0.021, a_N=_between(0.58, 0.47, 0.68), range_N=(6_200, 221_568),
        range_D=(3.7e5, 1.4e7), flags=() if clm else ("E_UNIDENTIFIED",),
    )  # fmt: skip


def _law(objective: Any) -> LawFit:
    noise = 0.0125 if objective == "clm" else 0.0187
    rows = tuple(_isoflop_row(C, cells, noise) for C, cells in GRID[objective].items())
    good = [(row.C, row.N_opt.value, row.D_opt or 1.0) for row in rows if row.N_opt]
    logs = np.log(np.array(good))
    a_N, k_N = np.polyfit(logs[:, 0], logs[:, 1], 1)
    a_D, k_D = np.polyfit(logs[:, 0], logs[:, 2], 1)
    fit = IsoflopFit(
        currency="C_exact", rows=rows, a_N=_between(a_N, a_N - 0.14, a_N + 0.16), k_N=math.exp(k_N),
        a_D=_between(a_D, a_D - 0.16, a_D + 0.14), k_D=math.exp(k_D),
    )  # fmt: skip
    moved = tuple(
        row.model_copy(
            update={"N_opt": _between(*(1.13 * x for x in (row.N_opt.value, row.N_opt.low, row.N_opt.high)))}
        )
        for row in rows
        if row.N_opt
    )
    other = fit.model_copy(update={"currency": "C_6nd", "rows": moved})
    flags, notes = ("SHALLOW_MINIMUM",), ("at C = 2.4e12 the minimum is shallower than twice the noise",)
    return LawFit(
        objective=objective, currency="C_exact", n_runs=14, validation_id=f"val-{objective}", noise_sd=noise,
        isoflop=fit, isoflop_other_currency=other, surface=_surface(objective), range_C=(1.475e11, 2.36e12),
        flags=flags if objective == "clm" else (), notes=notes if objective == "clm" else (), data_hash="ab12" * 16,
    )  # fmt: skip


def _transfer(source: RunRecord, target: RunRow, scratch: RunRow) -> TransferFit:
    pair = TransferPair(
        source_run_id=source.config.run_id, target_run_id=target.run_id, scratch_run_id=scratch.run_id,
        source_objective="clm", objective="mlm", N=target.N, D=target.D, D_source=source.D, loss_scratch=scratch.loss,
        loss_transfer=target.loss, gap=target.loss - scratch.loss, gap_se=0.009, D_t=1.96e6, D_t_low=1.55e6,
        D_t_high=2.47e6, D_t_per_source_token=1.3, net_tokens=0.46e6, net_loss_gain=0.042, method="same-N scratch runs",
    )  # fmt: skip
    note = "one pair only, so how transfer scales is refused"
    return TransferFit(pairs=(pair,), flags=("TOO_FEW_PAIRS_FOR_EXPONENTS",), notes=(note,), data_hash="cd34" * 16)


def _source(name: str, sequences: int, tokens: int, unique: int) -> SourceStats:
    return SourceStats(
        name=name, files=(FileEntry(name=f"{name}.fasta", bytes=tokens, sha256="00" * 32),), sequences=sequences,
        residues=tokens - sequences, tokens=tokens, unique_sequences=int(sequences * unique / tokens),
        unique_tokens=unique, duplicate_sequences=sequences - int(sequences * unique / tokens),
        duplicate_tokens=tokens - unique,
    )  # fmt: skip


def _manifest() -> Manifest:
    return Manifest(
        name="demo",
        sources=(_source(FIRST, 98_000, 5_300_000, 4_980_000), _source(SECOND, 52_000, 2_900_000, 2_800_000)),
        splits=(SplitStats(name="train", sequences=140_000, tokens=7_600_000),
                SplitStats(name="val_iid", sequences=2_400, tokens=131_072)),
        val_share=0.01, split_seed=0, shards=(), index=(),
    )  # fmt: skip


def _plan(records: list[RunRecord]) -> SweepPlan:
    runs = [
        PlannedRun(run_id=r.config.run_id, config=r.config, roles=r.roles, C_exact=r.C_exact, unique_tokens=r.D_unique,
                   epochs=r.D / r.D_unique, steps=r.steps, memory_bytes=200_000_000,
                   notes=("DATA_EXHAUSTED",) if r.roles == ("isoflop",) and r.D > 5e6 and r.config.N < 7000 else ())
        for r in records
    ]  # fmt: skip
    lost = _config("mlm", "221k", 3e6, seed=7)
    more = PlannedRun(run_id=lost.run_id, config=lost, roles=("isoflop",), C_exact=1e12, unique_tokens=3_000_000,
                      epochs=1.0, steps=150, memory_bytes=1, notes=("DATA_EXHAUSTED", "FEW_STEPS"))  # fmt: skip
    return SweepPlan(name="demo", corpus="corpus", corpus_id=CORPUS, currency="C_exact", runs=(*runs, more), scale=0.8)


def _full() -> Study:
    runs = [run for objective in ("clm", "mlm") for run in (*_isoflop_runs(objective), *_arm_runs(objective))]
    source = next(r for _, r, _ in runs if r.config.objective == "clm" and r.roles == ("isoflop", "replicate"))
    scratch = next(row for row, r, _ in runs if r.config.objective == "mlm" and r.roles == ("isoflop", "replicate"))
    moved = _transfer_runs(source)
    runs += moved
    rows, records = [row for row, _, _ in runs], [record for _, record, _ in runs]
    study = Study(
        name="demo",
        table=RunTable(tuple(rows)),
        records={record.config.run_id: record for record in records},
        curves={record.config.run_id: curve for _, record, curve in runs},
        plan=_plan(records),
        laws={"clm": _law("clm"), "mlm": _law("mlm")},
        transfer=_transfer(source, moved[0][0], scratch),
        manifest=_manifest(),
        floors={"clm": 2.921, "mlm": 2.706},
    )
    sets = ("val_iid", *(f"val_iid@{source}" for source in (FIRST, SECOND)))
    gaps = {(name, *pair): (0.0, 0.0041) for name in sets for pair in comparison_pairs(study)}
    return dataclasses.replace(study, gaps=gaps)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """A tab of a real browser, for all tests that look at pages; it keeps its screen from test to test."""
    program = find_browser()
    if program is None:
        pytest.skip("no chromium on PATH: the pages are not tried in a browser")
    with browser_tab(program, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="session")
def full_study() -> Study:
    """Everything present."""
    return _full()


@pytest.fixture
def write_study(full_study: Study) -> Callable[[Path], Path]:
    """Writes the full study as a folder, as training and the fits would leave it."""

    def write(path: Path) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        assert full_study.plan
        assert full_study.transfer
        assert full_study.manifest
        full_study.plan.write(path / "plan.json")
        full_study.transfer.write(path / "transfer.json")
        full_study.manifest.write(path / "corpus" / "manifest.json")
        for objective, law in full_study.laws.items():
            law.write(path / f"fit-{objective}.json")
        for run_id, record in full_study.records.items():
            folder = path / "runs" / run_id
            record.write(folder / "record.json")
            curve = full_study.curves[run_id]
            val = dict(zip(curve.validation_D.tolist(), curve.validation_loss.tolist(), strict=True))
            at = sorted({*curve.D.tolist(), *val})
            train = np.interp(at, curve.D, curve.loss).tolist()
            lines = {"step": range(len(at)), "D": at, "loss": train, "val_loss": [val.get(d) for d in at]}
            pq.write_table(pa.table(lines), folder / "metrics.parquet")
        return path

    return write
