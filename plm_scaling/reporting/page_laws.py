"""Laws as the sizing page holds them: plain JSON of forms, draws, weights, repeats and where they come from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.laws.zoo import PublishedLaw, load_zoo
from plm_scaling.sizing.default_laws import published_ensemble
from plm_scaling.sizing.law_ensemble import (
    LawEnsemble,
    LawMember,
    TokenDecay,
    ensemble_of_fit,
    ensemble_of_published,
    normal_quantiles,
)
from plm_scaling.sizing.size_limit import largest_claimed

__all__ = ["PAGE_DRAWS", "laws_for_page", "page_laws"]

PAGE_DRAWS: Final = 200
"""Most draws of an ensemble on a page, all its forms together."""
_DIGITS: Final = 11
"""Significant digits of a coefficient: N_opt then keeps nine."""

Json = dict[str, Any]


def laws_for_page(laws: Sequence[LawFit | PublishedLaw] | None = None, *, draws: int = PAGE_DRAWS) -> tuple[Json, ...]:
    """One entry for each objective the laws are of, in their order; without laws the defaults of CLM and MLM.

    The first law of an objective gives its draws; published frontiers of the objective stand beside it.

    Raises
    ------
    RefusedError : a fit that says nothing about sizes.
    ConfigError : no law, or one that does not say which size a budget asks for.
    """
    zoo = load_zoo()
    if laws is None:
        chosen: dict[str, LawEnsemble | None] = {name: published_ensemble(name) for name in ("clm", "mlm")}
        given: Sequence[LawFit | PublishedLaw] = ()
    elif not laws:
        raise ConfigError("no law to answer from", hint="leave laws out to use the published ones")
    else:
        chosen, given = {}, laws
        for law in laws:
            if law.objective not in chosen:
                chosen[law.objective] = _ensemble_of(law)
    entries = []
    for objective, ensemble in chosen.items():
        named = [law for law in given if isinstance(law, PublishedLaw) and law.objective == objective]
        known = [law for law in zoo if law.objective == objective and law.default and law not in named]
        entries.append(page_laws(ensemble, [*named, *(known if objective != "text" else ())], draws=draws))
    return tuple(entries)


def _ensemble_of(law: LawFit | PublishedLaw) -> LawEnsemble | None:
    """The draws of a law; None for one that states sizes alone."""
    if isinstance(law, PublishedLaw):
        return ensemble_of_published([law]) if law.loss(1e8, 1e10) is not None else None
    if law.surface is not None and law.surface.a_N is None:
        raise RefusedError(
            f"this {law.objective.upper()} fit does not say which size is compute-optimal",
            why=f"the form {law.surface.form} has no lowest loss at a fixed compute",
            hint="fit another form: --form auto",
        )
    return ensemble_of_fit(law)


def page_laws(ensemble: LawEnsemble | None, frontiers: Sequence[PublishedLaw] = (), *, draws: int = PAGE_DRAWS) -> Json:
    """One objective's laws as JSON: the estimate of every form as its first row, then its thinned draws.

    Parameters
    ----------
    ensemble : laws that state a loss; None where only frontiers are known.
    frontiers : power laws N = k_N C^a_N of the same objective, shown beside; without an ensemble the first gives N.
    draws : most draws, all forms together.

    Raises
    ------
    ConfigError : neither an ensemble nor a frontier, or laws of another objective among them.
    """
    stated = [law for law in frontiers if law.form == "power_frontier" and "k_N" in law.params]
    if ensemble is None:
        if not stated:
            raise ConfigError("a page needs a law that says which size a budget asks for", hint="--laws zoo:cheng-clm")
        return _frontier_page(stated)
    thin = ensemble.thinned(max(1, draws // len(ensemble.members)))
    if wrong := [law.id for law in stated if law.objective != thin.objective]:
        raise ConfigError(f"{wrong[0]} is no law of {thin.objective.upper()}")
    most = max(len(member.theta) - 1 for member in thin.members)
    return {
        "objective": thin.objective,
        "source": thin.source,
        "status": thin.status,
        "range_C": thin.range_C,
        "noise_sd": thin.noise_sd,
        "drift_sd": thin.drift_sd,
        "flags": list(thin.flags),
        "validation_id": thin.validation_id,
        "members": [_member(member) for member in thin.members],
        "repeats": _repeats(thin, most),
        "frontiers": [_frontier(law) for law in stated],
    }


def _frontier_page(laws: Sequence[PublishedLaw]) -> Json:
    first = laws[0]
    return {
        "objective": first.objective,
        "source": first.source,
        "status": first.status,
        "range_C": first.range_C,
        "noise_sd": 0.0,
        "drift_sd": 0.0,
        "flags": ["NO_LOSS", *(("TEXT_LAW",) if first.objective == "text" else ())],
        "validation_id": None,
        "members": [],
        "repeats": None,
        "frontiers": [_frontier(law) for law in laws],
    }


def _frontier(law: PublishedLaw) -> Json:
    return {
        "name": law.id,
        "k_N": law.params["k_N"],
        "a_N": law.params["a_N"],
        "source": law.source,
        "status": law.status,
    }


def _member(member: LawMember) -> Json:
    natural = member.form.natural(member.theta)
    known = len(natural) == 2 and bool(np.array_equal(natural[0], natural[1]))
    return {
        "name": member.name,
        "form": member.form.name,
        "equation": member.form.equation,
        "weight": member.weight,
        "plateau": member.form.plateau,
        "N0": _short(math.exp(member.log_N0)),
        "D0": _short(math.exp(member.log_D0)),
        "batch_tokens": _short(math.exp(member.log_batch)),
        "parameters": list(member.form.names),
        # A law without draws is its own only draw.
        "draws": [[_short(value) for value in row] for row in (natural[:1] if known else natural)],
    }


def _repeats(ensemble: LawEnsemble, draws: int) -> Json | None:
    """What repeated tokens are worth. A fitted law's draws are dealt out in turn, so that the first ones are enough."""
    repeats = ensemble.repeats
    if repeats is None:
        return None
    if isinstance(repeats, TokenDecay):
        strata = repeats.R_D * np.exp(normal_quantiles() * repeats.log_sd)
        return {
            "kind": "tokens",
            "R_D": repeats.R_D,
            "strata": [_short(value) for value in strata],
            "source": repeats.source,
            "status": repeats.status,
        }
    # Where repeats turn the loss sizes are claimed only so far beyond those seen, whatever the unique tokens.
    largest = largest_claimed(ensemble, 1.0)
    estimate = [interval.value for interval in repeats.parameters.values()]
    return {
        "kind": repeats.form,
        "base": repeats.base,
        "plateau": repeats.plateau,
        "N0": repeats.N0,
        "D0": repeats.D0,
        "R0": repeats.R0,
        "ratio0": repeats.ratio0,
        "batch_tokens": repeats.batch_typical,
        "parameters": list(repeats.parameters),
        "draws": [[_short(value) for value in row] for row in (estimate, *repeats.draws[:draws])],
        "largest_N": None if largest is None else math.exp(largest),
        "range_epochs": repeats.range_epochs,
        "flags": list(repeats.flags),
        "source": f"own fit of {repeats.n_runs} runs, {repeats.n_repeated} of them repeated",
        "status": "own fit",
    }


def _short(value: float) -> float:
    """A number of few digits that JSON can hold: what is infinite stands for a limit no run comes near."""
    bounded = min(max(float(value), -1e300), 1e300)
    return float(f"{bounded:.{_DIGITS}g}")
