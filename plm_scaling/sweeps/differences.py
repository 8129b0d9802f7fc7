"""In what the runs of a plan differ beside size, tokens, data and seed: what its table has to show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from plm_scaling.core.run import RunConfig

__all__ = ["differences"]

_TOLD_ELSEWHERE: Final = frozenset(
    {
        *("corpus_id", "objective", "architecture", "n_layers", "d_model", "n_heads", "d_ffn", "rotary_dim", "D"),
        *("batch_tokens", "peak_lr", "streams", "seed", "recipe", "beta2", "warmup_tokens"),
    }
)


def differences(configs: Sequence[RunConfig]) -> list[str]:
    """For each run, the fields that vary among all of them, with its values; empty where none does."""
    names = [name for name in RunConfig.model_fields if name not in _TOLD_ELSEWHERE]
    varying = [name for name in names if len({getattr(config, name) for config in configs}) > 1]
    return [", ".join(_said(config, name) for name in varying if _worth_saying(config, name)) for config in configs]


def _worth_saying(config: RunConfig, name: str) -> bool:
    """Masks are MLM's alone, and what is off needs no word."""
    return not (name.startswith("mask_") and config.objective == "clm") and getattr(config, name) is not None


def _said(config: RunConfig, name: str) -> str:
    value = getattr(config, name)
    text = f"{value:g}" if isinstance(value, float) else str(value).removeprefix("sha256:")[:12]
    return f"{name} {text}"
