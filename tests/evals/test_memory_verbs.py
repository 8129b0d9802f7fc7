"""The verbs around memorisation, drawing and sizes, as they are called from outside, and what an export is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plm_scaling import api
from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import ConfigError
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder
from plm_scaling.evals.adapters.base import ModelInfo
from plm_scaling.evals.export_check import export_warnings
from plm_scaling.evals.memorisation import MemorisationReport
from plm_scaling.evals.results import ResultRow, append_rows
from plm_scaling.models.build import build_model
from plm_scaling.models.esm2 import Esm2
from plm_scaling.models.esm2_files import Esm2Weights, save_hf_esm2

RNG = np.random.default_rng(3)


def fasta(path: Path, count: int) -> Path:
    path.write_text("".join(f">{path.stem}{k}\n{''.join(RNG.choice(list(STANDARD), 16))}\n" for k in range(count)))
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two folders of generated weights."""
    shape = ModelShape(architecture="esm2", n_layers=1, d_model=16, n_heads=2)
    found = []
    for seed in (1, 2):
        model = build_model(shape, causal=False, context=64, seed=seed)
        assert isinstance(model, Esm2)
        found.append(save_hf_esm2(Esm2Weights.of(model), tmp_path_factory.mktemp("weights") / "esm2"))
    return found


def test_a_report_is_put_beside_exported_weights(weights: list[Path], tmp_path: Path, cli: Callable[..., Any]) -> None:
    seen, unseen, report = fasta(tmp_path / "seen.fasta", 6), fasta(tmp_path / "unseen.fasta", 6), tmp_path / "m.json"
    words = ("evaluate", "memorisation", f"esm2:{weights[0]}", "--seen", seen, "--unseen", unseen, "-o", report)
    screen = cli(*words, "--references", 4, "--resamples", 20, "--format", "json")
    assert screen.code == 0, screen.err
    known = MemorisationReport.read(report)
    assert json.loads(screen.out)["sha256"] == known.sha256
    assert (known.how, known.seen.n, known.references) == ("masked", 6, 4)
    made = api.export(weights[0], tmp_path / "out", memorisation=report)
    assert MemorisationReport.read(made.folder / "memorisation.json") == known
    assert made.warnings == tuple(alarm.sentence for alarm in known.alarms)
    with pytest.raises(ConfigError, match="of other weights"):
        api.export(weights[1], tmp_path / "other", memorisation=report)
    assert not (tmp_path / "other").exists()
    assert api.export(weights[1], tmp_path / "plain").warnings == ()


def test_weights_that_continue_others_need_a_report_or_a_word(tmp_path: Path) -> None:
    """Of the run's folder and of its file of weights alike; nothing is written before."""
    config = RunConfig(
        corpus_id="c", objective="mlm", n_layers=1, d_model=16, context=8, D=9, batch_tokens=8, peak_lr=1,
        recipe="small", init_from="sha256:" + "a" * 64,
    )  # fmt: skip
    for chosen in (config, config.model_copy(update={"init_from": None})):
        folder = RunFolder(tmp_path / chosen.run_id)
        RunOrder(config=chosen, corpus=str(tmp_path), device="cpu").write(folder.order_path)
        for source in (folder.path, folder.weights_path):
            if chosen.init_from is None:
                assert export_warnings(source, None) == ()
                continue
            with pytest.raises(ConfigError, match="trained on from sha256:aaaa") as refusal:
                api.export(source, tmp_path / "out")
            assert "--without-memorisation" in refusal.value.hint
            (warning,) = export_warnings(source, None, unmeasured=True)
            assert "plm-scaling evaluate memorisation" in warning
    assert not (tmp_path / "out").exists()


def test_sequences_are_drawn_and_kept(tmp_path: Path, cli: Callable[..., Any]) -> None:
    natural, report, drawn = fasta(tmp_path / "n.fasta", 5), tmp_path / "g.json", tmp_path / "drawn.fasta"
    words = ("evaluate", "generate", "uniform", "-n", 4, "--longest", 12, "--natural", natural, "-o", report)
    screen = cli(*words, "--fasta", drawn, "--resamples", 20)
    assert screen.code == 0, screen.err
    assert drawn.read_text().startswith(">drawn1 cut ln_p=")
    assert drawn.read_text().count(">") == 4
    assert "4 of 4 sequences were cut" in screen.err
    saved = json.loads(report.read_text())
    assert [group["name"] for group in saved["groups"]] == ["drawn", "natural", "natural, shuffled"]
    assert saved["groups"][0]["length"] == 12.0
    assert saved["sieved"] is None
    screen = cli(*words, "--keep", drawn, "--resamples", 20)
    assert "0 of 4 (0 tokens); left out 4 cut" in screen.out
    assert drawn.read_text() == ""


def row(name: str, N: int, value: float, **changes: Any) -> ResultRow:
    info = ModelInfo(
        name=name, family="progen2", objective="clm", origin=changes.pop("origin", "a file"), abilities=("causal",), N=N
    )
    return ResultRow(
        task="t", task_version=1, data_sha256="d", model=info, protocol="clm", metric="spearman",
        higher_is_better=changes.pop("higher_is_better", True), value=value, low=value - 0.01, high=value + 0.01, n=9,
        **changes,
    )  # fmt: skip


def test_sizes_of_a_file_contradict_each_other(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """The same question in the same way only: controls, other protocols and chance raise nothing."""
    out = tmp_path / "rows.jsonl"
    rows = [row("small", 1, -0.4), row("large", 2, 0.5), row("control", 3, -0.6, origin="random weights, seed 0")]
    append_rows(out, rows)
    assert [alarm.code for alarm in api.evaluate_sizes(out)] == ["SIGN_FLIP"]
    screen = cli("evaluate", "sizes", out, "--format", "json")
    assert json.loads(screen.out)[0]["where"] == "t, spearman, progen2 clm, clm"
    append_rows(other := tmp_path / "other.jsonl", [rows[0], rows[1].model_copy(update={"limit": 100})])
    assert api.evaluate_sizes(other) == ()  # a sample of the examples is another question
    worse = tmp_path / "worse.jsonl"
    append_rows(worse, [row(str(N), N, 2.0 + N / 10, higher_is_better=False) for N in (1, 2, 3)])
    (falls,) = api.evaluate_sizes(worse)
    assert falls.code == "FALLS_WITH_SIZE"
    better = tmp_path / "better.jsonl"
    append_rows(better, [row(str(N), N, 2.0 - N / 10, higher_is_better=False) for N in (1, 2, 3)])
    assert api.evaluate_sizes(better) == ()
