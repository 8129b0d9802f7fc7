"""Trust checks: models whose answers are known exactly, and other code for the same numbers. No weights needed."""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import PlmScalingError
from plm_scaling.core.objective import Objective
from plm_scaling.core.records import Record
from plm_scaling.evals.adapters.base import FloatArray, Query
from plm_scaling.evals.adapters.doubles import MarkovModel, PlantedProfile, UniformModel
from plm_scaling.evals.assays import load_assay_scores
from plm_scaling.evals.baselines import load_baselines
from plm_scaling.evals.bootstrap import paired_difference
from plm_scaling.evals.held_out import held_out_losses
from plm_scaling.evals.metrics import spearman
from plm_scaling.evals.proteingym_summary import summarise_assays
from plm_scaling.evals.scoring import score_variants
from plm_scaling.evals.site_nats import site_nats
from plm_scaling.evals.site_sample import sample_sites
from plm_scaling.evals.variants import parse_variants

__all__ = ["TrustCheck", "trust_checks"]

_PROTEINS: Final = 200
_LENGTH: Final = 40


class TrustCheck(Record):
    """One thing that must hold before scores mean anything."""

    name: str
    about: str
    worst: float
    """Largest deviation found."""
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether it holds."""
        return self.worst <= self.allowed


def trust_checks(told: Callable[[TrustCheck], None] = lambda _: None) -> list[TrustCheck]:
    """Every check, in seconds on a CPU.

    Parameters
    ----------
    told : called after each.

    A check that cannot be carried out at all fails with an infinite deviation.
    """
    found = []
    for name, about, allowed, measure in _CHECKS:
        try:
            worst = measure()
        except PlmScalingError as error:
            worst, about = math.inf, f"{about} ({error.what})"
        check = TrustCheck(name=name, about=about, worst=worst, allowed=allowed)
        told(check)
        found.append(check)
    return found


def _chain(seed: int = 0) -> tuple[MarkovModel, list[str], float, float]:
    """A Markov source with sequences drawn from it, its entropy rate, and the standard error of the drawn mean."""
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.full(20, 0.3), 20)
    model = MarkovModel(transition)
    values, vectors = np.linalg.eig(transition.T)
    stationary = np.real(vectors[:, np.argmax(np.real(values))])
    stationary /= stationary.sum()
    sequences = []
    for _ in range(_PROTEINS):
        states = [int(rng.choice(20, p=stationary))]
        while len(states) < _LENGTH:
            states.append(int(rng.choice(20, p=transition[states[-1]])))
        sequences.append("".join(STANDARD[state] for state in states))
    safe = np.where(transition > 0, transition, 1.0)
    entropy = -float(stationary @ (transition * np.log(safe)).sum(axis=1))
    first = -float(stationary @ np.log(stationary))
    mean = (first + (_LENGTH - 1) * entropy) / _LENGTH
    losses = held_out_losses(model, sequences).sums / _LENGTH
    return model, sequences, mean, float(losses.std(ddof=1) / math.sqrt(len(losses)))


def _uniform_total() -> float:
    sequences = ["MKV", "ACDEFGHIKLMNPQRSTVWY" * 5]
    totals = [float(one.sum()) for one in UniformModel().residue_logprobs(sequences)]
    return max(abs(total + len(s) * math.log(20)) for total, s in zip(totals, sequences, strict=True))


def _markov_entropy() -> float:
    model, sequences, entropy, se = _chain()
    losses = held_out_losses(model, sequences, "clm")
    return abs(float(losses.sums.sum() / losses.targets.sum()) - entropy) / se


def _one_scale() -> float:
    """A Markov source asked as a causal and as a masked model: the conditional entropy is the same number."""
    model, sequences, _, _ = _chain(1)
    sample = sample_sites(sequences[:20], per_sequence=4)
    causal, masked = (site_nats(model, sequences[:20], sample, method=how, draws=10) for how in ("causal", "masked"))
    return float(np.abs(causal.values - masked.values).max())


def _planted_profile() -> float:
    rng = np.random.default_rng(2)
    logprobs = np.log(rng.dirichlet(np.ones(20), 30))
    wild = "".join(STANDARD[k] for k in rng.integers(0, 20, 30))
    texts = sorted(
        {f"{wild[i]}{i + 1}{a}" for i in rng.integers(0, 30, 80) for a in rng.choice(list(STANDARD), 1) if a != wild[i]}
    )
    variants = parse_variants(wild, texts)
    at = {letter: k for k, letter in enumerate(STANDARD)}
    truth = [
        sum(logprobs[c.position, at[c.new]] - logprobs[c.position, at[c.old]] for c in v.substitutions)
        for v in variants
    ]
    return 1.0 - spearman(truth, score_variants(PlantedProfile(logprobs), wild, variants).values)


def _fair_esm() -> float:
    """Generated weights in the published layout through fair-esm and through our blocks."""
    import torch
    from esm.data import Alphabet
    from esm.model.esm2 import ESM2

    from plm_scaling.evals.adapters.opening import open_adapter

    alphabet = Alphabet.from_architecture("ESM-1b")
    torch.manual_seed(0)
    theirs = ESM2(num_layers=2, embed_dim=40, attention_heads=4, alphabet=alphabet, token_dropout=True).eval()
    state = {}
    for name, value in theirs.state_dict().items():
        part = "lm_head" if name.startswith("lm_head.") else "sentence_encoder"
        state[f"encoder.{part}.{name.removeprefix('lm_head.')}"] = value
    said = {"encoder_layers": 2, "encoder_embed_dim": 40, "encoder_attention_heads": 4, "token_dropout": True}
    sequences = ["MKTAYIAKQRQISFVK", "ACDEFGHIKLMNPQRSTVWYACDEF"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "generated.pt"
        torch.save({"cfg": {"model": argparse.Namespace(**said)}, "model": state}, path)
        ours = open_adapter(f"esm2:{path}")
        queries = [Query(s, (3,), tuple(range(len(s)))) for s in sequences]
        found = ours.masked_logprobs(queries)
    worst = 0.0
    columns = [alphabet.get_idx(letter) for letter in STANDARD]
    for sequence, one in zip(sequences, found, strict=True):
        ids = [alphabet.cls_idx, *(alphabet.get_idx(letter) for letter in sequence), alphabet.eos_idx]
        ids[4] = alphabet.mask_idx
        with torch.no_grad():
            logits = theirs(torch.tensor([ids]))["logits"][0, 1:-1][:, columns].double()
        wanted = torch.log_softmax(logits, dim=-1).numpy()
        worst = max(worst, float(np.abs(wanted - one).max()))
    return worst


def _company() -> float:
    """Order, company in a batch, and shared beginnings change nothing."""
    from plm_scaling.evals.adapters.own import OwnModel
    from plm_scaling.evals.adapters.own_models import random_weights

    sequences = ["MKTAYIAKQR", "MKTAYIAKQRQISFVK", "MKTAYI", "ACDEFGHIKLMNPQRSTVWY"]
    worst = 0.0
    objectives: tuple[Objective, ...] = ("clm", "mlm")
    for objective in objectives:
        shape = ModelShape(n_layers=2, d_model=32)
        model = random_weights(shape, objective=objective)

        def ask(one: OwnModel, asked: list[str], masked: bool = objective == "mlm") -> list[FloatArray]:
            if masked:
                return one.masked_logprobs([Query(s, (1,), tuple(range(len(s)))) for s in asked])
            return one.residue_logprobs(asked)

        alone = [ask(model, [sequence])[0] for sequence in sequences]
        turned = ask(model, sequences[::-1])[::-1]
        plain = OwnModel(model.model, model.info, batch_positions=16, share_beginnings=False)
        for one, other, third in zip(alone, turned, ask(plain, sequences), strict=True):
            worst = max(worst, float(np.abs(one - other).max()), float(np.abs(one - third).max()))
    return worst


def _leaderboard() -> float:
    """Means over assays against the published means of the same models."""
    ours = {line.model: line.average for line in summarise_assays(load_assay_scores(), draws=10)}
    published = {row.model: row.value for row in load_baselines() if row.metric == "proteingym.subs.spearman"}
    shared = [model for model in published if model in ours]
    if not shared:
        return math.inf
    return max(abs(ours[model] - published[model]) for model in shared)


def _against_itself() -> float:
    rng = np.random.default_rng(3)
    truth, scores = rng.standard_normal((2, 50))
    found = paired_difference("spearman", truth, scores, scores, draws=100)
    return max(abs(found.value), abs(found.low), abs(found.high))


_CHECKS: Final[tuple[tuple[str, str, float, Callable[[], float]], ...]] = (
    ("uniform", "a uniform model gives -L ln 20", 1e-9, _uniform_total),
    ("entropy", "a Markov source costs its entropy, in standard errors", 3.0, _markov_entropy),
    ("one scale", "causal and masked site nats of one source are equal", 1e-9, _one_scale),
    ("planted", "a planted profile orders its variants perfectly (1 - Spearman)", 1e-12, _planted_profile),
    ("fair-esm", "generated ESM-2 weights: fair-esm's log-probabilities and ours", 1e-4, _fair_esm),
    ("company", "order, batches and shared beginnings change no log-probability", 1e-4, _company),
    ("leaderboard", "ProteinGym's means from its assays, for all models that both list", 6e-4, _leaderboard),
    ("itself", "a model against itself differs by nothing", 0.0, _against_itself),
)
