"""Config groups: where they are, what they are called, what they hold."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ng_rollouts.errors import ConfigError

_FOR_ALL = "# @package _global_"


def conf_folder() -> Path:
    """Within the package when installed, at the top of the project in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return next(folder for folder in (package / "conf", package.parents[1] / "conf") if folder.is_dir())


@cache
def group_names() -> frozenset[str]:
    """Groups of this program, Hydra's own left out."""
    return frozenset(folder.name for folder in conf_folder().iterdir() if folder.is_dir() and folder.name != "hydra")


def members(group: str) -> list[str]:
    """What there is to choose from."""
    return sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))


def group_values(group: str, name: str) -> dict[str, Any]:
    """What choosing a member of a group says, as parameters.

    Raises:
        ConfigError: there is none of that name.
    """
    import yaml  # noqa: PLC0415 - the command leaves this to Hydra

    file = conf_folder() / group / f"{name}.yaml"
    if not file.is_file():
        raise ConfigError(f"{group} must be one of {', '.join(members(group))}, got {name!r}")
    text = file.read_text(encoding="utf-8")
    values = yaml.safe_load(text) or {}
    return dict(values) if text.startswith(_FOR_ALL) else {group: values}
