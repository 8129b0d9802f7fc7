"""Pictures of the single experiments: repeats, diversity, transfer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from plm_scaling.core.units import format_count
from plm_scaling.reporting.arms import Arm, DiversityGroup, RepeatSeries, scratch_curve
from plm_scaling.reporting.drawing import COLORS, budget_color, count_axis, draw_panel, note
from plm_scaling.reporting.study import Curve, Study
from plm_scaling.reporting.wording import MINUS, signed
from plm_scaling.transfers.transfer_fit import TransferPair

__all__ = ["draw_diversity", "draw_repeat_curves", "draw_repeats", "draw_transfer"]


def draw_repeats(study: Study, series: RepeatSeries, name: str) -> Markup:
    """Validation loss at the end against passes over the unique tokens, at equal N and D."""
    color = COLORS[series.objective]
    noise = study.noise_sd(series.objective)

    def draw(axes: Axes) -> None:
        if series.reference:
            _reference_line(axes, series.reference.loss, noise)
        for fixed in (False, True):
            arms = [arm for arm in series.arms if arm.fixed_masks == fixed]
            _draw_arms(axes, arms, color, noise, hollow=fixed)
        floor = study.floors.get(series.objective)
        low, high = axes.get_ylim()
        if floor is not None and low < floor < high:
            axes.axhline(floor, color=COLORS["muted"], lw=1, ls=(0, (5, 3)))
        count_axis(axes, "x", [1.0, *(arm.epochs for arm in series.arms)], "Passes over the unique tokens (epochs)")
        if floor is not None and low < floor < high:
            text = f"residue frequencies alone: {floor:.3f}"
            note(axes, text, axes.get_xlim()[0], floor, color=COLORS["muted"], offset=(4, 6), fontsize=8)
        if series.reference:
            loss = series.reference.loss
            note(axes, "unlimited data", axes.get_xlim()[0], loss, color=COLORS["ink"], offset=(4, -8), fontsize=8)
        axes.set_ylabel("Validation loss, nats per token")
        axes.set_title(_at(series))

    return draw_panel(name, f"Loss against epochs, {_at(series)}", draw)


def _at(group: RepeatSeries | DiversityGroup) -> str:
    return f"{group.objective.upper()}, N = {format_count(group.N)}, D = {format_count(group.D)}"


def _reference_line(axes: Axes, loss: float, noise: float | None) -> None:
    axes.axhline(loss, color=COLORS["ink"], lw=1.1, zorder=1)
    if noise:
        axes.axhspan(loss - noise, loss + noise, color=COLORS["ink"], alpha=0.08, lw=0)
    # A flat series must not be blown up into a dramatic one.
    axes.update_datalim([(1.0, loss - 0.06), (1.0, loss + 0.12)])


def _draw_arms(axes: Axes, arms: list[Arm], color: str, noise: float | None, *, hollow: bool) -> None:
    if not arms:
        return
    for arm in arms:
        for row in arm.rows:
            axes.plot(arm.epochs, row.loss, ".", color=color, alpha=0.4, ms=5)
    epochs, loss = [arm.epochs for arm in arms], [arm.loss for arm in arms]
    fill = COLORS["card"] if hollow else color
    axes.errorbar(epochs, loss, yerr=noise, fmt="o", color=color, mfc=fill, ms=5.5, elinewidth=1,
                  ls="--" if hollow else "-")  # fmt: skip
    if hollow:
        note(axes, "fixed masks", epochs[-1], loss[-1], color=color, offset=(-6, 9), ha="right")


def draw_repeat_curves(study: Study, series: RepeatSeries, name: str) -> Markup | None:
    """Training (thin) and validation (marked) loss along training, per number of epochs; None without curves."""
    arms = [*([series.reference] if series.reference else []), *series.arms]
    found = [(arm, study.curves[arm.rows[0].run_id]) for arm in arms if arm.rows[0].run_id in study.curves]
    if not found:
        return None

    def draw(axes: Axes) -> None:
        for index, (arm, curve) in enumerate(found):
            _draw_curve(axes, curve, arm, budget_color(index, len(found)))
        axes.set_xlim(0, 1.24 * max(float(curve.D[-1]) for _, curve in found))
        axes.set_ylabel("Loss, nats per token")
        axes.set_xlabel("Tokens seen")
        axes.xaxis.set_major_formatter(lambda value, _: format_count(value) if value else "0")
        axes.set_title(f"{series.objective.upper()}: training (thin) and validation (dots)")
        _spread_labels(axes)

    return draw_panel(name, f"Training and validation curves of the repeats, {_at(series)}", draw)


def _draw_curve(axes: Axes, curve: Curve, arm: Arm, color: str) -> None:
    skip = max(1, len(curve.D) // 12)
    if len(curve.D) > skip:
        axes.plot(curve.D[skip:], _smooth(curve.loss)[skip:], color=color, lw=0.8, alpha=0.75)
    if len(curve.validation_D):
        axes.plot(curve.validation_D, curve.validation_loss, "o-", color=color, ms=3.6, lw=1.6)
        label = arm.label.removesuffix(", fixed masks")
        end = float(curve.validation_D[-1]), float(curve.validation_loss[-1])
        note(axes, label, *end, color=color, offset=(6, 0), fontsize=8)


def _smooth(loss: np.ndarray, keep: int = 60) -> np.ndarray:
    """Running mean over about 1/60 of the curve: single batches of a small run are all noise."""
    width = max(1, len(loss) // keep)
    kernel = np.ones(width) / width
    padded = np.pad(loss, (width // 2, width - 1 - width // 2), mode="edge")
    return np.convolve(padded, kernel, mode="valid")


def _spread_labels(axes: Axes) -> None:
    """Push labels at the curves' ends apart, keeping their order, so that none overlaps."""
    texts = sorted((child for child in axes.texts), key=lambda text: text.xy[1])  # type: ignore[attr-defined]
    low, high = axes.get_ylim()
    step = 0.062 * (high - low)
    height = -math.inf
    for text in texts:
        height = max(text.xy[1], height + step)  # type: ignore[attr-defined]
        text.set_position((6, (height - text.xy[1]) / (high - low) * 3.5 * 72 * 0.8))  # type: ignore[attr-defined]


def draw_diversity(group: DiversityGroup, name: str) -> Markup:
    """Loss of every mixture minus that of the first source repeated, with its error."""
    arms = [arm for arm in group.arms if arm.change is not None]

    def draw(axes: Axes) -> None:
        for place, arm in enumerate(arms):
            _draw_bar(axes, arm, place, COLORS[group.objective])
        ends = [x for arm in arms for x in _bar_ends(arm)]
        low, high = min(-0.01, *ends), max(0.01, *ends)
        margin = 0.08 * (high - low)
        axes.axvline(0, color=COLORS["ink"], lw=1.1, zorder=3)
        axes.set_xlim(low - margin, high + margin)
        axes.set_ylim(len(arms) - 0.45, -0.75)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:+.3g}".replace("-", MINUS) if value else "0")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(False, axis="y")
        axes.set_xlabel("Loss change, nats (left of zero is better)")
        axes.set_title(_at(group))

    return draw_panel(name, f"Diversity arm, {_at(group)}", draw, height=1.1 + 0.75 * len(arms))


def _bar_ends(arm: Arm) -> tuple[float, float]:
    value, se = (arm.change.value, arm.change.se or 0.0) if arm.change else (0.0, 0.0)
    return value - se, value + se


def _draw_bar(axes: Axes, arm: Arm, place: int, color: str) -> None:
    """A bar with its error; above it what it is (left) and its value (right)."""
    if arm.change is None:
        return
    value, se = arm.change.value, arm.change.se
    axes.barh(place, value, height=0.36, color=color, alpha=0.8, zorder=2)
    if se:
        axes.errorbar(value, place, xerr=se, fmt="none", color=COLORS["ink"], elinewidth=1.3, capsize=3.5, zorder=4)
    across: Any = axes.get_yaxis_transform()
    paper = {"facecolor": COLORS["card"], "edgecolor": "none", "pad": 1.0}
    style: Any = {"transform": across, "va": "center", "fontsize": 8.5, "bbox": paper, "zorder": 5}
    axes.text(0.0, place - 0.42, arm.label, ha="left", **style)
    axes.text(1.0, place - 0.42, signed(value, se), ha="right", weight="bold", **style)


def draw_transfer(study: Study, pair: TransferPair, name: str) -> Markup:
    """Scratch runs in D, the transferred run, and how far to the right it would stand from scratch (D_t)."""
    color, source = COLORS[pair.objective], COLORS[pair.source_objective]
    scratch = scratch_curve(study, pair) or ((pair.D, pair.loss_scratch),)

    def draw(axes: Axes) -> None:
        D, loss = [point[0] for point in scratch], [point[1] for point in scratch]
        axes.plot(D, loss, "o-", color=color, ms=5)
        axes.plot([pair.D] * 2, [pair.loss_transfer, pair.loss_scratch], ":", color=COLORS["muted"], lw=1.2, zorder=1)
        axes.plot(pair.D, pair.loss_transfer, "D", color=source, mec=COLORS["card"], ms=8.5, zorder=5)
        low, high = min(*loss, pair.loss_transfer), max(*loss, pair.loss_scratch)
        axes.set_ylim(low - 0.2 * (high - low), high + 0.1 * (high - low))
        ends = [*D, pair.D, *_draw_arrows(axes, pair)]
        count_axis(axes, "x", [min(ends) / 1.2, max(ends) * 1.1], "Training tokens of the target, D")
        note(axes, f"{pair.objective.upper()} from scratch", D[0], loss[0], color=color, offset=(9, 3), weight="bold")
        text = f"from {pair.source_objective.upper()}"
        note(axes, text, pair.D, pair.loss_transfer, color=source, offset=(-9, 0), ha="right", weight="bold")
        axes.set_ylabel("Validation loss, nats per token")
        way = f"{pair.source_objective.upper()} \u2192 {pair.objective.upper()}"
        axes.set_title(f"{way}, N = {format_count(pair.N)}")

    label = f"Transfer from {pair.source_objective.upper()} to {pair.objective.upper()}"
    return draw_panel(name, label, draw, height=3.7)


def _draw_arrows(axes: Axes, pair: TransferPair) -> list[float]:
    """The gain D_t at the transferred loss; below it the tokens that the source's compute would have bought.

    Labels stand where a falling scratch curve is not: the gain's above right, the cost's below left.
    """
    if pair.D_t is None:
        return []
    y = pair.loss_transfer
    below = y - 0.075 * (axes.get_ylim()[1] - axes.get_ylim()[0])
    arrow: Any = {"arrowstyle": "-|>", "lw": 1.8, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 11}
    ends = [pair.D + pair.D_t]
    axes.annotate("", (ends[0], y), (pair.D, y), arrowprops={**arrow, "color": COLORS["good"]}, zorder=4)
    if pair.D_t_low is not None and pair.D_t_high is not None:
        ends += [max(pair.D + pair.D_t_low, pair.D * 0.5), pair.D + pair.D_t_high]
        axes.plot(ends[1:], [y, y], color=COLORS["good"], lw=7, alpha=0.22, solid_capstyle="butt")
    note(axes, f"worth {format_count(pair.D_t)}", max(ends), y, color=COLORS["good"], offset=(4, 8), weight="bold")
    if pair.net_tokens is not None and (cost := pair.D_t - pair.net_tokens) > 0:
        axes.annotate("", (pair.D + cost, below), (pair.D, below), arrowprops={**arrow, "color": COLORS["warn"]})
        text = f"source cost {format_count(cost)}"
        note(axes, text, pair.D, below, color=COLORS["warn"], offset=(-9, -1), ha="right", weight="bold")
        ends.append(pair.D + cost)
    return [end for end in ends if end > 0]
