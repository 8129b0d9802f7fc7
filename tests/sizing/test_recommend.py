from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.core.recipe import batch_tokens_for, peak_lr_for
from plm_scaling.core.units import format_count
from plm_scaling.laws.law_fit import Interval, IsoflopFit, LawFit
from plm_scaling.laws.zoo import find_law
from plm_scaling.sizing.costs import load_hardware, throughput_for
from plm_scaling.sizing.default_laws import published_ensemble, published_fit
from plm_scaling.sizing.recommend import Budget, recommend
from plm_scaling.sizing.recommendation import Recommendation


def own_fit(range_C: tuple[float, float] = (1e18, 1e20)) -> LawFit:
    iso = IsoflopFit(
        currency="C_6nd",
        rows=(),
        a_N=Interval(value=0.5, low=0.45, high=0.55),
        k_N=0.05,
    )
    return LawFit(objective="mlm", currency="C_6nd", n_runs=20, isoflop=iso, range_C=range_C, data_hash="0")


def test_the_question_of_the_readme_by_hand() -> None:
    """5,000 A100 hours at 45 % of 312 TFLOP/s are 2.5272e21 FLOPs; attention and head take 3.1 % of them."""
    answer = recommend(Budget(gpu_hours=5000), "mlm", gpu="A100", n_gpus=8, unique_tokens=15e9)
    assert answer.C_exact == pytest.approx(5000 * 3600 * 312e12 * 0.45)
    assert pytest.approx(2.450e21, rel=5e-3) == answer.C
    assert pytest.approx(answer.C / (6 * answer.N)) == answer.D
    assert answer.decision is not None
    assert answer.decision.N == answer.N == answer.answers[0].N
    assert answer.epochs == answer.decision.epochs == pytest.approx(answer.D / 15e9)
    assert (answer.usd_low, answer.usd, answer.usd_high) == pytest.approx((4000, 6500, 15000))
    assert answer.energy_kwh == pytest.approx(5000 * 0.4 * 0.9 * 1.2)
    assert answer.hours_per_gpu == answer.wall_hours == 625.0
    assert (answer.gpu, answer.mfu, answer.recipe) == ("a100", 0.45, "cheng")
    frontier = next(law for law in answer.answers if law.law_id == "cheng-mlm")
    assert pytest.approx(6.19e-8 * answer.C**0.776) == frontier.N
    assert answer.N_low == answer.decision.N_band[0]
    assert answer.N_high == max(answer.decision.N_band[1], frontier.N)
    assert answer.bill is not None
    assert (answer.bill.n_layers, answer.bill.d_model, answer.bill.n_heads) == (
        answer.n_layers,
        answer.d_model,
        answer.n_heads,
    )
    assert answer.verdict.startswith(
        f"Train {format_count(answer.N, 2)} parameters on {format_count(answer.D, 2)} tokens"
    )
    assert "DATA_EXHAUSTED" in answer.flags
    assert "ABOVE_RANGE" in answer.flags


def test_the_recipe_is_that_of_the_buildable_shape() -> None:
    answer = recommend(Budget(flops=1e20), "clm")
    assert answer.D_built == pytest.approx(1e20 / (6 * answer.N_built))
    assert answer.peak_lr == peak_lr_for(answer.N_built, answer.batch_tokens or 0, "cheng")
    assert answer.batch_tokens == batch_tokens_for(answer.N_built, answer.D_built or 0, "cheng") == 512 * 1024
    assert answer.n_steps == round((answer.D_built or 0) / (512 * 1024))
    assert answer.state_gb == pytest.approx(16 * answer.N_built / 1e9, rel=0.01)


def test_a_budget_of_flops_is_6nd_and_pays_for_attention() -> None:
    answer = recommend(Budget(flops=1e20), "clm", gpu="h100", mfu=0.4)
    assert pytest.approx(1e20) == answer.C
    assert answer.C_exact is not None
    assert answer.C_exact > 1.03e20
    assert answer.gpu_hours == pytest.approx(answer.C_exact / (989e12 * 0.4 * 3600))


def test_the_three_budgets_agree() -> None:
    by_hours = recommend(Budget(gpu_hours=1000), "clm")
    by_usd = recommend(Budget(usd=1300), "clm")
    by_flops = recommend(Budget(flops=by_hours.C), "clm")
    assert pytest.approx(by_hours.N) == by_usd.N
    assert by_flops.gpu_hours == pytest.approx(1000, rel=5e-3), "hours choose N by its true cost, FLOPs by 6 N D"
    assert "PRICE_ASSUMED" in by_usd.flags


def test_the_users_price_is_used_both_ways() -> None:
    answer = recommend(Budget(usd=2000), "clm", usd_per_gpu_hour=2.0)
    assert answer.gpu_hours == 1000
    assert (answer.usd_low, answer.usd_high) == (2000, 2000)
    assert "PRICE_ASSUMED" not in answer.flags


def test_laws_are_shown_in_the_open() -> None:
    answer = recommend(Budget(flops=1e20), "clm")
    roles = {law.law_id: law.role for law in answer.answers}
    assert roles == {
        "cheng2024-fits-clm": "primary",
        "cheng-clm": "counted",
        "cheng-a9-clm": "counted",
        "besiroglu2024": "comparison",
        "muennighoff2023": "comparison",
    }
    by_id = {law.law_id: law for law in answer.answers}
    sizes = [by_id[name].N for name in ("cheng2024-fits-clm", "cheng-clm", "cheng-a9-clm")]
    assert answer.disagreement_decades == pytest.approx(math.log10(max(sizes) / min(sizes)))
    assert answer.N_low <= by_id["cheng-a9-clm"].N
    assert answer.N_high < by_id["besiroglu2024"].N or "TEXT_LAW" in by_id["besiroglu2024"].flags
    assert not any(law.status == "unverified" for law in answer.answers)


def test_unique_tokens_reach_the_law_of_repeats() -> None:
    few = recommend(Budget(flops=2e20), "clm", unique_tokens=2e9)
    many = recommend(Budget(flops=2e20), "clm", unique_tokens=1e12)
    N = {r.unique_tokens: next(a.N for a in r.answers if a.law_id == "muennighoff2023") for r in (few, many)}
    assert N[2e9] < N[1e12]


def test_more_than_a_decade_is_flagged_and_more_than_one_and_a_half_refused() -> None:
    flagged = recommend(Budget(flops=6e21), "mlm")
    assert "FAR_OUTSIDE_RANGE" in flagged.flags
    assert any("1.3 decades of extrapolation; treat N as an order of magnitude" in w for w in flagged.warnings)
    with pytest.raises(RefusedError) as caught:
        recommend(Budget(flops=1e22), "mlm")
    text = str(caught.value)
    assert caught.value.exit_code == 4
    assert "1.00e+22 FLOPs is 1.5 decades above the runs behind cheng2024-fits-mlm (1e+18 to 3e+20)" in text
    assert "--force" in text
    forced = recommend(Budget(flops=1e22), "mlm", force=True)
    assert forced.answers[0].extrapolation_decades == pytest.approx(math.log10(1e22 / 3e20), abs=1e-3)


def test_a_budget_far_below_is_refused_too() -> None:
    with pytest.raises(RefusedError, match="decades below the runs behind cheng2024-fits-clm"):
        recommend(Budget(flops=1e16), "clm")


def test_ones_own_law_comes_first_and_is_held_against_the_published_one() -> None:
    answer = recommend(Budget(flops=1e20), "mlm", laws=[own_fit()])
    assert pytest.approx(0.05 * 1e10) == answer.N
    assert answer.answers[0].law_id == "own-mlm-isoflop"
    assert [(a.law_id, a.role) for a in answer.answers[1:]] == [
        ("cheng2024-fits-mlm", "comparison"),
        ("cheng-mlm", "comparison"),
        ("besiroglu2024", "comparison"),
        ("muennighoff2023", "comparison"),
    ]
    assert answer.disagreement_decades == 0.0


def test_a_law_too_far_from_its_runs_does_not_widen_the_band() -> None:
    answer = recommend(Budget(flops=1e20), "mlm", laws=[find_law("cheng-mlm"), own_fit((1e12, 1e14))])
    assert answer.answers[1].role == "comparison"
    assert recommend(Budget(flops=1e20), "mlm", laws=[find_law("cheng-mlm"), own_fit()]).answers[1].role == "counted"


def test_a_text_law_asked_for_by_name_answers_with_a_flag() -> None:
    answer = recommend(Budget(flops=1e21), "mlm", laws=[find_law("besiroglu2024")])
    assert pytest.approx(2781983523.6581883, rel=1e-4) == answer.N
    assert "TEXT_LAW" in answer.flags


def test_a_law_of_the_other_objective_is_an_error() -> None:
    with pytest.raises(ConfigError, match="cheng-clm is a law of CLM, not of MLM"):
        recommend(Budget(flops=1e20), "mlm", laws=[find_law("cheng-clm")])
    with pytest.raises(ConfigError, match="this fit is a law of MLM"):
        recommend(Budget(flops=1e20), "clm", laws=[own_fit()])
    with pytest.raises(ConfigError, match="no law"):
        recommend(Budget(flops=1e20), "clm", laws=[])


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("objective", "mml", "did you mean mlm?"),
        ("gpu", "h10", "h100"),
        ("unique_tokens", -1.0, "unique_tokens must be a positive number"),
        ("n_gpus", 0, "n_gpus must be a positive number"),
        ("mfu", 40.0, "40 % is 0.4"),
        ("max_epochs", 0.5, "max_epochs must be at least 1"),
        ("usd_per_gpu_hour", math.nan, "usd_per_gpu_hour must be"),
    ],
)
def test_wrong_arguments_say_what_to_do(name: str, value: object, said: str) -> None:
    arguments = {"objective": "mlm", name: value}
    with pytest.raises(ConfigError) as caught:
        recommend(Budget(flops=1e20), **arguments)  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_a_recommendation_survives_its_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    answer = recommend(Budget(gpu_hours=5000), "mlm", unique_tokens=15e9)
    path = answer.write(tmp_path_factory.mktemp("size") / "size.json")
    assert Recommendation.read(path) == answer


@pytest.mark.parametrize(
    ("law", "objective", "C", "published"),
    [("cheng-clm", "clm", 1.14e22, 7.2e9), ("cheng-mlm", "mlm", 1.68e22, 10.7e9)],
)
def test_the_papers_budgets_give_its_sizes_by_its_law_and_an_interval_by_the_ensemble(
    law: str, objective: str, C: float, published: float
) -> None:
    by_law = recommend(Budget(flops=C), objective, laws=[find_law(law)], force=True)
    assert pytest.approx(published, rel=0.03) == by_law.N
    assert by_law.decision is None
    ours = recommend(Budget(flops=C), objective, force=True)
    assert ours.decision is not None
    low, _, high = ours.decision.N_quantiles
    assert low < ours.N < high
    assert high > 1.3 * low
    for answer in (by_law, ours):
        (why,) = [said for said in answer.warnings if f"{law} says" in said]
        assert "FRONTIER_DIFFERS" in answer.flags
        assert f"{law} says {format_count(by_law.N, 2)}, cheng2024-fits-{objective} " in why
        assert "straight line" in why
        assert "no run tells which is right" in why


@pytest.mark.parametrize("hours", [3.0, 30.0, 3000.0])
def test_hours_are_spent_where_they_lower_the_loss_most_at_the_true_speed(hours: float) -> None:
    """The speed bends where narrow models leave the accelerator idle: no smooth curve goes through it."""
    answer = recommend(Budget(gpu_hours=hours), "clm", unique_tokens=2e9, force=True)
    assert answer.decision is not None
    ensemble, hardware = published_ensemble("clm"), load_hardware()
    N = np.geomspace(answer.N / 4.0, answer.N * 4.0, 401)
    speed = np.array([throughput_for(float(n), hardware.gpus["a100"], hardware).flops_6nd_per_s for n in N])
    D = 3600.0 * hours * speed / (6.0 * N)
    losses = ensemble.losses(N, D)  # tokens repeat: the size is that of unlimited data
    mean = ensemble.draw_weights @ losses
    own = ensemble.losses(answer.N, answer.D, 2e9)[:, 0]
    assert answer.decision.loss == pytest.approx(float(ensemble.draw_weights @ own), abs=2e-6)
    assert pytest.approx(N[mean.argmin()], rel=0.02) == answer.N
    regret = float(ensemble.draw_weights @ (losses[:, mean.argmin()] - losses.min(axis=1)))
    assert answer.decision.regrets[0].mean == pytest.approx(regret, abs=1e-5)


def test_a_fit_of_ones_own_gives_n_by_its_forms() -> None:
    fit = published_fit("mlm")
    answer = recommend(Budget(flops=1e20), "mlm", laws=[fit, find_law("cheng-mlm")])
    assert [(law.law_id, law.role) for law in answer.answers[:4]] == [
        ("own-mlm-forms", "primary"),
        ("own-mlm-isoflop", "counted"),
        ("own-mlm-surface", "counted"),
        ("cheng-mlm", "counted"),
    ]
    assert answer.decision is not None
    assert pytest.approx(recommend(Budget(flops=1e20), "mlm").N, rel=1e-6) == answer.N
    assert "FRONTIER_DIFFERS" not in answer.flags, "another study's runs are no reason"


def test_repeats_are_no_reason_for_the_frontier_to_differ() -> None:
    plenty, scarce = (recommend(Budget(flops=1e20), "clm", unique_tokens=unique) for unique in (1e12, 1e9))
    assert pytest.approx(plenty.N, rel=1e-4) == scarce.N
    assert scarce.decision is not None
    assert plenty.decision is not None
    assert scarce.decision.loss > plenty.decision.loss + 0.01
    assert "FRONTIER_DIFFERS" not in (*plenty.flags, *scarce.flags)
    (why,) = [
        said for said in recommend(Budget(flops=3e21), "mlm", unique_tokens=1e9).warnings if "cheng-mlm says" in said
    ]
    assert "both for data without repeats" in why


def test_a_version_1_file_reads(tmp_path: Path) -> None:
    answer = recommend(Budget(flops=1e20), "clm")
    data = json.loads(answer.to_json())
    for name in ("decision", "verdict", "bill"):
        del data[name]
    (tmp_path / "old.json").write_text(json.dumps({**data, "schema_version": 1}))
    old = Recommendation.read(tmp_path / "old.json")
    assert old.decision is None
    assert old.N == answer.N


OBJECTIVES = st.sampled_from(["clm", "mlm"])


@settings(max_examples=10, deadline=None)
@given(objective=OBJECTIVES, hours=st.floats(30, 8000), more=st.floats(1.05, 10), unique=st.floats(1e8, 1e12))
def test_more_hours_buy_more_of_everything(objective: str, hours: float, more: float, unique: float) -> None:
    small = recommend(Budget(gpu_hours=hours), objective, unique_tokens=unique, force=True)
    large = recommend(Budget(gpu_hours=hours * more), objective, unique_tokens=unique, force=True)
    assert small.C < large.C
    assert small.N <= large.N  # it stays where the speed bends
    assert small.D < large.D
    assert small.N_low < large.N_low
    assert small.N_high < large.N_high
    assert (small.epochs or 0) < (large.epochs or 0)
    assert small.N_low <= small.N <= small.N_high
    assert set(small.flags) - set(large.flags) <= {
        "MFU_GUESSED", "LAWS_DISAGREE", "BELOW_RANGE", "SHAPE_NOT_CLOSE", "FAR_OUTSIDE_RANGE", "RECIPE_UNCHECKED",
        "FRONTIER_DIFFERS",
    }  # fmt: skip


@settings(max_examples=10, deadline=None)
@given(objective=OBJECTIVES, flops=st.floats(1e18, 3e20), unique=st.floats(1e7, 1e13))
def test_what_is_bought_is_what_is_spent(objective: str, flops: float, unique: float) -> None:
    answer = recommend(Budget(flops=flops), objective, unique_tokens=unique)
    assert pytest.approx(flops) == 6 * answer.N * answer.D
    assert 6 * answer.N_built * (answer.D_built or 0) == pytest.approx(flops)
    assert answer.N_built == pytest.approx(answer.N, rel=0.12)
    assert (answer.effective_tokens or 0) <= answer.D * (1 + 1e-12)
    exhausted = "DATA_EXHAUSTED" in answer.flags
    assert exhausted == ((answer.epochs or 0) > 4.0)
