"""Uses of a model in tokens and FLOPs, and the cheapest model over its life against brute force."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.core.model_sizes import model_size
from plm_scaling.laws.zoo import find_law
from plm_scaling.sizing.costs import load_hardware
from plm_scaling.sizing.decision import decide
from plm_scaling.sizing.law_ensemble import LawEnsemble, ensemble_of_published
from plm_scaling.sizing.lifetime import lifetime_line, lifetime_optimum
from plm_scaling.sizing.serving import InferenceJob, inference_tokens, job_flops, job_of, serving_bill

AAV, VARIANTS = 735, 1e6


@pytest.fixture(scope="module")
def besiroglu() -> LawEnsemble:
    return ensemble_of_published([find_law("besiroglu2024")])


@pytest.fixture(scope="module")
def mixed() -> LawEnsemble:
    """Several forms, one of which has no closed form of its optimum with the others."""
    return ensemble_of_published([find_law(name) for name in ("besiroglu2024", "hoffmann2022", "kaplan2020")])


def test_a_million_capsids_cost_what_they_should() -> None:
    """2 N T at $2.5 per H100 hour and 40 %: $1.7 (650M) to $39 (15B) a pass, $1.2k to $28k with a pass per residue."""
    usd_per_flop = 2.5 / (989e12 * 0.4 * 3600)
    once = job_of("single-pass", VARIANTS, AAV)
    each = job_of("pseudo_likelihood", VARIANTS, AAV)
    assert inference_tokens([once]) == 735e6
    assert inference_tokens([each]) == 735e6 * 735
    for name, one_pass, all_passes in (("esm2-650m", 1.7, 1.2e3), ("esm2-15b", 39.0, 28e3)):
        bill = serving_bill([once], model_size(name), gpu="h100", mfu=0.4)
        assert bill.flops_2nt * usd_per_flop == pytest.approx(one_pass, rel=0.03)
        assert serving_bill([each], model_size(name)).flops_2nt * usd_per_flop == pytest.approx(all_passes, rel=0.05)
        # Attention over 735 residues and the head come on top: 10 % at 650M, 3 % at 15B.
        assert 1.02 < bill.usd_mid / (bill.flops_2nt * usd_per_flop) < 1.11


def test_wild_types_share_their_marginals() -> None:
    assert inference_tokens([job_of("masked-marginals", 10, 500)]) == 10 * 500 * 500
    assert inference_tokens([job_of("masked-marginals", 10, 500, passes=1)]) == 5000
    assert inference_tokens([job_of("embedding", 10, 500), job_of("generation", 2, 100)]) == 5200


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 60), prompt=st.integers(0, 40), layers=st.integers(1, 8), heads=st.integers(1, 8))
def test_generation_is_counted_token_by_token(n: int, prompt: int, layers: int, heads: int) -> None:
    shape = ModelShape(n_layers=layers, d_model=64 * heads)
    d, V = shape.d_model, shape.vocab
    per_token = layers * 24 * d**2 + 2 * d * V
    token_by_token = sum(per_token + 4 * layers * d * (prompt + i) for i in range(1, n + 1))
    prefill = prompt * per_token + 4 * layers * d * prompt**2
    job = InferenceJob(kind="generation", sequences=3, length=n, prompt=prompt)
    assert job_flops(job, shape) == pytest.approx(3 * (prefill + token_by_token), rel=1e-12)


def test_one_sequence_at_a_time_waits_for_memory() -> None:
    shape, gpu = model_size("progen2-xlarge"), load_hardware().gpus["h100"]
    job = job_of("generation", 64, 300)
    alone, batched = (serving_bill([job], shape, gpu=gpu, generation_batch=b) for b in (1, 64))
    assert alone.bandwidth_bound
    weights_read = 2 * shape.N_total * 300 * 64 / (gpu.bandwidth_tb_s * 1e12) / 3600
    assert alone.gpu_hours > weights_read
    assert alone.gpu_hours > 20 * batched.gpu_hours
    assert alone.flops_exact == batched.flops_exact


def test_nonsense_is_refused(besiroglu: LawEnsemble) -> None:
    with pytest.raises(ConfigError, match="masked_margin"):
        job_of("masked_margin", 1, 100)
    with pytest.raises(ConfigError, match="prompt"):
        InferenceJob.checked(kind="embedding", sequences=1, length=10, prompt=5)
    with pytest.raises(ConfigError, match="one target"):
        lifetime_optimum(besiroglu, 1e12)
    with pytest.raises(RefusedError, match=r"1\.8"):
        lifetime_optimum(besiroglu, 1e12, target_loss=1.8)


@pytest.mark.parametrize(
    ("tokens", "size", "data", "saving"),
    [
        (0.0, 9057193065.462292, 184015804302.78622, 0.0),
        (1e11, 7513342576.374831, 224812486964.4984, 0.014749322538740173),
        (1e12, 4626360141.846785, 446325567600.7799, 0.23021982125724694),
        (1e13, 2779242059.1239586, 1488047871258.195, 0.5793811425042399),
    ],
)
def test_published_answers(besiroglu: LawEnsemble, tokens: float, size: float, data: float, saving: float) -> None:
    plan = lifetime_optimum(besiroglu, tokens, target_loss=2.140527084243058)
    np.testing.assert_allclose([plan.best.N, plan.best.D], [size, data], rtol=1e-3)
    assert plan.saving == pytest.approx(saving, rel=1e-3, abs=1e-6)


def test_the_budget_names_the_loss(besiroglu: LawEnsemble) -> None:
    plan = lifetime_optimum(besiroglu, 0.0, C=1e22)
    assert plan.target_loss == pytest.approx(2.1405270842, rel=1e-8)
    assert plan.best.train_flops == pytest.approx(1e22, rel=1e-6)
    assert "nothing served" in lifetime_line(plan)


@settings(max_examples=6, deadline=None)
@given(log_T=st.floats(9, 15), log_C=st.floats(19, 23), weight=st.floats(0.2, 5))
def test_no_point_of_a_grid_is_cheaper(mixed: LawEnsemble, log_T: float, log_C: float, weight: float) -> None:
    T, C = 10**log_T, 10**log_C
    plan = lifetime_optimum(mixed, T, C=C, inference_weight=weight)
    mesh_N, mesh_D = np.meshgrid(plan.best.N * np.geomspace(0.05, 20, 161), plan.best.D * np.geomspace(0.05, 20, 161))
    N, D = mesh_N.ravel(), mesh_D.ravel()
    losses = np.exp(mixed.member_weights @ np.log(mixed.estimates(N, D)))
    reach = losses <= plan.target_loss * (1 + 1e-12)
    cheapest = (6 * N * D + 2 * N * T * weight)[reach].min()
    mine = 6 * plan.best.N * plan.best.D + 2 * plan.best.N * T * weight
    assert mine <= cheapest * (1 + 1e-9)
    assert mine >= cheapest * 0.93, "a grid this fine comes near"
    assert mixed.loss(plan.best.N, plan.best.D) == pytest.approx(plan.target_loss, rel=1e-9)
    assert 0 <= plan.saving < 1
    assert plan.best.N <= plan.trained_cheapest.N * (1 + 1e-6)


def test_repeated_tokens_leave_less_to_trade(besiroglu: LawEnsemble) -> None:
    """With few unique tokens a smaller model cannot buy its loss back with epochs."""
    free = lifetime_optimum(besiroglu, 1e13, target_loss=2.4)
    bound = lifetime_optimum(besiroglu, 1e13, target_loss=2.4, unique_tokens=2e10)
    assert bound.best.N > free.best.N
    assert besiroglu.loss(bound.best.N, bound.best.D, 2e10) == pytest.approx(2.4, rel=1e-9)


def test_a_held_size_is_not_exceeded(mixed: LawEnsemble) -> None:
    C, unique = 1e22, 1e9
    made = lifetime_optimum(mixed, 1e11, C=C, unique_tokens=unique)
    fresh = decide(replace(mixed, repeats=None), C, force=True)
    assert made.best.N <= made.trained_cheapest.N * (1 + 1e-9)
    assert pytest.approx(fresh.N, rel=0.05) == made.trained_cheapest.N
    assert made.trained_cheapest.train_flops == pytest.approx(C, rel=1e-3)
    assert made.N_high <= made.trained_cheapest.N * (1 + 1e-9)


def test_draws_that_agree_agree(besiroglu: LawEnsemble, mixed: LawEnsemble) -> None:
    alone = lifetime_optimum(besiroglu, 1e12, C=1e22)
    assert alone.N_high / alone.N_low < 1.5, "one law, one answer, up to the grid of the draws"
    several = lifetime_optimum(mixed, 1e12, C=1e22)
    assert several.N_high / several.N_low > 2
    assert not math.isnan(several.saving)
