from __future__ import annotations

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


def test_few_lengths_cost_two_percent(simulate: Simulate) -> None:
    assert only(transferred_tokens(simulate(), draws=50)).D_t == pytest.approx(1.2e6, rel=0.03)


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


def test_the_surface_answers_beyond_the_runs_and_checks_them_inside(simulate: Simulate, law: LawFit) -> None:
    outside = only(transferred_tokens(simulate(D_t=6e6), {"mlm": law}, draws=50))
    assert outside.D_t == pytest.approx(6e6, rel=0.03)
    assert outside.method.startswith("fitted surface")
    assert "OUTSIDE_SCRATCH_RANGE" in outside.flags
    inside = only(transferred_tokens(simulate(), {"mlm": law}, draws=50))
    assert inside.method.startswith("same-N scratch runs (4 lengths)")
    assert "METHODS_DISAGREE" not in inside.flags


def test_disagreeing_methods_are_named(simulate: Simulate, law: LawFit) -> None:
    assert law.surface is not None
    steep = {
        name: value.model_copy(update={"value": 0.8}) if name == "beta" else value
        for name, value in law.surface.parameters.items()
    }
    wrong = law.model_copy(update={"surface": law.surface.model_copy(update={"parameters": steep})})
    assert "METHODS_DISAGREE" in only(transferred_tokens(simulate(), {"mlm": wrong}, draws=20)).flags


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

    def test_size_and_tokens_that_grow_together_are_refused(self, row: Row) -> None:
        rows = []
        for k in range(7):
            at = {"N": 1e4 * 2**k, "D": 1e6 * 2**k}
            rows += [row(f"s{k}", **at), row(f"t{k}", loss=1.9, source_run_id="x", D_source=1e6, **at)]
        fit = transferred_tokens(RunTable(tuple(rows)), draws=5)
        assert len(fit.pairs) == 7
        assert "COLLINEAR_DESIGN" in fit.flags
        assert "TOO_FEW_PAIRS_FOR_EXPONENTS" not in fit.flags

    def crossed(self, row: Row, **first: float) -> TransferFit:
        rows = []
        for a in range(3):
            for b in range(3):
                at = {"N": 1e4 * 2**a, "D": 1e6 * 2**b, "seen_earlier": 0.0} | (first if a == b == 0 else {})
                rows += [row(f"s{a}{b}", **at), row(f"t{a}{b}", loss=1.9, source_run_id="x", D_source=1e6, **at)]
        return transferred_tokens(RunTable(tuple(rows)), draws=5)

    def test_a_crossed_design_is_not(self, row: Row) -> None:
        flags = self.crossed(row).flags
        assert not {"COLLINEAR_DESIGN", "TOO_FEW_PAIRS_FOR_EXPONENTS", "MIXED_OVERLAP"} & set(flags)

    def test_pairs_of_different_overlap_are_refused(self, row: Row) -> None:
        fit = self.crossed(row, seen_earlier=5e5)
        assert "MIXED_OVERLAP" in fit.flags
        assert any("refused" in note and "(8 disjoint, 1 shared)" in note for note in fit.notes)


def test_no_pairs_and_no_partner(simulate: Simulate) -> None:
    scratch = simulate().where(lambda r: r.source_run_id is None)
    assert transferred_tokens(scratch).flags == ("NO_PAIRS",)
    alone = simulate().where(lambda r: not r.run_id.startswith("s1.5"))
    fit = transferred_tokens(alone)
    assert "NO_SCRATCH_PARTNER" in fit.flags
    assert any("target" in note for note in fit.notes)


def test_a_fit_survives_the_disk(simulate: Simulate, tmp_path: Path) -> None:
    fit = transferred_tokens(simulate(sd=0.01), draws=50)
    assert TransferFit.read(fit.write(tmp_path / "transfer.json")) == fit
    assert fit == transferred_tokens(simulate(sd=0.01), draws=50)
