"""Messages of Hydra and OmegaConf in the form of this program's own: parameter, allowed values, and how to fix it.

Does not import them: their exceptions are recognized by their attributes and texts. Texts that are not known are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ng_rollouts.config.groups import unknown_member
from ng_rollouts.errors import install_extra

_WANTED = (
    ("could not be converted to Integer", "an integer"),
    ("could not be converted to Float", "a number"),
    ("is not a valid bool", "true or false"),
    ("Cannot convert", "text"),
)
"""A part of OmegaConf's message about a value of the wrong type, and that type in the words of this program."""

_DICT_EXAMPLES = {
    "min_mean": "+min_mean.reward=0.5",
    "responses_create_params": "+responses_create_params.temperature=0.7",
    "agents": "+agents.NAME.url=URL",
}

_UNSET_VARIABLE = re.compile(r"Environment variable '(.+?)' not found")
_UNKNOWN_REFERENCE = re.compile(r"Interpolation key '(.+?)' not found")
_UNKNOWN_MEMBER = re.compile(
    r"Could not find '((?:hydra/)?\w+)/(.*?)'\s+Available options in '[\w/]+':\s+(.*)", re.DOTALL
)
_SLURM_PLUGIN = re.compile(r"Could not (?:load|find) 'hydra/launcher/submitit_")
_TYPES_AND_KEYS = ("object_type=", "reference_type=", "full_key:")
"""Beginnings of lines in OmegaConf's messages that only its developers need."""


def message_of(error: BaseException) -> str:
    """The message of an exception of Hydra or OmegaConf in one line."""
    # Hydra's OverrideParseException has the override that could not be parsed.
    if override := getattr(error, "override", None):
        return f"{override}: the value cannot be parsed: close each bracket and quote once, and quote text in brackets"
    if _SLURM_PLUGIN.search(str(error)):
        return f"hydra/launcher=slurm needs hydra-submitit-launcher: {install_extra('slurm')}"
    if unknown := _UNKNOWN_MEMBER.search(_without_search_path(error)):
        group, name, options = unknown.groups()
        return unknown_member(group, name, options.split())
    # Hydra wraps the exception of OmegaConf that has the parameter.
    for each in _causes(error):
        if name := getattr(each, "full_key", None):
            return _about_parameter(str(name), each)
    return _joined(error)


def _about_parameter(name: str, error: BaseException) -> str:
    """The message of an exception of OmegaConf about the value of a parameter."""
    text, value = str(error), getattr(error, "value", None)
    if unset := _UNSET_VARIABLE.search(text):
        return f"{name}: the environment variable {unset[1]} is not set: export it"
    if unknown := _UNKNOWN_REFERENCE.search(text):
        return f"{name}: ${{{unknown[1]}}} is not a parameter; an environment variable is ${{oc.env:NAME}}"
    if "is not Optional" in text:
        return f"{name} must not be null: leave it out, or give it a value"
    if (text.startswith("Cannot assign") and "to Dict" in text) or "Cannot merge DictConfig" in text:
        return f"{name} must be a dict such as {_DICT_EXAMPLES.get(name, f'+{name}.KEY=VALUE')}, got {value!r}"
    for part, wanted in _WANTED:
        if part in text:
            several = ": add -m to run once for each value" if "," in str(value) else ""
            return f"{name} must be {wanted}, got {value!r}{several}"
    return f"{name}: {_one_line(text)}"


def _joined(error: BaseException) -> str:
    """The message of an exception and that of its cause, which often has the reason."""
    messages = [_one_line(_without_search_path(each)) for each in _causes(error)][:2]
    message = ": ".join(dict.fromkeys(filter(None, messages)))
    for prefix in ("In 'config': ", "Error merging override "):
        message = message.removeprefix(prefix)
    return message


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def _without_search_path(error: BaseException) -> str:
    return str(error).partition("Config search path")[0]


def _one_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(_TYPES_AND_KEYS))
