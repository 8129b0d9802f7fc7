"""Corpora made by data_prep, simulated and real: the format's two sides meet here."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from plm_scaling.core.run import Stream
from plm_scaling.corpus.floors import entropy_floors
from plm_scaling.corpus.packing import open_windows, window_stats
from plm_scaling.corpus.reader import Corpus
from plm_scaling.corpus.validation import validation_sets

pipeline = pytest.importorskip("data_prep.pipeline")

REAL_FILES = ("UP000000625-E.coli", "prokka-Viruses_sprot")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    root = os.environ.get("PLM_SCALING_TEST_DATA")
    if not root:
        pytest.skip("PLM_SCALING_TEST_DATA is not set: it names the folder with the real sequences (corpus/*.fasta.gz)")
    out = tmp_path_factory.mktemp("real") / "corpus"
    files = [Path(root) / "corpus" / f"{name}.fasta.gz" for name in REAL_FILES]
    pipeline.prepare_corpus(
        [pipeline.SourceInput(file.stem, (file,)) for file in files], out, pipeline.PrepSpec(val_share=0.05)
    )
    return Corpus.open(out)


@pytest.mark.parametrize("context", [256, 1024])
def test_real_windows_are_full(real: Corpus, context: int) -> None:
    assert window_stats(real, Stream(), context).fill >= 0.98


def test_real_tokens_are_packed_once(real: Corpus) -> None:
    windows = open_windows(real, Stream(), 256)
    packed = np.bincount(windows.tokens.reshape(-1), minlength=33)
    stored = np.zeros(33, dtype=np.int64)
    for row in real.rows("train"):
        stored += np.bincount(real.tokens(int(row)), minlength=33)
    assert packed[2:32].tolist() == stored[2:32].tolist()  # all but <cls> and <pad>, which only windows have


def test_real_floors(real: Corpus) -> None:
    (valid,) = validation_sets(real, 256, 200_000, "mlm")
    floors = entropy_floors(real, valid.rows)
    assert 2.80 < floors.clm_per_residue < floors.clm_per_token < 2.95
    assert floors.clm_per_residue - floors.mlm == pytest.approx(0.176, abs=0.01)


def test_fasta_to_windows(tmp_path: Path) -> None:
    fasta = tmp_path / "some.fasta"
    fasta.write_text(">a\nLAGV\nLA\n>b\nwwc*\n>c again\nLAGVLA\n>d\nM\n")
    pipeline.prepare_corpus(
        [pipeline.SourceInput("some", (fasta,))], tmp_path / "corpus", pipeline.PrepSpec(val_share=0.0)
    )
    corpus = Corpus.open(tmp_path / "corpus")
    assert [corpus.sequence(row) for row in range(4)] == ["LAGVLA", "WWC", "LAGVLA", "M"]
    assert corpus.first.tolist() == [True, True, False, True]
    assert open_windows(corpus, Stream(), 16).stats.tokens == 13
    assert open_windows(corpus, Stream(duplicates=True), 16).stats.tokens == 20
