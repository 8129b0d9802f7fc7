"""What is doubtful about transferred tokens, in plain sentences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from plm_scaling.core.units import format_count
from plm_scaling.transfers.transfer_fit import ExchangeTrend, SourceShare, TransferPair

__all__ = ["SENTENCES", "explain_pair", "explain_shares", "explain_trends"]

SENTENCES: Final[dict[str, str]] = {
    "OUTSIDE_SCRATCH_RANGE": "the scratch runs of this size do not bracket the transferred loss: D_t is read off the "
    "fitted surface if there is one, else only bounded on the side that the runs show.",
    "OPEN_INTERVAL": "the noise allows a D_t beyond the scratch runs of this size: the interval has no end there.",
    "GAP_WITHIN_NOISE": "the gap is less than twice its noise: no detectable effect of the transfer.",
    "TRANSFER_HURTS": "the transferred run ended worse than its scratch partner by more than twice the noise.",
    "SEED_DIFFERS": "the scratch partner has another seed: the gap carries the full noise of the seeds.",
    "NO_SEED_NOISE": "no replicates of this objective: the interval leaves out the noise of the seeds.",
    "FEW_REPLICATES": "replicates of fewer than five degrees of freedom say how noisy seeds are, so the interval of "
    "D_t is wide; {fixed}.",
    "SHUFFLED_SOURCE": "a control: its source was trained on shuffled residues.",
    "TRANSFER_LR_UNTUNED": "the transferred run ended lower at another learning rate: the transfer is worth more than "
    "this D_t.",
    "SCRATCH_LR_UNTUNED": "its scratch partner ended lower at another learning rate: part of the gain is the recipe's.",
    "NO_SOURCE_COMPUTE": "the source's compute is unknown: no net gain is given.",
    "METHODS_DISAGREE": "estimators differ by more than a factor of 1.5 in D_t: {estimates}.",
    "MIXED_BATCH": "no scratch runs of several lengths share the partner's batch and peak learning rate: D_t is read "
    "off runs that differ in them.",
    "SOURCE_DATA_REPLAYED": "its source had seen {replayed:.0%} of the tokens that this run was trained on: D_t counts "
    "training on them again as transfer.",
    "LAW_ONLY": "no scratch run has its N, D, batch and data: the scratch level is {anchor}, and the interval holds "
    "what a law misses of a single size.",
    "LAW_OF_OTHER_SET": "the scratch law was fitted to losses on another validation set than this run's.",
    "BEYOND_LAW_RANGE": "D_f + D_t lies beyond the tokens that any run of the scratch law has seen.",
}

_TREND_SENTENCES: Final[dict[str, str]] = {
    "THREE_SIZES": "the trend of a source's worth over size rests on three sizes: nothing checks that it is a power "
    "law.",
    "SHARE_CONFOUNDED": "the source's share of the compute moves with size: what looks like an effect of size may be "
    "one of the share.",
    "BREAK_EVEN_EXTRAPOLATED": "the size at which a source is worth its compute lies outside the sizes measured.",
}

_SHARE_SENTENCES: Final[dict[str, str]] = {
    "NOT_WORTH_ITS_COMPUTE": "the source is worth no more than its compute: the best share for it is 0, train from "
    "scratch.",
    "SHARE_AT_EDGE": "the source is worth more than its compute at the share tried ({tried}): the best share is "
    "that or a larger one, which nobody measured.",
    "SHARE_OPEN": "the interval of the source's worth holds its compute: whether to spend on a source is open.",
    "BEST_SIZE_OUT_OF_HULL": "the compute-optimal size it is compared with lies outside the sizes of the scratch runs.",
}


def explain_pair(pair: TransferPair) -> tuple[str, ...]:
    """One sentence per flag of a pair, naming its transferred run."""
    known = [estimate for estimate in pair.estimates if estimate.weight >= 0.05 and estimate.D_t is not None]
    words: dict[str, object] = {"replayed": pair.replayed_share or 0.0}
    words["estimates"] = ", ".join(f"{one.name} {_count(one.D_t or 0.0)}" for one in known)
    fixed = pair.D_t_fixed_seeds
    words["fixed"] = "it has no ends without that noise either"
    if fixed is not None:
        words["fixed"] = f"without that noise it would be {_count(fixed.low)} to {_count(fixed.high)}"
    near = f"that of {pair.scratch_run_id}, moved along the law"
    words["anchor"] = near if pair.scratch_run_id else "the law's own"
    return tuple(
        f"{flag}: {pair.target_run_id}: {SENTENCES[flag].format(**words)}" for flag in pair.flags if flag in SENTENCES
    )


def explain_trends(trends: Sequence[ExchangeTrend]) -> tuple[str, ...]:
    """One sentence per flag of every trend, naming its direction."""
    return tuple(
        f"{flag}: {trend.source_objective.upper()} -> {trend.objective.upper()}: {_TREND_SENTENCES[flag]}"
        for trend in trends
        for flag in trend.flags
        if flag in _TREND_SENTENCES
    )


def explain_shares(shares: Sequence[SourceShare]) -> tuple[str, ...]:
    """One sentence per flag of the shares of a direction, naming the sizes it holds for."""
    groups: defaultdict[tuple[str, str, str], list[SourceShare]] = defaultdict(list)
    for share in shares:
        for flag in share.flags:
            groups[flag, share.source_objective, share.objective].append(share)
    notes = []
    for (flag, source, target), group in groups.items():
        rising = sorted(group, key=lambda share: share.N)
        tried = ", ".join(dict.fromkeys(f"{share.share_tried:.0%}" for share in rising))
        sizes = ", ".join(dict.fromkeys(format_count(share.N) for share in rising))
        sentence = _SHARE_SENTENCES[flag].format(tried=tried)
        notes.append(f"{flag}: {source.upper()} -> {target.upper()} at N = {sizes}: {sentence}")
    return tuple(notes)


def _count(value: float) -> str:
    return f"{'-' if value < 0 else ''}{format_count(abs(value))}"
