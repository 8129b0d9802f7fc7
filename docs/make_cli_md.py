"""Write docs/cli.md from the commands' own --help; `--check` fails where the file has drifted."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from plm_scaling.cli.main import VERBS, verbs

TARGET = Path(__file__).with_name("cli.md")
WIDTH = 100


def help_texts() -> Iterator[tuple[str, str]]:
    """Command line and help of every verb and subcommand, in the order of --help."""
    # As `plm-scaling --help` shows it (-h included), whatever the width of this terminal; subcommands inherit both.
    names = verbs.context_settings["help_option_names"]
    root = click.Context(verbs, info_name="plm-scaling", terminal_width=WIDTH, help_option_names=names)
    yield "plm-scaling", verbs.get_help(root)
    for name in VERBS:
        command = verbs.get_command(root, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=root)
        yield f"plm-scaling {name}", command.get_help(context)
        if isinstance(command, click.Group):
            for sub in command.list_commands(context):
                inner = command.get_command(context, sub)
                assert inner is not None
                shown = click.Context(inner, info_name=sub, parent=context)
                yield f"plm-scaling {name} {sub}", inner.get_help(shown)


def cli_markdown() -> str:
    """The whole page."""
    parts = ["# Command line\n\nWritten by `make docs` from `--help`; a test fails when it is out of date.\n"]
    for line, text in help_texts():
        parts.append(f"## {line}\n\n```text\n{text.strip()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    text = cli_markdown()
    if "--check" in sys.argv:
        sys.exit(0 if TARGET.read_text() == text else "docs/cli.md is out of date: make docs")
    TARGET.write_text(text)
