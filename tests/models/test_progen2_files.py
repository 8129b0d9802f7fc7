"""ProGen2 against GPT-J and CodeGen of transformers, whose mathematics is the same, in every layout of the weights."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import CheckpointError
from plm_scaling.core.model_sizes import MODEL_SIZES
from plm_scaling.models.documents import Documents
from plm_scaling.models.progen2 import ProGen2
from plm_scaling.models.progen2_files import read_progen2, save_gptj

transformers = pytest.importorskip("transformers")

LAYERS, WIDTH, HEADS, ROTARY = 2, 64, 8, 4
SHAPE = ModelShape(architecture="progen2", n_layers=LAYERS, d_model=WIDTH, n_heads=HEADS, rotary_dim=ROTARY)
SIZES = {
    "n_layer": LAYERS,
    "n_embd": WIDTH,
    "n_head": HEADS,
    "rotary_dim": ROTARY,
    "n_positions": 1024,
    "vocab_size": 32,
}
SIZES |= {"bos_token_id": 1, "eos_token_id": 2}
LENGTHS = (600, 1, 17, 2)
"""Long enough that frequencies rounded otherwise would show."""


def drawn(model: Any, sd: float = 0.15) -> Any:
    """The model with weights of one size, so that logits are of order 1 and attention is far from even."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(sd * torch.randn(parameter.shape, generator=generator) + (parameter.dim() == 1))
    return model.eval()


@pytest.fixture(scope="module")
def gptj(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A GPT-J model and the folder it wrote."""
    folder = tmp_path_factory.mktemp("gptj")
    model = drawn(transformers.GPTJForCausalLM(transformers.GPTJConfig(**SIZES)))
    model.save_pretrained(folder)
    return model, folder


def sentences() -> list[Tensor]:
    """Documents in our ids: `<cls>`, residues, `<eos>`."""
    generator = torch.Generator().manual_seed(2)
    middle = [torch.randint(4, 29, (max(0, n - 2),), generator=generator) for n in LENGTHS]
    return [torch.cat([torch.tensor([0]), m, torch.tensor([2])])[:n] for m, n in zip(middle, LENGTHS, strict=True)]


def model_of(folder: Path, **options: Any) -> ProGen2:
    shape, state, _ = read_progen2(folder)
    model = ProGen2(shape, causal=True, context=1024, **options)
    model.load_state_dict(state)
    return model


@torch.no_grad()
def peer_logits(peer: Any, model: ProGen2) -> Tensor:
    """Of each document by itself, one after the other."""
    return torch.cat([peer(model.model_ids(sentence)[None]).logits[0] for sentence in sentences()])


@torch.no_grad()
def ours(model: ProGen2) -> Tensor:
    return model(Documents.of(sentences()))


def error(folder: Path, peer: Any) -> float:
    model = model_of(folder)
    return (ours(model) - peer_logits(peer, model)).abs().max().item()


def fused(peer: Any, folder: Path, *, order: str = "qvk", groups: int = 8, model_type: str = "progen") -> Path:
    """The peer's weights in a folder as the original program writes it: one matrix, in groups of rows."""
    state = {}
    for name, tensor in peer.state_dict().items():
        if "q_proj" in name:
            parts = [peer.state_dict()[name.replace("q_proj", f"{letter}_proj")] for letter in order]
            rows = [part.view(groups, WIDTH // groups, WIDTH) for part in parts]
            state[name.replace("q_proj", "qkv_proj")] = torch.stack(rows, 1).reshape(3 * WIDTH, WIDTH)
        elif "k_proj" not in name and "v_proj" not in name:
            state[name] = tensor.clone()
    for layer in range(LAYERS):
        state[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.bool).tril()
        state[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e9)
    folder.mkdir()
    torch.save(state, folder / "pytorch_model.bin")
    architecture = {"progen": "ProGenForCausalLM", "codegen": "CodeGenForCausalLM"}[model_type]
    extra = {"architectures": [architecture], "model_type": model_type, "n_inner": None, "layer_norm_epsilon": 1e-5}
    (folder / "config.json").write_text(json.dumps(SIZES | extra))
    return folder


def rewritten(folder: Path, **changes: Any) -> None:
    """config.json with some keys changed, or taken out where the value is ..."""
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


def test_it_is_gptj(gptj: tuple[Any, Path]) -> None:
    peer, folder = gptj
    model = model_of(folder)
    assert ours(model).std() > 1
    assert error(folder, peer) <= 1e-5
    assert read_progen2(folder)[0] == SHAPE


def test_bfloat16_is_as_near_to_float32_as_the_peers(gptj: tuple[Any, Path]) -> None:
    peer, folder = gptj
    model = model_of(folder, dtype=torch.bfloat16)
    exact = peer_logits(peer, model)
    theirs = peer_logits(deepcopy(peer).bfloat16(), model).float()
    limit = (theirs - exact).square().mean().sqrt()
    mine = (ours(model) - exact).square().mean().sqrt()
    assert 0 < mine < 1.25 * limit, (mine, limit)


def test_the_original_layout(gptj: tuple[Any, Path], tmp_path: Path) -> None:
    peer, _ = gptj
    assert error(fused(peer, tmp_path / "right"), peer) <= 1e-5
    # Neither mistake raises: only the numbers show it.
    assert error(fused(peer, tmp_path / "order", order="qkv"), peer) > 1e-2
    assert error(fused(peer, tmp_path / "groups", groups=4), peer) > 1e-2
    assert error(fused(peer, tmp_path / "families", groups=8, model_type="codegen"), peer) > 1e-2


def test_the_layout_of_codegen(tmp_path: Path) -> None:
    peer = drawn(transformers.CodeGenForCausalLM(transformers.CodeGenConfig(tie_word_embeddings=False, **SIZES)))
    peer.save_pretrained(tmp_path)
    assert error(tmp_path, peer) <= 1e-5
    rewritten(tmp_path, model_type="progen", architectures=["ProGenForCausalLM"])
    assert error(tmp_path, peer) > 1e-2


def test_keys_of_ports_and_rows_nobody_uses(gptj: tuple[Any, Path], tmp_path: Path) -> None:
    peer, _ = gptj
    folder = fused(peer, tmp_path / "port")
    rewritten(folder, n_embd=..., embed_dim=WIDTH, vocab_size=..., vocab_size_emb=51_200, vocab_size_lm_head=51_200)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    for name in ("transformer.wte.weight", "lm_head.weight", "lm_head.bias"):
        state[name] = torch.cat([state[name], torch.ones(51_200 - 32, *state[name].shape[1:])])
    torch.save({name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()},
               folder / "pytorch_model.bin")  # fmt: skip
    shape, read, dead = read_progen2(folder)
    assert shape == SHAPE
    assert dead == (51_200 - 32) * (2 * WIDTH + 1)
    assert sum(tensor.numel() for tensor in read.values()) == SHAPE.N_total
    assert torch.equal(read["head"], peer.lm_head.weight.half().float())


@pytest.mark.filterwarnings("error")
def test_there_and_back(gptj: tuple[Any, Path], tmp_path: Path) -> None:
    peer, _ = gptj
    _, state, _ = read_progen2(fused(peer, tmp_path / "original"))
    save_gptj(state, SHAPE, tmp_path / "gptj", context=1024)
    loaded, report = transformers.GPTJForCausalLM.from_pretrained(tmp_path / "gptj", output_loading_info=True)
    assert not any(report.values()), report
    assert all(torch.equal(tensor, peer.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert loaded.config.rotary_dim == ROTARY
    shape, again, _ = read_progen2(tmp_path / "gptj")
    assert shape == SHAPE
    assert again.keys() == state.keys() == dict(ProGen2(SHAPE, causal=True, context=8).named_parameters()).keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_another_feed_forward_width_survives(tmp_path: Path) -> None:
    shape = SHAPE.model_copy(update={"d_ffn": 48})
    save_gptj(dict(ProGen2(shape, causal=True, context=8).named_parameters()), shape, tmp_path)
    assert read_progen2(tmp_path)[0] == shape
    assert transformers.GPTJForCausalLM.from_pretrained(tmp_path).num_parameters() == shape.N_total


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rotary_dim": ...}, "rotary_dim should be a whole number"),
        ({"rotary_dim": None}, "it is missing"),
        ({"n_layer": "2"}, "it is '2'"),
        ({"n_head": 7}, "7 heads do not divide"),
        ({"rotary_dim": 9}, "9 of 8 features"),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "does not settle"),
        ({"model_type": ..., "architectures": ...}, "does not settle"),
        ({"model_type": "codegen"}, "does not settle"),
        ({"model_type": {"a": 1}, "architectures": [[]]}, "does not settle"),
        ({"model_type": "gptj", "architectures": None}, "queries, keys and values are fused"),
        ({"layer_norm_epsilon": 1e-12}, "layer_norm_epsilon is 1e-12"),
        ({"activation_function": "relu"}, "ProGen2 has 'gelu_new'"),
        ({"n_head": 4}, "4 heads cannot be fused in 8 groups"),
        ({"n_layer": 3}, "transformer.h.2.ln_1.weight is missing"),
        ({"n_layer": 1}, "transformer.h.1.attn.out_proj.weight is no tensor"),
        ({"n_embd": 128}, "has shape (32, 64), not (32, 128)"),
        ({"n_inner": 100}, "mlp.fc_in.weight has shape (256, 64), not (100, 64)"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    gptj: tuple[Any, Path], tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    folder = fused(gptj[0], tmp_path / "folder")
    rewritten(folder, **changes)
    with pytest.raises(CheckpointError) as caught:
        read_progen2(folder)
    assert says in str(caught.value)
    assert str(folder) in str(caught.value)


def test_weights_that_do_not_fit_are_refused(gptj: tuple[Any, Path], tmp_path: Path) -> None:
    state = {name: tensor.contiguous() for name, tensor in gptj[0].state_dict().items()}
    config = (gptj[1] / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    for change, says in (
        ({"lm_head.bias": torch.zeros(40)}, "added by a fine-tuning"),
        ({"transformer.h.0.attn.k_proj.weight": torch.zeros(64, 8)}, "has shape (64, 8), not (64, 64)"),
        ({"transformer.wpe.weight": torch.zeros(2)}, "wpe.weight is no tensor of ProGen2"),
    ):
        save_file(state | change, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError) as caught:
            read_progen2(tmp_path)
        assert says in str(caught.value)


@pytest.mark.parametrize("name", [name for name in MODEL_SIZES if name.startswith("progen2")])
def test_named_sizes_count_as_gptj_does(name: str) -> None:
    shape = MODEL_SIZES[name]
    config = transformers.GPTJConfig(
        n_layer=shape.n_layers, n_embd=shape.d_model, n_head=shape.heads, rotary_dim=shape.turned, vocab_size=32
    )
    with torch.device("meta"):
        peer = transformers.GPTJForCausalLM(config)
    assert peer.num_parameters() == shape.N_total
