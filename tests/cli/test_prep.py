from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.pipeline import Progress
from plm_scaling.cli import prep_files
from plm_scaling.corpus.format import Manifest

Cli = Callable[..., Any]
FilesOf = Callable[[Path], dict[str, tuple[int, int]]]

SCREEN = """\
source       sequences  residues  tokens  unique tokens  repeated tokens  repeated %
heldout_lab        150     10606   10756          10756                0           0
known              310     21380   21690          20196             1494        6.89
"""


def test_a_corpus_is_told_by_its_exact_counts(
    cli: Cli, fasta: Path, tmp_path: Path, masked: Callable[..., str]
) -> None:
    screen = cli("prep", fasta / "known.fasta", "--hold-out", f"lab={fasta / 'meta.fasta'}", "-o", tmp_path / "c")
    assert (screen.code, masked(screen.out)) == (0, SCREEN)
    splits, doubt, flagged, corpus_id, following = masked(screen.err).splitlines()
    # 300 distinct sequences, 10 of them in the held-out file as well: those leave training.
    assert splits == (
        "splits (unique): train 288 sequences / 20,098 tokens, val_iid 2 sequences / 98 tokens, "
        "heldout_lab 150 sequences / 10,756 tokens"
    )
    assert corpus_id == "corpus id ID"
    assert doubt.startswith("note: no clusters: near-duplicates cross the random split val_iid")
    assert flagged.startswith("flagged sequences: ")
    assert following.startswith(f"next: plm-scaling prep stats {tmp_path / 'c'}")
    again = cli("prep", "stats", tmp_path / "c")
    assert again.code == 0
    assert re.search(r"heldout_lab +150 +10,756", again.out)
    assert re.search(r"val_iid +2 +98", again.out)
    check = cli("prep", "verify", tmp_path / "c")
    assert check.code == 0
    assert "as the manifest says" in check.out


def test_what_normalisation_did_is_counted(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.fasta").write_text(">1\nMKvJLLAWGSTX*\n>2\nMKV-LLAWGSTU\n>3\nMMMMWWLLKKVVS\n")
    screen = cli("prep", tmp_path / "a.fasta", "-o", tmp_path / "c")
    assert screen.code == 0
    (line,) = (line for line in screen.err.splitlines() if line.startswith("normalised: "))
    assert line == "normalised: J_as_X 1, U 1, X 1, gaps 1, lower_case 1, stops 1"


@pytest.mark.parametrize("output", ["json", "csv"])
def test_counts_for_programs(cli: Cli, corpus: Path, output: str) -> None:
    screen = cli("prep", "stats", corpus, "--format", output)
    assert screen.code == 0
    assert screen.err.startswith("note: The corpus was prepared without clusters")
    manifest = Manifest.read(corpus / "manifest.json")
    if output == "json":
        assert json.loads(screen.out)["corpus_id"] == manifest.content_hash()
    else:
        header, *lines = screen.out.splitlines()
        assert header.startswith("name,sequences,")
        assert [line.split(",")[:2] for line in lines[:-1]] == [[s.name, str(s.sequences)] for s in manifest.sources]


def test_files_of_one_name_are_one_source(cli: Cli, fasta: Path, tmp_path: Path) -> None:
    words = (f"all={fasta / 'known.fasta'}", f"all={fasta / 'meta.fasta'}")
    screen = cli("prep", *words, "-o", tmp_path / "c", "--format", "json")
    (source,) = json.loads(screen.out)["sources"]
    assert (source["name"], source["sequences"], source["duplicate_sequences"]) == ("all", 460, 20)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("uniref50.fasta.gz", "uniref50"),
        ("a.b.faa", "a.b"),
        ("x.fa", "x"),
        ("stats", "stats"),
        ("my.fabulous.fasta", "my.fabulous"),
    ],
)
def test_a_source_is_named_after_its_file(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(">1\nMKVLLAWGS\n")
    screen = cli("prep", f"./{name}", "-o", "c", "--dry-run", "--format", "json")
    assert [row["source"] for row in json.loads(screen.out)] == [source]


def test_a_dry_run_lists_the_files_and_writes_nothing(
    cli: Cli, fasta: Path, corpus: Path, tmp_path: Path, files_of: FilesOf
) -> None:
    out = tmp_path / "c"
    words = (fasta / "known.fasta", f"m={fasta / 'meta.fasta'}", "--hold-out", fasta / "meta.fasta", "-o", out)
    before = files_of(fasta)
    human = cli("prep", *words, "-n")
    assert human.code == 0
    assert human.out.startswith(f"would prepare {out}")
    rows = json.loads(cli("prep", *words, "-n", "--format", "json").out)
    assert [(row["source"], row["role"]) for row in rows] == [("meta", "hold-out"), ("known", "train"), ("m", "train")]
    assert rows[1]["bytes"] == (fasta / "known.fasta").stat().st_size
    assert not out.exists()
    assert files_of(fasta) == before


def test_a_corpus_is_replaced_only_if_asked(cli: Cli, fasta: Path, tmp_path: Path, files_of: FilesOf) -> None:
    out = tmp_path / "c"
    assert cli("prep", fasta / "known.fasta", "-o", out).code == 0
    before = files_of(out)
    refused = cli("prep", fasta / "meta.fasta", "-o", out)
    assert refused.code != 0
    assert str(out) in refused.err
    assert "overwrite" in refused.err
    assert files_of(out) == before
    assert cli("prep", fasta / "meta.fasta", "-o", out, "--overwrite").code == 0
    assert [source.name for source in Manifest.read(out / "manifest.json").sources] == ["meta"]


def test_a_file_that_is_not_there_is_a_usage_error(cli: Cli, tmp_path: Path) -> None:
    screen = cli("prep", f"known={tmp_path / 'no.fasta'}", "-o", tmp_path / "c")
    assert screen.code == 2
    assert f"{tmp_path / 'no.fasta'}: no such file" in screen.err
    assert "NAME=FILE" in screen.err
    assert cli("prep", "-o", tmp_path / "c").code == 2
    assert cli("prep", "stats", tmp_path / "c").code == 1
    assert not (tmp_path / "c").exists()


def test_bad_input_names_file_and_line_and_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    bad = tmp_path / "in" / "bad.fasta"
    bad.parent.mkdir()
    bad.write_text(">1\nMKVLLAWGS\n>2\nMK7LLAWGS\n")
    screen = cli("prep", bad, "-o", tmp_path / "c")
    assert screen.code == 1
    assert f"{bad}:4" in screen.err
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("kind", ["shards", "index"])
def test_verify_finds_a_single_changed_byte(cli: Cli, fasta: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "c"
    cli("prep", fasta / "meta.fasta", "-o", out)
    (file,) = (out / kind).iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    screen = cli("prep", "verify", out)
    assert screen.code == 1
    assert f"{kind}/{file.name}" in screen.out
    file.unlink()
    assert cli("prep", "verify", out).code == 1


def test_simulate_writes_two_sources_of_the_size_asked_for(cli: Cli, tmp_path: Path) -> None:
    screen = cli("prep", "simulate", "-o", tmp_path / "s", "--residues", "60k", "--seed", "5")
    assert screen.code == 0
    names = {path.name for path in (tmp_path / "s").iterdir()}
    assert names == {"uniref_like.fasta", "metagenome_like.fasta", "truth.json"}
    letters = 0
    for name in ("uniref_like", "metagenome_like"):
        text = (tmp_path / "s" / f"{name}.fasta").read_text()
        letters += sum(len(line) for line in text.splitlines() if not line.startswith(">"))
        assert f"{tmp_path / 's'}/{name}.fasta" in screen.err  # in the command that comes next
    assert letters == pytest.approx(60_000, rel=0.1)


def test_simulate_needs_a_number(cli: Cli, tmp_path: Path) -> None:
    screen = cli("prep", "simulate", "-o", tmp_path / "s", "--residues", "many")
    assert screen.code == 2
    assert "--residues" in screen.err
    assert not (tmp_path / "s").exists()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_only(
    cli: Cli, fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "\r" not in cli("prep", fasta / "meta.fasta", "-o", tmp_path / "a").err
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    show = prep_files._progress()
    show(Progress(bytes_done=250, bytes_total=1_000, sequences=1_234))
    assert terminal.getvalue() == "\rreading     25.0 %  1.23k sequences   "
