from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.pipeline import PrepSpec, SourceInput, prepare_corpus
from data_prep.verify import verify_corpus
from plm_scaling.core.files import sha256_file
from plm_scaling.corpus.format import FileEntry, Manifest


@pytest.fixture
def corpus(tmp_path: Path, write: Callable[..., Path], make_fasta: Callable[..., str]) -> Path:
    text = make_fasta(100)
    inputs = [
        SourceInput("x", (write(text, "x.fa"),)),
        SourceInput("y", (write(text, "y.fa"), write(make_fasta(9, 5)))),
    ]
    prepare_corpus(inputs, tmp_path / "corpus", PrepSpec(val_share=0.1))
    return tmp_path / "corpus"


def test_whole_corpus_has_no_problems(corpus: Path) -> None:
    assert verify_corpus(corpus) == []


def test_no_manifest(tmp_path: Path) -> None:
    [problem] = verify_corpus(tmp_path)
    assert "no Manifest here" in problem


def test_missing_short_and_changed_files(corpus: Path) -> None:
    shard, index = corpus / "shards/000000.bin", corpus / "index/000000.parquet"
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)
    index.write_bytes(index.read_bytes()[:-1])
    changed, short = verify_corpus(corpus)
    assert changed == "shards/000000.bin: its content is not what was written (SHA-256 differs)"
    assert short.startswith("index/000000.parquet: ")
    assert "bytes, the manifest says" in short
    shard.unlink()
    assert verify_corpus(corpus)[0] == "shards/000000.bin: missing"


@pytest.mark.parametrize(
    "field",
    ["sequences", "residues", "tokens", "unique_sequences", "unique_tokens", "duplicate_sequences", "duplicate_tokens"],
)
def test_every_count_of_a_source_is_checked(corpus: Path, field: str) -> None:
    manifest = Manifest.read(corpus / "manifest.json")
    source = manifest.sources[1]
    wrong = source.model_copy(update={field: getattr(source, field) + 1})
    manifest.model_copy(update={"sources": (manifest.sources[0], wrong)}).write(corpus / "manifest.json")
    problems = verify_corpus(corpus)
    assert any(problem.startswith("source y: ") and field.replace("_", " ") in problem for problem in problems)


@pytest.mark.parametrize("field", ["sequences", "tokens"])
def test_every_count_of_a_split_is_checked(corpus: Path, field: str) -> None:
    manifest = Manifest.read(corpus / "manifest.json")
    split = manifest.splits[1]
    wrong = split.model_copy(update={field: getattr(split, field) + 1})
    manifest.model_copy(update={"splits": (manifest.splits[0], wrong)}).write(corpus / "manifest.json")
    [problem] = verify_corpus(corpus)
    assert problem.startswith(f"split val_iid: {getattr(split, field)} {field} in the index")


def test_tokens_without_a_row_are_noticed(corpus: Path) -> None:
    shard = corpus / "shards/000000.bin"
    shard.write_bytes(shard.read_bytes() + b"\2")
    manifest = Manifest.read(corpus / "manifest.json")
    entry = FileEntry(name="shards/000000.bin", bytes=shard.stat().st_size, sha256=sha256_file(shard))
    manifest.model_copy(update={"shards": (entry,)}).write(corpus / "manifest.json")
    [problem] = verify_corpus(corpus)
    assert "tokens are stored" in problem
