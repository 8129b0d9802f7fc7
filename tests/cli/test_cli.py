from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from plm_scaling.cli.main import VERBS, verbs
from plm_scaling.sizing.default_laws import published_fit

ROOT = Path(__file__).resolve().parents[2]
Cli = Callable[..., Any]


def test_help_lists_every_verb_in_the_order_of_the_path(cli: Cli) -> None:
    screen = cli("--help")
    places = [screen.out.index(f"\n  {verb} ") for verb in VERBS]
    assert screen.code == 0
    assert places == sorted(places)


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_has_help_with_its_purpose(cli: Cli, verb: str) -> None:
    screen = cli(verb, "--help")
    assert screen.code == 0
    assert "Usage: plm-scaling" in screen.out


@pytest.mark.parametrize("verb", list(VERBS))
def test_verbs_that_write_have_a_dry_run(verb: str) -> None:
    command = importlib.import_module(f"plm_scaling.cli.cmd_{verb}").command
    writes = {"demo", "import", "plan", "run", "ledger", "fit", "predict", "transfer", "report"}
    options = {option for parameter in command.params for option in parameter.opts}
    assert ("--dry-run" in options) == (verb in writes)


def test_unknown_verb_is_a_usage_error(cli: Cli) -> None:
    screen = cli("trane")
    assert screen.code == 2
    assert "trane" in screen.err


def test_known_errors_become_a_message_and_their_exit_code(cli: Cli, tmp_path: Path) -> None:
    empty = tmp_path / "empty.fasta"
    empty.touch()
    screen = cli("prep", empty, "-o", tmp_path / "corpus")
    assert screen.code == 1
    assert screen.err.startswith("error: ")
    assert "empty.fasta" in screen.err
    assert not (tmp_path / "corpus").exists()


def test_a_misspelt_key_names_file_line_and_the_right_key(cli: Cli, tmp_path: Path) -> None:
    spec = tmp_path / "sweep.toml"
    spec.write_text('name = "x"\ncorpus = "corpus"\n\n[[isoflop]]\nC = 1e11\nsize = ["2x16"]\n')
    screen = cli("plan", spec)
    assert screen.code == 2
    assert "sweep.toml:6" in screen.err
    assert "did you mean sizes?" in screen.err


def test_cli_page_has_not_drifted() -> None:
    file = ROOT / "docs" / "make_cli_md.py"
    spec = importlib.util.spec_from_file_location("make_cli_md", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "cli.md").read_text() == module.cli_markdown(), "out of date: make docs"


def test_every_option_is_explained() -> None:
    context = click.Context(verbs)
    for verb in VERBS:
        command = verbs.get_command(context, verb)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name not in ("help", "seed", "objective"):
                assert parameter.help or parameter.show_default, (verb, parameter.name)


def test_size_answers_in_every_format(cli: Cli) -> None:
    words = ("size", "--gpu-hours", "5000", "--gpu", "a100", "--unique-tokens", "15e9", "--objective", "mlm")
    human, as_json, as_csv = (cli(*words, "--format", f) for f in ("human", "json", "csv"))
    assert human.code == as_json.code == as_csv.code == 0
    value = json.loads(as_json.out)
    assert value["objective"] == "mlm"
    assert value["N_low"] <= value["N"] <= value["N_high"]
    assert as_csv.out.startswith("law,")
    assert "what each law says" in human.out


def test_size_says_what_another_size_would_lose(cli: Cli) -> None:
    screen = cli("size", "--flops", "1e21", "--objective", "clm")
    assert screen.code == 0
    assert "\nTrain 1." in screen.out
    assert "variance: parameters" in screen.out
    assert "twice as large" in screen.out
    assert "kg CO2" in screen.out
    assert "cheng-clm" in screen.out


def test_size_answers_from_the_laws_it_is_given(cli: Cli, tmp_path: Path) -> None:
    words = ("size", "--flops", "1e21", "--objective", "mlm", "--format", "json")
    frontier = json.loads(cli(*words, "--laws", "zoo:cheng-mlm").out)
    assert frontier["decision"] is None
    assert frontier["N"] == pytest.approx(6.19e-8 * 1e21**0.776)
    path = published_fit("mlm").write(tmp_path / "fit.json")
    several = json.loads(cli(*words, "--laws", str(path), "--laws", "zoo:cheng-mlm").out)
    assert several["decision"]["objective"] == "mlm"
    assert {law["law_id"] for law in several["answers"]} >= {"own-mlm-forms", "cheng-mlm"}
    wrong = cli(*words, "--laws", "zoo:cheng-mlmm")
    assert wrong.code == 2
    assert "cheng-mlm" in wrong.err
    refused = cli("size", "--flops", "1e23", "--objective", "mlm")
    assert refused.code == 4


def test_size_needs_one_budget(cli: Cli) -> None:
    assert cli("size", "--objective", "mlm").code == 2
    assert cli("size", "--objective", "mlm", "--usd", "1e4", "--flops", "1e20").code == 2


def test_size_reads_quantities_with_units(cli: Cli) -> None:
    screen = cli("size", "--flops", "12 bananas", "--objective", "clm")
    assert screen.code == 2
    assert "--flops" in screen.err
    assert "15e9" in screen.err
