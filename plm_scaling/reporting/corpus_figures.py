"""Pictures of a corpus: lengths, composition, copies, overlap of its sources, clusters, flags, nearness to training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.units import format_count
from plm_scaling.corpus.format import FLAGS, IDENTITY_EDGES
from plm_scaling.corpus.statistics import LENGTH_EDGES, CorpusStatistics, SourceStatistics
from plm_scaling.laws.plateau import UNIPROT_PERCENT
from plm_scaling.reporting.drawing import COLORS, KINDS, count_axis, draw_panel, write_picture

__all__ = ["CORPUS_PICTURES", "CorpusPicture", "corpus_panels", "draw_corpus"]

Float = npt.NDArray[np.float64]
Draw = Callable[[Axes], None]

_LINES: Final = 5
"""Sources with a line or marker of their own; the rest would be a thicket."""
_ROWS: Final = 12
"""Sources with a bar or a row of the heat map of their own."""
_WRITTEN: Final = 10
"""Up to so many sources the heat map holds its numbers."""
_NAMED: Final = 5
"""Up to so many sources the columns of the heat map have names, else the numbers of the rows."""
_LONGEST_NAME: Final = 21
_ENDS: Final = 10
_KINDS: Final = (*KINDS[:4], KINDS[5])
"""Without ink, which is the whole corpus."""
_PAPER: Final = LinearSegmentedColormap.from_list("shares", ("#f4f7f9", "#9ecbd8", "#31678e", "#3e2a72"))
_IDENTITY_COLORS: Final = ("#27808e", "#7fc5b0", "#f0b27a", "#b3541e")


@dataclass(frozen=True)
class Panel:
    """How to draw one picture, and how high it has to be, inches."""

    draw: Draw
    height: float = 3.5


@dataclass(frozen=True)
class CorpusPicture:
    """What a picture shows, how to read it, and how it is drawn (None: this corpus has nothing to show of it)."""

    label: str
    reading: str
    maker: Callable[[CorpusStatistics], Panel | None]


def draw_corpus(found: CorpusStatistics, folder: Path, *, suffix: str = ".svg") -> list[Path]:
    """Draw a corpus into `folder`: corpus-NAME.svg for every name of `CORPUS_PICTURES`.

    A picture that this corpus has nothing to show of is not drawn, and one of an earlier corpus is removed.

    Parameters
    ----------
    suffix : .svg, .png or .pdf.
    """
    drawn = []
    for name, picture in CORPUS_PICTURES.items():
        path = folder / f"corpus-{name}{suffix}"
        panel = picture.maker(found)
        if panel is None:
            path.unlink(missing_ok=True)
        else:
            title = f"{found.name}: {picture.label}"
            drawn.append(write_picture(path, _titled(panel, title), size=(7.2, panel.height + 0.6), label=title))
    return drawn


def corpus_panels(found: CorpusStatistics) -> tuple[Markup, ...]:
    """The same pictures as inline SVG for a page."""
    panels = ((name, picture, picture.maker(found)) for name, picture in CORPUS_PICTURES.items())
    return tuple(
        draw_panel(f"corpus-{name}", picture.label, _with_title(panel.draw, picture.label), height=panel.height)
        for name, picture, panel in panels
        if panel
    )


def _titled(panel: Panel, title: str) -> Callable[[Figure], None]:
    def draw(figure: Figure) -> None:
        figure.suptitle(title, x=0.008, ha="left")
        panel.draw(figure.subplots())

    return draw


def _with_title(draw: Draw, title: str) -> Draw:
    def titled(axes: Axes) -> None:
        draw(axes)
        axes.set_title(title[0].upper() + title[1:], pad=16)  # columns right of the bars have a heading

    return titled


def _largest(found: CorpusStatistics, most: int) -> list[SourceStatistics]:
    """The sources with most tokens, in the corpus' order."""
    order = sorted(found.sources, key=lambda source: -source.tokens)[:most]
    return [source for source in found.sources if source in order]


def _short(name: str) -> str:
    """Both ends of a long name: what tells names apart may stand at either."""
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_ENDS]}\u2026{name[-_ENDS:]}"


def _chosen(found: CorpusStatistics, shown: Sequence[SourceStatistics]) -> str:
    """Added to an axis where sources were left out."""
    left = len(found.sources) - len(shown)
    return f" (largest {len(shown)} of {len(found.sources)} sources)" if shown and left else ""


def _legend_below(axes: Axes, columns: int) -> None:
    """A legend under the axis label, for which the layout makes room."""
    figure = axes.get_figure(root=True)
    if figure is not None:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns, handlelength=1,
                      handleheight=0.9, columnspacing=1.2)  # fmt: skip


# ---- lengths ---------------------------------------------------------------------------------------------------------


def draw_lengths(found: CorpusStatistics) -> Panel | None:
    """Share of the sequences by length on a log axis: all of them filled, the largest sources as lines."""
    total = found.total.lengths
    if total is None:
        return None
    shown = [source for source in _largest(found, _LINES) if source.lengths] if len(found.sources) > 1 else []

    def draw(axes: Axes) -> None:
        middle, share = _density(total.histogram)
        axes.fill_between(middle, share, color=COLORS["grid"], lw=0, zorder=1)
        axes.plot(middle, share, color=COLORS["ink"], lw=1.6, zorder=3, label="all, unique")
        for source, (color, _) in zip(shown, _KINDS, strict=False):
            if source.lengths:
                axes.plot(*_density(source.lengths.histogram), color=color, lw=1.2, zorder=4, label=_short(source.name))
        reach = [total, *(source.lengths for source in shown if source.lengths)]
        low = max(10, min(lengths.quantiles[0] for lengths in reach))
        high = max(lengths.quantiles[-1] for lengths in reach)
        count_axis(axes, "x", [float(low), float(max(high, low + 1))], f"Residues{_chosen(found, shown)}")
        axes.set_ylim(bottom=0)
        axes.set_ylabel("Sequences per doubling, %")
        _legend_below(axes, 2)

    return Panel(draw, 3.9)


def _density(histogram: Sequence[int]) -> tuple[Float, Float]:
    """Middles of the bins, and % of the sequences per doubling of the length."""
    counts = np.array(histogram, dtype=np.float64)
    edges = np.array(LENGTH_EDGES[: len(counts) + 1], dtype=np.float64)
    middle = np.sqrt(edges[:-1] * edges[1:])
    return middle, 100 * counts / counts.sum() / np.log2(edges[1:] / edges[:-1])


# ---- composition -----------------------------------------------------------------------------------------------------


def draw_composition(found: CorpusStatistics) -> Panel | None:
    """Frequency of each residue against its frequency in Swiss-Prot."""
    shown = [source for source in _largest(found, _LINES) if source.residues] if len(found.sources) > 1 else []
    if not found.total.residues:
        return None
    letters = sorted(STANDARD, key=lambda letter: -UNIPROT_PERCENT[letter])

    def draw(axes: Axes) -> None:
        ratios = []
        for source, (color, marker) in zip(shown, _KINDS, strict=False):
            ratios.append(_ratios(source, letters))
            axes.plot(ratios[-1], marker, color=color, ms=4.5, mew=0, alpha=0.9, label=_short(source.name), zorder=3)
        ratios.append(_ratios(found.total, letters))
        axes.bar(range(len(letters)), ratios[-1] - 1, bottom=1, color=COLORS["grid"], width=0.8, zorder=1)
        axes.plot(ratios[-1], "_", color=COLORS["ink"], ms=11, mew=1.8, label="all, unique", zorder=4)
        axes.axhline(1.0, color=COLORS["muted"], lw=0.9, zorder=2)
        axes.set_xticks(range(len(letters)), letters)
        axes.grid(visible=False, axis="x")
        _ratio_axis(axes, np.concatenate(ratios))
        axes.set_xlabel(f"Residues, the commonest first{_chosen(found, shown)}")
        axes.set_ylabel("Frequency / Swiss-Prot's")
        _legend_below(axes, 2)

    return Panel(draw, 4.2)


def _ratios(source: SourceStatistics, letters: Sequence[str]) -> Float:
    counts = np.array([source.residues.get(letter, 0) for letter in letters], dtype=np.float64)
    usual = np.array([UNIPROT_PERCENT[letter] for letter in letters])
    return np.asarray((counts / counts.sum()) / (usual / usual.sum()))


def _ratio_axis(axes: Axes, ratios: Float) -> None:
    """Logarithmic: half as often is as far from 1 as twice as often. What is rarer than a fourth is at the edge."""
    low, high = max(float(ratios.min()), 0.25), min(float(ratios.max()), 4.0)
    low, high = min(low / 1.08, 0.8), max(high * 1.08, 1.25)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    ticks = (0.25, 0.33, 0.5, 0.67, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


# ---- bars ------------------------------------------------------------------------------------------------------------


def draw_copies(found: CorpusStatistics) -> Panel | None:
    """Tokens of each source: unique, copies inside it, copies of earlier sources."""
    shown = _largest(found, _ROWS)
    if not any(source.copies_within.sequences or source.copies_across.sequences for source in found.sources):
        return None

    def draw(axes: Axes) -> None:
        parts = [
            (f"{source.name}", source.unique_tokens, source.copies_within.tokens, source.copies_across.tokens)
            for source in shown
        ]
        counts = np.array([part[1:] for part in parts], dtype=np.float64)
        shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        words = ("unique", "copies inside the source", "copies of earlier sources")
        _stacked(axes, [_short(part[0]) for part in parts], shares, words, (KINDS[0][0], KINDS[3][0], KINDS[1][0]))
        for y, source in enumerate(shown):
            _beside(axes, y, format_count(source.tokens))
        _beside(axes, -0.95, "tokens", muted=True)
        axes.set_xlabel(f"% of its tokens{_chosen(found, shown)}")

    return Panel(draw, 1.5 + 0.22 * len(shown))


def _stacked(axes: Axes, names: Sequence[str], shares: Float, words: Sequence[str], colors: Sequence[str]) -> None:
    """A bar of 100 % per row, the first on top."""
    left = np.zeros(len(names))
    for part, word, color in zip(shares.T, words, colors, strict=True):
        axes.barh(range(len(names)), part, left=left, color=color, height=0.72, label=word, zorder=2)
        left = left + part
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.grid(visible=False, axis="y")
    _legend_below(axes, len(words))


def _beside(axes: Axes, y: float, text: str, *, muted: bool = False) -> None:
    """Text in a column right of the panel."""
    color = COLORS["muted"] if muted else COLORS["ink"]
    axes.text(1.02, y, text, transform=axes.get_yaxis_transform(), ha="left", va="center", fontsize=8, color=color)


def draw_flags(found: CorpusStatistics) -> Panel | None:
    """Share of the tokens with each flag, in all and by source."""
    names = [name for name in FLAGS if name in found.total.flagged]
    if not names:
        return None
    shown = _largest(found, _LINES) if len(found.sources) > 1 else []

    def draw(axes: Axes) -> None:
        for y, name in enumerate(names):
            whole = 100 * found.total.flagged[name].tokens / max(1, found.total.tokens)
            axes.barh(y, whole, color=COLORS["grid"], height=0.66, zorder=1)
            axes.plot([whole, whole], [y - 0.33, y + 0.33], color=COLORS["ink"], lw=1.8, zorder=3)
            _beside(axes, y, f"{whole:.2f}" if whole < 10 else f"{whole:.1f}")
        for source, (color, marker) in zip(shown, _KINDS, strict=False):
            parts = [source.flagged[name].tokens if name in source.flagged else 0 for name in names]
            shares = [100 * part / max(1, source.tokens) for part in parts]
            axes.plot(shares, range(len(names)), marker, color=color, ms=5, mew=0, label=_short(source.name), zorder=4)
        _beside(axes, -0.95, "all, %", muted=True)
        axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel(f"% of the tokens{_chosen(found, shown)}")
        if shown:
            _legend_below(axes, 2)

    return Panel(draw, 2.1 + 0.26 * len(names))


def draw_identities(found: CorpusStatistics) -> Panel | None:
    """Held-out sequences by identity to the nearest training sequence."""
    leaks = [leak for leak in found.leakage if sum(leak.bins)]
    if not leaks:
        return None
    low, mid, high = (f"{100 * edge:g}" for edge in IDENTITY_EDGES)
    words = (f"< {low} %", f"{low}\u2013{mid} %", f"{mid}\u2013{high} %", f"\u2265 {high} %")

    def draw(axes: Axes) -> None:
        counts = np.array([leak.bins for leak in leaks], dtype=np.float64)
        shares = 100 * counts / counts.sum(axis=1, keepdims=True)
        _stacked(axes, [_short(leak.split) for leak in leaks], shares, words, _IDENTITY_COLORS)
        for y, leak in enumerate(leaks):
            _beside(axes, y, f"{sum(leak.bins):,}")
        _beside(axes, -0.95, "sequences", muted=True)
        axes.set_xlabel("% of the split's sequences")

    return Panel(draw, 1.6 + 0.36 * len(leaks))


# ---- overlap and clusters --------------------------------------------------------------------------------------------


def draw_overlap(found: CorpusStatistics) -> Panel | None:
    """Heat map of what sources share: exactly, or where there are clusters at 50 % identity."""
    if len(found.sources) < 2:
        return None
    shown = _largest(found, _ROWS)
    places = [found.sources.index(source) for source in shown]
    matrix = 100 * np.array(found.overlap50 or found.overlap)[np.ix_(places, places)]

    def draw(axes: Axes) -> None:
        image = axes.imshow(matrix, cmap=_PAPER, vmin=0, vmax=100, aspect="auto")
        names = [_short(source.name) for source in shown]
        if len(names) > _NAMED:
            names = [f"{name}  {i + 1}" for i, name in enumerate(names)]
            axes.set_xticks(range(len(names)), [str(i + 1) for i in range(len(names))])
        else:
            axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        axes.grid(visible=False)
        axes.set_xlabel(_chosen(found, shown).strip(" ()"))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        if len(names) <= _WRITTEN:
            for (i, j), value in np.ndenumerate(matrix):
                text = f"{value:.0f}" if value >= 10 or value == 0 else f"{value:.1f}"
                color = COLORS["card"] if value > 45 else COLORS["ink"]
                axes.text(j, i, text, ha="center", va="center", fontsize=8, color=color)
        if axes.figure is not None:
            bar = axes.figure.colorbar(image, ax=axes, fraction=0.045, pad=0.02, aspect=30)
            bar.outline.set_visible(False)
            bar.set_label("% of the row's sequences")

    return Panel(draw, 1.4 + 0.25 * len(shown) + (0.7 if len(shown) <= _NAMED else 0.0))


def draw_clusters(found: CorpusStatistics) -> Panel | None:
    """Share of the unique sequences in clusters up to each size."""
    if not found.cluster_sizes:
        return None

    def draw(axes: Axes) -> None:
        largest = max(sizes.largest for sizes in found.cluster_sizes)
        for sizes, (color, marker) in zip(found.cluster_sizes, KINDS, strict=False):
            members = np.cumsum([part.members for part in sizes.sizes])
            at = [min(part.largest, sizes.largest) for part in sizes.sizes]
            label = f"{sizes.percent} % identity: {format_count(sizes.clusters)} clusters"
            axes.plot(at, 100 * members / members[-1], marker=marker, ms=4.5, color=color, label=label, zorder=3)
        count_axis(axes, "x", [1.0, float(max(largest, 2))], "Sequences in the cluster, at most")
        axes.set_xlim(left=0.9)
        axes.set_ylim(0, 102)
        axes.set_ylabel("Unique sequences, %")
        axes.legend(loc="lower right")

    return Panel(draw)


CORPUS_PICTURES: Final[dict[str, CorpusPicture]] = {
    "lengths": CorpusPicture(
        "lengths of the sequences",
        "Equal areas are equal numbers of sequences. What lies right of the context is cut into several windows.",
        draw_lengths,
    ),
    "composition": CorpusPicture(
        "composition against Swiss-Prot",
        "Above one a residue is commoner than in Swiss-Prot. The entropy of the composition is the plateau L0 of a "
        "bounded law: what a model loses that knows nothing else.",
        draw_composition,
    ),
    "copies": CorpusPicture(
        "unique tokens and exact copies",
        "A sequence is unique where it occurs first, in the order of the sources. Copies add no tokens to learn from.",
        draw_copies,
    ),
    "overlap": CorpusPicture(
        "what the sources share",
        "A row says how much of a source the others hold too: the same sequence, or, where there are clusters, one of "
        "its 50 % cluster.",
        draw_overlap,
    ),
    "clusters": CorpusPicture(
        "near-duplicates",
        "How much of the corpus lies in clusters of at most so many sequences. At the left end are the sequences "
        "without a relative; a slow rise means that few families hold much of the data.",
        draw_clusters,
    ),
    "flags": CorpusPicture(
        "flagged sequences",
        "Bars are the whole corpus, markers its largest sources. A sweep can leave flagged sequences out.",
        draw_flags,
    ),
    "identities": CorpusPicture(
        "held-out sequences near training",
        "A loss on sequences with near relatives in training measures memory as well as learning.",
        draw_identities,
    ),
}
"""By name."""
