"""The verdict's sentences on single experiments: repeats, a second source, transfer."""

from __future__ import annotations

from markupsafe import Markup

from plm_scaling.core.units import format_count
from plm_scaling.reporting.arms import Arm, Estimate, RepeatSeries
from plm_scaling.reporting.mixtures import DiversityView
from plm_scaling.reporting.study import Study, pair_set
from plm_scaling.reporting.wording import (
    chip_line,
    count,
    count_range,
    join_words,
    measured,
    percent,
    signed,
    token_gain,
)
from plm_scaling.transfers.transfer_fit import TransferPair

__all__ = ["say_repeats", "say_second_source", "say_transfer"]


def say_repeats(series: RepeatSeries) -> Markup:
    """What repeats cost at one N and D, against unlimited data."""
    where = f"At N = {format_count(series.N)} and D = {format_count(series.D)}, "
    if series.reference is None:
        return chip_line(series.objective, "{}the run on unlimited data is missing, so no cost can be stated.", where)
    harmless = [arm for arm in series.arms if arm.change and not _costs(arm)]
    harmful = [arm for arm in series.arms if arm.change and _costs(arm)]
    parts = []
    if harmless:
        parts.append(f"{join_words([arm.label for arm in harmless])} cost nothing that can be told from noise")
    if harmful:
        costs = [f"{arm.label} {signed(arm.change.value, arm.change.se)}" for arm in harmful if arm.change]
        parts.append(f"{join_words(costs)} nats against unlimited data")
    text = "; ".join(parts)
    if all(arm.change is None or arm.change.se is None for arm in series.arms):
        text += " (no error is known: neither replicates nor paired losses)"
    return chip_line(series.objective, "{}{}.", where, text)


def _costs(arm: Arm) -> bool:
    """A rise that can be told from noise; any rise where no error is known."""
    change = arm.change
    return change is not None and change.value > 0 and change.clear is not False


def say_second_source(study: Study, view: DiversityView) -> tuple[Markup, ...]:
    """What is compared and on which mix it is judged; then every mixture, on the whole set and by source."""
    group, reference = view.pooled, view.pooled.reference
    mix = join_words([f"{percent(share)} {source}" for source, share in view.mix]) or "of unknown mix of sources"
    first = chip_line(
        group.objective,
        "Against {} ({:.3g} passes), at equal N = {} and D = {}, judged on {} ({}):",
        reference.label,
        reference.epochs,
        format_count(group.N),
        format_count(group.D),
        study.validation,
        mix,
    )
    lines = [_mixture(view, arm, arm.change) for arm in group.arms if arm.change]
    if not view.parts and study.only_source is None:
        lines.append(Markup("Not scored by source: fewer repeats and a training mix closer to this set look the same."))
    return (first, *lines)


def _mixture(view: DiversityView, arm: Arm, change: Estimate) -> Markup:
    twins = {source: view.on_source(source, arm) for source, _ in view.parts}
    changes = {source: twin.change for source, twin in twins.items() if twin and twin.change}
    line = Markup("{}: <b>{} nats</b> ({})").format(arm.label, signed(change.value, change.se), _effect_word(change))
    for source, part in changes.items():
        line += Markup(", {} on {} alone ({})").format(signed(part.value, part.se), source, _effect_word(part))
    first = view.pooled.sources[0] if view.pooled.sources else ""
    if first not in changes or len(changes) < 2:
        return line + Markup(".")
    others = [part for source, part in changes.items() if source != first]
    return line + Markup(". {}.").format(_reading(changes[first], others, first))


def _effect_word(change: Estimate) -> str:
    effect = "better" if change.value < 0 else "worse"
    return {True: effect, False: "no detectable difference", None: f"{effect}, error unknown"}[change.clear]


def _reading(own: Estimate, others: list[Estimate], first: str) -> str:
    """What the first source's own sequences say: they profit from fewer repeats, never from a mix closer to them."""
    gains = any(_is_clear(change, better=True) for change in others)
    if _is_clear(own, better=True):
        return f"It helps on {first} itself, so it is more than a training mix closer to the validation mix"
    if _is_clear(own, better=False):
        return f"It costs on {first} itself" + (": a shift of distribution, not a gain for all" if gains else "")
    if gains:
        return f"No effect on {first} itself can be told from noise: the gain is the other source's own distribution"
    return "By source, nothing can be told from noise"


def _is_clear(change: Estimate, *, better: bool) -> bool:
    return bool(change.clear) and (change.value < 0) == better


def say_transfer(study: Study, pair: TransferPair) -> Markup:
    """The gap with what its error holds, what it is worth in tokens, and what the source cost."""
    way = f"{pair.source_objective.upper()} \u2192 {pair.objective.upper()}"
    judged = pair_set(study, pair)
    where = "" if judged == study.validation else f", on {judged}, not on this page's {study.validation}"
    gap, error = _gap(pair)
    clear = "GAP_WITHIN_NOISE" not in pair.flags
    args = (way, format_count(pair.N), where, measured(pair.loss_scratch, None), measured(pair.loss_transfer, None))
    text = "{} at N = {}{}: the loss changes from {} to {}, " + ("<b>{} nats</b>" if clear else "{} nats") + " ({}). "
    line = chip_line(pair.objective, text, *args, gap, error)
    return Markup(" ").join([line.rstrip(), *_effect(pair), *_caveats(pair)])


def _gap(pair: TransferPair) -> tuple[str, str]:
    """The gap with the widest error known, and what that error holds."""
    if pair.gap_total_se is not None:
        return signed(pair.gap, pair.gap_total_se), "error: paired validation sequences and seeds"
    if pair.gap_se is not None:
        return signed(pair.gap, pair.gap_se), "error: paired validation sequences only, no seeds"
    return signed(pair.gap, None), "no error is known"


def _effect(pair: TransferPair) -> list[Markup]:
    gain = token_gain(pair)
    if "GAP_WITHIN_NOISE" in pair.flags:
        worth = f" Its worth in tokens, {gain}, is open." if gain else ""
        return [Markup("No detectable effect: the gap is less than twice its noise.{}").format(worth), *_price(pair)]
    hurts = "TRANSFER_HURTS" in pair.flags or (pair.D_t is not None and pair.D_t < 0)
    if hurts:
        return [Markup("<b>Transfer hurts here</b>{}.").format(_loss_in_tokens(pair))]
    if gain is None:
        return [Markup("Its worth in tokens is refused: the scratch runs do not bracket it."), *_price(pair)]
    text = f"That is worth {gain} further tokens from scratch"
    if pair.D_t_per_source_token is not None:
        text += f", {pair.D_t_per_source_token:.2g} per source token"
    if "OUTSIDE_SCRATCH_RANGE" in pair.flags:
        read = "no scratch run is that good" if pair.D_t is None else "read off the fitted surface"
        text += f" (beyond the scratch runs: {read})"
    return [Markup("{}.").format(text), *_price(pair)]


def _loss_in_tokens(pair: TransferPair) -> str:
    """How many tokens a transferred run throws away: D_t with its sign turned."""
    low, high = pair.D_t_low, pair.D_t_high
    if pair.D_t is None:
        return f": scratch ends as well with at least {count(-high)} fewer tokens" if high is not None else ""
    within = f" ({count_range(-high, -low)})" if low is not None and high is not None else ""
    return f": scratch ends as well with {count(-pair.D_t)} fewer tokens{within}"


def _price(pair: TransferPair) -> list[Markup]:
    """What the source's compute would have bought; undecided where the interval of the net gain holds zero."""
    if pair.net_tokens is None or pair.D_t is None:
        if pair.net_loss_gain is None:
            return [Markup("The source's cost is unknown.")]
        end = "pays" if pair.net_loss_gain > 0 else "pays only if the source model exists anyway"
        text = "Given the source's compute too, scratch would end at a loss {} nats {} than this: <b>transfer {}</b>."
        side = "higher" if pair.net_loss_gain > 0 else "lower"
        return [Markup(text).format(measured(abs(pair.net_loss_gain), None), side, end)]
    cost = pair.D_t - pair.net_tokens
    amount = f"net {'+' if pair.net_tokens > 0 else ''}{count(pair.net_tokens)} tokens"
    low, high = pair.D_t_low, pair.D_t_high
    line = Markup("The source's compute would have bought {}: ").format(count(cost))
    nothing = "GAP_WITHIN_NOISE" in pair.flags
    if low < cost < high if low is not None and high is not None else nothing:
        unless = "" if nothing else " unless the source model exists anyway"
        return [line + Markup("{}, within its error; whether transfer pays is open{}.").format(amount, unless)]
    unless = "does not pay" if nothing else "pays only if the source model exists anyway"
    return [line + Markup("<b>{}, transfer {}</b>.").format(amount, "pays" if pair.net_tokens > 0 else unless)]


def _caveats(pair: TransferPair) -> list[Markup]:
    sentences = []
    if "SOURCE_DATA_REPLAYED" in pair.flags:
        share = "Part" if pair.replayed_share is None else percent(pair.replayed_share)
        sentences.append(
            f"{share} of the target's distinct tokens had been seen by the source: "
            "the gain in tokens counts their replay as transfer."
        )
    if "MIXED_BATCH" in pair.flags:
        sentences.append("The scratch runs differ in batch or learning rate, which alone moves the loss.")
    return [Markup("{}").format(sentence) for sentence in sentences]
