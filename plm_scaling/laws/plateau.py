"""The plateau L0 of an upper-bounded law: the loss of a model that knows only how often each residue occurs."""

from __future__ import annotations

from typing import Final

import numpy as np

from plm_scaling.core.alphabet import FIRST_RESIDUE, LAST_RESIDUE, SYMBOLS
from plm_scaling.corpus.floors import clm_floor, mlm_floor

__all__ = ["UNIPROT_PERCENT", "composition_plateau"]

UNIPROT_PERCENT: Final[dict[str, float]] = {
    "A": 8.25, "R": 5.53, "N": 4.06, "D": 5.46, "C": 1.38, "Q": 3.93, "E": 6.71, "G": 7.07, "H": 2.27, "I": 5.91,
    "L": 9.65, "K": 5.80, "M": 2.41, "F": 3.86, "P": 4.74, "S": 6.65, "T": 5.36, "W": 1.10, "Y": 2.92, "V": 6.86,
}  # fmt: skip
"""Residue frequencies of UniProtKB/Swiss-Prot in percent. **Source:** the composition in its release statistics."""


def composition_plateau(objective: str) -> float:
    """L0 in nats per residue for proteins of UniProt's composition: 2.89 for CLM, 2.72 for MLM.

    An MLM's plateau is lower: of the masked targets of the 80/10/10 rule a tenth is shown as it is and a tenth as
    some other residue, so that what is shown tells something.

    **Source:** Shannon 1948 (entropy); Devlin et al. 2019, section 3.1 (80/10/10), see `mlm_floor`.
    """
    residues = SYMBOLS[FIRST_RESIDUE : LAST_RESIDUE + 1]
    counts = np.array([round(1e6 * UNIPROT_PERCENT.get(residue, 0.0)) for residue in residues], dtype=np.int64)
    return mlm_floor(counts, counts) if objective == "mlm" else clm_floor(counts, counts)
