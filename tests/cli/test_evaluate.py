"""`evaluate` on models known in closed form: rows, comparisons, frontiers, and errors a stranger can read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from plm_scaling.core.alphabet import STANDARD
from plm_scaling.evals.adapters.base import ModelInfo
from plm_scaling.evals.results import ResultRow, append_rows
from tests.conftest import Screen


@pytest.fixture
def study(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    transition = rng.dirichlet(np.full(20, 0.3), 20)
    np.save(tmp_path / "chain.npy", transition)
    with (tmp_path / "held_out.fasta").open("w") as handle:
        for k in range(30):
            state = [int(rng.integers(20))]
            for _ in range(39):
                state.append(int(rng.choice(20, p=transition[state[-1]])))
            handle.write(f">p{k}\n{''.join(STANDARD[s] for s in state)}\n")
    return tmp_path


def test_a_file_of_results_from_asking_to_comparing(cli: Callable[..., Screen], study: Path) -> None:
    out = study / "rows.jsonl"
    asked = ("evaluate", "run", "uniform", f"markov:{study / 'chain.npy'}", "--tasks", "site_nats", "-o", str(out))
    done = cli(*asked, "--sequences", str(study / "held_out.fasta"), "--resamples", "50", "--format", "json")
    assert done.code == 0, done.err
    uniform, chain = json.loads(done.out)
    assert uniform["value"] == pytest.approx(math.log(20))
    assert chain["high"] < uniform["value"]
    assert "next: plm-scaling evaluate frontier" in done.err
    again = cli(*asked, "--sequences", str(study / "held_out.fasta"), "--resamples", "50")
    assert "kept" in again.err
    assert len(out.read_text().splitlines()) == 2
    paired = cli("evaluate", "compare", str(out), "--against", "uniform", "--format", "json")
    (row,) = json.loads(paired.out)
    assert row["difference"]["value"] == pytest.approx(chain["value"] - uniform["value"])
    assert row["p_holm"] < 0.05
    drawn = study / "frontier.svg"
    frontier = cli("evaluate", "frontier", str(out), "--task", "site_nats", "--picture", str(drawn))
    assert "site_nats" in drawn.read_text()
    assert "chain" in frontier.out
    assert "no random-weights control" in frontier.err
    assert cli("evaluate", "frontier", str(out), "--task", "site_nuts").code == 4
    table = cli("evaluate", "frontier", str(out), "--task", "site_nats", "--table", str(study / "metrics.csv"))
    assert table.code == 2
    assert "no scored model has a loss" in table.err
    assert not (study / "metrics.csv").exists()


def test_a_sweep_gives_curves_and_the_table_that_spend_maps_losses_with(
    cli: Callable[..., Screen], study: Path
) -> None:
    tmp_path, rows = study, []
    for k in range(5):
        said = {"name": f"m{k}", "family": "own", "objective": "clm", "origin": "run", "abilities": ("causal",)}
        info = ModelInfo.model_validate(said | {"loss": 2.5 + 0.1 * k, "C": 1e15 / (k + 1)})
        rows.append(
            ResultRow(
                task="site_nats", task_version=1, data_sha256="d", model=info, protocol="p", metric="site_nats",
                higher_is_better=False, value=2.4 + 0.11 * k, n=9,
            )
        )  # fmt: skip
    append_rows(tmp_path / "rows.jsonl", rows)
    words = ("evaluate", "frontier", str(tmp_path / "rows.jsonl"), "--task", "site_nats")
    done = cli(*words, "--table", str(tmp_path / "metrics.csv"))
    assert done.code == 0, done.err
    assert "--for site_nats --metrics" in done.err
    assert "--lower-is-better" in done.err
    assert (tmp_path / "metrics.csv").read_text().splitlines()[::5] == ["loss,metric,objective", "2.5,2.4,clm"]
    curves = cli("evaluate", "curves", words[2], "--format", "json")
    (found,) = json.loads(curves.out)
    assert found["slopes_of_loss"]["clm"]["value"] == pytest.approx(1.1)
    asked = ("--sequences", str(study / "held_out.fasta"), "--resamples", "20", "-o", words[2], "--limit", "5")
    one_command = cli(
        "evaluate", "run", "uniform", "--tasks", "site_nats", *asked, "--picture", str(tmp_path / "curves.svg")
    )
    assert one_command.code == 0, one_command.err
    assert "per nat of loss" in one_command.out
    assert "+1.100 to +1.100" in one_command.out
    assert "site_nats" in (tmp_path / "curves.svg").read_text()
    alone = cli("evaluate", "run", "uniform", "--tasks", "site_nats", *asked[:4], "-o", str(study / "one.jsonl"),
                "--picture", str(study / "none.svg"))  # fmt: skip
    assert alone.code == 4
    assert "3 runs of one objective" in alone.err
    assert not (study / "none.svg").exists()


def test_what_cannot_be_asked_is_said(cli: Callable[..., Screen], study: Path) -> None:
    out = ("-o", str(study / "rows.jsonl"))
    failed = cli("evaluate", "run", "uniform", "--tasks", "aav28.zero_shot", *out)
    assert failed.code == 3
    assert "needs aav_capsid_28mer.csv" in failed.err
    assert "--data FOLDER" in failed.err
    assert not (study / "rows.jsonl").exists()
    assert cli("evaluate", "run", "uniform", "--tasks", "aav.*", *out).code == 4
    unknown = cli("evaluate", "run", "esm3", *out)
    assert unknown.code == 2
    assert "no model is called 'esm3'" in unknown.err
    (study / "bad.fasta").write_text(">a\nMKV1LA\n")
    broken = cli("evaluate", "run", "uniform", "--tasks", "site_nats", "--sequences", str(study / "bad.fasta"), *out)
    assert "record 1 (a)" in broken.err
    assert cli("evaluate", "ls").out.count("aav28.zero_shot") == 1


def test_floors_of_any_table(cli: Callable[..., Screen], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = ["".join(rng.choice(list("ACDE"), 8)) for _ in range(300)]
    weight = {letter: value for value, letter in enumerate("ACDE")}
    lines = [f"{text},{sum(weight[c] for c in text[:3])},{'train' if k % 2 else 'test'}" for k, text in enumerate(rows)]
    (tmp_path / "t.csv").write_text("sequence,target,part\n" + "\n".join(dict.fromkeys(lines)) + "\n")
    asked = ("evaluate", "floors", str(tmp_path / "t.csv"), "--resamples", "20", "--format", "json")
    found = {row["name"]: row["value"] for row in json.loads(cli(*asked).out)}
    assert found["one-hot"] > 0.98
    assert abs(found["random"]) < 0.3
    assert found["blosum62"] is None
    assert cli(*asked, "--target", "targt").code == 2
