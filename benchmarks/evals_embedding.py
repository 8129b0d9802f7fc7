"""What embeddings of whole proteins cost here and in padded batches of transformers; `bench_evals.py` calls it."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.architecture import ModelShape
from plm_scaling.evals.adapters.own_models import random_weights
from plm_scaling.models.esm2_files import Esm2Weights, save_hf_esm2

__all__ = ["Embeddings", "measure_embeddings", "protein_lengths"]

ESM2_8M = ModelShape(architecture="esm2", n_layers=6, d_model=320, n_heads=20)
_BATCH = 16


@dataclass(frozen=True)
class Embeddings:
    """Seconds of process CPU time for mean embeddings of a set of proteins, float32, one thread."""

    ours_s: float
    padded_s: float
    proteins: int
    residues: int
    padded_positions: int
    """That the padded batches compute."""
    largest_difference: float
    """Of the embeddings, over their own largest value."""

    @property
    def ratio(self) -> float:
        """How many times faster."""
        return self.padded_s / self.ours_s


def protein_lengths(n: int, seed: int = 0) -> list[int]:
    """Log-normal lengths as UniRef50's are, median 250, from 30 to 1,000."""
    rng = np.random.default_rng(seed)
    return np.clip(np.exp(rng.normal(np.log(250.0), 0.75, n)), 30, 1000).astype(int).tolist()


def measure_embeddings(n: int = 48) -> Embeddings:
    """Mean embeddings of proteins in the order of a file: ours, and transformers' in padded batches of 16."""
    from transformers import EsmModel, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rng = np.random.default_rng(1)
    sequences = ["".join(rng.choice(list(STANDARD), length)) for length in protein_lengths(n)]
    ours = random_weights(ESM2_8M, device="cpu")
    weights = Esm2Weights(ESM2_8M, {name: p.detach() for name, p in ours.model.named_parameters()})
    with tempfile.TemporaryDirectory() as folder:
        saved = save_hf_esm2(weights, Path(folder) / "made")
        theirs = EsmModel.from_pretrained(saved, add_pooling_layer=False).eval()
    _padded(theirs, sequences[:2])
    ours.embed(sequences[:2])
    began = time.process_time()
    wanted, positions = _padded(theirs, sequences)
    between = time.process_time()
    found = np.stack(ours.embed(sequences))
    ended = time.process_time()
    return Embeddings(
        ours_s=ended - between,
        padded_s=between - began,
        proteins=n,
        residues=sum(map(len, sequences)),
        padded_positions=positions,
        largest_difference=float(np.abs(found - wanted).max() / np.abs(wanted).max()),
    )


@torch.no_grad()
def _padded(model: Any, sequences: list[str]) -> tuple[np.ndarray, int]:
    """Mean over residues of the last hidden state, batch by batch in the given order, padded to the longest."""
    from plm_scaling.core.alphabet import CLS, EOS, PAD, encode

    rows, positions = [], 0
    for start in range(0, len(sequences), _BATCH):
        batch = sequences[start : start + _BATCH]
        longest = max(map(len, batch)) + 2
        ids = torch.full((len(batch), longest), PAD)
        for k, sequence in enumerate(batch):
            ids[k, 0], ids[k, len(sequence) + 1] = CLS, EOS
            ids[k, 1 : len(sequence) + 1] = torch.from_numpy(encode(sequence).astype(np.int64))
        hidden = model(input_ids=ids, attention_mask=(ids != PAD).long()).last_hidden_state
        rows += [hidden[k, 1 : len(sequence) + 1].mean(0).numpy() for k, sequence in enumerate(batch)]
        positions += ids.numel()
    return np.stack(rows), positions
