from __future__ import annotations

import dataclasses

from plm_scaling.core.run_table import RunTable
from plm_scaling.reporting.doubts import limits, named_doubts
from plm_scaling.reporting.study import Study


def test_every_doubt_of_the_study_is_named_once(full_study: Study) -> None:
    doubts = named_doubts(full_study)
    text = "\n".join(doubts).replace("\u00a0", " ")
    assert len(doubts) == len(set(doubts))
    assert "CLM: at C = 2.4e12 the minimum is shallower than twice the noise." in doubts
    assert "MLM at C = " in text
    assert "moves by up to 13 % when compute is counted as C_6nd" in text
    assert "turned upwards during training, lowest after 25 % of the tokens and 1.66 nats higher" in text
    assert "1 of 46 planned runs is not complete (isoflop)." in text
    assert "CLM: 1 of 20 runs ends above the loss of residue frequencies alone (2.921)" in text
    assert "1 run: the run needs more passes" in text
    assert "Transfer: one pair only" in text


def test_overfitting_needs_a_rise_beyond_the_noise(full_study: Study) -> None:
    overfit = [text for text in named_doubts(full_study) if "turned upwards" in text]
    assert len(overfit) == 1
    assert overfit[0].startswith("CLM, 60 epochs")


def test_small_currency_shifts_are_no_doubt(full_study: Study) -> None:
    law = full_study.laws["clm"]
    assert law.isoflop
    same = law.model_copy(update={"isoflop_other_currency": law.isoflop})
    assert not any("currency" in t or "counted as" in t for t in named_doubts(Study(name="x", laws={"clm": same})))


def test_limits_state_range_scale_and_missing_replicates(full_study: Study) -> None:
    text = "\n".join(limits(full_study))
    assert "neither objective wins" in text
    assert "222k parameters" in text
    assert "multiplied by 0.8" in text
    assert "two seeds" not in text
    laws = {name: law.model_copy(update={"noise_sd": None}) for name, law in full_study.laws.items()}
    assert "two seeds" in "\n".join(limits(dataclasses.replace(full_study, laws=laws)))


def test_mixed_validation_sets_and_cut_schedules_are_named(full_study: Study) -> None:
    first, *rest = full_study.table.rows
    odd = first.model_copy(update={"validation_id": "other", "schedule_complete": False, "flags": "NEW_FLAG"})
    text = "\n".join(named_doubts(Study(name="x", table=RunTable((odd, *rest)), missing=("The plan is missing.",))))
    assert "CLM: runs were scored on 2 different validation sets." in text
    assert "1 runs stopped" in text
    assert "NEW_FLAG (NEW_FLAG)" in text
    assert "The plan is missing." in text
