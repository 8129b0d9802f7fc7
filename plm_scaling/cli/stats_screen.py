"""The screen of `plm-scaling prep stats`: one table per question, those without an answer left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from plm_scaling.cli.render import Row, emit, warn
from plm_scaling.core.errors import ConfigError
from plm_scaling.core.units import format_count

if TYPE_CHECKING:
    from plm_scaling.corpus.format import RecordCount
    from plm_scaling.corpus.statistics import CorpusStatistics, SizeBin, SourceStatistics, TaxonShare

__all__ = ["families_of", "print_statistics"]

_PAIRS_SHOWN: Final = 20
_LEAST_OVERLAP: Final = 0.01
_TAXA_SHOWN: Final = 10


def families_of(words: Sequence[str]) -> dict[str, Path]:
    """NAME=FASTA words as a mapping.

    Raises
    ------
    ConfigError : a word of another form, a name given twice, or no such file.
    """
    families: dict[str, Path] = {}
    for word in words:
        name, _, path = word.partition("=")
        if not name or not path or name in families:
            why = "the name is taken" if name in families else "a family is NAME=FASTA"
            raise ConfigError(f"--family {word}", why=why, hint="for example --family AAV=capsids.fasta")
        if not Path(path).is_file():
            raise ConfigError("no such file", where=path, hint="give the FASTA file of the family's sequences")
        families[name] = Path(path)
    return families


def print_statistics(found: CorpusStatistics, output: str) -> None:
    """Print statistics: tables for people, the whole value as JSON, or a row per source as CSV."""
    for text in found.notes:
        warn(text)
    if output == "json":
        emit("json", rows=(), value=found)
        return
    if output == "csv":
        emit("csv", rows=[_csv_row(source) for source in (*found.sources, found.total)])
        return
    tables = {
        f"corpus {found.name}, id {found.corpus_id[:12]}": _sources(found),
        "lengths in residues, and nats of the unigram entropy": _lengths(found),
        "unique sequences by the number of their records": _sizes(found.multiplicity, "records", "unique sequences"),
        "sequences that two sources share, % of the first one's": _overlaps(found),
        "clusters of the unique sequences": _clusters(found),
        "sizes of the clusters": _cluster_bins(found),
        "splits": _splits(found),
        "held-out sequences near training (>= 50 % identity), and % by identity to the nearest": _leaks(found),
        "flags": _flags(found),
        "left out by the preparation": _dropped(found),
        "taxa of the training tokens": _taxa(found),
        "families of interest in the training tokens": _families(found),
    }
    for number, (title, rows) in enumerate((title, rows) for title, rows in tables.items() if rows):
        if number:
            click.echo()
        emit("human", rows=rows, title=title)
    _print_viral(found)


def _csv_row(source: SourceStatistics) -> Row:
    """Plain fields, nested ones under a joined name; every flag is a column of every row."""
    from plm_scaling.corpus.format import FLAGS

    row: Row = {}
    plain = source.model_dump(exclude={"lengths", "residues", "flagged", "dropped"})
    for name, value in plain.items():
        row |= {f"{name}_{part}": n for part, n in value.items()} if isinstance(value, dict) else {name: value}
    lengths = source.lengths
    row |= {
        "shortest": lengths.shortest if lengths else None,
        "median_length": _median(source),
        "longest": lengths.longest if lengths else None,
    }
    for flag in FLAGS:
        row[f"flagged_{flag}_tokens"] = source.flagged[flag].tokens if flag in source.flagged else 0
    return row


def _median(source: SourceStatistics) -> int | None:
    from plm_scaling.corpus.statistics import QUANTILES

    return source.lengths.quantiles[QUANTILES.index(0.5)] if source.lengths else None


def _all(found: CorpusStatistics) -> tuple[SourceStatistics, ...]:
    """The sources, and their sum where there are several."""
    return (*found.sources, found.total) if len(found.sources) > 1 else found.sources


def _percent(part: float, whole: float) -> str:
    """0, 0.00 (little, but some), 0.57, 12.3, 100."""
    share = 100 * part / whole if whole else 0.0
    if not share:
        return "0"
    if share < 0.01:
        return "0.00"
    return f"{share:.2f}" if share < 10 else f"{share:.1f}" if share < 99.95 else "100"


def _sources(found: CorpusStatistics) -> list[Row]:
    rows = []
    for source in _all(found):
        row: Row = {
            "source": source.name,
            "sequences": f"{source.sequences:,}",
            "tokens": f"{source.tokens:,}",
            "unique tokens": f"{source.unique_tokens:,}",
            "copies within %": _percent(source.copies_within.tokens, source.tokens),
            "of earlier sources %": _percent(source.copies_across.tokens, source.tokens),
        }
        if source.effective_sequences is not None:
            row["effective sequences"] = f"{source.effective_sequences:,.0f}"
        rows.append(row)
    return rows


def _lengths(found: CorpusStatistics) -> list[Row]:
    from plm_scaling.corpus.statistics import QUANTILES

    rows = []
    for source in _all(found):
        if source.lengths is None:
            continue
        at = dict(zip(QUANTILES, source.lengths.quantiles, strict=True))
        rows.append(
            {
                "source": source.name,
                "shortest": str(source.lengths.shortest),
                "5 %": str(at[0.05]),
                "median": str(at[0.5]),
                "mean": f"{source.lengths.mean:.0f}",
                "95 %": str(at[0.95]),
                "longest": str(source.lengths.longest),
                "per residue": _nats(source.entropy_per_residue),
                "per token": _nats(source.entropy_per_token),
                "MLM plateau": _nats(source.mlm_plateau),
            }
        )
    return rows


def _nats(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _sizes(bins: Sequence[SizeBin], size: str, groups: str) -> list[Row]:
    return [
        {size: _range(part), groups: f"{part.groups:,}", "records in all": f"{part.members:,}"}
        for part in bins
        if len(bins) > 1
    ]


def _range(part: SizeBin) -> str:
    return str(part.largest) if part.smallest == part.largest else f"{part.smallest}-{part.largest}"


def _overlaps(found: CorpusStatistics) -> list[Row]:
    """The pairs with most in common."""
    names = [source.name for source in found.sources]
    deciding = found.overlap50 or found.overlap
    pairs = [(share, i, j) for i, row in enumerate(deciding) for j, share in enumerate(row) if i != j]
    chosen = sorted((pair for pair in pairs if pair[0] >= _LEAST_OVERLAP), key=lambda pair: (-pair[0], *pair[1:]))
    rows = []
    for share, i, j in chosen[:_PAIRS_SHOWN]:
        row: Row = {"source": names[i], "also in": names[j], "exactly %": _percent(found.overlap[i][j], 1.0)}
        rows.append(row | ({"in a 50 % cluster %": _percent(share, 1.0)} if found.overlap50 else {}))
    if len(chosen) > _PAIRS_SHOWN:
        rest: Row = {"source": f"... and {len(chosen) - _PAIRS_SHOWN} pairs more", "also in": "", "exactly %": ""}
        rows.append(rest | ({"in a 50 % cluster %": ""} if found.overlap50 else {}))
    return rows


def _clusters(found: CorpusStatistics) -> list[Row]:
    return [
        {
            "identity": f"{sizes.percent} %",
            "clusters": f"{sizes.clusters:,}",
            "singletons": f"{sizes.singletons:,}",
            "largest": f"{sizes.largest:,}",
        }
        for sizes in found.cluster_sizes
    ]


def _cluster_bins(found: CorpusStatistics) -> list[Row]:
    """A row per size, two columns per identity."""
    bins = {part.smallest: _range(part) for sizes in found.cluster_sizes for part in sizes.sizes}
    rows = []
    for smallest in sorted(bins):
        row: Row = {"sequences in it": bins[smallest]}
        for sizes in found.cluster_sizes:
            held = {part.smallest: part for part in sizes.sizes}.get(smallest)
            total = sum(part.members for part in sizes.sizes)
            row[f"{sizes.percent} % clusters"] = f"{held.groups if held else 0:,}"
            row[f"% of sequences at {sizes.percent}"] = _percent(held.members if held else 0, total)
        rows.append(row)
    return rows


def _splits(found: CorpusStatistics) -> list[Row]:
    return [
        {"split": split.name, "sequences": f"{split.sequences:,}", "tokens": f"{split.tokens:,}"}
        for split in found.splits
    ]


def _leaks(found: CorpusStatistics) -> list[Row]:
    from plm_scaling.corpus.format import IDENTITY_EDGES

    low, mid, high = (f"{100 * edge:g}" for edge in IDENTITY_EDGES)
    titles = (f"< {low} %", f"{low}-{mid} %", f"{mid}-{high} %", f">= {high} %")
    rows = []
    for leak in found.leakage:
        left = sum(leak.bins)
        row: Row = {
            "split": leak.split,
            "searched": f"{leak.sequences:,}",
            "near %": _percent(leak.hits_before, leak.sequences),
            "dropped": f"{leak.dropped.sequences:,}",
            "still near %": _percent(leak.hits_after, left),
        }
        rows.append(row | {title: _percent(count, left) for title, count in zip(titles, leak.bins, strict=True)})
    return rows


def _flags(found: CorpusStatistics) -> list[Row]:
    """With the source that has the largest share of each."""
    from plm_scaling.corpus.format import FLAGS

    rows = []
    for name in (name for name in FLAGS if name in found.total.flagged):
        count = found.total.flagged[name]
        shares = {s.name: s.flagged[name].tokens / s.tokens for s in found.sources if name in s.flagged and s.tokens}
        most = max(shares, key=lambda source: shares[source])
        row = _counted("flag", name, count, found.total.tokens)
        rows.append(row | ({"most in": f"{most} ({_percent(shares[most], 1.0)} %)"} if len(found.sources) > 1 else {}))
    return rows


def _dropped(found: CorpusStatistics) -> list[Row]:
    before = found.total.tokens + sum(count.tokens for count in found.total.dropped.values())
    return [_counted("reason", name, count, before) for name, count in found.total.dropped.items()]


def _counted(title: str, name: str, count: RecordCount | TaxonShare, tokens: int) -> Row:
    return {
        title: name,
        "sequences": f"{count.sequences:,}",
        "tokens": f"{count.tokens:,}",
        "% of tokens": _percent(count.tokens, tokens),
    }


def _taxa(found: CorpusStatistics) -> list[Row]:
    if not found.taxa:
        return []
    total = found.total.train.tokens
    rows = [_counted("taxon", str(taxon.taxon), taxon, total) for taxon in found.taxa[:_TAXA_SHOWN]]
    return [*rows, _counted("taxon", "unknown", found.taxon_unknown, total)]


def _families(found: CorpusStatistics) -> list[Row]:
    total = found.total.train.tokens
    return [
        {"members given": f"{family.members:,}"} | _counted("family", family.name, family.near, total)
        for family in found.families
    ]


def _print_viral(found: CorpusStatistics) -> None:
    from plm_scaling.corpus.statistics import VIRAL_CHOICE

    if found.has_flags:
        train, viral = found.total.train, found.total.viral
        share = _percent(viral.tokens, train.tokens)
        tokens = f"{format_count(viral.tokens)} of {format_count(train.tokens)} training tokens"
        click.echo(f"\nviral: {share} % of the training tokens ({tokens}). {VIRAL_CHOICE}")
