"""What is wrong with asking: test sequences that were trained on, and models that are not what they seem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from plm_scaling.corpus.reader import Corpus
from plm_scaling.evals.adapters.base import Adapter, ModelInfo
from plm_scaling.evals.alarms import Alarm, dead_row_alarms, piece_alarms, task_token_alarms, terminal_alarms
from plm_scaling.evals.contamination import check_contamination
from plm_scaling.evals.encodings import letter_matrix
from plm_scaling.evals.task import Asked
from plm_scaling.evals.windows import room

__all__ = ["contamination_of", "model_alarms", "table_alarms", "token_alarms"]

_SHOWN: Final = 20
_VARIED: Final = 0.2


def contamination_of(asked: Asked, task: str, sequences: Sequence[str]) -> tuple[Alarm, ...]:
    """Alarms about test sequences that the corpus holds; none where no corpus was given."""
    if asked.corpus is None:
        return ()
    return check_contamination(Corpus.open(asked.corpus), sequences, task=task, tell=asked.tell).alarms


def table_alarms(
    asked: Asked, task: str, sequences: Sequence[str], *, wild_type: str | None = None
) -> tuple[Alarm, ...]:
    """The same of what a table is tested on. Of variants of one protein their wild type is looked for, which is enough.

    Parameters
    ----------
    sequences : of the test rows. Where they are of one length and all but a fifth of the residues are those of their
        consensus, the consensus stands for a wild type that is not known.
    """
    if asked.corpus is None:
        return ()
    parent = wild_type or _consensus(sequences)
    return contamination_of(asked, task, sequences if parent is None else [parent])


def _consensus(sequences: Sequence[str]) -> str | None:
    """The commonest letter of each site, of variants of one protein; None of proteins that are no such thing."""
    if len(sequences) < 2 or len({len(one) for one in sequences}) > 1:
        return None
    letters = letter_matrix(sequences)
    common = np.array([np.bincount(column + 1).argmax() - 1 for column in letters.T])
    if (letters == common).mean() < 1.0 - _VARIED:
        return None
    first = [int((column == letter).argmax()) for column, letter in zip(letters.T, common, strict=True)]
    return "".join(sequences[row][site] for site, row in enumerate(first))


def token_alarms(info: ModelInfo) -> tuple[Alarm, ...]:
    """Alarms about dead rows of the vocabulary and task tokens that are not shown, whatever a model is asked."""
    return dead_row_alarms(info) + task_token_alarms(info)


def model_alarms(adapter: Adapter, sequences: Sequence[str]) -> tuple[Alarm, ...]:
    """The same, and of likelihoods: tokens of several residues, and ends of proteins that are not known.

    Parameters
    ----------
    sequences : complete proteins to ask about ends; none where ends do not matter.
    """
    found = token_alarms(adapter.info) + piece_alarms(adapter.info)
    if sequences and "causal" in adapter.info.abilities:
        width = room(adapter.info.context, max(map(len, sequences)))
        if whole := [sequence for sequence in sequences if len(sequence) <= width]:
            found += terminal_alarms(adapter, whole[:_SHOWN])
    return found
