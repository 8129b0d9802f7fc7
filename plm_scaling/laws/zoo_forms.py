"""The forms of the published laws: formula, names of the coefficients, and what each can answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from plm_scaling.laws.two_powers import TwoPowers

__all__ = [
    "ZOO_FORMS",
    "Params",
    "PublishedForm",
    "ZooForm",
    "distilled_loss",
    "lowest_over_sizes",
    "two_powers",
]

PublishedForm = Literal[
    "power_frontier",
    "exponents",
    "chinchilla",
    "gamma",
    "kaplan",
    "repeats",
    "loss_compute",
    "transfer",
    "distillation",
    "lr_batch",
]
Params = Mapping[str, float]
Exponents = tuple[float | None, float | None]


@dataclass(frozen=True)
class ZooForm:
    """One form; what it cannot answer is None."""

    formula: str
    takes: tuple[frozenset[str], ...]
    """The sets of coefficients a law of this form may state: exactly one of them, and any of `optional`."""
    optional: frozenset[str] = frozenset()
    optimum: Callable[[Params, float], tuple[float, float]] | None = None
    """(coefficients, C in FLOPs) -> compute-optimal (N, D) with C = 6 N D and unlimited unique tokens."""
    loss: Callable[[Params, float, float, float | None], float] | None = None
    """(coefficients, N, D, unique tokens or None) -> nats per token."""
    exponents: Callable[[Params], Exponents] = lambda p: (None, None)
    """a of N_opt ~ C^a and D_opt ~ C^a."""
    rule: Callable[[Params, Params], dict[str, float]] | None = None
    """(coefficients, what is given) -> answers by name, for forms that state neither optimum nor loss of (N, D)."""


def lowest_over_sizes(loss: Callable[[float], float]) -> float:
    """The N of the lowest loss: a grid from 1e4 to 1e14, since the law of repeats has kinks, then golden section."""
    low, high, steps = math.log(1e4), math.log(1e14), 300
    grid = [low + (high - low) * k / steps for k in range(steps + 1)]
    losses = [loss(math.exp(x)) for x in grid]
    best = losses.index(min(losses))
    low, high = grid[max(0, best - 1)], grid[min(steps, best + 1)]
    golden = (math.sqrt(5.0) - 1.0) / 2.0
    for _ in range(60):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if loss(math.exp(left)) < loss(math.exp(right)) else (left, high)
    return math.exp(0.5 * (low + high))


# ---- sums of two powers: chinchilla, gamma, repeats ----------------------------------------------------------------


def _ln(p: Params, name: str) -> float:
    return p[f"log_{name}"] if f"log_{name}" in p else math.log(p[name])


def two_powers(p: Params) -> TwoPowers:
    """The law of two powers that these coefficients state; gamma 1 and repeats as good as new unless stated."""
    return TwoPowers(
        E=math.exp(p["log_E"]) if "log_E" in p else p["E"],
        log_A=_ln(p, "A"),
        log_B=_ln(p, "B"),
        alpha=p["alpha"],
        beta=p["beta"],
        gamma=p.get("gamma", 1.0),
        R_D=p.get("R_D", math.inf),
        R_N=p.get("R_N", math.inf),
    )


def _powers_exponents(p: Params) -> Exponents:
    total = p["alpha"] + p["beta"]
    return p["beta"] / total, p["alpha"] / total


def _powers_loss(p: Params, N: float, D: float, unique: float | None) -> float:
    """At effective N and D where repeats are counted; without `unique` every token counts as new."""
    law = two_powers(p)
    return law.loss(N, D) if unique is None or "R_D" not in p else law.repeated_loss(N, D, unique)


# ---- the other laws of N and D -------------------------------------------------------------------------------------


def _kaplan_optimum(p: Params, C: float) -> tuple[float, float]:
    r = p["a_N"] / p["a_D"]
    log_N = (math.log(r * C / (6.0 * p["D_c"])) + r * math.log(p["N_c"])) / (1.0 + r)
    return math.exp(log_N), C / (6.0 * math.exp(log_N))


def _kaplan_loss(p: Params, N: float, D: float, unique: float | None) -> float:
    """[(N_c/N)^(a_N/a_D) + D_c/D]^a_D. **Source:** Kaplan et al. 2020, eq. 1.5."""
    del unique
    return float(((p["N_c"] / N) ** (p["a_N"] / p["a_D"]) + p["D_c"] / D) ** p["a_D"])


def _frontier_optimum(p: Params, C: float) -> tuple[float, float]:
    """N and D as stated, so 6 N D need not be C exactly; where only one is stated the other follows from C = 6 N D.

    FLOPs per token M = 6 N stand for a size that counts attention. **Source:** DeepSeek-AI 2024, section 3.2.
    """
    N = D = 0.0
    if "k_N" in p:
        N = p["k_N"] * C ** p["a_N"]
    elif "k_M" in p:
        N = p["k_M"] * C ** p["a_M"] / 6.0
    if "k_D" in p:
        D = p["k_D"] * C ** p["a_D"]
    return N or C / (6.0 * D), D or C / (6.0 * N)


def _frontier_exponents(p: Params) -> Exponents:
    a_N = p.get("a_N", p.get("a_M"))
    a_D = p.get("a_D")
    if a_N is None and a_D is not None:
        return 1.0 - a_D, a_D
    return a_N, 1.0 - a_N if a_D is None and a_N is not None else a_D


# ---- rules for something else --------------------------------------------------------------------------------------


def _loss_compute(p: Params, given: Params) -> dict[str, float]:
    """Loss of the best model for C, or of N or D with enough of the other.

    **Source:** Kaplan et al. 2020, eq. 1.1-1.3.
    """
    name = next((n for n in ("C", "N", "D") if n in given and f"k_{n}" in p), None)
    if name is None:
        return {}
    return {"loss": p[f"k_{name}"] * (given[name] / p.get(f"unit_{name}", 1.0)) ** p[f"a_{name}"]}


def _transfer(p: Params, given: Params) -> dict[str, float]:
    """D_t = k D_f^a N^b, the target tokens that pre-training is worth. **Source:** Hernandez et al. 2021, eq. 1.1."""
    return {"D_t": p["k"] * given["D_f"] ** p["a"] * given["N"] ** p["b"]}


def distilled_loss(p: Params, N: float, D: float, teacher: float, alone: float) -> float:
    """Loss of a student of N parameters distilled on D tokens from a teacher of loss `teacher`.

    `alone` is what the student would reach on the same tokens without a teacher.

    **Source:** Busbridge et al. 2025, eq. 8.
    """
    lead = (math.log(teacher) - math.log(alone) - math.log(p["d_1"])) / p["f_1"]
    capacity = -p["c_1"] * p["f_1"] * (max(lead, 0.0) + math.log1p(math.exp(-abs(lead))))
    student = p["gamma"] * two_powers({**p, "E": 0.0}).log_reducible(math.log(N), math.log(D))
    return teacher + math.exp(-p["c_0"] * math.log(teacher) + capacity + student)


def _distillation(p: Params, given: Params) -> dict[str, float]:
    return {"loss": distilled_loss(p, given["N"], given["D"], given["loss_teacher"], given["loss_alone"])}


def _lr_batch(p: Params, given: Params) -> dict[str, float]:
    """Peak learning rate and tokens per step as products of powers of N, D and C = 6 N D."""
    known = {"C": 6.0 * given["N"] * given["D"], **given}

    def product(what: str) -> float:
        powers = (p.get(f"{what}_{name}", 0.0) * math.log(known[name]) for name in ("N", "D", "C"))
        return p[f"k_{what}"] * math.exp(sum(powers))

    return {"peak_lr": product("lr"), "batch_tokens": product("batch")}


def _names(*words: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(word.split()) for word in words)


_POWERS: Final = "E A B alpha beta", "log_E log_A log_B alpha beta"

ZOO_FORMS: Final[dict[PublishedForm, ZooForm]] = {
    "power_frontier": ZooForm(
        "N = k_N C^a_N, D = k_D C^a_D, or FLOPs per token M = k_M C^a_M with N = M / 6",
        _names("k_N a_N k_D a_D", "k_M a_M k_D a_D", "k_N a_N", "k_D a_D"),
        optimum=_frontier_optimum,
        exponents=_frontier_exponents,
    ),
    "exponents": ZooForm(
        "N_opt ~ C^a_N, D_opt ~ C^a_D; the source gives no coefficients",
        _names("a_N a_D", "a_N", "a_D"),
        exponents=lambda p: (p.get("a_N"), p.get("a_D")),
    ),
    "chinchilla": ZooForm(
        "L = E + A N^-alpha + B D^-beta",
        _names(*_POWERS),
        optimum=lambda p, C: two_powers(p).optimum(C),
        loss=_powers_loss,
        exponents=_powers_exponents,
    ),
    "gamma": ZooForm(
        "L = E + (A N^-alpha + B D^-beta)^gamma",
        _names(*(f"{names} gamma" for names in _POWERS)),
        optimum=lambda p, C: two_powers(p).optimum(C),
        loss=_powers_loss,
        exponents=_powers_exponents,
    ),
    "kaplan": ZooForm(
        "L = [(N_c/N)^(a_N/a_D) + D_c/D]^a_D",
        _names("N_c a_N D_c a_D"),
        optimum=_kaplan_optimum,
        loss=_kaplan_loss,
        exponents=lambda p: (p["a_D"] / (p["a_N"] + p["a_D"]), p["a_N"] / (p["a_N"] + p["a_D"])),
    ),
    "repeats": ZooForm(
        "L = E + A N'^-alpha + B D'^-beta; D' = U + U R_D (1 - exp(-(D/U - 1)/R_D)), N' alike from the best N for U",
        _names(*(f"{names} R_D R_N" for names in _POWERS)),
        optimum=lambda p, C: two_powers(p).optimum(C),
        loss=_powers_loss,
        exponents=_powers_exponents,
    ),
    "loss_compute": ZooForm(
        "L = k_C (C / unit_C)^a_C of the best model for C; L = k_N N^a_N and k_D D^a_D with enough of the other",
        _names("k_C a_C"),
        _names("unit_C k_N a_N unit_N k_D a_D unit_D")[0],
        rule=_loss_compute,
    ),
    "transfer": ZooForm("D_t = k D_f^a N^b", _names("k a b"), rule=_transfer),
    "distillation": ZooForm(
        "L = L_T + L_T^-c_0 (1 + (L_T / (L_S d_1))^(1/f_1))^(-c_1 f_1) (A N^-alpha + B D^-beta)^gamma",
        _names(*(f"{names} alpha beta gamma c_0 c_1 f_1 d_1" for names in ("A B", "log_A log_B"))),
        rule=_distillation,
    ),
    "lr_batch": ZooForm(
        "peak LR = k_lr N^lr_N D^lr_D C^lr_C, batch tokens = k_batch N^batch_N D^batch_D C^batch_C",
        _names("k_lr k_batch"),
        _names("lr_N lr_D lr_C batch_N batch_D batch_C")[0],
        rule=_lr_batch,
    ),
}
