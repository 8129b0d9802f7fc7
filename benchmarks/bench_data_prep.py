"""Reading, tokenising, de-duplicating and preparing proteins, and reading them for training, beside peers in one run.

    python benchmarks/bench_data_prep.py [--megabytes 300] [--rounds 5] [--large] [--folder DIR]
    python benchmarks/bench_data_prep.py --quick --json        # a minute; one JSON object

The input is made by rule: UniRef-style headers of about 100 bytes, 60 columns, log-normal lengths of mean 280, a tenth
exact copies, 0.05 % X B U Z O. Tasks take turns; medians over the rounds with half the distance of the quartiles.
Ratios are medians of the ratios within a round, above 1 where ours is faster; quote them, not the speeds, which belong
to the machine and its load. "per CPU s" counts all threads of the process. Slow peers get a share of the text and
their rate is that of the share. Peers come with `pip install plm-scaling[bench]`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from data_prep_made import gzipped, made_fasta, made_keys, share_of, zstandarded
from data_prep_measure import Times, in_new_process, interleaved, median, print_table, rate, ratio
from data_prep_peers import (
    PARSERS,
    TOKENISERS,
    Peer,
    gzip_stdlib,
    isal_igzip,
    isal_threaded,
    plain_reader,
    version_of,
    zstd_reader,
)

MEGA = 1_000_000
HERE = Path(__file__)
WARM_UP = 200_000
CONTEXT, BATCH = 1024, 256
Rows = dict[str, tuple[float, Times]]


class Bench:
    """The made files, how often to repeat, and where the figures go."""

    def __init__(self, folder: Path, megabytes: int, rounds: int, *, quick: bool, quiet: bool) -> None:
        self.folder, self.rounds, self.quick, self.quiet = folder, rounds, quick, quiet
        self.plain = folder / "made.fasta"
        self.records = made_fasta(self.plain, megabytes * MEGA)
        self.size = self.plain.stat().st_size
        self.figures: dict[str, float | None] = {}

    def say(self, text: str) -> None:
        """Print, unless only the JSON object is wanted."""
        if not self.quiet:
            print(text)

    def table(self, title: str, rows: Rows, unit: str, first: str) -> None:
        """Print rates and ratios, unless only the JSON object is wanted."""
        if not self.quiet:
            print_table(title, rows, unit, first)

    def share(self, n_bytes: int) -> Path:
        """The text, or a file of about its first `n_bytes`."""
        if not n_bytes or n_bytes >= self.size:
            return self.plain
        path = self.folder / f"share-{n_bytes}.fasta"
        return path if path.exists() else share_of(self.plain, path, n_bytes)

    def race(self, ours: Mapping[str, tuple[Callable[[Path], object], Path]], peers: list[Peer]) -> Rows:
        """Ours and the peers that are there, in turns; MB of text per second."""
        tasks: dict[str, tuple[Callable[[Path], object], Path, float]] = {
            name: (run, path, self.size / MEGA) for name, (run, path) in ours.items()
        }
        for peer in peers:
            if peer.missing:
                print(f"{peer.name}: {peer.missing}", file=sys.stderr)
                continue
            path = self.share(peer.share)
            tasks[peer.name] = (peer.run, path, path.stat().st_size / MEGA)
        for run, path, _ in tasks.values():
            if path.suffix == ".fasta":
                run(self.share(WARM_UP))  # imports are not timed
        times = interleaved({name: partial(run, path) for name, (run, path, _) in tasks.items()}, self.rounds)
        return {name: (amount, times[name]) for name, (_, _, amount) in tasks.items()}


# ---- ours --------------------------------------------------------------------------------------------------------


def tokenise(path: Path) -> None:
    from data_prep.fasta import read_records

    for _ in read_records(path):
        pass


def tokenise_hash(path: Path, span: tuple[int, int] | None = None) -> None:
    from data_prep.fasta import read_records
    from data_prep.hashing import hash_sequences

    for block in read_records(path, span=span):
        hash_sequences(block)


def tokenise_hash_fields(path: Path) -> None:
    from data_prep.fasta import read_records
    from data_prep.hashing import hash_sequences
    from data_prep.headers import header_fields

    for block in read_records(path):
        hash_sequences(block)
        header_fields(block.headers)


def decompress(path: Path) -> None:
    from data_prep.streams import text_blocks

    for _ in text_blocks(path):
        pass


# ---- reading -----------------------------------------------------------------------------------------------------

PARSE, HASH, FIELDS = "ours: parse, tokenise", "ours: parse, tokenise, hash", "ours: ... and header columns"


def bench_parsing(bench: Bench) -> None:
    ours = {PARSE: (tokenise, bench.plain), HASH: (tokenise_hash, bench.plain)}
    if not bench.quick:
        ours[FIELDS] = (tokenise_hash_fields, bench.plain)
    peers = [peer for peer in PARSERS if not bench.quick or peer.package == "pyfastx"]
    rows = bench.race(ours, peers)
    bench.table("Plain FASTA, one process", rows, "MB/s", HASH)
    bench.figures["mb_per_s_core"] = rate(*rows[HASH])
    bench.figures["vs_pyfastx_parse"] = _against(rows, HASH, "pyfastx")


def bench_tokenisers(bench: Bench) -> None:
    peers = [peer for peer in TOKENISERS if not bench.quick or "BatchConverter" in peer.name]
    rows = bench.race({HASH: (tokenise_hash, bench.share(MEGA * 40))}, peers)
    amount = bench.share(MEGA * 40).stat().st_size / MEGA
    rows[HASH] = (amount, rows[HASH][1])
    bench.table("Against tokenisers", rows, "MB/s", HASH)
    bench.figures["vs_fair_esm"] = _against(rows, HASH, "fair-esm parse + BatchConverter")


def _against(rows: Rows, ours: str, peer: str) -> float | None:
    """The ratio by CPU time to the peer whose name begins so, None without it."""
    name = next((name for name in rows if name.startswith(peer)), None)
    return None if name is None else ratio(rows[ours], rows[name])


def bench_compressed(bench: Bench) -> None:
    """By the clock: decompression runs beside the parser in a second thread."""
    packed = gzipped(bench.plain, bench.folder / "made.fasta.gz")
    tasks: dict[str, tuple[Callable[[Path], object], Path]] = {
        "gzip: ours, parse, tokenise, hash": (tokenise_hash, packed),
        "gzip: isal.igzip_threaded alone": (isal_threaded, packed),
    }
    if not bench.quick:
        frame = zstandarded(bench.plain, bench.folder / "made.fasta.zst")
        tasks |= {
            "gzip: ours, decompress only": (decompress, packed),
            "gzip: isal.igzip alone": (isal_igzip, packed),
            "gzip: standard library alone": (gzip_stdlib, packed),
            "zstd: ours, parse, tokenise, hash": (tokenise_hash, frame),
            "zstd: ours, decompress only": (decompress, frame),
            "zstd: zstandard.stream_reader alone": (zstd_reader, frame),
            "plain: ours, read only": (decompress, bench.plain),
            "plain: readinto alone": (plain_reader, bench.plain),
        }
    rows = bench.race(tasks, [])
    first = next(iter(rows))
    bench.table("Compressed FASTA", rows, "MB/s", first)
    bench.figures["gzip_vs_isal"] = ratio(rows[first], rows["gzip: isal.igzip_threaded alone"], "clock")


def _work(job: tuple[str, int, int]) -> None:
    tokenise_hash(Path(job[0]), (job[1], job[2]))


def bench_processes(bench: Bench) -> None:
    """The same file by one process, and by two on a half each."""
    path, half = str(bench.plain), bench.size // 2
    whole, halves = [(path, 0, bench.size)], [(path, 0, half), (path, half, bench.size)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(_work, [(path, 0, 1)] * 8, chunksize=1)  # imports
        tasks = {"one process": lambda: pool.map(_work, whole), "two processes": lambda: pool.map(_work, halves, 1)}
        times = interleaved(tasks, bench.rounds)
    rows = {name: (bench.size / MEGA, of) for name, of in times.items()}
    found = ratio(rows["two processes"], rows["one process"], "clock")
    speeds = ", ".join(f"{name} {rate(*row, 'clock'):.0f} MB/s" for name, row in rows.items())
    bench.say(f"\nByte ranges of one file: {speeds}; ratio {found:.2f}")
    bench.figures["two_process_ratio"] = found


# ---- the whole preparation ---------------------------------------------------------------------------------------


def child_prepare(path: Path, out: Path, workers: int) -> dict[str, Any]:
    from data_prep.pipeline import Progress, SourceInput, prepare_corpus
    from plm_scaling.execution.inline import InlineExecutor
    from plm_scaling.execution.local import LocalExecutor

    stages: dict[str, float] = {}

    def told(progress: Progress) -> None:
        stages.setdefault(progress.stage, time.perf_counter())

    executor = InlineExecutor() if workers == 1 else LocalExecutor(workers, preload=("data_prep.stages",))
    start = time.perf_counter()
    manifest = prepare_corpus([SourceInput.from_file(path)], out, executor=executor, progress=told, overwrite=True)
    end = time.perf_counter()
    edges = [*stages.values(), end]
    return {
        "seconds": end - start,
        "stages": {name: edges[i + 1] - edges[i] for i, name in enumerate(stages)},
        "sequences": manifest.n_sequences,
        "tokens": sum(source.tokens for source in manifest.sources),
    }


def bench_prepare(bench: Bench, *, large: bool) -> None:
    """`prep` of the plain file in a process of its own, on one and on two workers; with `large` of ten times more."""
    found: list[tuple[str, int, int, dict[str, Any]]] = []
    for workers in (1,) if bench.quick else (1, 2):
        for _ in range(1 if bench.quick else 3):
            arguments = ["--child-prepare", str(bench.plain), str(bench.folder / "corpus"), str(workers)]
            found.append((f"{bench.size / MEGA:.0f} MB", bench.size, workers, in_new_process(HERE, arguments)))
    if large:
        path = bench.folder / "large.fasta"
        made_fasta(path, 10 * bench.size, seed=1)
        n_bytes = path.stat().st_size
        arguments = ["--child-prepare", str(path), str(bench.folder / "large"), "2"]
        found.append((f"{n_bytes / MEGA:.0f} MB", n_bytes, 2, in_new_process(HERE, arguments)))
        path.unlink()
        shutil.rmtree(bench.folder / "large")
    bench.say("\nWhole preparation (parse, tokenise, hash, header columns, de-duplicate, split, write, checksums)")
    for name, size, workers, of in found:
        stages = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in of["stages"].items())
        bench.say(
            f"  {name}, {workers} workers: {of['seconds']:.2f} s, {size / of['seconds'] / MEGA:.0f} MB/s; peak memory: "
            f"all processes {of['tree_mb']:.0f} MB, largest {of['largest_mb']:.0f} MB; {stages}"
        )
    bench.figures["peak_rss_mb"] = max(max(of["tree_mb"], of["largest_mb"]) for *_, of in found)


# ---- exact de-duplication ----------------------------------------------------------------------------------------


def child_dedup(folder: Path) -> dict[str, Any]:
    from data_prep.dedup import find_copies, write_pairs
    from data_prep.keys import BUCKETS, KeyReader, KeyWriter

    n, start = 0, _now()
    with KeyWriter(folder / "ours", 2) as keys, (folder / "keys.bin").open("rb") as handle:
        while (words := np.fromfile(handle, dtype=np.uint64, count=2 * 4096)).size:
            rows = words.reshape(-1, 2)
            keys.add(rows[:, 0].copy(), rows[:, 1].copy(), np.arange(n, n + len(rows), dtype=np.uint64))
            n += len(rows)
        keys.finish()
    copies = find_copies([KeyReader(folder / "ours", 2)], np.zeros(1, dtype=np.int64), 0, BUCKETS)
    write_pairs(copies, folder / "pairs.i64")
    return _ended(start, n)


def child_duckdb(folder: Path, threads: int) -> dict[str, Any]:
    import duckdb

    base = duckdb.connect(str(folder / f"base-{threads}.db"))
    base.execute(f"SET memory_limit='300MB'; SET threads={threads}; SET temp_directory='{folder / 'spill'}'")
    start = _now()
    base.execute(
        f"COPY (SELECT min(row) AS row FROM '{folder / 'keys.parquet'}' GROUP BY hi, lo) "
        f"TO '{folder / 'firsts.parquet'}' (FORMAT parquet)"
    )
    return _ended(start, base.execute(f"SELECT count(*) FROM '{folder / 'keys.parquet'}'").fetchall()[0][0])


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _ended(start: tuple[float, float], n: int) -> dict[str, Any]:
    seconds, cpu = (after - before for before, after in zip(start, _now(), strict=True))
    return {"seconds": seconds, "cpu": cpu, "n": n}


def bench_dedup(bench: Bench) -> None:
    n = 4 * MEGA if bench.quick else 20 * MEGA
    folder = made_keys(bench.folder / "dedup", n)
    tasks = {"ours, one thread": ["--child-dedup", str(folder)]}
    if version_of("duckdb") == "not installed":
        print("duckdb: not installed", file=sys.stderr)
    elif not bench.quick:
        tasks |= {f"duckdb, {k} threads, 300 MB": ["--child-duckdb", str(folder), str(k)] for k in (1, 2)}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in tasks}
    for _ in range(3):
        for name, arguments in tasks.items():
            found[name].append(in_new_process(HERE, arguments))
    bench.say(f"\nExact de-duplication on disk, {n / MEGA:.0f} M keys of 128 bits, a tenth copies")
    for name, rounds in found.items():
        clock, cpu = (median([n / of[kind] / MEGA for of in rounds]) for kind in ("seconds", "cpu"))
        memory = max(of["largest_mb"] for of in rounds)
        bench.say(f"  {name:36s} {clock:6.2f} M keys/s, {cpu:6.2f} per CPU second, peak memory {memory:.0f} MB")
    if len(tasks) > 1:
        bench.say(f"  answers {'equal' if _same_answer(folder, n) else 'DIFFER'}")
    bench.figures["dedup_mkeys_s"] = median([n / of["seconds"] / MEGA for of in found["ours, one thread"]])


def _same_answer(folder: Path, n: int) -> bool:
    """Whether the first rows of all groups are the same."""
    import pyarrow.parquet as pq

    ours, theirs = np.ones(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
    ours[np.fromfile(folder / "pairs.i64", dtype=np.int64)[::2]] = False
    theirs[pq.read_table(folder / "firsts.parquet")["row"].to_numpy()] = True
    return bool((ours == theirs).all())


# ---- training reads ----------------------------------------------------------------------------------------------


def bench_training_reads(bench: Bench) -> None:
    """Batches of 256 windows of 1,024 positions, warm, from the corpus that `bench_prepare` left."""
    from plm_scaling.core.run import RunConfig
    from plm_scaling.corpus.batches import Batches
    from plm_scaling.corpus.reader import Corpus

    corpus = Corpus.open(bench.folder / "corpus")
    config = RunConfig(
        corpus_id=corpus.corpus_id, objective="mlm", n_layers=1, d_model=16, context=CONTEXT, D=10**11,
        batch_tokens=BATCH * CONTEXT, peak_lr=1e-3, recipe="small",
    )  # fmt: skip
    run = Batches(corpus, config)
    windows = run.windows[0]
    steps = iter(np.random.default_rng(0).integers(0, run.n_steps, 100_000).tolist())
    n = 8 if bench.quick else 30

    def repeated(read: Callable[[int], object]) -> Callable[[], object]:
        return lambda: sum(1 for step in itertools.islice(steps, n) if read(step) is not None)

    tasks: dict[str, Callable[[], object]] = {"ours: Batches.at, tokens": repeated(lambda step: run.at(step).tokens)}
    if not bench.quick:
        tasks["ours: Batches.at, all fields"] = repeated(lambda step: _every_field(run.at(step)))
        tasks["ours: windows by index alone"] = repeated(lambda step: windows.tokens[run.order.batch(step)[1]])
        tasks |= _hf_readers(bench, windows.tokens, lambda step: run.order.batch(step)[1], repeated)
    times = interleaved(tasks, bench.rounds)
    per_example = "HF datasets, one example at a time"
    share = {per_example: 8}
    tokens = n * BATCH * windows.stats.tokens_per_window / MEGA
    rows = {name: (tokens / share.get(name, 1), of) for name, of in times.items()}
    bench.table(f"Training reads, batches of {BATCH} x {CONTEXT}", rows, "Mtok/s", next(iter(rows)))
    bench.figures["read_mtok_s"] = rate(*rows["ours: Batches.at, tokens"], "clock")
    if not bench.quick:
        _start_and_jump(bench, corpus.path, config, run)


def _every_field(batch: Any) -> object:
    return batch.tokens, batch.segment, batch.position, batch.row, batch.residue, batch.epoch


def _hf_readers(
    bench: Bench,
    tokens: np.ndarray,
    chosen: Callable[[int], np.ndarray],
    repeated: Callable[[Callable[[int], object]], Callable[[], object]],
) -> dict[str, Callable[[], object]]:
    """The same windows in a Hugging Face Arrow dataset on disk."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets
    import pyarrow as pa

    datasets.disable_progress_bars()
    folder = str(bench.folder / "arrow")
    flat = pa.array(np.ascontiguousarray(tokens).reshape(-1))
    datasets.Dataset(pa.table({"tokens": pa.FixedSizeListArray.from_arrays(flat, CONTEXT)})).save_to_disk(folder)
    data = datasets.load_from_disk(folder)
    plain, torch = data.with_format("numpy"), data.with_format("torch")

    def one_by_one(step: int) -> list[object]:
        return [plain[int(i)]["tokens"] for i in chosen(step)[::8]]  # an eighth of the batch: it takes long

    return {
        "HF datasets, batch by index, numpy": repeated(lambda step: plain[chosen(step).tolist()]["tokens"]),
        "HF datasets, batch by index, torch": repeated(lambda step: torch[chosen(step).tolist()]["tokens"]),
        "HF datasets, one example at a time": repeated(one_by_one),
    }


def _start_and_jump(bench: Bench, path: Path, config: Any, run: Any) -> None:
    from plm_scaling.corpus.batches import Batches
    from plm_scaling.corpus.reader import Corpus

    start = interleaved({"start": lambda: Batches(Corpus.open(path), config).at(0).tokens}, 2 * bench.rounds)
    steps = iter(np.random.default_rng(1).integers(0, run.n_steps, 100_000).tolist())
    few = Batches(run.corpus, config.model_copy(update={"batch_tokens": 16 * CONTEXT}))
    jumps = {
        "jump to any step, 256 windows": lambda: run.at(next(steps)).tokens,
        "jump to any step, 16 windows": lambda: few.at(next(steps)).tokens,
    }
    times = start | interleaved(jumps, 200)
    bench.say(f"  open the corpus, first batch (windows packed): {median(times['start'].clock) * 1e3:.2f} ms")
    for name in jumps:
        bench.say(f"  {name}: {median(times[name].clock) * 1e3:.3f} ms")


# ---- the program -------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a minute: 50 MB, the main figures only")
    parser.add_argument("--json", action="store_true", help="print one JSON object of the main figures")
    parser.add_argument("--large", action="store_true", help="also prepare ten times as much, for the memory")
    parser.add_argument("--megabytes", type=int, help="size of the input (300; 50 with --quick)")
    parser.add_argument("--rounds", type=int, help="of every measurement (5; 3 with --quick)")
    parser.add_argument("--folder", type=Path, help="for temporary files (several times the input)")
    parser.add_argument("--child-prepare", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--child-dedup", nargs=1, help=argparse.SUPPRESS)
    parser.add_argument("--child-duckdb", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child_prepare:
        path, out, workers = arguments.child_prepare
        print(json.dumps(child_prepare(Path(path), Path(out), int(workers))))
    elif arguments.child_dedup:
        print(json.dumps(child_dedup(Path(arguments.child_dedup[0]))))
    elif arguments.child_duckdb:
        print(json.dumps(child_duckdb(Path(arguments.child_duckdb[0]), int(arguments.child_duckdb[1]))))
    else:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            run_all(Path(folder), arguments)


def run_all(folder: Path, arguments: argparse.Namespace) -> None:
    quick = arguments.quick
    megabytes = arguments.megabytes or (50 if quick else 300)
    bench = Bench(folder, megabytes, arguments.rounds or (3 if quick else 5), quick=quick, quiet=arguments.json)
    peers = ("pyfastx", "needletail", "dnaio", "pyhmmer", "biopython", "fair-esm", "tokenizers", "transformers")
    packages = ("numpy", "isal", "zstandard", "xxhash", *peers, "datasets", "duckdb")
    bench.say(f"{bench.records:,} records, {bench.size / MEGA:.1f} MB of text, {bench.rounds} rounds")
    bench.say(", ".join(f"{name} {version_of(name)}" for name in packages))
    bench_parsing(bench)
    bench_compressed(bench)
    bench_processes(bench)
    bench_tokenisers(bench)
    bench_prepare(bench, large=arguments.large and not quick)
    bench_dedup(bench)
    bench_training_reads(bench)
    if arguments.json:
        print(json.dumps({name: value and float(f"{value:.4g}") for name, value in bench.figures.items()}))


if __name__ == "__main__":
    main()
