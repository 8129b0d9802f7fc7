"""Fixtures every test folder may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Real sequences and published tables, where the machine has them."""
    folder = os.environ.get("PLM_SCALING_TEST_DATA", "")
    if not folder:
        pytest.skip("PLM_SCALING_TEST_DATA is not set: real sequences and published tables are not here")
    if not Path(folder).is_dir():
        pytest.fail(f"PLM_SCALING_TEST_DATA={folder} is no folder")
    return Path(folder)


@pytest.fixture(scope="session")
def simulated_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small prepared corpus of both simulated sources (about 300 k residues)."""
    from plm_scaling import api

    folder = tmp_path_factory.mktemp("simulated")
    api.simulate(folder / "fasta", residues=300_000, seed=3)
    sources = {name: [folder / "fasta" / f"{name}.fasta"] for name in ("uniref_like", "metagenome_like")}
    api.prep(sources, folder / "corpus", val_share=0.05)
    return folder / "corpus"
