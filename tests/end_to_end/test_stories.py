"""The commands of docs/stories.md run in order in an empty folder, and print what the page quotes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "stories.md"
BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```", re.S | re.M)
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


def run(step: Step, folder: Path) -> str:
    """What the commands print. The console script of this environment stands first on the PATH."""
    shim = folder / "bin" / "plm-scaling"
    shim.parent.mkdir(exist_ok=True)
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from plm_scaling.cli.main import main; main()" "$@"\n')
    shim.chmod(0o755)
    path = f"{shim.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-c", step.script], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == (4 if step.script.startswith(REFUSED) else 0), f"{step.script}\n{done.stderr}"
    return done.stdout + done.stderr


def without_spaces(line: str) -> str:
    return " ".join(line.split())


@pytest.mark.slow
@pytest.mark.parametrize("at", range(3))
def test_a_story_runs_and_its_numbers_are_as_printed(at: int, tmp_path: Path) -> None:
    steps = stories()[at]
    assert len(steps) >= 3
    for step in steps:
        if "mmseqs" in step.script and shutil.which("mmseqs") is None:
            continue
        printed = [without_spaces(line) for line in run(step, tmp_path).splitlines()]
        for line in map(without_spaces, step.quoted.splitlines()):
            start, cut = line.removesuffix(" ..."), line.endswith(" ...")
            found = any(one.startswith(start) if cut else one == line for one in printed)
            assert found, f"{line}\nis not in\n" + "\n".join(printed)
