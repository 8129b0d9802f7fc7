"""Pictures of the single experiments: repeats, diversity, transfer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from plm_scaling.core.units import format_count
from plm_scaling.corpus.format import VAL_IID
from plm_scaling.reporting.arms import Arm, RepeatSeries
from plm_scaling.reporting.drawing import COLORS, budget_color, count_axis, draw_panel, note
from plm_scaling.reporting.mixtures import DiversityGroup, DiversityView
from plm_scaling.reporting.study import Curve, Study, on_set, pair_set
from plm_scaling.reporting.wording import MINUS, count, signed
from plm_scaling.transfers.curves import curve_of
from plm_scaling.transfers.pairs import scratch_curve
from plm_scaling.transfers.transfer_fit import TransferPair

__all__ = ["draw_diversity", "draw_repeat_curves", "draw_repeats", "draw_transfer", "scratch_points"]


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
        axes.set_title(f"{series.objective.upper()}: training (thin) and {VAL_IID} (dots)")
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


def draw_diversity(study: Study, view: DiversityView, name: str) -> Markup:
    """Loss of every mixture minus that of the first source repeated: on the whole set, then by source."""
    group = view.pooled
    arms = [arm for arm in group.arms if arm.change is not None]
    bars: list[tuple[float, str, Arm]] = []
    heads: list[tuple[float, str]] = []
    place = 0.0
    for arm in arms:
        heads.append((place, arm.label))
        twins = [(source, view.on_source(source, arm)) for source, _ in view.parts]
        for label, twin in [(study.validation, arm), *twins]:
            if twin is not None and twin.change is not None:
                place += 1.0
                bars.append((place, label, twin))
        place += 1.4

    def draw(axes: Axes) -> None:
        for at, label, arm in bars:
            _draw_bar(axes, arm, at, COLORS[group.objective], whole=label == study.validation)
        ends = [x for _, _, arm in bars for x in _bar_ends(arm)]
        low, high = min(-0.01, *ends), max(0.01, *ends)
        margin = 0.08 * (high - low)
        axes.axvline(0, color=COLORS["ink"], lw=1.1, zorder=3)
        axes.set_xlim(low - margin, high + margin)
        axes.set_ylim(place - 0.7, -0.7)
        for at, text in heads:
            paper = {"facecolor": COLORS["card"], "edgecolor": "none", "pad": 1.0}
            axes.text(0.0, at, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5, bbox=paper,
                      zorder=5)  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:+.3g}".replace("-", MINUS) if value else "0")
        axes.set_yticks([at for at, _, _ in bars], [label for _, label, _ in bars])
        axes.spines["left"].set_visible(False)
        axes.grid(False, axis="y")
        axes.set_xlabel("Loss change, nats (left of zero is better)")
        axes.set_title(_at(group))

    return draw_panel(name, f"Diversity arm, {_at(group)}", draw, height=1.1 + 0.27 * max(place, 2.0))


def _bar_ends(arm: Arm) -> tuple[float, float]:
    value, se = (arm.change.value, arm.change.se or 0.0) if arm.change else (0.0, 0.0)
    return value - se, value + se


def _draw_bar(axes: Axes, arm: Arm, place: float, color: str, *, whole: bool) -> None:
    """A bar with its error, its value at the right; the whole set's is full, a single source's is pale."""
    if arm.change is None:
        return
    value, se = arm.change.value, arm.change.se
    axes.barh(place, value, height=0.62, color=color, alpha=0.85 if whole else 0.4, zorder=2)
    if se:
        axes.errorbar(value, place, xerr=se, fmt="none", color=COLORS["ink"], elinewidth=1.3, capsize=3, zorder=4)
    style: Any = {"va": "center", "fontsize": 8.5, "weight": "bold" if whole else "normal"}
    axes.text(1.02, place, signed(value, se), transform=axes.get_yaxis_transform(), **style)


def draw_transfer(study: Study, pair: TransferPair, name: str) -> Markup:
    """Scratch runs in D, the transferred run, and how far to the right it would stand from scratch (D_t)."""
    color, source = COLORS[pair.objective], COLORS[pair.source_objective]
    judged = pair_set(study, pair)
    D, loss = scratch_points(on_set(study, judged), pair)

    def draw(axes: Axes) -> None:
        axes.plot(D, loss, "o-", color=color, ms=5)
        axes.plot([pair.D] * 2, [pair.loss_transfer, pair.loss_scratch], ":", color=COLORS["muted"], lw=1.2, zorder=1)
        axes.plot(pair.D, pair.loss_transfer, "D", color=source, mec=COLORS["card"], ms=8.5, zorder=5)
        low, high = min(*loss, pair.loss_transfer), max(*loss, pair.loss_scratch)
        axes.set_ylim(low - 0.2 * (high - low), high + 0.1 * (high - low))
        ends = [*D, pair.D, *_draw_arrows(axes, pair)]
        count_axis(axes, "x", [min(ends) / 1.2, max(ends) * 1.1], "Training tokens of the target, D")
        note(axes, f"{pair.objective.upper()} from scratch", D[0], loss[0], color=color, offset=(9, 3), weight="bold")
        text = f"from {pair.source_objective.upper()}"
        right = pair.D_t is not None and pair.D_t < 0
        note(axes, text, pair.D, pair.loss_transfer, color=source, offset=(9 if right else -9, 0),
             ha="left" if right else "right", weight="bold")  # fmt: skip
        axes.set_ylabel("Validation loss, nats per token")
        way = f"{pair.source_objective.upper()} \u2192 {pair.objective.upper()}"
        where = "" if judged == study.validation else f", on {judged}"
        axes.set_title(f"{way}, N = {format_count(pair.N)}{where}")

    label = f"Transfer from {pair.source_objective.upper()} to {pair.objective.upper()}"
    return draw_panel(name, label, draw, height=3.7)


def scratch_points(study: Study, pair: TransferPair) -> tuple[list[float], list[float]]:
    """D and mean losses of the scratch runs behind a pair; its partner alone where the table lacks them."""
    target = next((row for row in study.table if row.run_id == pair.target_run_id), None)
    runs = scratch_curve(study.table, target) if target else None
    if not runs:
        return [pair.D], [pair.loss_scratch]
    curve = curve_of(runs)
    return np.exp(curve.log_D).tolist(), curve.loss.tolist()


def _draw_arrows(axes: Axes, pair: TransferPair) -> list[float]:
    """The gain D_t at the transferred loss; below it the tokens that the source's compute would have bought.

    Labels stand where a falling scratch curve is not: the gain's above right, the cost's below its arrow. A loss points
    to the left; a gain only bounded from below ends at its bound.
    """
    known = pair.D_t if pair.D_t is not None else pair.D_t_low
    if known is None or pair.D + known <= 0:
        return []
    y = pair.loss_transfer
    below = y - 0.075 * (axes.get_ylim()[1] - axes.get_ylim()[0])
    arrow: Any = {"arrowstyle": "-|>", "lw": 1.8, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 11}
    color = COLORS["good"] if known > 0 else COLORS["warn"]
    ends = [pair.D + known]
    axes.annotate("", (ends[0], y), (pair.D, y), arrowprops={**arrow, "color": color}, zorder=4)
    if pair.D_t is not None and pair.D_t_low is not None and pair.D_t_high is not None:
        ends += [max(pair.D + pair.D_t_low, pair.D * 0.5), pair.D + pair.D_t_high]
        axes.plot(ends[1:], [y, y], color=color, lw=7, alpha=0.22, solid_capstyle="butt")
    style: Any = {"color": color, "weight": "bold"}
    if known > 0:
        least = "" if pair.D_t is not None else "at least "
        note(axes, f"worth {least}{count(known)}", max(ends), y, offset=(4, 8), **style)
    else:
        note(axes, f"costs {count(-known)}", min(ends), y, offset=(-4, -9), ha="right", **style)
    if pair.D_t is not None and pair.net_tokens is not None and (cost := pair.D_t - pair.net_tokens) > 0:
        axes.annotate("", (pair.D + cost, below), (pair.D, below), arrowprops={**arrow, "color": COLORS["warn"]})
        text = f"source cost {format_count(cost)}"
        note(axes, text, pair.D, below, color=COLORS["warn"], offset=(2, -9), weight="bold")
        ends.append(pair.D + cost)
    return [end for end in ends if end > 0]
