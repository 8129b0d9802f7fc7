"""The whole view of a budget is one value that can be written and read, with what was refused in it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from plm_scaling.core.errors import ConfigError
from plm_scaling.laws.interval import Interval
from plm_scaling.laws.zoo import find_law
from plm_scaling.sizing.action_parts import Situation
from plm_scaling.sizing.actions import compare_actions
from plm_scaling.sizing.costs import Budget
from plm_scaling.sizing.law_ensemble import LawEnsemble, ensemble_of_published
from plm_scaling.sizing.metric_map import MetricPoint
from plm_scaling.sizing.published_scores import published_scores
from plm_scaling.sizing.situations import make_situations
from plm_scaling.sizing.spending import Spending, best_allocation, search_ensemble
from plm_scaling.sizing.spending_view import SpendingView, read_sources, view_spending
from plm_scaling.sizing.token_source import TokenSource
from plm_scaling.sizing.training_price import price_per_flop

P = 2.4e-18
PRICE = price_per_flop(P)


def test_the_view_is_a_file(ensemble: LawEnsemble, tmp_path: Path) -> None:
    laws = search_ensemble(ensemble, 6)
    view = view_spending([Situation("mlm", Spending(laws, PRICE, 2e4, 5e9))], usd_per_token=1e-7, price=(1.0, 2.0, 4.0))
    assert SpendingView.read(view.write(tmp_path / "view.json")) == view
    assert view.limits["mlm"].N == view.marginal["mlm"].N
    scratch = view.actions.of("mlm scratch")
    assert scratch is not None
    assert pytest.approx(view.limits["mlm"].N, rel=1e-3) == scratch.N
    assert any(sentence.startswith("pilots") for sentence in view.sentences)
    # A single law without draws says nothing of pilots, and that is said; the rest stands.
    single = ensemble_of_published([find_law("besiroglu2024")])
    part = view_spending([Situation("mlm", Spending(single, PRICE, 2e4))])
    assert part.limits == {}
    assert [refusal.quantity for refusal in part.refusals] == ["pilots, mlm"]
    assert part.marginal["mlm"].values[0].nats_per_usd.value > 0


def test_sources_are_read_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "sources.toml"
    path.write_text(
        '[[source]]\nname = "metagenomes"\nusd_per_token = 1e-7\n\n[[source]]\nname = "hallucinated"\n'
        'kind = "generated"\nrho = { value = 0.3, low = 0.1, high = 0.5 }\nsaturation_tokens = 1e10\n'
    )
    first, second = read_sources(path)
    assert (first.rho.value, second.kind, second.saturation_tokens) == (1.0, "generated", 1e10)
    path.write_text('[[source]]\nname = "a"\nusd_pertoken = 1e-7\n')
    with pytest.raises(ConfigError, match="unknown key"):
        read_sources(path)
    path.write_text('[[source]]\nname = "a"\nusd_per_token = inf\n')
    with pytest.raises(ConfigError, match="usd_per_token"):
        read_sources(path)


def test_published_scores_stand_beside_what_is_trained(ensemble: LawEnsemble) -> None:
    scores, higher = published_scores("capsid")
    assert higher
    named = {score.name: score.value for score in scores}
    assert named["esm2-650m"] == pytest.approx(0.277)
    assert named["alignment"] == pytest.approx(0.572)
    assert published_scores("generation") == ((), True)
    points = [MetricPoint(loss=2.0 + 0.1 * k, metric=0.35 - 0.02 * k) for k in range(8)]
    laws = search_ensemble(ensemble, 6)
    table = compare_actions(
        [Situation("mlm", Spending(laws, PRICE, 2e4, 5e9))], metric="capsid", points=points, scores=scores
    )
    assert table.best is not None
    assert table.best.key == "alignment"
    # The public model that scores best here is small; it stands among what may be reused.
    reused = [action for action in table.actions if action.key == "reuse" and action.utility]
    best = max(reused, key=lambda action: action.utility.value if action.utility else 0.0)
    assert best.name == "mlm reuse esm2-35m"


@pytest.mark.parametrize("loss", [0.0, -2.0, math.nan, math.inf])
def test_a_loss_that_cannot_be_is_no_public_models(loss: float) -> None:
    with pytest.raises(ConfigError, match="the loss of esm2-650m must be a positive number"):
        make_situations(Budget(usd=5e3), ["mlm"], public_losses={"esm2-650m": loss})


def test_tokens_without_end_are_unlimited_tokens(ensemble: LawEnsemble) -> None:
    laws = search_ensemble(ensemble, 6)
    endless, free = (best_allocation(Spending(laws, PRICE, 2e4, unique)) for unique in (1e300, None))
    assert endless.loss == pytest.approx(free.loss, abs=1e-6)
    assert pytest.approx(free.N, rel=1e-2) == endless.N


@pytest.mark.slow
def test_no_gradient_search_finds_a_better_spending(ensemble: LawEnsemble) -> None:
    """Nelder-Mead from several starts over two sources of tokens."""
    laws = search_ensemble(replace(ensemble, repeats=replace(ensemble.repeats, log_sd=0.0)), 4)  # type: ignore[arg-type]
    half = Interval(value=0.5, low=0.5, high=0.5)
    sources = (
        TokenSource(name="a", usd_per_token=3e-7),
        TokenSource(name="b", usd_per_token=2e-8, rho=half, saturation_tokens=2e10, tokens=5e10),
    )
    usd, U = 3e4, 3e9
    best = best_allocation(Spending(laws, PRICE, usd, U, sources))
    ours = float(laws.draw_weights @ best.losses[:, 0])

    def loss(x: np.ndarray) -> float:
        taken = np.exp(x) * 1e9
        left = usd - 3e-7 * taken[0] - 2e-8 * taken[1]
        if left <= 0:
            return 10.0
        N = best_allocation(Spending(laws, PRICE, left)).N  # tokens will repeat: the size is that of unlimited data
        D = left / (6 * P * N)
        worth = U + taken[0] + 0.5 * taken[1] / (1 + taken[1] / 2e10)
        return float(laws.draw_weights @ laws.losses(N, D * worth / (U + taken.sum()), worth)[:, 0])

    rng = np.random.default_rng(0)
    ends = []
    for _ in range(3):
        found = minimize(loss, rng.uniform(-2, 2, 2), method="Nelder-Mead", options={"fatol": 1e-7, "xatol": 1e-3})
        ends.append(found.fun)
    assert ours <= min(ends) + 2e-5
    assert min(ends) == pytest.approx(ours, abs=2e-4)
