from __future__ import annotations

from typing import Any

from plm_scaling.core.run import RunConfig
from plm_scaling.sweeps.differences import differences


def run(**changes: Any) -> RunConfig:
    values = {"corpus_id": "c", "objective": "mlm", "n_layers": 1, "d_model": 16, "context": 32, "D": 1000}
    return RunConfig.checked(**(values | {"batch_tokens": 64, "peak_lr": 1e-3, "recipe": "small"} | changes))


def test_what_the_other_columns_tell_is_no_difference() -> None:
    assert differences([run(), run(D=2000, seed=1, n_layers=2)]) == ["", ""]


def test_only_what_varies_is_said_and_masks_of_mlm_only() -> None:
    runs = [run(), run(mask_rate=0.3), run(objective="clm", dropout=0.1), run(init_from="0123456789ab")]
    assert differences(runs) == [
        "mask_rate 0.15, dropout 0",
        "mask_rate 0.3, dropout 0",
        "dropout 0.1",
        "init_from 0123456789ab, mask_rate 0.15, dropout 0",
    ]
