"""The next budget, on tables of a world whose optimum is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import PlanError, RefusedError
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.corpus.reader import Corpus
from plm_scaling.laws.combine import fit_laws
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.sweeps import adaptive
from plm_scaling.sweeps.adaptive import Proposal, plan_next, propose
from plm_scaling.sweeps.information import Beliefs
from plm_scaling.sweeps.ladder import size_ladder
from plm_scaling.sweeps.plan import plan_sweep, run_parts
from plm_scaling.sweeps.plan_records import GridArm, IsoflopArm, SweepSpec
from plm_scaling.sweeps.pools import flops_per_token
from plm_scaling.sweeps.sizes import parse_size

BUDGETS = (1e9, 4e9, 1.6e10, 6.4e10)
SIZES = ("1x16", "1x32", "2x32", "2x48", "3x64")
SPEC = SweepSpec(
    name="t",
    corpus="c",
    context=64,
    objectives=("clm",),
    seeds=(0, 1),
    isoflop=tuple(IsoflopArm(C=C, sizes=SIZES) for C in BUDGETS),
)


def true_loss(N: float, D: float) -> float:
    return 1.0 + 60.0 / math.sqrt(N) + 60.0 / math.exp(0.45 * math.log(D))


@pytest.fixture(scope="module")
def table(corpus: Corpus) -> RunTable:
    """All runs of the spec with the losses of the world, two seeds that differ by 0.01 nats."""
    noise = np.random.default_rng(1)
    rows = [
        RunRow(
            run_id=run.run_id,
            objective="clm",
            role=",".join(run.roles),
            N=run.config.N,
            D=run.config.D,
            loss=true_loss(run.config.N, run.config.D) + 0.01 * noise.standard_normal(),
            C_6nd=run.config.C_6nd,
            C_exact=run.C_exact,
            batch_tokens=512,
            peak_lr=1e-3,
            seed=run.config.seed,
            corpus_id=corpus.corpus_id,
            validation_id="v",
        )
        for run in plan_sweep(SPEC, corpus).runs
    ]
    return RunTable(tuple(rows))


def below(table: RunTable, C: float) -> RunTable:
    return table.where(lambda row: (row.C_exact or 0.0) < 0.9 * C)


@pytest.fixture(scope="module")
def law(table: RunTable) -> LawFit:
    return fit_laws(below(table, BUDGETS[2]), "clm", form="chinchilla", currency="C_exact", draws=300)


@pytest.fixture(scope="module")
def proposal(corpus: Corpus, table: RunTable, law: LawFit) -> Proposal:
    parts = run_parts(SPEC, corpus, scale=1.0, dtype="fp32")
    return propose(parts, below(table, BUDGETS[2]), "clm", law)


def true_optimum(corpus: Corpus, C: float) -> float:
    """Ln N of the lowest true loss at C exact FLOPs, sizes between those that can be built included."""
    parts = run_parts(SPEC, corpus, scale=1.0, dtype="fp32")
    cost = parts.cost(parts.all_streams())
    ladder = size_ladder([parse_size(size) for size in SIZES], 2e3, 1e6)
    known = np.log([shape.N for shape in ladder])
    per_token = np.log([flops_per_token(shape, cost, "C_exact") for shape in ladder])
    x = np.linspace(known[0], known[-1], 2000)
    losses = [true_loss(math.exp(n), C / math.exp(f)) for n, f in zip(x, np.interp(x, known, per_token), strict=True)]
    return float(x[int(np.argmin(losses))])


def test_the_next_budget_brackets_the_true_optimum(corpus: Corpus, proposal: Proposal) -> None:
    configs = [draft.config for draft in proposal.drafts]
    assert len({config.run_id for config in configs}) == len(SIZES)
    parts = run_parts(SPEC, corpus, scale=1.0, dtype="fp32")
    cost = parts.cost(parts.all_streams())
    spent = [config.D * flops_per_token(config.shape, cost, "C_exact") for config in configs]
    assert spent[:3] == pytest.approx([BUDGETS[2]] * 3, rel=1e-3)
    assert all(min(abs(math.log(C / budget)) for budget in BUDGETS[:3]) < 0.01 for C in spent)
    optimum = true_optimum(corpus, BUDGETS[2])
    middle, low, high = (math.log(config.N) for config in configs[:3])
    assert low < optimum < high
    assert abs(middle - optimum) < 0.5  # the sizes that can be built lie 0.4 to 0.7 apart here
    assert middle - low >= 0.5
    assert high - middle >= 0.5
    assert all(config.seed == 0 for config in configs)


def test_every_run_says_why(proposal: Proposal) -> None:
    assert proposal.reasons[0].startswith("nearest to the predicted optimum at 1.6e+10 FLOPs, ")
    assert "below it" in proposal.reasons[1]
    assert "above it" in proposal.reasons[2]
    assert all(reason.startswith("of all candidates the most information per FLOP") for reason in proposal.reasons[3:])
    assert all("off the variance of ln N_opt at 6.4e+10 FLOPs" in reason for reason in proposal.reasons)
    now = float(proposal.remark.split("within a factor ")[1].split()[0])
    assert float(proposal.remark.split("to be within ")[1].split()[0]) < now


def test_no_other_run_would_have_lowered_the_variance_more_per_flop(
    corpus: Corpus, table: RunTable, law: LawFit, proposal: Proposal
) -> None:
    """The fourth run against all others that could be made, by the variance of a normal given four results."""
    assert law.surface is not None
    assert law.noise_sd is not None
    parts, surface = run_parts(SPEC, corpus, scale=1.0, dtype="fp32"), law.surface
    cost = parts.cost(parts.all_streams())
    ladder = size_ladder([parse_size(size) for size in SIZES], 155.0, 7.4e6)
    first = [(draft.config.N, draft.config.D) for draft in proposal.drafts]
    others = [(s.N, round(C / flops_per_token(s, cost, "C_exact")), C) for s in ladder for C in BUDGETS[1:3]]
    made = {(row.N, row.D) for row in below(table, BUDGETS[2])} | set(first[:3])
    near = [o for o in others if o[:2] not in made and abs(math.log(o[0]) - true_optimum(corpus, o[2])) < 1.2]
    aim = adaptive._log_optima(parts, surface, ladder, BUDGETS[3])[1:]
    points = np.array([*first[:4], *(other[:2] for other in near)], dtype=float)
    losses = np.log(predicted(law, points[:, 0], points[:, 1]))
    S = np.cov(np.column_stack([aim, losses]), rowvar=False)
    rows = [row.loss for row in below(table, BUDGETS[2])]
    noise = (law.noise_sd / float(np.median(rows))) ** 2

    def left(seen: list[int]) -> float:
        seen = [1 + k for k in seen]
        K = S[np.ix_(seen, seen)] + noise * np.eye(len(seen))
        return float(S[0, 0] - S[0, seen] @ np.linalg.solve(K, S[seen, 0]))

    def per_flop(k: int, C: float) -> float:
        return (left([0, 1, 2]) - left([0, 1, 2, k])) / C

    C_fourth = proposal.drafts[3].config.D * flops_per_token(proposal.drafts[3].config.shape, cost, "C_exact")
    best = max(per_flop(4 + k, other[2]) for k, other in enumerate(near))
    assert len(near) > 8
    assert per_flop(3, C_fourth) >= 0.98 * best


def predicted(law: LawFit, N: np.ndarray, D: np.ndarray) -> np.ndarray:
    """Losses float64[draws, points] of the fit's draws by the formula itself."""
    assert law.surface is not None
    E, A0, B0, alpha, beta = np.array(law.surface.draws).T[:, :, None]
    return np.asarray(E + A0 * (N / law.surface.N0) ** -alpha + B0 * (D / law.surface.D0) ** -beta)


def test_the_same_runs_give_the_same_proposal(corpus: Corpus, table: RunTable, law: LawFit, proposal: Proposal) -> None:
    parts = run_parts(SPEC, corpus, scale=1.0, dtype="fp32")
    assert propose(parts, below(table, BUDGETS[2]), "clm", law) == proposal


def test_only_the_settings_given_are_chosen(corpus: Corpus, table: RunTable, law: LawFit) -> None:
    parts = run_parts(SPEC, corpus, scale=1.0, dtype="fp32")
    known = below(table, BUDGETS[2])
    given = [run.config for run in plan_sweep(SPEC, corpus).runs if run.config.seed == 1]
    chosen = [draft.config for draft in propose(parts, known, "clm", law, given).drafts]
    assert {config.run_id for config in chosen} <= {config.run_id for config in given}
    assert not {config.run_id for config in chosen} & {row.run_id for row in known}
    assert len({config.run_id for config in chosen}) == len(chosen) >= 3
    made = [config for config in given if config.run_id in {row.run_id for row in known}]
    with pytest.raises(RefusedError, match="no run is left to choose"):
        propose(parts, known, "clm", law, made)


def test_after_the_last_budget_comes_one_step_more(corpus: Corpus, table: RunTable) -> None:
    parts = run_parts(SPEC, corpus, scale=1.0, dtype="fp32")
    law = fit_laws(table, "clm", form="chinchilla", currency="C_exact", draws=200)
    beyond = propose(parts, table, "clm", law)
    assert beyond.reasons[0].startswith("nearest to the predicted optimum at 2.56e+11 FLOPs")
    assert {draft.config.run_id for draft in beyond.drafts}.isdisjoint(row.run_id for row in table)


def test_too_few_budgets_or_no_optimum_are_refused(corpus: Corpus, table: RunTable, law: LawFit) -> None:
    parts = run_parts(SPEC, corpus, scale=1.0, dtype="fp32")
    with pytest.raises(RefusedError, match=r"clm: 1 budgets below 4e\+09 FLOPs are complete, 2 are needed") as caught:
        propose(parts, below(table, BUDGETS[1]), "clm", law)
    assert "1e+09, 4e+09" in caught.value.hint
    few = below(table, BUDGETS[2])
    with pytest.raises(RefusedError, match="do not say where the optimum lies"):
        propose(parts, few, "clm", law.model_copy(update={"surface": None}))
    assert law.surface is not None
    quiet = law.model_copy(update={"noise_sd": None, "surface": law.surface.model_copy(update={"residual_sd": None})})
    with pytest.raises(RefusedError, match="how much a loss would move"):
        propose(parts, few, "clm", quiet)


def test_draws_that_leave_the_optimum_open_are_refused(corpus: Corpus, table: RunTable, law: LawFit) -> None:
    assert law.surface is not None
    column = list(law.surface.parameters).index("A0")
    draws = tuple(
        tuple(v * math.exp(3.0 * (-1) ** k) if c == column else v for c, v in enumerate(draw))
        for k, draw in enumerate(law.surface.draws)
    )
    wide = law.model_copy(update={"surface": law.surface.model_copy(update={"draws": draws})})
    parts = run_parts(SPEC, corpus, scale=1.0, dtype="fp32")
    with pytest.raises(RefusedError, match=r"open by a factor of|no interior optimum"):
        propose(parts, below(table, BUDGETS[2]), "clm", wide)


def test_a_sweep_without_isoflop_arms_has_no_next_budget(corpus: Corpus, tmp_path: Path) -> None:
    grid = SPEC.model_copy(update={"isoflop": (), "grid": (GridArm(sizes=("1x16",), D=(1e5,)),)})
    with pytest.raises(PlanError, match="isoflop"):
        plan_next(grid, corpus, tmp_path)


def test_a_folder_without_complete_runs_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="no law can be fitted"):
        plan_next(SPEC, corpus, tmp_path)


# ---- information ---------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), noise=st.floats(0.01, 3.0), columns=st.integers(1, 6))
def test_the_gain_is_the_fall_of_the_variance_and_order_does_not_matter(seed: int, noise: float, columns: int) -> None:
    rng = np.random.default_rng(seed)
    joint = rng.standard_normal((50, columns + 1)) @ rng.standard_normal((columns + 1, columns + 1))
    beliefs = Beliefs.of(joint[:, 0], joint[:, 1:], noise)
    gains = beliefs.gains()
    for k in range(columns):
        assert beliefs.variance - beliefs.after(k).variance == pytest.approx(gains[k])
    forward, back = beliefs.after_all(range(columns)), beliefs.after_all(range(columns)[::-1])
    assert forward.variance == pytest.approx(back.variance)
    # Of a joint normal, the variance given all observations.
    S = beliefs.covariance
    given_all = S[0, 0] - S[0, 1:] @ np.linalg.solve(S[1:, 1:] + noise**2 * np.eye(columns), S[1:, 0])
    assert forward.variance == pytest.approx(given_all, rel=1e-6, abs=1e-9)
    assert 0 <= forward.variance <= beliefs.variance


def test_the_most_telling_run_is_the_one_that_narrows_a_simulated_posterior_most() -> None:
    """Of g = a + b one candidate sees a (wide), another b (narrow), a third both: that tells most, then the first."""
    rng = np.random.default_rng(0)
    a, b = 2.0 * rng.standard_normal(20_000), 0.5 * rng.standard_normal(20_000)
    losses = np.column_stack([a, b, a + b])
    beliefs = Beliefs.of(a + b, losses, 0.5)
    assert list(np.argsort(-beliefs.gains())) == [2, 0, 1]
    # What remains, by weighting the draws with the likelihood of one result.
    for k in range(3):
        weight = np.exp(-0.5 * ((losses[:, k] - 0.3) / 0.5) ** 2)
        mean = np.average(a + b, weights=weight)
        left = np.average((a + b - mean) ** 2, weights=weight)
        assert beliefs.after(k).variance == pytest.approx(left, rel=0.1)


@settings(max_examples=30, deadline=None)
@given(low=st.floats(3e3, 1e8), factor=st.floats(4.0, 200.0))
def test_a_ladder_rises_in_the_proportions_of_its_sizes(low: float, factor: float) -> None:
    known = [parse_size(size) for size in ("2x64", "6x256", "12x768")]
    ladder = size_ladder(known, low, low * factor)
    sizes = [shape.N for shape in ladder]
    assert sizes == sorted(set(sizes))
    assert all(shape.d_model % 8 == 0 for shape in ladder)
    assert low / 1.6 <= sizes[0] <= low * 1.6
    assert low * factor / 1.3 <= sizes[-1] <= low * factor * 1.3
    wide = [shape for shape in ladder if shape.N >= 1e5]
    assert all(15 <= shape.d_model / shape.n_layers <= 140 for shape in wide)
    assert all(isinstance(shape, ModelShape) and shape.architecture == "plm" for shape in ladder)
