from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.workplace import workplace
from plm_scaling.core.errors import CorpusError


def test_nothing_is_at_the_target_until_it_is_published(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "corpus"
    with workplace(target) as place:
        (place.corpus / "manifest.json").write_text("{}")
        assert not target.exists()
        place.publish()
        assert [path.name for path in target.iterdir()] == ["manifest.json"]
    assert [path.name for path in target.parent.iterdir()] == ["corpus"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with workplace(tmp_path / "corpus") as place:
            (place.spill / "x").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_wreck_of_a_killed_preparation_is_cleaned(tmp_path: Path) -> None:
    wreck = tmp_path / ".corpus.preparing" / "corpus" / "shards"
    wreck.mkdir(parents=True)
    (wreck / "000000.bin").write_bytes(b"half")
    with workplace(tmp_path / "corpus") as place:
        assert list(place.corpus.iterdir()) == []
        assert not wreck.exists()


def test_two_preparations_of_one_corpus(tmp_path: Path) -> None:
    with workplace(tmp_path / "corpus") as place:
        (place.spill / "precious").write_text("x")
        with pytest.raises(CorpusError, match="another process is preparing"), workplace(tmp_path / "corpus"):
            pass
        assert (place.spill / "precious").exists()


def make_corpus(path: Path, *extra: str) -> Path:
    for name in ("manifest.json", *extra):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("old")
    return path


def test_an_older_corpus_is_replaced_only_when_asked(tmp_path: Path) -> None:
    target = make_corpus(tmp_path / "corpus", "shards/000000.bin", "windows/abc/tokens")
    with pytest.raises(CorpusError, match="there is a corpus here already"), workplace(target):
        pass
    with workplace(target, overwrite=True) as place:
        (place.corpus / "manifest.json").write_text("new")
        place.publish()
    assert [path.name for path in target.iterdir()] == ["manifest.json"]
    assert (target / "manifest.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_an_older_corpus_survives_a_failed_replacement(tmp_path: Path) -> None:
    target = make_corpus(tmp_path / "corpus")
    with pytest.raises(RuntimeError), workplace(target, overwrite=True):
        raise RuntimeError
    assert (target / "manifest.json").read_text() == "old"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("names", [("thesis.tex",), ("manifest.json", "thesis.tex"), ("shards/000000.bin",)])
def test_other_folders_are_never_replaced(tmp_path: Path, names: tuple[str, ...], overwrite: bool) -> None:
    for name in names:
        (tmp_path / "home" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "home" / name).write_text("precious")
    with (
        pytest.raises(CorpusError, match="something else than a corpus"),
        workplace(tmp_path / "home", overwrite=overwrite),
    ):
        pass
    assert all((tmp_path / "home" / name).read_text() == "precious" for name in names)


def test_an_empty_folder_is_fine_a_file_or_link_is_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with workplace(tmp_path / "empty") as place:
        place.publish()
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for name in ("file", "link"):
        with pytest.raises(CorpusError, match="this is something else"), workplace(tmp_path / name):
            pass
