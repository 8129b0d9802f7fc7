"""What the verbs share: the `--format` option, tables, next-command hints. Data on stdout, talk on stderr."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from rich.table import Table

    from plm_scaling.core.records import Record

__all__ = ["DryRun", "OutputFormat", "emit", "next_command", "rich_table", "say", "typed_options", "warn"]

Verb = TypeVar("Verb", bound=Callable[..., Any])
Row = dict[str, Any]

_RUN_ID: Final = re.compile("[0-9a-f]{12}")
_MOST_FITTED: Final = 500
"""Rows that are fitted into a terminal; fitting thousands takes longer than planning them."""


def OutputFormat(verb: Verb) -> Verb:
    """Add `--format human|json|csv`, passed on as `output`."""
    return click.option(
        "--format",
        "output",
        type=click.Choice(["human", "json", "csv"]),
        default="human",
        show_default=True,
        help="What goes to stdout.",
    )(verb)


def DryRun(verb: Verb) -> Verb:
    """Add `-n/--dry-run`, passed on as `dry_run`."""
    return click.option("-n", "--dry-run", is_flag=True, help="Say what would be done; write nothing.")(verb)


def typed_options(context: click.Context) -> dict[str, str]:
    """Options that stood on the command line, by name, as they are spelt there: what must not be passed over."""
    from click.core import ParameterSource

    options = ((param.name or "", param.opts[-1]) for param in context.command.params)
    return {n: spelt for n, spelt in options if context.get_parameter_source(n) is ParameterSource.COMMANDLINE}


def say(text: str) -> None:
    """A line for people, on stderr."""
    click.echo(text, err=True)


def warn(text: str) -> None:
    """A doubt the user must see, on stderr."""
    click.echo(click.style("note: ", fg="yellow") + text, err=True)


def next_command(text: str) -> None:
    """The command that usually follows."""
    say(f"next: {text}")


def emit(
    output: str,
    *,
    rows: Sequence[Row],
    title: str = "",
    value: Record | None = None,
    formats: Mapping[str, Callable[[Any], str]] | None = None,
) -> None:
    """Print rows as a table, JSON or CSV on stdout.

    Parameters
    ----------
    value : what JSON shows instead of the rows, as it would stand in a file.
    formats : how people see a column; CSV and JSON keep the numbers as they are.
    """
    if output == "json":
        click.echo(json.dumps(list(rows), indent=1) if value is None else value.to_json().rstrip())
    elif output == "csv":
        click.echo(_csv(rows), nl=False)
    else:
        _table([_for_people(row, formats or {}) for row in rows], title)


def _for_people(row: Row, formats: Mapping[str, Callable[[Any], str]]) -> Row:
    return {
        name: formats[name](value) if name in formats and value is not None else value for name, value in row.items()
    }


def _csv(rows: Sequence[Row]) -> str:
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return out.getvalue()


def _table(rows: Sequence[Row], title: str) -> None:
    if not rows:
        click.echo(f"{title}: nothing" if title else "nothing")
    elif sys.stdout.isatty() and len(rows) <= _MOST_FITTED:
        from rich.console import Console

        # A path or a reason may hold brackets: no text of ours is markup.
        console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
        if title:
            console.print(title, style="italic")  # a table's own title is folded to the table's width
        console.print(rich_table(rows))
    else:
        click.echo("\n".join([title, *_plain_lines(rows)] if title else _plain_lines(rows)))


def rich_table(rows: Sequence[Row]) -> Table:
    """Rows, at least one, as a table that fits itself into the width of a terminal."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, example in rows[0].items():
        table.add_column(name, justify="right" if _is_numeric(example) else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    return table


def _plain_lines(rows: Sequence[Row]) -> list[str]:
    """The same as wide as its cells: in a pipe there is no width to fit into, and nothing is cut."""
    right = [_is_numeric(value) for value in rows[0].values()]
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    ]


def _is_numeric(value: object) -> bool:
    return isinstance(value, int | float) or _looks_numeric(value)


def _looks_numeric(value: object) -> bool:
    # A run id is twelve hexadecimal digits, and words like other names.
    return isinstance(value, str) and value[:1].isdigit() and not _RUN_ID.fullmatch(value)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
