"""`plm-scaling doctor`: is this machine ready, and how fast is it?"""

from __future__ import annotations

import click

from plm_scaling.cli.render import OutputFormat, emit

__all__ = ["command"]


@click.command("doctor")
@click.option(
    "--peak",
    is_flag=True,
    help="Measure the peak and keep it for runs' MFU; on an idle machine, 10 s.",
)
@OutputFormat
def command(output: str, peak: bool) -> None:
    """Versions, devices, measured peak of a matrix product, and whether the alphabet agrees with fair-esm's."""
    from plm_scaling import api

    machine = api.doctor(peak=peak)
    rows = [{"what": name, "found": value} for name, value in machine.lines()]
    emit(output, rows=rows, value=machine)
