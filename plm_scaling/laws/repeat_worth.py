"""What repeated tokens, and parameters beyond the best size, are worth: 1 + R parts count as 1 + R* (1 - e^(-R/R*))."""

from __future__ import annotations

import math

__all__ = ["epochs_until", "log_worth", "marginal_worth", "worth", "worth_of_unique_share", "worth_share"]

_FURTHEST = 700.0


def _repeats(log_total: float, log_unique: float) -> float:
    """R = total / unique - 1, at least 0."""
    return math.expm1(min(max(log_total - log_unique, 0.0), _FURTHEST))


def log_worth(log_total: float, log_unique: float, limit: float) -> float:
    """Ln of what `total` is worth of which only `unique` is new: unique (1 + R* (1 - e^(-R/R*))), R = total/unique - 1.

    Parameters
    ----------
    limit : R*, in epochs; inf where repeats are as good as new.

    **Source:** Muennighoff et al. 2023, eq. 5.
    """
    if log_total <= log_unique or math.isinf(limit):
        return log_total
    return log_unique + math.log1p(-limit * math.expm1(-_repeats(log_total, log_unique) / limit))


def worth_share(log_total: float, log_unique: float, limit: float) -> float:
    """Ln of d ln worth / d ln total at a fixed unique part: 0 where all is unique, falling from there."""
    if log_total <= log_unique or math.isinf(limit):
        return 0.0
    repeats = _repeats(log_total, log_unique)
    return math.log1p(repeats) - repeats / limit - math.log1p(-limit * math.expm1(-repeats / limit))


def worth_of_unique_share(log_total: float, log_unique: float, limit: float) -> float:
    """The slope d ln worth / d ln unique at a fixed total, one less d ln worth / d ln total: 0 where all is unique."""
    if log_total <= log_unique or math.isinf(limit):
        return 0.0
    repeats = _repeats(log_total, log_unique)
    rise = -math.expm1(-repeats / limit)
    return ((1.0 + limit) * rise - repeats * math.exp(-repeats / limit)) / (1.0 + limit * rise)


def worth(total: float, unique: float, limit: float) -> float:
    """What `total` tokens over `unique` new ones are worth; see `log_worth`."""
    if total <= unique or math.isinf(limit):
        return total
    return unique * (1.0 - limit * math.expm1(-(total / unique - 1.0) / limit))


def marginal_worth(epochs: float, limit: float) -> float:
    """Worth of one more token after `epochs` >= 1 passes, as a share of a new one's: e^(-(epochs - 1)/R*).

    **Source:** derivative of Muennighoff et al. 2023, eq. 5.
    """
    return math.exp(-(epochs - 1.0) / limit)


def epochs_until(share: float, limit: float) -> float:
    """Epochs after which one more token is worth `share` of a new one: 1 - R* ln share."""
    return 1.0 - limit * math.log(share)
