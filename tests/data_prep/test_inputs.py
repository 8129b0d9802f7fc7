from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.inputs import InputSize, SourceInput, describe_inputs
from plm_scaling.core.errors import ConfigError, CorpusError

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("human.fasta", "human"),
        ("human.fasta.gz", "human"),
        ("x/UP000000625-E.coli.fa.zst", "UP000000625-E.coli"),
        ("a.b.FAA", "a.b"),
        ("plain", "plain"),
        ("only.gz", "only"),
        ("notes.txt", "notes.txt"),
        (".fasta", ".fasta"),
    ],
)
def test_a_file_names_its_source(file: str, name: str) -> None:
    assert SourceInput.from_file(Path(file)) == SourceInput(name, (Path(file),))


def test_sizes_in_order_of_priority(write: Write) -> None:
    a, b, c = write("12345", "a"), write("123", "b"), write("1", "c")
    inputs = [SourceInput("first", (a, b)), SourceInput("second", (b,))]
    assert describe_inputs(inputs, hold_out={"set": [c]}) == (
        InputSize("heldout_set", 1, 1),
        InputSize("first", 2, 8),
        InputSize("second", 1, 3),
    )


def test_no_inputs() -> None:
    with pytest.raises(ConfigError, match="no sequences to prepare"):
        describe_inputs([])


@pytest.mark.parametrize("name", ["", "*", "heldout_x"])
def test_reserved_names(write: Write, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a source"):
        describe_inputs([SourceInput(name, (write(">a\nA\n"),))])


def test_a_name_twice(write: Write) -> None:
    path = write(">a\nA\n")
    with pytest.raises(ConfigError, match="2 sources are called 'x'"):
        describe_inputs([SourceInput("x", (path,)), SourceInput("x", (path,))])


def test_source_without_files() -> None:
    with pytest.raises(ConfigError, match="source 'x' has no files"):
        describe_inputs([SourceInput("x", ())])


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"none\.fasta: no such file"):
        describe_inputs([SourceInput("x", (tmp_path / "none.fasta",))])
    with pytest.raises(CorpusError, match="a folder, not a file"):
        describe_inputs([SourceInput("x", (tmp_path,))])
