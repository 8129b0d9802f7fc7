"""The configs shipped with the package: found in a checkout and in an installed wheel alike."""

from __future__ import annotations

from pathlib import Path

from plm_scaling.core.errors import ConfigError, did_you_mean

__all__ = ["find_config", "list_configs"]

_PACKAGE = Path(__file__).resolve().parents[1]


def _folder(package: Path) -> Path:
    """`_configs` inside an installed package, else `configs` at the root of the checkout the package lies in."""
    installed = package / "_configs"
    if installed.is_dir():
        return installed
    root = package.parent
    # Site-packages may hold a folder named configs of somebody else: only a checkout has our pyproject.toml.
    if (root / "configs").is_dir() and (root / "pyproject.toml").is_file():
        return root / "configs"
    raise ConfigError(
        "the configs shipped with plm-scaling are missing",
        where=str(installed),
        why="neither an installed copy nor a checkout's configs folder is there",
        hint="install the package again",
    )


def list_configs() -> tuple[str, ...]:
    """File names of the shipped configs, sorted.

    Raises
    ------
    ConfigError : the installation has no configs.
    """
    return tuple(sorted(path.name for path in _folder(_PACKAGE).glob("*.toml")))


def find_config(name: str) -> Path:
    """Path of a shipped config by its file name; the ending `.toml` may be left out.

    Raises
    ------
    ConfigError : no shipped config has this name; the hint names the closest one.
    """
    file_name = name if name.endswith(".toml") else f"{name}.toml"
    known = list_configs()
    if file_name not in known:
        raise ConfigError(f"no shipped config is called {name!r}", hint=did_you_mean(file_name, known))
    return _folder(_PACKAGE) / file_name
