"""Models of others with generated weights, to compare ours with. No published weights are used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import esm
import pytest
import torch

from plm_scaling.core.alphabet import CLS, EOS, MASK, PAD
from plm_scaling.models.esm2 import Esm2
from plm_scaling.models.esm2_files import read_fair_esm
from plm_scaling.models.open_model import load_into

torch.set_num_threads(1)

MakeFairEsm = Callable[..., esm.ESM2]
MakeDocuments = Callable[..., list[torch.Tensor]]
TakeOver = Callable[..., Esm2]
Compare = Callable[..., float]


@pytest.fixture(scope="session")
def fair_esm() -> MakeFairEsm:
    """fair-esm's ESM2 with random weights, no two tensors alike, and logits of order 10."""

    def make(n_layers: int = 2, d_model: int = 24, n_heads: int = 3, seed: int = 0) -> esm.ESM2:
        model = esm.ESM2(num_layers=n_layers, embed_dim=d_model, attention_heads=n_heads, token_dropout=True)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if name == "embed_tokens.weight":
                    parameter.copy_(10.0 * noise / d_model**0.5)
                elif parameter.dim() == 2:
                    parameter.copy_(1.5 * noise / parameter.shape[1] ** 0.5)
                else:
                    parameter.copy_(0.2 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
        return model.eval()

    return make


@pytest.fixture(scope="session")
def masked_documents() -> MakeDocuments:
    """`<cls>`, residues, `<eos>`; a share of the residues replaced by `<mask>`, another one in each document."""

    def make(lengths: Sequence[int], seed: int = 0) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        documents = []
        for number, length in enumerate(lengths):
            tokens = torch.randint(4, 24, (length,), generator=generator)
            tokens[torch.rand(length, generator=generator) < 0.25 * (number % 3)] = MASK
            tokens[0], tokens[-1] = CLS, EOS
            documents.append(tokens)
        return documents

    return make


@pytest.fixture
def taken_over(tmp_path: Path) -> TakeOver:
    """Our model with the weights of a fair-esm model, through its file."""

    def take(peer: esm.ESM2, context: int, *, causal: bool = False) -> Esm2:
        torch.save(peer.state_dict(), tmp_path / "peer.pt")
        weights = read_fair_esm(tmp_path / "peer.pt")
        model = Esm2(weights.shape, causal=causal, context=context, token_dropout=weights.token_dropout)
        load_into(model, weights.state)
        return model

    return take


@pytest.fixture(scope="session")
def padded() -> Callable[[list[torch.Tensor]], torch.Tensor]:
    """Documents as rows of equal length."""
    return lambda documents: torch.nn.utils.rnn.pad_sequence(documents, batch_first=True, padding_value=PAD)


@pytest.fixture(scope="session")
def largest_difference() -> Compare:
    """Between logits of packed documents and those of padded rows, padding left out."""

    def compare(packed: torch.Tensor, rows: torch.Tensor, documents: list[torch.Tensor]) -> float:
        parts = packed.split([len(d) for d in documents])
        return max((part - row[: len(part)]).abs().max().item() for part, row in zip(parts, rows, strict=True))

    return compare
