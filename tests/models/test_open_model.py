from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from plm_scaling.core.architecture import Architecture, ModelShape
from plm_scaling.core.errors import CheckpointError, ConfigError, RefusedError
from plm_scaling.core.files import sha256_file
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder
from plm_scaling.core.weight_identity import weights_sha256
from plm_scaling.models.base import ProteinModel
from plm_scaling.models.build import build_model
from plm_scaling.models.documents import Documents
from plm_scaling.models.esm2 import Esm2
from plm_scaling.models.esm2_files import Esm2Weights, save_hf_esm2
from plm_scaling.models.export import export_model
from plm_scaling.models.open_model import build_from, load_into, read_model
from plm_scaling.models.progen2_files import save_gptj
from plm_scaling.training.checkpoint import save_weights

SHAPE = ModelShape(architecture="esm2", n_layers=2, d_model=16, n_heads=2)


def tokens() -> Documents:
    generator = torch.Generator().manual_seed(0)
    return Documents.of([torch.randint(4, 24, (n,), generator=generator) for n in (7, 4)])


def weights_of(model: ProteinModel) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in model.named_parameters()}


def written_run(folder: Path, architecture: Architecture = "plm", **changes: Any) -> tuple[RunFolder, ProteinModel]:
    values: dict[str, Any] = {
        **{"corpus_id": "c", "objective": "clm", "n_layers": 1, "d_model": 16, "n_heads": 2, "context": 8, "D": 100},
        **{"batch_tokens": 16, "peak_lr": 1e-3, "recipe": "small", "architecture": architecture},
    }
    config = RunConfig.model_validate(values | changes)
    run = RunFolder(folder / config.run_id)
    RunOrder(config=config, corpus="corpus").write(run.order_path)
    model = build_model(config.shape, causal=config.objective == "clm", context=8, seed=7)
    save_weights(run.weights_path, weights_of(model), config.run_id)
    return run, model


@pytest.mark.parametrize("architecture", ["plm", "esm2", "progen2"])
@pytest.mark.parametrize("objective", ["clm", "mlm"])
def test_runs_of_our_own(architecture: Architecture, objective: str, tmp_path: Path) -> None:
    run, model = written_run(tmp_path, architecture, objective=objective)
    for path in (run.path, run.weights_path):
        file = read_model(path)
        assert (file.shape, file.architecture, file.causal) == (model.shape, architecture, objective == "clm")
        assert file.sha256 == sha256_file(run.weights_path)
        assert run.path.name in file.origin
        assert torch.equal(build_from(file, context=8)(tokens()), model(tokens()))


def test_folders_of_transformers(tmp_path: Path) -> None:
    esm2 = Esm2(SHAPE, causal=False, context=8, seed=1, token_dropout=False)
    esm2.set_contact_regression(torch.ones(1, 4), torch.tensor([0.5]))
    save_hf_esm2(Esm2Weights.of(esm2), tmp_path / "esm2")
    progen2 = build_model(
        ModelShape(architecture="progen2", n_layers=1, d_model=16, n_heads=2, rotary_dim=4), causal=True, context=8
    )
    save_gptj(weights_of(progen2), progen2.shape, tmp_path / "progen2")
    for folder, model, causal in (("esm2", esm2, False), ("progen2", progen2, True)):
        for path in (tmp_path / folder, tmp_path / folder / "model.safetensors"):
            file = read_model(path)
            assert (file.shape, file.causal) == (model.shape, causal)
            assert file.sha256 == weights_sha256(tmp_path / folder)
            assert torch.equal(build_from(file, context=8)(tokens()), model(tokens()))
    (tmp_path / "esm2" / "other.safetensors").write_bytes((tmp_path / "progen2" / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"not the weights that the config\.json beside it describes"):
        read_model(tmp_path / "esm2" / "other.safetensors")
    built = build_from(read_model(tmp_path / "esm2"), context=8, causal=True)
    assert isinstance(built, Esm2)
    assert built.causal
    assert not built.token_dropout
    assert built.contact_weight is not None
    assert torch.equal(built.contact_weight, torch.ones(1, 4))


def test_checkpoints_of_fair_esm(fair_esm, tmp_path: Path) -> None:
    peer = fair_esm()
    torch.save(peer.state_dict(), tmp_path / "peer.pt")
    file = read_model(tmp_path / "peer.pt")
    assert (file.origin, file.causal, file.token_dropout) == ("fair-esm checkpoint", False, True)
    assert file.sha256 == sha256_file(tmp_path / "peer.pt")
    model = build_from(file, context=8, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert torch.equal(weights_of(model)["embedding"], peer.embed_tokens.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.1.qkv": None}, r"blocks\.1\.qkv is missing"),
        ({"blocks.2.qkv": torch.ones(2)}, r"blocks\.2\.qkv is unexpected"),
        ({"final_norm": torch.ones(17)}, r"final_norm is of shape \[17\], the model has \[16\]"),
        ({"final_norm": torch.ones(16).int()}, "final_norm does not hold floating-point"),
        ({"contact_weight": torch.ones(1, 4)}, "contact_bias is missing"),
        ({"contact_weight": torch.ones(1, 5), "contact_bias": torch.ones(1)}, r"the model has \[1, 4\]"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(change: dict[str, Any], message: str) -> None:
    model, source = (Esm2(SHAPE, causal=False, context=8, seed=seed) for seed in (1, 2))
    before = model(tokens())
    state = {name: tensor for name, tensor in (weights_of(source) | change).items() if tensor is not None}
    with pytest.raises(CheckpointError, match=message):
        load_into(model, state)
    assert torch.equal(model(tokens()), before)
    load_into(model, weights_of(source))
    assert torch.equal(model(tokens()), source(tokens()))


def test_places_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither a config\.json nor a run\.json"):
        read_model(tmp_path)
    with pytest.raises(CheckpointError, match="no weights here"):
        read_model(tmp_path / "absent.pt")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match="a model of type 'bert'") as caught:
        read_model(tmp_path)
    assert "fair-esm" in caught.value.hint


def test_runs_that_are_incomplete_damaged_or_mixed_up(tmp_path: Path) -> None:
    run, _ = written_run(tmp_path)
    other, _ = written_run(tmp_path, seed=1)
    content = run.weights_path.read_bytes()
    run.weights_path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="does not match"):
        read_model(run.path)
    run.weights_path.write_bytes(other.weights_path.read_bytes())
    with pytest.raises(CheckpointError, match="weights of another run"):
        read_model(run.weights_path)
    stray = tmp_path / "stray.safetensors"
    stray.write_bytes(content)
    with pytest.raises(CheckpointError, match="weights without their description"):
        read_model(stray)
    run.order_path.write_text("{")
    with pytest.raises(CheckpointError, match="run that cannot be read"):
        read_model(run.path)
    run.weights_path.unlink()
    with pytest.raises(CheckpointError, match="no final weights") as caught:
        read_model(run.path)
    assert caught.value.where == str(run.path)


@pytest.mark.parametrize(
    ("architecture", "objective", "loads_as"),
    [
        ("esm2", "mlm", "EsmForMaskedLM"),
        ("esm2", "clm", "EsmForMaskedLM"),
        ("progen2", "clm", "GPTJForCausalLM"),
    ],
)
def test_a_run_is_exported_and_read_back(
    architecture: Architecture, objective: str, loads_as: str, tmp_path: Path
) -> None:
    run, model = written_run(tmp_path, architecture, objective=objective)
    made = export_model(run.path, tmp_path / "out")
    assert (made.loads_as, made.N_total, made.source) == (loads_as, model.shape.N_total, f"run {run.path.name}")
    file = read_model(tmp_path / "out")
    assert file.causal == (objective == "clm")
    assert torch.equal(build_from(file, context=8)(tokens()), model(tokens()))
    with pytest.raises(ConfigError, match="something is there already"):
        export_model(run.path, tmp_path / "out")
    assert export_model(run.path, tmp_path / "out", overwrite=True) == made


@pytest.mark.parametrize(
    ("architecture", "objective", "why"),
    [("plm", "mlm", "no other library has the block"), ("progen2", "mlm", "not what GPT-J computes")],
)
def test_what_nobody_else_could_load_is_not_exported(
    architecture: Architecture, objective: str, why: str, tmp_path: Path
) -> None:
    run, _ = written_run(tmp_path, architecture, objective=objective)
    with pytest.raises(RefusedError, match=why):
        export_model(run.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
