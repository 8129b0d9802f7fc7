"""`--on` and `--slurm`: where the work of a verb is done, the same for all verbs that can be carried out as jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from plm_scaling.core.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from plm_scaling.execution.slurm_options import SlurmOptions

__all__ = ["On", "Slurm", "slurm_options"]

On = click.option("--on", "place", type=click.Choice(["local", "slurm"]), default="local", show_default=True)
Slurm = click.option("--slurm", multiple=True, metavar="KEY=VALUE", help="partition=cpu, minutes=120, memory=8G, ...")


def slurm_options(place: str, words: Sequence[str]) -> SlurmOptions | None:
    """What to ask of Slurm, from `KEY=VALUE` words; None for this machine.

    A repeated key of a list (`setup`) adds to it; `extra.NAME=VALUE` is an option of sbatch without its dashes.

    Raises
    ------
    ConfigError : words without `--on slurm`, an unknown key, or a value that is none for its key.
    """
    if place == "local":
        if words:
            raise ConfigError("--slurm without --on slurm", hint="add --on slurm")
        return None
    from plm_scaling.execution.slurm_options import SlurmOptions

    given: dict[str, str] = {}
    setup: list[str] = []
    extra: dict[str, str] = {}
    for word in words:
        key, separator, value = word.partition("=")
        if separator and key.startswith("extra.") and key != "extra.":
            extra[key.removeprefix("extra.")] = value
        elif separator and key == "setup":
            setup.append(value)
        elif separator and key != "extra" and key in SlurmOptions.model_fields:
            given[key] = value
        else:
            hint = did_you_mean(key, {*SlurmOptions.model_fields, "extra.NAME"} - {"extra"})
            raise ConfigError(f"{word!r} is no option of a job", where="--slurm", hint=hint)
    lists = {name: value for name, value in (("setup", setup), ("extra", extra)) if value}
    return SlurmOptions.checked(**given, **lists)
