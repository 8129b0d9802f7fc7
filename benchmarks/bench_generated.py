"""What a generated sequence is worth, in new real tokens, beside repeats and real sequences that were held back.

Run: python benchmarks/bench_generated.py FOLDER [FASTA]   (half an hour of two shared cores; FOLDER keeps every file)

Without FASTA the proteins are simulated; of yours those of 30 to 120 residues are taken. Some are *real*, all that one
is taken to have (U tokens); others are *held_back*, or a *test* set that every loss is of. Two generators write sources
of their own: one trained on `real` alone, at the number of epochs that is best on the test set, and one that has seen
64 U held-back tokens. What they write goes through `evaluate generate --keep`. Then, at one size and D: `real`
repeated, and `real` beside each source at three shares, three seeds at one half and two at the others.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from Bio.SeqIO.FastaIO import SimpleFastaParser

from data_prep.plan import PrepSpec
from plm_scaling import api
from plm_scaling.core.run import Stream
from plm_scaling.core.run_table import RunTable
from plm_scaling.corpus.reader import Corpus
from plm_scaling.laws.noise import pooled_seed_noise

U = 12_500
"""Tokens of `real`."""
D = 200_000
"""Tokens of every run that is compared: 16 epochs of U."""
SIZE = "2x32"
DRAWN = 2800
"""Sequences that each generator writes: enough for the largest share without repeats."""
SHARES = (0.25, 0.5, 0.75)
SEEDS = (0, 1, 2)
TEST = "heldout_test"
REAL = ("real", "held_back")
HEAD = """name = "{name}"
corpus = "{corpus}"
objectives = ["clm"]
context = 128
currency = "C_exact"
batch_tokens = 512
validation_tokens = 120_000
validation_points = 1
"""


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    if len(sys.argv) > 2:
        fasta = Path(sys.argv[2])
    else:
        fasta = folder / "fasta" / "uniref_like.fasta"
        if not fasta.exists():
            api.simulate(folder / "fasta", residues=2_400_000)
    real, held_back, test = parted(folder, fasta)
    written = generated(folder, real, held_back, test)
    corpus = prepared(folder / "corpus", {"real": real, "held_back": held_back} | written, test)
    runs = folder / "runs"
    for name, spec in sweeps(Corpus.open(corpus), ["held_back", *written]).items():
        swept(folder, name, corpus, spec, runs)
    law = folder / "fit-clm.json"
    fit = api.fit(runs, objective="clm", validation=TEST, out=law)
    print("law:", ", ".join(fit.flags) or "no doubts")
    print(read_off(api.runs_table(runs, validation=TEST)))
    found = api.exchange(runs, objective="clm", laws=[law], target="real", validation=TEST, out=folder / "rates.toml")
    print("\n".join(found.sentences))


def parted(folder: Path, fasta: Path) -> list[Path]:
    """Files of `real`, `held_back` and `test`: different sequences in a random order, no token more than asked for."""
    with fasta.open() as handle:
        distinct = list(dict.fromkeys(text for _, text in SimpleFastaParser(handle) if 30 <= len(text) <= 120))
    waiting = np.random.default_rng(0).permutation(distinct).tolist()
    files = []
    for name, tokens in (("real", U), ("held_back", 70 * U), ("test", 130_000)):
        chosen: list[str] = []
        left = tokens
        while waiting and len(waiting[-1]) < left:
            left -= len(waiting[-1]) + 1
            chosen.append(waiting.pop())
        files.append(folder / f"{name}.fasta")
        files[-1].write_text("".join(f">{name}{k}\n{one}\n" for k, one in enumerate(chosen)))
        print(f"{name}: {len(chosen)} sequences, {tokens - left:,} tokens")
    return files


def prepared(out: Path, sources: dict[str, Path], test: Path) -> Path:
    """A corpus of these sources; the test set is kept out of all of them."""
    if not (out / "manifest.json").exists():
        named = {name: [path] for name, path in sources.items()}
        api.prep(named, out, PrepSpec(val_share=0.005), hold_out={"test": [test]})
    return out


def generated(folder: Path, real: Path, held_back: Path, test: Path) -> dict[str, Path]:
    """Sources that models wrote: one trained on `real` alone, and one trained on many held-back sequences."""
    own = prepared(folder / "corpus_own", {"real": real}, test)
    more = prepared(folder / "corpus_more", {"held_back": held_back}, test)
    swept(folder, "own", own, grid([8 * U, 16 * U, 32 * U]), folder / "runs_own")
    swept(folder, "more", more, grid([64 * U]), folder / "runs_more")
    tried = sorted(api.runs_table(folder / "runs_own", validation=TEST), key=lambda row: row.loss)
    print("generator on real alone:", ", ".join(f"{row.epochs:.0f} epochs {row.loss:.3f}" for row in tried))
    (taught,) = api.runs_table(folder / "runs_more", validation=TEST)
    print(f"generator on 64 U held-back tokens: {taught.loss:.3f}")
    asked = {
        "own": (folder / "runs_own" / tried[0].run_id, 1.0),
        "more_seen": (folder / "runs_more" / taught.run_id, 1.0),
    }
    written = {}
    for name, (model, temperature) in asked.items():
        written[name] = folder / f"{name}.fasta"
        if written[name].exists():
            continue
        report = api.evaluate_generate(
            model, folder / f"{name}.json", n=DRAWN, longest=120, temperature=temperature, corpus=own,
            keep=written[name], resamples=100,
        )  # fmt: skip
        assert report.sieved is not None
        group = report.groups[0]
        print(f"{name}: {report.sieved.sentence}; nearest {group.nearest_identity:.2f}, clusters {group.clusters:.2f}")
    return written


def grid(tokens: list[int], size: str = SIZE, seeds: tuple[int, ...] = (0,)) -> str:
    """Runs on all of a mixture."""
    return f'[[grid]]\nsizes = ["{size}"]\nD = {tokens}\nseeds = {list(seeds)}\n'


def sweeps(corpus: Corpus, others: list[str]) -> dict[str, str]:
    """New real tokens at three sizes (the law), `real` repeated, and `real` beside every other source."""
    unique = corpus.pool_tokens(Stream(sources=("real",)))
    fresh = [grid([4 * U, 8 * U, 16 * U, 32 * U], size) for size in ("2x16", "2x24", SIZE)]
    repeated = [
        f'[[repeats]]\nsize = "{size}"\nD = {round(share * D)}\nunique_tokens = []\n'
        for share in (*SHARES, 1.0)
        for size in ("2x16", SIZE)
    ]
    mixed = [
        f'[[diversity]]\nsize = "{SIZE}"\nD = {D}\nunique_tokens = {unique}\nfirst = "real"\nsecond = "{other}"\n'
        f"shares = {shares}\nseeds = {seeds}\n"
        for other in others
        for shares, seeds in (([0.5], list(SEEDS)), (list(SHARES), list(SEEDS[:2])))
    ]
    return {
        "fresh": "mixture = { held_back = 1.0 }\n" + "".join(fresh) + grid([D], seeds=SEEDS[1:]) + grid([64 * U]),
        "repeated": "mixture = { real = 1.0 }\n" + "".join(repeated),
        "mixed": "".join(mixed),
    }


def swept(folder: Path, name: str, corpus: Path, spec: str, runs: Path) -> None:
    """Plan and train what is not there yet."""
    file = folder / f"{name}.toml"
    file.write_text(HEAD.format(name=name, corpus=corpus) + spec)
    plan = api.plan(file, folder / f"{name}.plan.json")
    outcome = api.run(folder / f"{name}.plan.json", runs)
    print(
        f"{name}: {len(plan.runs)} runs, {plan.total_C_exact:.2g} FLOPs, {len(outcome.complete)} complete", flush=True
    )


def measured(table: RunTable) -> dict[tuple[str, float, int], list[float]]:
    """Losses at the one size, one a seed, by (other source, its share, tokens in thousands)."""
    found: dict[tuple[str, float, int], dict[int, float]] = {}
    for row in table:
        if row.N > 20_000:
            parts = {one["sources"][0]: one.get("weight", 1.0) for one in json.loads(row.streams or "[]")}
            other = next((name for name in parts if name != "real"), "real")
            share = parts[other] / sum(parts.values()) if other != "real" else 0.0
            found.setdefault((other, round(share, 3), round(row.D / 1e4) * 10), {})[row.seed or 0] = row.loss
    return {key: list(losses.values()) for key, losses in found.items()}


def read_off(table: RunTable, samples: int = 4000) -> str:
    """Tokens of a source beside those of `real` as new real tokens, by the measured losses alone.

    A loss is read as the new real tokens that reach it, on the straight lines between the runs on new tokens (loss
    against ln D). What a mixture reaches less what its `real` part alone reaches, in as many tokens, is the source's.
    Intervals hold the noise between seeds of every loss, those of the lines too.
    """
    found, rng = measured(table), np.random.default_rng(0)
    # Runs on what models wrote scatter more than the others: two noises.
    noises = {
        plain: pooled_seed_noise(table.where(lambda row, plain=plain: _plain(row.streams) == plain))
        for plain in (True, False)
    }
    drawn = {}
    for key, got in found.items():
        noise = noises[key[0] in REAL]
        assert noise is not None
        sd = noise.sd * noise.factors(samples, rng) / len(got) ** 0.5
        drawn[key] = np.mean(got) + rng.standard_normal(samples) * sd
    new = sorted(key[2] for key in found if key[:2] == ("held_back", 1.0))
    lines = np.stack([-drawn["held_back", 1.0, tokens] for tokens in new])

    def fresh(key: tuple[str, float, int]) -> np.ndarray:
        pairs = zip(-drawn[key], lines.T, strict=True)
        return np.exp([np.interp(loss, line, np.log(1e3 * np.array(new))) for loss, line in pairs])

    whole = round(D / 1e4) * 10
    lines_out = [
        "| beside real | share | loss (seeds) | worth in new real tokens (95 %) | per token |",
        "|---|---|---|---|---|",
    ]
    rates: dict[str, list[tuple[float, np.ndarray]]] = {}
    keys = [("real", share, whole) for share in SHARES] + [key for key in sorted(found) if 0 < key[1] < 1]
    for name, share, tokens in keys:
        key = ("real", 0.0, whole) if name == "real" else (name, share, tokens)
        alone = ("real", 0.0, round((1 - share) * D / 1e4) * 10)
        worth, got = fresh(key) - fresh(alone), found[key]
        rates.setdefault(name, []).append((share * D, worth))
        lines_out.append(
            f"| {name if name != 'real' else 'real, repeated'} | {share:.0%} | {np.mean(got):.3f} ({len(got)}) "
            f"| {_interval(worth, '{:,.0f}')} | {_interval(worth / (share * D), '{:+.2f}')} |"
        )
    for name, points in rates.items():
        tokens_J, worth_JS = np.array([one for one, _ in points]), np.stack([worth for _, worth in points])
        rate = tokens_J @ worth_JS / (tokens_J @ tokens_J)
        lines_out.append(f"{name}: {_interval(rate, '{:+.2f}')} per token over all shares")
    ends = [
        (name, np.mean(got), len(got)) for (name, share, tokens), got in found.items() if share == 1 and tokens == whole
    ]
    lines_out += [f"{name} alone: {loss:.3f} ({n})" for name, loss, n in ends]
    sds = ", ".join(f"{'real' if plain else 'with written'} {one.sd:.4f}" for plain, one in noises.items() if one)
    return "\n".join([*lines_out, f"noise between seeds, nats: {sds}"])


def _plain(streams: str | None) -> bool:
    return {one["sources"][0] for one in json.loads(streams or "[]")} <= set(REAL)


def _interval(samples: np.ndarray, form: str) -> str:
    low, middle, high = (form.format(q) for q in np.quantile(samples, [0.025, 0.5, 0.975]))
    return f"{middle} ({low} to {high})"


if __name__ == "__main__":
    main()
