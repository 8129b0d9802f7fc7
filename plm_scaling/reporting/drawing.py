"""From matplotlib to pictures: a small inline SVG in the page's colours and font, or a file of its own.

No pyplot, no global state.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from plm_scaling.core.files import writing_atomic
from plm_scaling.core.units import format_count
from plm_scaling.reporting.wording import power_of_ten

__all__ = [
    "COLORS",
    "DARK",
    "KINDS",
    "SCALE",
    "budget_color",
    "count_axis",
    "draw_panel",
    "flops_axis",
    "log_ticks",
    "note",
    "write_picture",
]

_BUDGETS: Final = ("#46085c", "#472c7a", "#3e4a89", "#31678e", "#27808e", "#1f988b", "#2cb17e", "#58c765")
_BUDGETS_DARK: Final = ("#5aa5d6", "#45a9b8", "#34ab9a", "#3fb87f", "#5ec962", "#8fd744", "#c0df25", "#fde725")

COLORS: Final[dict[str, str]] = {
    "ink": "#1b2431",
    "muted": "#5c6878",
    "grid": "#e3e7ec",
    "card": "#fffffe",
    "clm": "#0072b2",
    "mlm": "#c14f00",
    "good": "#00875f",
    "warn": "#b3541e",
    **{f"b{i}": color for i, color in enumerate(_BUDGETS)},
}
"""Name of a page colour -> its value on paper. Okabe-Ito blue and vermilion for the objectives, the latter
darkened until its words can be read (4.5 to 1); viridis for budgets."""

DARK: Final[dict[str, str]] = {
    "ink": "#e7eaf0",
    "muted": "#a3aebd",
    "grid": "#2e3743",
    "card": "#171d26",
    "clm": "#5db8ee",
    "mlm": "#ff9a52",
    "good": "#3fce9f",
    "warn": "#f0a063",
    **{f"b{i}": color for i, color in enumerate(_BUDGETS_DARK)},
}
"""The same names on a dark screen."""

KINDS: Final = (
    (COLORS["clm"], "o"),
    (COLORS["mlm"], "s"),
    ("#009e73", "^"),
    ("#cc79a7", "D"),
    ("#1b2431", "v"),
    ("#8a6d00", "P"),
)
"""Colour and marker of things told apart by name: Okabe-Ito, its yellow darkened to be seen on paper."""

SCALE: Final = LinearSegmentedColormap.from_list("budgets", _BUDGETS)
"""The colours of the budgets without steps, for sizes and losses."""

_WIDTH: Final = 4.7
_STYLE: Final[dict[str, Any]] = {
    "svg.fonttype": "none",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9.0,
    "axes.labelsize": 9.0,
    "axes.labelcolor": COLORS["muted"],
    "axes.edgecolor": COLORS["muted"],
    "axes.titlecolor": COLORS["ink"],
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "grid.color": COLORS["grid"],
    "grid.linewidth": 0.7,
    "text.color": COLORS["ink"],
    "xtick.color": COLORS["muted"],
    "ytick.color": COLORS["muted"],
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


def budget_color(index: int, n_budgets: int) -> str:
    """Colour of the i-th of n budgets: evenly spaced over the scale, more compute is lighter."""
    if n_budgets < 2:
        return _BUDGETS[3]
    return _BUDGETS[round(index * (len(_BUDGETS) - 1) / (n_budgets - 1))]


def draw_panel(name: str, label: str, draw: Callable[[Axes], None], *, height: float = 3.5) -> Markup:
    """One axes drawn by `draw` as inline SVG.

    Parameters
    ----------
    name : unique on the page; keeps the ids of several SVGs apart.
    label : what the picture shows, for readers that cannot see it.
    draw : draws onto the axes it is given.
    height : inches; the width is fixed.
    """
    style: Any = {**_STYLE, "svg.hashsalt": name}
    with mpl.rc_context(style):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return Markup(_inline(buffer.getvalue(), name, label))


def write_picture(path: Path, draw: Callable[[Figure], None], *, size: tuple[float, float], label: str) -> Path:
    """A picture drawn by `draw` as a file of its own, on white, replaced atomically.

    Parameters
    ----------
    path : its ending says the format: .svg (text stays text), .png or .pdf.
    size : width and height, inches; 9.6 wide reads well at 1200 pixels and on a printed page.
    label : what the picture shows, kept as its title.
    """
    style: Any = {**_STYLE, "svg.hashsalt": path.stem, "figure.facecolor": "white", "figure.titlesize": 11.5}
    style |= {"figure.titleweight": "bold", "axes.titleweight": "normal", "axes.labelcolor": COLORS["ink"]}
    kind = path.suffix.lower().removeprefix(".")
    dated = {"svg": "Date", "pdf": "CreationDate"}.get(kind)
    with mpl.rc_context(style):
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.06, rect=(0, 0, 0.988, 1)))
        draw(figure)
        metadata: dict[str, Any] = {"Title": label, **({dated: None} if dated else {})}
        with writing_atomic(path) as handle:
            figure.savefig(handle, format=kind, dpi=160, metadata=metadata)
    return path


def _inline(svg: str, name: str, label: str) -> str:
    """Body of an SVG document made fit for a page: no prologue, few ids, page colours, page font, short numbers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = svg.replace("xlink:href", "href")
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r"(url\(#|href=\"#)", lambda m: f"{m[1]}{name}-", svg)
    svg = re.sub(r"<[^>]*>", lambda m: _shortened(m[0]), svg)
    # The label comes after: its numbers are words.
    svg = re.sub(r"<svg [^>]*?viewBox=\"([^\"]*)\"[^>]*>", _opening(label), svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"(font: (?:[a-z]+ )*[\d.]+px) [^;\"]+", r"\1 var(--sans)", svg)
    svg = re.sub(r"font-family: [^;\"]+", "font-family: var(--sans)", svg)
    for key, color in COLORS.items():
        svg = svg.replace(color, f"var(--{key})")
    return re.sub(r"\n\s*", "\n", svg)


def _shortened(tag: str) -> str:
    """Coordinates to a hundredth of a point. Only inside tags: the words of a picture keep their digits."""
    return re.sub(r"(?<![\w.])-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", tag)


def _opening(label: str) -> str:
    return rf'<svg xmlns="http://www.w3.org/2000/svg" viewBox="\1" role="img" aria-label="{escape(label)}">'


def count_axis(axes: Axes, which: str, values: list[float], label: str, *, most: int = 7) -> None:
    """A log axis of counts (N, D, epochs) with at most so many ticks, which people read: 1, 2, 5 per decade, 25k."""
    _log_axis(axes, which, values, label, format_count, most)


def flops_axis(axes: Axes, values: list[float], label: str, *, most: int = 7) -> None:
    """A log x axis of FLOPs, at most so many ticks as powers of ten."""
    _log_axis(axes, "x", values, label, power_of_ten, most)


def _log_axis(axes: Axes, which: str, values: list[float], label: str, text: Callable[[float], str], most: int) -> None:
    low, high = min(values), max(values)
    span = math.log(high / low)
    margin = max(0.08 * span, 0.5 * (math.log(4.0) - span))  # a lone value still gets an axis with ticks
    low, high = low / math.exp(margin), high * math.exp(margin)
    axis = axes.xaxis if which == "x" else axes.yaxis
    # Limits first: what is drawn may share one value, from which matplotlib makes no limits of its own.
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis.set_major_locator(FixedLocator(log_ticks(low, high, most)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_minor_formatter(NullFormatter())
    axis.set_label_text(label)


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """The densest of the 1-2-5 and the power-of-ten grids that leaves at most so many ticks."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps, every in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3)):
        ticks = [step * 10.0**d for d in decades if d % every == 0 for step in steps]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) <= most:
            return inside
    return [10.0**d for d in decades if d % 5 == 0]


def note(axes: Axes, text: str, x: float, y: float, **style: Any) -> None:
    """A direct label at data coordinates, offset in points by `offset`, in the colour of what it names."""
    offset = style.pop("offset", (4, 0))
    settings: dict[str, Any] = {"fontsize": 8.5, "va": "center", "annotation_clip": False, **style}
    axes.annotate(text, (x, y), xytext=offset, textcoords="offset points", **settings)
