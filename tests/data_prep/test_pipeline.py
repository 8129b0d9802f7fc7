from __future__ import annotations

import gzip
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from Bio import SeqIO

from data_prep import shards
from data_prep.pipeline import PrepSpec, Progress, SourceInput, prepare_corpus
from data_prep.verify import verify_corpus
from plm_scaling.core.alphabet import encode
from plm_scaling.core.errors import ConfigError, CorpusError
from plm_scaling.corpus.format import Manifest

Write = Callable[..., Path]
Read = Callable[[Path], Any]

A = ">a1\nACDEF\n>a2\nMKVWY\n>a3\nACDEF\n"
B = ">b1\nmkvwy*\n>b2\nGGGG\n>b3\n\n>b3\nLLL\n"


@pytest.fixture
def two(write: Write) -> list[SourceInput]:
    return [SourceInput("one", (write(A, "a.fa"),)), SourceInput("two", (write(gzip.compress(B.encode()), "b.fa.gz"),))]


def digest(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_small_corpus_by_hand(two: list[SourceInput], tmp_path: Path, contents: Read) -> None:
    manifest = prepare_corpus(two, tmp_path / "corpus", PrepSpec(val_share=0.0))
    got = contents(tmp_path / "corpus")
    assert got.manifest == manifest
    assert [(row["accession"], row["source"], got.sequence(row), row["first"]) for row in got.rows] == [
        ("a1", 0, "ACDEF", True),
        ("a2", 0, "MKVWY", True),
        ("a3", 0, "ACDEF", False),
        ("b1", 1, "MKVWY", False),
        ("b2", 1, "GGGG", True),
        ("b3", 1, "LLL", True),
    ]
    assert [row["offset"] for row in got.rows] == [0, 6, 0, 6, 12, 17]
    assert len(got.tokens) == 21
    for row in got.rows:
        assert row["hash"] == xxhash.xxh3_128_digest(encode(got.sequence(row)).tobytes())
        assert row["cluster50"] is None
        assert row["cluster90"] is None
    one, second = manifest.sources
    assert (one.sequences, one.residues, one.tokens, one.unique_sequences, one.unique_tokens) == (3, 15, 18, 2, 12)
    assert (one.duplicate_sequences, one.duplicate_tokens, one.policy_counts) == (1, 6, {})
    assert (second.sequences, second.residues, second.unique_sequences, second.unique_tokens) == (3, 12, 2, 9)
    assert second.policy_counts == {"empty_records": 1, "lower_case": 5, "stops": 1}
    [file] = second.files
    assert file.name == "b.fa.gz"  # as stored, not its text
    assert file.sha256 == hashlib.sha256(two[1].paths[0].read_bytes()).hexdigest()
    assert file.bytes == two[1].paths[0].stat().st_size
    assert [(split.name, split.sequences, split.tokens) for split in manifest.splits] == [
        ("train", 4, 21),
        ("val_iid", 0, 0),
        ("val_cluster", 0, 0),
        ("excluded", 0, 0),
    ]
    assert manifest.name == "corpus"
    assert set(manifest.versions) >= {"python", "numpy", "pyarrow", "xxhash"}
    assert verify_corpus(tmp_path / "corpus") == []


def test_held_out_copies_leave_training(write: Write, tmp_path: Path, contents: Read) -> None:
    inputs = [SourceInput("one", (write(A, "a.fa"),)), SourceInput("two", (write(B, "b.fa"),))]
    held = write(">h1\nACDEF\n>h2\nWWWW\n", "held.fa")
    manifest = prepare_corpus(inputs, tmp_path / "corpus", PrepSpec(val_share=0.0), hold_out={"test": [held]})
    assert [source.name for source in manifest.sources] == ["heldout_test", "one", "two"]
    assert [split.name for split in manifest.splits] == ["train", "val_iid", "val_cluster", "excluded", "heldout_test"]
    got = contents(tmp_path / "corpus")
    split = {row["accession"]: row["split"] for row in got.rows}
    assert split == {"h1": 4, "h2": 4, "a1": 4, "a2": 0, "a3": 4, "b1": 0, "b2": 0, "b3": 0}
    assert [row["accession"] for row in got.rows if row["first"]] == ["h1", "h2", "a2", "b2", "b3"]
    assert [split.sequences for split in manifest.splits] == [3, 0, 0, 0, 2]
    assert manifest.split_id("heldout_test") == 4


@pytest.fixture
def larger(write: Write, make_fasta: Callable[..., str]) -> list[SourceInput]:
    first, second = make_fasta(400, seed=1), make_fasta(300, seed=2, prefix="Q")
    shared = "".join(f">S{record[1:]}\n" for record in first.split("\n>")[50:120])
    return [
        SourceInput("first", (write(first[: len(first) // 2].rpartition(">")[0], "f1.fa"), write(first, "f2.fa"))),
        SourceInput("second", (write(shared + second, "s.fa"),)),
    ]


def oracle(inputs: list[SourceInput]) -> Iterator[tuple[str, int, str, bool]]:
    seen: set[str] = set()
    for number, source in enumerate(inputs):
        for path in source.paths:
            with path.open() as handle:
                for record in SeqIO.parse(handle, "fasta"):
                    sequence = str(record.seq)
                    yield record.id, number, sequence, sequence not in seen
                    seen.add(sequence)


def test_larger_corpus_agrees_with_biopython_and_a_set(
    larger: list[SourceInput], tmp_path: Path, contents: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.writing.BATCH_ROWS", 64)
    manifest = prepare_corpus(larger, tmp_path / "corpus", PrepSpec(val_share=0.2, max_shard_bytes=5000))
    got = contents(tmp_path / "corpus")
    assert len(manifest.shards) > 5
    assert max(entry.bytes for entry in manifest.shards) <= 5000
    assert [(r["accession"], r["source"], got.sequence(r), r["first"]) for r in got.rows] == list(oracle(larger))
    by_sequence: dict[str, set[int]] = {}
    for row in got.rows:
        by_sequence.setdefault(got.sequence(row), set()).add(row["split"])
    assert all(len(splits) == 1 for splits in by_sequence.values())
    assert manifest.unique_tokens == sum(map(len, by_sequence)) + len(by_sequence)
    assert verify_corpus(tmp_path / "corpus") == []


@pytest.mark.parametrize("block_bytes", [64, 1000])
def test_same_bytes_for_any_block_size(larger: list[SourceInput], tmp_path: Path, block_bytes: int) -> None:
    reference = prepare_corpus(larger, tmp_path / "reference")
    manifest = prepare_corpus(larger, tmp_path / "other", block_bytes=block_bytes)
    assert digest(tmp_path / "other") == digest(tmp_path / "reference")
    assert manifest.content_hash() == reference.content_hash()


def test_same_corpus_from_recompressed_and_renamed_files(larger: list[SourceInput], tmp_path: Path) -> None:
    reference = prepare_corpus(larger, tmp_path / "reference")
    packed = []
    for source in larger:
        paths = [tmp_path / f"{source.name}-{i}.gz" for i in range(len(source.paths))]
        for path, plain in zip(paths, source.paths, strict=True):
            path.write_bytes(gzip.compress(plain.read_bytes().replace(b"\n", b"\r\n")))
        packed.append(SourceInput(source.name, tuple(paths)))
    assert prepare_corpus(packed, tmp_path / "other").content_hash() == reference.content_hash()


def test_split_seed_and_share_change_the_corpus(larger: list[SourceInput], tmp_path: Path) -> None:
    ids = {
        prepare_corpus(larger, tmp_path / f"{seed}-{share}", PrepSpec(split_seed=seed, val_share=share)).content_hash()
        for seed, share in ((0, 0.1), (1, 0.1), (0, 0.2))
    }
    assert len(ids) == 3


def test_sources_without_records_are_fine_next_to_others(write: Write, tmp_path: Path, contents: Read) -> None:
    empty = write(">x\n>y\n*\n", "empty.fa")
    inputs = [
        SourceInput("nothing", (empty,)),
        SourceInput("one", (write(A, "a.fa"),)),
        SourceInput("nothing more", (empty,)),
    ]
    manifest = prepare_corpus(inputs, tmp_path / "corpus")
    assert [source.sequences for source in manifest.sources] == [0, 3, 0]
    assert [row["source"] for row in contents(tmp_path / "corpus").rows] == [1, 1, 1]


def test_duplicate_accessions_are_counted_and_kept(write: Write, tmp_path: Path) -> None:
    path = write(">x\nACD\n>x\nACE\n>x\nACD\n>y\nACD\n>x\nACF\n")
    manifest = prepare_corpus([SourceInput.from_file(path)], tmp_path / "corpus")
    assert manifest.sources[0].policy_counts == {"duplicate_accessions": 2}
    assert manifest.n_sequences == 5


def test_progress_counts_up_to_the_sizes(two: list[SourceInput], tmp_path: Path) -> None:
    seen: list[Progress] = []
    prepare_corpus(two, tmp_path / "corpus", progress=seen.append)
    reading = [event for event in seen if event.stage == "reading"]
    total = sum(path.stat().st_size for source in two for path in source.paths)
    assert reading[-1] == Progress(total, total, 6)
    assert [event.bytes_done for event in reading] == sorted(event.bytes_done for event in reading)
    assert seen[-1] == Progress(21, 21, 6, "writing")
    stages = list(dict.fromkeys(event.stage for event in seen))
    assert stages == ["reading", "comparing", "placing", "writing"]


# -- faults ----------------------------------------------------------------------------------------------------------


def test_bad_input_leaves_nothing(write: Write, tmp_path: Path) -> None:
    inputs = [SourceInput("good", (write(A, "a.fa"),)), SourceInput("bad", (write(">b\nAC1\n", "b.fa"),))]
    before = set(tmp_path.iterdir())
    with pytest.raises(CorpusError, match="'1' is not a residue letter"):
        prepare_corpus(inputs, tmp_path / "corpus")
    assert set(tmp_path.iterdir()) == before


def test_no_sequence_at_all(write: Write, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no sequences in any of the files"):
        prepare_corpus([SourceInput("x", (write(">a\n"),))], tmp_path / "corpus")


def test_sequence_longer_than_a_shard(write: Write, tmp_path: Path) -> None:
    path = write(">a\nACD\n>long\nACDEFGHIKL\n")
    with pytest.raises(CorpusError, match="long has 10 residues"):
        prepare_corpus([SourceInput("x", (path,))], tmp_path / "corpus", PrepSpec(max_shard_bytes=10))
    prepare_corpus([SourceInput("x", (path,))], tmp_path / "corpus", PrepSpec(max_shard_bytes=11))


@pytest.mark.parametrize("options", [{"val_share": 1.0}, {"max_shard_bytes": 0}, {"max_residues": 0}])
def test_impossible_options_are_refused_before_anything_is_read(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "bad.fa"
    path.write_text("not FASTA")
    with pytest.raises(ConfigError):
        prepare_corpus([SourceInput("x", (path,))], tmp_path / "corpus", PrepSpec.checked(**options))


def test_full_disk_is_a_named_error(two: list[SourceInput], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards.ShardWriter, "write", full)
    with pytest.raises(CorpusError, match="cannot write the corpus: No space left on device"):
        prepare_corpus(two, tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()
    monkeypatch.undo()
    prepare_corpus(two, tmp_path / "corpus")
    assert verify_corpus(tmp_path / "corpus") == []


KILLED = """
import os, signal, sys
from pathlib import Path
from data_prep.pipeline import SourceInput, prepare_corpus

def die(event):
    if event.stage == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)

prepare_corpus([SourceInput("x", (Path(sys.argv[1]),))], Path(sys.argv[2]), progress=die)
"""


@pytest.mark.parametrize("stage", ["reading", "writing"])
def test_killed_preparation_leaves_no_corpus_and_the_next_one_succeeds(
    write: Write, tmp_path: Path, make_fasta: Callable[..., str], stage: str
) -> None:
    path, out = write(make_fasta(50)), tmp_path / "corpus"
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", KILLED, path, out, stage], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    assert (tmp_path / ".corpus.preparing").is_dir()
    prepare_corpus([SourceInput("x", (path,))], out)
    assert verify_corpus(out) == []
    assert not (tmp_path / ".corpus.preparing").exists()


MEASURED = """
import re, sys
from pathlib import Path
from data_prep import draft, keys, layout, parts, writing
from data_prep.pipeline import SourceInput, prepare_corpus
# Small buffers, so that they are full long before the small input ends.
keys.RUN_ROWS = keys.GROUP_ROWS = 1 << 11
writing.BATCH_ROWS = parts.MARK_ROWS = 1 << 10
draft._ROWS, layout._ROWS, draft._PIECE_TOKENS = 1 << 12, 1 << 12, 1 << 16
prepare_corpus([SourceInput("x", (Path(sys.argv[1]),))], Path(sys.argv[2]))
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def test_memory_does_not_grow_with_the_input(write: Write, tmp_path: Path, make_fasta: Callable[..., str]) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc, which this system does not have")
    text = make_fasta(2000, mean=400).encode()  # 0.85 MB
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    peaks = []
    for times in (3, 30):
        # Other sequences each time: a prefix is put before each line that begins with A.
        parts = [text.replace(b"\nA", b"\n" + bytes([ord("C") + i % 7]) * (1 + i // 7)) for i in range(times)]
        path = write(b"".join(parts), f"{times}.fa")
        command = [sys.executable, "-c", MEASURED, str(path), str(tmp_path / f"corpus{times}")]
        peaks.append(int(subprocess.run(command, env=environment, check=True, capture_output=True).stdout) / 1024)
    assert Manifest.read(tmp_path / "corpus30" / "manifest.json").n_sequences == 60_000
    # Ten times the input, 23 MB more.
    assert peaks[1] < peaks[0] + 8, f"{peaks} MB"
    assert peaks[1] < 256, f"{peaks} MB"


# -- real files ------------------------------------------------------------------------------------------------------


def test_thirty_real_files(tmp_path: Path, contents: Read) -> None:
    folder = os.environ.get("PLM_SCALING_TEST_DATA")
    if not folder:
        pytest.skip("PLM_SCALING_TEST_DATA is not set: no real sequences to prepare")
    paths = sorted((Path(folder) / "corpus").glob("*.fasta.gz"))
    assert len(paths) == 30
    manifest = prepare_corpus([SourceInput.from_file(path) for path in paths], tmp_path / "corpus")
    assert manifest.n_sequences == 117_659
    residues = 0
    seen: set[str] = set()
    unique = []
    for path, source in zip(paths, manifest.sources, strict=True):
        before = len(seen)
        n = 0
        with gzip.open(path, "rt") as handle:
            for chunk in handle.read()[1:].split("\n>"):
                sequence = "".join(chunk.split("\n")[1:]).replace("*", "")
                residues += len(sequence)
                n += 1
                seen.add(sequence)
        unique.append(len(seen) - before)
        assert source.sequences == n
        assert source.policy_counts.keys() <= {"X", "B", "Z", "U", "O", "stops"}
    assert [source.unique_sequences for source in manifest.sources] == unique
    assert sum(source.residues for source in manifest.sources) == residues == 46_292_977
    assert manifest.unique_tokens == sum(map(len, seen)) + len(seen)
    assert sum(source.policy_counts.get("stops", 0) for source in manifest.sources) == 9774
    assert 0.008 < manifest.splits[1].sequences / len(seen) < 0.012
    tokens = contents(tmp_path / "corpus").tokens
    assert np.count_nonzero(tokens == 2) == len(seen)
