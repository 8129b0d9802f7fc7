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


def test_the_curve_holds_all_lengths_on_uncut_data(row: Row) -> None:
    cut = row("cut", D=2e6, streams='[{"unique_tokens":500}]')
    runs = RunTable((row("a"), row("b", D=3e6, batch_tokens=1024), row("c", D=3e6, seed=4), cut, row("d", N=9e4)))
    assert [r.run_id for r in scratch_curve(runs, target(row))] == ["a", "b", "c"]
