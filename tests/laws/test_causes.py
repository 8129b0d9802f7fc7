"""One cause at a time: on the published minima, and on tables whose truth differs by one thing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from plm_scaling.core.errors import FitError
from plm_scaling.core.run_table import RunTable
from plm_scaling.laws import causes
from plm_scaling.laws.causes import CauseTable, causes_of_runs, published_causes
from tests.laws.conftest import Truth, simulate_isoflop


@pytest.fixture(scope="module")
def published() -> CauseTable:
    return published_causes()


def test_the_chain_from_kaplan_to_chinchilla(published: CauseTable) -> None:
    """Porian et al. 2024: .835, .706, .602, .571, .497."""
    assert len(published.readings) == 10
    exponents = [reading.a_N.value for reading in published.readings if reading.a_N]
    assert (round(exponents[0], 3), round(exponents[-1], 3)) == (0.835, 0.497)
    steps = {(s.cause, round(s.a_before, 3), round(s.a_after, 3)): s for s in published.switches}
    chain = [("counting", 0.835, 0.706), ("warmup", 0.706, 0.602), ("decay", 0.602, 0.571)]
    joint = ("decay + tuning", 0.571, 0.497)
    assert {*chain, joint} <= set(steps)
    assert steps[chain[0]].resolved
    assert steps[chain[1]].resolved
    assert steps[joint].resolved
    assert not steps[chain[2]].resolved, "the decay alone moved it by less than its interval"


def test_only_what_differs_by_one_cause_is_compared_where_such_pairs_exist(published: CauseTable) -> None:
    single = [switch for switch in published.switches if "+" not in switch.cause]
    assert {switch.cause for switch in single} == {"counting", "warmup", "decay"}
    assert {s.cause for s in published.switches} - {s.cause for s in single} == {"decay + tuning", "counting + warmup"}
    assert len({(s.cause, s.change, s.fixed) for s in published.switches}) == len(published.switches)
    for switch in published.switches:
        assert switch.shift.value == pytest.approx(switch.a_after - switch.a_before)
        assert switch.shift.low < switch.shift.value < switch.shift.high


def test_shipped_minima_give_the_published_exponents(published: CauseTable) -> None:
    root = Path(os.environ.get("PLM_SCALING_TEST_DATA", "")) / "law_tables" / "porian_rw_published_fits.json"
    if not root.is_file():
        pytest.skip("set PLM_SCALING_TEST_DATA to the folder that holds law_tables/porian_rw_published_fits.json")
    fits = json.loads(root.read_text())
    printed = sorted(fit["weighted"]["n_exponent"] for fit in fits.values())
    own = sorted(reading.a_N.value for reading in published.readings if reading.a_N)
    assert own == pytest.approx(printed, abs=1e-6)


@pytest.fixture(scope="module")
def tables() -> dict[str, RunTable]:
    same = simulate_isoflop(Truth(), seed=1, sd=0.002, seeds=2, sizes=5, step=1.4, offset=0.0)
    other = simulate_isoflop(
        Truth(alpha=0.25, beta=0.6, A=6.0, B=900.0), seed=2, sd=0.002, seeds=2, sizes=5, step=1.4, offset=0.0
    )
    again = simulate_isoflop(Truth(), seed=3, sd=0.002, seeds=2, sizes=5, step=1.4, offset=0.0)
    return {"tuned": same, "other law": other, "same law": again}


def test_a_switch_of_the_law_is_seen_and_none_is_not(
    tables: dict[str, RunTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causes, "_PAIRED_DRAWS", 16)
    counted = {row.run_id: 40.0 * row.N**0.6 for row in tables["tuned"]}
    found = causes_of_runs(tables, "clm", all_parameters=counted)
    other, same, total = found.switches
    assert (other.cause, same.cause) == ("other law", "same law")
    wanted = 0.6 / 0.85 - Truth().a_N
    assert other.resolved
    assert other.shift.low < wanted < other.shift.high
    assert not same.resolved
    assert total.cause == "counting"
    assert total.resolved
    assert total.shift.value == pytest.approx(-0.4 * total.a_before, rel=1e-3)
    assert total.a_after == pytest.approx(0.6 * total.a_before, rel=1e-3), "a power of N scales the exponent"


def test_one_table_is_no_comparison(tables: dict[str, RunTable]) -> None:
    with pytest.raises(FitError, match="no other"):
        causes_of_runs({"tuned": tables["tuned"]}, "clm")
