"""Parameters that are dicts, on command lines without Hydra: `+verifier=mcqa`, `+verifier.answer_field=gold`."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import fields
from typing import Any

from ng_rollouts.config.fields import spec_of
from ng_rollouts.errors import ConfigError
from ng_rollouts.jsonl import loads
from ng_rollouts.types import Json

_VARIABLE = re.compile(r"\$\{oc\.env:(\w+)\}")
"""An environment variable in the syntax of the collector, so that an API key need not be typed."""

_KIND = "kind"
"""The key that a text without a key sets: `+verifier=mcqa` is `+verifier.kind=mcqa`."""


def set_in_dict(values: Json, config: type, name: str, path: str, text: str) -> None:
    """Set a key of a parameter that is a dict.

    Args:
        values: the values so far, by parameter.
        path: the keys within the parameter, with dots between them; empty for the parameter itself.
        text: the value, as it was typed.

    Raises:
        ConfigError: the value cannot be read, or a key has a value already that is not a dict.
    """
    spec = next(spec_of(each) for each in fields(config) if each.name == name)
    value = _parsed(f"{name}.{path}".rstrip("."), text, spec.text_keys if spec else ())
    if not path and not isinstance(value, dict):
        if not (spec and spec.kind.startswith("group")):
            raise ConfigError(f"{name} has keys: write +{name}.KEY=VALUE, got {text!r}")
        path = _KIND
    target = values.setdefault(name, {})
    *parents, last = path.split(".") if path else ("",)
    for parent in parents:
        # `+verifiers.strict=math +verifiers.strict.seconds=5`: the text is the kind.
        if isinstance(target.get(parent), str):
            target[parent] = {_KIND: target[parent]}
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            raise ConfigError(f"{name}.{path} cannot be set: {name}.{parent} is not a dict")
    if last and isinstance(target.get(last), dict) and isinstance(value, str):
        target[last][_KIND] = value  # the same in the other order
    elif last:
        target[last] = value
    else:
        target.update(value)


def _parsed(name: str, text: str, text_keys: tuple[str, ...]) -> Any:
    """A value: text where a parameter says so. Otherwise a list, a dict or quoted text in YAML, or a JSON scalar."""
    if variable := _VARIABLE.fullmatch(text):
        if variable[1] not in os.environ:
            raise ConfigError(f"{name}: the environment variable {variable[1]} is not set")
        return os.environ[variable[1]]
    if name.rpartition(".")[2] in text_keys:
        return text
    if not text.startswith(("[", "{", "'", '"')):
        return _scalar(text)
    import yaml  # noqa: PLC0415 - few commands have such parameters

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: {text!r} is not a value in YAML") from error


def _scalar(text: str) -> Any:
    """A number, true, false or null, otherwise text. YAML would read `no`, `12:30` and dates as something else."""
    with suppress(ValueError):
        return loads((text.lower() if text.lower() in ("true", "false", "null") else text).encode())
    return text
