"""The ensemble says what its laws say, draw by draw, with repeated tokens worth what they should be."""

from __future__ import annotations

import numpy as np
import pytest

from plm_scaling.core.errors import RefusedError
from plm_scaling.laws.zoo import all_laws, find_law
from plm_scaling.sizing.law_ensemble import TokenDecay, ensemble_of_published, text_decay
from plm_scaling.sizing.unique_data import effective_tokens_of

N = np.geomspace(1e7, 1e11, 9)
D = np.geomspace(1e9, 1e12, 9)


@pytest.mark.parametrize("law_id", [law.id for law in all_laws() if law.loss(1e8, 1e9) is not None])
def test_published_laws_keep_their_losses(law_id: str) -> None:
    law = find_law(law_id)
    ensemble = ensemble_of_published([law])
    wanted = np.array([law.loss(n, d) for n, d in zip(N, D, strict=True)], dtype=np.float64)
    np.testing.assert_allclose(ensemble.losses(N, D)[0], wanted, rtol=1e-9)
    np.testing.assert_allclose(ensemble.estimates(N, D)[0], wanted, rtol=1e-9)
    assert "NO_DRAWS" in ensemble.flags


def test_a_law_without_a_loss_is_refused() -> None:
    with pytest.raises(RefusedError, match="cheng-clm"):
        ensemble_of_published([find_law("cheng-clm")])


def test_repeats_are_worth_less_and_never_more_than_new_tokens() -> None:
    ensemble = ensemble_of_published([find_law("besiroglu2024")])
    unique = np.geomspace(1e8, 1e11, 30)
    losses = ensemble.losses(1e9, 1e11, unique)[0]
    assert np.all(np.diff(losses) < 0), "an extra unique token never hurts"
    assert losses[-1] == pytest.approx(ensemble.losses(1e9, 1e11)[0, 0], rel=1e-12)


def test_the_estimate_reads_repeats_as_the_text_law_does() -> None:
    ensemble = ensemble_of_published([find_law("besiroglu2024")])
    worth = effective_tokens_of(4e11, 1e11)
    assert ensemble.estimates(1e9, 4e11, 1e11)[0, 0] == pytest.approx(ensemble.estimates(1e9, worth)[0, 0], rel=1e-9)


def test_draws_of_the_decay_spread_as_stated() -> None:
    decay = text_decay()
    ensemble = ensemble_of_published([find_law("besiroglu2024")])
    member = ensemble.members[0]
    many = type(member)(
        member.name, 1.0, member.form, np.repeat(member.theta[:1], 1601, axis=0), member.log_N0, member.log_D0
    )
    drawn = type(ensemble)("text", "", "read", (many,), None, repeats=decay).losses(1e9, 1e12, 1e10)[:, 0]
    low, high = (
        type(ensemble)("text", "", "read", (many,), None, repeats=TokenDecay(R_D, 0.0, "")).losses(1e9, 1e12, 1e10)[
            0, 0
        ]
        for R_D in (decay.R_D * np.exp(decay.log_sd), decay.R_D * np.exp(-decay.log_sd))
    )
    assert np.quantile(drawn, 0.16) == pytest.approx(low, abs=0.15 * (high - low))
    assert np.quantile(drawn, 0.84) == pytest.approx(high, abs=0.15 * (high - low))
