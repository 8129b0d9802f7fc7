"""The report's section on groups of sequences: whose loss falls how fast with N and with D."""

from __future__ import annotations

from typing import Final, Literal

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from plm_scaling.laws.group_basis import law_slopes
from plm_scaling.laws.group_fit import GroupFit, GroupLaw
from plm_scaling.laws.interval import Interval
from plm_scaling.reporting.drawing import COLORS, draw_panel
from plm_scaling.reporting.figures import Section
from plm_scaling.reporting.study import Study
from plm_scaling.reporting.tables import Table
from plm_scaling.reporting.wording import count, flag_words, join_words, number_interval, percent

__all__ = ["groups_sections"]

_ABSENT: Final = "\u2013"
_FASTEST: Final = 14
_SLOWEST: Final = 6
"""Groups in a picture and in the table: those whose loss falls fastest with D, and slowest."""
_NAME: Final = 26
"""Letters of a name beside a bar."""

Axis = Literal["N", "D"]
_AXES: Final[tuple[Axis, ...]] = ("D", "N")


def groups_sections(study: Study) -> tuple[Section, ...]:
    """The section, where laws by group were fitted."""
    if not study.groups:
        return ()
    reading = (
        "Change of a group's loss per doubling of the parameters N or the tokens D, at the centre of the runs; the "
        "further left, the more a group gains. Bars are 95 %, of the group's own sequences and runs and of what the "
        "other groups let one expect of it; the broken line is the law of all sequences, open dots are groups with a "
        "doubt of their own. Groups were not chosen in advance: a chance of being among the fastest counts all of them."
    )
    fits = study.groups.items()
    return (
        Section(
            key="groups",
            short="Groups",
            title="Which groups of sequences gain from scale",
            reading=reading,
            panels=tuple(_draw(fit, axis, f"groups-{name}-{axis}") for name, fit in fits for axis in _AXES),
            tables=tuple(_tabulate(fit) for _, fit in fits),
            points=tuple(sentence for _, fit in fits for sentence in _conclusions(fit)),
            alarms=tuple(f"{_name(fit)}: {_plain(note)}" for _, fit in fits for note in fit.notes),
        ),
    )


def _name(fit: GroupFit) -> str:
    return f"{fit.objective.upper()} by {fit.by}"


def _plain(note: str) -> str:
    """A note as a sentence, its flag behind."""
    flag, _, text = note.partition(": ")
    return f"{text.rstrip('.')} ({flag})."


def _change(group: GroupLaw, axis: Axis) -> Interval:
    return group.per_doubling_N if axis == "N" else group.per_doubling_D


def _of_all(fit: GroupFit, axis: Axis) -> float | None:
    """Change of the loss of all sequences by their law, per doubling at the centre of the runs."""
    if fit.law.surface is None:
        return None
    slopes, _ = law_slopes(fit.law.surface, fit.N0, fit.D0)
    return float(slopes[0 if axis == "N" else 1])


def _by_change(fit: GroupFit, axis: Axis) -> list[GroupLaw]:
    return sorted(fit.groups, key=lambda group: _change(group, axis).value)


def _shown(fit: GroupFit) -> tuple[list[GroupLaw], int]:
    """The groups that are shown, by their change with D, and how many in between are not."""
    order = _by_change(fit, "D")
    between = len(order) - _FASTEST - _SLOWEST
    return (order, 0) if between <= 0 else ([*order[:_FASTEST], *order[-_SLOWEST:]], between)


def _conclusions(fit: GroupFit) -> list[str]:
    said = []
    for axis in _AXES:
        order = _by_change(fit, axis)
        first, last = order[0], order[-1]
        chance, told = (first.fastest_D, fit.reliability[2]) if axis == "D" else (first.fastest_N, fit.reliability[1])
        unshown = sum(_change(group, axis).high >= 0 for group in fit.groups)
        among = f"among the {fit.fastest_of} fastest" if fit.fastest_of > 1 else "the fastest"
        text = (
            f"{_name(fit)}: a doubling of {axis} changes the loss of {first.name} most, by "
            f"{number_interval(_change(first, axis))} nats ({percent(chance)} to be {among} of {len(order)}), that of "
            f"{last.name} least, by {number_interval(_change(last, axis))}."
        )
        text += f" For {unshown} of them no fall can be shown." if unshown else ""
        said.append(f"{text} Of the differences between groups their own data carry {percent(told)}.")
    if fit.homology:
        line = fit.homology.loss
        seen = "is not resolved" if line.low <= 0.0 <= line.high else "is"
        said.append(
            f"{_name(fit)}: between groups, the difference in loss per doubling of training tokens of a group's own "
            f"kind {seen} {number_interval(line)} nats. Groups differ in more than their tokens."
        )
    return said


def _tabulate(fit: GroupFit) -> Table:
    shown, between = _shown(fit)
    rows = [
        (
            group.name,
            flag_words(group.flags) or _ABSENT,
            f"{group.sequences:,}",
            _ABSENT if group.homologous_tokens is None else count(group.homologous_tokens),
            number_interval(group.loss),
            number_interval(group.per_doubling_N),
            percent(group.fastest_N),
            number_interval(group.per_doubling_D),
            percent(group.fastest_D),
        )
        for group in shown
    ]
    parts = [f"{fit.n_runs} runs", f"{len(fit.groups)} groups of {join_words(fit.validation.split(','))}"]
    parts += [f"the {_FASTEST} fastest with D and the {_SLOWEST} slowest; {between} between them are in the file"] * (
        between > 0
    )
    parts += [f"{fit.left_out} left out"] * (fit.left_out > 0)
    top = f"Of the {fit.fastest_of} fastest" if fit.fastest_of > 1 else "Fastest"
    header = (
        "Group", "Doubts", "Sequences", "Tokens of its own", "Loss, largest run",
        "Per doubling of N", f"{top}, N", "Per doubling of D", f"{top}, D",
    )  # fmt: skip
    return Table(f"{_name(fit)}: {'; '.join(parts)}", header, tuple(rows), 2)


def _draw(fit: GroupFit, axis: Axis, key: str) -> Markup:
    """The groups' changes as bars with their intervals, the fastest above."""
    shown, between = _shown(fit)
    color, of_all = COLORS[fit.objective], _of_all(fit, axis)

    def draw(axes: Axes) -> None:
        for y, group in enumerate(shown):
            change = _change(group, axis)
            few = bool(group.flags)
            axes.plot([change.low, change.high], [y, y], color=color, lw=2.2, alpha=0.45, zorder=2)
            fill = COLORS["card"] if few else color
            axes.plot([change.value], [y], marker="o", ms=4.5, mec=color, mfc=fill, ls="", zorder=3)
        if of_all is not None:
            axes.axvline(of_all, color=COLORS["ink"], lw=0.9, ls=(0, (4, 2)), zorder=1)
        axes.axvline(0.0, color=COLORS["muted"], lw=0.8, zorder=1)
        if between:
            axes.axhline(_FASTEST - 0.5, color=COLORS["muted"], lw=0.8, ls=(0, (1, 2)), zorder=1)
        axes.set_yticks(range(len(shown)), [_short(group.name) for group in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)  # its lines would lie on the bars
        axes.xaxis.set_major_locator(MaxNLocator(4))  # the labels are long, the panel narrow
        axes.set_xlabel(f"Change of the loss per doubling of {axis}, nats")
        axes.set_title(f"{_name(fit)}: with {axis}")

    said = ", ".join(f"{group.name} {number_interval(_change(group, axis))}" for group in shown[:3])
    label = f"{_name(fit)}: change of the loss per doubling of {axis}, nats. First: {said}."
    return draw_panel(key, label, draw, height=1.1 + 0.19 * len(shown))


def _short(name: str) -> str:
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}\u2026"
