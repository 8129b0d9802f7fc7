from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from data_prep import workplace as module
from data_prep.plan import PrepPlan, PrepSpec
from data_prep.workplace import Workplace, disk_errors
from plm_scaling.core.errors import CorpusError, UnfinishedError

PLAN = PrepPlan(layout=1, spec=PrepSpec(), n_held_out_files=0, sources=(), parts=(), block_bytes=64)


@contextmanager
def workplace(target: Path, plan: PrepPlan = PLAN, *, overwrite: bool = False) -> Iterator[Workplace]:
    with module.workplace(target, plan, overwrite=overwrite) as place:
        for name in ("shards", "index"):
            (place.corpus / name).mkdir(parents=True, exist_ok=True)
        yield place


def test_nothing_is_at_the_target_until_it_is_published(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "corpus"
    with workplace(target) as place:
        (place.corpus / "manifest.json").write_text("{}")
        assert not target.exists()
        place.publish()
        assert (target / "manifest.json").is_file()
    assert [path.name for path in target.parent.iterdir()] == ["corpus"]


def test_bad_input_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with workplace(tmp_path / "corpus") as place:
            (place.folder / "x").write_text("x")
            raise CorpusError("bad")

    with pytest.raises(CorpusError, match="bad"):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [UnfinishedError("later"), KeyboardInterrupt(), RuntimeError()])
def test_what_may_be_better_next_time_is_kept(tmp_path: Path, error: BaseException) -> None:
    def fail() -> None:
        with workplace(tmp_path / "corpus") as place:
            (place.folder / "done").write_text("x")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert not (tmp_path / "corpus").exists()
    with workplace(tmp_path / "corpus") as place:
        assert (place.folder / "done").read_text() == "x"


def wreck(tmp_path: Path, plan: PrepPlan = PLAN) -> Path:
    def stop() -> None:
        with workplace(tmp_path / "corpus", plan) as place:
            (place.folder / "parts" / ".00001.99.tmp").mkdir(parents=True)
            (place.folder / "parts" / "00000").mkdir()
            (place.folder / "progress").mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    return tmp_path / ".corpus.preparing"


def test_half_done_parts_and_old_progress_are_swept_up(tmp_path: Path) -> None:
    folder = wreck(tmp_path)
    with workplace(tmp_path / "corpus"):
        assert (folder / "parts" / "00000").is_dir()
        assert not (folder / "parts" / ".00001.99.tmp").exists()
        assert not (folder / "progress").exists()


def test_wreck_of_another_plan_is_removed(tmp_path: Path) -> None:
    folder = wreck(tmp_path, PLAN.model_copy(update={"block_bytes": 65}))
    with workplace(tmp_path / "corpus"):
        assert not (folder / "parts").exists()


def test_wreck_whose_corpus_was_moved_away_is_removed(tmp_path: Path) -> None:
    folder = wreck(tmp_path)
    (folder / "written").mkdir()
    (folder / "corpus").rename(tmp_path / "elsewhere")
    with workplace(tmp_path / "corpus"):
        assert not (folder / "written").exists()


def test_damaged_plan_is_no_plan(tmp_path: Path) -> None:
    folder = wreck(tmp_path)
    (folder / "plan.json").write_text('{"schema_version": 1, "lay')
    with workplace(tmp_path / "corpus"):
        assert not (folder / "parts").exists()


def test_two_preparations_of_one_corpus(tmp_path: Path) -> None:
    with workplace(tmp_path / "corpus") as place:
        (place.folder / "precious").write_text("x")
        with pytest.raises(CorpusError, match="another process is preparing"), workplace(tmp_path / "corpus"):
            pass
        assert (place.folder / "precious").exists()


def make_corpus(path: Path, *extra: str) -> Path:
    for name in ("manifest.json", *extra):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("old")
    return path


def test_an_older_corpus_is_replaced_only_when_asked(tmp_path: Path) -> None:
    target = make_corpus(tmp_path / "corpus", "shards/000000.bin", "windows/abc/tokens", "identity.parquet")
    with pytest.raises(CorpusError, match="there is a corpus here already"), workplace(target):
        pass
    with workplace(target, overwrite=True) as place:
        (place.corpus / "manifest.json").write_text("new")
        place.publish()
    assert sorted(path.name for path in target.iterdir()) == ["index", "manifest.json", "shards"]
    assert (target / "manifest.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_an_older_corpus_survives_a_failed_replacement(tmp_path: Path) -> None:
    target = make_corpus(tmp_path / "corpus")
    with pytest.raises(CorpusError, match="no"), workplace(target, overwrite=True):
        raise CorpusError("no")
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


def test_a_full_disk_is_named_and_other_faults_pass(tmp_path: Path) -> None:
    with pytest.raises(UnfinishedError, match="No space left"), disk_errors(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x"))
    with pytest.raises(OSError, match="odd"), disk_errors(tmp_path):
        raise OSError(errno.EINVAL, "odd")
