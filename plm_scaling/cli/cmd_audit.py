"""`plm-scaling audit`: is my model too large?"""

from __future__ import annotations

import click

from plm_scaling.cli.quantities import quantity
from plm_scaling.cli.render import OutputFormat, emit, next_command, warn

__all__ = ["command"]


@click.command("audit", epilog="Example: plm-scaling audit esm2-650m --laws study/fit-mlm.json --laws zoo:cheng-mlm")
@click.argument("model", required=False)
@click.option("--all", "everything", is_flag=True, help="All published protein models (the default without MODEL).")
@click.option("--params", callback=quantity, help="Parameters of the blocks, instead of MODEL, e.g. 650M.")
@click.option("--tokens", callback=quantity, help="Tokens it was trained on, e.g. 1e12.")
@click.option("--objective", type=click.Choice(["clm", "mlm", "text"]), help="Needed where MODEL does not say.")
@click.option("--laws", multiple=True, metavar="FIT.json | zoo:NAME", help="Judge by this law; repeatable.")
@click.option("--force", is_flag=True, help="Answer even far outside the range of a law.")
@OutputFormat
def command(
    model: str | None,
    everything: bool,
    params: float | None,
    tokens: float | None,
    objective: str | None,
    laws: tuple[str, ...],
    force: bool,
    output: str,
) -> int:
    """By what factor a model is too large or too small for its own training compute, and what that cost.

    MODEL is a published model (esm2-650m, progen2-xlarge, cheng-7b, gopher, ...), a named size, or a run's folder.
    Exit code 4 if every law refuses.
    """
    from plm_scaling import api
    from plm_scaling.cli.audit_screen import audit_lines, exact_rows, table_rows
    from plm_scaling.cli.main import EXIT_REFUSED
    from plm_scaling.core.errors import ConfigError

    if everything and (model or params):
        raise ConfigError("--all audits every published model", hint="leave out --all, or the model")
    found = api.audit(model, params=params, tokens=tokens, objective=objective, laws=laws, force=force)
    if output != "human":
        emit(output, rows=exact_rows(found), value=found)
    elif len(found.audits) == 1:
        click.echo("\n".join(audit_lines(found.audits[0])))
        for warning in found.audits[0].warnings:
            warn(warning)
    else:
        emit(output, rows=table_rows(found))
    if output == "human":
        for note in found.notes:
            warn(f"{note}.")
        if len(found.audits) > 1:
            next_command("plm-scaling audit esm2-650m   # one model, with every law and doubt")
    return 0 if found.answered else EXIT_REFUSED
