"""What is wrong with asking: test sequences that were trained on, and models that are not what they seem."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from plm_scaling.corpus.reader import Corpus
from plm_scaling.evals.adapters.base import Adapter
from plm_scaling.evals.alarms import Alarm, dead_row_alarms, terminal_alarms
from plm_scaling.evals.contamination import check_contamination
from plm_scaling.evals.task import Asked

__all__ = ["contamination_of", "model_alarms"]

_SHOWN = 20


def contamination_of(asked: Asked, task: str, sequences: Sequence[str]) -> tuple[Alarm, ...]:
    """Alarms about test sequences that the corpus holds; none where no corpus was given."""
    return () if asked.corpus is None else _checked(asked.corpus, task, tuple(dict.fromkeys(sequences)))


@lru_cache(maxsize=16)
def _checked(path: Path, task: str, sequences: tuple[str, ...]) -> tuple[Alarm, ...]:
    """The same for every model that answers."""
    return check_contamination(Corpus.open(path), sequences, task=task).alarms


def model_alarms(adapter: Adapter, sequences: Sequence[str]) -> tuple[Alarm, ...]:
    """Alarms about dead rows of the vocabulary, and about a causal model that does not know where proteins end."""
    found = dead_row_alarms(adapter.info)
    if "causal" in adapter.info.abilities:
        found += terminal_alarms(adapter, sequences[:_SHOWN])
    return found
