"""What the preparation benchmark reads, made by rule: FASTA like UniRef's, compressed copies, shares, hash keys."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

MEAN, SIGMA = 280.0, 0.75
"""Of the log-normal lengths, residues."""
COLUMNS = 60
COPIES, UNUSUAL = 0.10, 0.0005
_RECORDS = 20_000
_TAXA = (
    ("Homo sapiens", 9606),
    ("Escherichia coli K-12", 83333),
    ("Arabidopsis thaliana", 3702),
    ("metagenome", 256318),
)
_NAMES = (
    "Uncharacterized protein",
    "ABC transporter ATP-binding protein",
    "DNA-directed RNA polymerase subunit beta (Fragment)",
    "Tyrosine recombinase XerC",
    "Glycosyl transferase family 2 protein",
)


def _letters() -> np.ndarray:
    """uint8[65536]: residues about as frequent as in UniProt, and now and then an unusual one."""
    order = "LAGVESIKRDTPNQFYMHCW"
    percent = [9.7, 8.3, 7.1, 6.9, 6.7, 6.6, 5.9, 5.8, 5.5, 5.5, 5.4, 4.7, 4.1, 3.9, 3.9, 2.9, 2.4, 2.3, 1.4, 1.1]
    unusual = round(UNUSUAL * 65536)
    counts = np.floor(np.array(percent) / sum(percent) * (65536 - unusual)).astype(int)
    counts[0] += 65536 - unusual - counts.sum()
    rare = np.resize(np.frombuffer(b"XXXXXBUZO", np.uint8), unusual)
    return np.concatenate([np.repeat(np.frombuffer(order.encode(), np.uint8), counts), rare])


def made_fasta(path: Path, n_bytes: int, seed: int = 0) -> int:
    """Write at least `n_bytes` of FASTA; returns how many records. The same arguments give the same bytes."""
    rng = np.random.default_rng(seed)
    letters = _letters()
    written = number = 0
    with path.open("wb") as out:
        while written < n_bytes:
            wanted = min(_RECORDS, 100 + int((n_bytes - written) / 350))
            lengths = (rng.lognormal(np.log(MEAN) - SIGMA**2 / 2, SIGMA, wanted).astype(int) + 10).tolist()
            n_lines = [-(-length // COLUMNS) for length in lengths]
            text = np.full((sum(n_lines), COLUMNS + 1), ord("\n"), dtype=np.uint8)
            text[:, :COLUMNS] = letters[rng.integers(0, 65536, (len(text), COLUMNS), dtype=np.uint16)]
            written += out.write(b"".join(_records(text, lengths, n_lines, rng, number)))
            number += wanted
    return number


def _records(
    text: np.ndarray, lengths: list[int], n_lines: list[int], rng: np.random.Generator, number: int
) -> Iterator[bytes]:
    """Headers and bodies; a body is a stretch of the lines, a copy is an earlier one."""
    flat = text.tobytes()
    ends = (np.cumsum(n_lines) * (COLUMNS + 1)).tolist()
    is_copy = (rng.random(len(lengths)) < COPIES).tolist()
    originals = (rng.random(len(lengths)) * np.arange(len(lengths))).astype(int).tolist()
    owner = list(range(len(lengths)))
    for i in range(len(lengths)):
        j = owner[i] = owner[originals[i]] if is_copy[i] else i
        begin = ends[j] - n_lines[j] * (COLUMNS + 1)
        body = flat[begin : begin + lengths[j] + (lengths[j] - 1) // COLUMNS]
        taxon, taxid = _TAXA[(i * 7) % len(_TAXA)]
        accession = f"A0A{number + i:09d}"
        yield (
            f">UniRef100_{accession} {_NAMES[i % len(_NAMES)]} n={1 + i % 9} Tax={taxon} "
            f"TaxID={taxid} RepID={accession}_9ZZZZ\n"
        ).encode()
        yield body
        yield b"\n"


def share_of(path: Path, target: Path, n_bytes: int) -> Path:
    """The first whole records of a file that make `n_bytes`."""
    with path.open("rb") as handle:
        text = handle.read(n_bytes + (1 << 20))
    end = text.find(b"\n>", n_bytes)
    target.write_bytes(text if end < 0 else text[: end + 1])
    return target


def gzipped(path: Path, target: Path, level: int = 6) -> Path:
    packer = zlib.compressobj(level, wbits=31)
    with path.open("rb") as source, target.open("wb") as out:
        while block := source.read(1 << 22):
            out.write(packer.compress(block))
        out.write(packer.flush())
    return target


def zstandarded(path: Path, target: Path) -> Path:
    import zstandard

    with path.open("rb") as source, target.open("wb") as out:
        zstandard.ZstdCompressor(level=3).copy_stream(source, out)
    return target


def made_keys(folder: Path, n: int, seed: int = 0) -> Path:
    """Write uint64[n, 2] random hashes, a tenth of them copies of earlier ones, as `keys.bin` and as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(seed)
    words = rng.integers(0, 2**64, (n, 2), dtype=np.uint64)
    copies = rng.permutation(n)[: n // 10]
    words[copies] = words[rng.integers(0, n, len(copies))]
    folder.mkdir(parents=True, exist_ok=True)
    words.tofile(folder / "keys.bin")
    columns = {"hi": words[:, 0], "lo": words[:, 1], "row": np.arange(n)}
    pq.write_table(pa.table(columns), folder / "keys.parquet", compression="none", use_dictionary=False)
    return folder
