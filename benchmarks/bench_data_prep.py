"""Reading, tokenising and preparing protein FASTA against peers, in one run on the same bytes.

    python benchmarks/bench_data_prep.py [FASTA ...]

Without files, 40 MB of random protein FASTA are made. Quote the ratios, not the speeds: the latter depend on the
machine and its load. Slow peers run on a share of the records, and their rate is per byte of that share.
"""

from __future__ import annotations

import itertools
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_prep.dedup import RowSorter, find_duplicates, hash_sequences
from data_prep.fasta import read_records
from data_prep.pipeline import SourceInput, prepare_corpus
from data_prep.streams import text_blocks

REPEATS = 4
SLOW_SHARE_BYTES = 400_000


def random_fasta(path: Path, n_bytes: int = 40_000_000) -> None:
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", np.uint8)
    with path.open("wb") as out:
        number = 0
        while out.tell() < n_bytes:
            text = letters[rng.integers(0, 20, int(rng.lognormal(5.36, 0.75)) + 10)].tobytes()
            lines = b"\n".join(text[i : i + 60] for i in range(0, len(text), 60))
            out.write(b">UniRef50_%08d Uncharacterized protein n=1 Tax=unknown\n%s\n" % (number, lines))
            number += 1


def ours(path: Path) -> None:
    for _ in read_records(path):
        pass


def ours_hashed(path: Path) -> None:
    for block in read_records(path):
        hash_sequences(block)


def bio_seqio(path: Path) -> None:
    from Bio import SeqIO

    for record in SeqIO.parse(str(path), "fasta"):
        str(record.seq)


def simple_parser(path: Path) -> None:
    from Bio.SeqIO.FastaIO import SimpleFastaParser

    with path.open() as handle:
        for _ in SimpleFastaParser(handle):
            pass


def esm_parse(path: Path) -> None:
    from esm.data import FastaBatchedDataset

    FastaBatchedDataset.from_file(path)


def esm_encode(path: Path) -> None:
    from esm.data import Alphabet, FastaBatchedDataset

    alphabet = Alphabet.from_architecture("ESM-1b")
    for _, sequence in FastaBatchedDataset.from_file(path):
        alphabet.encode(sequence)


def gzip_stdlib(path: Path) -> None:
    import gzip

    with gzip.open(path, "rb") as handle:
        while handle.read(1 << 20):
            pass


def ours_decompress(path: Path) -> None:
    for _ in text_blocks(path):
        pass


def measure(tasks: dict[str, tuple[Callable[[Path], None], Path, int]]) -> None:
    """Print MB/s of text for each task, by the clock and by CPU time, and how many times faster the first one is.

    The tasks take turns and the best round of each counts, so that other work on the machine disturbs all alike.
    """
    clock = dict.fromkeys(tasks, float("inf"))
    cpu = dict.fromkeys(tasks, float("inf"))
    for _ in range(REPEATS):
        for name, (task, path, _) in tasks.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            task(path)
            clock[name] = min(clock[name], time.perf_counter() - start)
            cpu[name] = min(cpu[name], time.process_time() - cpu_start)
    ours_clock, ours_cpu = 0.0, 0.0
    print(f"{'':44s} {'MB/s':>8s} {'per CPU':>8s}   {'ours / it':>9s} {'by CPU':>8s}")
    for name, (_, _, n_bytes) in tasks.items():
        rate, cpu_rate = n_bytes / clock[name] / 1e6, n_bytes / cpu[name] / 1e6
        ours_clock, ours_cpu = ours_clock or rate, ours_cpu or cpu_rate
        print(f"{name:44s} {rate:8.2f} {cpu_rate:8.2f}   {ours_clock / rate:9.2f} {ours_cpu / cpu_rate:8.2f}")


def bench_dedup(folder: Path, n: int = 2_000_000) -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**64, (n, 2), dtype=np.uint64)
    words[-n // 10 :] = words[rng.integers(0, n // 2, n // 10)]
    rows = np.arange(n, dtype=np.uint64)
    start = time.perf_counter()
    sorter = RowSorter(folder / "hashes", 3)
    for at in range(0, n, 4000):
        sorter.add(words[at : at + 4000, 0], words[at : at + 4000, 1], rows[at : at + 4000])
    found = find_duplicates(sorter, folder).n
    elapsed = time.perf_counter() - start
    print(f"exact de-duplication on disk: {n / elapsed / 1e6:.1f} M rows/s ({found} of {n} are copies)")


def bench_prepare(paths: list[Path], n_bytes: int, folder: Path) -> None:
    times = []
    for number in range(REPEATS):
        start = time.perf_counter()
        manifest = prepare_corpus([SourceInput.from_file(path) for path in paths], folder / f"corpus{number}")
        times.append(time.perf_counter() - start)
    rate = n_bytes / min(times) / 1e6
    residues = sum(source.residues for source in manifest.sources)
    print(
        f"prepare_corpus: {rate:.0f} MB/s of text, {residues / min(times) / 1e6:.0f} M residues/s, "
        f"{manifest.n_sequences} sequences"
    )


def whole_records(text: bytes, n_bytes: int) -> bytes:
    return text[: text.find(b"\n>", n_bytes) + 1] or text


def main(arguments: list[str]) -> None:
    import gzip

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = [Path(argument) for argument in arguments]
        if not inputs:
            inputs = [folder / "random.fasta"]
            random_fasta(inputs[0])
        plain = folder / "all.fasta"
        text = numbered(b"".join(block_ended(path) for path in inputs))
        plain.write_bytes(text)
        packed, share = folder / "all.fasta.gz", folder / "share.fasta"
        packed.write_bytes(gzip.compress(text, 6))
        share.write_bytes(whole_records(text, SLOW_SHARE_BYTES))
        n, n_share = len(text), share.stat().st_size
        print(f"{len(inputs)} files, {n / 1e6:.1f} MB of text; best of {REPEATS} runs\n")
        bench_prepare(inputs, n, folder)
        bench_dedup(folder)
        print("\nplain FASTA")
        measure(
            {
                "ours: parse, tokenise, count": (ours, plain, n),
                "ours: and hash": (ours_hashed, plain, n),
                "Bio SimpleFastaParser (parse only)": (simple_parser, plain, n),
                "Bio.SeqIO (parse only)": (bio_seqio, plain, n),
                "fair-esm FastaBatchedDataset (parse only)": (esm_parse, plain, n),
                "fair-esm parse + Alphabet.encode": (esm_encode, share, n_share),
            }
        )
        print("\ngzip FASTA")
        measure(
            {
                "ours: decompress, parse, tokenise, count": (ours, packed, n),
                "ours: decompress only": (ours_decompress, packed, n),
                "gzip of the standard library, decompress": (gzip_stdlib, packed, n),
            }
        )


def block_ended(path: Path) -> bytes:
    """A file's text, ended by a line end so that files can be laid end to end."""
    return b"".join(text_blocks(path)).rstrip(b"\n") + b"\n"


def numbered(text: bytes) -> bytes:
    """Headers made unique, which fair-esm insists on."""
    number = itertools.count()
    return re.sub(rb"(?m)^>", lambda _: b">%d|" % next(number), text)


if __name__ == "__main__":
    main(sys.argv[1:])
