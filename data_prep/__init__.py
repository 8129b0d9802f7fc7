"""From files of proteins to a prepared corpus, and simulated protein-like corpora."""

from __future__ import annotations

from data_prep.fasta import RecordBlock, read_records
from data_prep.filters import FilterSpec
from data_prep.inputs import InputSize, SourceInput, describe_inputs
from data_prep.pipeline import PrepSpec, Progress, prepare_corpus
from data_prep.verify import verify_corpus

__all__ = [
    "FilterSpec",
    "InputSize",
    "PrepSpec",
    "Progress",
    "RecordBlock",
    "SourceInput",
    "describe_inputs",
    "prepare_corpus",
    "read_records",
    "verify_corpus",
]
