"""Config groups: their folder, names, members and values."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ng_rollouts.errors import ConfigError, did_you_mean

_GLOBAL_PACKAGE = "# @package _global_"
"""First line of a member whose keys are parameters. Without it, they are keys of the parameter named like the group."""


def conf_folder() -> Path:
    """The folder of the config groups: in the package if that is installed, at the top of a checkout otherwise."""
    package = Path(__file__).resolve().parents[1]
    return next(folder for folder in (package / "conf", package.parents[1] / "conf") if folder.is_dir())


@cache
def group_names() -> frozenset[str]:
    """The names of the config groups, without those of Hydra itself."""
    return frozenset(folder.name for folder in conf_folder().iterdir() if folder.is_dir() and folder.name != "hydra")


def members(group: str) -> list[str]:
    """The names of a group's members, sorted."""
    return sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))


def unknown_member(group: str, name: str, options: Sequence[str]) -> str:
    """The message about a member that a group does not have."""
    return f"{group} must be one of {', '.join(options)}, got {name!r}{did_you_mean(name, options)}"


def group_values(group: str, name: str) -> dict[str, Any]:
    """The parameters that a member of a group sets.

    Raises:
        ConfigError: the group has no member of that name.
    """
    import yaml  # noqa: PLC0415 - only the API needs it: in the command, Hydra reads the groups

    file = conf_folder() / group / f"{name}.yaml"
    if not file.is_file():
        raise ConfigError(unknown_member(group, name, members(group)))
    text = file.read_text(encoding="utf-8")
    values = yaml.safe_load(text) or {}
    return dict(values) if text.startswith(_GLOBAL_PACKAGE) else {group: values}
