"""The commands that a run takes, as a person types them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ng_rollouts.errors import ConfigError, did_you_mean
from ng_rollouts.types import RolloutKey

KNOBS = {"num_samples_in_parallel": 1, "max_requests_per_minute": 0, "max_attempts": 1, "drain_s": 0}
"""The parameters that `set` changes, each with its minimum."""

_WHOLE = ("num_samples_in_parallel", "max_attempts")
"""Those that are whole numbers."""

_MAX_VALUE = 10**9

_NO_KEY = RolloutKey(0, 0)

FORMS = {
    "status": "status",
    "set": f"set {'|'.join(KNOBS)}=NUMBER",
    "pause": "pause",
    "resume": "resume",
    "drain": "drain",
    "retry": "retry failed",
    "cancel": "cancel TASK",
    "show": "show TASK:ROLLOUT",
}
"""How each command is written."""

CHANGES = frozenset(FORMS) - {"status", "show"}
"""The commands that change the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command.

    Attributes:
        text: the command as it was typed, with single spaces.
        name: a key of `FORMS`.
        knob, value: the parameter that `set` changes, and its new value.
        key: the rollout of `show`; the task of `cancel`, with rollout 0.
    """

    text: str
    name: str
    knob: str = ""
    value: float = 0
    key: RolloutKey = _NO_KEY


def parse_command(text: str) -> Command:
    """A command from its text.

    Raises:
        ConfigError: it is none.
    """
    name, *arguments = text.split() or [""]
    text = " ".join([name, *arguments])
    argument = " ".join(arguments)
    if name not in FORMS:
        known = did_you_mean(name, FORMS, otherwise=f": known are {', '.join(FORMS.values())}")
        raise ConfigError(f"unknown command {_shortened(name)!r}{known}")
    if name == "set":
        knob, value = _setting(argument)
        return Command(text=text, name=name, knob=knob, value=value)
    if name == "cancel" and _is_index(argument):
        return Command(text=text, name=name, key=RolloutKey(int(argument), 0))
    task, _, rollout = argument.partition(":")
    if name == "show" and _is_index(task) and _is_index(rollout):
        return Command(text=text, name=name, key=RolloutKey(int(task), int(rollout)))
    if text != FORMS[name]:
        raise ConfigError(f"{_shortened(text)!r} is not a command: write {FORMS[name]}")
    return Command(text=text, name=name)


def _setting(argument: str) -> tuple[str, float]:
    """The parameter and the value of `set`.

    Raises:
        ConfigError: the parameter cannot be changed, or the value is none of its values.
    """
    knob, _, text = argument.lstrip("+").partition("=")
    if knob not in KNOBS:
        known = did_you_mean(knob, KNOBS, otherwise=f": a run can change {', '.join(KNOBS)}")
        raise ConfigError(f"set {_shortened(knob)!r} is not possible{known}")
    try:
        value = int(text) if knob in _WHOLE else float(text)
    except ValueError:
        value = math.nan
    if not KNOBS[knob] <= value <= _MAX_VALUE or (knob == "max_requests_per_minute" and not value):
        kind = "an integer" if knob in _WHOLE else "a number"
        least = "above 0" if knob == "max_requests_per_minute" else f"of at least {KNOBS[knob]}"
        raise ConfigError(f"{knob} must be {kind} {least}, up to {_MAX_VALUE:g}, got {_shortened(text)!r}")
    return knob, value


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 18


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}…"
