"""Models by one line of text, and models of transformers, on generated weights."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import CheckpointError, ConfigError, CorpusError, RefusedError
from plm_scaling.evals.adapters.base import Query
from plm_scaling.evals.adapters.opening import open_adapter
from plm_scaling.evals.scoring import score_variants
from plm_scaling.evals.variants import parse_variants
from plm_scaling.models.build import build_model
from plm_scaling.models.esm2 import Esm2
from plm_scaling.models.esm2_files import Esm2Weights, save_hf_esm2

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)
RNG = np.random.default_rng(5)
SEQUENCES = ["".join(RNG.choice(list(STANDARD), n)) for n in (21, 4, 9)]
QUERIES = [Query(SEQUENCES[0], (3, 8), (8, 3, 20)), Query(SEQUENCES[1], (), (0,)), Query(SEQUENCES[2], (1,), ())]
TRAILING = ("<row 26>", "<row 27>", "<row 28>")
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def spread(model: torch.nn.Module) -> torch.nn.Module:
    """Weights far from their start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def esm2(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hf") / "esm2"
    shape = ModelShape(architecture="esm2", n_layers=2, d_model=16, n_heads=2, d_ffn=32)
    model = spread(build_model(shape, causal=False, context=64))
    assert isinstance(model, Esm2)
    return save_hf_esm2(Esm2Weights.of(model), folder)


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    """A masked model whose tokenizer wants spaces between residues, with 3 rows that nothing reaches."""
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *STANDARD, "X"]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizer(
        vocab={w: i for i, w in enumerate(words)}, do_lower_case=False, vocab_file=str(folder / "vocab.txt")
    )
    tokenizer.save_pretrained(folder)
    config = transformers.BertConfig(vocab_size=len(words) + 3, max_position_embeddings=40, **SMALL)
    spread(transformers.BertForMaskedLM(config)).save_pretrained(folder)
    return folder


def causal(folder: Path, words: list[str], merges: list[tuple[str, str]], **special: str) -> Path:
    from tokenizers import Tokenizer, models

    table = {w: i for i, w in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(table, merges, unk_token="<unk>"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **special).save_pretrained(
        folder
    )
    config = transformers.GPT2Config(vocab_size=len(words), n_embd=16, n_layer=2, n_head=2, n_positions=40)
    spread(transformers.GPT2LMHeadModel(config)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory) -> Path:
    return causal(tmp_path_factory.mktemp("gpt2"), ["<unk>", "<end>", *STANDARD], [], eos_token="<end>")


def test_transformers_and_our_blocks_agree_on_the_same_weights(esm2: Path) -> None:
    theirs, ours = open_adapter(f"hf:{esm2}", device="cpu"), open_adapter(f"esm2:{esm2}", device="cpu")
    for letters in ("20", "raw"):
        for x, y in zip(*(m.masked_logprobs(QUERIES, letters=letters) for m in (theirs, ours)), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-4)
    for layer in (0, 1, -1):
        for x, y in zip(*(m.embed(SEQUENCES, layer=layer) for m in (theirs, ours)), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-4)
    np.testing.assert_allclose(theirs.attentions(SEQUENCES[0]), ours.attentions(SEQUENCES[0]), atol=1e-5)
    same = ("symbols", "N", "N_total", "N_dead", "context", "abilities", "objective", "sha256")
    assert [getattr(theirs.info, key) for key in same] == [getattr(ours.info, key) for key in same]


@torch.no_grad()
def test_a_masked_model_with_spaces_between_residues(bert: Path) -> None:
    ours = open_adapter(f"hf:{bert}", device="cpu")
    model = transformers.BertForMaskedLM.from_pretrained(bert)
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    for query, found in zip(QUERIES, ours.masked_logprobs(QUERIES), strict=True):
        shown = [tokenizer.mask_token if i in query.masked else x for i, x in enumerate(query.sequence)]
        logits = model(**tokenizer(" ".join(shown), return_tensors="pt")).logits[0, 1:-1, 5:25]
        np.testing.assert_allclose(found, logits.log_softmax(-1).numpy()[list(query.read)], atol=1e-4)
    assert ours.info.symbols[3:7] + ours.info.symbols[-4:] == ("[SEP]", "[MASK]", "L", "A", "X", *TRAILING)
    assert ours.info.N_dead == 3 * 16 + 3
    assert sum(p.numel() for p in model.bert.encoder.layer.parameters()) == ours.info.N
    assert ours.info.N_total + ours.info.N_dead == model.num_parameters()
    with pytest.raises(RefusedError, match=r"39 residues, .* reads up to 38"):
        ours.embed(["A" * 39])
    with pytest.raises(CorpusError, match="does not know the letter 'B'"):
        ours.embed(["AXB"])
    with pytest.raises(RefusedError, match="cannot give a sequence a likelihood"):
        ours.residue_logprobs(SEQUENCES)


@torch.no_grad()
def test_a_causal_model_begins_and_ends_with_its_own_token(gpt2: Path) -> None:
    ours = open_adapter(f"hf:{gpt2}", device="cpu")
    model = transformers.GPT2LMHeadModel.from_pretrained(gpt2).eval()
    for letters in ("20", "raw"):
        for sequence, found in zip(SEQUENCES, ours.residue_logprobs(SEQUENCES, letters=letters), strict=True):
            ids = torch.tensor([[1, *(2 + STANDARD.index(x) for x in sequence), 1]])
            logits = model(ids).logits[0, :-1]
            logits[:, :2] = logits[:, :2] if letters == "raw" else -torch.inf
            theirs = logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0].numpy()
            np.testing.assert_allclose(found, theirs[: len(found)], atol=1e-4)
            assert len(found) == len(sequence) + (letters == "raw")


@torch.no_grad()
@pytest.mark.parametrize("letters", ["20", "raw"])
def test_a_beginning_that_many_share_is_computed_once(gpt2: Path, letters: str) -> None:
    """A library, a beginning of it, duplicates, and sequences that share nothing: as one by one."""
    ours, lone = (open_adapter(f"hf:{gpt2}", device="cpu") for _ in range(2))
    wild = "".join(RNG.choice(list(STANDARD), 34))
    library = [wild[:25] + a + wild[26:] for a in STANDARD]
    others = [wild[:29] + "AAAA", wild[:20], wild, wild[::-1], "MK", *SEQUENCES]
    ours.batch_positions = 150
    for sequence, found in zip([*library, *others], ours.residue_logprobs([*library, *others], letters=letters),
                               strict=True):  # fmt: skip
        np.testing.assert_allclose(found, lone.residue_logprobs([sequence], letters=letters)[0], atol=1e-5)
    ours.tokens_processed = 0
    ours.residue_logprobs(library, letters=letters)
    assert ours.tokens_processed == 26 + 20 * 9, "begin, 25 residues; of each the rest"


def test_what_is_no_language_model_is_refused(tmp_path: Path) -> None:
    endless = causal(tmp_path / "endless", ["<unk>", *STANDARD], [])
    with pytest.raises(ConfigError, match="no token to begin with"):
        open_adapter(f"hf:{endless}")
    config = json.loads((endless / "config.json").read_text()) | {"architectures": ["GPT2ForSequenceClassification"]}
    (endless / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="GPT2ForSequenceClassification is neither"):
        open_adapter(f"hf:{endless}")


def test_an_alignment_is_a_profile_of_its_sites(tmp_path: Path) -> None:
    """Variants score by how often their letter stands at the site, whatever stands elsewhere."""
    path = tmp_path / "family.fasta"
    path.write_text(">a\nMKVA\n>b\nMKIA\n>c\nMRIA\n>d\nMKVG\n>e\nMKVA\n")
    model = open_adapter(f"profile:{path}")
    assert (model.info.name, "profile" in model.info.abilities, len(model.info.sha256)) == ("family", True, 64)
    found = score_variants(model, "MKVA", parse_variants("MKVA", ["V3I", "V3W", "A4G", "V3I:A4G"])).values
    assert found[1] < found[2] < found[0] < 0
    assert found[3] == pytest.approx(found[0] + found[2])
    path.write_text(">a\nMKVA\n>b\nMK\n")
    with pytest.raises(ConfigError, match="2 to 4 residues"):
        open_adapter(f"profile:{path}")


def test_checksums_kinds_and_damage_are_named(esm2: Path, tmp_path: Path) -> None:
    from plm_scaling.core.weight_identity import weights_sha256

    sha256 = weights_sha256(esm2)
    for kind in ("esm2", "hf"):
        assert open_adapter(f"{kind}:{esm2}@{sha256}", device="cpu").info.sha256 == sha256
        with pytest.raises(CheckpointError, match="another checksum"):
            open_adapter(f"{kind}:{esm2}@{'0' * 64}", device="cpu")
    with pytest.raises(CheckpointError, match="not progen2 but esm2"):
        open_adapter(f"progen2:{esm2}")
    with pytest.raises(ConfigError, match="no model is called 'emc2:x'"):
        open_adapter("emc2:x")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in esm2.iterdir():
        whole = file.read_bytes()
        (damaged / file.name).write_bytes(whole[: len(whole) // 2] if file.suffix == ".safetensors" else whole)
    for kind in ("hf", "esm2"):
        with pytest.raises(CheckpointError):
            open_adapter(f"{kind}:{damaged}")


def test_controls_and_doubles_by_name(esm2: Path, tmp_path: Path) -> None:
    assert open_adapter("uniform").residue_logprobs(["MK"])[0].tolist() == [-np.log(20)] * 2
    transition = RNG.dirichlet(np.ones(20), size=20)
    np.save(tmp_path / "chain.npy", transition)
    chain = open_adapter(f"markov:{tmp_path / 'chain.npy'}")
    assert chain.residue_logprobs(["LA"])[0][1] == np.log(transition[0, 1])
    with pytest.raises(ConfigError, match="not a matrix that numpy saved"):
        open_adapter(f"markov:{esm2 / 'config.json'}")
    control, other = (open_adapter(f"random:esm2:{esm2}#{seed}", device="cpu") for seed in (4, 5))
    assert control.info.origin == "random weights, seed 4"
    assert control.info.N == open_adapter(str(esm2), device="cpu").info.N
    assert not np.allclose(control.embed(SEQUENCES[:1])[0], other.embed(SEQUENCES[:1])[0])
    with pytest.raises(ConfigError, match="no model size is called 'esm2-9m'"):
        open_adapter("random:esm2_9M")


def test_a_file_of_weights_that_is_not_there_is_no_hub_id(monkeypatch) -> None:
    monkeypatch.setattr("plm_scaling.evals.adapters.hub.hub_folder", lambda place: pytest.fail(f"asked for {place}"))
    with pytest.raises(ConfigError, match="nothing here"):
        open_adapter("esm2:weights/esm2_t33_650M_UR50D.pt")


def test_a_hub_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    release = threading.Event()
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub.HfApi, "model_info", lambda *_, **__: release.wait())
    monkeypatch.setattr("plm_scaling.evals.adapters.hub._WAIT_S", 0.05)
    with pytest.raises(CheckpointError, match="org/name is not in the local cache") as refusal:
        open_adapter("esm2:org/name")
    release.set()
    assert "has not answered within 0.05 s" in refusal.value.why


def test_a_hub_id_is_found_in_the_cache_or_said_to_be_out_of_reach(esm2: Path, tmp_path: Path, monkeypatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="org/name is not in the local cache") as refusal:
        open_adapter("esm2:org/name")
    assert "hf download org/name" in refusal.value.hint
    kept = tmp_path / "models--org--name"
    revision = "0" * 40
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text(revision)
    (kept / "snapshots").mkdir()
    (kept / "snapshots" / revision).symlink_to(esm2)
    found, given = (open_adapter(spec, device="cpu").info for spec in ("esm2:org/name", str(esm2)))
    assert (found.sha256, found.name) == (given.sha256, "name")
