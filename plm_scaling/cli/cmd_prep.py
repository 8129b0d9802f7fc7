"""`plm-scaling prep`: files to a prepared corpus; `prep stats|verify|check-overlap|simulate` as subcommands."""

from __future__ import annotations

from pathlib import Path

import click

from plm_scaling.cli.prep_files import files
from plm_scaling.cli.render import DryRun, OutputFormat, emit, next_command, say, warn
from plm_scaling.core.units import parse_quantity

__all__ = ["command"]


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


command.add_command(files)


@command.command("stats")
@click.argument("corpus", type=click.Path(path_type=Path))
@click.option("--family", "families", multiple=True, metavar="NAME=FASTA", help="Share of a family of interest.")
@click.option("--pictures", type=click.Path(path_type=Path), help="Draw the figures as SVG into this folder.")
@OutputFormat
def stats(corpus: Path, families: tuple[str, ...], pictures: Path | None, output: str) -> None:
    """Lengths, composition, duplicates, clusters, taxa, flags and overlaps of a prepared corpus."""
    from plm_scaling import api
    from plm_scaling.cli.stats_screen import families_of, print_statistics

    found = api.statistics(corpus, families=families_of(families))
    print_statistics(found, output)
    if pictures is not None:
        from plm_scaling.reporting.corpus_figures import draw_corpus

        for path in draw_corpus(found, pictures):
            say(f"drew {path}")


@command.command("check-overlap")
@click.argument("corpus", type=click.Path(path_type=Path))
@click.argument("fasta", type=click.Path(path_type=Path))
@click.option("--identity", default=0.5, show_default=True, help="From which on a sequence counts as near.")
@click.option("--coverage", default=0.8, show_default=True, help="Least share of both sequences in the alignment.")
@click.option("--split", default="train", show_default=True)
@OutputFormat
def check_overlap(corpus: Path, fasta: Path, identity: float, coverage: float, split: str, output: str) -> None:
    """How near each sequence of FASTA, say an evaluation set, is to what a corpus trains on."""
    from plm_scaling import api

    report = api.check_overlap(corpus, fasta, identity=identity, coverage=coverage, split=split)
    rows = [
        {
            "sequence": query.name,
            "residues": query.length,
            "copy of": query.copy_of,
            "nearest": query.nearest,
            "identity": round(query.nearest_identity, 3),
            "coverage": round(query.nearest_coverage, 3),
        }
        for query in report.queries
    ]
    emit(output, rows=rows, value=report)
    n = len(report.queries)
    say(f"{report.copies} of {n} sequences have an exact copy in {report.split}")
    if not report.tool:
        warn(
            "MMseqs2 is not on PATH: relatives were not looked for (apt install mmseqs2, or conda -c bioconda mmseqs2)"
        )
        return
    say(f"{report.near} of {n} have a sequence at >= {identity:.0%} identity ({report.tool})")
    if report.bins:
        names = ("< 30 %", "30-50 %", "50-90 %", ">= 90 %")
        say("by identity: " + ", ".join(f"{name} {count}" for name, count in zip(names, report.bins, strict=True)))


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
