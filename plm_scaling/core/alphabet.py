"""ESM-2's 33 symbols, and the normalisation every sequence goes through before it is hashed.

Ids follow fair-esm's `Alphabet.from_architecture("ESM-1b")`, so a prepared corpus is read by ESM-2 unchanged.

**Source:** Lin et al. 2023 (ESM-2), released `Alphabet`; order checked against fair-esm by a test.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = [
    "CLS",
    "DROPPED",
    "EOS",
    "FIRST_RESIDUE",
    "LAST_RESIDUE",
    "MASK",
    "PAD",
    "RENAMED",
    "STANDARD",
    "SYMBOLS",
    "TO_ID",
    "UNUSUAL",
    "VOCAB_SIZE",
    "decode",
    "encode",
]

SYMBOLS: Final = (
    *("<cls>", "<pad>", "<eos>", "<unk>"),
    *"LAGVSERTIDPKQNFYMHWCXBUZO.-",
    *("<null_1>", "<mask>"),
)
VOCAB_SIZE: Final = len(SYMBOLS)
CLS: Final = SYMBOLS.index("<cls>")
PAD: Final = SYMBOLS.index("<pad>")
EOS: Final = SYMBOLS.index("<eos>")
MASK: Final = SYMBOLS.index("<mask>")
FIRST_RESIDUE: Final = SYMBOLS.index("L")
LAST_RESIDUE: Final = SYMBOLS.index("O")  # the 20 standard residues, then X B U Z O

STANDARD: Final = "LAGVSERTIDPKQNFYMHWC"
"""The 20 standard amino acids, in id order."""
UNUSUAL: Final = "XBUZO"
"""Kept as they are (unknown, Asx, selenocysteine, Glx, pyrrolysine) and counted."""
RENAMED: Final = {"J": "X"}
"""ESM-2 has no symbol for J (leucine or isoleucine): it becomes X, and is counted."""
DROPPED: Final = "*-."
"""Stops and alignment gaps: removed, and counted."""


def _to_id() -> npt.NDArray[np.uint8]:
    """Byte -> id; 255 for a byte no protein sequence may hold. Lower case reads as upper case."""
    table = np.full(256, 255, dtype=np.uint8)
    for letter in STANDARD + UNUSUAL:
        table[ord(letter)] = table[ord(letter.lower())] = SYMBOLS.index(letter)
    for letter, target in RENAMED.items():
        table[ord(letter)] = table[ord(letter.lower())] = SYMBOLS.index(target)
    table.setflags(write=False)
    return table


TO_ID: Final = _to_id()
"""uint8[256]: id of each byte, 255 where the byte is not a residue letter."""

_TO_BYTE: Final = np.array([ord(s) if len(s) == 1 else ord("?") for s in SYMBOLS], dtype=np.uint8)


def encode(sequence: str) -> npt.NDArray[np.uint8]:
    """Token ids of a clean sequence of residue letters, without `<cls>` and `<eos>`.

    Raises
    ------
    ValueError : a character is not a residue letter.
    """
    ids = TO_ID[np.frombuffer(sequence.encode("latin-1"), dtype=np.uint8)]
    if ids.size and ids.max() == 255:
        bad = sequence[int(np.argmax(ids == 255))]
        raise ValueError(f"{bad!r} is not a residue letter")
    return ids


def decode(ids: npt.NDArray[np.integer]) -> str:
    """Residue letters of token ids; special symbols read as `?`."""
    return bytes(_TO_BYTE[ids]).decode()
