"""Contacts of residues from the attention maps of ESM-2.

Shapes: P positions of all documents, D width, H heads, K = D / H, T positions of one document, R its residues.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from plm_scaling.core.alphabet import CLS, EOS
from plm_scaling.core.errors import CheckpointError
from plm_scaling.models.documents import Documents
from plm_scaling.models.esm2 import Esm2, Esm2Block

__all__ = ["attention_map", "average_product_corrected", "contact_probabilities"]


@torch.no_grad()
def contact_probabilities(model: Esm2, documents: Documents) -> list[Tensor]:
    """Probability of a contact between any two residues, float32[R, R] of every document that is not empty.

    `<cls>` and `<eos>` are left out. The whole map of a head is held at once: memory grows with T^2 H.

    Raises
    ------
    CheckpointError : the model came without the regression.

    **Source:** Rao et al. 2021 (transformer protein language models are unsupervised structure learners): maps of all
    layers and heads, made symmetric, average product correction, logistic regression.
    """
    if model.contact_weight is None or model.contact_bias is None:
        raise CheckpointError(
            "this model has no contact regression",
            why="it was trained here, or its file came without one",
            hint="fair-esm keeps it in NAME-contact-regression.pt, which should lie beside NAME.pt",
        )
    weight_LH = model.contact_weight.view(model.shape.n_layers, model.shape.heads)
    kept = [_residues(documents.tokens_P[begin:end]) + begin for begin, end in documents.spans]
    logits = [model.contact_bias.new_zeros(len(k), len(k)) for k in kept]
    turn_PK = model.turn_TK[documents.position_P]
    x_PD = model.embedded(documents)
    for block, weight_H in zip(model.blocks, weight_LH, strict=True):
        assert isinstance(block, Esm2Block)
        q_PHK, k_PHK, _ = block.queries_keys_values(x_PD, turn_PK)
        for (begin, end), residues, logit_RR in zip(documents.spans, kept, logits, strict=True):
            map_HTT = attention_map(q_PHK[begin:end], k_PHK[begin:end], causal=model.causal)
            inside = residues - begin
            feature_HRR = average_product_corrected(map_HTT[:, inside[:, None], inside])
            logit_RR += torch.einsum("h,hij->ij", weight_H, feature_HRR)
        x_PD = block(x_PD, turn_PK, documents)
    return [torch.sigmoid(logit_RR + model.contact_bias) for logit_RR in logits]


def attention_map(q_THK: Tensor, k_THK: Tensor, *, causal: bool) -> Tensor:
    """Attention of one document, float32[H, T, T], rows summing to 1, whatever the dtype of the activations."""
    score_HTT = torch.einsum("qhk,thk->hqt", q_THK.float() / math.sqrt(q_THK.shape[-1]), k_THK.float())
    if causal:
        future = torch.ones(score_HTT.shape[1:], dtype=torch.bool, device=score_HTT.device).triu(1)
        score_HTT = score_HTT.masked_fill(future, -math.inf)
    return F.softmax(score_HTT, dim=-1)


def average_product_corrected(map_HRR: Tensor) -> Tensor:
    """Maps made symmetric, less what their row and column sums alone would give.

    **Source:** Dunn et al. 2008, equation 3, with sums for means: a_ij - a_i. a_.j / a_.. .
    """
    map_HRR = map_HRR + map_HRR.transpose(1, 2)
    sum_HR = map_HRR.sum(-1)
    expected_HRR = sum_HR[:, :, None] * sum_HR[:, None, :] / sum_HR.sum(-1)[:, None, None]
    return map_HRR - expected_HRR


def _residues(tokens_T: Tensor) -> Tensor:
    """Places of a document that are neither a `<cls>` at its begin nor an `<eos>` at its end."""
    first, last = int(tokens_T[0] == CLS), len(tokens_T) - int(tokens_T[-1] == EOS)
    return torch.arange(first, last, device=tokens_T.device)
