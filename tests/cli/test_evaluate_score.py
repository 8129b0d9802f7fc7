"""`evaluate score` on a user's table: scores by their definition, and errors that name row and cause."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from plm_scaling.core.alphabet import STANDARD
from tests.conftest import Screen

WILD = "MKTAYIAKQR"
TRANSITION = np.random.default_rng(0).dirichlet(np.full(20, 0.5), 20)


@pytest.fixture
def chain(tmp_path: Path) -> str:
    np.save(tmp_path / "chain.npy", TRANSITION)
    return f"markov:{tmp_path / 'chain.npy'}"


def table(folder: Path, *lines: str) -> Path:
    path = folder / "assay.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def log_p(sequence: str) -> float:
    """Up to the first residue, which no variant here changes."""
    ids = [STANDARD.index(letter) for letter in sequence]
    return float(np.log(TRANSITION[ids[:-1], ids[1:]]).sum())


def test_a_table_gets_a_column(cli: Callable[..., Screen], chain: str, tmp_path: Path) -> None:
    path = table(tmp_path, "id,mutant,fitness", "a,K22A,1.0", 'b,"T23W:Y25F",0.4', "c,K22del,", "d,WT,0.2")
    (tmp_path / "wild.fasta").write_text(f">w\n{WILD}\n")
    words = ("evaluate", "score", chain, str(path), "--first", "21", "--method", "clm", "--measured", "fitness")
    done = cli(*words, "--wild-type", str(tmp_path / "wild.fasta"), "-o", str(tmp_path / "out.csv"), "--format", "json")
    assert done.code == 0, done.err
    changed = ["MATAYIAKQR", "MKWAFIAKQR", "MTAYIAKQR", WILD]
    wanted = [log_p(sequence) - log_p(WILD) for sequence in changed]
    found = json.loads(done.out)
    assert found["scores"] == pytest.approx(wanted, abs=1e-9)
    assert found["measured"] == 3
    with (tmp_path / "out.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["id"], row["fitness"]) for row in rows] == [("a", "1.0"), ("b", "0.4"), ("c", ""), ("d", "0.2")]
    assert [float(row["plm_score"]) for row in rows] == pytest.approx(wanted, abs=1e-9)
    again = cli(*words, "--wild-type", WILD, "--format", "csv")
    assert [float(row["plm_score"]) for row in csv.DictReader(again.out.splitlines())] == pytest.approx(
        wanted, abs=1e-9
    )
    part = table(tmp_path, "sequence", "TAY", "TWY")
    likeliest = cli("evaluate", "score", chain, str(part), "--wild-type", WILD, "--region", "3-5")
    assert "masked_marginals" in likeliest.err
    assert likeliest.out.index("TAY") != likeliest.out.index("TWY")


@pytest.mark.parametrize(
    ("lines", "words", "said"),
    [
        (("mutant", "A2G"), (), ["variant 1, 'A2G'", "residue 2 of the wild type is K, not A"]),
        (("mutant", "K2B"), (), ["none of the 20"]),
        (("name,fit", "x,1"), (), ["no column of variants", "name, fit", "--column"]),
        (("mutant,fit", "K2A,1"), ("--measured", "fitt"), ["no column 'fitt'", "fit?"]),
        (("mutant,fit", "K2A,high"), ("--measured", "fit"), ["'high' is no measurement", "line 2"]),
        (("mutant,fit", "K2A,nan"), ("--measured", "fit"), ["'nan' is no measurement", "line 2"]),
        (("mutant,fit", "K2A"), (), ["1 cells, the header has 2", "line 2"]),
        (("mutant",), (), ["no variant"]),
        (("mutant", "K2A"), ("--region", "here"), ["no range"]),
        (("mutant", "K2A"), ("--wild-type", "MK-A"), ["'-' is no residue"]),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_written(
    cli: Callable[..., Screen], tmp_path: Path, lines: tuple[str, ...], words: tuple[str, ...], said: list[str]
) -> None:
    out = tmp_path / "out.csv"
    asked = ("evaluate", "score", "uniform", str(table(tmp_path, *lines)), "--wild-type", WILD, "-o", str(out))
    done = cli(*asked, *words)
    assert done.code == 2
    for text in said:
        assert text in done.err
    assert not out.exists()
