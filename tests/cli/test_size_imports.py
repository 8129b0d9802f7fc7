"""What a command imports is most of its time: nothing that its answer does not need."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

LIBRARIES: Final = ("torch", "scipy", "pandas", "pyarrow", "datasets", "matplotlib", "rich", "ssl", "asyncio")
"""None of the answers from published laws needs one."""
PARTS: Final = ("numpy.random", "numpy.ma", "numpy.fft", "numpy.polynomial", "numpy.testing", "numpy.f2py")
OURS: Final = tuple(
    f"plm_scaling.{name}"
    for name in ("reporting", "sweeps", "training", "transfers", "execution", "corpus", "models", "evals.baselines")
)
FITTING: Final = tuple(f"plm_scaling.laws.{name}" for name in ("fit", "problem", "select", "newton", "repeat_search"))
VERBS: Final = {
    "size": ("size", "--flops", "2.5e21", "--unique-tokens", "15e9", "--objective", "mlm"),
    "audit": ("audit", "esm2-650m"),
    "spend": ("spend", "--flops", "2.5e21", "--objective", "mlm", "--no-pilots"),
}
NEEDED: Final = {"spend": {"numpy.random", "numpy.ma", "plm_scaling.transfers", "plm_scaling.evals.baselines"}}
"""It draws what no run has told, converts transfers, and knows what metrics there are."""
CODE: Final = """
import sys
from plm_scaling.cli.main import main
try: main()
except SystemExit as end: assert not end.code, end.code
print(*sorted(sys.modules), sep="\\n", file=sys.stderr)
"""


@pytest.mark.parametrize("verb", VERBS)
def test_an_answer_imports_what_it_needs(verb: str) -> None:
    done = subprocess.run([sys.executable, "-c", CODE, *VERBS[verb]], capture_output=True, text=True, check=True)
    imported = set(done.stderr.splitlines())
    assert {"numpy", "plm_scaling.laws.law_fit", "plm_scaling.sizing.law_ensemble"} <= imported
    unwanted = {*LIBRARIES, *PARTS, *OURS, *FITTING} - NEEDED.get(verb, set())
    assert sorted(imported & unwanted) == []
