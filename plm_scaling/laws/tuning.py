"""What the recipe's learning rate costs, read off runs at other learning rates at the corners of a study."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.interval import Interval
from plm_scaling.laws.lr_corner import LrCorner
from plm_scaling.laws.noise import PAIRED_SHARE, SAME_D, LossNoise

__all__ = ["SENTENCES", "explain_tuning", "lr_corners"]

Float = npt.NDArray[np.float64]

_ROLE: Final = "lr_probe"
_DRAWS: Final = 2000

SENTENCES: Final[dict[str, str]] = {
    "LR_EDGE": "At {count} of these corners the best rate tried is the first or the last of them: more may be lost.",
    "LR_TWO_RATES": "At {count} of these corners only two rates were tried: what is lost is their difference.",
    "LR_NO_NOISE": "At {count} of these corners nothing says how noisy a loss is: the interval has no width.",
}


def lr_corners(
    table: RunTable, objective: str, noise: LossNoise | None, *, draws: int = _DRAWS, seed: int = 0
) -> tuple[LrCorner, ...]:
    """Every group of runs from scratch that differ in the peak learning rate alone, by rising N, then D.

    A group holds runs of the role lr_probe and a run of the study at the recipe's own rate. The loss lost cannot be
    negative, so noise makes it look larger than it is, by about the noise itself where the rate is well tuned.

    Parameters
    ----------
    noise : standard deviation of a loss between seeds; None takes the paired share of the validation's error.

    **Source:** a parabola of the loss in the log of the rate, as for isoFLOP rows (Hoffmann et al. 2022, approach 2).
    """
    usable = table.of(objective).where(
        lambda row: (
            row.source_run_id is None
            and row.peak_lr is not None
            and row.schedule_complete
            and not row.excluded
            and math.isfinite(row.loss)
        )
    )
    corners = []
    for whole in _groups([row for row in usable if not row.is_experiment or row.has_role(_ROLE)]):
        # The seeds the probes were trained with: a mean over other seeds would not pair with theirs.
        probed = {row.seed for row in whole if row.is_experiment}
        group = [row for row in whole if row.seed in probed]
        own = sorted({row.peak_lr or 0.0 for row in group if not row.is_experiment})
        rates = sorted({row.peak_lr or 0.0 for row in group})
        # Two usual rates at one corner: these are two recipes, and nothing says which of them is asked about.
        if len(own) == 1 and len(rates) > 1:
            corners.append(_corner(group, own[0], rates, noise, draws, seed))
    return tuple(sorted(corners, key=lambda corner: (corner.N, corner.D)))


def _groups(rows: Sequence[RunRow]) -> list[list[RunRow]]:
    """Runs alike but for the learning rate and the seed; other seeds draw other windows, so D differs a little."""

    def setting(row: RunRow) -> Hashable:
        return (row.N, row.batch_tokens, row.mask_refresh, *row.recipe_key, row.streams, row.validation_id)

    groups: list[list[RunRow]] = []
    for row in sorted(rows, key=lambda r: (repr(setting(r)), r.D)):
        last = groups[-1] if groups else []
        if last and setting(last[0]) == setting(row) and row.D <= last[0].D * (1 + SAME_D):
            last.append(row)
        else:
            groups.append([row])
    return [group for group in groups if any(row.has_role(_ROLE) for row in group)]


def _corner(
    group: Sequence[RunRow], own: float, rates: Sequence[float], noise: LossNoise | None, draws: int, seed: int
) -> LrCorner:
    by_rate = [[row for row in group if row.peak_lr == rate] for rate in rates]
    losses = np.array([np.mean([row.loss for row in rows]) for rows in by_rate])
    x = np.log(np.array(rates) / own)
    lost, best = _lost(x, losses[None])
    error, known = _errors(by_rate, noise)
    rng = np.random.default_rng([seed, 29])
    scale = noise.factors(draws, rng)[:, None] if noise else 1.0
    drawn, _ = _lost(x, losses + error * scale * rng.standard_normal((draws, len(x))))
    low, high = np.quantile(drawn, [0.025, 0.975])
    value = float(lost[0])
    flags = []
    if len(rates) < 3:
        flags.append("LR_TWO_RATES")
    elif not x[0] < best[0] < x[-1]:
        flags.append("LR_EDGE")
    if not known:
        flags.append("LR_NO_NOISE")
    return LrCorner(
        N=group[0].N,
        D=float(np.median([row.D for row in group])),
        peak_lr=own,
        factors=tuple(float(factor) for factor in np.exp(x)),
        losses=tuple(losses.tolist()),
        lost=Interval(value=value, low=min(float(low), value), high=max(float(high), value)),
        best_factor=float(np.exp(best[0])),
        flags=tuple(flags),
    )


def _errors(by_rate: Sequence[Sequence[RunRow]], noise: LossNoise | None) -> tuple[Float, bool]:
    """Standard error of each mean loss against the others, nats, and whether anything was known about it."""
    seeds = np.array([len(rows) for rows in by_rate], dtype=np.float64)
    if noise is not None:
        return noise.sd / np.sqrt(seeds), True
    stated = np.array([np.mean([row.loss_se or 0.0 for row in rows]) for rows in by_rate])
    return PAIRED_SHARE * stated, bool(stated.any())


def _lost(x: Float, losses: Float) -> tuple[Float, Float]:
    """Loss at x = 0 minus the lowest on the curve through losses [B, n] within x [n], and where that is; each [B].

    Three or more points: the least-squares parabola, its lowest place held within the x tried. Two: the points.
    """
    if len(x) < 3:
        at = np.argmin(losses, axis=1)
        own = losses[:, int(np.argmin(np.abs(x)))]
        return own - losses.min(axis=1), x[at]
    a, b, _ = np.polyfit(x, losses.T, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = np.clip(-b / (2.0 * a), x[0], x[-1])
    ends = np.stack([(a * end + b) * end for end in (x[0], x[-1])])
    outer = np.where(ends[0] <= ends[1], x[0], x[-1])
    best = np.where(a > 0, vertex, outer)
    # Against the parabola's own value at 0, its constant term.
    lost: Float = np.maximum(-(a * best + b) * best, 0.0)
    return lost, best


def explain_tuning(corners: Sequence[LrCorner]) -> tuple[str, ...]:
    """The part of an interval that tuning would add, and what is doubtful about it, in sentences."""
    if not corners:
        return ()
    worst = max(corners, key=lambda corner: corner.lost.value)
    counts = {flag: sum(flag in corner.flags for corner in corners) for flag in SENTENCES}
    return (
        f"LOST_TO_TUNING: at {len(corners)} corners of the study the recipe's learning rate costs up to "
        f"{worst.lost.value:.4f} nats [{worst.lost.low:.4f}, {worst.lost.high:.4f}] "
        f"(N = {worst.N:.3g}, D = {worst.D:.3g}); no other interval of this fit contains this part.",
        *(f"{flag}: {SENTENCES[flag].format(count=count)}" for flag, count in counts.items() if count),
    )
