"""What a causal model writes: how likely, long, various and new its sequences are, beside natural and shuffled ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.errors import RefusedError
from plm_scaling.core.records import Record
from plm_scaling.corpus.reader import Corpus
from plm_scaling.evals.adapters.base import Adapter
from plm_scaling.evals.bootstrap import Bootstrapped, bootstrap_mean
from plm_scaling.evals.likelihoods import clm_totals
from plm_scaling.evals.low_complexity import low_complexity_share
from plm_scaling.evals.novelty import measure_novelty, sequence_clusters
from plm_scaling.evals.sampling import Drawn, sample_sequences
from plm_scaling.evals.sieve import Sieved
from plm_scaling.evals.structure_judge import StructureJudge

__all__ = ["GenerationReport", "GroupQuality", "evaluate_generation", "group_quality", "shuffled_sequences"]

FloatArray = npt.NDArray[np.float64]
_TINY: Final = 1e-6


class GroupQuality(Record):
    """One group of sequences: drawn from the model, natural, or natural ones shuffled."""

    name: str
    n: int
    nats: Bootstrapped | None
    """Mean over sequences of -ln p per residue by the model that drew them; None where none was asked. Perplexity is
    its exponential."""
    length: float
    """Mean."""
    length_spread: float
    """Standard deviation."""
    unique: float
    """Share of different sequences."""
    clusters: float
    """Clusters at 50 % identity per sequence: 1 where all are unlike."""
    low_complexity: float
    """Mean share of windows of 20 residues whose composition has an entropy below 1.5 nats."""
    composition_distance: float
    """Kullback-Leibler divergence of the composition from the natural group's, nats."""
    known_words: float | None = None
    """Mean share of words of 8 residues that the corpus holds; None without a corpus."""
    nearest_identity: float | None = None
    """Mean identity to the nearest record found."""
    copies: int | None = None
    """Sequences the corpus holds as they are."""
    plddt: float | None = None
    """Mean, where a judge was asked."""
    ptm: float | None = None
    tm: float | None = None
    """Mean TM-score to the nearest known structure, where some were given."""
    judged: int = 0


class GenerationReport(Record):
    """Sequences of a model beside controls that were measured the same way."""

    model: str
    sha256: str
    temperature: float
    top_p: float
    seed: int
    longest: int
    ended: float
    """Share that the model ended itself."""
    tool: str = ""
    """What looked for the nearest record."""
    judge: str = ""
    groups: tuple[GroupQuality, ...]
    """Drawn; natural and shuffled where natural ones were given."""
    sieved: Sieved | None = None
    """What a filter let through; None where none was asked for."""
    warnings: tuple[str, ...] = ()


def evaluate_generation(
    adapter: Adapter,
    *,
    n: int = 100,
    natural: Sequence[str] = (),
    corpus: Corpus | None = None,
    judge: StructureJudge | None = None,
    prompt: str = "",
    temperature: float = 1.0,
    top_p: float = 1.0,
    longest: int = 512,
    search: bool = True,
    drawn: Sequence[Drawn] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> GenerationReport:
    """Draw sequences and measure them, natural proteins, and these shuffled, in one way.

    Parameters
    ----------
    natural : held-out proteins: what the numbers of good sequences look like; shuffled, those of bad ones.
    corpus : what the model was trained on, for novelty.
    judge : says whether sequences fold.
    longest, temperature, top_p : see `sampling.sample_sequences`.
    search : see `novelty.measure_novelty`.
    drawn : what was drawn already with these settings.

    Raises
    ------
    RefusedError : the model is not causal, or all that it drew is empty.
    """
    drawn = (
        sample_sequences(adapter, n, prompt=prompt, longest=longest, temperature=temperature, top_p=top_p, seed=seed)
        if drawn is None
        else drawn
    )
    groups = {"drawn": [one.sequence for one in drawn if one.sequence]}
    if not groups["drawn"]:
        raise RefusedError("nothing was drawn", why=f"{n} sequences were asked for", hint="ask for one or more")
    if natural:
        groups |= {"natural": list(natural), "natural, shuffled": shuffled_sequences(natural, seed)}
    composition = _composition(natural or groups["drawn"])
    found, tool = [], ""
    for name, group in groups.items():
        quality, tool = group_quality(
            name, group, adapter=adapter, composition=composition, corpus=corpus, judge=judge, search=search,
            draws=draws, seed=seed,
        )  # fmt: skip
        found.append(quality)
    return GenerationReport(
        model=adapter.info.name,
        sha256=adapter.info.sha256,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        longest=longest,
        ended=sum(one.ended for one in drawn) / len(drawn),
        tool=tool,
        judge=judge.name if judge is not None else "",
        groups=tuple(found),
        warnings=_warnings(drawn, found),
    )


def group_quality(
    name: str,
    sequences: Sequence[str],
    *,
    adapter: Adapter | None = None,
    composition: FloatArray | None = None,
    corpus: Corpus | None = None,
    judge: StructureJudge | None = None,
    search: bool = True,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[GroupQuality, str]:
    """The numbers of one group, and what looked for the nearest record.

    Parameters
    ----------
    composition : float64[20], what the group's is compared with; its own by default.
    """
    lengths = np.array([len(one) for one in sequences], dtype=np.float64)
    own = _composition(sequences)
    reference = own if composition is None else composition
    nats = None
    if adapter is not None:
        nats = bootstrap_mean(-clm_totals(adapter, sequences).values / lengths, draws=draws, seed=seed)
    novelty = None if corpus is None else measure_novelty(corpus, sequences, search=search)
    judged = [] if judge is None else [one for one in judge.judge(sequences) if one is not None]
    ptm = [one.ptm for one in judged if one.ptm is not None]
    tm = [one.tm for one in judged if one.tm is not None]
    quality = GroupQuality(
        name=name,
        n=len(sequences),
        nats=nats,
        length=float(lengths.mean()),
        length_spread=float(lengths.std()),
        unique=len(set(sequences)) / len(sequences),
        clusters=(max(sequence_clusters(sequences)) + 1) / len(sequences),
        low_complexity=float(np.mean([low_complexity_share(one) for one in sequences])),
        composition_distance=float(own @ np.log(own / reference)),
        known_words=None if novelty is None else _mean(novelty.known_words),
        nearest_identity=None if novelty is None else float(novelty.identity.mean()),
        copies=None if novelty is None else int(novelty.copy.sum()),
        plddt=float(np.mean([one.plddt for one in judged])) if judged else None,
        ptm=float(np.mean(ptm)) if ptm else None,
        tm=float(np.mean(tm)) if tm else None,
        judged=len(judged),
    )
    return quality, "" if novelty is None else novelty.tool


def shuffled_sequences(sequences: Sequence[str], seed: int = 0) -> list[str]:
    """The residues of each sequence in another order: its length and composition, and nothing else of it."""
    rng = np.random.default_rng(seed)
    return ["".join(rng.permutation(list(one))) for one in sequences]


def _composition(sequences: Sequence[str]) -> FloatArray:
    text = "".join(sequences)
    counts = np.array([text.count(letter) for letter in STANDARD], dtype=np.float64) + _TINY
    return np.asarray(counts / counts.sum())


def _mean(values: FloatArray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _warnings(drawn: Sequence[Drawn], groups: Sequence[GroupQuality]) -> tuple[str, ...]:
    found = []
    cut = sum(not one.ended for one in drawn)
    if cut > len(drawn) / 2:
        found.append(f"{cut} of {len(drawn)} sequences were cut at the longest length: the model does not end them.")
    ours = groups[0]
    if ours.unique < 1.0:
        repeated = ours.n - round(ours.unique * ours.n)
        found.append(f"{repeated} of {ours.n} sequences were drawn before.")
    natural = next((one for one in groups if one.name == "natural"), None)
    if natural is not None and ours.low_complexity > 2.0 * natural.low_complexity + 0.05:
        found.append(
            f"{ours.low_complexity:.0%} of what was drawn is of low complexity, {natural.low_complexity:.0%} of "
            "natural proteins: likelihoods and predicted structures of such sequences say little."
        )
    if ours.copies:
        found.append(f"{ours.copies} of {ours.n} sequences are in the training corpus as they are.")
    if natural is not None and ours.plddt is not None and natural.plddt is not None and ours.plddt > natural.plddt:
        found.append("Drawn sequences are predicted with more confidence than natural ones: look for repeats.")
    return tuple(found)
