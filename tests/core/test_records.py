from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field, ValidationError

from plm_scaling.core.errors import ConfigError, RecordError
from plm_scaling.core.records import Record


class Leaf(Record):
    size: str
    share: float = Field(default=0.5, gt=0, lt=1)


class Tree(Record):
    SCHEMA_VERSION: ClassVar[int] = 2
    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"path"})

    name: str
    height: float = 1.0
    leaves: tuple[Leaf, ...] = ()
    path: str = ""

    @classmethod
    def migrate(cls, data: dict[str, Any], version: int) -> dict[str, Any]:
        """Version 1 gave the height in centimetres."""
        return data if version == 2 else data | {"height": data.get("height", 100.0) / 100}


OAK = Tree(name="oak", height=20.0, leaves=(Leaf(size="5x3"), Leaf(size="6x4", share=0.25)))


def toml(folder: Path, text: str) -> Path:
    path = folder / "tree.toml"
    path.write_text(text)
    return path


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        OAK.name = "elm"  # type: ignore[misc]


def test_a_record_is_the_same_after_a_round_trip(tmp_path: Path) -> None:
    assert Tree.read(OAK.write(tmp_path / "new" / "oak.json")) == OAK
    assert next(iter(json.loads(OAK.to_json()))) == "schema_version"


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_json_has_no_word_for_come_back(tmp_path: Path, value: float) -> None:
    back = Tree.read(OAK.model_copy(update={"height": value}).write(tmp_path / "a.json")).height
    assert back == value or (math.isnan(back) and math.isnan(value))


def test_identity_leaves_out_defaults_and_circumstances() -> None:
    spelt_out = Tree(
        name="oak", height=20, leaves=(Leaf(size="5x3", share=0.5), Leaf(size="6x4", share=0.25)), path="/x"
    )
    assert spelt_out.content_hash() == OAK.content_hash()
    assert OAK.identity() == {
        "name": "oak",
        "height": 20.0,
        "leaves": [{"size": "5x3"}, {"size": "6x4", "share": 0.25}],
    }
    assert Tree(name="oak").content_hash() != OAK.content_hash()


def test_a_new_field_whose_default_is_the_old_behaviour_keeps_the_hash() -> None:
    class Later(Tree):
        SCHEMA_VERSION: ClassVar[int] = 3
        colour: str = "green"

    later = Later.model_validate(OAK.model_dump())
    assert later.content_hash() == OAK.content_hash()
    assert later.model_copy(update={"colour": "red"}).content_hash() != OAK.content_hash()


def test_older_data_is_brought_up_to_date(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"schema_version": 1, "name": "oak", "height": 2000}')
    assert Tree.read(tmp_path / "a.json") == Tree(name="oak", height=20.0)


def test_newer_data_is_refused_with_both_versions(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"schema_version": 3, "name": "oak"}')
    with pytest.raises(RecordError, match="version 3; this release reads up to 2") as caught:
        Tree.read(tmp_path / "a.json")
    assert caught.value.where == str(tmp_path / "a.json")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(OAK.to_json()[:-20], id="cut short"),
        pytest.param("[1, 2]", id="a list"),
        pytest.param("3", id="a number"),
        pytest.param('{"name": "oak"}', id="no version"),
        pytest.param('{"schema_version": null, "name": "oak"}', id="version null"),
        pytest.param('{"schema_version": "two", "name": "oak"}', id="version a word"),
        pytest.param('{"schema_version": 2, "height": 1}', id="a field is missing"),
        pytest.param('{"schema_version": 2, "name": "oak", "colour": "red"}', id="unknown field"),
        pytest.param('{"schema_version": 2, "name": ["oak"]}', id="wrong type"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(RecordError, match="Tree") as caught:
        Tree.read(path)
    assert caught.value.where == str(path)


def test_bytes_that_are_no_text_are_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordError, match="not a readable Tree"):
        Tree.read(tmp_path / "a.json")
    (tmp_path / "a.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(ConfigError, match=r"TOML|UTF-8"):
        Tree.read_toml(tmp_path / "a.toml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no Tree here"):
        Tree.read(tmp_path / "a.json")
    with pytest.raises(ConfigError, match="No such file"):
        Tree.read_toml(tmp_path / "a.toml")


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        OAK.write(tmp_path / "a.json")
    assert os.listdir(tmp_path) == []


def test_toml_gives_the_same_value(tmp_path: Path) -> None:
    leaves = '[[leaves]]\nsize = "5x3"\n[[leaves]]\nsize = "6x4"\nshare = 0.25\n'
    assert Tree.read_toml(toml(tmp_path, 'schema_version = 2\nname = "oak"\nheight = 2e1\n' + leaves)) == OAK


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ('name = "oak"\n\nhight = 3\n', 3, "did you mean height?"),
        ('nmae = "oak"\n', 1, "did you mean name?"),
        ('name = "oak"\n\n[[leaves]]\nsize = "1x1"\n[[leaves]]\nsizes = "1x1"\n', 6, "did you mean size?"),
        ('name = "oak"\n[leafs]\nsize = "1x1"\n', 2, "did you mean leaves?"),
        ('name = "oak"\nzzz = 1\n', 2, "allowed: height, leaves, name, path"),
    ],
)
def test_a_misspelt_key_names_its_line_and_the_right_one(tmp_path: Path, text: str, line: int, hint: str) -> None:
    path = toml(tmp_path, text)
    with pytest.raises(ConfigError, match="unknown key") as caught:
        Tree.read_toml(path)
    assert caught.value.where == f"{path}:{line}"
    assert caught.value.hint == hint


def test_a_value_of_the_wrong_kind_names_key_line_and_what_it_got(tmp_path: Path) -> None:
    path = toml(tmp_path, 'name = "oak"\n[[leaves]]\nsize = "1x1"\nshare = 1.5\n')
    with pytest.raises(ConfigError, match=r"leaves\.0\.share: .*less than 1") as caught:
        Tree.read_toml(path)
    assert caught.value.where == f"{path}:4"
    assert caught.value.why == "got 1.5"


def test_toml_syntax_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not valid TOML: .*line 2"):
        Tree.read_toml(toml(tmp_path, 'name = "oak"\nheight = = 3\n'))
