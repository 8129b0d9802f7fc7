"""Pictures of a run's ledger: where its tokens came from, and how new they were."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from plm_scaling.core.run import LedgerRow
from plm_scaling.core.units import format_count
from plm_scaling.corpus.ledger_report import LedgerPoint, LedgerReport
from plm_scaling.reporting.drawing import COLORS, note, write_picture
from plm_scaling.reporting.wording import percent

__all__ = ["Layer", "ledger_layers", "write_ledger_figure"]

Float = npt.NDArray[np.float64]

_SIZE: Final = (9.6, 4.1)
_LAYERS: Final = (
    ("new", "#0072b2"),
    ("near-copy, 50 %", "#56b4e9"),
    ("near-copy, 90 %", "#a9d8f2"),
    ("seen by an earlier run", "#009e73"),
    ("exact copy", "#cc79a7"),
    ("later epoch", COLORS["mlm"]),
)
"""From the bottom: what is new, then what is less so. The first three are the unique tokens."""


@dataclass(frozen=True)
class Layer:
    """Tokens of one kind along a run."""

    name: str
    color: str
    tokens: Float
    """float64[points], so far."""


def ledger_layers(curve: tuple[LedgerPoint, ...]) -> tuple[Layer, ...]:
    """The tokens by kind, bottom first; together they are all tokens. Kinds that never occur are left out."""
    table = np.array([_kinds(point.total) for point in curve], dtype=np.float64)
    layers = (Layer(name, color, table[:, number]) for number, (name, color) in enumerate(_LAYERS))
    return tuple(layer for layer in layers if layer.tokens.any())


def _kinds(row: LedgerRow) -> tuple[int, ...]:
    mates = (row.unique - row.mates_50, row.mates_50 - row.mates_90, row.mates_90)
    return (*mates, row.seen_earlier, row.repeated_duplicate, row.repeated_epoch)


def write_ledger_figure(report: LedgerReport, folder: Path, *, suffix: str = ".svg") -> Path:
    """Draw the ledger of a run into `folder`: ledger-RUN.svg.

    Left: tokens by kind against tokens drawn. Right: how large a share of the tokens was unique, of all so far and
    of those drawn about that time.

    Parameters
    ----------
    suffix : .svg, .png or .pdf.
    """
    tokens = np.array([point.total.tokens for point in report.curve], dtype=np.float64)

    def draw(figure: Figure) -> None:
        figure.suptitle(f"{report.objective.upper()} run {report.run_id}: which tokens were new", x=0.008, ha="left")
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1.0))
        _draw_layers(left, report, tokens)
        _draw_shares(right, report, tokens)

    label = f"Ledger of run {report.run_id}"
    return write_picture(folder / f"ledger-{report.run_id}{suffix}", draw, size=_SIZE, label=label)


def _draw_layers(axes: Axes, report: LedgerReport, tokens: Float) -> None:
    layers = ledger_layers(report.curve)
    bands = axes.stackplot(tokens, *(layer.tokens for layer in layers), colors=[layer.color for layer in layers], lw=0)
    names = [f"{layer.name}  {percent(layer.tokens[-1] / tokens[-1])}" for layer in layers]
    axes.legend(bands[::-1], names[::-1], loc="upper left", handlelength=1.1, labelspacing=0.45)
    axes.set_title("Tokens by kind, and their shares at the end")
    axes.set_ylim(0, tokens[-1])
    axes.set_ylabel("tokens so far")
    _count_ticks(axes, "y")
    _finish(axes, report, tokens, height=float(report.total.tokens))


def _draw_shares(axes: Axes, report: LedgerReport, tokens: Float) -> None:
    unique = np.array([point.total.unique for point in report.curve], dtype=np.float64)
    alone = unique - np.array([point.total.mates_50 for point in report.curve], dtype=np.float64)
    recent = _share(np.diff(unique), np.diff(tokens))
    axes.stairs(recent, tokens, baseline=None, color="#56b4e9", lw=1.2, label="unique, of those drawn at that time")
    axes.plot(tokens[1:], _share(unique[1:], tokens[1:]), color="#0072b2", lw=2.0, label="unique, of all so far")
    if (alone < unique).any():
        label = "unique and no near-copy, of all so far"
        axes.plot(tokens[1:], _share(alone[1:], tokens[1:]), color="#0072b2", lw=1.4, ls=(0, (1, 1.2)), label=label)
    before = report.first_tokens.get("repeated_epoch")
    if before is not None:
        axes.plot([before, before], [0, 1], color=COLORS["ink"], lw=0.9, ls=(0, (4, 2)), label="first epoch repeat")
    axes.set_title("Unique share")
    axes.set_ylim(0, 1.45)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    axes.legend(loc="upper left", labelspacing=0.35, borderaxespad=0.2)
    share = report.total.unique / report.total.tokens if report.total.tokens else 1.0
    _finish(axes, report, tokens, height=share)


def _share(part: Float, whole: Float) -> Float:
    return np.divide(part, whole, out=np.ones_like(whole), where=whole > 0)


def _finish(axes: Axes, report: LedgerReport, tokens: Float, *, height: float) -> None:
    """The x axis, and the step that the table on screen is of, if that is not the last."""
    axes.set_xlim(0, tokens[-1])
    axes.set_xlabel("tokens drawn")
    _count_ticks(axes, "x")
    if 0 < report.step < report.n_steps:
        at = report.total.tokens
        axes.plot([at, at], [0, height], color=COLORS["ink"], lw=1.0, zorder=3)
        axes.plot(at, height, "o", color=COLORS["ink"], ms=3.5, zorder=3, clip_on=False)
        left = at > 0.15 * tokens[-1]
        side: dict[str, Any] = {"ha": "right", "offset": (-6, 5)} if left else {"offset": (6, 5)}
        note(axes, f"step {report.step:,}", at, height, va="bottom", **side)


def _count_ticks(axes: Axes, which: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_count(value) if value else "0"))
