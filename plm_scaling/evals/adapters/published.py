"""How long published models were trained, from the table of their scores."""

from __future__ import annotations

from typing import Final

from plm_scaling.core.errors import ConfigError, did_you_mean
from plm_scaling.evals.baselines import load_baselines

__all__ = ["published_tokens"]

_SAME_SIZE: Final = 0.02


def published_tokens(name: str, params: int) -> float | None:
    """Tokens that a published model was trained on; None where no checked source states them.

    Parameters
    ----------
    name : as the table writes it, `esm2_t6_8M_UR50D`.
    params : all parameters of the weights at hand, which have to be those of the published model.

    Raises
    ------
    ConfigError : no such model, or one of another size.
    """
    rows = [row for row in load_baselines() if row.model == name]
    if not rows:
        known = {row.model for row in load_baselines() if row.params is not None}
        raise ConfigError(f"no published model is called {name!r}", hint=did_you_mean(name, known))
    sizes = [row.params for row in rows if row.params is not None]
    if sizes and abs(params / sizes[0] - 1.0) > _SAME_SIZE:
        raise ConfigError(f"not {name}: it has {sizes[0]:.4g} parameters, these weights {params:,}")
    return next((row.tokens for row in rows if row.tokens and row.verified), None)
