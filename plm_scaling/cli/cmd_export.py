"""`plm-scaling export`: weights for other libraries."""

from __future__ import annotations

from pathlib import Path

import click

from plm_scaling.cli.render import OutputFormat, emit, warn

__all__ = ["command"]


@click.command("export", epilog="Example: plm-scaling export study/runs/1a2b3c4d5e6f -o my-esm2")
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--overwrite", is_flag=True, help="Write into a folder that is not empty.")
@click.option(
    "--memorisation",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Report of `evaluate memorisation` about these weights, to lie beside them.",
)
@click.option("--without-memorisation", is_flag=True, help="Export fine-tuned weights that have no such report.")
@OutputFormat
def command(
    source: Path, out: Path, overwrite: bool, memorisation: Path | None, without_memorisation: bool, output: str
) -> None:
    """Write the weights of SOURCE (a complete run of esm2 or progen2) as a folder that transformers loads.

    esm2 becomes EsmForMaskedLM, progen2 GPTJForCausalLM. The study's own block (plm) exists nowhere else and is
    refused. Weights that were trained on from others need a report of what they give away of the sequences they saw
    (--memorisation), or the word that none is wanted (--without-memorisation).
    """
    from plm_scaling import api

    made = api.export(
        source, out, overwrite=overwrite, memorisation=memorisation, without_memorisation=without_memorisation
    )
    row = {"folder": str(made.folder), "loads_as": made.loads_as, "parameters": made.N_total, "weights": made.source}
    emit(output, rows=[row])
    for warning in made.warnings:
        warn(warning)
