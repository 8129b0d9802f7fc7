"""What the parameters of `models.esm2.Esm2` are called in the checkpoints of fair-esm and of `transformers`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["FAIR_ESM", "HF", "Names"]


@dataclass(frozen=True)
class Names:
    """Names elsewhere; those without an ending stand for two tensors, .weight and .bias.

    Attributes
    ----------
    block : prefix of a block's tensors, with a place for its number.
    inside : our name -> theirs, within a block.
    query_key_value : the three that are one matrix here.
    outside : our name -> theirs, outside the blocks.
    """

    block: str
    inside: Mapping[str, str]
    query_key_value: tuple[str, str, str]
    outside: Mapping[str, str]

    def pairs(self, n_layers: int) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Our name of each tensor, and the tensors elsewhere that make it up."""
        for ours, theirs in self.outside.items():
            yield from _both(ours, (theirs,))
        for layer in range(n_layers):
            prefix = self.block.format(layer)
            for ours, theirs in self.inside.items():
                yield from _both(f"blocks.{layer}.{ours}", (prefix + theirs,))
            yield from _both(f"blocks.{layer}.qkv", tuple(prefix + name for name in self.query_key_value))


def _both(ours: str, theirs: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    if theirs[0].endswith((".weight", ".bias")):
        yield ours, theirs
        return
    yield ours, tuple(f"{name}.weight" for name in theirs)
    yield f"{ours}_bias", tuple(f"{name}.bias" for name in theirs)


FAIR_ESM: Final = Names(
    block="layers.{}.",
    inside={
        "attention_norm": "self_attn_layer_norm",
        "attention_out": "self_attn.out_proj",
        "mlp_norm": "final_layer_norm",
        "mlp_in": "fc1",
        "mlp_out": "fc2",
    },
    query_key_value=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    outside={
        "embedding": "embed_tokens.weight",
        "final_norm": "emb_layer_norm_after",
        "head_dense": "lm_head.dense",
        "head_norm": "lm_head.layer_norm",
        "head_bias": "lm_head.bias",
        "contact_weight": "contact_head.regression.weight",
        "contact_bias": "contact_head.regression.bias",
    },
)
HF: Final = Names(
    block="esm.encoder.layer.{}.",
    inside={
        "attention_norm": "attention.LayerNorm",
        "attention_out": "attention.output.dense",
        "mlp_norm": "LayerNorm",
        "mlp_in": "intermediate.dense",
        "mlp_out": "output.dense",
    },
    query_key_value=("attention.self.query", "attention.self.key", "attention.self.value"),
    outside={
        "embedding": "esm.embeddings.word_embeddings.weight",
        "final_norm": "esm.encoder.emb_layer_norm_after",
        "head_dense": "lm_head.dense",
        "head_norm": "lm_head.layer_norm",
        "head_bias": "lm_head.bias",
        "contact_weight": "esm.contact_head.regression.weight",
        "contact_bias": "esm.contact_head.regression.bias",
    },
)
