"""`plm-scaling prep`: FASTA to a prepared corpus; `prep stats|verify|simulate` as subcommands."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from plm_scaling.cli.render import DryRun, OutputFormat, emit, next_command, say
from plm_scaling.core.errors import ConfigError
from plm_scaling.core.units import format_count, parse_quantity

__all__ = ["command"]

_ENDING = re.compile(r"(\.(fasta|faa|fas|fa))?(\.(gz|zst))?$", re.IGNORECASE)


class FilesOrSubcommand(click.Group):
    """A group whose first word may be a file: then the words are the arguments of the hidden `files` command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `files` in front of words that begin with no subcommand."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["files", *args]
        return super().parse_args(ctx, args)


@click.group(
    "prep",
    cls=FilesOrSubcommand,
    epilog="Example: plm-scaling prep uniref50.fasta.gz mgnify.fasta.zst -o corpus/",
)
def command() -> None:
    """FASTA files (plain, .gz, .zst) to a prepared corpus: prep FASTA... -o CORPUS.

    The first word may be one of the subcommands below; write ./stats for a file of that name.
    """


def source_of(word: str) -> tuple[str, Path]:
    """NAME=FILE, or FILE whose name is the source's name."""
    name, separator, path = word.partition("=")
    if not separator:
        name, path = _ENDING.sub("", Path(word).name), word
    if not Path(path).is_file():
        raise ConfigError("no such file", where=path, hint="give FASTA files, or NAME=FILE to name their source")
    return name, Path(path)


def grouped(words: Sequence[str]) -> dict[str, list[Path]]:
    """Files by source, in the order given: earlier sources own the sequences they share with later ones."""
    sources: dict[str, list[Path]] = {}
    for word in words:
        name, path = source_of(word)
        sources.setdefault(name, []).append(path)
    return sources


@command.command("files")
@click.argument("fasta", nargs=-1, required=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder of the corpus.")
@click.option("--hold-out", multiple=True, metavar="[NAME=]FILE", help="Keep a whole file out as a test set.")
@click.option("--val-share", default=0.01, show_default=True, help="Share of unique sequences held out at random.")
@click.option("--split-seed", default=0, show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace an existing corpus.")
@DryRun
@OutputFormat
def files(
    fasta: tuple[str, ...],
    out: Path,
    hold_out: tuple[str, ...],
    val_share: float,
    split_seed: int,
    overwrite: bool,
    dry_run: bool,
    output: str,
) -> None:
    """Prepare a corpus from FASTA files; NAME=FILE names a source, files of one name belong together."""
    from plm_scaling import api

    inputs, held = grouped(fasta), grouped(hold_out)
    if dry_run:
        rows = [
            {"source": name, "role": role, "file": str(path), "bytes": path.stat().st_size}
            for role, group in (("hold-out", held), ("train", inputs))
            for name, paths in group.items()
            for path in paths
        ]
        emit(output, rows=rows, title=f"would prepare {out}")
        return
    manifest = api.prep(
        inputs,
        out,
        hold_out=held,
        val_share=val_share,
        split_seed=split_seed,
        overwrite=overwrite,
        progress=_progress(),
    )
    print_manifest(manifest, output)
    next_command(f"plm-scaling plan SPEC.toml   # with corpus = {str(out)!r}")


def _progress() -> Any:
    if not sys.stderr.isatty():
        return None

    def show(state: Any) -> None:
        share = 100 * state.bytes_done / max(1, state.bytes_total)
        click.echo(f"\r{share:5.1f} %  {format_count(state.sequences)} sequences ", err=True, nl=False)

    return show


def print_manifest(manifest: Any, output: str) -> None:
    """Sources with their exact counts, then the splits and the policies that applied."""
    rows = [
        {
            "source": s.name,
            "sequences": s.sequences,
            "residues": s.residues,
            "tokens": s.tokens,
            "unique tokens": s.unique_tokens,
            "repeated tokens": s.duplicate_tokens,
            "repeated %": round(100 * s.duplicate_tokens / max(1, s.tokens), 2),
        }
        for s in manifest.sources
    ]
    emit(output, rows=rows, value=manifest)
    if output != "human":
        return
    splits = ", ".join(f"{s.name} {s.sequences:,} sequences / {s.tokens:,} tokens" for s in manifest.splits)
    say(f"splits (unique): {splits}")
    counts: dict[str, int] = {}
    for source in manifest.sources:
        for name, count in source.policy_counts.items():
            counts[name] = counts.get(name, 0) + count
    if any(counts.values()):
        say("normalised: " + ", ".join(f"{name} {count:,}" for name, count in counts.items() if count))
    say(f"corpus id {manifest.content_hash()[:12]}")


@command.command("stats")
@click.argument("corpus", type=click.Path(path_type=Path))
@OutputFormat
def stats(corpus: Path, output: str) -> None:
    """Counts of a prepared corpus."""
    from plm_scaling.corpus.reader import Corpus

    print_manifest(Corpus.open(corpus).manifest, output)


@command.command("verify")
@click.argument("corpus", type=click.Path(path_type=Path))
def verify(corpus: Path) -> int:
    """Recompute every checksum and count; exit code 1 if anything differs."""
    from plm_scaling import api

    problems = api.verify(corpus)
    click.echo("\n".join(problems) if problems else f"{corpus}: every file and count is as the manifest says")
    return 1 if problems else 0


@command.command("simulate")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder of the FASTA files.")
@click.option("--residues", default="8e6", show_default=True, help="Residues of the two sources together.")
@click.option("--seed", default=0, show_default=True)
@DryRun
def simulate(out: Path, residues: str, seed: int, dry_run: bool) -> None:
    """Write two protein-like sources whose families, trees and entropy are known (no download needed)."""
    from plm_scaling import api

    wanted = int(parse_quantity(residues, what="--residues"))
    if dry_run:
        say(f"would write {wanted:,} residues as {out}/uniref_like.fasta and {out}/metagenome_like.fasta")
        return
    api.simulate(out, residues=wanted, seed=seed)
    next_command(f"plm-scaling prep {out}/uniref_like.fasta {out}/metagenome_like.fasta -o corpus/")
