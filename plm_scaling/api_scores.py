"""The verb that scores a user's own variants; part of `plm_scaling.api`, where it is found with the others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from plm_scaling.evals.adapters.base import Letters
    from plm_scaling.evals.library import LibraryScores
    from plm_scaling.evals.likelihoods import Directions
    from plm_scaling.evals.scoring import Method

__all__ = ["evaluate_score"]


def evaluate_score(
    model: str | Path,
    variants: str | Path,
    wild_type: str | Path,
    out: str | Path | None = None,
    *,
    column: str | None = None,
    measured: str | None = None,
    method: Method | Literal["auto"] = "auto",
    joint: bool = False,
    directions: Directions = "auto",
    letters: Letters = "20",
    first: int = 1,
    region: tuple[int, int] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> LibraryScores:
    """What a model expects of variants of a protein, without any measurement.

    Parameters
    ----------
    model : see `evals.adapters.opening`.
    variants : CSV with a column of variants: A23G, A23G:K30L, K30del, K30_Y31insGS, whole sequences, WT.
    wild_type : its residues, or a FASTA file of it alone.
    out : the table with the column plm_score added, written whole or not at all.
    column, measured : names of the columns of variants (a usual one by default) and of measurements to compare with.
    method, joint, directions, letters : see `evals.scoring.score_variants`.
    first : number of the wild type's first residue in the table.
    region : first and last residue, so numbered, that whole sequences of the table replace.
    resamples : draws of the interval of the correlation.

    Raises
    ------
    ConfigError : a table or variant that cannot be read or does not fit the wild type, named by row.
    RefusedError : what the model cannot score. CheckpointError : weights that cannot be read.
    """
    from plm_scaling.evals.adapters.opening import open_adapter
    from plm_scaling.evals.library import judge_scores, read_variants, read_wild_type, write_scores
    from plm_scaling.evals.scoring import score_variants
    from plm_scaling.evals.variants import parse_variants

    table, protein = read_variants(Path(variants), column), read_wild_type(wild_type)
    cells = None if measured is None else table.cells(measured)
    part = None if region is None else (region[0] - first, region[1] - first + 1)
    parsed = parse_variants(protein, table.cells(table.column), first=first, region=part)
    adapter = open_adapter(str(model))
    scores = score_variants(adapter, protein, parsed, method, joint=joint, directions=directions, letters=letters)
    found = judge_scores(adapter, parsed, scores, cells, draws=resamples, seed=seed)
    if out is not None:
        write_scores(Path(out), table, found.scores)
    return found
