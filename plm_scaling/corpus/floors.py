"""Losses a model reaches without any context: what a trained model must beat."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.alphabet import EOS, FIRST_RESIDUE, LAST_RESIDUE, STANDARD, VOCAB_SIZE
from plm_scaling.core.errors import CorpusError
from plm_scaling.core.records import Record
from plm_scaling.corpus.format import TRAIN
from plm_scaling.corpus.masks import KEPT_SHARE, MASKED_SHARE, RANDOM_SHARE
from plm_scaling.corpus.reader import Corpus

__all__ = ["Floors", "clm_floor", "count_symbols", "entropy_floors", "mlm_floor"]

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

_BLOCK: Final = 1 << 24
_RESIDUES: Final = slice(FIRST_RESIDUE, LAST_RESIDUE + 1)


class Floors(Record):
    """Unigram floors in nats."""

    clm_per_token: float
    """Residues and `<eos>`: -sum q ln p, q the validation's and p the training's frequencies."""
    clm_per_residue: float
    """Residues only, with frequencies among residues: the cost of naming a residue, its being no `<eos>` given."""
    mlm: float
    """Per target, knowing the frequencies and the 80/10/10 rule."""


def count_symbols(corpus: Corpus, rows: Int | None = None) -> Int:
    """int64[33]: occurrences of each symbol in the given rows, or in all stored tokens."""
    counts = np.zeros(VOCAB_SIZE, dtype=np.int64)
    if rows is None:
        for shard in corpus.shards:
            for begin in range(0, len(shard), _BLOCK):
                counts += np.bincount(shard[begin : begin + _BLOCK], minlength=VOCAB_SIZE)[:VOCAB_SIZE]
        return counts
    size = corpus.length[rows] + 1
    part = np.cumsum(size) // _BLOCK
    for block in np.unique(part):
        here = part == block
        tokens = corpus.gather(corpus.offset[rows[here]], size[here])
        counts += np.bincount(tokens, minlength=VOCAB_SIZE)[:VOCAB_SIZE]
    return counts


def clm_floor(train: Int, valid: Int) -> float:
    """Cross-entropy of counts `valid` under the frequencies of counts `train`, in nats per occurrence.

    One is added to every training count, so that a symbol training never saw costs a finite amount.

    Parameters
    ----------
    train, valid : int64[k], occurrences of the same k symbols.
    """
    p = (train + 1) / (train + 1).sum()
    return float(-(valid / valid.sum()) @ np.log(p))


def mlm_floor(train: Int, valid: Int) -> float:
    """Least MLM loss without context, in nats per target.

    A target of true residue x is shown as `<mask>` with probability .8, as a uniform standard residue with .1 and
    as itself with .1. Seeing `<mask>`, the best answer is the unigram p, at the cost H = -sum q(x) ln p(x). Seeing
    residue s, it is the posterior

        p(x | s) = p(x) [.1 (x = s) + .1 u(s)] / sum_y p(y) [.1 (y = s) + .1 u(s)],   u(s) = 1/20 for standard s,

    so the floor is .8 H - sum_x q(x) sum_s [.1 (x = s) + .1 u(s)] ln p(x | s). It lies below H because a tenth of
    the targets is shown unchanged: a model at this floor has learnt nothing but the rule.

    Parameters
    ----------
    train, valid : int64[25], occurrences of the residues, in id order (the 20 standard ones first).
    """
    p = (train + 1) / (train + 1).sum()
    q = valid / valid.sum()
    uniform = np.zeros(len(p))
    uniform[: len(STANDARD)] = 1 / len(STANDARD)
    shown = KEPT_SHARE * np.eye(len(p)) + RANDOM_SHARE * uniform  # [true, shown]
    joint = p[:, None] * shown
    posterior = joint / joint.sum(axis=0)
    cost = np.where(shown > 0, -np.log(np.where(shown > 0, posterior, 1.0)), 0.0)
    return float(MASKED_SHARE * clm_floor(train, valid) + q @ (shown * cost).sum(axis=1))


def entropy_floors(corpus: Corpus, rows: Int) -> Floors:
    """Unigram floors of a validation set under the frequencies of the training split (first occurrences).

    Parameters
    ----------
    rows : int64[n], the validation sequences (`ValidationSet.rows`).

    Raises
    ------
    CorpusError : no validation sequence.
    """
    if not len(rows):
        raise CorpusError("no sequences to take floors of", where=str(corpus.path))
    # Training is nearly everything stored: count the rest and subtract.
    rest = np.flatnonzero(corpus.first & (corpus.split != corpus.manifest.split_id(TRAIN)))
    train = count_symbols(corpus) - count_symbols(corpus, rest)
    valid = count_symbols(corpus, rows)
    symbols = np.r_[_RESIDUES, EOS]
    return Floors(
        clm_per_token=clm_floor(train[symbols], valid[symbols]),
        clm_per_residue=clm_floor(train[_RESIDUES], valid[_RESIDUES]),
        mlm=mlm_floor(train[_RESIDUES], valid[_RESIDUES]),
    )
