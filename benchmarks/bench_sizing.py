"""The decision, the command and the page: how long, and how large.

    python benchmarks/bench_sizing.py [--quick] [--json]

The laws are the shipped fits with their draws drawn again and shaken by one part in a thousand, until four forms have
2,000 each. Nothing is timed against a limit here; figures belong in `benchmarks/RESULTS.md`.

- `engine_s`: one decision over 2,000 draws x 4 forms with repeated tokens, warm; `engine_fresh_s`: without repeats.
- `engine_first_s`: the first such decision of a process.
- `cli_s`: `plm-scaling size --laws FIT` as a command, from start to end, FIT holding 2,000 draws x 4 forms;
  `cli_default_s`: the same on the shipped laws; `cli_help_s`: `--help`, which is what starting alone takes;
  `numpy_s`: `import numpy`, by which machines and hours compare. Compiled modules lie ready, as after a first call.
- `page_bytes`: the offline sizing page with the shipped laws of both objectives; absent where there is no page.

Every time is a median; `spread` holds the least and the largest value. `cpu_NAME` is the CPU time, all threads and
processes together, of what NAME is the wall time of: a busy machine stretches the one and hardly the other.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

DRAWS: Final = 2000
FORMS: Final = 4
WORDS: Final = ("size", "--flops", "2.5e21", "--unique-tokens", "15e9", "--objective", "mlm")
COMMAND: Final = "import sys; from plm_scaling.cli.main import main; sys.exit(main())"


def large_fit(objective: str = "mlm") -> Any:
    """The shipped fit with `FORMS` forms of `DRAWS` draws each."""
    import numpy as np

    from plm_scaling.sizing.default_laws import published_fit

    fit, random = published_fit(objective), np.random.default_rng(0)

    def grown(surface: Any) -> Any:
        draws = np.array(surface.draws)[random.integers(0, len(surface.draws), DRAWS)]
        shaken = draws * (1.0 + 1e-3 * random.standard_normal(draws.shape))
        return surface.model_copy(update={"draws": tuple(map(tuple, shaken.tolist()))})

    held = [score for score in fit.forms if score.surface][:FORMS]
    forms = tuple(score.model_copy(update={"surface": grown(score.surface)}) for score in held)
    return fit.model_copy(update={"forms": forms, "surface": forms[0].surface})


def cpu_seconds() -> float:
    """CPU time of this process, its threads, and the processes it has waited for."""
    return sum(os.times()[:4])


def timed(name: str, call: Callable[[], Any], rounds: int) -> dict[str, list[float]]:
    """Wall and CPU seconds of every round."""
    found: dict[str, list[float]] = {name: [], f"cpu_{name}": []}
    for _ in range(rounds):
        start, cpu = time.perf_counter(), cpu_seconds()
        call()
        found[name].append(time.perf_counter() - start)
        found[f"cpu_{name}"].append(cpu_seconds() - cpu)
    return found


def run_python(words: Sequence[str]) -> None:
    """`python -c` in a process of its own that keeps the modules it compiles, whatever the shell says."""
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", *words], check=True, capture_output=True, env=surroundings)


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """All figures, times as lists."""
    from plm_scaling.sizing.decision import decide
    from plm_scaling.sizing.law_ensemble import ensemble_of_fit

    fit = large_fit()
    path = fit.write(folder / "fit-mlm.json")
    ensemble = ensemble_of_fit(fit)
    found: dict[str, Any] = {"draws": len(ensemble.draw_weights), "forms": len(ensemble.members)}
    found |= timed("engine_first_s", lambda: decide(ensemble, 2.5e21, unique_tokens=15e9), 1)
    found |= timed("engine_s", lambda: decide(ensemble, 2.5e21, unique_tokens=15e9), 3 * rounds)
    found |= timed("engine_fresh_s", lambda: decide(ensemble, 2.5e21), 3 * rounds)
    commands = {"cli_s": (*WORDS, "--laws", str(path)), "cli_default_s": WORDS, "cli_help_s": ("--help",)}
    lines = {name: (COMMAND, *words) for name, words in commands.items()} | {"numpy_s": ("import numpy",)}
    for name, words in lines.items():
        run_python(words)  # compiles what was edited since
        found |= timed(name, lambda words=words: run_python(words), rounds)
    if (size := page_bytes()) is not None:
        found["page_bytes"] = size
    return found


def page_bytes() -> int | None:
    """Size of the offline page; None where this release has none."""
    try:
        from plm_scaling.reporting.page_laws import laws_for_page
        from plm_scaling.reporting.sizing_page import render_sizing_page
    except ImportError:
        return None
    return len(render_sizing_page(laws_for_page()).encode())


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Medians, and the spread beside them."""
    plain = {name: round(statistics.median(v), 4) if isinstance(v, list) else v for name, v in found.items()}
    spread = {name: [round(min(v), 4), round(max(v), 4)] for name, v in found.items() if isinstance(v, list)}
    return {**plain, "spread": spread}


def main() -> None:
    """Measure in a temporary folder and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="five rounds of each command instead of fifteen")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = summary(measure(Path(folder), 5 if given.quick else 15))
    if given.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        low, high = result["spread"].get(name, ("", ""))
        if name != "spread":
            print(f"{name:18} {value:>10} {f'{low} to {high}' if low != '' else ''}")


if __name__ == "__main__":
    main()
