"""The page's code asked under node: worked examples, and questions to a page's own laws."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from plm_scaling.core.errors import ConfigError, RecordError
from plm_scaling.sizing.example_kinds import KINDS, Answer
from plm_scaling.sizing.worked_examples import ExamplesReport, answer_example, check_examples

__all__ = ["answer_under_node", "check_page", "find_node"]

_RUNNER: Final = Path(__file__).parent / "templates" / "sizing_check.js"
_SECONDS: Final = 120

Json = dict[str, Any]


def find_node() -> str:
    """The program that runs JavaScript without a browser.

    Raises
    ------
    ConfigError : there is none on PATH.
    """
    for name in ("node", "nodejs"):
        if (program := shutil.which(name)) is not None:
            return program
    raise ConfigError(
        "the page's code cannot be run: no node on PATH",
        hint="apt-get install nodejs, or leave --page out to ask the Python engine",
    )


def answer_under_node(requests: Sequence[Json], page: Path | None = None) -> list[Json]:
    """Answers to requests by the page's code: {"answer": ...} or {"error": ...} for each.

    Parameters
    ----------
    requests : {"kind", "inputs"} of a worked example, or {"question": ...} to the laws of `page`, whose missing fields
        are those the page opens with.
    page : a sizing page, whose embedded code and laws answer; None for the code this package ships.

    Raises
    ------
    ConfigError : no node on PATH.
    RecordError : the page is not one of ours, or its code does not run.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "requests.json"
        asked.write_text(json.dumps({"requests": list(requests)}, allow_nan=False), encoding="utf-8")
        words = [find_node(), str(_RUNNER), str(asked), *([str(page)] if page else [])]
        done = subprocess.run(words, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode != 0:
        last = [line for line in done.stderr.splitlines() if "Error" in line]
        raise RecordError(
            "the page's code does not run under node",
            where=str(page or _RUNNER.parent),
            why=last[0] if last else f"exit code {done.returncode}",
            hint="write the page again: plm-scaling size --page -o sizing.html",
        )
    found: list[Json] = json.loads(done.stdout)
    return found


def check_page(examples: Path | str, page: Path | None = None) -> ExamplesReport:
    """`check_examples` with the page's code under node in the engine's place: the same file, report and tolerances.

    Raises
    ------
    ConfigError : a file that `check_examples` cannot read or ask, or no node on PATH.
    RecordError : `page` is given and is not one of ours.
    """
    find_node()
    requests: list[Json] = []

    def collect(kind: str, inputs: Mapping[str, Any], *, where: str = "") -> Answer:
        # The engine knows which inputs cannot be asked, and says so.
        if kind not in KINDS:
            answer_example(kind, inputs, where=where)
        requests.append({"kind": kind, "inputs": dict(inputs), "where": where})
        return {}

    check_examples(examples, collect)
    answers = iter(answer_under_node([{k: v for k, v in one.items() if k != "where"} for one in requests], page))

    def answered(kind: str, inputs: Mapping[str, Any], *, where: str = "") -> Answer:
        found = next(answers)
        if "error" in found:
            answer_example(kind, inputs, where=where)
            raise ConfigError(str(found["error"]), where=where)
        answer: Answer = {key: value for key, value in found["answer"].items() if value is not None}
        return answer

    return check_examples(examples, answered)
