"""The commands of docs/questions.md that need no files of one's own really run, and say what the page says they say."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Screen

PAGE = Path(__file__).resolve().parents[2] / "docs" / "questions.md"
BLOCK = re.compile(r"```sh\n(.*?)```", re.S)


def commands() -> list[str]:
    lines = [line.split("#")[0].strip() for block in BLOCK.findall(PAGE.read_text()) for line in block.splitlines()]
    alone = (line for line in lines if line.startswith("plm-scaling") and not re.search(r"study|/runs|\$", line))
    return list(dict.fromkeys(alone))


@pytest.fixture
def run(cli: Callable[..., Screen]) -> Callable[[str], str]:
    """What a command prints."""

    def call(line: str) -> str:
        words = shlex.split(line)
        assert words[0] == "plm-scaling"
        done = cli(*words[1:])
        assert done.code == 0, done.err
        return done.out

    return call


def test_every_command_runs(run: Callable[[str], str]) -> None:
    assert len(commands()) >= 6
    for line in commands():
        assert run(line)


def test_the_page_quotes_what_the_commands_say(run: Callable[[str], str]) -> None:
    page = PAGE.read_text()
    causes = run("plm-scaling laws causes")
    for before, after in re.findall(r"\| (\.\d{3}) -> (\.\d{3}) \|", page):
        assert f"0{before} -> 0{after}" in causes
    gpt3 = run("plm-scaling audit gpt3")
    for quoted in ("3.3x the best size", "N 53B", "D 990B", "N 41B on D 780B", "39% of", "costs 76% less", "66% of"):
        assert quoted in gpt3
    oversized = run("plm-scaling audit --params 15.5B --tokens 26.5B --objective mlm")
    assert "24% of the training compute wasted" in oversized
    assert "0.0154 nats" in oversized
    compared = run("plm-scaling laws compare --flops 1e21 porian2024-kaplan porian2024-tuned")
    assert "14.7B" in compared
    assert "3.24B" in compared
