from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from plm_scaling.core.run import LedgerRow, RunConfig, RunRecord, Stream, ValidationLoss

VALUES: dict[str, Any] = {
    "corpus_id": "c",
    "objective": "mlm",
    "n_layers": 2,
    "d_model": 64,
    "context": 128,
    "D": 1_000_000,
    "batch_tokens": 512,
    "peak_lr": 4e-3,
    "recipe": "small",
}
# What every field but those of VALUES stands at; a run that says so is the run that says nothing.
DEFAULTS = {name: field.default for name, field in RunConfig.model_fields.items() if not field.is_required()}


def config(**changes: Any) -> RunConfig:
    return RunConfig.model_validate(VALUES | changes)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"batch_tokens": 500}, "batch_tokens 500 is no multiple of context 128"),
        ({"streams": ()}, "at least one stream"),
        ({"objective": "rtd"}, "objective"),
        ({"n_layers": 0}, "n_layers"),
        ({"d_model": -16}, "d_model"),
        ({"context": 2, "batch_tokens": 2}, "context"),
        ({"D": 0}, "D\n"),
        ({"D": 1.5}, "D\n"),
        ({"batch_tokens": 0}, "batch_tokens"),
        ({"peak_lr": 0}, "peak_lr"),
        ({"peak_lr": math.nan}, "peak_lr"),
        ({"mask_rate": 1}, "mask_rate"),
        ({"reverse_share": 0.5}, "reverse_share is for clm"),
        ({"objective": "clm", "reverse_share": 1}, "reverse_share"),
        ({"warmup_fraction": 1}, "warmup_fraction"),
        ({"final_lr_fraction": 1.1}, "final_lr_fraction"),
        ({"schedule": "linear"}, "schedule"),
        ({"recipe": "mine"}, "recipe"),
        ({"dtype": "fp16"}, "dtype"),
        ({"validation_points": 0}, "validation_points"),
        ({"streams": [{"weight": 0}]}, "weight"),
        ({"streams": [{"unique_tokens": 0}]}, "unique_tokens"),
        ({"streams": [{"start_tokens": -1}]}, "start_tokens"),
        ({"learning_rate": 1}, "learning_rate"),
    ],
)
def test_what_cannot_be_trained_is_no_config(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        config(**changes)


@pytest.mark.parametrize("name", list(VALUES))
def test_nothing_that_decides_the_outcome_is_guessed(name: str) -> None:
    with pytest.raises(ValidationError, match=name):
        RunConfig.model_validate({key: value for key, value in VALUES.items() if key != name})


def test_counts_follow_from_the_shape() -> None:
    run = config()
    assert (run.N, run.N_total) == (98_560, 102_848)
    assert run.C_6nd == 6 * 98_560 * 1_000_000
    assert run.windows_per_batch == 4


def test_the_id_is_the_start_of_the_hash() -> None:
    assert config().run_id == config().content_hash()[:12]


def test_saying_a_default_aloud_is_the_same_run() -> None:
    assert config(**DEFAULTS).run_id == config().run_id
    assert (
        config(streams=[{"sources": ["a"], "weight": 1.0, "start_tokens": 0}]).run_id
        == config(streams=[{"sources": ["a"]}]).run_id
    )


@pytest.mark.parametrize(
    "change",
    [
        {"corpus_id": "d"},
        {"objective": "clm"},
        {"n_layers": 3},
        {"d_model": 66},
        {"context": 64},
        {"D": 1_000_001},
        {"batch_tokens": 1024},
        {"peak_lr": 4.00001e-3},
        {"recipe": "cheng"},
        {"streams": [{"sources": ["a"]}]},
        {"streams": [{"sources": ["b"]}, {"sources": ["a"]}]},
        {"streams": [{"unique_tokens": 5}]},
        {"streams": [{"start_tokens": 5}]},
        {"streams": [{"duplicates": True}]},
        {"seed": 1},
        {"init_from": "0123456789ab"},
        {"mask_rate": 0.2},
        {"mask_refresh": False},
        {"objective": "clm", "reverse_share": 0.5},
        {"warmup_fraction": 0.05},
        {"final_lr_fraction": 0.0},
        {"beta1": 0.8},
        {"beta2": 0.99},
        {"weight_decay": 0.0},
        {"grad_clip": 0.5},
        {"dtype": "bf16"},
        {"validation_tokens": 100},
        {"validation_points": 1},
        {"schedule": "wsd", "warmup_tokens": 1000},
        {"decay_fraction": 0.1},
        {"spike_factor": 5.0},
        {"dropout": 0.1},
        {"architecture": "esm2"},
        {"n_heads": 2},
        {"d_ffn": 128},
        {"rotary_dim": 32},
        {"init_from": "0123456789ab", "lora_rank": 4},
        {"lora_alpha": 8.0},
        {"teacher": "0123456789ab"},
        {"teacher_share": 0.1},
        {"teacher_temperature": 2.0},
    ],
    ids=str,
)
def test_whatever_changes_a_run_changes_its_id(change: dict[str, Any]) -> None:
    assert config(**change).run_id != config().run_id


def test_every_field_was_changed_above() -> None:
    """A field added later needs its line above."""
    changed = {
        name
        for mark in test_whatever_changes_a_run_changes_its_id.pytestmark
        for change in mark.args[1]
        for name in change
    }
    assert changed == set(RunConfig.model_fields)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 2**31),
    st.floats(1e-6, 1.0),
    st.lists(
        st.builds(Stream, sources=st.tuples(st.text(max_size=5)), weight=st.floats(0.01, 9)), min_size=1, max_size=3
    ),
)
def test_a_config_is_the_same_after_a_round_trip(
    tmp_path_factory: pytest.TempPathFactory, seed: int, peak_lr: float, streams: list[Stream]
) -> None:
    run = config(seed=seed, peak_lr=peak_lr, streams=streams)
    back = RunConfig.read(run.write(tmp_path_factory.mktemp("config") / "run.json"))
    assert back == run
    assert back.run_id == run.run_id


def test_a_record_is_the_same_after_a_round_trip(tmp_path: Path) -> None:
    record = RunRecord(
        config=config(),
        roles=("isoflop",),
        status="complete",
        steps=3,
        D=300,
        D_unique=200,
        ledger=(
            LedgerRow(
                source="*",
                tokens=300,
                residues=290,
                unique=200,
                repeated_epoch=90,
                repeated_duplicate=10,
                seen_earlier=0,
            ),
        ),
        C_6nd=1.0,
        C_exact=2.0,
        device_s=0.5,
        tokens_per_s=600.0,
        attempts=1,
        threads=1,
        validation=(
            ValidationLoss(
                set_name="val_iid",
                validation_id="v",
                per_token=2.5,
                per_residue=2.4,
                se=math.nan,
                n_targets=1,
                n_sequences=1,
            ),
        ),
        versions={"torch": "2"},
    )
    back = RunRecord.read(record.write(tmp_path / "record.json"))
    assert back.to_json() == record.to_json()
    assert math.isnan(back.validation[0].se)
    assert back.model_copy(update={"validation": ()}) == record.model_copy(update={"validation": ()})
