"""Numbers that no question is asked with are refused by name, before anything is computed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from plm_scaling import api
from plm_scaling.core.errors import ConfigError
from plm_scaling.sizing.quantity_bounds import BOUNDS, check_quantities

USES: dict[str, Any] = {"sequences": 1e6, "length": 735.0}
GRANT: dict[str, Any] = {"nodes": 8, "gpus_per_node": 4, "hours": 3000.0}


@pytest.mark.parametrize("name", BOUNDS)
def test_what_lies_within_passes_and_nothing_else(name: str) -> None:
    low, high = BOUNDS[name].low, BOUNDS[name].high
    for value in (None, low, math.sqrt(low * high), high, float(BOUNDS[name].example.replace("650M", "650e6"))):
        check_quantities(**{name: value})
    for value in (math.nan, math.inf, -math.inf, 0.0, -1.0, math.nextafter(low, 0.0), math.nextafter(high, math.inf)):
        with pytest.raises(ConfigError, match=f"{name} of it = ") as caught:
            check_quantities("it", **{name: value})
        assert BOUNDS[name].what in caught.value.why
        assert BOUNDS[name].example in caught.value.hint


@pytest.mark.parametrize(
    ("verb", "given", "wrong"),
    [
        *(("size", {"objective": "mlm", "gpu_hours": 5e3}, {name: 1e-300}) for name in ("unique_tokens", "mfu")),
        *(("size", {"objective": "mlm"}, {name: 1e300}) for name in ("gpu_hours", "usd", "flops")),
        ("size_uses", {"objective": "mlm", "gpu_hours": 5e3, "length": 735.0}, {"sequences": math.nan}),
        *(
            ("size_allocation", {"objective": "mlm", **GRANT, **one}, one)
            for one in ({"hours": 1e-99}, {"nodes": 10**9})
        ),
        ("size_page", {"out": Path("page.html"), "gpu_hours": 5e3}, {"usd_per_gpu_hour": 1e308}),
        *(("spend", {"objectives": ("mlm",), "gpu_hours": 5e3}, {n: 1e-300}) for n in ("unique_tokens", "usd_per_nat")),
        ("audit", {"params": 1e9, "objective": "mlm"}, {"tokens": 1e-300}),
    ],
)
def test_every_verb_refuses_them(verb: str, given: dict[str, Any], wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^{next(iter(wrong))} = "):
        getattr(api, verb)(**{**given, **wrong})


def test_a_loss_is_refused_with_its_model() -> None:
    with pytest.raises(ConfigError, match="loss of esm2-650m = 1e\\+308"):
        api.spend(objectives=("mlm",), gpu_hours=5e3, public_losses={"esm2-650m": 1e308})
