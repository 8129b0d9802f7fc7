"""Attention of packed documents against the textbook formula. P positions, H heads, K width of a head."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from plm_scaling.models import attention
from plm_scaling.models.attention import attend, kernel_for
from plm_scaling.models.cpu_documents import attend_explicitly
from plm_scaling.models.documents import Documents

LENGTHS = (7, 1, 12, 30)


def inputs(lengths: tuple[int, ...], K: int = 8, H: int = 3, seed: int = 0) -> tuple[Tensor, Documents]:
    """float64[3, P, H, K] queries, keys, values, and their documents."""
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(sum(lengths), 3, H, K, dtype=torch.float64, generator=generator).transpose(0, 1)
    return qkv, Documents.of([torch.zeros(n) for n in lengths])


def by_formula(qkv: Tensor, documents: Documents, *, causal: bool, scale: float) -> Tensor:
    """One score matrix of all positions, other documents hidden."""
    q_PHK, k_PHK, v_PHK = qkv
    number_P = documents.number_P
    hidden_PP = number_P[:, None] != number_P[None]
    if causal:
        hidden_PP |= torch.ones_like(hidden_PP).triu(1)
    score_HPP = torch.einsum("phk,qhk->hpq", q_PHK, k_PHK) * scale
    return torch.einsum("hpq,qhk->phk", score_HPP.masked_fill(hidden_PP, -torch.inf).softmax(-1), v_PHK)


def explicitly(qkv: Tensor, documents: Documents, *, causal: bool, scale: float) -> Tensor:
    return attend_explicitly(*qkv.unbind(), documents.spans, causal=causal, scale=scale)


def chosen(qkv: Tensor, documents: Documents, *, causal: bool, scale: float) -> Tensor:
    return attend(*qkv.unbind(), documents, causal=causal, scale=scale)


WAYS = pytest.mark.parametrize("way", [explicitly, chosen], ids=["explicit", "chosen"])


@WAYS
@pytest.mark.parametrize("causal", [True, False])
@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5), seed=st.integers(0, 9), scale=st.floats(0.1, 2))
def test_values_and_gradients_are_those_of_the_formula(
    way: object, causal: bool, lengths: list[int], seed: int, scale: float
) -> None:
    qkv, documents = inputs(tuple(lengths), seed=seed)
    found = []
    for function in (way, by_formula):
        given_qkv = qkv.clone().requires_grad_()
        mixed = function(given_qkv, documents, causal=causal, scale=scale)  # type: ignore[operator]
        mixed.square().sum().backward()
        assert given_qkv.grad is not None
        found.append((mixed.detach(), given_qkv.grad))
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("causal", [True, False])
def test_explicit_gradients_are_slopes(causal: bool) -> None:
    qkv, documents = inputs((4, 1, 3), K=2, H=2)
    assert torch.autograd.gradcheck(
        lambda x: explicitly(x, documents, causal=causal, scale=0.7), qkv.clone().requires_grad_()
    )


@WAYS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_less_precise_inputs_give_less_precise_results(way: object, dtype: torch.dtype) -> None:
    qkv, documents = inputs(LENGTHS)
    exact = by_formula(qkv.to(dtype).double(), documents, causal=True, scale=0.3)
    mixed = way(qkv.to(dtype), documents, causal=True, scale=0.3)  # type: ignore[operator]
    assert mixed.dtype == dtype
    assert (mixed - exact).abs().max() < {torch.float32: 1e-6, torch.bfloat16: 3e-2}[dtype]


@WAYS
def test_recomputing_and_not_recording_change_nothing(way: object) -> None:
    qkv, documents = inputs(LENGTHS)
    gradients = []
    for recompute in (False, True):
        given_qkv = qkv.clone().requires_grad_()

        def mixed(x: Tensor) -> Tensor:
            return way(x, documents, causal=False, scale=0.3)  # type: ignore[no-any-return,operator]

        out = checkpoint(mixed, given_qkv, use_reentrant=False) if recompute else mixed(given_qkv)
        out.square().sum().backward()
        gradients.append(given_qkv.grad)
        with torch.no_grad():
            assert torch.equal(mixed(given_qkv), out)
    assert gradients[0] is not None
    assert torch.equal(gradients[0], gradients[1])


def test_scores_are_divided_by_the_root_of_the_width() -> None:
    qkv, documents = inputs(LENGTHS)
    q, k, v = qkv.unbind()
    expected = by_formula(qkv, documents, causal=False, scale=1 / math.sqrt(8))
    torch.testing.assert_close(attend(q, k, v, documents, causal=False), expected)


@pytest.fixture
def fresh_choice(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    attention._bf16_instructions.cache_clear()
    attention._has.cache_clear()
    yield monkeypatch
    attention._bf16_instructions.cache_clear()
    attention._has.cache_clear()


def test_the_kernel_on_a_cpu_follows_its_instructions(fresh_choice: pytest.MonkeyPatch) -> None:
    for instructions, half in ((True, "explicit"), (False, "fused_float32")):
        attention._bf16_instructions.cache_clear()
        fresh_choice.setattr(attention, "has_bf16", lambda found=instructions: found)
        assert kernel_for("cpu", torch.float32, 16, 1024) == "fused"
        assert kernel_for("cpu", torch.float64, 16, 4096) == "fused"
        assert kernel_for("cpu", torch.bfloat16, 16, 1024) == half
        assert kernel_for("cpu", torch.float16, 16, 1024) == "fused_float32"
    attention._bf16_instructions.cache_clear()
    fresh_choice.setattr(attention, "has_bf16", lambda: True)
    assert kernel_for("cpu", torch.bfloat16, 16, 1025) == "fused"


def test_the_kernel_on_a_gpu_follows_what_is_installed(fresh_choice: pytest.MonkeyPatch) -> None:
    installed: set[str] = set()
    fresh_choice.setattr(attention, "find_spec", lambda name: object() if name in installed else None)
    for names, kernel in (((), "flex"), (("flash_attn",), "flash_attn"), (("torch.nn.attention.varlen",), "varlen")):
        attention._has.cache_clear()
        installed.update(names)
        assert kernel_for("cuda", torch.bfloat16, 64, 1024) == kernel
    assert kernel_for("cuda", torch.float16, 16, 4096) == "varlen"
    assert kernel_for("cuda", torch.bfloat16, 20, 1024) == "flex"
    assert kernel_for("cuda", torch.float32, 64, 1024) == "flex"
    assert kernel_for("cuda", torch.float32, 8, 1024) == "fused"
    assert kernel_for("cuda", torch.float64, 64, 1024) == "fused"
    assert kernel_for("mps", torch.float32, 64, 1024) == "fused"


def test_a_missing_package_is_not_there() -> None:
    assert not attention._has("no_such_package.at_all")
    assert attention._has("torch.nn.attention.varlen") == (find_spec("torch.nn.attention.varlen") is not None)


@pytest.mark.parametrize("causal", [True, False])
def test_the_mask_of_the_one_kernel_shows_documents_to_themselves(causal: bool) -> None:
    _, documents = inputs((5, 3, 9))
    mask = attention._block_mask(documents, causal=causal)
    assert attention._block_mask(documents, causal=causal) is mask
    number_P = documents.number_P
    for query in range(17):
        for key in range(17):
            seen = mask.mask_mod(torch.tensor(0), torch.tensor(0), torch.tensor(query), torch.tensor(key))
            assert bool(seen) == (number_P[query] == number_P[key] and (key <= query or not causal))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_agrees_with_the_formula(causal: bool, dtype: torch.dtype) -> None:
    qkv, documents = inputs((60, 1, 120, 75), K=16)
    expected = by_formula(qkv, documents, causal=causal, scale=0.25)
    on_gpu = qkv.to("cuda", dtype).requires_grad_()
    mixed = chosen(on_gpu, documents.to(torch.device("cuda")), causal=causal, scale=0.25)
    assert (mixed.cpu() - expected).abs().max() < {torch.float32: 1e-2, torch.bfloat16: 5e-2}[dtype]
    mixed.float().sum().backward()
    assert on_gpu.grad is not None
    assert bool(on_gpu.grad.isfinite().all())
