"""The loss at the end of a run, from its first part: learned from runs of the same sweep that went to their ends.

A schedule is stretched to a run's own tokens, so a complete run cut at some share of its schedule is what an unfinished
one looks like there. What is learned is the rest of the fall, the final loss less the level at the cut, from N, D, that
level and two slopes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import FitError
from plm_scaling.core.records import Record
from plm_scaling.laws.student_process import StudentMixture, StudentProcess

__all__ = ["FEWEST_COMPLETE", "LEAST_SHARE", "Completion", "CompletionCheck", "Course", "complete", "completion_check"]

Float = npt.NDArray[np.float64]

LEAST_SHARE: Final = 0.25
"""Of its schedule, before which nothing is predicted: the early slope would be the warm-up's."""
FEWEST_COMPLETE: Final = 8
_LATE: Final = (0.6, 1.0)
_EARLY: Final = (0.25, 0.6)
"""Windows of the two slopes, in shares of what was seen."""
_FEWEST_POINTS: Final = 3
_LEVEL: Final = 0.95
_LEVEL_AT: Final = 2
"""Column of the features that holds the level at the cut."""


@dataclass(frozen=True, eq=False)
class Course:
    """One run's losses along its schedule.

    Attributes
    ----------
    D : tokens of the whole schedule.
    share : float64[n], of the schedule done, above 0, increasing; loss : float64[n], nats per token.
    end : the final loss as a law reads it; None for an unfinished run.
    """

    run_id: str
    N: float
    D: float
    share: Float
    loss: Float
    end: float | None = None

    @property
    def seen(self) -> float:
        """Share of the schedule at the last evaluation."""
        return float(self.share[-1]) if len(self.share) else 0.0


class Completion(Record):
    """The final loss predicted for one unfinished run."""

    run_id: str
    share: float
    """Of its schedule that was seen."""
    loss: float
    loss_se: float
    low: float
    high: float
    """95 % interval: of the run's own final loss, noise included."""
    n_known: int
    """Complete runs it was learned from."""


class CompletionCheck(Record):
    """How well the complete runs' own ends are predicted from their first parts, each left out in turn."""

    share: float
    n: int
    mean_relative_error: float
    """Mean of |predicted - true| / true."""
    coverage: float
    """Share of the true ends inside their 95 % intervals, before these are widened to hold 95 %."""


def complete(known: Sequence[Course], unfinished: Sequence[Course]) -> tuple[tuple[Completion, StudentMixture], ...]:
    """Final losses of unfinished runs, each with its distribution; runs that are too young are passed over.

    Parameters
    ----------
    known : complete runs of the same objective, validation set and schedule. unfinished : seen for at least
        `LEAST_SHARE` of their schedules, with three evaluations in either window.

    Raises
    ------
    FitError : fewer than `FEWEST_COMPLETE` complete runs with evaluations over the same part of their schedules.
    """
    found = []
    for share in sorted({course.seen for course in unfinished if course.seen >= LEAST_SHARE}):
        old_enough = [(course, _features(course, share)) for course in unfinished if course.seen == share]
        asked = [(course, features) for course, features in old_enough if features is not None]
        if not asked:
            continue
        process, _ = _learned(known, share)
        stretch = _stretch(process)
        rests = process.at(np.stack([features for _, features in asked]))
        for (course, features), rest in zip(asked, rests, strict=True):
            end = rest.widened(stretch).shifted(float(features[_LEVEL_AT]))
            found.append((_completion(course, end, len(process.y)), end))
    return tuple(found)


def _completion(course: Course, end: StudentMixture, n_known: int) -> Completion:
    low, high = _interval(end)
    return Completion(
        run_id=course.run_id,
        share=course.seen,
        loss=end.value,
        loss_se=end.sd,
        low=low,
        high=high,
        n_known=n_known,
    )


def _interval(end: StudentMixture) -> tuple[float, float]:
    return end.quantile((1.0 - _LEVEL) / 2.0), end.quantile((1.0 + _LEVEL) / 2.0)


def _stretch(process: StudentProcess) -> float:
    """By how much intervals have to be widened so that they hold 95 % of the complete runs, each left out in turn.

    Some runs of a sweep end unlike the others (another batch, a restart), more often than Student's t has it.

    **Source:** Vovk et al. 2005, chapter 4 (conformal prediction, here by leaving one out).
    """
    misses = []
    for y, left_out in zip(process.y, process.left_out(), strict=True):
        low, high = _interval(left_out)
        misses.append(abs(y - left_out.value) / (0.5 * (high - low)))
    return max(1.0, float(np.quantile(misses, _LEVEL)))


def completion_check(known: Sequence[Course], share: float) -> CompletionCheck:
    """The complete runs' ends from the first `share` of their schedules, each run left out in turn.

    Raises
    ------
    FitError : fewer than `FEWEST_COMPLETE` runs.
    """
    process, used = _learned(known, share)
    ends = np.array([course.end for course in used], dtype=np.float64)
    levels = process.x[:, _LEVEL_AT]
    errors, inside = [], []
    for i, left_out in enumerate(process.left_out()):
        mixture = left_out.shifted(float(levels[i]))
        errors.append(abs(mixture.value - ends[i]) / ends[i])
        low, high = _interval(mixture)
        inside.append(low <= ends[i] <= high)
    return CompletionCheck(
        share=share, n=len(used), mean_relative_error=float(np.mean(errors)), coverage=float(np.mean(inside))
    )


def _learned(known: Sequence[Course], share: float) -> tuple[StudentProcess, list[Course]]:
    """The rest of the fall of every complete run after `share`, as something to learn from."""
    rows = [(course, x) for course in known if (x := _features(course, share)) is not None and course.end is not None]
    if len(rows) < FEWEST_COMPLETE:
        raise FitError(
            f"{len(rows)} complete runs to learn an end from, and {FEWEST_COMPLETE} are needed",
            why=f"a run counts with {_FEWEST_POINTS} evaluations in either part of its schedule's first {share:.0%}",
            hint="let more runs go to their ends, or log the loss more often",
        )
    x = np.stack([features for _, features in rows])
    rest = np.array([course.end for course, _ in rows], dtype=np.float64) - x[:, _LEVEL_AT]
    return StudentProcess(x, rest), [course for course, _ in rows]


def _features(course: Course, share: float) -> Float | None:
    """Logarithms of N and D, level at the cut, late and early slope per unit of ln D, [5]; None with too few points."""
    late, early = (_line(course, share * low, share * high) for low, high in (_LATE, _EARLY))
    if late is None or early is None:
        return None
    return np.array([np.log(course.N), np.log(course.D), late[0], late[1], early[1]])


def _line(course: Course, low: float, high: float) -> tuple[float, float] | None:
    """Level at `high` and slope of a straight line in the logarithm of the share."""
    inside = (course.share >= low - 1e-9) & (course.share <= high + 1e-9)
    if inside.sum() < _FEWEST_POINTS:
        return None
    run = np.log(course.share[inside] / high)
    slope, level = np.polyfit(run, course.loss[inside], 1)
    return float(level), float(slope)
