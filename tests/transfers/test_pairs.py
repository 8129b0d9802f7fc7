from __future__ import annotations

from collections.abc import Callable

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.transfers.pairs import find_pairs, scratch_curve

Row = Callable[..., RunRow]


def target(row: Row, **values: object) -> RunRow:
    return row("t", source_run_id="src", source_objective="clm", **values)


def test_the_partner_has_equal_settings_and_seed(row: Row) -> None:
    others = [
        row("other_seed", seed=1),
        row("other_size", N=1e4),
        row("other_D", D=3e6),
        row("other_objective", objective="clm"),
        row("other_batch", batch_tokens=1024),
        row("other_set", validation_id="w"),
        row("cut", schedule_complete=False),
        row("partner", D=1.501e6),
    ]
    (pair,) = find_pairs(RunTable((*others, target(row))))
    assert pair.scratch is not None
    assert pair.scratch.run_id == "partner"
    assert pair.flags == ()
    assert pair.source is None


def test_a_partner_of_another_seed_is_named(row: Row) -> None:
    (pair,) = find_pairs(RunTable((row("s", seed=7), target(row))))
    assert pair.scratch is not None
    assert pair.flags == ("SEED_DIFFERS",)


def test_no_partner(row: Row) -> None:
    (pair,) = find_pairs(RunTable((row("s", D=9e6), target(row))))
    assert pair.scratch is None
    assert pair.flags == ("NO_SCRATCH_PARTNER",)


def test_where_a_phase_starts_is_not_a_difference_of_data_but_its_extent_is(row: Row) -> None:
    later = target(row, streams='[{"start_tokens":1000,"unique_tokens":500}]')
    whole, part = row("whole", streams="[{}]"), row("part", streams='[{"unique_tokens":500}]')
    (pair,) = find_pairs(RunTable((whole, part, later)))
    assert pair.scratch is not None
    assert pair.scratch.run_id == "part"
    odd = target(row, streams="not json")
    assert find_pairs(RunTable((whole, odd)))[0].scratch is None


def test_unfinished_targets_and_continued_runs_are_no_pairs(row: Row) -> None:
    same_objective = row("src", objective="mlm")
    assert find_pairs(RunTable((row("s"), target(row, schedule_complete=False)))) == ()
    assert find_pairs(RunTable((row("s"), same_objective, target(row)))) == ()


def test_runs_of_another_schedule_or_an_experiment_are_no_partners(row: Row) -> None:
    others = (row("wsd", schedule="wsd"), row("masks", mask_ratio=0.3), row("esm2", architecture="esm2"))
    dropped = row("dropped", regularisation="dropout=0.1")
    odd = (*others, dropped, row("dropout", role="regularisation"), row("taught", role="distil"))
    (pair,) = find_pairs(RunTable((*odd, target(row))))
    assert pair.scratch is None
    (pair,) = find_pairs(RunTable((*odd, target(row, schedule="wsd"))))
    assert pair.scratch is not None
    assert pair.scratch.run_id == "wsd"
    (pair,) = find_pairs(RunTable((*odd, target(row, regularisation="dropout=0.1"))))
    assert pair.scratch is not None
    assert pair.scratch.run_id == "dropped"


def test_a_continued_run_is_no_transfer_whatever_it_started_from(row: Row) -> None:
    foreign = row("t", source_run_id="sha256:00", role="continued")
    assert find_pairs(RunTable((row("s"), foreign))) == ()
    assert len(find_pairs(RunTable((row("s"), foreign.model_copy(update={"role": "transfer_target"}))))) == 1


def ids(runs: RunTable) -> list[str]:
    return [r.run_id for r in runs]


def test_the_curve_holds_all_lengths_of_the_partners_recipe(row: Row) -> None:
    others = [
        row("batch", D=3e6, batch_tokens=1024),
        row("lr", D=3e6, peak_lr=2e-3),
        row("static_masks", D=3e6, mask_refresh=False),
        row("cut", D=3e6, streams='[{"unique_tokens":500}]'),
        row("size", D=3e6, N=9e4),
        target(row, peak_lr=5e-4),
    ]
    scratch = (row("a", peak_lr=1e-3), row("b", D=3e6, peak_lr=1e-3), row("c", D=3e6, seed=4, peak_lr=1e-3))
    # A transferred run may have a learning rate of its own: its partner's decides.
    assert ids(scratch_curve(RunTable((*scratch, *others)), others[-1])) == ["a", "b", "c"]


def test_without_another_length_at_its_batch_others_are_taken_but_not_at_its_own_length(row: Row) -> None:
    others = [row("longer", D=3e6, batch_tokens=1024), row("static_masks", D=3e6, mask_refresh=False)]
    runs = RunTable((row("a"), row("seed", seed=1), row("same_length", batch_tokens=1024), *others))
    assert ids(scratch_curve(runs, target(row))) == ["a", "seed", "longer"]
    assert ids(scratch_curve(RunTable(runs.rows[:3]), target(row))) == ["a", "seed"]


def test_a_partner_with_fixed_masks_is_none(row: Row) -> None:
    (pair,) = find_pairs(RunTable((row("s", mask_refresh=False), target(row))))
    assert pair.scratch is None
