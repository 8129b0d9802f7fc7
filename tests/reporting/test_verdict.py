from __future__ import annotations

import dataclasses

import pytest

from plm_scaling.core.run_table import RunTable
from plm_scaling.laws.law_fit import Interval, LawFit
from plm_scaling.reporting.study import Study
from plm_scaling.reporting.verdict import answers


def texts(study: Study) -> list[str]:
    lines = (" ".join(answer.lines) for answer in answers(study))
    return [str(line).replace("\u00a0", " ").replace("\u2212", "-").replace("\u00b1", "+/-") for line in lines]


def with_exponent(study: Study, low: float, high: float) -> Study:
    law = study.laws["clm"]
    assert law.isoflop
    fit = law.isoflop.model_copy(update={"a_N": Interval(value=(low + high) / 2, low=low, high=high)})
    return dataclasses.replace(study, laws={"clm": law.model_copy(update={"isoflop": fit})})


def test_every_question_is_answered_with_its_number(full_study: Study) -> None:
    growth, bigger, repeats, second, transfer = texts(full_study)
    assert "a = 0.68 (0.54 to 0.84)" in growth
    assert "4.7 times the parameters and 2.1 times the tokens" in growth
    assert "37 % of the 7.6M unique" in bigger
    assert "(a weak minimum)" in bigger
    assert "60 epochs +2.130 +/- 0.015 nats" in repeats
    assert "4 epochs and 15 epochs cost nothing that can be told from noise" in repeats
    assert "-0.057 +/- 0.018 nats (better)" in second
    assert "(no detectable difference)" in second
    assert "-0.2830 +/- 0.0090 nats" in transfer
    assert "transfer pays" in transfer


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [(0.55, 0.8, "belongs in the model"), (0.2, 0.45, "belongs in tokens"), (0.4, 0.6, "is open")],
)
def test_bigger_or_more_follows_the_interval_not_the_value(
    full_study: Study, low: float, high: float, says: str
) -> None:
    assert says in texts(with_exponent(full_study, low, high))[0]


def refused(law: LawFit, **more: object) -> LawFit:
    assert law.isoflop
    return law.model_copy(update={"isoflop": law.isoflop.model_copy(update={"a_N": None, "a_D": None}), **more})


def test_refused_exponents_are_said_to_be_refused(full_study: Study) -> None:
    law = full_study.laws["clm"]
    growth = texts(dataclasses.replace(full_study, laws={"clm": refused(law)}))[0]
    assert "refused" in growth
    assert "0.58 (0.47 to 0.68)" in growth
    assert "(this study has 2 clean minima)" in growth
    bare = refused(law, surface=None)
    assert "surface" not in texts(dataclasses.replace(full_study, laws={"clm": bare}))[0]
    none = law.model_copy(update={"isoflop": None, "surface": None})
    assert "0 clean minima" in texts(dataclasses.replace(full_study, laws={"clm": none}))[0]


def test_scarce_data_are_called_scarce(full_study: Study) -> None:
    assert full_study.manifest
    split = full_study.manifest.splits[0].model_copy(update={"tokens": 1_000_000})
    manifest = full_study.manifest.model_copy(update={"splits": (split,)})
    bigger = texts(dataclasses.replace(full_study, manifest=manifest))[1]
    assert "2.8 passes over the 1M unique" in bigger
    assert "new sequences first" in bigger
    assert "unique" not in texts(dataclasses.replace(full_study, manifest=None))[1]


def test_missing_arms_are_named(full_study: Study) -> None:
    growth, bigger, repeats, second, transfer = texts(Study(name="empty"))
    assert growth == "No law has been fitted yet."
    assert all("Not" in text for text in (bigger, repeats, second, transfer))


def test_repeats_without_reference_state_no_cost(full_study: Study) -> None:
    only = dataclasses.replace(full_study, table=full_study.table.where(lambda row: row.has_role("repeats")))
    assert "no cost can be stated" in texts(only)[2]


def test_unknown_errors_are_said(full_study: Study) -> None:
    bare = Study(name="bare", table=full_study.table, records=full_study.records)
    _, _, repeats, second, _ = texts(bare)
    assert "no error is known" in repeats
    assert "better, error unknown" in second


def test_transfer_that_does_not_pay_or_is_not_measured_says_so(full_study: Study) -> None:
    assert full_study.transfer
    pair = full_study.transfer.pairs[0]

    def said(**changes: object) -> str:
        fit = full_study.transfer.model_copy(update={"pairs": (pair.model_copy(update=changes),)})  # type: ignore[union-attr]
        return texts(dataclasses.replace(full_study, transfer=fit))[4]

    assert "only if the source model exists anyway" in said(net_tokens=-2e6)
    assert "is open unless" in said(net_tokens=0.1e6)
    assert "transfer pays" in said(net_tokens=0.1e6, D_t_low=None, D_t_high=None)
    assert "is refused" in said(D_t=None)
    assert "cost is unknown" in said(net_tokens=None, D_t_per_source_token=None)


def test_source_names_are_escaped(full_study: Study) -> None:
    rows = [
        row.model_copy(update={"streams": (row.streams or "").replace("uniref_like", "<script>")})
        for row in full_study.table
    ]
    assert "<script>" not in texts(Study(name="x", table=RunTable(tuple(rows))))[3]
