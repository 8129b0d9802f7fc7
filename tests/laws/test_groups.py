from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.core.run_table import RunTable
from plm_scaling.laws.fit import fit_surface
from plm_scaling.laws.group_basis import GroupBasis, bases_of
from plm_scaling.laws.group_fit import GroupFit
from plm_scaling.laws.group_losses import evidence_of
from plm_scaling.laws.group_posterior import draw_posterior
from plm_scaling.laws.group_simulation import GroupWorld, SimulatedSweep, simulate_groups
from plm_scaling.laws.groups import fit_group_laws, group_loss
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.laws.surface import surface_loss


def law_of(runs: RunTable) -> LawFit:
    surface = fit_surface(*(runs.column(name) for name in ("N", "D", "loss")), draws=100)
    return LawFit(
        objective="clm",
        currency="C_6nd",
        n_runs=len(runs),
        surface=surface,
        range_C=(1.0, 2.0),
        data_hash=runs.content_hash(),
    )


def fitted(made: SimulatedSweep, draws: int = 200) -> GroupFit:
    return fit_group_laws(made.runs, law_of(made.runs), made.losses, by="family", validation="val_iid", draws=draws)


@pytest.fixture(scope="module")
def sweep() -> SimulatedSweep:
    return simulate_groups(GroupWorld(groups=24), 5)


@pytest.fixture(scope="module")
def fit(sweep: SimulatedSweep) -> GroupFit:
    return fitted(sweep)


def inside(made: SimulatedSweep, fit: GroupFit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether intervals hold the truth, and errors shrunk and alone, [G, 3] each."""
    truth = np.column_stack([made.loss(fit.N_largest, fit.D_largest), made.per_doubling(fit.N0, fit.D0)])
    held, shrunk, alone = [], [], []
    for group in fit.groups:
        at = truth[made.losses.names.index(group.name)]
        intervals = (group.loss, group.per_doubling_N, group.per_doubling_D)
        held.append([i.low <= t <= i.high for i, t in zip(intervals, at, strict=True)])
        shrunk.append([i.value - t for i, t in zip(intervals, at, strict=True)])
        alone.append(group.alone - at)
    return np.array(held), np.array(shrunk), np.array(alone)


def test_known_effects_of_groups_are_recovered(sweep: SimulatedSweep, fit: GroupFit) -> None:
    held, shrunk, _ = inside(sweep, fit)
    assert held.mean() > 0.88
    true_D = sweep.per_doubling(fit.N0, fit.D0)[:, 1]
    order = [sweep.losses.names.index(group.name) for group in fit.groups]
    assert np.corrcoef(true_D[order], [group.per_doubling_D.value for group in fit.groups])[0, 1] > 0.9
    assert np.abs(shrunk[:, 2]).mean() < 0.4 * true_D.std()
    steepest = fit.groups[order.index(int(np.argmin(true_D)))]
    assert steepest.fastest_D > 0.5
    assert steepest.rank_D.low <= 3


def test_groups_that_are_alike_are_drawn_together() -> None:
    made = simulate_groups(GroupWorld(spread_A=0.02, spread_B=0.02, groups=20, per_ln_tokens=0.0), 1)
    fit = fitted(replace(made, losses=replace(made.losses, share=None)))
    held, shrunk, alone = inside(made, fit)
    assert held.mean() > 0.88
    assert (shrunk[:, 1:] ** 2).mean() < 0.5 * (alone[:, 1:] ** 2).mean()
    assert max(fit.reliability[1:]) < 0.5
    assert "SLOPES_NOT_TOLD_APART" in fit.flags
    assert any(note.startswith("SLOPES_NOT_TOLD_APART: ") for note in fit.notes)


def test_groups_with_exponents_of_their_own_are_held() -> None:
    """Three columns cannot follow such a group over all runs: without bends 84 % of these changes with D are held."""
    world = GroupWorld(spread_exponent=0.06, per_ln_tokens=0.0, smallest=20)
    held = []
    for seed in range(6):
        made = simulate_groups(world, seed)
        fit = fitted(replace(made, losses=replace(made.losses, share=None)))
        assert fit.bends
        held.append(inside(made, fit)[0])
    assert np.concatenate(held)[:, 2].mean() > 0.9


def test_few_runs_do_not_bend(sweep: SimulatedSweep) -> None:
    runs = RunTable(sweep.runs.rows[:10])
    losses = replace(sweep.losses, run_ids=sweep.losses.run_ids[:10], loss_sum=sweep.losses.loss_sum[:10])
    fit = fit_group_laws(runs, law_of(sweep.runs), losses, by="family", validation="val_iid", draws=60)
    assert not fit.bends
    assert {len(group.coefficients) for group in fit.groups} == {3}
    assert group_loss(fit, "group-0", 2e4, 2e6).value > 0


def test_small_groups_are_flagged_and_keep_less_of_their_own(fit: GroupFit) -> None:
    few = [group for group in fit.groups if group.sequences < 10]
    assert few
    assert all("FEW_SEQUENCES" in group.flags for group in few)
    large = fit.groups[0]
    assert not large.flags
    assert max(group.kept[2] for group in few) < large.kept[2]
    assert min(g.loss.high - g.loss.low for g in few) > large.loss.high - large.loss.low


def test_the_sampling_error_is_that_of_resampled_sequences(sweep: SimulatedSweep, fit: GroupFit) -> None:
    """One large group's covariance against brute force: its sequences drawn again a thousand times."""
    law = law_of(sweep.runs)
    assert law.surface is not None
    N, D = sweep.runs.column("N"), sweep.runs.column("D")
    columns = GroupBasis("law", law.surface, fit.N0, fit.D0).columns(N, D)
    losses = sweep.losses
    found = evidence_of(losses, surface_loss(law.surface, N, D), np.zeros(len(N)), columns)
    rng = np.random.default_rng(0)
    here = np.flatnonzero(losses.label == 0)
    counts = rng.multinomial(len(here), np.full(len(here), 1 / len(here)), 1000)
    mean = counts @ losses.loss_sum[:, here].T / (counts @ losses.n_targets[here])[:, None]
    drawn = mean @ np.linalg.pinv(columns).T
    sampled = np.sqrt(np.diag(np.cov(drawn.T)))
    # What runs do to single groups comes on top, and the group's own is moderated by the others'.
    assert np.sqrt(np.diag(found.covariance[0])) == pytest.approx(sampled, rel=0.35)


def test_what_befalls_a_whole_run_is_no_groups(sweep: SimulatedSweep, fit: GroupFit) -> None:
    assert fit.run_sd == pytest.approx(sweep.world.group_seed_sd, rel=0.5)
    loud = simulate_groups(replace(sweep.world, seed_sd=0.03), 5)
    losses = replace(loud.losses, share=None)
    again = fitted(replace(loud, losses=losses), draws=100)
    assert again.run_sd < 0.4 * 0.03
    assert [group.loading for group in again.groups] == pytest.approx([1.0] * len(again.groups), abs=0.2)


def test_the_line_of_homologous_tokens_is_recovered_and_doubted(sweep: SimulatedSweep, fit: GroupFit) -> None:
    line = fit.homology
    assert line is not None
    assert line.loss.low <= sweep.world.per_ln_tokens * np.log(2) <= line.loss.high
    assert "BETWEEN_GROUPS_ONLY" in line.flags
    assert "BETWEEN_GROUPS_ONLY" in fit.flags
    assert fit.groups[0].homologous_tokens == pytest.approx(sweep.losses.share[0] * fit.D_largest)  # type: ignore[index]
    length = np.exp(np.log(sweep.losses.share)[sweep.losses.label])  # type: ignore[arg-type]
    longer = replace(sweep, losses=replace(sweep.losses, length=length))
    confounded = fitted(longer, draws=100).homology
    assert confounded is not None
    assert "CONFOUNDED" in confounded.flags
    assert confounded.length_correlation > 0.9


def test_a_group_is_predicted_where_it_was_not_run(sweep: SimulatedSweep, fit: GroupFit) -> None:
    group = fit.groups[0]
    at = group_loss(fit, group.name, fit.N_largest, fit.D_largest)
    assert at.value == pytest.approx(group.loss.value)
    assert (at.high - at.low) == pytest.approx(group.loss.high - group.loss.low, rel=0.25)
    N, D = 2.0 * fit.N_largest, 2.0 * fit.D_largest
    beyond = group_loss(fit, group.name, N, D)
    truth = float(sweep.loss(N, D)[sweep.losses.names.index(group.name)])
    assert beyond.low <= truth <= beyond.high
    with pytest.raises(ConfigError, match=r"no group is called 'group-O'"):
        group_loss(fit, "group-O", N, D)


def test_a_fit_is_a_file(fit: GroupFit, tmp_path: Path) -> None:
    path = fit.write(tmp_path / "groups-clm.json")
    assert GroupFit.read(path) == fit


def test_what_runs_cannot_say_is_refused(sweep: SimulatedSweep) -> None:
    law = law_of(sweep.runs)
    few = replace(sweep.losses, run_ids=sweep.losses.run_ids[:5], loss_sum=sweep.losses.loss_sum[:5])
    along = RunTable(tuple(row.model_copy(update={"D": 20.0 * row.N}) for row in sweep.runs))
    with pytest.raises(RefusedError, match="there are 5 runs"):
        fit_group_laws(RunTable(sweep.runs.rows[:5]), law, few, by="g", validation="v")
    with pytest.raises(RefusedError, match="1 groups"):
        fit_group_laws(sweep.runs, law, sweep.losses.largest(1), by="g", validation="v")
    with pytest.raises(RefusedError, match="move together"):
        fit_group_laws(along, law, sweep.losses, by="g", validation="v")
    with pytest.raises(RefusedError, match="is refused"):
        fit_group_laws(sweep.runs, law.model_copy(update={"surface": None}), sweep.losses, by="g", validation="v")


def test_two_sizes_do_not_bend() -> None:
    """ln(N/N0)^2 is a constant there, which rounding must not hide."""
    made = simulate_groups(GroupWorld(groups=4), 0)
    surface = law_of(made.runs).surface
    assert surface is not None
    rng = np.random.default_rng(0)
    for _ in range(50):
        N, D = rng.choice([1e4, 3.7e4], 14), np.exp(rng.uniform(13.0, 16.0, 14))
        assert not any(basis.bends for basis in bases_of(surface, N, D))


def test_the_spread_is_that_of_the_groups() -> None:
    worlds = [simulate_groups(GroupWorld(groups=60, smallest=30, per_ln_tokens=0.0), seed) for seed in (1, 2)]
    for made in worlds:
        fit = fitted(replace(made, losses=replace(made.losses, share=None)))
        true = np.column_stack([made.loss(fit.N_largest, fit.D_largest), made.per_doubling(fit.N0, fit.D0)]).std(axis=0)
        assert fit.spread == pytest.approx(true, rel=0.12)


def test_shrinkage_of_many_known_groups_is_the_normal_formula() -> None:
    """With many groups and known errors the posterior mean is that of the true spread."""
    rng = np.random.default_rng(3)
    G, spread = 200, np.array([1.0, 0.5, 0.2])
    beta = np.array([2.0, -1.0, 0.5]) + spread * rng.standard_normal((G, 3))
    error = np.full(3, 0.5)
    seen = beta + error * rng.standard_normal((G, 3))
    covariance = np.broadcast_to(np.diag(error**2), (G, 3, 3))
    made = draw_posterior(seen, covariance, np.full(G, 1e4), np.ones((G, 1)), draws=200, burn_in=100)
    weight = spread**2 / (spread**2 + error**2)
    expected = weight * seen + (1 - weight) * np.array([2.0, -1.0, 0.5])
    posterior = made.beta.mean(axis=0)
    assert np.sqrt(((posterior - expected) ** 2).mean(axis=0)) == pytest.approx(np.zeros(3), abs=0.15)
    assert np.sqrt(((posterior - beta) ** 2).mean()) < 0.85 * np.sqrt(((seen - beta) ** 2).mean())
    sd = np.sqrt(weight) * error
    assert made.beta.std(axis=0).mean(axis=0) == pytest.approx(sd, rel=0.2)
