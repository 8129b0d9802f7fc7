from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.core.recipe import batch_tokens_for, peak_lr_for
from plm_scaling.laws.law_fit import Interval, IsoflopFit, LawFit
from plm_scaling.laws.zoo import find_law
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
    """5,000 A100 hours at 45 % of 312 TFLOP/s are 2.5272e21 FLOPs; attention and head take 2.6 % of them."""
    answer = recommend(Budget(gpu_hours=5000), "mlm", gpu="A100", n_gpus=8, unique_tokens=15e9)
    assert answer.C_exact == pytest.approx(5000 * 3600 * 312e12 * 0.45)
    assert pytest.approx(2.463e21, rel=1e-3) == answer.C
    assert pytest.approx(6.19e-8 * answer.C**0.776) == answer.N
    assert pytest.approx(answer.C / (6 * answer.N)) == answer.D
    assert answer.tokens_per_parameter == pytest.approx(67.7, rel=1e-2)
    assert answer.epochs == pytest.approx(11.1, rel=1e-2)
    assert (answer.usd_low, answer.usd, answer.usd_high) == pytest.approx((4000, 6500, 15000))
    assert answer.energy_kwh == pytest.approx(5000 * 0.4 * 0.9 * 1.2)
    assert answer.hours_per_gpu == answer.wall_hours == 625.0
    assert (answer.gpu, answer.mfu, answer.recipe) == ("a100", 0.45, "cheng")
    dex = 0.25 + 0.1 * math.log10(answer.C / 3e20)
    assert answer.N_low == pytest.approx(answer.N * 10**-dex)
    assert answer.N_high == pytest.approx(answer.N * 10**dex)
    assert (answer.n_layers, answer.d_model, answer.n_heads) == (31, 2560, 40)
    assert "DATA_EXHAUSTED" in answer.flags
    assert "ABOVE_RANGE" in answer.flags
    assert [a.key for a in answer.alternatives][-1] == "reuse"


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
    assert by_flops.gpu_hours == pytest.approx(1000)
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
        "cheng-clm": "primary",
        "cheng-a9-clm": "counted",
        "besiroglu2024": "comparison",
        "muennighoff2023": "comparison",
    }
    by_id = {law.law_id: law for law in answer.answers}
    assert answer.disagreement_decades == pytest.approx(math.log10(by_id["cheng-clm"].N / by_id["cheng-a9-clm"].N))
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
    assert "1.00e+22 FLOPs is 1.5 decades above the runs behind cheng-mlm (1e+18 to 3e+20)" in text
    assert "--force" in text
    forced = recommend(Budget(flops=1e22), "mlm", force=True)
    assert forced.answers[0].extrapolation_decades == pytest.approx(math.log10(1e22 / 3e20))


def test_a_budget_far_below_is_refused_too() -> None:
    with pytest.raises(RefusedError, match="decades below the runs behind cheng-clm"):
        recommend(Budget(flops=1e16), "clm")


def test_ones_own_law_comes_first_and_is_held_against_the_published_one() -> None:
    answer = recommend(Budget(flops=1e20), "mlm", laws=[own_fit()])
    assert pytest.approx(0.05 * 1e10) == answer.N
    assert answer.answers[0].law_id == "own-mlm-isoflop"
    assert [(a.law_id, a.role) for a in answer.answers[1:]] == [
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


OBJECTIVES = st.sampled_from(["clm", "mlm"])


@settings(max_examples=25, deadline=None)
@given(objective=OBJECTIVES, hours=st.floats(30, 8000), more=st.floats(1.05, 10), unique=st.floats(1e8, 1e12))
def test_more_hours_buy_more_of_everything(objective: str, hours: float, more: float, unique: float) -> None:
    small = recommend(Budget(gpu_hours=hours), objective, unique_tokens=unique, force=True)
    large = recommend(Budget(gpu_hours=hours * more), objective, unique_tokens=unique, force=True)
    assert small.C < large.C
    assert small.N < large.N
    assert small.D < large.D
    assert small.N_low < large.N_low
    assert small.N_high < large.N_high
    assert (small.epochs or 0) < (large.epochs or 0)
    assert small.N_low <= small.N <= small.N_high
    assert set(small.flags) - set(large.flags) <= {
        "MFU_GUESSED", "LAWS_DISAGREE", "BELOW_RANGE", "SHAPE_NOT_CLOSE", "FAR_OUTSIDE_RANGE", "RECIPE_UNCHECKED"
    }  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(objective=OBJECTIVES, flops=st.floats(1e18, 3e20), unique=st.floats(1e7, 1e13))
def test_what_is_bought_is_what_is_spent(objective: str, flops: float, unique: float) -> None:
    answer = recommend(Budget(flops=flops), objective, unique_tokens=unique)
    assert pytest.approx(flops) == 6 * answer.N * answer.D
    assert 6 * answer.N_built * (answer.D_built or 0) == pytest.approx(flops)
    assert answer.N_built == pytest.approx(answer.N, rel=0.12)
    assert (answer.effective_tokens or 0) <= answer.D * (1 + 1e-12)
    exhausted = "DATA_EXHAUSTED" in answer.flags
    assert exhausted == ((answer.epochs or 0) > 4.0)
    assert exhausted == (len(answer.alternatives) > 1)
    for other in answer.alternatives:
        assert other.gpu_hours <= answer.gpu_hours * (1 + 1e-9)
        if other.key in ("stop_early", "smaller_run", "larger_model", "more_data"):
            assert other.epochs == pytest.approx(4.0)


def test_no_heavy_library_is_needed() -> None:
    code = (
        "import sys\n"
        "from plm_scaling.sizing.recommend import Budget, recommend\n"
        "recommend(Budget(gpu_hours=5000), 'mlm', unique_tokens=15e9)\n"
        "heavy = {'torch', 'scipy', 'pandas', 'pyarrow', 'datasets', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(' '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
