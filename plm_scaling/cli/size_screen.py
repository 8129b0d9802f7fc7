"""A recommendation as lines for a terminal."""

from __future__ import annotations

from plm_scaling.core.units import format_count
from plm_scaling.sizing.recommendation import Recommendation

__all__ = ["recommendation_lines"]


def recommendation_lines(answer: Recommendation) -> list[str]:
    """The verdict, the numbers behind it, what other sizes would lose, and what costs nothing to train."""
    return [*_headline(answer), *_decision(answer), *_recipe(answer), *_laws(answer), *_actions(answer)]


def _headline(answer: Recommendation) -> list[str]:
    count = format_count
    hours = f"{answer.gpu_hours:,.0f} {answer.gpu} hours{_cost(answer)}"
    size = f"  parameters N  {count(answer.N, 2):>6}   band {count(answer.N_low, 2)} to {count(answer.N_high, 2)}"
    if answer.decision is not None:
        low, middle, high = (count(N, 2) for N in answer.decision.N_quantiles)
        size += f"{_widened(answer)}; best N of the draws {low}, {middle}, {high} (10, 50, 90 %)"
    lines = [
        f"{answer.objective.upper()} for {answer.C:.2e} FLOPs: {hours}",
        *([answer.verdict] if answer.verdict else []),
        "",
        size,
        f"  tokens D      {count(answer.D, 2):>6}   {count(answer.tokens_per_parameter, 2)} per parameter",
    ]
    if answer.epochs is not None and answer.unique_tokens is not None:
        epochs = f"{answer.epochs:.1f}" if answer.epochs < 1000 else count(answer.epochs)
        lines.append(f"  epochs        {epochs:>6}   over {count(answer.unique_tokens)} unique tokens")
    return lines


def _widened(answer: Recommendation) -> str:
    """The laws whose size stretches the band beyond the valley of the first."""
    assert answer.decision is not None
    valley = answer.decision.N_band
    beyond = [law.law_id for law in answer.answers if law.role != "comparison" and not valley[0] <= law.N <= valley[1]]
    return f" (widened by {', '.join(beyond)})" if beyond else ""


def _decision(answer: Recommendation) -> list[str]:
    """Loss with its interval by cause, and the regret of other sizes."""
    made = answer.decision
    if made is None:
        return []
    low, middle, high = made.perplexity
    split, total = made.split, made.split.total or 1.0
    parts = {
        "parameters": split.parameters,
        "form": split.form,
        "noise of a run": split.noise,
        "extrapolation": split.extrapolation,
    }
    held = "; on unlimited data" if "SIZE_HELD" in made.flags else ""
    shares = ", ".join(f"{name} {100.0 * part / total:.0f} %" for name, part in parts.items())
    lines = [
        f"  loss          {made.loss:6.3f}   {100.0 * made.level:.0f} %: {made.loss_low:.3f} to {made.loss_high:.3f} "
        f"nats per token; perplexity {middle:.2f} ({low:.2f} to {high:.2f})",
        f"                         variance: {shares}",
        f"                         forms differ by a factor {made.form_factor:.2f} in N, draws of one form by "
        f"{made.draw_factor:.2f} (10 to 90 %)",
        f"  regret              N       D    mean    worst  (nats above the best size of each draw{held})",
    ]
    for regret in made.regrets:
        numbers = (
            f"{format_count(regret.N, 2):>6}  {format_count(regret.D, 2):>6}  {regret.mean:.4f}  {regret.worst:.4f}"
        )
        lines.append(f"    {regret.label:<15}{numbers}")
    return lines


def _recipe(answer: Recommendation) -> list[str]:
    lines = []
    if answer.bill is not None:
        from plm_scaling.sizing.run_bill import bill_line

        lines.append(f"  bill          {bill_line(answer.bill)}")
    else:
        lines.append(
            f"  buildable     {answer.n_layers} layers x {answer.d_model}, "
            f"{answer.n_heads} head{'s' * (answer.n_heads > 1)}: N {format_count(answer.N_built)}"
        )
    if answer.peak_lr is not None and answer.batch_tokens is not None and answer.n_steps is not None:
        lines.append(
            f"  recipe        peak LR {answer.peak_lr:.2g}, batch {format_count(answer.batch_tokens)} tokens, "
            f"{answer.n_steps:,} steps ({answer.recipe})"
        )
    if answer.wall_hours is not None:
        lines.append(f"  wall time     {answer.wall_hours:,.0f} h on {answer.n_gpus} {answer.gpu}")
    return lines


def _cost(answer: Recommendation) -> str:
    if answer.usd is None:
        return ""
    if answer.usd_low is None or answer.usd_high is None:
        return f", ${answer.usd:,.0f}"
    return f", ${answer.usd:,.0f} (${answer.usd_low:,.0f} to ${answer.usd_high:,.0f})"


def _laws(answer: Recommendation) -> list[str]:
    lines = ["", "  what each law says:"]
    for law in answer.answers:
        loss = f"  loss {law.loss:.3f}" if law.loss is not None else ""
        flags = f"  {','.join(law.flags)}" if law.flags else ""
        numbers = f"N {format_count(law.N, 2):>6}  D {format_count(law.D, 2):>6}"
        lines.append(f"    {law.law_id:<20} {numbers}{loss}  [{law.status}]{flags}")
    return lines


def _actions(answer: Recommendation) -> list[str]:
    if not answer.actions:
        return []
    lines = ["", "  or train nothing (`plm-scaling spend` weighs every way to spend the budget):"]
    for action in answer.actions:
        lines.append(f"    {action.title.removeprefix('train nothing: ')}")
        lines += [f"      {said}" for said in action.assumptions]
    return lines
