from __future__ import annotations

from pathlib import Path

import pytest

from plm_scaling.core import configs
from plm_scaling.core.configs import find_config, list_configs
from plm_scaling.core.errors import ConfigError


def test_a_shipped_config_is_found_with_and_without_its_ending() -> None:
    assert "hardware.toml" in list_configs()
    assert find_config("hardware") == find_config("hardware.toml")
    assert "gpus.a100" in find_config("hardware").read_text()


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError) as caught:
        find_config("hardwear")
    assert "did you mean hardware.toml?" in str(caught.value)


@pytest.mark.parametrize("name", ["../pyproject.toml", "/etc/hosts", ""])
def test_a_name_never_leaves_the_folder(name: str) -> None:
    with pytest.raises(ConfigError):
        find_config(name)


def test_an_installed_copy_comes_before_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "plm_scaling"
    installed, checkout = package / "_configs", tmp_path / "configs"
    for folder, name in ((installed, "installed.toml"), (checkout, "checkout.toml")):
        folder.mkdir(parents=True)
        (folder / name).write_text("")
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.setattr(configs, "_PACKAGE", package)
    assert list_configs() == ("installed.toml",)
    assert find_config("installed") == installed / "installed.toml"
    (installed / "installed.toml").unlink()
    installed.rmdir()
    assert list_configs() == ("checkout.toml",)


def test_a_stranger_named_configs_in_site_packages_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "theirs.toml").write_text("")
    monkeypatch.setattr(configs, "_PACKAGE", tmp_path / "plm_scaling")
    with pytest.raises(ConfigError, match="missing"):
        list_configs()
