"""`env.yaml` in the working folder, where NeMo Gym's users keep the model server's address, key and model."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from ng_rollouts.console import log
from ng_rollouts.errors import ConfigError

KEYS = ("policy_base_url", "policy_api_key", "policy_model_name")
_ASKING = (*KEYS, "verifier", "resources_base_url", "tools")
_READABLE_BY_OTHERS = stat.S_IRGRP | stat.S_IROTH


def fill_from_env_yaml(config: Any) -> None:
    """Take what the command line leaves open from `env.yaml`, if the command is for a model server at all.

    With agent servers the file is theirs alone: NeMo Gym's own commands leave it lying there.

    Args:
        config: the composed config, an OmegaConf `DictConfig`, changed in place.

    Raises:
        ConfigError: the file cannot be read.
    """
    path = Path("env.yaml")
    if config.get("agent_url") is not None or not any(config.get(name) for name in _ASKING) or not path.exists():
        return
    from omegaconf import OmegaConf  # noqa: PLC0415 - loaded by now, and only by the command
    from omegaconf.errors import OmegaConfBaseException  # noqa: PLC0415

    try:
        known = OmegaConf.load(path)
        found = {name: OmegaConf.select(known, name) for name in KEYS}
    except (OSError, ValueError, OmegaConfBaseException) as error:
        raise ConfigError(f"env.yaml cannot be read: {' '.join(str(error).split())}") from error
    except Exception as error:  # yaml's errors share no base with anything
        raise ConfigError(f"env.yaml is no YAML: {' '.join(str(error).split())}") from error
    if found["policy_api_key"] and os.name == "posix" and path.stat().st_mode & _READABLE_BY_OTHERS:
        log("warning: env.yaml holds policy_api_key, and others may read it: chmod 600 env.yaml")
    typed = config.get("policy_base_url")
    if typed is not None and typed != found["policy_base_url"]:
        found["policy_api_key"] = None  # a key is for the address that it lies beside
    for name, value in found.items():
        if value is not None and config.get(name) is None:
            try:
                config[name] = value
            except OmegaConfBaseException as error:
                raise ConfigError(f"env.yaml: {name} must be text: {' '.join(str(error).split())}") from error
