"""Laws of two forms with draws, and a law of repeats that turns: what the tests of spending decide by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from plm_scaling.laws.interval import Interval
from plm_scaling.laws.repeat_fit import RepeatFit
from plm_scaling.laws.zoo import find_law
from plm_scaling.sizing.law_ensemble import LawEnsemble, LawMember, ensemble_of_published


def _spread(member: LawMember, name: str, weight: float, lift: float, draws: int = 24) -> LawMember:
    """Draws about a law whose exponents differ by 2 %, its amplitudes so that they agree near 1e9 and 1e11 tokens."""
    rng = np.random.default_rng(int(1e3 * weight))
    theta = np.repeat(member.theta[:1], 1 + draws, axis=0)
    alpha, beta = (member.form.index(key) for key in ("alpha", "beta"))
    A, B = (member.form.index(key) for key in ("A0", "B0"))
    theta[:, member.form.index("E")] += lift
    for exponent, amplitude, at in ((alpha, A, np.log(1e9)), (beta, B, np.log(2e10))):
        moved = 0.03 * theta[0, exponent] * rng.standard_normal(1 + draws)
        moved[0] = 0.0
        theta[:, exponent] += moved
        theta[:, amplitude] += moved * at
    return replace(member, name=name, weight=weight, theta=theta)


@pytest.fixture(scope="session")
def ensemble() -> LawEnsemble:
    """Two members with 24 draws each; repeats as in text."""
    two = ensemble_of_published([find_law("besiroglu2024"), find_law("hoffmann2022-unrounded")])
    members = tuple(_spread(m, name, w, 0.0) for m, name, w in zip(two.members, "ab", (0.7, 0.3), strict=True))
    return replace(two, objective="mlm", status="own fit", members=members, flags=(), range_C=(1e18, 1e22))


@pytest.fixture(scope="session")
def turning(ensemble: LawEnsemble) -> LawEnsemble:
    """The same with a penalty on repeats, P R^1.5 (N/U)^0.6: beyond some epochs the loss rises."""
    law = find_law("besiroglu2024").params
    values = {"E": law["E"], "A0": law["A"], "B0": law["B"], "alpha": law["alpha"], "beta": law["beta"]}
    values |= {"P0": 0.002, "delta": 1.5, "kappa": 0.6}
    fit = RepeatFit(
        form="penalty",
        base="chinchilla",
        fitted=("P0",),
        N0=1.0,
        D0=1.0,
        parameters={key: Interval(value=v, low=v, high=v) for key, v in values.items()},
        profiles={},
        identified=(),
        huber_delta=1e-3,
        objective_value=0.0,
        R2=1.0,
        rms_relative_error=0.003,
        residual_sd=0.003,
        starts=1,
        starts_agreeing=1.0,
        n_runs=20,
        n_repeated=10,
        range_N=(1e7, 1e10),
        range_U=(1e9, 1e11),
        range_epochs=(2.0, 60.0),
        range_ratio=(1e-3, 1.0),
    )
    return replace(ensemble, repeats=fit)
