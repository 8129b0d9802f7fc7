"""Several processes end where one does: the same gradients, losses and weights, up to the order of sums."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.corpus.batches import Batches
from plm_scaling.corpus.reader import Corpus
from plm_scaling.corpus.validation import validation_sets
from plm_scaling.models import esm2
from plm_scaling.models.attention import attend
from plm_scaling.training.loop import train
from plm_scaling.training.validate import score_set, scoring_windows
from plm_scaling.training.world import World

sys.path.insert(0, str(Path(__file__).parent))
import ranks

MakeConfig = Callable[..., RunConfig]
MakeRun = Callable[..., RunFolder]
Found = dict[str, dict[str, Tensor]]

# Three windows never divide by two processes; of one window, the second process sees nothing.
SMALL = {"d_model": 8, "context": 32, "batch_tokens": 96}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "by hand": (SMALL, {}),
    "one window": (SMALL | {"batch_tokens": 32, "objective": "mlm"}, {}),
    "recomputed": (SMALL, {"recompute": "every_other"}),
    "sharded plm": (SMALL, {"parallel": "sharded", "micro_windows": 1}),
    "sharded one window": (SMALL | {"batch_tokens": 32}, {"parallel": "sharded"}),
    "sharded esm2": (SMALL | {"architecture": "esm2", "objective": "mlm"}, {"parallel": "sharded"}),
    "sharded progen2": (SMALL | {"architecture": "progen2"}, {"parallel": "sharded", "recompute": "all"}),
    "sharded bf16": (SMALL | {"dtype": "bf16"}, {"parallel": "sharded", "micro_windows": 1}),
    "sharded dropout": (SMALL | {"dropout": 0.2}, {"parallel": "sharded"}),
    "sharded dropout recomputed": (SMALL | {"dropout": 0.2}, {"parallel": "sharded", "recompute": "all"}),
}


@pytest.fixture(scope="module")
def found(corpus: Corpus, make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, Found]:
    """What one process finds, each with a whole copy of the model, and what two find."""
    cases = {name: (make_config(**values).model_dump(mode="json"), order) for name, (values, order) in CASES.items()}
    out = tmp_path_factory.mktemp("ranks") / "two.pt"
    two = ranks.start(2, ranks.trajectories_of_ranks, str(corpus.path), json.dumps(cases), str(out))
    one = ranks.trajectories(World(), corpus.path, {name: (values, {}) for name, (values, _) in cases.items()})
    assert ranks.end(two) == [0, 0]
    return one, torch.load(out, weights_only=True)


@pytest.mark.parametrize("name", [name for name in CASES if "dropout" not in name])
def test_two_processes_follow_the_path_of_one(found: tuple[Found, Found], name: str) -> None:
    one, two = found[0][name], found[1][name]
    assert one.keys() == two.keys()
    rough = name == "sharded bf16"  # gradients of an embedding are rounded before or after they are added up
    torch.testing.assert_close(two["losses"], one["losses"], rtol=2e-2 if rough else 2e-5, atol=0)
    torch.testing.assert_close(two["norms"], one["norms"], rtol=5e-2 if rough else 2e-4, atol=0)
    if not rough:  # Adam blows up the rounding of gradients that are nearly zero
        for key in one:
            assert (two[key] - one[key]).abs().mean() < 1e-5, key


def test_recomputing_changes_no_bit_of_several_processes(found: tuple[Found, Found]) -> None:
    plain, again = found[1]["sharded dropout"], found[1]["sharded dropout recomputed"]
    assert all(torch.equal(plain[key], again[key]) for key in plain)
    assert not torch.equal(plain["losses"], found[0]["sharded dropout"]["losses"])  # keys are those of a process


def test_a_signal_to_one_process_stops_all_and_one_alone_goes_on(
    corpus: Corpus, make_run: MakeRun, tmp_path: Path
) -> None:
    changes = SMALL | {"D": 1_500, "validation_tokens": 500}
    folder, whole = make_run(order={"checkpoint_every_s": 1000.0}, **changes), make_run(parent="whole", **changes)
    at = {"rank": 1, "step": 4, "kill": int(signal.SIGTERM)}
    assert ranks.end(ranks.start(2, ranks.train_main, str(folder.path), str(tmp_path), at)) == [3, 3]
    status = folder.status()
    assert status.status == "interrupted"
    assert "a signal to another process" in status.reason
    # The step under way, and the one in which they agree to stop.
    assert [path.name for path in folder.checkpoint_path.iterdir()] == ["step-0000000006.safetensors"]
    assert len(folder.attempts()) == 1
    batches = Batches(corpus, folder.order().config)
    assert ranks.shown(tmp_path) == {step: batches.at(step).tokens.tolist() for step in range(6)}
    record, expected = train(folder.path), train(whole.path)
    assert (record.world, record.attempts) == (1, 2)
    assert "WORLD_CHANGED" in record.flags
    ours, theirs = (pq.read_table(run.metrics_path).to_pandas() for run in (folder, whole))
    assert ours.step.tolist() == theirs.step.tolist()
    assert ours.loss.to_numpy() == pytest.approx(theirs.loss.to_numpy(), rel=1e-4)
    assert record.validation[0].per_token == pytest.approx(expected.validation[0].per_token, rel=1e-4)


def test_shares_of_a_validation_set_add_up(
    corpus: Corpus, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(**SMALL)
    engine = ranks.engine_for(config, World())
    calls: list[int] = []
    step = engine.scorer(scoring_windows(32), 32)
    losses = step.losses
    monkeypatch.setattr(step, "losses", lambda packed: calls.append(0) or losses(packed), raising=False)
    (validation, *_) = validation_sets(corpus, 32, 20_000, config.objective, config.mask_rate)
    assert validation.windows.n_windows > scoring_windows(32)
    whole = score_set(step, validation, config)
    monkeypatch.setattr(World, "sum_", lambda self, tensor: tensor)
    for size in (2, 5):
        counts, shares = [], []
        for rank in range(size):
            calls.clear()
            shares.append(score_set(step, validation, config, World(rank, size)))
            counts.append(len(calls))
        assert len(set(counts)) == 1  # cut parameters are gathered by all processes together
        for name in ("n_targets", "n_residue_targets"):
            assert np.array_equal(sum(getattr(share, name) for share in shares), getattr(whole, name))
        for name in ("loss_sum", "residue_loss_sum"):
            assert sum(getattr(share, name) for share in shares) == pytest.approx(getattr(whole, name), rel=1e-6)


@pytest.mark.parametrize(("policy", "passes"), [("none", 6), ("every_other", 9), ("all", 12)])
def test_recomputing_changes_no_bit(
    corpus: Corpus, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, policy: str, passes: int
) -> None:
    config = make_config(**SMALL, dropout=0.2, architecture="esm2", objective="mlm")
    batches = Batches(corpus, config)
    plain = ranks.steps(ranks.engine_for(config, World()), batches, World(), 0, 3)
    calls: list[int] = []
    monkeypatch.setattr(esm2, "attend", lambda *a, **k: calls.append(0) or attend(*a, **k))
    again = ranks.steps(ranks.engine_for(config, World(), recompute=policy), batches, World(), 0, 3)
    assert len(calls) == passes  # two blocks, three steps
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[key], again[key]) for key in plain)
