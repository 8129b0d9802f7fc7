"""What is wrong with asking: test sequences that were trained on, and models that are not what they seem."""

from __future__ import annotations

from collections.abc import Sequence

from plm_scaling.corpus.reader import Corpus
from plm_scaling.evals.adapters.base import Adapter
from plm_scaling.evals.alarms import Alarm, dead_row_alarms, piece_alarms, task_token_alarms, terminal_alarms
from plm_scaling.evals.contamination import check_contamination
from plm_scaling.evals.task import Asked
from plm_scaling.evals.windows import room

__all__ = ["contamination_of", "model_alarms"]

_SHOWN = 20


def contamination_of(asked: Asked, task: str, sequences: Sequence[str]) -> tuple[Alarm, ...]:
    """Alarms about test sequences that the corpus holds; none where no corpus was given."""
    if asked.corpus is None:
        return ()
    return check_contamination(Corpus.open(asked.corpus), sequences, task=task, tell=asked.tell).alarms


def model_alarms(adapter: Adapter, sequences: Sequence[str]) -> tuple[Alarm, ...]:
    """Alarms about dead rows of the vocabulary, tokens of several residues, and ends of proteins that are not known."""
    found = dead_row_alarms(adapter.info) + piece_alarms(adapter.info) + task_token_alarms(adapter.info)
    if "causal" in adapter.info.abilities:
        width = room(adapter.info.context, max(map(len, sequences)))
        if whole := [sequence for sequence in sequences if len(sequence) <= width]:
            found += terminal_alarms(adapter, whole[:_SHOWN])
    return found
