"""`Objective`: what a model is trained for. Alone in its file, so that naming it loads nothing of training."""

from __future__ import annotations

from typing import Literal

__all__ = ["Objective"]

Objective = Literal["clm", "mlm"]
