from __future__ import annotations

import dataclasses

from plm_scaling.core.run_table import RunTable
from plm_scaling.laws.doubts import explain_row
from plm_scaling.reporting.doubts import limits, merged, named_doubts
from plm_scaling.reporting.study import Study, on_set


def test_every_doubt_of_the_study_is_named_once(full_study: Study) -> None:
    doubts = named_doubts(full_study)
    text = "\n".join(doubts).replace("\u00a0", " ")
    assert len(doubts) == len(set(doubts))
    assert "CLM: at C = 2.4e12 the minimum is shallower than twice the noise." in doubts
    assert "MLM: at C = 1.48e+11 FLOPs the shallower edge" in text
    assert "moves by up to 13 % when compute is counted as C_6nd" in text
    assert "turned upwards during training, lowest after 25 % of the tokens and 1.66 nats higher" in text
    assert "1 of 46 planned runs is not complete (isoflop)." in text
    assert "CLM: 1 of 20 runs ends above the loss of residue frequencies alone (2.921)" in text
    assert "2 of 46 runs: more passes over the corpus than the plan allows unmarked (DATA_EXHAUSTED)." in text
    assert "1 of 46 runs: fewer than 200 optimiser steps" in text
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
    assert "1 of 45 runs: new flag (NEW_FLAG)." in text
    assert "The plan is missing." in text


def test_one_flag_at_several_budgets_is_one_sentence(full_study: Study) -> None:
    law = full_study.laws["mlm"]
    assert law.isoflop
    rows = tuple(row.model_copy(update={"flags": ("SHALLOW_MINIMUM",)}) for row in law.isoflop.rows)
    assert len({note for row in rows for note in explain_row(row)}) == 3
    fit = law.isoflop.model_copy(update={"rows": rows, "a_N": None})
    study = Study(name="x", laws={"mlm": law.model_copy(update={"isoflop": fit, "isoflop_other_currency": None})})
    found = [text for text in named_doubts(study) if "SHALLOW_MINIMUM" in text]
    assert len(found) == 1
    assert "at C = 1.48e+11 / 5.9e+11 / 2.36e+12 FLOPs the shallower edge" in found[0]


def test_notes_are_merged_word_by_word_and_only_if_alike() -> None:
    notes = ("A_FLAG: at C = 1 FLOPs, it is so.", "A_FLAG: at C = 2 FLOPs, it is so.", "A_FLAG: no.", "at C = 3")
    assert merged(notes) == ("A_FLAG: at C = 1 / 2 FLOPs, it is so.", "A_FLAG: no.", "at C = 3")
    other = "B_FLAG: at C = 1 FLOPs, it is so."
    assert merged((*notes[:1], other)) == (notes[0], other)
    assert merged(("A: a b c 1,", "A: a b c 2,")) == ("A: a b c 1 / 2,",)
    assert len(merged(("A: one two three", "A: four five six"))) == 2


def test_a_doubt_both_objectives_share_is_said_once(full_study: Study) -> None:
    laws = {
        name: law.model_copy(update={"notes": ("NO_REPLICATES: no seeds.",)}) for name, law in full_study.laws.items()
    }
    found = [text for text in named_doubts(Study(name="x", laws=laws)) if "NO_REPLICATES" in text]
    assert found == ["CLM and MLM: no seeds (NO_REPLICATES)."]


def test_fits_of_another_set_than_the_pages_are_named(full_study: Study) -> None:
    assert not any("fitted on" in text or "judged on" in text for text in named_doubts(full_study))
    page = on_set(full_study, "heldout_enzymes")
    text = "\n".join(named_doubts(page))
    assert "CLM: the laws were fitted on val_iid, while this page shows losses on heldout_enzymes" in text
    assert "Transfer: judged on val_iid, not on this page's heldout_enzymes." in text
    alien = {"clm": full_study.laws["clm"].model_copy(update={"validation_id": "elsewhere"})}
    text = "\n".join(named_doubts(dataclasses.replace(full_study, laws=alien)))
    assert "fitted on another validation set (id elsewhere)" in text


def test_seed_noise_is_that_of_the_pages_set(full_study: Study) -> None:
    assert full_study.noise_sd("clm") == 0.0125
    pooled = on_set(full_study, "heldout_enzymes").noise_sd("clm")
    assert pooled is not None
    assert abs(pooled - 0.00808) < 1e-4  # of the three seeds at -.010, 0, .006
    assert Study(name="x").noise_sd("clm") is None


def test_a_currency_shift_is_said_once_with_its_size(full_study: Study) -> None:
    law = full_study.laws["clm"].model_copy(update={"notes": ("CURRENCY_SHIFT: more than 10 %.",)})
    text = "\n".join(named_doubts(Study(name="x", laws={"clm": law}))).replace("\u00a0", " ")
    assert "by up to 13 %" in text
    assert "CURRENCY_SHIFT" not in text


def test_flags_of_a_pair_are_explained_where_the_fit_left_no_notes(full_study: Study) -> None:
    assert full_study.transfer
    pairs = tuple(
        full_study.transfer.pairs[0].model_copy(update={"flags": ("SEED_DIFFERS",), "target_run_id": run_id})
        for run_id in ("aaa", "bbb")
    )
    fit = full_study.transfer.model_copy(update={"pairs": pairs, "notes": ()})
    found = [text for text in named_doubts(Study(name="x", transfer=fit)) if "SEED_DIFFERS" in text]
    assert len(found) == 1
    assert found[0].startswith("Transfer: aaa / bbb: the scratch partner has another seed")
