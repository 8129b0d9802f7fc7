"""Models of transformers with other conventions than a token for a residue, on generated weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.errors import ConfigError, CorpusError, RefusedError
from plm_scaling.evals.adapters.base import Query
from plm_scaling.evals.adapters.hf_pieces import HfPieces
from plm_scaling.evals.adapters.opening import open_adapter
from plm_scaling.evals.held_out import held_out_losses
from plm_scaling.evals.library import judge_scores
from plm_scaling.evals.long_embeddings import embed_any_length
from plm_scaling.evals.scoring import score_variants
from plm_scaling.evals.variants import parse_variants

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
torch.set_num_threads(1)
RNG = np.random.default_rng(2)
LETTERS = "LAGV"
SEQUENCES = ["".join(RNG.choice(list(LETTERS), n)) for n in (40, 7, 23)]


def spread(model: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def gpt2(folder: Path, tokenizer: Any, **special: str) -> Path:
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    made.save_pretrained(folder)
    config = transformers.GPT2Config(vocab_size=len(made), n_embd=16, n_layer=2, n_head=2, n_positions=64)
    spread(transformers.GPT2LMHeadModel(config)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Byte pairs learnt from four letters, ends of lines among the bytes."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=70,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=[*STANDARD, "\u010a"],  # how byte-level encodings write the end of a line
        show_progress=False,
    )
    tokenizer.train_from_iterator(["".join(RNG.choice(list(LETTERS), 60)) for _ in range(50)], trainer)
    return gpt2(tmp_path_factory.mktemp("pieces"), tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>")


@pytest.fixture(scope="module")
def plain(pieces: Path) -> tuple[Any, Any]:
    load = transformers.GPT2LMHeadModel.from_pretrained
    return load(pieces).eval(), transformers.AutoTokenizer.from_pretrained(pieces)


@torch.no_grad()
def logprob(model: Any, ids: list[int], allowed: list[int] | None = None) -> float:
    """Ln p of ids[1:], over the allowed ids."""
    logits = model(torch.tensor([ids])).logits[0, :-1].double()
    if allowed is not None:
        logits[:, [k for k in range(logits.shape[1]) if k not in allowed]] = -torch.inf
    return float(logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None]).sum())


def test_pieces_give_totals_and_each_residue_the_state_of_its_token(pieces: Path, plain: tuple[Any, Any]) -> None:
    ours, (model, tokenizer) = open_adapter(f"hf:{pieces}", device="cpu"), plain
    assert isinstance(ours, HfPieces)
    assert ours.info.abilities == ("total", "embed")
    end, n = tokenizer.eos_token_id, len(tokenizer)
    residues = [k for k in range(n) if k != end and tokenizer.decode([k]) != "\n"]
    cut = [tokenizer(x)["input_ids"] for x in SEQUENCES]
    assert sum(map(len, cut)) < 0.7 * sum(map(len, SEQUENCES)), "tokens hold several residues"
    raw, tokens = ours.total_logprobs(SEQUENCES, letters="raw")
    np.testing.assert_allclose(raw, [logprob(model, [end, *ids, end]) for ids in cut], atol=1e-4)
    assert tokens == sum(map(len, cut)) + 3
    np.testing.assert_allclose(
        ours.total_logprobs(SEQUENCES)[0], [logprob(model, [end, *ids], residues) for ids in cut], atol=1e-4
    )
    whole, means = ours.embed(SEQUENCES, pool="none"), embed_any_length(ours, SEQUENCES)
    for sequence, ids, found, mean in zip(SEQUENCES, cut, whole, means, strict=True):
        with torch.no_grad():
            states = model(torch.tensor([[end, *ids]]), output_hidden_states=True).hidden_states[-1][0, 1:]
        held = [len(tokenizer.decode([k])) for k in ids]
        theirs = states.repeat_interleave(torch.tensor(held), dim=0).numpy()
        assert len(theirs) == len(sequence)
        np.testing.assert_allclose(found, theirs, atol=1e-4)
        np.testing.assert_allclose(mean, theirs.mean(0), atol=1e-4)
    with pytest.raises(RefusedError, match=r"tokens, .* reads up to 64"):
        ours.total_logprobs(["LAGVW" * 60])


def test_the_total_of_one_cut_is_a_lower_bound(pieces: Path, plain: tuple[Any, Any]) -> None:
    """Against all ways to spell a short sequence, listed."""
    ours, (model, tokenizer) = open_adapter(f"hf:{pieces}", device="cpu"), plain
    end, spelled = tokenizer.eos_token_id, {tokenizer.decode([k]): k for k in range(len(tokenizer))}

    def cuts(text: str) -> list[list[int]]:
        heads = [(spelled[text[:k]], text[k:]) for k in range(1, len(text) + 1) if text[:k] in spelled]
        return [[first, *rest] for first, left in heads for rest in (cuts(left) if left else [[]])]

    every = [logprob(model, [end, *ids, end]) for ids in cuts(SEQUENCES[1])]
    [total] = ours.total_logprobs(SEQUENCES[1:2], letters="raw")[0]
    assert len(every) > 3
    assert min(abs(total - one) for one in every) < 1e-4
    assert total < np.logaddexp.reduce(every) - 1e-6


def test_lines_are_written_as_they_were_trained_on(pieces: Path, plain: tuple[Any, Any]) -> None:
    ours, (model, tokenizer) = open_adapter(f"hf:{pieces}#lines9", device="cpu"), plain
    assert isinstance(ours, HfPieces)
    text = "\n".join(SEQUENCES[2][k : k + 9] for k in (0, 9, 18))
    end = tokenizer.eos_token_id
    theirs = logprob(model, [end, *tokenizer(text)["input_ids"], end])
    assert ours.total_logprobs(SEQUENCES[2:], letters="raw")[0][0] == pytest.approx(theirs, abs=1e-4)
    assert len(ours.embed(SEQUENCES[2:], pool="none")[0]) == 23


def test_what_rests_on_pieces_says_so_and_residues_are_refused(pieces: Path) -> None:
    ours = open_adapter(f"hf:{pieces}", device="cpu")
    wild = SEQUENCES[0]
    variants = parse_variants(wild, [f"{wild[3]}4W", f"{wild[5]}6del"])
    scores = score_variants(ours, wild, variants)
    totals = held_out_losses(ours, [wild, *(v.sequence for v in variants)])
    np.testing.assert_allclose(scores.values, totals.sums[0] - totals.sums[1:], atol=1e-5)
    assert totals.targets.tolist() == [40, 40, 39]
    assert "canonical tokens" in scores.protocol
    assert "canonical tokens" in totals.key
    assert "CANONICAL_TOKENS" in [alarm.code for alarm in judge_scores(ours, variants, scores).alarms]
    for asked in (
        lambda: ours.masked_logprobs([Query(wild, (1,), (1,))]),
        lambda: ours.residue_logprobs([wild]),
        lambda: ours.attentions(wild),
    ):
        with pytest.raises(RefusedError) as refusal:
            asked()
        assert "pieces of several residues" in refusal.value.why
    with pytest.raises(RefusedError, match="cannot fill masked sites"):
        score_variants(ours, wild, variants[:1], "wt_marginals")
    with pytest.raises(CorpusError):
        ours.embed(["LA-GV"])


def test_an_encoder_shows_activations_and_gives_no_likelihood(tmp_path: Path) -> None:
    """T5, spaces between residues, nothing ahead of them and its end behind."""
    words = {w: k for k, w in enumerate(["<pad>", "</s>", "<unk>", *STANDARD, "X"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    made.save_pretrained(tmp_path)
    config = transformers.T5Config(
        vocab_size=len(words), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    whole = spread(transformers.T5ForConditionalGeneration(config))
    whole.save_pretrained(tmp_path)
    ours = open_adapter(f"hf:{tmp_path}", device="cpu")
    assert ours.info.abilities == ("embed", "attend")
    for sequence, found in zip(SEQUENCES, ours.embed(SEQUENCES, pool="none"), strict=True):
        with torch.no_grad():
            states = whole.encoder(**made(" ".join(sequence), return_tensors="pt")).last_hidden_state[0, :-1]
        np.testing.assert_allclose(found, states.numpy(), atol=1e-4)
    for ask in (ours.residue_logprobs, lambda x: ours.masked_logprobs([Query(x[0], (0,), (0,))])):
        with pytest.raises(RefusedError, match="cannot"):
            ask(SEQUENCES)


@torch.no_grad()
def test_terminals_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    """1 ahead and 2 behind, as ProGen2's ports have them."""
    words = {w: k for k, w in enumerate(["<pad>", "1", "2", *STANDARD])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(words, []))
    ends = [("1", 1), ("2", 2)]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing("1 $A 2", special_tokens=ends)
    ours = open_adapter(f"hf:{gpt2(tmp_path, tokenizer, pad_token='<pad>')}", device="cpu")
    model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    ids = [1, *(3 + STANDARD.index(x) for x in SEQUENCES[1]), 2]
    [found] = ours.residue_logprobs(SEQUENCES[1:2], letters="raw")
    assert found.sum() == pytest.approx(logprob(model, ids), abs=1e-4)


@pytest.mark.parametrize("kind", ["rita", "progen", "gpt2"])
def test_code_that_comes_with_weights_is_never_run(pieces: Path, tmp_path: Path, kind: str) -> None:
    """Of a type that transformers does not have the model is refused; of one that it has, its own code is taken."""
    for file in pieces.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    ran = tmp_path / "ran"
    (tmp_path / "theirs.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Config: pass\nclass Model: pass\n")
    said = json.loads((pieces / "config.json").read_text()) | {"model_type": kind}
    said["auto_map"] = {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}
    (tmp_path / "config.json").write_text(json.dumps(said))
    if kind == "gpt2":
        assert open_adapter(f"hf:{tmp_path}", device="cpu").info.abilities == ("total", "embed")
    else:
        with pytest.raises(ConfigError, match=f"no model type '{kind}'") as refusal:
            open_adapter(f"hf:{tmp_path}")
        assert "never run" in refusal.value.why
        assert "progen2:PATH" in refusal.value.hint
    assert not ran.exists()
