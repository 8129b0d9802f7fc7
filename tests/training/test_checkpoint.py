from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from plm_scaling.core.errors import CheckpointError
from plm_scaling.training.checkpoint import (
    LoopState,
    damaged_checkpoints,
    keep_checkpoint,
    kept_path,
    load_newest,
    load_weights,
    offer_kept,
    remove_checkpoints,
    save_checkpoint,
    save_weights,
    stated,
)


def state(step: int) -> LoopState:
    return LoopState(
        run_id="a", step=step, loss_sum=0.1 + 1e-17 * step, threads=1, device="cpu", dtype="fp32", torch="2"
    )


def tensors(step: int) -> dict[str, torch.Tensor]:
    return {"w": torch.full((3, 2), step / 7), "view": torch.arange(6.0)[step % 3 :]}


def refuse(error: CheckpointError) -> None:
    raise error


def saved(folder: Path, *steps: int) -> list[Path]:
    return [save_checkpoint(folder, state(step), tensors(step)) for step in steps]


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    found = load_newest(tmp_path, refuse)
    assert found is not None
    assert found[0] == state(5)
    assert {name: t.tolist() for name, t in found[1].items()} == {n: t.tolist() for n, t in tensors(5).items()}


def test_only_what_shares_its_storage_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat = torch.arange(12.0)
    own, turned = torch.arange(6.0), torch.arange(6.0).view(2, 3).t()
    given = {"own": own, "part": flat[2:5], "rest": flat[5:], "turned": turned, "tied": own.view(2, 3)}
    handed: list[dict[str, torch.Tensor]] = []

    def noted(tensors: dict[str, torch.Tensor], **options: Any) -> bytes:
        handed.append(tensors)
        return save(tensors, **options)

    monkeypatch.setattr("plm_scaling.training.checkpoint.save", noted)
    save_checkpoint(tmp_path, state(1), given)
    [tensors] = handed
    assert tensors["own"].data_ptr() == own.data_ptr()
    storages = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
    assert len(storages) == len(given)
    assert flat.untyped_storage().data_ptr() not in storages
    found = load_newest(tmp_path, refuse)
    assert found is not None
    assert {name: t.tolist() for name, t in found[1].items()} == {n: t.tolist() for n, t in given.items()}


def test_the_last_two_are_kept_and_the_newest_is_loaded(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 9, 10)
    assert sorted(int(p.stem.split("-")[1]) for p in tmp_path.iterdir()) == [9, 10]
    found = load_newest(tmp_path, refuse)
    assert found is not None
    assert found[0].step == 10
    remove_checkpoints(tmp_path)
    assert load_newest(tmp_path, refuse) is None


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "state", "text"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    path = saved(tmp_path, 3, 4)[-1]
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-3] ^= 0x10
    elif damage == "state":
        data[data.index(b'\\"step\\":4') + 9] = ord("5")
    path.write_bytes({"cut": bytes(data[:-8]), "empty": b"", "text": b"hello"}.get(damage, bytes(data)))
    met: list[CheckpointError] = []
    found = load_newest(tmp_path, met.append)
    assert found is not None
    assert found[0].step == 3
    assert [error.where for error in met] == [str(path)]


def test_a_sound_file_without_a_state_is_passed_over(tmp_path: Path) -> None:
    save_weights(tmp_path / "step-0000000007.safetensors", tensors(1), "a")
    met: list[CheckpointError] = []
    assert load_newest(tmp_path, met.append) is None
    assert "state" in met[0].what


def test_weights(tmp_path: Path) -> None:
    save_weights(tmp_path / "final.safetensors", tensors(2), "a")
    assert torch.equal(load_weights(tmp_path / "final.safetensors")["w"], tensors(2)["w"])
    with pytest.raises(CheckpointError, match="no weights"):
        load_weights(tmp_path / "absent.safetensors")


def test_a_damaged_checkpoint_takes_no_ones_place(tmp_path: Path) -> None:
    good, bad = saved(tmp_path, 3, 4)
    bad.write_bytes(b"x")
    assert load_newest(tmp_path, lambda error: None) is not None
    assert damaged_checkpoints(tmp_path) == [bad.with_suffix(".damaged")]
    saved(tmp_path, 6)
    assert good.exists()  # it would have been the third from the end
    remove_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_kept_state_outlives_the_run(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    keep_checkpoint(tmp_path, 1)
    keep_checkpoint(tmp_path, 1)
    keep_checkpoint(tmp_path, 2)  # no such checkpoint, nothing to keep
    saved(tmp_path, 2, 3, 4)
    remove_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == [kept_path(tmp_path, 1)]
    assert stated(kept_path(tmp_path, 1)) == state(1)
    assert load_newest(tmp_path, refuse) is None
    offer_kept(kept_path(tmp_path, 1), tmp_path / "other", 1)
    found = load_newest(tmp_path / "other", refuse)
    assert found is not None
    assert found[0] == state(1)


def test_a_kept_state_where_files_cannot_have_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: Path, target: Path) -> None:
        raise OSError("not here")

    monkeypatch.setattr("plm_scaling.training.checkpoint.os.link", link)
    path = saved(tmp_path, 1)[0]
    keep_checkpoint(tmp_path, 1)
    assert kept_path(tmp_path, 1).read_bytes() == path.read_bytes()
    with pytest.raises(CheckpointError, match="readable state"):
        stated(tmp_path / "absent.safetensors")
