"""The commands of docs/stories.md run in order in an empty folder, and print what the page quotes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import Screen

PAGE = Path(__file__).resolve().parents[2] / "docs" / "stories.md"
BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```", re.S | re.M)
OURS = re.compile(r"plm-scaling [^|>&;$]+$")
REFUSED = "# exit code 4"


class Step(NamedTuple):
    """A block of commands and what the page quotes of its output."""

    script: str
    quoted: str


def stories() -> list[list[Step]]:
    """Steps that need no files of one's own, by story."""
    found = []
    for story in PAGE.read_text().split("\n## ")[1:]:
        blocks = BLOCK.findall(story)
        after = [*blocks[1:], ("", "")]
        found.append(
            [
                Step(text, follows[1] if follows[0] == "text" else "")
                for (kind, text), follows in zip(blocks, after, strict=True)
                if kind == "sh" and not text.startswith("# needs")
            ]
        )
    return found


def pieces(script: str) -> list[str]:
    """Commands of ours that stand alone on their lines, and the rest between them."""
    found: list[str] = []
    for line in script.splitlines(keepends=True):
        if OURS.match(line) or not found or OURS.match(found[-1]):
            found.append("")
        found[-1] += line
    return found


@pytest.fixture
def run(cli: Callable[..., Screen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Step], str]:
    """What commands print in an empty folder: ours in this process, which has them imported; the rest in a shell."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")

    def call(step: Step) -> str:
        wanted, said = 4 if step.script.startswith(REFUSED) else 0, ""
        for piece in pieces(step.script):
            assert OURS.match(piece) or "plm-scaling" not in piece, f"not a command alone on its line: {piece}"
            if OURS.match(piece):
                done = cli(*shlex.split(piece, comments=True)[1:])
                assert done.code == wanted, f"{piece}\n{done.err}"
                said += done.out + done.err
            else:
                shell = subprocess.run(["bash", "-e", "-c", piece], capture_output=True, text=True)
                assert shell.returncode == 0, f"{piece}\n{shell.stderr}"
                said += shell.stdout + shell.stderr
        return said

    return call


def without_spaces(line: str) -> str:
    return " ".join(line.split())


@pytest.mark.slow
@pytest.mark.parametrize("at", range(3))
def test_a_story_runs_and_its_numbers_are_as_printed(at: int, run: Callable[[Step], str]) -> None:
    steps = stories()[at]
    assert len(steps) >= 3
    for step in steps:
        if "mmseqs" in step.script and shutil.which("mmseqs") is None:
            continue
        printed = [without_spaces(line) for line in run(step).splitlines()]
        for line in map(without_spaces, step.quoted.splitlines()):
            start, cut = line.removesuffix(" ..."), line.endswith(" ...")
            found = any(one.startswith(start) if cut else one == line for one in printed)
            assert found, f"{line}\nis not in\n" + "\n".join(printed)
