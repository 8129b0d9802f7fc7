from __future__ import annotations

import math

import pytest

from plm_scaling.laws.plateau import UNIPROT_PERCENT, composition_plateau


def test_frequencies_are_of_the_twenty_residues() -> None:
    assert len(UNIPROT_PERCENT) == 20
    assert sum(UNIPROT_PERCENT.values()) == pytest.approx(100, abs=0.5)


def test_for_clm_it_is_the_entropy_of_the_composition() -> None:
    total = sum(UNIPROT_PERCENT.values())
    entropy = -sum(p / total * math.log(p / total) for p in UNIPROT_PERCENT.values())
    assert composition_plateau("clm") == pytest.approx(entropy, abs=1e-4)
    assert composition_plateau("clm") == pytest.approx(2.889, abs=1.5e-3)


def test_for_mlm_what_is_shown_lowers_it() -> None:
    assert composition_plateau("mlm") == pytest.approx(2.713, abs=1.5e-3)
    assert composition_plateau("mlm") < composition_plateau("clm")
