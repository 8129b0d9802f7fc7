from __future__ import annotations

import dataclasses
import re

import pytest

from plm_scaling.core.run_table import RunTable
from plm_scaling.laws.law_fit import Interval, LawFit, Refusal
from plm_scaling.reporting.arm_verdicts import say_second_source
from plm_scaling.reporting.arms import Estimate
from plm_scaling.reporting.mixtures import diversity_views
from plm_scaling.reporting.study import Study, on_set
from plm_scaling.reporting.verdict import answers


def texts(study: Study) -> list[str]:
    lines = (" ".join(answer.lines) for answer in answers(study))
    marks = {"\u00a0": " ", "\u2212": "-", "\u00b1": "+/-", "&#39;": "'"}
    return [re.sub("|".join(marks), lambda found: marks[found[0]], str(line)) for line in lines]


def with_exponent(study: Study, low: float, high: float, total: float = 1.0) -> Study:
    law = study.laws["clm"]
    assert law.isoflop
    value = (low + high) / 2
    half = (high - low) / 2
    update = {
        "a_N": Interval(value=value, low=low, high=high),
        "a_D": Interval(value=total - value, low=total - value - half, high=total - value + half),
    }
    fit = law.isoflop.model_copy(update=update)
    return dataclasses.replace(study, laws={"clm": law.model_copy(update={"isoflop": fit})})


def test_every_question_is_answered_with_its_number(full_study: Study) -> None:
    growth, bigger, repeats, second, transfer = texts(full_study)
    assert "a = 0.68 (0.54 to 0.84)" in growth
    assert "4.7 times the parameters and 2.1 times the tokens" in growth
    assert "37 % of the 7.6M unique" in bigger
    assert "(a weak minimum)" in bigger
    assert "60 epochs +2.130 +/- 0.015 nats" in repeats
    assert "4 epochs and 15 epochs cost nothing that can be told from noise" in repeats
    assert "-0.057 +/- 0.018 nats</b> (better)" in second
    assert "(no detectable difference)" in second
    assert "judged on val_iid (75 % uniref_like and 25 % metagenome_like)" in second
    assert "-0.2830 +/- 0.0090 nats</b> (error: paired validation sequences only, no seeds)" in transfer
    assert "worth 1.96M (1.6M to 2.5M) further tokens" in transfer
    assert "transfer pays" in transfer


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [(0.55, 0.8, "belongs in the model"), (0.2, 0.45, "belongs in tokens"), (0.4, 0.6, "is open")],
)
def test_bigger_or_more_follows_the_interval_not_the_value(
    full_study: Study, low: float, high: float, says: str
) -> None:
    assert says in texts(with_exponent(full_study, low, high))[0]


def test_on_exact_compute_the_equal_share_is_half_the_sum_of_the_exponents(full_study: Study) -> None:
    assert "is open" in texts(with_exponent(full_study, 0.52, 0.6, total=1.1))[0]
    assert "belongs in the model" in texts(with_exponent(full_study, 0.57, 0.63, total=1.1))[0]
    assert "belongs in tokens" in texts(with_exponent(full_study, 0.5, 0.54, total=1.1))[0]


def test_the_currency_is_named(full_study: Study) -> None:
    assert "on exactly counted C" in texts(full_study)[0]
    law = full_study.laws["clm"]
    assert law.isoflop
    other = law.model_copy(update={"isoflop": law.isoflop.model_copy(update={"currency": "C_6nd"})})
    growth = texts(dataclasses.replace(full_study, laws={"clm": other}))[0]
    assert "on 6ND" in growth
    assert "exactly" not in growth


def flagged_rows(law: LawFit, *flags: tuple[str, ...]) -> LawFit:
    assert law.isoflop
    rows = tuple(row.model_copy(update={"flags": f}) for row, f in zip(law.isoflop.rows, flags, strict=True))
    return law.model_copy(update={"isoflop": law.isoflop.model_copy(update={"rows": rows}), "flags": ()})


@pytest.mark.parametrize(
    ("flags", "weak"),
    [
        (((), (), ("SHALLOW_MINIMUM",)), False),
        ((("REPEATED_DATA",), ("MIXED_BATCH",), ()), False),
        (((), ("OPEN_INTERVAL",), ("SHALLOW_MINIMUM",)), True),
    ],
)
def test_exponents_on_weak_minima_are_an_illustration(
    full_study: Study, flags: tuple[tuple[str, ...], ...], weak: bool
) -> None:
    law = flagged_rows(full_study.laws["clm"], *flags)
    growth, bigger, *_ = texts(dataclasses.replace(full_study, laws={"clm": law}))
    assert ("rests on minima no deeper than the noise: an illustration, not a finding" in growth) == weak
    assert ("<b>a = " in growth) != weak
    assert ("is open" in growth or "belongs in" in growth) != weak
    assert ("<b>Compute is the limit" in bigger) == ("SHALLOW_MINIMUM" not in flags[-1])


def test_the_fits_own_verdict_on_its_minima_counts(full_study: Study) -> None:
    law = flagged_rows(full_study.laws["clm"], (), (), ())
    for flagged in (
        law.model_copy(update={"flags": ("WEAK_MINIMA",)}),
        law.model_copy(update={"isoflop": law.isoflop and law.isoflop.model_copy(update={"flags": ("WEAK_MINIMA",)})}),
    ):
        assert "not a finding" in texts(dataclasses.replace(full_study, laws={"clm": flagged}))[0]
    assert "not a finding" not in texts(dataclasses.replace(full_study, laws={"clm": law}))[0]


def refused(law: LawFit, **more: object) -> LawFit:
    """No exponents: one budget alone keeps its minimum."""
    assert law.isoflop
    kept, *others = law.isoflop.rows
    rows = (kept, *(row.model_copy(update={"N_opt": None, "D_opt": None}) for row in others))
    return law.model_copy(
        update={"isoflop": law.isoflop.model_copy(update={"rows": rows, "a_N": None, "a_D": None}), **more}
    )


def test_refused_exponents_are_said_to_be_refused(full_study: Study) -> None:
    law = full_study.laws["clm"]
    growth = texts(dataclasses.replace(full_study, laws={"clm": refused(law)}))[0]
    assert "<b>refused</b>: fewer than two budgets have a minimum inside the sizes tried (1 found)." in growth
    assert growth.endswith("The surface alone would give a = 0.58 (0.47 to 0.68) on 6ND.")
    assert law.surface
    doubtful = law.surface.model_copy(update={"flags": ("E_UNIDENTIFIED", "OUT_OF_HULL")})
    growth = texts(dataclasses.replace(full_study, laws={"clm": refused(law, surface=doubtful)}))[0]
    assert growth.endswith("on 6ND, itself doubtful: E unidentified, out of hull.")
    reason = "ln N and ln D move together"
    refusal = Refusal(quantity="loss surface L(N, D)", code="COLLINEAR_DESIGN", reason=reason)
    for surface in (None, law.surface.model_copy(update={"a_N": None})):
        told = refused(law, surface=surface, refusals=(refusal,))
        growth = texts(dataclasses.replace(full_study, laws={"clm": told}))[0]
        assert growth.endswith(f"(1 found). Refused too: loss surface L(N, D): {reason}.")
    bare = refused(law, surface=None)
    assert "surface" not in texts(dataclasses.replace(full_study, laws={"clm": bare}))[0]
    none = law.model_copy(update={"isoflop": None, "surface": None})
    assert "(0 found)" in texts(dataclasses.replace(full_study, laws={"clm": none}))[0]


def test_fits_of_another_set_are_said_to_be(full_study: Study) -> None:
    assert "Fitted on" not in " ".join(texts(full_study))
    growth, bigger, *_, transfer = texts(on_set(full_study, "heldout_enzymes"))
    for text in (growth, bigger):
        assert text.count("Fitted on val_iid, not on this page's heldout_enzymes.") == 2
    assert "on val_iid, not on this page's heldout_enzymes" in transfer
    alien = full_study.laws["clm"].model_copy(update={"validation_id": "elsewhere"})
    growth = texts(dataclasses.replace(full_study, laws={"clm": alien}))[0]
    assert "Fitted on another validation set, not on this page's val_iid." in growth


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
    single = full_study.table.where(lambda row: row.seed == 0)
    bare = Study(name="bare", table=single, records=full_study.records)
    _, _, repeats, second, _ = texts(bare)
    assert "no error is known" in repeats
    assert "better, error unknown" in second


def judged(study: Study, **changes: Estimate) -> str:
    """The second source's sentence with these changes of the first mixture by source."""
    view = diversity_views(study)[0]
    parts = tuple(
        (source, dataclasses.replace(group, arms=(dataclasses.replace(group.arms[0], change=changes[source]),)))
        for source, group in view.parts
    )
    return str(say_second_source(study, dataclasses.replace(view, parts=parts))[1])


def test_repetition_and_shift_of_distribution_come_apart(full_study: Study) -> None:
    better, none, worse = Estimate(-0.2, 0.02), Estimate(0.01, 0.02), Estimate(0.2, 0.02)
    assert "It helps on uniref_like itself" in judged(full_study, uniref_like=better, metagenome_like=better)
    shift = judged(full_study, uniref_like=none, metagenome_like=better)
    assert "the gain is the other source" in shift
    assert "+0.010 \u00b1 0.020 on uniref_like alone (no detectable difference)" in shift.replace("\u00a0", " ")
    assert "a shift of distribution" in judged(full_study, uniref_like=worse, metagenome_like=better)
    cost = judged(full_study, uniref_like=worse, metagenome_like=none)
    assert "It costs on uniref_like itself." in cost
    assert "nothing can be told" in judged(full_study, uniref_like=none, metagenome_like=none)


def test_without_scores_by_source_the_two_look_the_same(full_study: Study) -> None:
    view = dataclasses.replace(diversity_views(full_study)[0], parts=(), mix=())
    assert "look the same" in say_second_source(full_study, view)[-1]
    part = on_set(full_study, "val_iid@metagenome_like")
    second = texts(part)[3]
    assert "judged on val_iid@metagenome_like (100 % metagenome_like)" in second
    assert "look the same" not in second


def transferred(study: Study, **changes: object) -> str:
    assert study.transfer
    pair = study.transfer.pairs[0].model_copy(update=changes)
    fit = study.transfer.model_copy(update={"pairs": (pair,)})
    return texts(dataclasses.replace(study, transfer=fit))[4]


def test_transfer_that_does_not_pay_or_is_not_measured_says_so(full_study: Study) -> None:
    unknown = {"D_t": None, "D_t_low": None, "D_t_high": None, "net_tokens": None, "D_t_per_source_token": None}
    assert "only if the source model exists anyway" in transferred(full_study, net_tokens=-2e6)
    assert "is open unless the source model" in transferred(full_study, net_tokens=0.1e6)
    assert "transfer pays" in transferred(full_study, net_tokens=0.1e6, D_t_low=None, D_t_high=None)
    refused_one = transferred(full_study, **unknown)
    assert "is refused" in refused_one
    assert "0.042 nats higher than this: <b>transfer pays</b>" in refused_one
    assert "0.500 nats lower than this: <b>transfer pays only if" in transferred(
        full_study, **{**unknown, "net_loss_gain": -0.5}
    )
    assert "cost is unknown" in transferred(full_study, net_tokens=None, net_loss_gain=None)


def test_transfer_errors_say_what_they_hold(full_study: Study) -> None:
    both = transferred(full_study, gap_total_se=0.03)
    assert "-0.283 +/- 0.030 nats</b> (error: paired validation sequences and seeds)" in both
    assert "(no error is known)" in transferred(full_study, gap_se=None)


def test_a_gap_within_noise_is_no_effect(full_study: Study) -> None:
    text = transferred(full_study, flags=("GAP_WITHIN_NOISE",), D_t_low=-1e6, D_t_high=4e6)
    assert "No detectable effect" in text
    assert "1.96M (-1M to 4M), is open" in text
    assert "whether transfer pays is open." in text
    assert "<b>-" not in text
    assert "transfer does not pay" in transferred(
        full_study, flags=("GAP_WITHIN_NOISE",), D_t=1e5, D_t_low=-1e5, D_t_high=3e5, net_tokens=-1.4e6
    )


def test_transfer_that_hurts_is_worth_no_tokens(full_study: Study) -> None:
    negative = transferred(full_study, gap=0.1, D_t=-1e5, D_t_low=-2e5, D_t_high=-5e4, net_tokens=-1.6e6)
    assert "Transfer hurts here</b>: scratch ends as well with 100k fewer tokens (50k to 200k)." in negative
    bound = transferred(full_study, flags=("TRANSFER_HURTS",), D_t=None, D_t_low=None, D_t_high=-3e5, net_tokens=None)
    assert "with at least 300k fewer tokens" in bound
    for text in (negative, bound):
        assert "worth" not in text
        assert "transfer pays" not in text


def test_transfer_beyond_the_scratch_runs_is_bounded(full_study: Study) -> None:
    flags = ("OUTSIDE_SCRATCH_RANGE",)
    none = {"D_t": None, "D_t_per_source_token": None, "net_tokens": None}
    text = transferred(full_study, flags=flags, D_t_low=3e6, D_t_high=None, **none)
    assert (
        "worth at least 3M further tokens from scratch (beyond the scratch runs: no scratch run is that good)" in text
    )
    assert "read off the fitted surface" in transferred(full_study, flags=flags)


def test_replay_and_mixed_batches_are_said(full_study: Study) -> None:
    assert "37 % of the target's distinct tokens had been seen by the source" in transferred(
        full_study, flags=("SOURCE_DATA_REPLAYED",), replayed_share=0.37
    )
    assert "differ in batch or learning rate" in transferred(full_study, flags=("MIXED_BATCH",))
    assert "seen by the source" not in transferred(full_study)


def test_source_names_are_escaped(full_study: Study) -> None:
    rows = [
        row.model_copy(update={"streams": (row.streams or "").replace("uniref_like", "<script>")})
        for row in full_study.table
    ]
    assert "<script>" not in texts(Study(name="x", table=RunTable(tuple(rows))))[3]
