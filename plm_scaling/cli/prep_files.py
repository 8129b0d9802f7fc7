"""`plm-scaling prep FASTA... -o CORPUS`: everything on the way to a prepared corpus."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plm_scaling.cli.executors import On, Slurm, slurm_options
from plm_scaling.cli.render import DryRun, OutputFormat, emit, next_command, say, warn
from plm_scaling.core.errors import ConfigError
from plm_scaling.core.units import format_count, parse_quantity

if TYPE_CHECKING:
    from data_prep.plan import PrepSpec
    from data_prep.progress import Progress
    from plm_scaling.corpus.format import Manifest
    from plm_scaling.execution.tasks import Executor

__all__ = ["files"]

_ENDING = re.compile(r"(\.(fasta|faa|fas|fa|pep|parquet|arrow|dat|xml))?(\.(gz|zst))?$", re.IGNORECASE)
_REMOTE = ("hf://", "https://", "http://", "ftp://")


@click.command("files")
@click.argument("fasta", nargs=-1)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder of the corpus.")
@click.option("--source", "sources", multiple=True, metavar="NAME|URL|hf://ID", help="uniref50, mgnify, ...: fetched.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder of downloads; default ~/.cache/plm-scaling.")
@click.option("--max-residues", metavar="N", help="Take the beginning of each source only.")
@click.option("--hold-out", multiple=True, metavar="[NAME=]FILE", help="Keep a whole file out as a test set.")
@click.option("--hold-out-taxon", multiple=True, metavar="NAME=ID[,ID]", help="Keep a clade out; needs --taxonomy.")
@click.option("--val-share", default=0.01, show_default=True, help="Share of unique sequences held out at random.")
@click.option(
    "--cluster",
    default="none",
    show_default=True,
    metavar="none|mmseqs|FILE",
    help="Clusters at 90 and 50 % identity, and splits that respect them.",
)
@click.option("--val-cluster-share", default=0.01, show_default=True, help="Share of tokens in held-out clusters.")
@click.option("--split-seed", default=0, show_default=True)
@click.option("--taxonomy", default="", metavar="PATH", help="NCBI's taxdump.tar.gz, its folder, or nodes.dmp.")
@click.option("--exclude-taxon", multiple=True, type=int, metavar="ID", help="Leave a clade out of the corpus.")
@click.option("--include-taxon", multiple=True, type=int, metavar="ID", help="Keep these clades only.")
@click.option("--drop", multiple=True, metavar="FLAG", help="Leave records out: fragment, many_x, short, viral, ...")
@click.option("--min-length", default=30, show_default=True, help="Residues; fewer are flagged as short.")
@click.option("--max-length", default=2048, show_default=True, help="Residues; more are flagged as long.")
@click.option("--containment", is_flag=True, help="Count sequences that are fragments or reversals of others.")
@click.option("--workers", type=click.IntRange(1), help="Processes at a time; default one per core for large files.")
@On
@Slurm
@click.option("--overwrite", is_flag=True, help="Replace an existing corpus.")
@DryRun
@OutputFormat
def files(fasta: tuple[str, ...], out: Path, dry_run: bool, output: str, **options: Any) -> None:
    """Prepare a corpus from files; NAME=FILE names a source, files of one name belong together."""
    from plm_scaling import api

    inputs, held = _grouped(fasta), _grouped(options["hold_out"])
    spec = _spec(options)
    executor = _executor(options["place"], options["slurm"], out)
    if dry_run:
        _show_inputs(inputs, held, options["sources"], out, output)
        return
    manifest = api.prep(
        inputs,
        out,
        spec,
        sources=options["sources"],
        hold_out={name: [Path(path) for path in paths] for name, paths in held.items()},
        workers=options["workers"],
        executor=executor,
        cache=options["cache"],
        overwrite=options["overwrite"],
        progress=_progress(),
        tell=say,
    )
    _print_manifest(manifest, output)
    next_command(f"plm-scaling prep stats {out}   # or: plm-scaling plan SPEC.toml, with corpus = {str(out)!r}")


def _spec(options: dict[str, Any]) -> PrepSpec:
    from data_prep import FilterSpec, PrepSpec

    residues = options["max_residues"]
    filters = FilterSpec.checked(
        drop=options["drop"],
        min_length=options["min_length"],
        max_length=options["max_length"],
        exclude_taxa=options["exclude_taxon"],
        include_taxa=options["include_taxon"],
    )
    return PrepSpec.checked(
        val_share=options["val_share"],
        split_seed=options["split_seed"],
        max_residues=None if residues is None else int(parse_quantity(residues, what="--max-residues")),
        filters=filters,
        taxonomy=str(Path(options["taxonomy"]).absolute()) if options["taxonomy"] else "",
        hold_out_taxa=dict(_clade(word) for word in options["hold_out_taxon"]),
        cluster=_cluster(options["cluster"]),
        val_cluster_share=options["val_cluster_share"],
        containment=options["containment"],
    )


def _cluster(word: str) -> str:
    if word in ("none", "mmseqs"):
        return word
    if not Path(word).is_file():
        raise ConfigError("no such file of cluster memberships", where=word, hint="write none, mmseqs, or a file")
    return str(Path(word).absolute())


def _clade(word: str) -> tuple[str, tuple[int, ...]]:
    name, separator, ids = word.partition("=")
    try:
        return name, tuple(int(part) for part in ids.split(","))
    except ValueError:
        found = "no '='" if not separator else f"{ids!r} are no taxon ids"
        raise ConfigError(found, where=f"--hold-out-taxon {word}", hint="write e.g. fungi=4751") from None


def _executor(place: str, words: Sequence[str], out: Path) -> Executor | None:
    options = slurm_options(place, words)
    if options is None:
        return None
    from plm_scaling.execution.slurm import SlurmExecutor

    return SlurmExecutor(out.absolute().with_name(f".{out.name}.preparing") / "slurm", options)


def _grouped(words: Sequence[str]) -> dict[str, list[Path | str]]:
    """Files by source, in the order given: earlier sources own the sequences they share with later ones."""
    sources: dict[str, list[Path | str]] = {}
    for word in words:
        name, item = _source_of(word)
        sources.setdefault(name, []).append(item)
    return sources


def _source_of(word: str) -> tuple[str, Path | str]:
    """NAME=FILE, or FILE whose name is the source's name; columns of a table may follow after `?`."""
    from data_prep.formats import local_path

    if word.startswith(_REMOTE):
        raise ConfigError("an address is no file", where=word, hint=f"write --source {word}")
    name, separator, item = word.partition("=")
    if not separator or "?" in name:
        name, item = _ENDING.sub("", local_path(word).name), word
    if not local_path(item).exists():
        raise ConfigError("no such file", where=item, hint="give FASTA files, or NAME=FILE to name their source")
    return name, item if "?" in item else Path(item)


def _show_inputs(
    inputs: dict[str, list[Path | str]],
    held: dict[str, list[Path | str]],
    sources: Sequence[str],
    out: Path,
    output: str,
) -> None:
    from data_prep.formats import local_path
    from data_prep.sources import resolve_source

    rows: list[dict[str, Any]] = [
        {"source": name, "role": role, "file": str(item), "bytes": local_path(item).stat().st_size, "licence": ""}
        for role, group in (("hold-out", held), ("train", inputs))
        for name, items in group.items()
        for item in items
    ]
    for word in sources:
        source = resolve_source(word)
        rows += [
            {"source": source.name, "role": "fetch", "file": file.url, "bytes": file.bytes, "licence": source.licence}
            for file in source.files
        ]
        rows += [
            {"source": source.name, "role": "read", "file": item, "bytes": None, "licence": source.licence}
            for item in source.items
        ]
    emit(output, rows=rows, title=f"would prepare {out}")


def _progress() -> Callable[[Progress], None] | None:
    if not sys.stderr.isatty():
        return None

    def show(state: Progress) -> None:
        done = f"{100 * state.bytes_done / state.bytes_total:5.1f} %" if state.bytes_total else " " * 7
        click.echo(f"\r{state.stage:<10} {done}  {format_count(state.sequences)} sequences   ", err=True, nl=False)

    return show


def _print_manifest(manifest: Manifest, output: str) -> None:
    """Sources with their exact counts, then the splits, what leaks, and the policies that applied."""
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
    splits = ", ".join(
        f"{s.name} {s.sequences:,} sequences / {s.tokens:,} tokens" for s in manifest.splits if s.sequences
    )
    say(f"splits (unique): {splits}")
    _say_leakage(manifest)
    _say_counts("normalised", [source.policy_counts for source in manifest.sources])
    for what in ("flagged", "dropped"):
        counts = [{n: c.sequences for n, c in getattr(source, what).items()} for source in manifest.sources]
        _say_counts(f"{what} sequences", counts)
    if manifest.containment:
        held = ", ".join(f"{name} {count.sequences:,}" for name, count in manifest.containment.items())
        say(f"unique sequences that others hold: {held}")
    for source in manifest.sources:
        if source.licence:
            say(f"licence of {source.name}: {source.licence}")
    say(f"corpus id {manifest.content_hash()[:12]}")


def _say_leakage(manifest: Manifest) -> None:
    if manifest.clusters is None:
        warn("no clusters: near-duplicates cross the random split val_iid; --cluster mmseqs holds whole clusters out")
        return
    clusters = manifest.clusters
    say(f"clusters ({clusters.tool}): {clusters.n_clusters90:,} at 90 %, {clusters.n_clusters50:,} at 50 % identity")
    for row in manifest.leakage:
        before, after = (100 * n / max(1, row.sequences) for n in (row.hits_before, row.hits_after))
        dropped = f", {row.dropped.sequences:,} dropped, {after:.2f} % left" if row.dropped.sequences else ""
        say(f"{row.split}: {before:.2f} % of {row.sequences:,} have a training sequence at >= 50 % identity{dropped}")


def _say_counts(what: str, parts: Sequence[dict[str, int]]) -> None:
    counts: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            counts[name] = counts.get(name, 0) + count
    if any(counts.values()):
        say(f"{what}: " + ", ".join(f"{name} {count:,}" for name, count in counts.items() if count))
