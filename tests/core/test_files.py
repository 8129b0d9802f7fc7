from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core import files
from plm_scaling.core.files import canonical_json, sha256_file, sha256_text, write_atomic, writing_atomic

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9)
)
MAPPINGS = st.dictionaries(st.text(max_size=9), SCALARS | st.lists(SCALARS, max_size=3), max_size=5)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.json"
    write_atomic(path, "one")
    write_atomic(path, b"two \xff")
    assert path.read_bytes() == b"two \xff"
    assert os.listdir(path.parent) == ["a.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_content_and_no_debris(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, "old")

    def write_half() -> None:
        with writing_atomic(path) as handle:
            handle.write(b"half of the n")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_rename_that_fails_leaves_no_debris(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").touch()
    with pytest.raises(OSError, match="taken"):
        write_atomic(tmp_path / "taken", "new")
    assert os.listdir(tmp_path) == ["taken"]


def test_content_reaches_the_disk_before_the_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "a", []

    def fsync(descriptor: int) -> None:
        seen.append((path.exists(), os.readlink(f"/proc/self/fd/{descriptor}")))

    monkeypatch.setattr(files.os, "fsync", fsync)
    write_atomic(path, "x")
    (before, first), (after, second) = seen
    assert not before
    assert first.endswith(".tmp")
    assert after
    assert second == str(tmp_path)
    seen.clear()
    write_atomic(path, "y", durable=False)
    assert (path.read_text(), seen) == ("y", [])


def test_checksums_are_sha256(tmp_path: Path) -> None:
    data = bytes(range(256)) * 1000
    (tmp_path / "a").write_bytes(data)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()
    assert sha256_text("\u00e9") == hashlib.sha256("\u00e9".encode()).hexdigest()


@settings(deadline=None, max_examples=50)
@given(MAPPINGS, st.randoms())
def test_equal_values_give_equal_text(value: dict[str, Any], random: Any) -> None:
    items = list(value.items())
    random.shuffle(items)
    assert canonical_json(dict(items)) == canonical_json(value)


def test_canonical_json_is_what_it_always_was() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": "\u00e9"}) == '{"a":"\\u00e9","b":[1,2.5,null]}'


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": -math.inf}])
def test_what_json_cannot_say_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(value)
