"""The report's section on sealed predictions: what was said of runs before they were made, and what came out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from plm_scaling.core.units import format_count
from plm_scaling.reporting.drawing import COLORS, draw_panel
from plm_scaling.reporting.figures import Section
from plm_scaling.reporting.study import Study
from plm_scaling.reporting.tables import Table
from plm_scaling.reporting.wording import MINUS, percent
from plm_scaling.sweeps.seal_records import LEVELS, SealedRun
from plm_scaling.sweeps.seal_scores import SealScore

__all__ = ["seal_sections"]

_ABSENT: Final = "\u2013"


def seal_sections(study: Study) -> tuple[Section, ...]:
    """The section, where predictions were sealed."""
    if not study.sealed:
        return ()
    reading = (
        "Before these runs were trained, a law's predictions of their final losses were sealed with a date. Intervals "
        "are of a single new run: parameters, choice of form, scatter and, beyond the budgets fitted, the error seen "
        "in extrapolation. Error is predicted over measured loss, less 1. Runs of one law err together, so the "
        "binomial interval of a coverage is rather too narrow. To others a seal proves its date from the day on which "
        "they were given its hash."
    )
    return (
        Section(
            key="sealed",
            short="Sealed",
            title="Predictions sealed before the runs",
            reading=reading,
            panels=tuple(_draw(score, f"sealed-{k}") for k, score in enumerate(study.sealed)),
            tables=tuple(_tabulate(score) for score in study.sealed),
            points=tuple(sentence for score in study.sealed for sentence in _conclusions(score)),
            alarms=tuple(alarm for score in study.sealed for alarm in _alarms(score)),
        ),
    )


def _name(score: SealScore) -> str:
    return f"{score.seal.objective.upper()}, sealed {score.seal.made.replace('T', ' ').replace('Z', ' UTC')}"


def _conclusions(score: SealScore) -> list[str]:
    n, total = len(score.scored), len(score.seal.runs)
    if not n:
        return [f"{_name(score)}: none of {total} runs has a loss that counts yet."]
    covers = [score.coverage(level) for level in LEVELS]
    inside = "; ".join(
        f"{percent(cover.level)} intervals: {cover.inside} of {cover.of} ({percent(cover.share)}, "
        f"{percent(cover.interval[0])} to {percent(cover.interval[1])})"
        for cover in covers
    )
    low, high = score.mean_error_expected
    verdict = "as the seal expected" if low <= score.mean_error <= high else "more than the seal expected"
    mean = f"{_signed(score.mean_error)}, {verdict} ({_signed(low)} to {_signed(high)}, 90 %)"
    return [
        f"{_name(score)}: {n} of {total} runs scored. The mean absolute error is "
        f"{_signed(score.mean_absolute_error)[1:]}; the mean error is {mean}.",
        f"{_name(score)}: runs inside their intervals, with a 95 % binomial interval: {inside}.",
    ]


def _alarms(score: SealScore) -> list[str]:
    alarms = [f"{_name(score)}: {note}" for note in score.seal.notes]
    alarms += [f"{_name(score)}: {run.run_id} does not count: {run.reason}." for run in score.not_counted]
    cover = score.coverage(0.9)
    if cover.of and cover.interval[1] < cover.level:
        alarms.append(
            f"{_name(score)}: {percent(cover.share)} of the runs lie inside their 90 % intervals: too few. The "
            "law promises more than it holds. Its other intervals, of N_opt too, may be too narrow."
        )
    return alarms


def _tabulate(score: SealScore) -> Table:
    seal = score.seal
    measured = {run.sealed.run_id: run for run in score.scored}
    reasons = {run.run_id: run.reason for run in (*score.waiting, *score.not_counted)}
    rows = []
    for sealed in _by_compute(seal.runs):
        run = measured.get(sealed.run_id)
        inside = "" if run is None else next((percent(level) for level in LEVELS if run.is_inside(level)), "outside")
        rows.append(
            (
                sealed.run_id,
                reasons.get(sealed.run_id, "scored"),
                format_count(sealed.N),
                format_count(sealed.D),
                f"{sealed.loss:.4f}",
                f"{sealed.interval_90[0]:.4f} to {sealed.interval_90[1]:.4f}",
                _ABSENT if run is None else f"{run.measured:.4f}",
                _ABSENT if run is None else _signed(run.error),
                inside or _ABSENT,
            )
        )
    forms = ", ".join(f"{name} {percent(weight)}" for name, weight in seal.forms.items())
    title = f"{_name(score)}, hash {seal.sha256[:16]}, by {seal.fit_name} ({seal.n_fitted} runs; {forms})"
    header = ("Run", "State", "N", "D", "Predicted", "90 % interval", "Measured", "Error", "Inside")
    return Table(title, header, tuple(rows), 2)


def _by_compute(runs: Sequence[SealedRun]) -> list[SealedRun]:
    return sorted(runs, key=lambda run: (run.N * run.D, run.N))


def _signed(share: float) -> str:
    return f"{100 * share:+.2f}\u00a0%".replace("-", MINUS)


def _draw(score: SealScore, key: str) -> Markup:
    """Intervals about each prediction, and where the loss came out, in per cent of the prediction."""
    runs = _by_compute(score.seal.runs)
    measured = {run.sealed.run_id: run for run in score.scored}

    def draw(axes: Axes) -> None:
        color = COLORS[score.seal.objective]
        for x, run in enumerate(runs, start=1):
            for level, width in ((0.9, 1.4), (0.5, 4.0)):
                low, high = (100 * (end / run.loss - 1) for end in run.interval(level))
                axes.plot([x, x], [low, high], color=color, lw=width, alpha=0.45, solid_capstyle="butt", zorder=2)
            if run.run_id in measured:
                style: dict[str, Any] = {"color": COLORS["ink"], "ls": "", "zorder": 3}
                inside = measured[run.run_id].is_inside(0.9)
                axes.plot([x], [100 * (measured[run.run_id].measured / run.loss - 1)],
                          marker="o" if inside else "X", ms=5 if inside else 7, **style)  # fmt: skip
        axes.axhline(0.0, color=COLORS["muted"], lw=0.8, zorder=1)
        axes.grid(axis="x", visible=False)  # its lines would lie on the bars
        axes.set_xlim(0.3, len(runs) + 0.7)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("Sealed runs, by compute")
        axes.set_ylabel("Loss over prediction, %")
        axes.set_title(_name(score))

    said = f"{len(measured)} of {len(runs)} sealed runs scored; {score.coverage(0.9).inside} inside the 90 % interval"
    return draw_panel(key, f"{_name(score)}: {said}.", draw)
