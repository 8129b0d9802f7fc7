from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import esm
import pytest
import torch
from safetensors.torch import load_file, save_file

from plm_scaling.core.alphabet import SYMBOLS
from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import CheckpointError
from plm_scaling.models.documents import Documents
from plm_scaling.models.esm2 import Esm2
from plm_scaling.models.esm2_files import Esm2Weights, read_fair_esm, read_hf_esm2, save_hf_esm2, to_fair_esm_state
from plm_scaling.models.open_model import load_into

State = dict[str, torch.Tensor]


def write_checkpoint(peer: esm.ESM2, path: Path, **changes: Any) -> Path:
    """In the layout of the published files: prefixes, a Namespace, the regression in a file of its own."""
    said = {
        "encoder_layers": peer.num_layers,
        "encoder_embed_dim": peer.embed_dim,
        "encoder_attention_heads": peer.attention_heads,
        "token_dropout": True,
    }
    state: State = {}
    regression: State = {}
    for name, tensor in peer.state_dict().items():
        if name.startswith("contact_head."):
            regression[name] = tensor
        else:
            state["encoder." + ("" if name.startswith("lm_head.") else "sentence_encoder.") + name] = tensor
    torch.save({"cfg": {"model": argparse.Namespace(**(said | changes))}, "model": state}, path)
    torch.save({"model": regression}, path.with_name(f"{path.stem}-contact-regression.pt"))
    return path


@pytest.fixture
def hf_folder(fair_esm, tmp_path: Path) -> Path:
    weights = read_fair_esm(write_checkpoint(fair_esm(), tmp_path / "made.pt"))
    return save_hf_esm2(weights, tmp_path / "hf")


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))


def change_tensors(folder: Path, change: Callable[[State], State]) -> None:
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_checkpoint_goes_round_and_comes_back_bit_for_bit(fair_esm, tmp_path: Path) -> None:
    peer = fair_esm(2, 24, 3)
    first = read_fair_esm(write_checkpoint(peer, tmp_path / "made.pt"))
    assert first.shape == ModelShape(architecture="esm2", n_layers=2, d_model=24, n_heads=3)
    model = Esm2(first.shape, causal=False, context=8)
    load_into(model, first.state)
    second = read_hf_esm2(save_hf_esm2(Esm2Weights.of(model), tmp_path / "hf"))
    assert (second.shape, second.token_dropout, second.causal) == (first.shape, True, False)
    assert same(first.state, second.state)
    back = to_fair_esm_state(second)
    assert same(back, peer.state_dict())
    esm.ESM2(num_layers=2, embed_dim=24, attention_heads=3).load_state_dict(back, strict=True)


def test_fair_esm_reads_the_file_our_tests_make(fair_esm, tmp_path: Path) -> None:
    write_checkpoint(fair_esm(), tmp_path / "esm2_made.pt")
    with torch.serialization.safe_globals([argparse.Namespace]):
        theirs, _ = esm.pretrained.load_model_and_alphabet_local(str(tmp_path / "esm2_made.pt"))
    assert same(theirs.state_dict(), to_fair_esm_state(read_fair_esm(tmp_path / "esm2_made.pt")))


def test_without_its_companion_a_checkpoint_has_no_contacts(fair_esm, tmp_path: Path) -> None:
    path = write_checkpoint(fair_esm(), tmp_path / "made.pt", token_dropout=False)
    (tmp_path / "made-contact-regression.pt").unlink()
    weights = read_fair_esm(path)
    assert not weights.token_dropout
    assert "contact_weight" not in weights.state
    assert "contact_head.regression.weight" not in to_fair_esm_state(weights)
    folder = save_hf_esm2(weights, tmp_path / "hf")
    assert not load_file(folder / "model.safetensors")["esm.contact_head.regression.weight"].any()
    assert same(read_hf_esm2(folder).state, weights.state)


def test_half_precision_is_read_exactly(fair_esm, tmp_path: Path) -> None:
    peer = fair_esm()
    torch.save({name: tensor.half() for name, tensor in peer.state_dict().items()}, tmp_path / "half.pt")
    state = to_fair_esm_state(read_fair_esm(tmp_path / "half.pt"))
    assert all(t.dtype == torch.float32 for t in state.values())
    assert torch.equal(state["layers.1.fc1.weight"], peer.layers[1].fc1.weight.half().float())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_layers": 3}, "2 layers in the tensors, 3 in the description"),
        ({"encoder_embed_dim": 25}, "24 width in the tensors"),
        ({"encoder_attention_heads": 5}, "no shape of ESM-2"),
        ({"encoder_attention_heads": "3"}, "number of attention heads is not known"),
    ],
)
def test_checkpoints_at_odds_with_their_description_are_refused(changes, message, fair_esm, tmp_path: Path) -> None:
    path = write_checkpoint(fair_esm(), tmp_path / "made.pt", **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_fair_esm(path)
    assert caught.value.where == str(path)


def without(name: str) -> Callable[[State], State]:
    return lambda state: {key: tensor for key, tensor in state.items() if name not in key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("inv_freq"), "number of attention heads is not known"),
        (without("layers.1.fc2.weight"), "layers.1.fc2.weight is missing"),
        (without("layers.0"), "no layers of ESM-2"),
        (lambda s: s | {"embed_positions.weight": torch.ones(3)}, "embed_positions.weight is no part of ESM-2"),
        (lambda s: s | {"lm_head.weight": torch.ones(33, 24)}, "not the embedding"),
        (lambda s: s | {"layers.1.self_attn.k_proj.weight": torch.ones(5, 24)}, "do not fit together"),
        (lambda s: s | {"layers.1.fc1.bias": torch.ones(96).long()}, "fc1.bias is stored as int64"),
        (lambda s: {"args": s, "model": s}, "not a checkpoint of ESM-2"),
    ],
)
def test_state_dicts_that_are_not_esm2_are_refused(change, message, fair_esm, tmp_path: Path) -> None:
    torch.save(change(fair_esm().state_dict()), tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=message):
        read_fair_esm(tmp_path / "odd.pt")


def old_names(state: State) -> State:
    """As older writers of the same folder call things, with what they stored besides."""
    old = {}
    for name, tensor in state.items():
        if "LayerNorm" in name:
            name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
        old[name] = tensor
    inside = "esm.encoder.layer.{}.attention.self.rotary_embeddings.inv_freq"
    extra = [inside.format(layer) for layer in ("0", "1", "*")] + ["esm.rotary_embeddings.inv_freq"]
    extra += ["esm.embeddings.position_embeddings.weight", "esm.pooler.dense.weight"]
    old |= {name: torch.ones(4) for name in extra}
    old["esm.embeddings.position_ids"] = torch.arange(6)[None]
    return old | {"lm_head.decoder.weight": state["esm.embeddings.word_embeddings.weight"].clone()}


@pytest.mark.parametrize("as_pickle", [True, False])
def test_folders_of_older_writers_are_read(as_pickle: bool, hf_folder: Path) -> None:
    before = read_hf_esm2(hf_folder)
    change_tensors(hf_folder, old_names)
    if as_pickle:
        torch.save(load_file(hf_folder / "model.safetensors"), hf_folder / "pytorch_model.bin")
        (hf_folder / "model.safetensors").unlink()
    assert same(read_hf_esm2(hf_folder).state, before.state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_norm_eps": 1e-12}, "layer_norm_eps is 1e-12, ESM-2 has 1e-05"),
        ({"layer_norm_eps": "absent"}, "layer_norm_eps is 1e-12"),
        ({"position_embedding_type": "absent"}, "position_embedding_type is 'absolute'"),
        ({"vocab_size": 35}, "vocab_size is 35"),
        ({"emb_layer_norm_before": True}, "emb_layer_norm_before is True"),
        ({"num_hidden_layers": 4}, "2 layers in the tensors, 4 in the description"),
        ({"intermediate_size": 97}, "96 feed-forward width"),
        ({"num_attention_heads": "absent"}, "number of attention heads is not known"),
    ],
)
def test_folders_that_are_not_esm2_are_refused(changes, message, hf_folder: Path) -> None:
    change_config(hf_folder, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_hf_esm2(hf_folder)
    assert str(hf_folder) in caught.value.where


def test_a_folder_without_the_head_or_in_another_alphabet_is_refused(hf_folder: Path) -> None:
    change_tensors(hf_folder, without("lm_head"))
    with pytest.raises(CheckpointError, match=r"lm_head.dense.weight is missing"):
        read_hf_esm2(hf_folder)
    (hf_folder / "vocab.txt").write_text("\n".join(sorted(SYMBOLS)))
    with pytest.raises(CheckpointError, match="vocabulary"):
        read_hf_esm2(hf_folder)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(
    ("size", "lengths", "causal"),
    [((2, 24, 3), (9, 40, 2, 23), False), ((2, 24, 3), (9, 40), True), ((6, 320, 20), (130, 12), False)],
    ids=["small", "causal", "6x320x20"],
)
def test_transformers_reads_our_folder_and_gives_our_logits(
    size, lengths, causal, fair_esm, taken_over, masked_documents, padded, largest_difference, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    documents = masked_documents(lengths)
    model = taken_over(fair_esm(*size), context=max(lengths), causal=causal)
    folder = save_hf_esm2(Esm2Weights.of(model), tmp_path / "hf")
    theirs, info = transformers.EsmForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    rows = padded(documents)
    seen = (rows != 1).long()
    logits = theirs.eval()(input_ids=rows, attention_mask=seen).logits
    assert largest_difference(model(Documents.of(documents)), logits, documents) < 1e-4

    theirs.save_pretrained(tmp_path / "again")
    back = read_hf_esm2(tmp_path / "again")
    assert back.causal == causal
    assert same(back.state, Esm2Weights.of(model).state)


@pytest.mark.slow
def test_transformers_reads_our_alphabet(hf_folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(hf_folder)
    assert tokenizer("MA<mask>L")["input_ids"] == [
        SYMBOLS.index(s) for s in ("<cls>", "M", "A", "<mask>", "L", "<eos>")
    ]
