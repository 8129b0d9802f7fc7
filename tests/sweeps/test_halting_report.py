"""Why paused runs went on, in a few lines however many they are."""

from __future__ import annotations

from plm_scaling.sweeps.halting_report import Verdict, why_not_halted


def moves(run_id: str, effect: float, *, halt: bool = False) -> Verdict:
    return Verdict(run_id, halt, f"its end moves ln N_opt by {effect:.2g}, the interval's half-width is 0.31")


def test_reasons_are_counted_and_those_alike_but_for_numbers_are_one() -> None:
    beside = [Verdict(f"run{letter}", False, "it stands next to the minimum") for letter in "abcdef"]
    verdicts = (*beside, moves("x", 0.1), moves("y", 3e-05, halt=True), moves("z", 2.5e-05), moves("w", 12))
    assert why_not_halted(verdicts) == [
        "6 not halted: runa, runb, runc, rund and 2 more: it stands next to the minimum",
        "3 not halted: x, z, w: its end moves ln N_opt by 0.1, the interval's half-width is 0.31 "
        "(the first; the others alike)",
    ]
    assert why_not_halted([moves("x", 0.1), moves("y", 0.1)]) == [
        "2 not halted: x, y: its end moves ln N_opt by 0.1, the interval's half-width is 0.31"
    ]
    assert why_not_halted([moves("y", 3e-05, halt=True)]) == []
