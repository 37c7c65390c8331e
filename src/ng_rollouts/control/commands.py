"""The commands that a run takes, as a person types them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ng_rollouts.errors import ConfigError, did_you_mean
from ng_rollouts.types import RolloutKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The values that a parameter can have while a run runs.

    Attributes:
        above, minimum: exclusive and inclusive lower bound.
        is_integer: whether fractions are none of its values.
        may_be_null: whether null takes the limit away.
    """

    above: float = -math.inf
    minimum: float = -math.inf
    is_integer: bool = False
    may_be_null: bool = False

    def has(self, value: float) -> bool:
        """True for one of its values."""
        return value > self.above and self.minimum <= value <= _MAX_VALUE

    @property
    def description(self) -> str:
        """Its values in words."""
        least = f"above {self.above:g}" if self.above > -math.inf else f"of at least {self.minimum:g}"
        null = ", or null" if self.may_be_null else ""
        return f"{'an integer' if self.is_integer else 'a number'} {least}, up to {_MAX_VALUE:g}{null}"


_MAX_VALUE = 10**12

SETTABLE = {
    "num_samples_in_parallel": Setting(minimum=1, is_integer=True, may_be_null=True),
    "max_requests_per_minute": Setting(above=0, may_be_null=True),
    "max_attempts": Setting(minimum=1, is_integer=True),
    "drain_s": Setting(minimum=0),
    "max_total_tokens": Setting(minimum=1, is_integer=True, may_be_null=True),
    "max_wall_s": Setting(above=0, may_be_null=True),
}
"""The parameters that `set` changes."""

_NO_KEY = RolloutKey(0, 0)

FORMS = {
    "status": "status",
    "set": f"set {'|'.join(SETTABLE)}=NUMBER",
    "pause": "pause",
    "resume": "resume",
    "drain": "drain",
    "retry": "retry failed",
    "cancel": "cancel TASK",
    "show": "show TASK:ROLLOUT",
}
"""How each command is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command.

    Attributes:
        text: the command as it was typed, with single spaces.
        name: a key of `FORMS`.
        parameter, value: what `set` changes, and its new value; None for null.
        key: the rollout of `show`; the task of `cancel`, with rollout 0.
    """

    text: str
    name: str
    parameter: str = ""
    value: float | None = None
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
        parameter, value = _setting(argument)
        return Command(text=text, name=name, parameter=parameter, value=value)
    if name == "cancel" and _is_index(argument):
        return Command(text=text, name=name, key=RolloutKey(int(argument), 0))
    task, _, rollout = argument.partition(":")
    if name == "show" and _is_index(task) and _is_index(rollout):
        return Command(text=text, name=name, key=RolloutKey(int(task), int(rollout)))
    if text != FORMS[name]:
        raise ConfigError(f"{_shortened(text)!r} is not a command: write {FORMS[name]}")
    return Command(text=text, name=name)


def _setting(argument: str) -> tuple[str, float | None]:
    """The parameter and the value of `set`.

    Raises:
        ConfigError: the parameter cannot be changed, or the value is none of its values.
    """
    name, _, text = argument.lstrip("+").partition("=")
    if (setting := SETTABLE.get(name)) is None:
        known = did_you_mean(name, SETTABLE, otherwise=f": a run can change {', '.join(SETTABLE)}")
        raise ConfigError(f"set {_shortened(name)!r} is not possible{known}")
    if text == "null" and setting.may_be_null:
        return name, None
    try:
        value = int(text) if setting.is_integer else float(text)
    except ValueError:
        value = math.nan
    if not setting.has(value):
        raise ConfigError(f"{name} must be {setting.description}, got {_shortened(text)!r}")
    return name, value


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 18


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}…"
