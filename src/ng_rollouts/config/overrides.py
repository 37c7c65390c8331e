"""The command line as people type it -> overrides that Hydra takes; no Hydra here.

`k=v`, `+k=v` and `++k=v` come to the same for every known key, flags may stand anywhere, and text needs no quotes
beyond the shell's. A key that is not known is refused with the nearest that is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import Field, dataclass, fields, is_dataclass
from typing import Any, get_origin, get_type_hints

from ng_rollouts.config.fields import spec_of
from ng_rollouts.errors import ConfigError, did_you_mean

_FLAGS_WITH_VALUE = frozenset(
    "--cfg -c --package -p --config-path -cp --config-name -cn --config-dir -cd --experimental-rerun".split()
)
_FLAGS = frozenset("--help -h --hydra-help --version --resolve --run -r --multirun -m --info -i".split())
_INFO_TOPICS = frozenset(["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"])

_OF_NEMO_GYM = {
    "upload_rollouts_to_wandb": "leave it out: nothing is uploaded unless +export=wandb asks for it",
    "wandb_project": "+export=wandb +export_project=NAME files a run there",
    "config_paths": "it starts no servers: start them with NeMo Gym, whose head server is asked for agents",
    "rollout_collection_driver": "a Python program collects with ng_rollouts.collect",
    "split": "name the file: +input_jsonl_fpath=FILE.jsonl",
    "skills": "an agent that takes skills finds them in its rows or in its own configuration",
}
"""What NeMo Gym's command has a place for and this one has not, and what to do instead."""

_PLAIN = re.compile(r"[\w./:\\+@?|%* -]*", re.ASCII)
"""What Hydra's grammar takes unquoted."""

_KEY = re.compile(r"[\w$-]+", re.ASCII)
_QUOTED = re.compile(r"""'([^'\\]|\\.)*'|"([^"\\]|\\.)*\"""", re.DOTALL)
_SWEEP = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag)\(.*\)", re.DOTALL)
_CAST = re.compile(r"(int|float|str|bool|json_str)\(.*\)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Keys:
    """What may be overridden.

    Attributes:
        parameters: dotted names with their types.
        groups: names of config groups.
        dicts: parameters that may be dicts, below which any key is allowed.
    """

    parameters: dict[str, Any]
    groups: Collection[str]
    dicts: frozenset[str] = frozenset()

    @classmethod
    def of(cls, config: type, groups: Collection[str]) -> Keys:
        """The keys of a configuration class and of a folder of config groups."""
        dicts = {field.name for field in fields(config) if _may_be_dict(field)}
        return cls(dict(_parameters(config, "")), groups, frozenset(dicts))

    def rewrite(self, arguments: Iterable[str]) -> list[str]:
        """Arguments for Hydra: flags first, then overrides.

        Raises:
            ConfigError: a key or a flag is not known, or an override lacks its value.
        """
        flags, overrides = _split(list(arguments))
        sweep = bool({"-m", "--multirun"} & set(flags))
        rewritten = [self._rewrite(override, sweep=sweep) for override in overrides]
        return [*flags, *(override for override in rewritten if override)]

    def _rewrite(self, override: str, *, sweep: bool) -> str:
        key, equals, value = override.partition("=")
        name = key.lstrip("+")
        if name.startswith(("~", "hydra.", "hydra/")) or "@" in name:
            return override
        if not equals:
            raise ConfigError(self._without_value(override, name))
        if name in self.groups:
            return "" if value == "null" else f"{name}={value}"
        if name in self.parameters:
            if get_origin(self.parameters[name]) is dict:
                return f"++{name}={_value(value, text=False, sweep=sweep)}"
            return f"{name}={_value(value, text=self.parameters[name] is str, sweep=sweep)}"
        root = name.partition(".")[0]
        if root in self.dicts and name != root:
            return f"++{name}={_value(value, text=False, sweep=sweep)}"
        raise ConfigError(f"unknown parameter {name!r}{self._nearest(name)}")

    def _without_value(self, override: str, name: str) -> str:
        if name in self.parameters or name in self.groups:
            return f"{override} needs a value: +{name}=VALUE"
        return f"{override!r} is not an override: write +key=value{self._nearest(name)}"

    def _nearest(self, name: str) -> str:
        if cure := _OF_NEMO_GYM.get(name.partition(".")[0]):
            return f", a parameter of NeMo Gym: {cure}"
        known = [*self.parameters, *self.groups]
        return did_you_mean(name, known, form="+{}=", otherwise=" (--help lists all parameters)")


def _may_be_dict(field: Field[Any]) -> bool:
    spec = spec_of(field)
    return "dict" in str(field.type) or bool(spec and "dict" in spec.kind)


def quoted(text: str) -> str:
    """Text as a quoted string of Hydra's grammar."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"


def _literal(value: Any) -> str:
    """A JSON value in Hydra's grammar, whose keys stand without quotes."""
    if isinstance(value, dict):
        if not all(_KEY.fullmatch(key) for key in value):
            raise ConfigError(f"the keys {list(value)} cannot be typed on the command line: put them into the rows")
        return "{" + ",".join(f"{key}:{_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_literal, value)) + "]"
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def _parameters(config: type, prefix: str) -> Iterable[tuple[str, Any]]:
    hints = get_type_hints(config)
    for field in fields(config):
        kind = hints[field.name]
        if is_dataclass(kind) and isinstance(kind, type):
            yield from _parameters(kind, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, str if kind in (str, str | None) else kind


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    flags: list[str] = []
    overrides: list[str] = []
    while arguments:
        argument = arguments.pop(0)
        if not argument.startswith("-"):
            overrides.append(argument)
            continue
        name = argument.partition("=")[0]
        if name not in _FLAGS and name not in _FLAGS_WITH_VALUE:
            hint = f": parameters are written +{argument.lstrip('-')}" if "=" in argument else " (see --help)"
            raise ConfigError(f"there is no flag {name}{hint}")
        flags.append(argument)
        if (argument in _FLAGS_WITH_VALUE and arguments) or (
            argument in ("--info", "-i") and arguments and arguments[0] in _INFO_TOPICS
        ):
            flags.append(arguments.pop(0))
    return flags, overrides


def _value(value: str, *, text: bool, sweep: bool) -> str:
    """A value as Hydra's grammar takes it: text in quotes where it would be read as anything else."""
    if _QUOTED.fullmatch(value) or (sweep and (_SWEEP.fullmatch(value) or "," in value)):
        return value
    if text:
        return value if value in ("null", "") else quoted(value)
    if value[:1] in ("[", "{"):
        with suppress(ValueError):
            return _literal(json.loads(value))
    structured = value[:1] in ("[", "{") or _CAST.fullmatch(value)
    return value if structured or "${" in value or _PLAIN.fullmatch(value) else quoted(value)
