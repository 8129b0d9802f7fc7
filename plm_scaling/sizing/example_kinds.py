"""The kinds of worked examples: inputs and answers by keys that carry their units."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from plm_scaling.core.architecture import (
    Architecture,
    block_parameters_of,
    contact_parameters_of,
    head_flops_of,
    outside_parameters_of,
)
from plm_scaling.core.errors import ConfigError, did_you_mean
from plm_scaling.laws.repeat_worth import epochs_until, marginal_worth, worth
from plm_scaling.laws.zoo import find_law
from plm_scaling.laws.zoo_forms import ZOO_FORMS
from plm_scaling.sizing.data_price import bought_tokens, collect_or_grow, parity_size
from plm_scaling.sizing.distilled import distil
from plm_scaling.sizing.draw_regret import DrawRegret
from plm_scaling.sizing.exact_optimum import exact_optimum
from plm_scaling.sizing.example_inputs import ADDITIVE, REPEATING, Inputs
from plm_scaling.sizing.iso_loss import iso_loss_optimum
from plm_scaling.sizing.memory_fit import activation_bytes, state_bytes
from plm_scaling.sizing.overfitting import OverfittingLaw
from plm_scaling.sizing.phase_split import PhaseSplit
from plm_scaling.sizing.training_bill import training_bill

__all__ = ["KINDS", "Answer", "answer_example"]

Answer = dict[str, float | list[float]]


def answer_example(kind: str, inputs: Mapping[str, Any], *, where: str = "") -> Answer:
    """The answer to one case of a worked example.

    Parameters
    ----------
    kind : one of `KINDS`.
    inputs : values by name, units in the names: params, tokens, flops, usd, nats, GB of 1e9 bytes, shares of 1.
    where : what a complaint names, for example the example's id and the number of the case.

    Raises
    ------
    ConfigError : unknown kind or form of law; a key that is missing, of the wrong type or out of range.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"unknown kind {kind!r:.80}", where=where, hint=did_you_mean(str(kind), KINDS))
    try:
        said = KINDS[kind](Inputs(inputs, where))
        beyond = [key for key, value in said.items() if not _all_finite(value)]
    except ConfigError as error:
        if error.where or not where:
            raise
        raise ConfigError(error.what, where=where, why=error.why, hint=error.hint) from None
    except (ArithmeticError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        raise ConfigError(f"numbers too large or too small for {kind}", where=where, why=why) from None
    if beyond:
        raise ConfigError(f"numbers too large or too small for {kind}", where=where, why=f"{beyond[0]} has no end")
    return said


def _all_finite(value: float | list[float]) -> bool:
    return all(math.isfinite(one) for one in (value if isinstance(value, list) else [value]))


# ---- one law, one budget -------------------------------------------------------------------------------------------


def _optimum_6nd(x: Inputs) -> Answer:
    law = x.law("law", ADDITIVE)
    N, D = law.optimum(x.positive("C_flops"))
    return {"N_params": N, "D_tokens": D, "tokens_per_param": D / N, "loss_nats": law.loss(N, D)}


def _optimum_exact_flops(x: Inputs) -> Answer:
    law, C = x.law("law", ADDITIVE), x.positive("C_flops")
    found = exact_optimum(law, C, x.not_negative("seq_len_tokens"), x.positive("width_per_layer"))
    return {
        "N_params": found.N,
        "D_tokens": found.D,
        "loss_nats": found.loss,
        "N_6nd_params": found.N_6nd,
        "regret_6nd_choice_nats": found.regret_6nd,
        "token_shortfall_fraction": found.token_shortfall,
    }


def _power_frontier(x: Inputs) -> Answer:
    C = x.positive("C_flops")
    powers: dict[str, float] = {}
    for letter in ("N", "D"):
        law = x.within(f"{letter}_law")
        powers |= {f"k_{letter}": law.positive("coef"), f"a_{letter}": law.number("exponent")}
    optimum, rule = ZOO_FORMS["power_frontier"].optimum, ZOO_FORMS["loss_compute"].rule
    assert optimum is not None
    assert rule is not None
    N, D = optimum(powers, C)
    said: Answer = {"N_params": N, "D_tokens": D, "tokens_per_param": D / N, "six_ND_over_C": 6.0 * N * D / C}
    if "loss_law" in x:
        law = x.within("loss_law")
        said["loss_nats"] = rule({"k_C": law.positive("coef"), "a_C": law.number("exponent")}, {"C": C})["loss"]
    return said


def _decision_regret(x: Inputs) -> Answer:
    draws = DrawRegret(x.laws("law_draws", ADDITIVE), x.positive("C_flops"))
    least_mean, minimax = draws.least_mean(), draws.least_largest()
    return {
        "N_opt_per_draw_params": list(draws.optima),
        "N_mean_regret_params": least_mean,
        "regret_mean_nats": draws.mean(least_mean),
        "N_minimax_params": minimax,
        "regret_minimax_nats": draws.largest(minimax),
        "regret_2x_too_big_nats": draws.mean(2.0 * least_mean),
        "regret_2x_too_small_nats": draws.mean(0.5 * least_mean),
    }


# ---- repeats -------------------------------------------------------------------------------------------------------


def _loss_repeated_data(x: Inputs) -> Answer:
    law = x.law("law", REPEATING)
    return {"loss_nats": law.repeated_loss(x.positive("N_params"), x.positive("D_tokens"), x.positive("unique_tokens"))}


def _optimum_data_constrained(x: Inputs) -> Answer:
    law, C, U = x.law("law", REPEATING), x.positive("C_flops"), x.positive("unique_tokens")
    (N, D), (N_free, D_free) = law.repeated_optimum(C, U), law.optimum(C)
    return {
        "N_params": N,
        "D_tokens": D,
        "epochs": D / U,
        "loss_nats": law.repeated_loss(N, D, U),
        "unlimited_N_params": N_free,
        "unlimited_D_tokens": D_free,
        "unlimited_loss_nats": law.loss(N_free, D_free),
        "loss_if_unlimited_N_kept_nats": law.repeated_loss(N_free, D_free, U),
    }


def _repeat_value(x: Inputs) -> Answer:
    limit, epochs = x.positive("R_D_star"), x.at_least_one("epochs")
    return {
        "D_eff_over_unique": worth(epochs, 1.0, limit),
        "marginal_value_fraction": marginal_worth(epochs, limit),
        "max_D_eff_over_unique": 1.0 + limit,
    }


def _repeat_horizon(x: Inputs) -> Answer:
    return {"epochs": epochs_until(x.share("marginal_value_fraction"), x.positive("R_D_star"))}


def _overfitting(x: Inputs) -> OverfittingLaw:
    return OverfittingLaw(
        law=x.law("law", ADDITIVE),
        unique_tokens=x.positive("unique_tokens"),
        P=x.not_negative("penalty_P_nats"),
        delta=x.not_negative("penalty_delta"),
        kappa=x.number("penalty_kappa"),
    )


def _overfit_best_epochs(x: Inputs) -> Answer:
    law, N, compare = _overfitting(x), x.positive("N_params"), x.positive("compare_D_tokens")
    epochs = law.best_epochs(N)
    D = epochs * law.unique_tokens
    return {
        "epochs": epochs,
        "D_tokens": D,
        "loss_nats": law.loss(N, D),
        "loss_if_unique_nats": law.law.loss(N, D),
        "loss_at_compare_nats": law.loss(N, compare),
    }


def _overfit_budget(x: Inputs) -> Answer:
    law, C = _overfitting(x), x.positive("C_flops")
    N = law.best_size(C)
    D = C / (6.0 * N)
    N_free, D_free = law.law.optimum(C)
    return {
        "N_params": N,
        "D_tokens": D,
        "epochs": D / law.unique_tokens,
        "loss_nats": law.loss(N, D),
        "unlimited_N_params": N_free,
        "unlimited_loss_nats": law.law.loss(N_free, D_free),
        "loss_if_unlimited_N_kept_nats": law.loss(N_free, D_free),
    }


# ---- money ---------------------------------------------------------------------------------------------------------


def _inference_adjusted(x: Inputs) -> Answer:
    law, target = x.law("law", ADDITIVE), x.number("target_loss_nats")
    found = iso_loss_optimum(law, target, x.not_negative("inference_tokens"))
    return {
        "N_params": found.N,
        "D_tokens": found.D,
        "train_flops": found.train_flops,
        "inference_flops": found.inference_flops,
        "total_flops": found.total_flops,
        "saving_fraction": found.saving,
    }


def _data_price(x: Inputs) -> Answer:
    p, q = x.positive("usd_per_flop"), x.not_negative("usd_per_token")
    found = bought_tokens(x.law("law", ADDITIVE), x.positive("budget_usd"), p, q)
    return {
        "N_params": found.N,
        "D_tokens": found.D,
        "loss_nats": found.loss,
        "data_usd": found.data_usd,
        "compute_usd": found.compute_usd,
        "parity_N_params": parity_size(q, p),
    }


def _collect_or_grow(x: Inputs) -> Answer:
    found = collect_or_grow(
        x.law("law", REPEATING),
        x.positive("budget_usd"),
        x.positive("usd_per_flop"),
        x.not_negative("usd_per_token"),
        x.not_negative("free_unique_tokens"),
    )
    return {
        "N_params": found.N,
        "D_tokens": found.D,
        "unique_tokens": found.unique_tokens,
        "epochs": found.D / found.unique_tokens,
        "new_tokens": found.new_tokens,
        "data_usd": found.data_usd,
        "loss_nats": found.loss,
    }


def _cost_time_carbon(x: Inputs) -> Answer:
    bill = training_bill(
        x.not_negative("train_flops"),
        gpus=x.positive("gpus"),
        peak_flops_per_s=x.positive("gpu_peak_flops_per_s"),
        mfu=x.positive("mfu_fraction"),
        usd_per_gpu_hour=x.not_negative("usd_per_gpu_hour"),
        watts=x.not_negative("gpu_watts"),
        load=x.not_negative("load_fraction"),
        pue=x.not_negative("pue"),
        kg_co2_per_kwh=x.not_negative("kg_co2_per_kwh"),
        limit_hours=x.positive("job_limit_hours"),
        lost_share=x.lost("segment_overhead_fraction"),
    )
    return dict(bill._asdict())


# ---- models --------------------------------------------------------------------------------------------------------


def _flops_params(x: Inputs) -> Answer:
    family: Architecture = "esm2" if x.choice("family", ("esm2", "progen2")) == "esm2" else "progen2"
    L, d, V = x.count("layers"), x.count("width"), x.count("vocab_size")
    heads, attended = x.count("heads", least=0), x.not_negative("attended_tokens_per_query")
    blocks = L * block_parameters_of(family, d, 4 * d)
    contacts = contact_parameters_of(L, heads) if family == "esm2" else 0
    linear, attention, head = 24 * L * d**2, 4 * attended * d * L, head_flops_of(family, d, V)
    forward = linear + attention + head
    return {
        "params_total": blocks + outside_parameters_of(family, d, V) + contacts,
        "params_nonemb": blocks,
        "fwd_linear_flops_per_token": linear,
        "fwd_attention_flops_per_token": attention,
        "fwd_head_flops_per_token": head,
        "train_flops_per_token": 3 * forward,
        "ratio_to_6N_nonemb": 3 * forward / (6 * blocks),
        "attention_share_fraction": attention / forward,
    }


def _memory_fit(x: Inputs) -> Answer:
    L, d = x.count("layers"), x.count("width")
    state = state_bytes(L, d, x.positive("shards")) / 1e9
    activations = activation_bytes(
        L,
        d,
        x.count("heads", least=0),
        batch=x.positive("batch_sequences"),
        seq_len=x.positive("seq_len_tokens"),
        checkpointing="full" if x.choice("checkpointing", ("none", "full")) == "full" else "none",
        attention_kernel="flash" if x.choice("attention_kernel", ("standard", "flash")) == "flash" else "standard",
    )
    return {"state_GB": state, "activations_GB": activations / 1e9, "total_GB": state + activations / 1e9}


def _lr_batch(x: Inputs) -> Answer:
    given = {"N": x.positive("N_params"), "D": x.positive("D_tokens")}
    step, deepseek = (find_law(name).answer(given) for name in ("step-law2025", "deepseek2024-lr"))
    return {
        "step_law_lr": step["peak_lr"],
        "step_law_batch_tokens": step["batch_tokens"],
        "deepseek_lr": deepseek["peak_lr"],
        "deepseek_batch_tokens": deepseek["batch_tokens"],
    }


def _distill(x: Inputs) -> Answer:
    found = distil(
        x.law("supervised_law", ADDITIVE),
        x.distillation("distillation_law"),
        student=(x.positive("student_params"), x.positive("student_tokens")),
        teacher=(x.positive("teacher_params"), x.positive("teacher_tokens")),
    )
    return {
        "teacher_loss_nats": found.teacher_loss,
        "supervised_loss_same_tokens_nats": found.alone_loss,
        "distilled_loss_nats": found.loss,
        "distill_flops": found.flops,
        "supervised_tokens_same_flops": found.alone_tokens_same_flops,
        "supervised_loss_same_flops_nats": found.alone_loss_same_flops,
    }


def _clm_mlm_split(x: Inputs) -> Answer:
    law, N = x.law("law", ADDITIVE), x.positive("N_params")
    D = x.positive("C_flops") / (6.0 * N)
    split = PhaseSplit(
        N=N,
        D=D,
        k=x.not_negative("transfer_k_tokens"),
        a=x.number("transfer_a"),
        b=x.number("transfer_b"),
        rho=x.not_negative("rho"),
    )
    share = split.best_share()
    return {
        "clm_fraction": share,
        "D_clm_tokens": share * D,
        "D_mlm_tokens": (1.0 - share) * D,
        "D_transferred_tokens": split.transferred(share),
        "loss_nats": law.loss(N, split.tokens(share)),
        "loss_no_transfer_nats": law.loss(N, D),
    }


KINDS: Final[Mapping[str, Callable[[Inputs], Answer]]] = {
    "optimum_6nd": _optimum_6nd,
    "optimum_exact_flops": _optimum_exact_flops,
    "loss_repeated_data": _loss_repeated_data,
    "optimum_data_constrained": _optimum_data_constrained,
    "repeat_value": _repeat_value,
    "repeat_horizon": _repeat_horizon,
    "inference_adjusted": _inference_adjusted,
    "data_price": _data_price,
    "collect_or_grow": _collect_or_grow,
    "decision_regret": _decision_regret,
    "flops_params": _flops_params,
    "cost_time_carbon": _cost_time_carbon,
    "lr_batch": _lr_batch,
    "memory_fit": _memory_fit,
    "distill": _distill,
    "power_frontier": _power_frontier,
    "overfit_best_epochs": _overfit_best_epochs,
    "overfit_budget": _overfit_budget,
    "clm_mlm_split": _clm_mlm_split,
}
