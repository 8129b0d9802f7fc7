from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import ConfigError
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder
from plm_scaling.core.weight_identity import described_shape, is_foreign, weights_id, weights_sha256

ESM = {"model_type": "esm", "num_hidden_layers": 6, "hidden_size": 320, "num_attention_heads": 20}
PROGEN = {"model_type": "progen", "n_layer": 12, "n_embd": 1024, "n_head": 16, "rotary_dim": 32}


def described(folder: Path, config: object = ESM, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def own_run(folder: Path) -> RunFolder:
    values = {"corpus_id": "c", "objective": "mlm", "n_layers": 2, "d_model": 16, "context": 64, "D": 1000}
    config = RunConfig.model_validate(values | {"batch_tokens": 64, "peak_lr": 1e-3, "recipe": "small"})
    run = RunFolder(folder / config.run_id)
    RunOrder(config=config, corpus="c").write(run.order_path)
    run.weights_path.parent.mkdir()
    run.weights_path.write_bytes(b"final")
    return run


def test_a_file_is_its_own_hash(tmp_path: Path) -> None:
    path = tmp_path / "esm2.pt"
    path.write_bytes(b"weights")
    assert weights_sha256(path) == hashlib.sha256(b"weights").hexdigest()
    assert weights_id(path) == "sha256:" + weights_sha256(path)
    assert described_shape(path) is None
    assert is_foreign(weights_id(path))
    assert not is_foreign("0123456789ab")
    assert not is_foreign(None)


def test_a_folder_is_what_its_weights_and_description_are(tmp_path: Path) -> None:
    one, same = described(tmp_path / "one"), described(tmp_path / "same")
    (same / "README.md").write_text("a model")
    assert weights_sha256(one) == weights_sha256(same) == weights_sha256(one / "model.safetensors")
    others = [
        described(tmp_path / "a", weights=b"Weights"),
        described(tmp_path / "b", ESM | {"num_attention_heads": 10}),
        described(tmp_path / "c"),
    ]
    (others[2] / "model.safetensors").rename(others[2] / "other.safetensors")
    assert len({weights_sha256(path) for path in (one, *others)}) == 4


def test_a_run_of_ours_is_its_final_weights_and_its_orders_shape(tmp_path: Path) -> None:
    run = own_run(tmp_path)
    digest = hashlib.sha256(b"final").hexdigest()
    for path in (run.path, run.weights_path):
        assert weights_sha256(path) == digest
        assert described_shape(path) == ModelShape(n_layers=2, d_model=16)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (ESM, ModelShape(architecture="esm2", n_layers=6, d_model=320, n_heads=20)),
        (PROGEN, ModelShape(architecture="progen2", n_layers=12, d_model=1024, n_heads=16, rotary_dim=32)),
        (
            PROGEN | {"model_type": "gptj", "n_inner": 2048},
            ModelShape(architecture="progen2", n_layers=12, d_model=1024, n_heads=16, rotary_dim=32, d_ffn=2048),
        ),
    ],
)
def test_a_description_gives_the_shape(tmp_path: Path, config: dict[str, object], shape: ModelShape) -> None:
    assert described_shape(described(tmp_path / "w", config)) == shape


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "no JSON object"),
        ({"model_type": "llama"}, "type 'llama'"),
        (ESM | {"hidden_size": None}, "without a usable shape"),
        (ESM | {"num_attention_heads": 7}, "without a usable shape"),
    ],
)
def test_a_description_that_says_nothing_usable_is_refused(tmp_path: Path, config: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        described_shape(described(tmp_path / "w", config))
    assert caught.value.where.endswith("config.json")


def test_what_is_not_there_has_no_identity(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        weights_sha256(tmp_path / "none.pt")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="no weights in this folder"):
        weights_sha256(tmp_path)
    run = own_run(tmp_path / "runs")
    run.order_path.write_text("{}")
    with pytest.raises(ConfigError, match="a run that cannot be read"):
        described_shape(run.path)
