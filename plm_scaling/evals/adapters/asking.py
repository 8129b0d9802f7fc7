"""What is checked before a model is asked: its abilities, the letters, the sites and the lengths."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.alphabet import FIRST_RESIDUE, STANDARD, encode
from plm_scaling.core.errors import CorpusError, RefusedError
from plm_scaling.evals.adapters.base import Ability, Direction, ModelInfo, Query

__all__ = ["check_query", "direction_ability", "need", "residue_ids", "standard_ids"]

_WORDS: Final[dict[Ability, str]] = {
    "masked": "fill masked sites",
    "causal": "give a sequence a likelihood from the left",
    "reverse": "give a sequence a likelihood from the right",
    "total": "give a whole sequence a likelihood",
    "embed": "show activations",
    "attend": "show attention maps",
    "profile": "score sites without looking at the others",
}


def need(info: ModelInfo, *abilities: Ability) -> None:
    """Make sure that a model has at least one of these abilities.

    Raises
    ------
    RefusedError : it has none; names them, and those it has.
    """
    if not set(abilities) & set(info.abilities):
        raise RefusedError(
            f"{info.name} cannot {' or '.join(_WORDS[a] for a in abilities)}",
            why=f"this needs the ability {' or '.join(abilities)}; it has {', '.join(info.abilities) or 'none'}",
            hint="ask a model of the other objective, or another score (`plm-scaling evaluate ls`)",
        )


def direction_ability(direction: Direction) -> Ability:
    """What a likelihood in this direction needs."""
    return "causal" if direction == "forward" else "reverse"


def residue_ids(sequence: str) -> npt.NDArray[np.int64]:
    """Token ids of `core.alphabet`, int64[L]: the 20 amino acids and X, B, U, Z, O; J reads as X.

    Raises
    ------
    CorpusError : empty, or a letter that no protein has; says which and where.
    """
    if not sequence:
        raise CorpusError("an empty sequence", hint="leave it out: there is nothing to score")
    try:
        return encode(sequence).astype(np.int64)
    except ValueError as error:
        place = next(i for i, letter in enumerate(sequence) if not _readable(letter))
        raise CorpusError(
            f"{error}, at residue {place + 1} of {len(sequence)}",
            where=_short(sequence),
            hint="write sequences without gaps, stops and spaces",
        ) from None


def standard_ids(sequence: str) -> npt.NDArray[np.int64]:
    """Places in `STANDARD`, int64[L], of a sequence of the 20 amino acids only.

    Raises
    ------
    CorpusError : empty, or another letter.
    """
    ids = residue_ids(sequence) - FIRST_RESIDUE
    if (unusual := np.flatnonzero(ids >= len(STANDARD))).size:
        place = int(unusual[0])
        raise CorpusError(
            f"{sequence[place]!r} is none of the 20 amino acids, at residue {place + 1}", where=_short(sequence)
        )
    return ids


def check_query(query: Query) -> None:
    """Make sure that a query's sites lie in its sequence.

    Raises
    ------
    CorpusError : a site that is not there.
    """
    for what, sites in (("masked", query.masked), ("read", query.read)):
        for site in sites:
            if not 0 <= site < len(query.sequence):
                raise CorpusError(
                    f"site {site} shall be {what}, the sequence has sites 0 to {len(query.sequence) - 1}",
                    where=_short(query.sequence),
                )


def _readable(letter: str) -> bool:
    try:
        encode(letter)
    except ValueError:
        return False
    return True


def _short(sequence: str) -> str:
    return sequence if len(sequence) <= 24 else f"{sequence[:20]}... ({len(sequence)} residues)"
