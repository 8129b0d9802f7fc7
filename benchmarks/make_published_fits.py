"""Fit the released logs of Cheng et al. 2024 and write the laws that `size` starts from.

    python benchmarks/make_published_fits.py LOGS [--out plm_scaling/sizing/published_fits]

LOGS is the folder, .zip or .tar.gz of the logs. The same as `plm-scaling import cheng2024 LOGS -o runs.csv` and
`plm-scaling fit runs.csv --objective clm|mlm --form auto`, then thinned by `plm_scaling.sizing.default_laws.shipped`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from plm_scaling import api
from plm_scaling.sizing.default_laws import shipped


def make(logs: Path, out: Path) -> list[Path]:
    """Both objectives' fits; returns the files written."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "runs.csv"
        api.import_runs("cheng2024", logs, out=table)
        fits = {objective: api.fit(table, objective=objective, form="auto") for objective in ("clm", "mlm")}
    out.mkdir(parents=True, exist_ok=True)
    return [shipped(fit).write(out / f"{objective}.json") for objective, fit in fits.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path)
    default = Path(__file__).parents[1] / "plm_scaling" / "sizing" / "published_fits"
    parser.add_argument("--out", type=Path, default=default)
    args = parser.parse_args()
    for path in make(args.logs, args.out):
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
