"""`plm-scaling`: the verbs, imported only when one is called, and errors as a user should read them."""

from __future__ import annotations

import errno
import sys
from importlib import import_module

import click

from plm_scaling import __version__
from plm_scaling.core.errors import PlmScalingError

__all__ = ["EXIT_INCOMPLETE", "EXIT_REFUSED", "VERBS", "main"]

EXIT_INCOMPLETE = 3
EXIT_REFUSED = 4
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)

VERBS = {
    "size": "What should I train with this budget? Answered from published laws, no runs needed.",
    "spend": "Every way to spend a budget side by side, what a dollar more buys, which pilots to run first.",
    "audit": "Is a model too large for what its training cost? ESM-2, ProGen2, the study's, or yours.",
    "demo": "The whole path on a simulated corpus in minutes on a CPU; ends with report.html.",
    "prep": "FASTA files to a prepared corpus: tokenise, de-duplicate, split, count.",
    "plan": "A sweep as a table (N, D, epochs, FLOPs) before anything is spent.",
    "run": "Train the runs of a plan; resumable, idempotent.",
    "status": "Where every run of a sweep stands.",
    "watch": "The same, live, until every run has ended.",
    "runs": "What the runs logged: SQL over all of them, a run table, CSV, TensorBoard.",
    "ledger": "Which tokens of a run are new, repeated or copies, at any step.",
    "import": "Runs logged elsewhere (published logs, W&B, TensorBoard, any CSV) as a clean run table.",
    "fit": "Scaling laws with intervals and named doubts.",
    "predict": "Losses that a fit expects of runs not yet made, with intervals.",
    "transfer": "Effectively transferred tokens D_t, and the gain net of the source's compute.",
    "exchange": "What a token of another source is worth, from runs on mixtures.",
    "evaluate": "Downstream tasks for runs, ESM-2, ProGen2 and others, with floors and controls beside every number.",
    "laws": "Published scaling laws: list, show, compare at a budget, check against their sources.",
    "export": "Weights of a run as a folder that transformers loads.",
    "report": "One offline page: verdict first, then pictures and provenance.",
    "doctor": "Versions, devices, measured peak FLOP/s.",
}


class Verbs(click.Group):
    """A group that lists its verbs without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the order of a user's path."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb."""
        del ctx
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"plm_scaling.cli.cmd_{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs with their one-line help, from `VERBS`."""
        del ctx
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 ok (doubts are named in the output), 1 fault, 2 usage, 3 work left incomplete, 4 refused.",
)
@click.version_option(__version__, prog_name="plm-scaling")
def verbs() -> None:
    """Scaling studies of protein language models, from FASTA to the model you should train."""


def main() -> None:
    """Entry point: run a verb, turn known errors into a message and an exit code."""
    try:
        code = verbs.main(standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
        click.echo("interrupted", err=True)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except PlmScalingError as error:
        click.echo(f"error: {error}", err=True)
        code = error.exit_code
    except OSError as error:
        if error.filename is None and error.errno not in _OF_THE_DISK:
            raise  # no file of the user's: a fault of ours, whose place is worth knowing
        click.echo(f"error: {error.filename or 'while writing'}: {error.strerror}", err=True)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)
