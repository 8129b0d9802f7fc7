"""ProGen2's weights as other programs keep them, and the way back.

Three layouts hold one mathematics: queries, keys and values apart (GPT-J), or fused in 8 groups of rows (ProGen2) or
in 4 (CodeGen). Shapes: D width, V rows of the vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from plm_scaling.core.architecture import PROGEN2_VOCAB, ModelShape
from plm_scaling.core.errors import CheckpointError, ConfigError
from plm_scaling.core.files import write_atomic
from plm_scaling.models.plm import NORM_EPS
from plm_scaling.models.progen2 import PROGEN2_SYMBOLS
from plm_scaling.models.weight_files import as_float32, read_json, read_tensors

__all__ = ["BOTH_DIRECTIONS", "PADDED_VOCAB", "QKV_GROUPS", "ProGen2Weights", "read_progen2", "save_gptj"]

QKV_GROUPS: Final[Mapping[str, int | None]] = {"progen": 8, "codegen": 4, "gptj": None}
"""Groups of rows in which each `model_type` fuses queries, values and keys, in this order; None: it does not."""
PADDED_VOCAB: Final = 51_200
"""Rows of the vocabulary in the released progen2-large; those from 32 on belong to no symbol."""

_ARCHITECTURES: Final = {"ProGenForCausalLM": "progen", "CodeGenForCausalLM": "codegen", "GPTJForCausalLM": "gptj"}
_KEYS: Final = {
    "n_layers": ("n_layer", "num_hidden_layers"),
    "d_model": ("n_embd", "embed_dim", "hidden_size"),
    "n_heads": ("n_head", "num_attention_heads"),
    "rotary_dim": ("rotary_dim",),
}
"""Our field -> what configs call it."""
_ASSUMED: Final[Mapping[str, object]] = {
    "layer_norm_epsilon": NORM_EPS,
    "activation_function": "gelu_new",
    "tie_word_embeddings": False,
}
"""What a config may say of the mathematics, and the only value that is carried out."""
_TOP: Final = {
    "embedding": "transformer.wte.weight",
    "final_norm": "transformer.ln_f.weight",
    "final_norm_bias": "transformer.ln_f.bias",
    "head": "lm_head.weight",
    "head_bias": "lm_head.bias",
}
_BLOCK: Final = {
    "norm": "ln_1.weight",
    "norm_bias": "ln_1.bias",
    "attention_out": "attn.out_proj.weight",
    "mlp_in": "mlp.fc_in.weight",
    "mlp_in_bias": "mlp.fc_in.bias",
    "mlp_out": "mlp.fc_out.weight",
    "mlp_out_bias": "mlp.fc_out.bias",
}
_VOCABULARY: Final = ("transformer.wte.weight", "lm_head.weight", "lm_head.bias")
_APART: Final = ("attn.q_proj.weight", "attn.k_proj.weight", "attn.v_proj.weight")
_FUSED: Final = "attn.qkv_proj.weight"
BOTH_DIRECTIONS: Final = "both_directions"
"""Field of config.json that is false for a model of ours that was trained from one end; other programs write none."""
_BUFFERS: Final = (".attn.bias", ".attn.masked_bias", ".attn.embed_positions")
"""Causal mask and rotary table, which some writers keep with the weights."""


class ProGen2Weights(NamedTuple):
    """ProGen2 as tensors."""

    shape: ModelShape
    state: dict[str, Tensor]
    """Float32, by the names of `ProGen2`."""
    dead: int
    """Parameters of rows of the vocabulary that were left out."""


def read_progen2(folder: Path) -> ProGen2Weights:
    """A folder with config.json and the weights.

    Rows of the vocabulary beyond the first 32, which progen2-large has and no symbol reaches, are left out: the model
    normalises over 32.

    Raises
    ------
    CheckpointError : absent, damaged, of another mathematics, or a layout that config.json does not settle.
    """
    where = folder / "config.json"
    config = read_json(where)
    groups, shape = QKV_GROUPS[_family(config, where)], _shape(config, where)
    if groups is not None and shape.heads % groups:
        raise CheckpointError(f"{shape.heads} heads cannot be fused in {groups} groups", where=str(where))
    stored = {name: tensor for name, tensor in read_tensors(folder).items() if not name.endswith(_BUFFERS)}
    whole = as_float32(stored, str(folder))
    tensors = _without_padding(whole)
    dead = sum(whole[name].numel() - tensors[name].numel() for name in _VOCABULARY if name in whole)
    _check_fused(tensors, groups, folder)
    sizes, D = _sizes(shape), shape.d_model
    state = {ours: _take(tensors, theirs, sizes[ours], folder) for ours, theirs in _TOP.items()}
    for layer in range(shape.n_layers):
        mine, prefix = f"blocks.{layer}.", f"transformer.h.{layer}."
        for ours, theirs in _BLOCK.items():
            state[mine + ours] = _take(tensors, prefix + theirs, sizes[ours], folder)
        if groups is None:
            state[mine + "qkv"] = torch.cat([_take(tensors, prefix + name, (D, D), folder) for name in _APART])
        else:
            state[mine + "qkv"] = _unfused(_take(tensors, prefix + _FUSED, (3 * D, D), folder), groups)
    if tensors:
        odd = min(tensors)
        raise CheckpointError(f"{odd} is no tensor of ProGen2 with {shape.n_layers} layers", where=str(folder))
    return ProGen2Weights(shape, state, dead)


def save_gptj(
    state: Mapping[str, Tensor],
    shape: ModelShape,
    folder: Path,
    *,
    context: int = 1024,
    both_directions: bool = True,
) -> None:
    """Write config.json and model.safetensors that `GPTJForCausalLM.from_pretrained` loads.

    GPT-J is causal: a model trained to see both ways is another one there.

    Parameters
    ----------
    state : float32, by the names of `ProGen2`.
    context : positions that GPT-J's own rotary table is made for.
    both_directions : whether it was trained from either end, as ProGen2 was; where not, config.json says so in a field
        that `transformers` passes over.
    """
    theirs = {name: state[ours] for ours, name in _TOP.items()}
    for layer in range(shape.n_layers):
        mine, prefix = f"blocks.{layer}.", f"transformer.h.{layer}."
        theirs |= {prefix + name: state[mine + ours] for ours, name in _BLOCK.items()}
        theirs |= {prefix + name: part for name, part in zip(_APART, state[mine + "qkv"].chunk(3), strict=True)}
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in theirs.items()}
    config = {
        "architectures": ["GPTJForCausalLM"],
        "model_type": "gptj",
        "vocab_size": PROGEN2_VOCAB,
        "n_positions": context,
        "n_embd": shape.d_model,
        "n_layer": shape.n_layers,
        "n_head": shape.heads,
        "n_inner": shape.ffn,
        "rotary_dim": shape.turned,
        **_ASSUMED,
        "pad_token_id": PROGEN2_SYMBOLS.index("<|pad|>"),
        "bos_token_id": PROGEN2_SYMBOLS.index("<|bos|>"),
        "eos_token_id": PROGEN2_SYMBOLS.index("<|eos|>"),
        "torch_dtype": "float32",
        **({} if both_directions else {BOTH_DIRECTIONS: False}),
    }
    write_atomic(folder / "model.safetensors", safetensors.torch.save(tensors, metadata={"format": "pt"}))
    write_atomic(folder / "config.json", json.dumps(config, indent=1) + "\n")


def _family(config: Mapping[str, Any], where: Path) -> str:
    named = config.get("architectures")
    first = str(named[0]) if isinstance(named, list) and named else None
    said = (config.get("model_type"), _ARCHITECTURES.get(first, first) if first else None)
    families = {str(family) for family in said if family is not None}
    if len(families) == 1 and families <= set(QKV_GROUPS):
        return families.pop()
    raise CheckpointError(
        "config.json does not settle how queries, keys and values are laid out",
        where=str(where),
        why=f"model_type is {config.get('model_type')!r}, architectures {config.get('architectures')!r}",
        hint=f"model_type should be one of {', '.join(QKV_GROUPS)}: another layout loads, and predicts nonsense",
    )


def _shape(config: Mapping[str, Any], where: Path) -> ModelShape:
    fields = {ours: _number(config, names, where) for ours, names in _KEYS.items()}
    if config.get("n_inner") is not None and (wide := _number(config, ("n_inner",), where)) != 4 * fields["d_model"]:
        fields["d_ffn"] = wide
    for key, value in _ASSUMED.items():
        if config.get(key, value) != value:
            raise CheckpointError(f"{key} is {config[key]!r}", where=str(where), why=f"ProGen2 has {value!r}")
    try:
        return ModelShape.checked(architecture="progen2", **fields)
    except ConfigError as error:
        raise CheckpointError("no shape of ProGen2", where=str(where), why=error.what) from None


def _number(config: Mapping[str, Any], names: tuple[str, ...], where: Path) -> int:
    value = next((config[name] for name in names if config.get(name) is not None), None)
    if type(value) is not int:
        why = "it is missing" if value is None else f"it is {value!r}"
        raise CheckpointError(
            f"{' or '.join(names)} should be a whole number",
            where=str(where),
            why=why,
            hint="take the config.json of the model's release",
        )
    return value


def _sizes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """Sizes of the tensors by our name within a block or outside the blocks."""
    D, F, V = shape.d_model, shape.ffn, shape.vocab
    vectors = {name: (D,) for name in ("norm", "norm_bias", "final_norm", "final_norm_bias", "mlp_out_bias")}
    around = {"embedding": (V, D), "head": (V, D), "head_bias": (V,)}
    return {**vectors, **around, "attention_out": (D, D), "mlp_in": (F, D), "mlp_in_bias": (F,), "mlp_out": (D, F)}


def _without_padding(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    padded = {
        name: t for name in _VOCABULARY if (t := tensors.get(name)) is not None and t.shape[:1] == (PADDED_VOCAB,)
    }
    return tensors | {name: tensor[:PROGEN2_VOCAB].clone() for name, tensor in padded.items()}


def _check_fused(tensors: Mapping[str, Tensor], groups: int | None, folder: Path) -> None:
    if any(name.endswith(_FUSED) for name in tensors) == (groups is None):
        raise CheckpointError(
            "the weights are not laid out as config.json says",
            where=str(folder),
            why=f"queries, keys and values are {'fused' if groups is None else 'apart'}",
            hint="model_type should be progen for ProGen2's own files, codegen or gptj for ports",
        )


def _take(tensors: dict[str, Tensor], name: str, size: tuple[int, ...], folder: Path) -> Tensor:
    """Out of the dictionary, so that what is left over shows."""
    if name not in tensors:
        raise CheckpointError(
            f"{name} is missing", where=str(folder), why="config.json or the weights are of another model"
        )
    tensor = tensors.pop(name)
    if tensor.shape == size:
        return tensor
    more = "symbols added by a fine-tuning have no counterpart here" if name in _VOCABULARY else ""
    raise CheckpointError(
        f"{name} has shape {tuple(tensor.shape)}, not {size}", where=str(folder), why="config.json says so", hint=more
    )


def _unfused(fused: Tensor, groups: int) -> Tensor:
    """[q; k; v], float32[3 D, D], of rows fused in groups of q, v, k."""
    D = fused.shape[1]
    q, v, k = fused.view(groups, 3, D // groups, D).unbind(1)
    return torch.cat([q.reshape(D, D), k.reshape(D, D), v.reshape(D, D)])
