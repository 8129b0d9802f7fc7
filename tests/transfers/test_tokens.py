from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.combine import fit_laws
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.transfers.tokens import transferred_tokens
from plm_scaling.transfers.transfer_fit import TransferFit, TransferPair

Simulate = Callable[..., RunTable]
Row = Callable[..., RunRow]
DENSE = tuple(np.geomspace(0.75e6, 6e6, 13))
N = 5.5e4


@pytest.fixture(scope="module")
def law() -> LawFit:
    """The planted law as a fit to other sizes and lengths."""
    rows = []
    for size in np.geomspace(1e4, 4e5, 5):
        for D in np.geomspace(5e5, 2e7, 5):
            loss = 1.0 + 40 * size**-0.4 + 300 * D**-0.4
            rows.append(RunRow(run_id=f"{size:g}-{D:g}", objective="mlm", N=size, D=D, loss=loss, C_exact=6 * size * D))
    return fit_laws(RunTable(tuple(rows)), "mlm", draws=5)


def only(fit: TransferFit) -> TransferPair:
    (pair,) = fit.pairs
    return pair


@pytest.mark.parametrize("D_t", [-3e5, 2e5, 1.2e6, 3.5e6])
def test_planted_tokens_are_recovered(simulate: Simulate, D_t: float) -> None:
    pair = only(transferred_tokens(simulate(D_t=D_t, lengths=DENSE), draws=50))
    assert pair.D_t == pytest.approx(D_t, rel=0.02)
    assert pair.D_t_per_source_token == pytest.approx(D_t / 1e6, rel=0.02)


@pytest.mark.parametrize("losses", [(2.6, 2.4, 2.2), (2.4, 2.5, 2.2)])
def test_no_gap_is_no_transferred_token(row: Row, losses: tuple[float, ...]) -> None:
    """Whatever the other seeds of the partner ended at, and on a flat stretch of the curve too."""
    scratch = [
        row(f"s{D:g}-{s}", D=D, seed=s, loss=loss + 0.05 * s)
        for D, loss in zip((0.75e6, 1.5e6, 3e6), losses, strict=True)
        for s in range(2)
    ]
    moved = row("target", source_run_id="src", D_source=1e6, seed=0, loss=losses[1])
    pair = only(transferred_tokens(RunTable((*scratch, moved)), draws=200))
    assert pair.gap == 0
    assert pair.D_t == pytest.approx(0.0, abs=1e-3)
    assert pair.D_t_low is None or pair.D_t_low <= 0


def test_the_partners_length_may_be_a_little_off_the_curves_point(row: Row) -> None:
    scratch = [row("a", D=0.75e6, loss=2.6), row("b", D=1.5e6, loss=2.4), row("c", D=1.512e6, seed=1, loss=2.4)]
    pair = only(transferred_tokens(RunTable((*scratch, row("t", D=1.512e6, seed=1, source_run_id="x", loss=2.5)))))
    assert pair.scratch_run_id == "c"
    assert pair.D_t is not None
    assert -0.76e6 < pair.D_t < 0


def test_few_lengths_cost_little(simulate: Simulate, law: LawFit) -> None:
    """Between lengths a factor of two apart a straight line would be 2 % off; a parabola or the law bends with them."""
    assert only(transferred_tokens(simulate(), draws=50)).D_t == pytest.approx(1.2e6, rel=0.008)
    by_law = only(transferred_tokens(simulate(), {"mlm": law}, draws=50))
    (runs,) = [one for one in by_law.estimates if one.name == "same-N runs"]
    assert runs.D_t == pytest.approx(1.2e6, rel=1e-3)
    assert by_law.D_t == pytest.approx(1.2e6, rel=2e-3)


def test_net_of_the_source(simulate: Simulate) -> None:
    pair = only(transferred_tokens(simulate(D_t=1.2e6, D_source=1e6, lengths=DENSE), draws=50))
    assert pair.net_tokens == pytest.approx(0.2e6, rel=0.1)

    def level(D: float) -> float:
        return float(1 + 40 * N**-0.4 + 300 * D**-0.4)

    assert pair.net_loss_gain == pytest.approx(level(2.5e6) - level(2.7e6), rel=0.05)
    loser = only(transferred_tokens(simulate(D_t=0.5e6, D_source=1e6, lengths=DENSE), draws=50))
    assert loser.net_tokens == pytest.approx(-0.5e6, rel=0.05)
    assert loser.net_loss_gain is not None
    assert loser.net_loss_gain < 0


def test_exact_compute_is_used_on_both_sides(simulate: Simulate) -> None:
    rows = [r.model_copy(update={"C_exact": 9.0 * r.N * r.D}) for r in simulate(lengths=DENSE)]
    paid = [r.model_copy(update={"C_source": 18.0 * N * 1e6}) if r.run_id == "target" else r for r in rows]
    plain = only(transferred_tokens(RunTable(tuple(rows)), draws=20))
    dearer = only(transferred_tokens(RunTable(tuple(paid)), draws=20))
    assert plain.net_tokens is not None
    assert dearer.net_tokens == pytest.approx(plain.net_tokens - 1e6, rel=1e-6)


def test_a_sources_nominal_budget_is_not_held_against_exact_compute(simulate: Simulate) -> None:
    """A budget read off a name is 6 N D; exact FLOPs of the target alone would make the source look cheap."""

    def worth(exact: float | None, C_source: float) -> float | None:
        update = {"C_exact": exact} if exact else {}
        rows = [
            r.model_copy(update=update | ({"C_source": C_source, "N_source": N} if r.run_id == "target" else {}))
            for r in simulate(lengths=DENSE)
        ]
        return only(transferred_tokens(RunTable(tuple(rows)), draws=20)).source_worth

    nominal = 6 * N * 1e6
    assert worth(None, nominal) == pytest.approx(1e6)
    assert worth(1.3 * 6 * N * 1.5e6, nominal) == pytest.approx(1e6)
    assert worth(1.3 * 6 * N * 1.5e6, 1.3 * nominal) == pytest.approx(1e6)


def test_exact_compute_of_one_side_only_is_not_used(simulate: Simulate) -> None:
    rows = [
        r.model_copy(update={"C_exact": 9.0 * r.N * r.D}) if r.run_id == "target" else r
        for r in simulate(lengths=DENSE)
    ]
    assert only(transferred_tokens(RunTable(tuple(rows)), draws=20)).source_worth == pytest.approx(1e6)


def test_intervals_cover_the_planted_value(simulate: Simulate) -> None:
    hits = []
    for seed in range(100):
        table = simulate(sd=0.02, seed=seed, lengths=tuple(np.geomspace(0.75e6, 6e6, 7)))
        pair = only(transferred_tokens(table, draws=120))
        low = -math.inf if pair.D_t_low is None else pair.D_t_low
        high = math.inf if pair.D_t_high is None else pair.D_t_high
        hits.append(low <= 1.2e6 <= high)
    assert np.mean(hits) >= 0.89


def test_beyond_the_scratch_runs_only_a_bound_is_given(simulate: Simulate) -> None:
    fit = transferred_tokens(simulate(D_t=6e6, sd=0.002), draws=100)
    pair = only(fit)
    assert pair.D_t is None
    assert pair.D_t_low == pytest.approx(4.5e6, rel=0.01)
    assert pair.D_t_high is None
    assert "OUTSIDE_SCRATCH_RANGE" in fit.flags
    assert any("OUTSIDE_SCRATCH_RANGE: target" in note for note in fit.notes)


def test_the_law_answers_beyond_the_runs_and_stands_beside_them_inside(simulate: Simulate, law: LawFit) -> None:
    outside = only(transferred_tokens(simulate(D_t=6e6), {"mlm": law}, draws=50))
    assert outside.D_t == pytest.approx(6e6, rel=0.03)
    assert outside.method.startswith("scratch law ")
    assert "same-N scratch runs (4 lengths): out of range" in outside.method
    assert "OUTSIDE_SCRATCH_RANGE" in outside.flags
    assert outside.estimates[-1].D_t is None
    assert outside.estimates[-1].weight == 0
    inside = only(transferred_tokens(simulate(), {"mlm": law}, draws=50))
    assert "same-N scratch runs (4 lengths): 1.2" in inside.method
    assert "METHODS_DISAGREE" not in inside.flags
    assert sum(one.weight for one in inside.estimates) == pytest.approx(1.0)


def with_beta(fit: LawFit, beta: float) -> LawFit:
    """The law as one form whose exponent of D is another."""
    assert fit.surface is not None
    steep = {
        name: value.model_copy(update={"value": beta}) if name == "beta" else value
        for name, value in fit.surface.parameters.items()
    }
    at = list(fit.surface.parameters).index("beta")
    draws = tuple((*draw[:at], beta, *draw[at + 1 :]) for draw in fit.surface.draws)
    surface = fit.surface.model_copy(update={"parameters": steep, "draws": draws})
    return fit.model_copy(update={"surface": surface, "forms": ()})


def test_disagreeing_methods_are_named_with_what_they_say(simulate: Simulate, law: LawFit) -> None:
    fit = transferred_tokens(simulate(), {"mlm": with_beta(law, 0.8)}, draws=20)
    assert "METHODS_DISAGREE" in only(fit).flags
    (note,) = [note for note in fit.notes if note.startswith("METHODS_DISAGREE")]
    assert "chinchilla 4" in note
    assert "same-N runs 1.18M" in note


def test_the_interval_holds_the_choice_of_form(simulate: Simulate, law: LawFit) -> None:
    """Without any noise, the estimators' range is what remains of it."""
    pair = only(transferred_tokens(simulate(), {"mlm": with_beta(law, 0.3)}, draws=400))
    found = [one.D_t for one in pair.estimates if one.D_t is not None]
    assert max(found) > 1.05 * min(found)
    assert pair.D_t_low is not None
    assert pair.D_t_high is not None
    assert pair.D_t_low <= min(found) * 1.01
    assert pair.D_t_high >= max(found) * 0.99


def test_without_a_law_several_forms_are_fitted_to_the_tables_scratch_runs(simulate: Simulate, row: Row) -> None:
    grid = [
        row(f"g{size:g}-{D:g}", role="grid", N=size, D=D, loss=1.0 + 40 * size**-0.4 + 300 * D**-0.4)
        for size in np.geomspace(1e4, 4e5, 4)
        for D in np.geomspace(5e5, 2e7, 4)
    ]
    bad = row("stuck", role="grid", N=2e4, D=3e6, loss=9.0, flags="STUCK")
    pair = only(transferred_tokens(RunTable((*simulate(), *grid, bad)), draws=50))
    assert "chinchilla" in {one.name for one in pair.estimates}
    assert len({one.weight for one in pair.estimates}) == 1
    assert pair.D_t == pytest.approx(1.2e6, rel=0.005)


class TestWithoutAPartner:
    def test_the_nearest_length_is_moved_along_the_law(self, simulate: Simulate, law: LawFit) -> None:
        moved = [
            r.model_copy(update={"D": 1.7e6, "loss": scratch(1.7e6) * 1.02}) if r.run_id.startswith("s1.5") else r
            for r in simulate()
        ]
        fit = transferred_tokens(RunTable(tuple(moved)), {"mlm": law}, draws=200)
        pair = only(fit)
        assert pair.scratch_run_id == "s1.5e+06-0"
        assert "LAW_ONLY" in pair.flags
        assert "NO_SCRATCH_PARTNER" not in fit.flags
        assert pair.loss_scratch == pytest.approx(scratch(1.5e6) * 1.02, rel=1e-4)
        assert any("LAW_ONLY: target" in note and "s1.5e+06-0, moved along the law" in note for note in fit.notes)
        # The level of the near run is 2 % high, and so the gap is larger than that to the law.
        law_only = only(transferred_tokens(simulate(lengths=(6e6,)), {"mlm": law}, draws=200))
        assert pair.D_t is not None
        assert law_only.D_t is not None
        assert pair.D_t > law_only.D_t

    def test_the_law_alone_gives_d_t_with_a_wider_interval(self, simulate: Simulate, law: LawFit) -> None:
        assert law.surface is not None
        rough = law.surface.model_copy(update={"residual_sd": 0.01})
        laws = {"mlm": law.model_copy(update={"surface": rough, "forms": ()})}
        alone = only(transferred_tokens(simulate(lengths=(6e6,)), laws, draws=400))
        paired = only(transferred_tokens(simulate(), laws, draws=400))
        assert alone.scratch_run_id == ""
        assert alone.D_t == pytest.approx(1.2e6, rel=0.01)
        assert alone.gap == pytest.approx(paired.gap, rel=1e-3)
        assert alone.gap_se is None
        assert alone.gap_total_se == pytest.approx(0.01 * alone.loss_transfer)
        low, high = alone.D_t_low, alone.D_t_high
        assert low is not None
        assert high is not None
        # 1 % of the loss either way.
        assert low == pytest.approx(tokens_of(alone.loss_transfer * np.exp(0.0196)) - 1.5e6, rel=0.15)
        assert high == pytest.approx(tokens_of(alone.loss_transfer * np.exp(-0.0196)) - 1.5e6, rel=0.15)

    def test_without_a_law_too_it_is_refused(self, simulate: Simulate) -> None:
        fit = transferred_tokens(simulate(lengths=(6e6,)), draws=20)
        assert fit.pairs == ()
        assert not fit.answered
        assert (fit.refusals[0].quantity, fit.refusals[0].code) == ("D_t of target", "NO_SCRATCH_PARTNER")


def scratch(D: float) -> float:
    return float(1.0 + 40 * N**-0.4 + 300 * D**-0.4)


def tokens_of(loss: float) -> float:
    return float(((loss - 1.0 - 40 * N**-0.4) / 300) ** -2.5)


class TestControl:
    def table(self, simulate: Simulate, row: Row, D_t: float, sd: float = 0.0) -> RunTable:
        moved = {"source_objective": "clm", "source_run_id": "shuffled-src", "D_source": 1e6}
        loss = scratch(1.5e6 + D_t)
        control = row("control", role="transfer_target", loss=loss, source_control="shuffled", **moved)
        return RunTable((*simulate(lengths=DENSE, sd=sd), control))

    def test_what_any_trained_weights_are_worth_is_taken_off(self, simulate: Simulate, row: Row) -> None:
        fit = transferred_tokens(self.table(simulate, row, 4e5), draws=50)
        pair = only(fit)
        assert pair.control_run_id == "control"
        assert pair.D_t_control == pytest.approx(4e5, rel=0.01)
        assert pair.D_t_net_of_control is not None
        assert pair.D_t_net_of_control.value == pytest.approx(8e5, rel=0.01)
        assert [one.target_run_id for one in fit.controls] == ["control"]
        assert "SHUFFLED_SOURCE" in fit.controls[0].flags
        assert fit.shares == ()

    def test_the_partners_noise_cancels(self, simulate: Simulate, row: Row) -> None:
        fit = transferred_tokens(self.table(simulate, row, 1.1e6, sd=0.01), draws=3000)
        pair, net = only(fit), only(fit).D_t_net_of_control
        assert net is not None
        assert pair.D_t_high is not None
        assert pair.D_t_low is not None
        # Of a run's noise twice, the gap's own; without pairing it were four times.
        assert net.high - net.low < 1.15 * (pair.D_t_high - pair.D_t_low)

    def test_a_control_of_another_setting_is_none(self, simulate: Simulate, row: Row) -> None:
        rows = [
            r.model_copy(update={"D_source": 2e6}) if r.run_id == "control" else r
            for r in self.table(simulate, row, 4e5)
        ]
        fit = transferred_tokens(RunTable(tuple(rows)), draws=20)
        assert only(fit).control_run_id == ""
        assert len(fit.controls) == 1


def test_one_pair_of_seeds_leaves_their_noise_to_the_scatter_of_runs(simulate: Simulate) -> None:
    """Two seeds 0.0004 apart: Student's t with one degree of freedom would allow anything, the runs' curve does not."""
    rows = list(simulate(lengths=DENSE, seeds=1, sd=0.004, seed=5))
    twin = rows[0].model_copy(update={"run_id": "twin", "seed": 1, "loss": rows[0].loss + 0.0004})
    pair = only(transferred_tokens(RunTable((twin, *rows)), gap_of=lambda *_: (-0.2, 1e-4), draws=4000))
    assert "FEW_REPLICATES" in pair.flags
    assert pair.D_t_fixed_seeds is not None
    assert pair.D_t_high is not None
    assert pair.D_t_low is not None
    full, fixed = pair.D_t_high - pair.D_t_low, pair.D_t_fixed_seeds.high - pair.D_t_fixed_seeds.low
    slope = 0.4 * 300 * (1.5e6 + (pair.D_t or 0.0)) ** -1.4
    # The validation's 0.0001 alone; then more than two seeds at their own 0.0003, less than two at a run's 0.004.
    assert slope * fixed / (2 * 1.96) == pytest.approx(1e-4, rel=0.3)
    assert 1.5 * 0.0004 < slope * full / (2 * 1.96) < 1.6 * 0.004


def test_a_law_of_another_set_is_named(simulate: Simulate, law: LawFit) -> None:
    other = law.model_copy(update={"validation_id": "elsewhere"})
    fit = transferred_tokens(simulate(), {"mlm": other}, draws=20)
    assert "LAW_OF_OTHER_SET" in only(fit).flags
    assert "LAW_OF_OTHER_SET" not in only(transferred_tokens(simulate(), {"mlm": law}, draws=20)).flags


def test_tokens_beyond_every_run_of_the_law_are_named(simulate: Simulate, law: LawFit) -> None:
    assert "BEYOND_LAW_RANGE" in only(transferred_tokens(simulate(D_t=2.5e7), {"mlm": law}, draws=20)).flags
    assert "BEYOND_LAW_RANGE" not in only(transferred_tokens(simulate(), {"mlm": law}, draws=20)).flags


def test_a_paired_gap_replaces_the_difference(simulate: Simulate) -> None:
    asked = []

    def gap_of(target: str, scratch: str) -> tuple[float, float]:
        asked.append((target, scratch))
        return -0.05, 0.003

    pair = only(transferred_tokens(simulate(), gap_of=gap_of, draws=50))
    assert asked == [("target", "s1.5e+06-0")]
    assert (pair.gap, pair.gap_se) == (-0.05, 0.003)
    assert pair.gap_total_se is None
    assert pair.D_t is not None
    assert pair.D_t < 5e5


def test_the_gap_carries_the_noise_of_both_seeds_and_so_does_the_interval(simulate: Simulate, law: LawFit) -> None:
    def fitted(sd: float, se: float) -> TransferPair:
        lent = law.model_copy(update={"noise_sd": sd, "surface": None})
        table = simulate(seeds=1, lengths=DENSE)
        return only(transferred_tokens(table, {"mlm": lent}, gap_of=lambda *_: (-0.2, se), draws=4000))

    def width(pair: TransferPair) -> float:
        """Of the interval in loss, in units of 2 x 1.96."""
        slope = 0.4 * 300 * (1.5e6 + (pair.D_t or 0.0)) ** -1.4
        return float(slope * ((pair.D_t_high or 0.0) - (pair.D_t_low or 0.0)) / (2 * 1.96))

    assert fitted(0.004, 0.003).gap_total_se == pytest.approx(math.hypot(0.003, math.sqrt(2) * 0.004))
    assert width(fitted(1e-9, 0.006)) == pytest.approx(0.006, rel=0.1)
    # The partner's noise moves the curve at its own point just as it moves the gap, so of the seeds' noise there
    # remain the transferred run's and that of the one or two points around its loss.
    assert 0.004 * math.sqrt(1.5) * 0.9 < width(fitted(0.004, 0.0)) < 0.004 * math.sqrt(2.0) * 1.1


def test_an_unknown_validation_error_is_left_out(simulate: Simulate) -> None:
    pair = only(transferred_tokens(simulate(sd=0.01), gap_of=lambda *_: (-0.2, math.nan), draws=50))
    assert pair.gap_se is None
    assert pair.gap_total_se is not None
    assert pair.gap_total_se > 0


class TestOverlap:
    def fitted(self, simulate: Simulate, **values: float) -> TransferFit:
        rows = [r.model_copy(update=values) if r.run_id == "target" else r for r in simulate(sd=1e-3)]
        return transferred_tokens(RunTable(tuple(rows)), draws=20)

    def test_without_a_ledger_it_is_unknown(self, simulate: Simulate) -> None:
        pair = only(self.fitted(simulate))
        assert (pair.overlap, pair.replayed_share) == ("unknown", None)

    def test_disjoint(self, simulate: Simulate) -> None:
        pair = only(self.fitted(simulate, seen_earlier=0.0, D_unique=1e6))
        assert (pair.overlap, pair.replayed_share) == ("disjoint", 0.0)
        assert "SOURCE_DATA_REPLAYED" not in pair.flags

    def test_shared(self, simulate: Simulate) -> None:
        pair = only(self.fitted(simulate, seen_earlier=4e5, D_unique=1e6))
        assert (pair.overlap, pair.replayed_share) == ("shared", 0.4)
        assert "SOURCE_DATA_REPLAYED" not in pair.flags
        assert only(self.fitted(simulate, seen_earlier=4e5)).replayed_share is None

    def test_mostly_replayed(self, simulate: Simulate) -> None:
        fit = self.fitted(simulate, seen_earlier=6e5, D_unique=1e6)
        assert "SOURCE_DATA_REPLAYED" in fit.flags
        assert any("SOURCE_DATA_REPLAYED: target: its source had seen 60% of" in note for note in fit.notes)


def test_a_curve_of_mixed_batches_is_named(simulate: Simulate) -> None:
    assert "MIXED_BATCH" not in only(transferred_tokens(simulate(), draws=20)).flags
    other = [
        r.model_copy(update={"batch_tokens": 1024.0}) if r.run_id.startswith("s") and r.D != 1.5e6 else r
        for r in simulate()
    ]
    fit = transferred_tokens(RunTable(tuple(other)), draws=20)
    assert only(fit).D_t == pytest.approx(1.2e6, rel=0.03)
    assert "MIXED_BATCH" in only(fit).flags
    assert any(note.startswith("MIXED_BATCH: target") for note in fit.notes)


def test_noise_hides_small_gaps_and_harm_is_named(simulate: Simulate) -> None:
    hidden = only(transferred_tokens(simulate(D_t=5e4, sd=0.05, seed=3), draws=50))
    assert "GAP_WITHIN_NOISE" in hidden.flags
    assert "TRANSFER_HURTS" in only(transferred_tokens(simulate(D_t=-5e5, sd=1e-3), draws=50)).flags


def test_the_law_lends_its_seed_noise(simulate: Simulate, law: LawFit) -> None:
    table = simulate(seeds=1)
    assert "NO_SEED_NOISE" in only(transferred_tokens(table, draws=50)).flags
    noisy = law.model_copy(update={"noise_sd": 0.02})
    pair = only(transferred_tokens(table, {"mlm": noisy}, draws=200))
    assert "NO_SEED_NOISE" not in pair.flags
    assert pair.D_t_low is not None
    assert pair.D_t_low < 1.1e6


def test_without_the_sources_compute_no_net_gain(simulate: Simulate) -> None:
    table = simulate().where(lambda r: r.run_id != "src")
    pair = only(transferred_tokens(table, draws=20))
    assert pair.net_tokens is None
    assert "NO_SOURCE_COMPUTE" in pair.flags


class TestExponents:
    def test_a_few_pairs_are_refused(self, simulate: Simulate) -> None:
        fit = transferred_tokens(simulate(), draws=20)
        assert "TOO_FEW_PAIRS_FOR_EXPONENTS" in fit.flags
        assert any("refused" in note for note in fit.notes)

    def test_size_and_tokens_that_grow_together_are_refused(self, row: Row, law: LawFit) -> None:
        rows = []
        for k in range(7):
            at = {"N": 1e4 * 2**k, "D": 1e6 * 2**k}
            rows += [row(f"s{k}", **at), row(f"t{k}", loss=1.9, source_run_id="x", D_source=1e6, **at)]
        fit = transferred_tokens(RunTable(tuple(rows)), {"mlm": law}, draws=5)
        assert len(fit.pairs) == 7
        assert "COLLINEAR_DESIGN" in fit.flags
        assert "TOO_FEW_PAIRS_FOR_EXPONENTS" not in fit.flags

    def crossed(self, row: Row, law: LawFit, **first: float) -> TransferFit:
        rows = []
        for a in range(3):
            for b in range(3):
                at = {"N": 1e4 * 2**a, "D": 1e6 * 2**b, "seen_earlier": 0.0} | (first if a == b == 0 else {})
                rows += [row(f"s{a}{b}", **at), row(f"t{a}{b}", loss=1.9, source_run_id="x", D_source=1e6, **at)]
        return transferred_tokens(RunTable(tuple(rows)), {"mlm": law}, draws=5)

    def test_a_crossed_design_is_not(self, row: Row, law: LawFit) -> None:
        flags = self.crossed(row, law).flags
        assert not {"COLLINEAR_DESIGN", "TOO_FEW_PAIRS_FOR_EXPONENTS", "MIXED_OVERLAP"} & set(flags)

    def test_pairs_of_different_overlap_are_refused(self, row: Row, law: LawFit) -> None:
        fit = self.crossed(row, law, seen_earlier=5e5)
        assert "MIXED_OVERLAP" in fit.flags
        assert any("refused" in note and "(8 disjoint, 1 shared)" in note for note in fit.notes)


def test_no_pairs_and_no_partner(simulate: Simulate) -> None:
    scratch = simulate().where(lambda r: r.source_run_id is None)
    assert transferred_tokens(scratch).flags == ("NO_PAIRS",)
    alone = simulate().where(lambda r: not r.run_id.startswith("s1.5"))
    fit = transferred_tokens(alone)
    assert "NO_SCRATCH_PARTNER" in fit.flags
    assert any("target" in note for note in fit.notes)


def test_a_file_of_the_first_version_is_read(tmp_path: Path) -> None:
    old = {
        "schema_version": 1,
        "pairs": [
            {
                "source_run_id": "src", "target_run_id": "t", "scratch_run_id": "s", "source_objective": "clm",
                "objective": "mlm", "N": 5.5e4, "D": 1.5e6, "D_source": 1e6, "loss_scratch": 2.0,
                "loss_transfer": 1.8, "gap": -0.2, "gap_se": 0.01, "gap_total_se": None, "overlap": "disjoint",
                "replayed_share": 0.0, "D_t": 1.2e6, "D_t_low": 1e6, "D_t_high": 1.4e6, "D_t_per_source_token": 1.2,
                "net_tokens": 2e5, "net_loss_gain": 0.01, "method": "same-N scratch runs", "flags": [],
            }
        ],
        "flags": ["TOO_FEW_PAIRS_FOR_EXPONENTS"],
        "notes": [],
        "data_hash": "ab" * 32,
    }  # fmt: skip
    (tmp_path / "transfer.json").write_text(json.dumps(old))
    fit = TransferFit.read(tmp_path / "transfer.json")
    assert only(fit).D_t == 1.2e6
    assert only(fit).estimates == ()
    assert fit.answered
    assert fit.refusals == ()


def test_a_fit_survives_the_disk(simulate: Simulate, tmp_path: Path) -> None:
    fit = transferred_tokens(simulate(sd=0.01), draws=50)
    assert TransferFit.read(fit.write(tmp_path / "transfer.json")) == fit
    assert fit == transferred_tokens(simulate(sd=0.01), draws=50)


class TestRewarmed:
    def test_a_source_of_the_same_objective_is_a_control_and_no_pair(self, simulate: Simulate, row: Row) -> None:
        moved = {"source_objective": "mlm", "source_run_id": "same", "D_source": 1e6, "role": "rewarmed"}
        table = RunTable((*simulate(D_t=1.2e6, lengths=DENSE), row("again", loss=scratch(1.5e6 + 5e5), **moved)))
        pair = only(transferred_tokens(table, draws=50))
        assert pair.rewarmed_run_id == "again"
        assert pair.gap_over_rewarmed == pytest.approx(scratch(2.7e6) - scratch(2e6), rel=1e-6)
        assert pair.gap_over_rewarmed_se is None or pair.gap_over_rewarmed_se >= 0
        assert pair.D_t == pytest.approx(1.2e6, rel=0.02)
        other = RunTable(tuple(r.model_copy(update={"D_source": 3e6}) if r.run_id == "again" else r for r in table))
        assert only(transferred_tokens(other, draws=50)).gap_over_rewarmed is None


class TestLearningRates:
    @pytest.mark.parametrize(
        ("of", "better", "flag"),
        [("target", 0.01, "TRANSFER_LR_UNTUNED"), ("partner", 0.01, "SCRATCH_LR_UNTUNED"), ("target", -0.01, "")],
    )
    def test_a_probe_that_ended_lower_is_a_doubt(self, simulate: Simulate, of: str, better: float, flag: str) -> None:
        table = simulate(D_t=1.2e6)
        pair = only(transferred_tokens(table, draws=20))
        probed = pair.target_run_id if of == "target" else pair.scratch_run_id
        (own,) = (r for r in table if r.run_id == probed)
        update = {"run_id": "probe", "role": "lr_probe", "peak_lr": 0.5 * (own.peak_lr or 1e-3)}
        probe = own.model_copy(update=update | {"loss": own.loss - better})
        with_probe = only(transferred_tokens(RunTable((*table, probe)), draws=20))
        assert with_probe.D_t == pytest.approx(pair.D_t)  # it enters nothing else
        found = {name for name in with_probe.flags if name.endswith("LR_UNTUNED")}
        assert found == ({flag} if flag else set())
