"""Whether a planned run is one that a law is about: on the corpus and by the recipe of the runs it was fitted to."""

from __future__ import annotations

from typing import Final

from plm_scaling.core.run_row import RECIPE, RunRow
from plm_scaling.core.run_table import RunTable
from plm_scaling.corpus.format import VAL_IID
from plm_scaling.laws.law_fit import LawFit, Recipe

__all__ = ["unchecked", "unlike"]

_RECIPE_WORDS: Final = "schedule, architecture, mask ratio, regularisation"
_HEX_ID: Final = 64
"""Digits of a corpus' own id, of which twelve are told."""


def unlike(row: RunRow, law: LawFit, known: RunTable) -> str:
    """In what a run differs from those behind a law; empty where in nothing that is known.

    Parameters
    ----------
    row : the planned run.
    law : the fit, which says on which corpus and by which recipe its runs were trained where their table did.
    known : complete runs of the plan's own folder that a law could be fitted to: what the fit does not say, they do.
    """
    return _other_recipe(row, law.recipe, known) or _other_corpus(row, law.corpus_id, known)


def unchecked(law: LawFit, known: RunTable) -> dict[str, str]:
    """What a fit does not say of its runs, by code, each with a sentence on what that leaves open."""
    instead = (
        "the planned runs were held against the complete runs of their own folder, which need not be the law's"
        if len(known)
        else "nothing was there to hold the planned runs against"
    )
    found = {}
    if law.corpus_id is None:
        found["CORPUS_UNKNOWN"] = f"the fit does not say on which corpus its runs were trained: {instead}."
    if law.recipe is None:
        found["RECIPE_UNKNOWN"] = f"the fit does not say by which recipe ({_RECIPE_WORDS}) its runs were: {instead}."
    if law.validation_id is None:
        found["VALIDATION_UNKNOWN"] = (
            f"the fit does not say on which sequences its losses are: the runs are scored on {VAL_IID} of their own "
            "corpus, which may be others."
        )
    return found


def _other_recipe(row: RunRow, recipe: Recipe | None, known: RunTable) -> str:
    if recipe is None:
        if not len(known) or row.recipe_key in {other.recipe_key for other in known}:
            return ""
        return f"no complete run of its folder was trained by its recipe ({_RECIPE_WORDS})"
    pairs = ((name, getattr(row, name), getattr(recipe, name)) for name in RECIPE)
    # A table may state a mask ratio of CLM runs too, where it means nothing.
    other = [(name, a, b) for name, a, b in pairs if a != b and not (name == "mask_ratio" and row.objective == "clm")]
    if not other:
        return ""
    told = "; ".join(f"{name.replace('_', ' ')} {_said(a)}, theirs {_said(b)}" for name, a, b in other)
    return f"the law's runs were trained by another recipe ({told})"


def _other_corpus(row: RunRow, corpus_id: str | None, known: RunTable) -> str:
    if corpus_id is None:
        if not len(known) or row.corpus_id in {other.corpus_id for other in known}:
            return ""
        return "no complete run of its folder was trained on its corpus"
    if row.corpus_id == corpus_id:
        return ""
    return f"the law's runs were trained on another corpus ({_short(corpus_id)}, not {_short(row.corpus_id or '')})"


def _said(value: object) -> object:
    """An empty text stands for the recipe's own choice."""
    return "the default" if value == "" else value


def _short(corpus_id: str) -> str:
    return corpus_id[:12] if len(corpus_id) == _HEX_ID else corpus_id
