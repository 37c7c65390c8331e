"""`env.yaml` in the working folder, in which NeMo Gym's users keep the address, key and model of the model server."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from ng_rollouts.config.secrets import remember_values
from ng_rollouts.console import log
from ng_rollouts.errors import ConfigError

KEYS = ("policy_base_url", "policy_api_key", "policy_model_name")
_MODEL_SERVER_PARAMETERS = (*KEYS, "verifier", "resources_base_url", "tools")
"""Parameters that need a model server. One of them on the command line makes the command read `env.yaml`."""

_READABLE_BY_OTHERS = stat.S_IRGRP | stat.S_IROTH


def fill_from_env_yaml(config: Any) -> None:
    """Set parameters that the command line leaves out from `env.yaml`, if the command uses a model server.

    With agent servers, the file is ignored: it is then the configuration of those servers, which NeMo Gym's commands
    have read from the same folder.

    Args:
        config: the composed config, an OmegaConf `DictConfig`, changed in place.

    Raises:
        ConfigError: the file cannot be read.
    """
    path = Path("env.yaml")
    if (
        config.get("agent_url") is not None
        or not any(config.get(name) for name in _MODEL_SERVER_PARAMETERS)
        or not path.exists()
    ):
        return
    if not path.is_file():
        raise ConfigError("env.yaml is not a regular file: remove it, or run the command in another folder")
    from omegaconf import OmegaConf  # noqa: PLC0415 - the command has loaded it, the API does not need it
    from omegaconf.errors import OmegaConfBaseException  # noqa: PLC0415

    try:
        content = OmegaConf.load(path)
        remember_values(OmegaConf.to_container(content, resolve=False))
        values = {name: OmegaConf.select(content, name) for name in KEYS}
    except (OSError, ValueError, OmegaConfBaseException) as error:
        raise ConfigError(f"env.yaml cannot be read: {' '.join(str(error).split())}") from error
    except Exception as error:  # YAMLError derives from Exception alone, and importing yaml for it takes time
        raise ConfigError(f"env.yaml is not valid YAML: {' '.join(str(error).split())}") from error
    remember_values(values)
    if values["policy_api_key"] and os.name == "posix" and path.stat().st_mode & _READABLE_BY_OTHERS:
        log("warning: env.yaml contains policy_api_key, and other users can read it: chmod 600 env.yaml")
    explicit_url = config.get("policy_base_url")
    # The key belongs to the address in the file, and must not be sent to another server.
    if explicit_url is not None and explicit_url != values["policy_base_url"]:
        values["policy_api_key"] = None
    for name, value in values.items():
        if value is not None and config.get(name) is None:
            try:
                config[name] = value
            except OmegaConfBaseException as error:
                raise ConfigError(f"env.yaml: {name} must be text: {' '.join(str(error).split())}") from error
