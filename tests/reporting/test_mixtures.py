from __future__ import annotations

import dataclasses

import pytest

from plm_scaling.reporting.mixtures import diversity_groups, diversity_sources, diversity_views
from plm_scaling.reporting.study import Study


def without_parts(study: Study) -> Study:
    """The study as runs leave it that were not scored by source."""
    records = {
        run_id: record.model_copy(update={"validation": tuple(v for v in record.validation if "@" not in v.set_name)})
        for run_id, record in study.records.items()
    }
    return dataclasses.replace(study, records=records)


def test_reference_is_the_first_source_repeated(full_study: Study) -> None:
    clm, _ = diversity_groups(full_study)
    assert "uniref_like" in clm.reference.label
    assert clm.reference.epochs == pytest.approx(12, rel=1e-3)
    assert ["metagenome_like" in arm.label for arm in clm.arms] == [True, True]
    assert clm.arms[0].change
    assert clm.arms[0].change.value == pytest.approx(1.402 - 1.459)
    assert clm.sources == diversity_sources(full_study) == ("uniref_like", "metagenome_like")


def test_every_arm_is_judged_on_each_sources_sequences(full_study: Study) -> None:
    view, _ = diversity_views(full_study)
    assert [source for source, _ in view.parts] == ["uniref_like", "metagenome_like"]
    mixed, alone = view.pooled.arms
    on_first = view.on_source("uniref_like", alone)
    assert on_first
    assert on_first.change
    assert on_first.change.value == pytest.approx(1.421 + 0.5 - (1.459 - 0.05))
    assert on_first.change.se is not None
    assert {row.validation_id for row in on_first.rows} == {"val-clm@uniref_like"}
    on_second = view.on_source("metagenome_like", mixed)
    assert on_second
    assert on_second.change
    assert on_second.change.value == pytest.approx(1.402 - 1.459)
    assert view.on_source("nowhere", mixed) is None
    assert dict(view.mix) == {"uniref_like": 0.75, "metagenome_like": 0.25}


def test_without_scores_by_source_only_the_whole_set_is_judged(full_study: Study) -> None:
    view, _ = diversity_views(without_parts(full_study))
    assert view.parts == ()
    assert view.mix == ()
    assert view.pooled == diversity_views(full_study)[0].pooled
