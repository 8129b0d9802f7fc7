from __future__ import annotations

import argparse
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from plm_scaling.core.errors import CheckpointError
from plm_scaling.models.weight_files import (
    as_float32,
    read_archive,
    read_json,
    read_metadata,
    read_tensors,
    tensors_sha256,
)

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b.bias": torch.ones(4, dtype=torch.bfloat16)}


class Hostile:
    """An object whose unpickling would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


def write_shards(folder: Path, suffix: str = ".safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    safe = suffix == ".safetensors"
    stem = "model" if safe else "pytorch_model"
    names = {name: f"{stem}-0000{k}-of-00002{suffix}" for k, name in enumerate(STATE, start=1)}
    for name, part in names.items():
        tensors = {name: STATE[name]}
        save_file(tensors, folder / part) if safe else torch.save(tensors, folder / part)
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return folder


def change_index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] = change(index["weight_map"])
    path.write_text(json.dumps(index))


def same(read: dict[str, Tensor]) -> bool:
    return read.keys() == STATE.keys() and all(
        torch.equal(read[name], STATE[name]) and read[name].dtype == STATE[name].dtype for name in STATE
    )


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_whole_files_and_folders(name: str, tmp_path: Path) -> None:
    save_file(STATE, tmp_path / name) if name.endswith("safetensors") else torch.save(STATE, tmp_path / name)
    assert same(read_tensors(tmp_path / name))
    assert same(read_tensors(tmp_path))


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards(suffix: str, tmp_path: Path) -> None:
    assert same(read_tensors(write_shards(tmp_path, suffix)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index | {"b.bias": "../elsewhere.safetensors"}, "outside the folder"),
        (lambda index: index | {"b.bias": "/tmp/elsewhere.safetensors"}, "outside the folder"),
        (lambda index: index | {"b.bias": ".."}, "outside the folder|missing shard"),
        (lambda index: index | {"b.bias": ""}, "outside the folder|missing shard"),
        (lambda index: index | {"b.bias": "model-00003-of-00002.safetensors"}, "missing shard: model-00003"),
        (lambda index: index | {"c": index["b.bias"]}, "c is not in its shard"),
        (lambda index: {"a.weight": index["b.bias"]}, "is not in"),
        (lambda index: index | {"b.bias": 3}, "index without shards"),
        (lambda index: {}, "index without shards"),
        (list, "index without shards"),
    ],
)
def test_indices_that_do_not_lead_to_their_shards(change: Any, message: str, tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "elsewhere.safetensors")
    folder = write_shards(tmp_path / "folder")
    change_index(folder, change)
    with pytest.raises(CheckpointError, match=message):
        read_tensors(folder)


def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    made = tmp_path / "made"
    torch.save({"model": STATE, "cfg": Hostile(made)}, tmp_path / "zip.pt")
    torch.save([Hostile(made)], tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.bin").write_bytes(pickle.dumps(Hostile(made)))
    for name in ("zip.pt", "old.pt", "bare.bin"):
        for allowed in ((), (argparse.Namespace,)):
            with pytest.raises(CheckpointError, match="more than weights, or damaged") as caught:
                read_archive(tmp_path / name, allowed)
            assert not made.exists()
            assert caught.value.where == str(tmp_path / name)
            assert caught.value.hint
    pickle.loads((tmp_path / "bare.bin").read_bytes())
    assert made.is_dir()  # the file does what it says, where it is let


def test_a_namespace_is_taken_only_where_it_is_allowed(tmp_path: Path) -> None:
    torch.save({"cfg": argparse.Namespace(heads=3)}, tmp_path / "made.pt")
    assert read_archive(tmp_path / "made.pt", (argparse.Namespace,))["cfg"].heads == 3
    with pytest.raises(CheckpointError, match="more than weights"):
        read_archive(tmp_path / "made.pt")
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\n <html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (b'{"error": "not found"}', "JSON"),
        (b"", ""),
        (b"no weights at all, only text", ""),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_other_things_in_the_place_of_weights(content: bytes, why: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_tensors(tmp_path)
    assert why in caught.value.why
    assert caught.value.where.endswith(name)
    assert caught.value.hint


@settings(deadline=None, max_examples=25)
@given(share=st.floats(0, 0.99), safe=st.booleans())
def test_files_cut_short_are_refused(tmp_path_factory: pytest.TempPathFactory, share: float, safe: bool) -> None:
    path = tmp_path_factory.mktemp("cut") / ("a.safetensors" if safe else "a.pt")
    save_file(STATE, path) if safe else torch.save(STATE, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError):
        read_tensors(path)


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=200))
def test_no_content_escapes_as_another_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("junk")
    for name, head in (("a.pt", b""), ("b.bin", b"\x80\x02"), ("c.safetensors", b"")):
        (folder / name).write_bytes(head + content)
        with pytest.raises(CheckpointError):
            read_tensors(folder / name)


@pytest.mark.parametrize(
    "value",
    [
        [1, 2],
        {},
        {"a": {"b": torch.ones(2)}},
        {1: torch.ones(2)},
        {"a": 3.0},
        {"a": torch.ones(1).expand(10**9)},
        {"a": torch.eye(3).to_sparse()},
        {"a": torch.ones(3, device="meta")},
    ],
)
def test_archives_of_anything_but_plain_tensors(value: Any, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=r"mapping of names|not a plain tensor"):
        read_tensors(tmp_path / "odd.pt")


def test_nothing_there(tmp_path: Path) -> None:
    for call in (read_tensors, read_json, read_metadata, read_archive):
        with pytest.raises(CheckpointError):
            call(tmp_path / "absent.pt")
    with pytest.raises(CheckpointError, match="no weights in this folder"):
        read_tensors(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"[1]", "not an object"), (b"{", "not JSON"), (b"\xff", "not JSON"), (b"[" * 200_000, "not JSON")],
)
def test_json_that_describes_nothing(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_json(tmp_path / "config.json")


def test_half_precision_becomes_float32_and_numbers_of_other_kinds_are_refused() -> None:
    read = as_float32(STATE | {"c": torch.tensor([0.1], dtype=torch.float16)}, "here")
    assert {t.dtype for t in read.values()} == {torch.float32}
    assert read["c"].item() == torch.tensor(0.1, dtype=torch.float16).item()
    for dtype in (torch.int8, torch.float64, torch.bool):
        with pytest.raises(CheckpointError, match=f"c is stored as {str(dtype)[6:]}"):
            as_float32({"c": torch.ones(2, dtype=dtype)}, "here")


def test_the_checksum_of_tensors_sees_names_shapes_and_values() -> None:
    state = {"a": torch.arange(6.0), "b": torch.zeros(0)}
    changed = [
        {"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(0)},
        {"c": torch.arange(6.0), "b": torch.zeros(0)},
        {"a": torch.arange(6.0).flip(0), "b": torch.zeros(0)},
        {"a": torch.arange(6.0)},
    ]
    assert tensors_sha256(dict(reversed(state.items())), "x") == tensors_sha256(state, "x")
    assert len({tensors_sha256(s, "x") for s in (state, *changed)} | {tensors_sha256(state, "y")}) == 6


def test_an_archive_without_its_end_is_called_that(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2000)}, tmp_path / "whole.pt")
    half = (tmp_path / "whole.pt").read_bytes()[:4000]
    (tmp_path / "half.pt").write_bytes(half)
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        read_archive(tmp_path / "half.pt")
    assert caught.value.why == "the archive's directory, which ends it, is not there: 4,000 bytes are"
