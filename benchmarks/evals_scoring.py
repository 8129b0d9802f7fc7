"""What scoring a capsid library costs here and with the published per-position loop; `bench_evals.py` calls it.

    python benchmarks/evals_scoring.py [--variants 300] [--positions 12]

The library: a protein of 735 residues of which 28 (561 to 588) are drawn anew, as in the AAV2 capsid assays. Masked
marginals run on an ESM-2 of 8M parameters with generated weights, here and in fair-esm: its script asks for every
position of the protein in a forward of its own, a few of which are timed and scaled up. Token ratios are counted by the
model itself, not estimated: positions that went through it with beginnings shared and without.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import esm
import numpy as np
import torch

from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.architecture import ModelShape
from plm_scaling.evals.adapters.own import OwnModel
from plm_scaling.evals.adapters.own_models import random_weights
from plm_scaling.evals.scoring import score_variants
from plm_scaling.evals.variants import Variant, parse_variants
from plm_scaling.models.esm2_files import Esm2Weights, to_fair_esm_state

__all__ = ["ClmTokens", "MaskedMarginals", "capsid_library", "measure_clm_tokens", "measure_masked_marginals"]

LENGTH, REGION = 735, (560, 588)
ESM2_8M = ModelShape(architecture="esm2", n_layers=6, d_model=320, n_heads=20)
TINY_CLM = ModelShape(n_layers=1, d_model=16)


@dataclass(frozen=True)
class MaskedMarginals:
    """Seconds of process CPU time for the scores of a library, and the forwards they take."""

    ours_s: float
    loop_s: float
    """All positions, scaled up from `positions` that were timed."""
    positions: int
    ours_forwards: int
    loop_forwards: int
    largest_difference: float
    """Of log-probabilities at the positions that both computed, nats."""

    @property
    def ratio(self) -> float:
        """How many times faster."""
        return self.loop_s / self.ours_s


@dataclass(frozen=True)
class ClmTokens:
    """Positions that went through a causal model for the likelihoods of a library, left to right."""

    shared: int
    plain: int
    largest_difference: float
    """Of the scores, nats."""

    @property
    def ratio(self) -> float:
        """How many times fewer."""
        return self.plain / self.shared


def capsid_library(n: int, seed: int = 0) -> tuple[str, tuple[Variant, ...]]:
    """A wild type of 735 residues and variants of 28 of them."""
    rng = np.random.default_rng(seed)
    letters = list(STANDARD)
    wild_type = "".join(rng.choice(letters, LENGTH))
    texts = ["".join(rng.choice(letters, REGION[1] - REGION[0])) for _ in range(n)]
    return wild_type, parse_variants(wild_type, texts, region=REGION)


def measure_masked_marginals(n: int = 300, positions: int = 12) -> MaskedMarginals:
    """Masked marginals of a library, here and by fair-esm's loop over positions, in turns on the same weights."""
    wild_type, variants = capsid_library(n)
    ours = random_weights(ESM2_8M, device="cpu")
    theirs, tokens = _fair_esm(ours, wild_type)
    asked = np.linspace(REGION[0], REGION[1] - 1, positions).astype(int).tolist()
    _loop(theirs, tokens, asked[:1])
    score_variants(ours, wild_type, variants[:1], "masked_marginals")
    began = time.process_time()
    logprobs = _loop(theirs, tokens, asked)
    between = time.process_time()
    scores = score_variants(ours, wild_type, variants, "masked_marginals")
    ended = time.process_time()
    apart = 0.0
    for site, row in zip(asked, logprobs, strict=True):
        texts = [f"{wild_type[site]}{site + 1}{x}" for x in STANDARD]
        single = list(parse_variants(wild_type, texts))
        found = score_variants(ours, wild_type, single, "masked_marginals").values
        apart = max(apart, float(np.abs(found - (row - row[STANDARD.index(wild_type[site])])).max()))
    return MaskedMarginals(
        ours_s=ended - between,
        loop_s=(between - began) / len(asked) * (LENGTH + 2),
        positions=len(asked),
        ours_forwards=scores.cost.forwards,
        loop_forwards=LENGTH + 2,
        largest_difference=apart,
    )


def measure_clm_tokens(n: int = 300) -> ClmTokens:
    """Likelihoods of a library with beginnings shared and without, counted by the model."""
    wild_type, variants = capsid_library(n)
    shared = random_weights(TINY_CLM, device="cpu")
    plain = OwnModel(shared.model, shared.info, device="cpu", share_beginnings=False)
    values = [score_variants(model, wild_type, variants, "clm").values for model in (shared, plain)]
    return ClmTokens(shared.tokens_processed, plain.tokens_processed, float(np.abs(values[0] - values[1]).max()))


def _fair_esm(ours: OwnModel, sequence: str) -> tuple[Any, torch.Tensor]:
    """fair-esm's model with the same weights, and the tokens it is given."""
    shape = ESM2_8M
    theirs = esm.ESM2(shape.n_layers, shape.d_model, shape.heads, "ESM-1b")
    weights = Esm2Weights(shape, {name: p.detach() for name, p in ours.model.named_parameters()})
    theirs.load_state_dict(to_fair_esm_state(weights), strict=False)
    _, _, tokens = theirs.alphabet.get_batch_converter()([("wild type", sequence)])
    return theirs.eval(), tokens


@torch.no_grad()
def _loop(model: Any, tokens: torch.Tensor, sites: Sequence[int]) -> list[np.ndarray]:
    """A masked forward for each position, one at a time, as the released script does; ln p of the 20 letters."""
    rows = []
    for site in sites:
        masked = tokens.clone()
        masked[0, site + 1] = model.alphabet.mask_idx
        logits = model(masked)["logits"][0, site + 1, 4:24]
        rows.append(torch.log_softmax(logits.double(), -1).numpy())
    return rows


def main() -> None:
    """Print both measurements as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", type=int, default=300)
    parser.add_argument("--positions", type=int, default=12)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    masked, tokens = measure_masked_marginals(asked.variants, asked.positions), measure_clm_tokens(asked.variants)
    told = {
        "masked_marginals": asdict(masked) | {"ratio": masked.ratio},
        "clm_tokens": asdict(tokens) | {"ratio": tokens.ratio},
    }
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
