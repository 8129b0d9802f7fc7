"""Adapters of our models: others' programs on the same generated weights, brute force, company and order."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import esm
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.alphabet import CLS, EOS, STANDARD, SYMBOLS, encode
from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import CheckpointError, ConfigError, CorpusError, RefusedError
from plm_scaling.core.run import RunConfig, RunRecord
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder
from plm_scaling.evals.adapters.base import Query
from plm_scaling.evals.adapters.own import OwnModel
from plm_scaling.evals.adapters.own_models import open_own, random_control, random_weights
from plm_scaling.evals.adapters.published import published_tokens
from plm_scaling.evals.sampling import sample_sequences
from plm_scaling.models.build import build_model
from plm_scaling.models.documents import Documents
from plm_scaling.models.esm2 import Esm2
from plm_scaling.models.esm2_files import Esm2Weights, save_hf_esm2, to_fair_esm_state
from plm_scaling.models.export import export_model
from plm_scaling.models.progen2_files import save_gptj
from plm_scaling.training.checkpoint import save_weights

torch.set_num_threads(1)
SHAPES = {
    "plm": ModelShape(n_layers=2, d_model=24),
    "esm2": ModelShape(architecture="esm2", n_layers=2, d_model=24, n_heads=3),
    "progen2": ModelShape(architecture="progen2", n_layers=2, d_model=32, n_heads=4, rotary_dim=4),
}
RNG = np.random.default_rng(7)
SEQUENCES = ["".join(RNG.choice(list(STANDARD), n)) for n in (31, 5, 18, 1)]


def rough(model: torch.nn.Module) -> torch.nn.Module:
    """Weights far from their start: answers far from uniform, and every part of the mathematics shows."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 1.2 / parameter.shape[-1] ** 0.5 if parameter.dim() == 2 else 0.2
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def adapter(architecture: str, objective: str, **options) -> OwnModel:
    made = random_weights(SHAPES[architecture], objective=objective, context=200, device="cpu")
    return OwnModel(rough(made.model), made.info, device="cpu", **options)


PLAIN = adapter("progen2", "clm", share_beginnings=False)
SHARED = adapter("progen2", "clm")


@pytest.fixture(scope="module")
def esm2_files(tmp_path_factory) -> Path:
    """Generated ESM-2 weights as a folder of transformers and as a checkpoint of fair-esm."""
    folder = tmp_path_factory.mktemp("esm2")
    model = rough(build_model(SHAPES["esm2"], causal=False, context=64))
    assert isinstance(model, Esm2)
    model.set_contact_regression(torch.zeros(1, 6), torch.zeros(1))
    weights = Esm2Weights.of(model)
    save_hf_esm2(weights, folder / "hf")
    torch.save(to_fair_esm_state(weights), folder / "generated.pt")
    return folder


@pytest.fixture(scope="module")
def fair_esm(esm2_files: Path) -> esm.ESM2:
    peer = esm.ESM2(num_layers=2, embed_dim=24, attention_heads=3, token_dropout=True)
    state = torch.load(esm2_files / "generated.pt", weights_only=True)
    peer.load_state_dict(state | {k: v for k, v in peer.state_dict().items() if k not in state})
    return peer.eval()


def shown(query: Query) -> torch.Tensor:
    """The query in fair-esm's and our ids alike, [1, T]."""
    ids = [SYMBOLS.index(letter) for letter in query.sequence]
    for site in query.masked:
        ids[site] = SYMBOLS.index("<mask>")
    return torch.tensor([[0, *ids, 2]])


QUERIES = [
    Query(SEQUENCES[0], (3, 30), (30, 3, 0)),
    Query(SEQUENCES[2], (), (5,)),
    Query(SEQUENCES[0], (30, 3), (7,)),
    Query(SEQUENCES[1], (0,), ()),
    Query(SEQUENCES[3], (0,), (0,)),
]


@torch.no_grad()
def test_fair_esm_on_the_same_weights_gives_the_same_answers(esm2_files: Path, fair_esm: esm.ESM2) -> None:
    for ours in (open_own(esm2_files / "generated.pt", device="cpu"), open_own(esm2_files / "hf", device="cpu")):
        answers = {letters: ours.masked_logprobs(QUERIES, letters=letters) for letters in ("20", "raw")}
        for number, query in enumerate(QUERIES):
            logits = fair_esm(shown(query))["logits"][0, 1:-1].double()[list(query.read)]
            for letters, columns in (("20", logits[:, 4:24]), ("raw", logits)):
                theirs = columns.log_softmax(-1).numpy()
                np.testing.assert_allclose(answers[letters][number], theirs, atol=1e-4)
        assert np.std(answers["20"][0]) > 0.5
        assert ours.tokens_processed == 2 * (33 + 20 + 7 + 3), "equal queries are computed once"
    for layer in (0, 1, 2, -1):
        theirs = fair_esm(shown(Query(SEQUENCES[0])), repr_layers=[layer % 3])["representations"][layer % 3][0, 1:-1]
        [each], [mean] = (ours.embed([SEQUENCES[0]], layer=layer, pool=pool) for pool in ("none", "mean"))
        np.testing.assert_allclose(each, theirs.numpy(), atol=1e-4)
        np.testing.assert_allclose(mean, theirs.mean(0).numpy(), atol=1e-4)
    maps = fair_esm(shown(Query(SEQUENCES[0])), need_head_weights=True)["attentions"][0, :, :, 1:-1, 1:-1]
    np.testing.assert_allclose(ours.attentions(SEQUENCES[0]), maps.flatten(0, 1).numpy(), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("architecture", "direction"), [("plm", "forward"), ("progen2", "forward"),
                                                         ("progen2", "reverse")])  # fmt: skip
def test_likelihoods_are_read_off_the_logits_of_whole_documents(architecture: str, direction: str) -> None:
    ours = adapter(architecture, "clm")
    sequences = [*SEQUENCES, SEQUENCES[0][:20] + "XW"]
    answers = {x: ours.residue_logprobs(sequences, direction=direction, letters=x) for x in ("20", "raw")}
    for number, sequence in enumerate(sequences):
        ids = torch.tensor([0, *map(int, encode(sequence)), 2])
        ids = ids.flip(0) if direction == "reverse" else ids
        logits = ours.model(Documents.of([ids]))[:-1].double()
        target = ours.model.model_ids(ids[1:, None])
        raw = logits.log_softmax(-1).gather(1, target)[:, 0].numpy()
        assert "".join(ours.info.symbols[i] for i in target[:-1, 0]) == "".join(SYMBOLS[i] for i in ids[1:-1])
        among_20 = logits[:, ours.model.model_ids(torch.arange(4, 24))].log_softmax(-1).numpy()[:-1]
        letters = sequence if direction == "forward" else sequence[::-1]
        twenty = np.array([p[STANDARD.index(x)] if x in STANDARD else np.nan
                           for p, x in zip(among_20, letters, strict=True)])  # fmt: skip
        if direction == "reverse":
            raw, twenty = np.append(raw[:-1][::-1], raw[-1]), twenty[::-1]
        np.testing.assert_allclose(answers["raw"][number], raw, atol=1e-5)
        np.testing.assert_allclose(answers["20"][number], twenty, atol=1e-5)
    assert np.isnan(answers["20"][-1]).sum() == 1


@settings(max_examples=25, deadline=None)
@given(
    stems=st.lists(st.text(alphabet="ACD", min_size=17, max_size=40), min_size=1, max_size=3),
    tails=st.lists(st.tuples(st.integers(0, 2), st.text(alphabet="AC", max_size=12)), min_size=1, max_size=12),
    budget=st.sampled_from([1, 30, 90, 10_000]),
    letters=st.sampled_from(["20", "raw"]),
    direction=st.sampled_from(["forward", "reverse"]),
)
def test_shared_beginnings_change_no_likelihood(stems, tails, budget, letters, direction) -> None:
    """A trie of any shape, cut into batches anywhere: duplicates, beginnings of one another, indels."""
    sequences = [stems[stem % len(stems)] + tail for stem, tail in tails]
    if direction == "reverse":
        sequences = [sequence[::-1] for sequence in sequences]
    plain, shared = PLAIN, SHARED
    plain.tokens_processed, shared.tokens_processed, shared.batch_positions = 0, 0, budget
    ours = shared.residue_logprobs(sequences, letters=letters, direction=direction)
    wanted = plain.residue_logprobs(sequences, letters=letters, direction=direction)
    for x, y in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5, rtol=0)
    beginnings = {(s[::-1] if direction == "reverse" else s)[: n + (letters == "raw")]
                  for s in sequences for n in range(len(s))}  # fmt: skip
    assert len(beginnings) <= shared.tokens_processed <= plain.tokens_processed


@pytest.mark.parametrize("architecture", ["plm", "esm2", "progen2"])
def test_a_library_costs_its_distinct_beginnings(architecture: str) -> None:
    """20 variants of one site and their singles: each distinct beginning goes through the model exactly once."""
    wild = "".join(RNG.choice(list(STANDARD), 60))
    library = [wild[:40] + a + wild[41:] for a in STANDARD] + [wild[:50] + a + wild[51:] for a in STANDARD]
    shared = adapter(architecture, "clm", batch_positions=64)
    plain = adapter(architecture, "clm", share_beginnings=False)
    for x, y in zip(shared.residue_logprobs(library), plain.residue_logprobs(library), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5, rtol=0)
    assert plain.tokens_processed == 39 * 60
    assert shared.tokens_processed == len({v[:n] for v in library for n in range(60)})


@settings(max_examples=20, deadline=None)
@given(
    calls=st.lists(st.lists(st.text(alphabet="AC", max_size=6), min_size=0, max_size=6), min_size=1, max_size=5),
    budget=st.sampled_from([1, 5, 1000]),
    largest=st.sampled_from([0, 20, 1000]),
)
def test_what_is_remembered_of_prefixes_changes_no_continuation(calls, budget, largest) -> None:
    """Whatever was asked before, grown or not, kept or too large to be kept."""
    remembers = OwnModel(SHARED.model, SHARED.info, device="cpu", batch_positions=budget)
    remembers._growing.largest_bytes = largest * 2 * 2 * 32 * 4  # so many positions
    columns = [PLAIN.info.symbols.index(x) for x in (*STANDARD, "2")]
    for prefixes in calls:
        for prefix, found in zip(prefixes, remembers.next_logprobs(prefixes), strict=True):
            tokens = torch.tensor([0, *(SYMBOLS.index(x) for x in prefix)])
            logits = PLAIN.model(Documents.of([tokens]))[-1, columns].double().numpy()
            logits[-1] = logits[-1] if prefix else -np.inf
            np.testing.assert_allclose(found, logits - np.logaddexp.reduce(logits), atol=1e-5)


@pytest.mark.parametrize("architecture", ["plm", "esm2", "progen2"])
def test_drawing_costs_one_token_a_residue(architecture: str) -> None:
    ours = adapter(architecture, "clm", batch_positions=40)
    longest = 30
    drawn = sample_sequences(ours, 6, longest=longest, prompt="MKVLA", seed=2)
    assert len({one.sequence for one in drawn}) > 1
    assert ours.tokens_processed <= 6 + 6 * (longest - 5)
    plain = adapter(architecture, "clm")
    forgetful = SimpleNamespace(info=plain.info, residue_logprobs=plain.residue_logprobs)
    asked = sample_sequences(forgetful, 6, longest=longest, prompt="MKVLA", seed=2)
    assert [one.sequence for one in drawn] == [one.sequence for one in asked]
    for one in drawn:
        [logp] = plain.residue_logprobs([one.sequence], letters="raw")
        assert one.logp >= logp[5 : None if one.ended else -1].sum() - 1e-4, "less is normalised over"


@pytest.mark.parametrize("architecture", ["plm", "esm2", "progen2"])
@pytest.mark.parametrize("objective", ["clm", "mlm"])
def test_company_and_order_change_nothing(architecture: str, objective: str) -> None:
    ours, lone = adapter(architecture, objective), adapter(architecture, objective, batch_positions=1)
    for pool in ("mean", "none"):
        many = ours.embed(SEQUENCES, pool=pool)
        for sequence, found in zip(SEQUENCES, many, strict=True):
            np.testing.assert_allclose(found, lone.embed([sequence], pool=pool)[0], atol=1e-4)
    ask = (lambda m, q: m.masked_logprobs(q)) if objective == "mlm" else (
        lambda m, q: m.residue_logprobs([x.sequence for x in q]))  # fmt: skip
    for query, found, turned in zip(QUERIES, ask(ours, QUERIES), ask(lone, QUERIES[::-1])[::-1], strict=True):
        np.testing.assert_allclose(found, turned, atol=1e-4)
        np.testing.assert_allclose(found, ask(lone, [query])[0], atol=1e-4)
    maps = ours.attentions(SEQUENCES[2])
    assert maps.shape == (2 * ours.model.shape.heads, 18, 18)
    assert bool(np.triu(maps, 1).any()) == (objective == "mlm")


def test_what_a_model_was_not_trained_for_is_refused() -> None:
    clm, mlm = adapter("plm", "clm"), adapter("esm2", "mlm")
    with pytest.raises(RefusedError, match="cannot fill masked sites"):
        clm.masked_logprobs(QUERIES)
    with pytest.raises(RefusedError, match="cannot give a sequence a likelihood from the right"):
        clm.residue_logprobs(SEQUENCES, direction="reverse")
    with pytest.raises(RefusedError, match="cannot give a sequence a likelihood from the left"):
        mlm.residue_logprobs(SEQUENCES)
    with pytest.raises(RefusedError, match=r"199 residues, .* reads up to 198") as refusal:
        mlm.embed(["A" * 199])
    assert "windows" in refusal.value.hint
    with pytest.raises(CorpusError, match=r"'\*' is not a residue letter, at residue 2 of 3"):
        mlm.embed(["A*C"])
    with pytest.raises(ConfigError, match="no layer 3"):
        mlm.embed(SEQUENCES, layer=3)


def test_what_is_said_of_a_model(esm2_files: Path, tmp_path: Path) -> None:
    ours = open_own(esm2_files / "hf", device="cpu")
    shape = SHAPES["esm2"]
    assert ours.info.abilities == ("masked", "embed", "attend")
    assert (ours.info.N, ours.info.N_total, ours.info.D, ours.info.C) == (shape.N, shape.N_total, None, None)
    assert ours.info.flops_per_token == 2 * (8 * 24**2 + 4 * 24 * 96) + 4 * 2 * 24 * 512 + shape.head_flops
    with pytest.raises(ConfigError, match=r"it has 7.5e\+06 parameters, these weights"):
        open_own(esm2_files / "hf", published_as="esm2_t6_8M_UR50D")
    control = random_control(ours, seed=1)
    assert control.info.abilities == ours.info.abilities
    assert control.info.D is None
    assert control.info.origin == "random weights, seed 1"
    assert control.info.sha256 not in ("", ours.info.sha256, random_control(ours, seed=2).info.sha256)
    assert control.info.sha256 == random_control(ours, seed=1).info.sha256
    progen2 = build_model(SHAPES["progen2"], causal=True, context=64)
    save_gptj(progen2.state_dict(), SHAPES["progen2"], tmp_path)
    assert open_own(tmp_path, device="cpu").info.abilities == ("causal", "reverse", "embed", "attend")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        open_own(tmp_path)


def written_run(folder: Path, **changes) -> tuple[RunFolder, RunConfig]:
    values = {
        **{"corpus_id": "c", "objective": "clm", "n_layers": 1, "d_model": 16, "context": 8, "D": 100, "seed": 1},
        **{"batch_tokens": 16, "peak_lr": 1e-3, "recipe": "small"},
    }
    config = RunConfig.model_validate(values | changes)
    run = RunFolder(folder / config.run_id)
    RunOrder(config=config, corpus="corpus").write(run.order_path)
    model = build_model(config.shape, causal=config.objective == "clm", context=8, seed=7)
    save_weights(run.weights_path, {name: p.detach() for name, p in model.named_parameters()}, config.run_id)
    return run, config


def test_a_run_says_what_it_was_trained_on(tmp_path: Path) -> None:
    """Of all its phases; of foreign weights, whose training is not known, nothing is said."""
    done = {"status": "complete", "steps": 7, "D_unique": 50, "ledger": (), "C_exact": 1e9, "device_s": 1.0}
    done |= {"tokens_per_s": 1.0, "attempts": 1, "threads": 1, "validation": ()}
    for start, source, D, N_source in ((None, {}, 112, None), ("a", {"D_source": 300, "N_source": 500}, 412, 500),
                                       ("sha256:" + "0" * 64, {}, None, None)):  # fmt: skip
        run, config = written_run(tmp_path, init_from=start, objective="mlm" if start else "clm")
        assert open_own(run.path, device="cpu").info.D is None, "it has no record yet"
        RunRecord(config=config, D=112, C_6nd=6.0 * config.N * 112, **done, **source).write(run.record_path)
        for path in (run.path, run.weights_path):
            info = open_own(path, device="cpu").info
            assert (info.family, info.name, info.context, info.D) == ("own", config.run_id, 8, D)
            spent = None if D is None else 6 * config.N * 112 + 6 * (N_source or 0) * (D - 112)
            assert spent == info.C
            assert info.abilities == (("masked" if start else "causal"), "embed", "attend")
    with pytest.raises(RefusedError, match=r"7 residues, [0-9a-f]+ reads up to 6"):
        open_own(run.path, device="cpu").embed(["MKVLAAA"])


def test_a_run_is_scored_in_the_directions_it_was_trained_in(tmp_path: Path) -> None:
    """From its end as the same letters from the beginning, terminals exchanged."""
    ahead, both = (open_own(written_run(tmp_path, reverse_share=part)[0].path, device="cpu") for part in (0.0, 0.5))
    with pytest.raises(RefusedError, match="cannot give a sequence a likelihood from the right"):
        ahead.residue_logprobs(["MKV"], direction="reverse")
    assert both.info.abilities == ("causal", "reverse", "embed", "attend")
    shape = {"architecture": "progen2", "n_heads": 2, "rotary_dim": 4}
    for part, last in ((0.0, "causal"), (0.5, "reverse")):  # written for other programs and read again
        run, _ = written_run(tmp_path, reverse_share=part, **shape)
        out = export_model(run.path, tmp_path / f"exported {part}").folder
        assert open_own(out, device="cpu").info.abilities == open_own(run.path, device="cpu").info.abilities
        assert last in open_own(out, device="cpu").info.abilities
    assert "reverse" not in open_own(tmp_path / "exported 0.0", device="cpu").info.abilities
    [found] = both.residue_logprobs(["MKV"], direction="reverse", letters="raw")
    tokens = torch.tensor([EOS, *encode("VKM").tolist(), CLS])
    with torch.no_grad():
        logits = both.model(Documents.of([tokens[:-1]]), torch.arange(4))
    theirs = logits.log_softmax(-1)[torch.arange(4), tokens[1:]].numpy()
    np.testing.assert_allclose(found, theirs[[2, 1, 0, 3]], atol=1e-5)


def test_published_models_are_known_by_name_and_size() -> None:
    assert published_tokens("esm2_t6_8M_UR50D", 7_512_474) == 1e12
    assert published_tokens("progen2-small", 151_149_600) is None
    with pytest.raises(ConfigError, match="no published model is called 'esm2_t6_8M'") as refusal:
        published_tokens("esm2_t6_8M", 7_512_474)
    assert "esm2_t6_8M_UR50D" in refusal.value.hint
