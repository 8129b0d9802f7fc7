from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.combine import fit_laws
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.transfers.tokens import transferred_tokens
from plm_scaling.transfers.transfer_fit import SourceShare

Row = Callable[..., RunRow]
N, D_F, D_C = 5e4, 4e6, 1e6


def scratch(N: float, D: float) -> float:
    return float(1.0 + 40 * N**-0.4 + 300 * D**-0.4)


@pytest.fixture(scope="module")
def law() -> LawFit:
    rows = [
        RunRow(run_id=f"{N:g}-{D:g}", objective="mlm", N=N, D=D, loss=scratch(N, D), C_exact=6 * N * D)
        for N in np.geomspace(1e4, 4e5, 5)
        for D in np.geomspace(5e5, 2e7, 5)
    ]
    return fit_laws(RunTable(tuple(rows)), "mlm", form="chinchilla", draws=20)


def pair(row: Row, rate: float, *, N: float = N, D: float = D_F, D_source: float = D_C, se: float = 0.0) -> RunTable:
    moved = {"source_run_id": "x", "source_objective": "clm", "D_source": D_source, "C_source": 6 * N * D_source}
    name = f"{N:g}-{D:g}-{D_source:g}"
    return RunTable(
        (
            row(f"s{name}", N=N, D=D, loss=scratch(N, D), loss_se=se),
            row(f"t{name}", N=N, D=D, loss=scratch(N, D + rate * D_source), loss_se=se, **moved),
        )
    )


def share_of(table: RunTable, law: LawFit, draws: int = 200) -> SourceShare:
    (share,) = transferred_tokens(table, {"mlm": law}, draws=draws).shares
    return share


def test_a_source_worth_less_than_its_compute_gets_nothing(row: Row, law: LawFit) -> None:
    fit = transferred_tokens(pair(row, 0.6), {"mlm": law}, draws=100)
    (share,) = fit.shares
    assert share.rate.value == pytest.approx(0.6, rel=1e-3)
    assert (share.share.value, share.share.low, share.share.high) == (0, 0, 0)
    assert share.gain_same_N.value == pytest.approx(0.0, abs=1e-12)
    assert share.flags == ("NOT_WORTH_ITS_COMPUTE",)
    (note,) = [note for note in fit.notes if note.startswith("NOT_WORTH_ITS_COMPUTE")]
    assert "CLM -> MLM at N = 50k: " in note
    assert "best share for it is 0" in note


def test_a_source_worth_more_is_credited_up_to_the_share_tried_and_no_further(row: Row, law: LawFit) -> None:
    share = share_of(pair(row, 3.0), law)
    assert share.share.value == share.share_tried == pytest.approx(D_C / (D_C + D_F))
    assert share.law == "measured rate"
    assert share.flags == ("SHARE_AT_EDGE",)
    assert math.isclose(share.C, 6 * N * (D_F + D_C))
    assert share.gain_same_N.value == pytest.approx(scratch(N, D_F + D_C) - scratch(N, D_F + 3 * D_C), rel=1e-3)


def test_the_second_comparator_may_change_its_size(row: Row, law: LawFit) -> None:
    for size in (2e4, N, 3e5):
        share = share_of(pair(row, 3.0, N=size), law)
        total = size * (D_F + D_C)
        sizes = np.geomspace(1e3, 1e7, 20001)
        losses = 1.0 + 40 * sizes**-0.4 + 300 * (total / sizes) ** -0.4
        assert share.N_best == pytest.approx(sizes[losses.argmin()], rel=1e-2)
        assert share.gain_best_N is not None
        assert share.gain_best_N.value == pytest.approx(losses.min() - scratch(size, D_F + 3 * D_C), rel=1e-2)
        assert share.gain_best_N.value <= share.gain_same_N.value + 1e-9


def test_a_rate_about_one_leaves_the_choice_open(row: Row, law: LawFit) -> None:
    share = share_of(pair(row, 1.1, se=0.02), law, draws=500)
    assert share.rate.low < 1 < share.rate.high
    assert share.share.low == 0
    assert share.share.high == share.share_tried
    assert "SHARE_OPEN" in share.flags


def test_without_a_law_or_the_sources_compute_it_is_refused(row: Row, law: LawFit) -> None:
    def refused(table: RunTable, laws: dict[str, LawFit]) -> set[str]:
        fit = transferred_tokens(table, laws, draws=20)
        assert fit.shares == ()
        return {r.code for r in fit.refusals if r.quantity.startswith("best source share")}

    longer = row("long", N=N, D=4 * D_F, loss=scratch(N, 4 * D_F))
    assert refused(RunTable((*pair(row, 2.0), longer)), {}) == {"NO_SCRATCH_LAW"}
    bare = [r.model_copy(update={"C_source": None}) for r in pair(row, 2.0)]
    assert refused(RunTable(tuple(bare)), {"mlm": law}) == {"NO_SOURCE_COMPUTE"}


def limited(N: float, D: float, D_source: float) -> float:
    """1/D_t = 1/(k D_f^a N^b) + 1/(rate D_source) with k D_f^a N^b about 2e6 and a rate of 4."""
    cap = 2e6 * (D / 4e6) ** 0.2 * (N / 5e4) ** 0.3
    return float(1 / (1 / cap + 1 / (4.0 * D_source)))


def crossed(row: Row, sizes: Sequence[float]) -> RunTable:
    rows: list[RunRow] = []
    for size in sizes:
        for D in (1e6, 4e6):
            for D_source in (1e5, 5e5, 2.5e6):
                rate = limited(size, D, D_source) / D_source
                rows += pair(row, rate, N=size, D=D, D_source=D_source)
    ids = {r.run_id: r for r in rows}
    return RunTable(tuple(ids.values()))


def test_an_identified_law_of_d_t_places_the_best_share_inside(row: Row, law: LawFit) -> None:
    fit = transferred_tokens(crossed(row, (2e4, 5e4, 1.2e5)), {"mlm": law}, draws=50)
    (found,) = fit.laws
    assert found.rate is not None
    assert found.rate.value == pytest.approx(4.0, rel=0.02)
    for share in fit.shares:
        total = share.C / 6 / share.N
        s = np.linspace(1e-4, 0.9, 4000)
        tokens = (1 - s) * total + [limited(share.N, (1 - x) * total, x * total) for x in s]
        assert share.law == "saturating law"
        assert share.share.value == pytest.approx(s[tokens.argmax()], abs=0.01)
        assert 0 < share.share.value < share.share_tried
        assert "SHARE_AT_EDGE" not in share.flags
