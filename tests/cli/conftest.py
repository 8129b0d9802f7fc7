from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest


@dataclass
class Screen:
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Screen]:
    """Run `plm-scaling` with these words in this process; its exit code and what it printed."""

    def call(*words: object) -> Screen:
        from plm_scaling.cli.main import main

        monkeypatch.setattr(sys, "argv", ["plm-scaling", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        return Screen(int(stop.value.code or 0), printed.out, printed.err)

    return call
