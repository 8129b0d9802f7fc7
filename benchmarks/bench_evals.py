"""Evaluation beside its peers in one run: masked marginals, likelihoods of libraries, embeddings.

    python benchmarks/bench_evals.py [--quick] [--json]

- `masked_marginals_ratio`: a capsid library of 735 residues with 28 drawn anew, here against fair-esm's loop over all
  positions (ESM-2 of 8M parameters, generated weights; some positions are timed and scaled up).
- `clm_token_ratio`: positions that go through a causal model for the same library, plain over shared beginnings.
- `embedding_ratio`: mean embeddings of proteins in a file's order, here against padded batches of transformers.

Times are of CPU, one thread; ratios are medians over rounds, `spread` their least and largest. Nothing is timed against
a limit here; figures belong in `benchmarks/RESULTS.md`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import asdict
from typing import Any

import torch
from evals_embedding import measure_embeddings
from evals_scoring import measure_clm_tokens, measure_masked_marginals


def measured(quick: bool) -> dict[str, Any]:
    """All ratios with their spread."""
    rounds = 1 if quick else 5
    masked = [measure_masked_marginals(300, 6 if quick else 24) for _ in range(rounds)]
    embedded = [measure_embeddings(32 if quick else 96) for _ in range(rounds)]
    tokens = measure_clm_tokens(300)
    ratios = {
        "masked_marginals_ratio": [one.ratio for one in masked],
        "clm_token_ratio": [tokens.ratio],
        "embedding_ratio": [one.ratio for one in embedded],
    }
    return {
        **{name: statistics.median(values) for name, values in ratios.items()},
        "spread": {name: [min(values), max(values)] for name, values in ratios.items()},
        "masked_marginals": asdict(masked[-1]),
        "clm_tokens": asdict(tokens),
        "embeddings": asdict(embedded[-1]),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, under a minute")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = measured(asked.quick)
    if asked.json:
        print(json.dumps(found))
        return
    for name in ("masked_marginals_ratio", "clm_token_ratio", "embedding_ratio"):
        low, high = found["spread"][name]
        print(f"{name:<24}{found[name]:7.2f}   {low:.2f} to {high:.2f}")


if __name__ == "__main__":
    main()
