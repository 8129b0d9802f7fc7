from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import CheckpointError, RunError
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.weight_identity import weights_id
from plm_scaling.models.build import build_model
from plm_scaling.models.esm2 import Esm2
from plm_scaling.models.esm2_files import Esm2Weights, save_hf_esm2
from plm_scaling.models.open_model import read_model
from plm_scaling.models.progen2_files import save_gptj
from plm_scaling.training.checkpoint import load_weights
from plm_scaling.training.loop import Interrupted, train

MakeRun = Callable[..., RunFolder]
STILL: dict[str, Any] = {"peak_lr": 1e-300, "weight_decay": 0.0, "D": 1000}
"""A run that stays where it began."""
SMALL: dict[str, Any] = {"architecture": "esm2", "n_heads": 2}


def trained(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_weights(folder.weights_path)


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder as `transformers` keeps an ESM-2 of two layers, with generated weights."""
    model = build_model(ModelShape(n_layers=2, d_model=16, **SMALL), causal=False, context=64, seed=77)
    assert isinstance(model, Esm2)
    return save_hf_esm2(Esm2Weights.of(model), tmp_path / "made_elsewhere")


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_a_run_starts_from_weights_made_elsewhere(make_run: MakeRun, foreign: Path, objective: str) -> None:
    state = read_model(foreign).state
    choices = {"init_from": weights_id(foreign), "objective": objective, "order": {"init_path": str(foreign)}}
    folder = make_run(**SMALL, **STILL, **choices)
    record = train(folder.path)
    assert_same(trained(folder), {name: t for name, t in state.items() if not name.startswith("contact")})
    assert record.source_run_id == weights_id(foreign)
    assert (record.source_objective, record.N_source, record.C_source) == (None, None, None)
    assert record.flags == ("FOREIGN_SOURCE",)
    assert record.ledger[-1].seen_earlier == 0


def test_the_flag_is_handed_down_and_known_runs_are_in_the_ledger(make_run: MakeRun, foreign: Path) -> None:
    order = {"init_path": "../../made_elsewhere"}  # from the run's folder
    first = make_run(**SMALL, D=2000, init_from=weights_id(foreign), order=order)
    second = make_run(**SMALL, D=1000, init_from=first.path.name, seed=1)
    source = train(first.path)
    record = train(second.path)
    assert record.flags == ("FOREIGN_SOURCE",)
    assert (record.source_run_id, record.C_source) == (source.config.run_id, source.C_exact)
    assert record.ledger[-1].seen_earlier > 0


def test_progen2_keeps_its_own_vocabulary(make_run: MakeRun, tmp_path: Path) -> None:
    shape = ModelShape(architecture="progen2", n_layers=1, d_model=16, n_heads=2, rotary_dim=4)
    model = build_model(shape, causal=True, context=64, seed=5)
    state = {name: p.detach().clone() for name, p in model.named_parameters()}
    save_gptj(state, shape, tmp_path / "gptj")
    choices = {"architecture": "progen2", "n_layers": 1, "n_heads": 2, "rotary_dim": 4}
    folder = make_run(**choices, **STILL, init_from=weights_id(tmp_path / "gptj"), order={"init_path": "../../gptj"})
    record = train(folder.path)
    assert_same(trained(folder), state)
    assert record.validation[0].per_token == pytest.approx(3.47, abs=0.15)  # ln 32: weights this small say nothing


def test_other_weights_than_those_asked_for_are_refused(make_run: MakeRun, foreign: Path) -> None:
    folder = make_run(**SMALL, init_from="sha256:" + "0" * 64, order={"init_path": str(foreign)})
    with pytest.raises(CheckpointError, match="not the weights") as caught:
        train(folder.path)
    assert weights_id(foreign) in caught.value.what
    assert "0" * 64 in caught.value.what


def test_an_order_without_the_path_is_refused(make_run: MakeRun) -> None:
    with pytest.raises(RunError, match="nothing says where") as caught:
        train(make_run(init_from="sha256:" + "0" * 64).path)
    assert "init_path" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ["architecture esm2, not plm", "n_heads 2, not 1", "rotary_dim 8, not 16"]),
        ({**SMALL, "n_layers": 3, "d_ffn": 32}, ["n_layers 2, not 3", "d_ffn 64, not 32"]),
    ],
    ids=["architecture", "size"],
)
def test_another_shape_is_refused_with_the_words_that_fit(
    make_run: MakeRun, foreign: Path, changes: dict[str, Any], said: list[str]
) -> None:
    source = weights_id(foreign)
    with pytest.raises(CheckpointError, match="do not fit") as caught:
        train(make_run(**changes, init_from=source, order={"init_path": str(foreign)}).path)
    assert caught.value.what.endswith("they have " + "; ".join(said))
    assert 'architecture = "esm2", size = "2x16x2"' in caught.value.hint


def test_esm2_without_token_dropout_is_refused(make_run: MakeRun, foreign: Path) -> None:
    config = foreign / "config.json"
    text = config.read_text()
    assert '"token_dropout": true' in text
    config.write_text(text.replace('"token_dropout": true', '"token_dropout": false'))
    source = weights_id(foreign)
    with pytest.raises(CheckpointError, match="without token dropout"):
        train(make_run(**SMALL, init_from=source, order={"init_path": str(foreign)}).path)


def test_a_lora_run_ends_as_plain_weights(make_run: MakeRun) -> None:
    source = make_run(D=2000)
    before = train(source.path)
    start = {"init_from": source.path.name, "lora_rank": 2, "lora_alpha": 8.0}
    still, moved = make_run(**start, **STILL), make_run(**start, objective="mlm", D=2000, seed=3)
    train(still.path)
    assert_same(trained(still), trained(source))
    record = train(moved.path)
    old, new = trained(source), trained(moved)
    assert old.keys() == new.keys()
    for name, tensor in old.items():
        difference = (new[name] - tensor).double()
        if name.startswith("blocks") and tensor.dim() == 2:
            assert 1 <= torch.linalg.matrix_rank(difference, rtol=1e-4) <= 2, name
        else:
            assert not difference.any(), name
    assert read_model(moved.path).shape == record.config.shape
    again = make_run(init_from=moved.path.name, **STILL, objective="mlm")
    assert train(again.path).validation[0].per_token == pytest.approx(record.validation[0].per_token, rel=1e-5)
    assert before.validation[0].validation_id != record.validation[0].validation_id


def test_a_lora_run_is_resumed_on_its_base(make_run: MakeRun) -> None:
    """The checkpoint holds the additions and their moments; the frozen weights are read from the source again."""
    source = make_run(D=2000)
    train(source.path)
    start = {"init_from": source.path.name, "lora_rank": 2, "D": 2000}
    whole, cut = make_run(**start), make_run(**start, parent="cut")
    (cut.path.parent / source.path.name).symlink_to(source.path)
    train(whole.path)
    for _ in range(2):
        with pytest.raises(Interrupted):
            train(cut.path, time_limit_s=0.0)
    newest = sorted(cut.checkpoint_path.glob("step-*"))[-1]
    tensors = load_file(newest)
    names = set(tensors)
    additions = {name for name in names if name.startswith("model.")}
    assert len(additions) == 2 * 4 * 2
    assert all(name.endswith((".down", ".up")) for name in additions)
    assert names - additions == {"exp_avg", "exp_avg_sq"}
    assert sum(tensors[name].numel() for name in additions) == 2 * 2 * 16 * 16  # L r (8 D + 2 F), F = 4 D
    record = train(cut.path)
    assert record.attempts == 3
    assert_same(trained(cut), trained(whole))
