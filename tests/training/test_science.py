"""What training must be able to reach: known entropies, memorised sequences, the loss of a model that knows nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import torch

from data_prep.pipeline import PrepSpec, SourceInput, prepare_corpus
from data_prep.simulate import MetagenomeSettings, SimulationSettings, SourceSettings, simulate_corpus
from plm_scaling.core.alphabet import MASK, STANDARD, encode
from plm_scaling.core.run import Objective, RunConfig
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder
from plm_scaling.corpus.format import VAL_IID
from plm_scaling.corpus.masks import mlm_mask
from plm_scaling.corpus.reader import Corpus
from plm_scaling.corpus.validation import VALIDATION_MASK_SEED, validation_sets
from plm_scaling.evals.adapters.own import OwnModel
from plm_scaling.evals.adapters.own_models import open_own
from plm_scaling.models.build import build_model
from plm_scaling.training.loop import train
from plm_scaling.training.steps import gradient_step
from plm_scaling.training.validate import score_set, scoring_windows, summarise

Float = npt.NDArray[np.float64]

LETTERS = STANDARD[:4]
ENDS = 0.02
"""Probability that a sequence of the Markov source ends after a residue."""


def prepared(folder: Path, fasta: dict[str, Path], val_share: float) -> Corpus:
    inputs = [SourceInput(name, [path]) for name, path in fasta.items()]
    prepare_corpus(inputs, folder / "corpus", PrepSpec(val_share=val_share))
    return Corpus.open(folder / "corpus")


def written(path: Path, sequences: list[str]) -> Path:
    path.write_text("".join(f">s{k}\n{s}\n" for k, s in enumerate(sequences)))
    return path


def trained(corpus: Corpus, folder: Path, **choices: Any) -> RunFolder:
    values: dict[str, Any] = {"corpus_id": corpus.corpus_id, "recipe": "small", "validation_points": 1}
    config = RunConfig.model_validate(values | choices)
    run = RunFolder(folder / config.run_id)
    RunOrder(config=config, corpus=str(corpus.path), device="cpu").write(run.order_path)
    train(run.path)
    return run


def transitions() -> Float:
    """P(next | here) of the Markov source."""
    n = len(LETTERS)
    chance: Float = 0.97 * np.random.default_rng(0).dirichlet(np.full(n, 0.35), size=n) + 0.03 / n
    return chance


def stationary(chance: Float) -> Float:
    share: Float = np.linalg.matrix_power(chance, 200)[0]
    return share


@pytest.fixture(scope="module")
def markov(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """500,000 residues of a first-order Markov source over four letters, of geometric lengths."""
    rng, folder = np.random.default_rng(1), tmp_path_factory.mktemp("markov")
    lengths = rng.geometric(ENDS, size=round(500_000 * ENDS))
    bounds = transitions().cumsum(axis=1)
    letters = [rng.choice(len(LETTERS), p=stationary(transitions()), size=len(lengths))]
    for _ in range(lengths.max() - 1):
        drawn = (rng.random(len(lengths))[:, None] > bounds[letters[-1]]).sum(axis=1)
        letters.append(drawn.clip(max=len(LETTERS) - 1))
    rows = np.stack(letters, axis=1)
    text = ["".join(LETTERS[k] for k in row[:n]) for row, n in zip(rows, lengths, strict=True)]
    return prepared(folder, {"markov": written(folder / "markov.fasta", text)}, 0.05)


def val_rows(run: RunFolder) -> list[int]:
    table = pq.read_table(run.val_path).to_pandas()
    rows: list[int] = table[table["set"] == VAL_IID].row.tolist()
    return rows


@pytest.mark.slow
def test_clm_reaches_the_entropy_of_a_markov_source(markov: Corpus, tmp_path: Path) -> None:
    """Within 0.5 % of the source's own loss on the same tokens, which is its entropy but for their number."""
    shape = {"n_layers": 2, "d_model": 32, "context": 128, "batch_tokens": 1024}
    run = trained(markov, tmp_path, objective="clm", D=200_000, peak_lr=1e-2, **shape)
    chance, share, ids = transitions(), stationary(transitions()), encode(LETTERS).tolist()
    loss, n = 0.0, 0
    for row in val_rows(run):
        states = [ids.index(token) for token in markov.tokens(row)[:-1].tolist()]
        steps = np.log(chance[states[:-1], states[1:]]).sum() + math.log(share[states[0]])
        loss -= steps + (len(states) - 1) * math.log(1 - ENDS) + math.log(ENDS)
        n += len(states) + 1
    going_on = -(share[:, None] * chance * np.log(chance)).sum()
    end = -(ENDS * math.log(ENDS) + (1 - ENDS) * math.log(1 - ENDS))
    exact = (1 / ENDS * end + (1 / ENDS - 1) * going_on - (share * np.log(share)).sum()) / (1 / ENDS + 1)
    assert loss / n == pytest.approx(exact, rel=0.02)  # the reference is right
    record = run.record()
    assert record is not None
    assert record.validation[0].n_targets == pytest.approx(n, rel=0.03)  # but for first residues of continued pieces
    assert record.validation[0].per_token == pytest.approx(loss / n, rel=0.005)


@pytest.mark.slow
def test_a_clm_trained_in_both_directions_reaches_the_likelihood_in_either(markov: Corpus, tmp_path: Path) -> None:
    """Within 2 % of the source's own ln p, which is one number though the reversed chain is another; forward-trained
    weights are far from it in the other direction.
    """
    shape = {"n_layers": 2, "d_model": 32, "context": 256, "batch_tokens": 1024, "objective": "clm"}
    chance, share = transitions(), stationary(transitions())
    flow = share[:, None] * chance
    assert abs(flow - flow.T).max() > 0.02, "the source would look alike in both directions"
    both, one = (
        trained(markov, tmp_path, peak_lr=1e-2, reverse_share=part, D=D, **shape)
        for part, D in ((0.5, 2e5), (0.0, 5e4))
    )
    rows = [row for row in val_rows(both) if len(markov.tokens(row)) <= 250][:150]
    text = ["".join(LETTERS[encode(LETTERS).tolist().index(x)] for x in markov.tokens(row)[:-1]) for row in rows]
    exact, n = 0.0, 0
    for sequence in text:
        states = [LETTERS.index(letter) for letter in sequence]
        steps = np.log(chance[states[:-1], states[1:]]).sum() + math.log(share[states[0]])
        exact -= steps + (len(states) - 1) * math.log(1 - ENDS) + math.log(ENDS)
        n += len(states) + 1
    model = open_own(both.path, device="cpu")
    assert "reverse" in model.info.abilities
    assert "reverse" not in open_own(one.path, device="cpu").info.abilities
    for direction in ("forward", "reverse"):
        found = model.residue_logprobs(text, direction=direction, letters="raw")
        assert -sum(logp.sum() for logp in found) / n == pytest.approx(exact / n, rel=0.02), direction
    blind = OwnModel(open_own(one.path, device="cpu").model, model.info, device="cpu")
    found = blind.residue_logprobs(text, direction="reverse", letters="raw")
    assert -sum(logp.sum() for logp in found) / n > 1.2 * exact / n


def masked_loss(tokens: npt.NDArray[np.uint8], shown: npt.NDArray[np.uint8], rate: float) -> Float:
    """-log P(true residue | what is shown, it is a target) of every residue, by the source itself: forward-backward.

    **Source:** Rabiner 1989, section III; emissions are those of `mlm_mask`.
    """
    chance, share, ids = transitions(), stationary(transitions()), encode(LETTERS).astype(np.uint8)
    same, masked = shown[:, None] == ids, (shown == MASK)[:, None]
    target = np.where(masked, 0.8, 0.1 * same + 0.1 / 20)
    other = np.where(masked, 0.8 * rate, (1 - 0.9 * rate) * same + rate * 0.1 / 20)
    n = len(tokens)
    ahead, back = np.empty((n, len(ids))), np.ones((n, len(ids)))
    state = share
    for t in range(n):
        ahead[t] = state
        seen = state * other[t]
        state = seen / seen.sum() @ chance
    for t in range(n - 2, -1, -1):
        back[t] = chance @ (other[t + 1] * back[t + 1])
        back[t] /= back[t].sum()
    posterior = ahead * back * target
    posterior /= posterior.sum(axis=1, keepdims=True)
    true: Float = -np.log(posterior[tokens[:, None] == ids])
    return true


@pytest.mark.slow
def test_mlm_reaches_the_entropy_of_a_markov_source(markov: Corpus, tmp_path: Path) -> None:
    """Within 4 % of the least loss possible on the same masked tokens; a one-sided model would be a third above."""
    shape = {"n_layers": 3, "d_model": 16, "context": 64, "batch_tokens": 512}
    run = trained(markov, tmp_path, objective="mlm", D=600_000, peak_lr=1e-2, **shape)
    least, between = [], []
    for row in val_rows(run):
        tokens = markov.tokens(row)
        n = len(tokens)
        shown, target = mlm_mask(np.full(n, row), np.arange(n), 0, tokens, VALIDATION_MASK_SEED)
        loss = masked_loss(tokens[:-1], shown[:-1], 0.15)
        hit = target[:-1]
        least += loss[hit].tolist()
        open_ = hit[1:-1] & ~hit[:-2] & ~hit[2:] & (shown[1:-2] == MASK)
        between += loss[1:-1][open_].tolist()
    chance, share = transitions(), stationary(transitions())
    triple = share[:, None, None] * chance[:, :, None] * chance[None]
    exact = -(triple * np.log(triple / triple.sum(axis=1, keepdims=True))).sum()  # H(x_i | x_i-1, x_i+1)
    one_sided = -(share[:, None] * chance * np.log(chance)).sum()
    assert len(between) > 1000
    assert np.mean(between) == pytest.approx(exact, rel=0.07)  # the reference is right: 3 standard errors
    record = run.record()
    assert record is not None
    assert record.validation[0].n_targets == len(least)
    assert np.mean(least) < record.validation[0].per_token < 1.04 * np.mean(least) < 0.9 * one_sided


@pytest.mark.slow
def test_clm_reaches_the_entropy_of_a_saturated_simulation(tmp_path: Path) -> None:
    """Branches so long that nothing of the ancestors is left: residues are drawn from the known background."""
    settings = SimulationSettings(
        n_domains=40,
        n_families=40,
        n_new_domains=0,
        n_new_families=0,
        domain_length=100.0,
        gamma_alpha=20.0,
        indels_per_substitution=0.0,
        uniref=SourceSettings(tip_length=50.0),
        metagenome=MetagenomeSettings(tip_length=50.0),
    )
    truth = simulate_corpus(tmp_path, residues=300_000, seed=3, settings=settings)
    fasta = {source.name: tmp_path / source.file for source in truth.sources}
    corpus = prepared(tmp_path, fasta, 0.1)
    shape = {"n_layers": 1, "d_model": 16, "context": 256, "batch_tokens": 1024}
    run = trained(corpus, tmp_path / "runs", objective="clm", D=150_000, peak_lr=1e-2, **shape)
    record = run.record()
    assert record is not None
    assert truth.background_entropy < 0.98 * math.log(20)
    assert record.validation[0].per_residue == pytest.approx(truth.background_entropy, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["clm", "mlm"])
def test_64_sequences_are_learnt_by_heart(tmp_path: Path, objective: Objective) -> None:
    """Below 0.05 nats. CLM: words of 12 residues repeated; which of 64 it is costs ln 64 / 121 = 0.034 nats a token.

    MLM: random residues, always the same ones masked.
    """
    rng, n = np.random.default_rng(0), 12 if objective == "clm" else 100
    words = ["".join(rng.choice(list(STANDARD), n)) for _ in range(64)]
    text = [(word * 10)[:120] for word in words] if objective == "clm" else words
    corpus = prepared(tmp_path, {"few": written(tmp_path / "few.fasta", text)}, 0.02)
    depth, D = (2, 400_000) if objective == "clm" else (1, 300_000)
    shape = {"n_layers": depth, "d_model": 64, "context": 128, "batch_tokens": 512, "weight_decay": 0.0}
    run = trained(corpus, tmp_path, objective=objective, D=D, peak_lr=3e-3, mask_refresh=False, **shape)
    last = [line["loss"] for line in run.metrics()][-20:]
    assert np.mean(last) < 0.05
    assert objective == "mlm" or np.mean(last) > 0.03


@pytest.mark.parametrize("objective", ["clm", "mlm"])
@pytest.mark.parametrize(("architecture", "symbols"), [("plm", 33), ("esm2", 33), ("progen2", 32)])
def test_a_model_that_knows_nothing_loses_the_logarithm_of_its_vocabulary(
    corpus: Corpus, make_config: Callable[..., RunConfig], architecture: Any, symbols: int, objective: Objective
) -> None:
    config = make_config(objective=objective, architecture=architecture, n_heads=1, n_layers=1, validation_tokens=2000)
    model = build_model(config.shape, causal=objective == "clm", context=config.context, seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("head", "embedding")):
                parameter.zero_()
    step = gradient_step(model, scoring_windows(config.context), config.context, backward=False)
    for scored_set in validation_sets(corpus, config.context, config.validation_tokens, objective):
        scores = summarise(score_set(step, scored_set, config), objective)
        assert scores.per_token == pytest.approx(math.log(symbols), rel=1e-6)
        assert scores.per_residue == pytest.approx(math.log(symbols), rel=1e-6)
        assert scores.n_targets > 50
