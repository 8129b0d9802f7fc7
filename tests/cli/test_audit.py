from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Cli = Callable[..., Any]


def test_without_a_model_all_published_ones_are_audited(cli: Cli) -> None:
    screen, again = cli("audit"), cli("audit", "--all")
    assert screen.code == 0
    assert screen.out == again.out
    lines = screen.out.splitlines()
    assert lines[0].split()[:5] == ["model", "objective", "N", "D", "law"]
    first = next(line for line in lines if line.startswith("esm2-650m"))
    assert first.split()[:8] == ["esm2-650m", "mlm", "649M", "1T", "cheng2024-fits-mlm", "2.1B", "0.31", "too"]
    assert "860B?" in next(line for line in lines if line.startswith("esm2-15b"))
    assert "refused" in next(line for line in lines if line.startswith("cheng-7b"))
    assert "cannot be ranked" in screen.err


def test_one_model_with_every_law_and_doubt(cli: Cli) -> None:
    screen = cli("audit", "gopher", "--laws", "zoo:besiroglu2024", "--force")
    assert screen.code == 0
    assert "too large, 4.1x the best size" in screen.out
    assert "N 68B (band 25B to 180B) on D 1.2T" in screen.out
    assert "50% of the training compute wasted; serving it costs 83% less" in screen.out
    assert "above the compute of its runs" in screen.err


def test_a_refusal_is_an_answer_with_its_own_exit_code(cli: Cli) -> None:
    screen = cli("audit", "gopher", "--laws", "besiroglu2024")
    assert screen.code == 4
    assert "1.6 decades above" in screen.out
    assert "--force" in screen.out


def test_numbers_for_programs(cli: Cli) -> None:
    words = ("audit", "--params", "175B", "--tokens", "300B", "--objective", "text", "--laws", "zoo:besiroglu2024")
    value = json.loads(cli(*words, "--format", "json").out)
    line = value["audits"][0]["lines"][0]
    assert line["size_factor"] > 3
    (row,) = csv.DictReader(io.StringIO(cli(*words, "--format", "csv").out))
    assert float(row["wasted"]) == line["wasted"]
    assert float(row["N"]) == 175e9


def test_tokens_nobody_stated_are_unknown(cli: Cli) -> None:
    screen = cli("audit", "progen2-base")
    assert screen.code == 0
    assert "training tokens unknown" in screen.out
    assert "tokens that fit its size" in screen.out
    assert "--tokens" in screen.err


def test_a_run_of_ones_own(cli: Cli, study: Path) -> None:
    run = next(path for path in sorted((study / "runs").iterdir()) if (path / "record.json").is_file())
    screen = cli("audit", run, "--format", "json")
    assert screen.code == 4  # far below every published law
    (audit,) = json.loads(screen.out)["audits"]
    record = json.loads((run / "record.json").read_text())
    assert (audit["model"], audit["D"], audit["tokens_status"]) == (run.name, record["D"], "own run")
    assert audit["C"] == record["C_6nd"]
    assert cli("audit", run, "--force").code == 0


def test_all_and_one_contradict_each_other(cli: Cli) -> None:
    assert cli("audit", "esm2-8m", "--all").code == 2
