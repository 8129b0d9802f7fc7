"""ESM-2 as other programs keep it: fair-esm's checkpoints, and folders of `transformers`. Both ways, bit for bit.

Shapes: L layers, D width, H heads, V vocabulary.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from plm_scaling.core.alphabet import MASK, PAD, SYMBOLS, VOCAB_SIZE
from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import CheckpointError, ConfigError
from plm_scaling.core.files import write_atomic, writing_atomic
from plm_scaling.models.esm2 import Esm2
from plm_scaling.models.esm2_names import FAIR_ESM, HF, Names
from plm_scaling.models.plm import NORM_EPS
from plm_scaling.models.rotary import rotary_frequency
from plm_scaling.models.weight_files import as_float32, only_tensors, read_archive, read_json, read_tensors

__all__ = ["Esm2Weights", "read_fair_esm", "read_hf_esm2", "save_hf_esm2", "to_fair_esm_state"]


@dataclass(frozen=True)
class Esm2Weights:
    """ESM-2 as tensors.

    Attributes
    ----------
    shape : what decides its size.
    state : float32 tensors by the names of `models.esm2.Esm2`; contact_weight and contact_bias only where known.
    token_dropout : whether masked positions are dropped from the input.
    causal : whether a position sees only what is before it.
    """

    shape: ModelShape
    state: dict[str, Tensor]
    token_dropout: bool = True
    causal: bool = False

    @classmethod
    def of(cls, model: Esm2) -> Esm2Weights:
        """The weights of a model, on the CPU."""
        state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
        return cls(model.shape, state, model.token_dropout, model.causal)


_OPTIONAL: Final = ("contact_weight", "contact_bias")
_UNUSED: Final = re.compile(r"inv_freq|position_ids$|position_embeddings\.weight$|(^|\.)pooler\.")
"""Tensors that carry nothing: constants, and positions and poolers that rotary models do not use."""
_HF_CONFIG: Final[Mapping[str, tuple[Any, Any]]] = {
    "vocab_size": (VOCAB_SIZE, None),
    "pad_token_id": (PAD, None),
    "mask_token_id": (MASK, None),
    "hidden_act": ("gelu", "gelu"),
    "position_embedding_type": ("rotary", "absolute"),
    "rope_theta": (10_000.0, 10_000.0),
    "layer_norm_eps": (NORM_EPS, 1e-12),
    "emb_layer_norm_before": (False, False),
    "is_folding_model": (False, False),
    "add_cross_attention": (False, False),
}
"""What a config.json has to say for its weights to be ESM-2, and what `transformers` reads where it says nothing."""


def read_fair_esm(path: Path) -> Esm2Weights:
    """A checkpoint of fair-esm, with the contact regression if its file lies beside.

    A bare state dict of `esm.ESM2` is read too; the number of heads then follows from its rotary frequencies.

    Raises
    ------
    CheckpointError : damaged, another model, or of an unknown number of heads.
    """
    archive = read_archive(path, allowed=(argparse.Namespace,))
    whole = isinstance(archive, Mapping) and isinstance(archive.get("model"), Mapping)
    if whole and "cfg" not in archive:
        raise CheckpointError("not a checkpoint of ESM-2", where=str(path), why="it has no `cfg`; ESM-1 has `args`")
    stored = dict(only_tensors(archive["model"] if whole else archive, path))
    beside = path.with_name(f"{path.stem}-contact-regression.pt")
    if whole and beside.is_file():
        regression = read_archive(beside)
        stored |= only_tensors(regression.get("model") if isinstance(regression, Mapping) else None, beside)
    said = _said_by(archive["cfg"]) if whole else {}
    stored = {re.sub(r"^encoder\.(sentence_encoder\.)?", "", name): tensor for name, tensor in stored.items()}
    said.setdefault("heads", _heads_from(stored))
    return _converted(stored, FAIR_ESM, said, "lm_head.weight", str(path))


def read_hf_esm2(folder: Path) -> Esm2Weights:
    """A folder of `transformers`' EsmForMaskedLM: config.json beside .safetensors or .bin files.

    Raises
    ------
    CheckpointError : damaged, incomplete, or a model that is not ESM-2.
    """
    where = str(folder / "config.json")
    config = read_json(folder / "config.json")
    for key, (wanted, default) in _HF_CONFIG.items():
        found = default if config.get(key) is None else config[key]
        if found != wanted:
            raise CheckpointError(f"{key} is {found!r}, ESM-2 has {wanted!r}", where=where, hint="is this ESM-2?")
    vocabulary = folder / "vocab.txt"
    if vocabulary.is_file() and vocabulary.read_text(errors="replace").split() != list(SYMBOLS):
        raise CheckpointError("the vocabulary is not that of ESM-2, or in another order", where=str(vocabulary))
    stored = {}
    for name, tensor in read_tensors(folder).items():
        name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))
        stored[name if name.startswith(("esm.", "lm_head.")) else f"esm.{name}"] = tensor
    said = {
        "heads": config.get("num_attention_heads"),
        "layers": config.get("num_hidden_layers"),
        "width": config.get("hidden_size"),
        "feed-forward width": config.get("intermediate_size"),
        "token_dropout": bool(config.get("token_dropout")),
        "causal": bool(config.get("is_decoder")),
    }
    return _converted(stored, HF, said, "lm_head.decoder.weight", str(folder))


def to_fair_esm_state(weights: Esm2Weights) -> dict[str, Tensor]:
    """The state dict of `esm.ESM2`; without the contact regression where it is not known."""
    theirs = _renamed(weights, FAIR_ESM)
    for layer in range(weights.shape.n_layers):
        theirs[f"layers.{layer}.self_attn.rot_emb.inv_freq"] = rotary_frequency(weights.shape.head_dim)
    return theirs | {"lm_head.weight": theirs["embed_tokens.weight"]}


def save_hf_esm2(weights: Esm2Weights, folder: Path) -> Path:
    """Write a folder that `EsmForMaskedLM.from_pretrained` and `EsmTokenizer.from_pretrained` read; returns it.

    An unknown contact regression is written as zeros: every contact then has probability 1/2.
    """
    from safetensors.torch import save

    shape = weights.shape
    unknown = {"contact_weight": torch.zeros(1, shape.n_layers * shape.heads), "contact_bias": torch.zeros(1)}
    full = Esm2Weights(shape, unknown | weights.state)
    theirs = {name: tensor.clone() for name, tensor in _renamed(full, HF).items()}
    for layer in range(shape.n_layers):  # constants, but readers miss them
        name = HF.block.format(layer) + "attention.self.rotary_embeddings.inv_freq"
        theirs[name] = rotary_frequency(shape.head_dim)
    config = {key: wanted for key, (wanted, _) in _HF_CONFIG.items()} | {
        "architectures": ["EsmForMaskedLM"],
        "model_type": "esm",
        "num_hidden_layers": shape.n_layers,
        "hidden_size": shape.d_model,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.ffn,
        "token_dropout": weights.token_dropout,
        "is_decoder": weights.causal,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": 1026,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }
    with writing_atomic(folder / "model.safetensors") as handle:
        handle.write(save(theirs, metadata={"format": "pt"}))
    write_atomic(folder / "vocab.txt", "\n".join(SYMBOLS) + "\n")
    write_atomic(folder / "tokenizer_config.json", json.dumps({"tokenizer_class": "EsmTokenizer"}) + "\n")
    write_atomic(folder / "config.json", json.dumps(config, indent=2) + "\n")
    return folder


def _renamed(weights: Esm2Weights, names: Names) -> dict[str, Tensor]:
    theirs: dict[str, Tensor] = {}
    for ours, parts in names.pairs(weights.shape.n_layers):
        if ours in weights.state or ours not in _OPTIONAL:
            theirs |= dict(zip(parts, weights.state[ours].contiguous().chunk(len(parts)), strict=True))
    return theirs


def _said_by(cfg: Any) -> dict[str, Any]:
    """What a fair-esm checkpoint says about itself."""
    model = cfg.get("model") if isinstance(cfg, Mapping) else None
    values = vars(model) if isinstance(model, argparse.Namespace) else model if isinstance(model, Mapping) else {}
    known = {"encoder_layers": "layers", "encoder_embed_dim": "width", "encoder_attention_heads": "heads"}
    return {ours: values[key] for key, ours in (known | {"token_dropout": "token_dropout"}).items() if key in values}


def _heads_from(stored: Mapping[str, Tensor]) -> int | None:
    """Heads of a fair-esm state dict: a rotary frequency for every two features of a head."""
    embedding, frequency = (stored.get(n) for n in ("embed_tokens.weight", "layers.0.self_attn.rot_emb.inv_freq"))
    if embedding is None or frequency is None or embedding.dim() != 2 or not frequency.numel():
        return None
    return embedding.shape[1] // (2 * frequency.numel())


def _converted(stored: dict[str, Tensor], names: Names, said: dict[str, Any], tied: str, where: str) -> Esm2Weights:
    """Tensors under our names, checked against what the file says about itself (None where it says nothing)."""
    stored = as_float32({name: t for name, t in stored.items() if not _UNUSED.search(name)}, where)
    shape = _shape_of(stored, names, said, where)
    state = {}
    for ours, parts in names.pairs(shape.n_layers):
        if ours in _OPTIONAL and parts[0] not in stored:
            continue
        if missing := [name for name in parts if name not in stored]:
            raise CheckpointError(
                f"{missing[0]} is missing", where=where, hint="all layers and the language-model head are needed"
            )
        found = [stored.pop(name) for name in parts]
        if len(found) > 1 and any(t.shape[:1] != (shape.d_model,) or t.shape != found[0].shape for t in found):
            raise CheckpointError(f"{parts[0]} and its two companions do not fit together", where=where)
        state[ours] = torch.cat(found) if len(found) > 1 else found[0]
    if not torch.equal(stored.pop(tied, state["embedding"]), state["embedding"]):
        raise CheckpointError(f"{tied} is not the embedding, which ESM-2 uses for both", where=where)
    if stored:
        raise CheckpointError(f"{min(stored)} is no part of ESM-2", where=where, hint="is this another model?")
    if not any(bool(state[name].any()) for name in _OPTIONAL if name in state):
        state = {name: tensor for name, tensor in state.items() if name not in _OPTIONAL}
    return Esm2Weights(shape, state, bool(said.get("token_dropout", True)), bool(said.get("causal", False)))


def _shape_of(stored: Mapping[str, Tensor], names: Names, said: Mapping[str, Any], where: str) -> ModelShape:
    pattern = re.compile(re.escape(names.block).replace(r"\{\}", r"(\d+)"))
    numbers = {int(match[1]) for name in stored if (match := pattern.match(name))}
    embedding = stored.get(names.outside["embedding"])
    first = stored.get(names.block.format(0) + names.inside["mlp_in"] + ".weight")
    if embedding is None or embedding.dim() != 2 or first is None or first.dim() != 2:
        raise CheckpointError("no layers of ESM-2 here", where=where, why=f"the tensors are called {_some(stored)}")
    width, ffn = embedding.shape[1], first.shape[0]
    for what, found in (("layers", len(numbers)), ("width", width), ("feed-forward width", ffn)):
        if said.get(what) not in (None, found):
            raise CheckpointError(
                f"{found} {what} in the tensors, {said[what]} in the description",
                where=where,
                why="the weights and their description are of different models, or the weights are incomplete",
            )
    if type(said.get("heads")) is not int:
        raise CheckpointError(
            "the number of attention heads is not known",
            where=where,
            why="the file does not say it, and the tensors are the same whatever it is",
            hint="use the checkpoint as it was published, with its `cfg` or config.json",
        )
    try:
        return ModelShape.checked(
            architecture="esm2",
            n_layers=len(numbers),
            d_model=width,
            n_heads=said["heads"],
            d_ffn=None if ffn == 4 * width else ffn,
        )
    except ConfigError as error:
        raise CheckpointError("no shape of ESM-2", where=where, why=error.what) from None


def _some(stored: Mapping[str, Tensor]) -> str:
    return ", ".join(sorted(stored)[:3]) + (", ..." if len(stored) > 3 else "")
