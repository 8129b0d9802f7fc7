"""How a training lies over accelerators: what is sharded, and what is computed again instead of kept."""

from __future__ import annotations

from typing import Literal

__all__ = ["Parallel", "Recompute"]

Parallel = Literal["auto", "replicated", "sharded"]
Recompute = Literal["none", "every_other", "all"]
