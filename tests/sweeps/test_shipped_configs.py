"""The shipped studies, laid out on a corpus of a few thousand sequences at a scale that fits it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from plm_scaling.core.configs import find_config
from plm_scaling.corpus.reader import Corpus
from plm_scaling.sweeps.plan import plan_sweep, read_spec

STUDIES = {
    # name: sources, scale, runs, FLOPs as 6 N D and exact at scale 1
    "paper": (
        {"uniref50": 400, "uniref90": 400, "colabfold_c": 400, "colabfold_m": 1000},
        1e-6,
        205,
        2.28398e22,
        2.34252e22,
    ),
    "gpu_week": ({"uniref50": 400, "mgnify": 400}, 1e-5, 134, 3.94471e19, 4.21553e19),
    "laptop": ({"uniref_like": 400, "metagenome_like": 400}, 1e-2, 122, 2.12721e14, 2.91815e14),
}


@pytest.mark.parametrize("name", STUDIES)
def test_a_shipped_study_costs_what_it_says(name: str, tmp_path: Path, make_corpus: Callable[..., Corpus]) -> None:
    sources, scale, n_runs, C_6nd, C_exact = STUDIES[name]
    corpus = make_corpus(tmp_path / "c", sequences=sources)
    # Every budget and number of tokens grows with the scale, and with them the FLOPs; N and epochs do not.
    made = plan_sweep(read_spec(find_config(name)), corpus, scale=scale, memory_bytes=math.inf)
    assert len(made.runs) == n_runs
    assert {"lr_probe", "isoflop", "repeats", "diversity", "transfer_target", "rewarmed", "shuffled_source"} <= {
        role for run in made.runs for role in run.roles
    }
    assert math.fsum(run.config.C_6nd for run in made.runs) / scale == pytest.approx(C_6nd, rel=1e-3)
    assert made.total_C_exact / scale == pytest.approx(C_exact, rel=1e-3)


def test_the_isoflop_rows_of_the_published_study_are_its_budgets(
    tmp_path: Path, make_corpus: Callable[..., Corpus]
) -> None:
    spec = read_spec(find_config("paper"))
    assert sorted({arm.C for arm in spec.isoflop}) == [1e18, 3e18, 6e18, 1e19, 3e19, 1e20, 3e20, 1e21]
    sources, scale, *_ = STUDIES["paper"]
    corpus = make_corpus(tmp_path / "c", sequences=sources)
    rows = spec.model_copy(update={arm: () for arm in ("lr_probe", "repeats", "diversity", "mask")})
    rows = rows.model_copy(update={"transfer": (), "transfer_grid": ()})
    made = plan_sweep(rows, corpus, scale=scale, memory_bytes=math.inf)
    # Six sizes at eight budgets, twice; then three sizes at 1e18 and two at 1e19 again.
    by_hand = 2 * 6 * (1 + 3 + 6 + 10 + 30 + 100 + 300 + 1000) * 1e18 + 2 * (3 * 2 * 1e18 + 2 * 1e19)
    assert math.fsum(run.config.C_6nd for run in made.runs) / scale == pytest.approx(by_hand, rel=1e-3)


def test_the_causes_differ_by_one_thing_each(tmp_path: Path, make_corpus: Callable[..., Corpus]) -> None:
    corpus = make_corpus(tmp_path / "c", sequences={"uniref_like": 400, "metagenome_like": 400})
    switched = {
        "causes_constant": {"schedule", "decay_fraction", "warmup_tokens"},
        "causes_warmup": {"warmup_tokens"},
        "causes_low_rate": {"peak_lr"},
    }
    made = {
        name: plan_sweep(read_spec(find_config(name)), corpus, scale=0.1, memory_bytes=math.inf)
        for name in ("causes_tuned", *switched)
    }
    runs = {
        name: {
            (run.config.d_model, run.config.n_layers, run.config.D, run.config.seed): run.config for run in plan.runs
        }
        for name, plan in made.items()
    }
    for name, fields in switched.items():
        assert runs[name].keys() == runs["causes_tuned"].keys()
        for key, config in runs[name].items():
            reference = runs["causes_tuned"][key].model_dump()
            assert {field for field, value in config.model_dump().items() if value != reference[field]} == fields
