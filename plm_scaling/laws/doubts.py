"""A plain sentence for every flag of a fit, with the row's own numbers where there are any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from plm_scaling.core.units import format_count
from plm_scaling.laws.isoflop_minimum import ISOFLOP_SENTENCES
from plm_scaling.laws.law_fit import IsoflopRow, SurfaceFit

__all__ = ["SENTENCES", "explain", "explain_row", "explain_rows"]

_TOLD_SINGLY: Final = 3

SENTENCES: Final[dict[str, str]] = {
    # loss surface
    "E_UNIDENTIFIED": "The irreducible loss E is at zero or its interval touches zero: these runs do not determine it, "
    "and losses extrapolated far beyond them mean little.",
    "EXPONENT_AT_BOUND": "An exponent of the surface ended at its bound, or a term vanished: the surface is not "
    "identified by these runs.",
    "TOO_FEW_LEVELS": "Fewer than three different N or D: the surface's exponents cannot be told apart.",
    "COLLINEAR_DESIGN": "ln N and ln D move together in these runs: the effects of size and data cannot be separated.",
    "MULTIMODAL": "Several different surfaces fit almost equally well, or few starts agree on the best one.",
    "SHAPE_AT_BOUND": "The plateau or the outer exponent of the surface ended at its bound: these runs do not "
    "determine it, and a simpler form says as much.",
    "BATCH_AT_BOUND": "The critical batch of the surface ended at its bound: these runs do not determine what "
    "the batch costs.",
    "INTERVALS_DISAGREE": "The bootstrap's and the profile's interval of the exponent of N_opt differ in width by more "
    "than a factor of 2.5: take the wider.",
    "INFLUENTIAL_ROWS": "Leaving out a single run ({run}) moves the exponent of N_opt by more than its standard error.",
    "OUT_OF_HULL": "The surface's own optimum at the larger computes lies outside the sizes or tokens that were run.",
    "EXTRAPOLATED": "The surface's optimum is given at a budget larger than any that was run: its interval knows the "
    "noise of the runs, not whether the law goes on.",
    "MIXED_BATCH": "The surface's runs were trained with batches of {batch}: part of the differences in loss "
    "may be the batch's.",
    "TOO_FEW_RUNS": "Too few runs for a five-parameter surface: only the isoFLOP minima are reported.",
    # isoFLOP
    "TOO_FEW_MINIMA": "Fewer than two budgets have a minimum inside the sizes tried: no exponents are given.",
    "TWO_MINIMA": "The exponents rest on two budgets only: there is no check that a power law holds.",
    "WEAK_MINIMA": "Fewer than two budgets have a minimum that is both deeper than the noise and bounded by the sizes "
    "tried: the exponents rest on minima that noise may have placed.",
    "NO_REPLICATES": "No setting was run with more than one seed: the noise of the seeds is guessed from the scatter "
    "about the parabolas, or left out.",
    "NOISE_FROM_ONE_BUDGET": "All replicates were run at one compute while there are several budgets: the noise of the "
    "seeds is taken to be the same at the others.",
    "NO_NOISE_ESTIMATE": "Nothing in the table says how noisy a loss is: an interval of N_opt is only the bracket of "
    "the sizes next to the lowest loss.",
    "POOR_PARABOLA": "The losses scatter about the parabolas more widely than the seeds explain (F test, 5 %): "
    "intervals are widened.",
    "NO_ISOFLOP": "No group of runs at equal compute with several sizes, so there are no isoFLOP minima; were the "
    "budgets placed on the other compute currency?",
    # both
    "CURRENCY_MISSING": "The table has no exact FLOPs for some runs: budgets are placed on 6 N D.",
    "CURRENCY_SHIFT": "Counting compute as 6 N D instead of exact FLOPs (or the reverse) moves N_opt of a budget "
    "by more than 10 %.",
    "FLOPS_MISMATCH": "A stated C_6nd differs from 6 N D by more than 2 %: N or D may be counted in another way.",
    "MIXED_CONVENTION": "Some runs count N, D or compute in another way than others (their C over 6 N D differs by "
    "more than 2 %), or mask another share of residues: their losses do not lie on one surface.",
    "IMPUTED_RUNS": "Some final losses are predictions from the first part of a run; their standard errors enter the "
    "intervals, a break in the course of such a run does not.",
    "TRUNCATED_SCHEDULE": "Runs whose learning rate was not decayed to the end were left out.",
    "ISOFLOP_SURFACE_DISAGREE": "The exponents of N_opt from the minima and from the surface, both with compute as "
    "6 N D, differ by more than both intervals allow.",
}

_ROW_SENTENCES: Final[dict[str, str]] = {
    "NO_INTERIOR_MINIMUM": "the lowest loss is at {edge}, an edge of the sizes tried: N_opt is refused; "
    "add {more} sizes.",
    "SHALLOW_MINIMUM": "the shallower edge lies only {depth:.4f} nats above the lowest loss, less than twice the "
    "noise: the minimum is not certain to be inside; add seeds or wider sizes.",
    "OPEN_INTERVAL": "the interval of N_opt ends at an edge of the sizes tried: the data do not bound it on that side.",
    "TOO_FEW_SIZES": "fewer than three sizes: no parabola.",
    "CONCAVE": "the losses bend downwards over the sizes: there is no minimum to speak of.",
    "MIXED_BATCH": "the runs were trained with batches of {batch}: part of the differences in loss may be the batch's.",
    "REPEATED_DATA": "some runs pass more than four times over their data, so size and repetition are mixed.",
    **ISOFLOP_SENTENCES,
}


def explain(flags: Iterable[str], surface: SurfaceFit | None = None) -> tuple[str, ...]:
    """One sentence per known flag of a fit, each once, in the order of the flags, with the surface's own numbers."""
    words = {"batch": _in_words(surface.batch_tokens if surface else None)}
    words["run"] = (surface.influential if surface else "") or "one of them"
    return tuple(f"{flag}: {SENTENCES[flag].format(**words)}" for flag in dict.fromkeys(flags) if flag in SENTENCES)


def explain_row(row: IsoflopRow) -> tuple[str, ...]:
    """One sentence per flag of an isoFLOP row, naming its budget."""
    best = min(range(len(row.N)), key=row.loss.__getitem__)
    if best in (0, len(row.N) - 1):
        edge, low = f"N = {format_count(row.N[best])}", best == 0
    else:
        low = row.curvature is not None and row.loss[0] < row.loss[-1]
        edge = f"{'or below' if low else 'or beyond'} N = {format_count(row.N[0 if low else -1])} by the parabola"
    numbers = {"edge": edge, "more": "smaller" if low else "larger", "depth": row.depth or 0.0}
    numbers["batch"] = _in_words(row.batch_tokens)
    budget = f"C = {row.C:.3g} FLOPs"
    return tuple(
        f"{flag}: at {budget} {_ROW_SENTENCES[flag].format(**numbers)}" for flag in row.flags if flag in _ROW_SENTENCES
    )


def explain_rows(rows: Sequence[IsoflopRow]) -> tuple[str, ...]:
    """`explain_row` of every row; a doubt that more than three budgets share is told once, with their number."""
    every = [(note.partition(":")[0], note) for row in rows for note in explain_row(row)]
    count = Counter(flag for flag, _ in every)
    told = []
    for flag in dict.fromkeys(flag for flag, _ in every):
        own = [note for other, note in every if other == flag]
        told += own if count[flag] <= _TOLD_SINGLY else [f"{own[0]} The same at {count[flag] - 1} other budgets."]
    return tuple(told)


def _in_words(batch_tokens: tuple[float, float] | None) -> str:
    if batch_tokens is None:
        return "different sizes"
    return f"{batch_tokens[0]:,.0f} to {batch_tokens[1]:,.0f} tokens"
