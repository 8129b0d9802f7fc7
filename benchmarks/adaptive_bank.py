"""A bank of small runs on the simulated corpus that designs of a sweep can draw from: every cell with several seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Final

BUDGETS: Final = (1e10, 2e10, 4e10, 8e10, 3.2e11)
"""Exact training FLOPs; the last is what the smaller ones are asked about."""
SIZES: Final = (
    ("1x8", "1x16", "2x16", "2x32"),
    ("1x12", "2x16", "2x24", "2x40"),
    ("1x12", "1x16", "2x16", "2x24", "2x32", "2x48"),
    ("1x16", "2x16", "2x24", "2x32", "2x40", "2x48"),
    ("2x24", "2x32", "2x40", "2x64"),
)
"""Of every budget, smallest first; chosen from the optima of an earlier demo."""
SEEDS: Final = (0, 1, 2)

_HEAD: Final = """\
name = "bank"
objectives = ["clm"]
context = 128
currency = "C_exact"
batch_tokens = 512
dtype = "fp32"
validation_tokens = 120_000
validation_points = 1
seeds = {seeds}
"""
_ARM: Final = """
[[isoflop]]
C = {C}
sizes = {sizes}
"""


def make_bank(folder: Path, workers: int) -> None:
    """Simulate a corpus, prepare it and train every cell; goes on where it was stopped."""
    from plm_scaling import api

    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "corpus" / "manifest.json").exists():
        api.simulate(folder / "fasta", seed=0)
        names = ("uniref_like", "metagenome_like")
        api.prep({name: [folder / "fasta" / f"{name}.fasta"] for name in names}, folder / "corpus", overwrite=True)
    arms = (_ARM.format(C=C, sizes=list(sizes)) for C, sizes in zip(BUDGETS, SIZES, strict=True))
    spec = folder / "sweep.toml"
    spec.write_text(_HEAD.format(seeds=list(SEEDS)) + "".join(arms).replace("'", '"'))
    api.plan(spec, folder / "plan.json", corpus=folder / "corpus")
    api.run(folder / "plan.json", workers=workers)
