"""Translates the arguments of the command to overrides in Hydra's grammar. Does not import Hydra.

`k=v`, `+k=v` and `++k=v` mean the same for every known key, flags can be anywhere, and text needs no quotes other than
the shell's. An unknown key is an error that suggests the nearest known one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import Field, dataclass, fields, is_dataclass
from typing import Any, get_origin, get_type_hints

from ng_rollouts.config.fields import spec_of
from ng_rollouts.config.literal_text import marked
from ng_rollouts.config.parameters import RESPONSES_PARAMETERS
from ng_rollouts.errors import ConfigError, did_you_mean

_FLAGS_WITH_VALUE = frozenset(
    "--cfg -c --package -p --config-path -cp --config-name -cn --config-dir -cd --experimental-rerun".split()
)
_FLAGS = frozenset("--help -h --hydra-help --version --resolve --run -r --multirun -m --info -i".split())
_INFO_TOPICS = frozenset(["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"])

_NEMO_GYM_PARAMETERS = {
    "upload_rollouts_to_wandb": "leave it out: rollouts are uploaded only with +export=wandb",
    "upload_rollouts": "leave it out: rollouts are uploaded only with +export=wandb",
    "wandb_project": "use +export=wandb +export_project=NAME",
    "config_paths": "leave it out, and start the servers with NeMo Gym: the agents are read from its head server",
    "rollout_collection_driver": "to collect from a Python program, use ng_rollouts.collect",
    "split": "name the file of the split: +input_jsonl_fpath=FILE.jsonl",
    "skills": "set skills in the rows, or in the configuration of the agent",
    "retry_invalid_judge_responses": "remove the rows with invalid_judge_response from the output, and resume",
    **dict.fromkeys(
        (
            *("observability_enabled", "model_call_capture_dir", "token_id_capture"),
            *("skip_verification", "skip_verification_reward", "allow_unsupported_pairing"),
        ),
        "set it where the servers are started",
    ),
}
"""Parameters of NeMo Gym's command that this command does not have, and what to use instead."""

NEEDLESS = {
    "retain_results_in_memory": "results are never kept in memory",
    "max_resident_rollout_tasks": "only rollouts in flight are in memory",
    "route_failures_to_sidecar": "failures are always in a separate file",
    "health_check_workers": "rollouts are checked while they are collected",
}
"""Parameters of NeMo Gym's command that are accepted and have no effect, and why none is needed."""

_UNQUOTED = re.compile(r"[\w./:\\+@?|%* -]*", re.ASCII)
"""Values that Hydra's grammar accepts without quotes."""

_ENVIRONMENT_VARIABLE = re.compile(r"\$\{oc\.env:[^${}]+\}")
"""The interpolation that an API key may be."""

_KEY = re.compile(r"[\w$%/+.|@?*\\()\[\]{}:=, -]+", re.ASCII)
_ESCAPED_IN_KEYS, _ESCAPE = re.compile(r"([\\()\[\]{}:=, ])"), r"\\\1"
"""A key of a dict in Hydra's grammar, the characters that need a backslash in it, and the backslash."""

_QUOTED = re.compile(r"""'([^'\\]|\\.)*'|"([^"\\]|\\.)*\"""", re.DOTALL)
_SWEEP = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag)\(.*\)", re.DOTALL)
_CAST = re.compile(r"(int|float|str|bool|json_str)\(.*\)", re.DOTALL)
"""Functions of Hydra's grammar: sweeps and casts (Hydra, "Extended override syntax")."""

_INTEGER = re.compile(r"[+-]?\d+(_\d+)*")


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys that the command line can override.

    Attributes:
        parameters: dotted names with their types.
        groups: names of config groups.
        dicts: parameters that can be dicts, below which any key is allowed, with their keys whose values are text.
    """

    parameters: dict[str, Any]
    groups: Collection[str]
    dicts: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, config: type, groups: Collection[str]) -> Keys:
        """The keys of a configuration class and of a folder of config groups."""
        dicts = {field.name: _text_keys(field) for field in fields(config) if _may_be_dict(field)}
        return cls(dict(_parameters(config, "")), groups, dicts)

    def rewrite(self, arguments: Iterable[str]) -> list[str]:
        """Arguments for Hydra: flags first, then overrides.

        Raises:
            ConfigError: a key or a flag is unknown, or an override has no value.
        """
        flags, overrides = self._split(list(arguments))
        sweep = bool({"-m", "--multirun"} & set(flags))
        needed = [override for override in overrides if _name_of(override) not in NEEDLESS]
        rewritten = [self._rewrite(override, sweep=sweep) for override in needed]
        return [*flags, *(override for override in rewritten if override)]

    def _rewrite(self, override: str, *, sweep: bool) -> str:
        key, equals, value = override.partition("=")
        name = key.lstrip("+")
        # Hydra's own overrides: deletions, its settings, and groups in other packages.
        if name.startswith(("~", "hydra.", "hydra/")) or "@" in name:
            return override
        if not equals:
            raise ConfigError(self._without_value(override, name))
        if name in self.groups:
            return "" if value == "null" else f"{name}={value}"
        if name in self.parameters:
            # `++` adds keys that are not in the configuration yet. Other parameters are all in it.
            if get_origin(self.parameters[name]) is dict:
                return f"++{name}={_value(value, text=False, sweep=sweep)}"
            # Any other integer would count as true.
            if self.parameters[name] is bool and _INTEGER.fullmatch(value) and value not in ("0", "1"):
                raise ConfigError(f"{name} must be true or false, got {value!r}")
            return f"{name}={_value(value, text=self.parameters[name] is str, sweep=sweep)}"
        root = name.partition(".")[0]
        if root in self.dicts and name != root:
            if self._is_text(name):
                return f"++{name}={_typed_text(name, value, sweep=sweep)}"
            if self._is_name(name):
                typed = value if value in ("null", "") or (sweep and _is_sweep(value)) else quoted(value)
                return f"++{name}={typed}"
            return f"++{name}={_value(value, text=False, sweep=sweep)}"
        raise ConfigError(f"unknown parameter {name!r}{self._nearest(name)}")

    def _split(self, arguments: list[str]) -> tuple[list[str], list[str]]:
        """Flags with their values, and overrides.

        Raises:
            ConfigError: a flag is unknown.
        """
        flags: list[str] = []
        overrides: list[str] = []
        while arguments:
            argument = arguments.pop(0)
            if not argument.startswith("-"):
                overrides.append(argument)
                continue
            name, equals, value = argument.partition("=")
            if name not in _FLAGS and name not in _FLAGS_WITH_VALUE:
                following = arguments[0] if arguments and not equals and "=" not in arguments[0] else ""
                raise ConfigError(_flag_message(name, value or following, [*self.parameters, *self.groups]))
            flags.append(argument)
            if (argument in _FLAGS_WITH_VALUE and arguments) or (
                argument in ("--info", "-i") and arguments and arguments[0] in _INFO_TOPICS
            ):
                flags.append(arguments.pop(0))
        return flags, overrides

    def _is_text(self, name: str) -> bool:
        """True if a nested key holds free text."""
        root, _, key = _without_agent(name).partition(".")
        return key in self.dicts.get(root, ())

    def _is_name(self, name: str) -> bool:
        """True if a key of `agents.NAME` holds a path, a name or an API key."""
        return self.parameters.get(_without_agent(name)) is str

    def _without_value(self, override: str, name: str) -> str:
        if name in self.parameters or name in self.groups:
            return f"{override} needs a value: +{name}=VALUE"
        return f"{override!r} is not an override: write +key=value{self._nearest(name)}"

    def _nearest(self, name: str) -> str:
        if advice := _NEMO_GYM_PARAMETERS.get(name.partition(".")[0]):
            return f" here, a parameter of NeMo Gym: {advice}"
        if name in RESPONSES_PARAMETERS:
            return f": did you mean +responses_create_params.{name}=?"
        known = [*self.parameters, *self.groups]
        return did_you_mean(name, known, form="+{}=", otherwise=" (--help lists all parameters)")


def needless(arguments: Iterable[str]) -> list[str]:
    """The names among these arguments that have no effect."""
    return [name for name in map(_name_of, arguments) if name in NEEDLESS]


def _name_of(override: str) -> str:
    return override.lstrip("+").partition("=")[0]


def _flag_message(flag: str, value: str, known: Collection[str]) -> str:
    """The message about a parameter that was typed as a flag.

    Args:
        flag: such as `--input`, without its value.
        value: its value; empty if it has none.
        known: the names of all parameters.
    """
    name = flag.lstrip("-").replace("-", "_")
    nearest = "" if name in known else did_you_mean(name, known, form="+{}=")
    return f"unknown flag {flag}: parameters are written +{name}={value or 'VALUE'}{nearest} (see --help)"


def _without_agent(name: str) -> str:
    """The parameter that an entry of `agents` sets, such as `verifier.pattern` of `agents.mine.verifier.pattern`."""
    return name.split(".", 2)[-1] if name.startswith("agents.") else name


def _typed_text(name: str, value: str, *, sweep: bool) -> str:
    """Free text in Hydra's grammar: quotes, `null`, `${` and `???` are part of it, except in an API key."""
    if sweep and _is_sweep(value):
        return value
    if name.endswith("api_key") and (value in ("null", "") or _ENVIRONMENT_VARIABLE.fullmatch(value)):
        return quoted(value) if value not in ("null", "") else value
    return quoted(marked(value))


def _may_be_dict(field: Field[Any]) -> bool:
    spec = spec_of(field)
    return "dict" in str(field.type) or bool(spec and "dict" in spec.kind)


def _text_keys(field: Field[Any]) -> tuple[str, ...]:
    spec = spec_of(field)
    return spec.text_keys if spec else ()


def quoted(text: str) -> str:
    """Text as a quoted string of Hydra's grammar.

    A backslash is literal there, except before a quote: backslashes in front of a quote, or at the end, are doubled.
    """
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"


def _literal(value: Any) -> str:
    """A JSON value in Hydra's grammar, in which keys have no quotes.

    Raises:
        ConfigError: a key has characters that need quotes.
    """
    if isinstance(value, dict):
        if not all(_KEY.fullmatch(key) for key in value):
            raise ConfigError(f"the keys {list(value)} cannot be written on the command line: set them in the rows")
        return (
            "{"
            + ",".join(f"{_ESCAPED_IN_KEYS.sub(_ESCAPE, key)}:{_literal(item)}" for key, item in value.items())
            + "}"
        )
    if isinstance(value, list):
        return "[" + ",".join(map(_literal, value)) + "]"
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def _parameters(config: type, prefix: str) -> Iterable[tuple[str, Any]]:
    """The dotted name and type of every parameter; `str` for text that may be null."""
    hints = get_type_hints(config)
    for field in fields(config):
        kind = hints[field.name]
        if is_dataclass(kind) and isinstance(kind, type):
            yield from _parameters(kind, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, str if kind in (str, str | None) else kind


def _is_sweep(value: str) -> bool:
    """True if `--multirun` splits the value."""
    return bool(_SWEEP.fullmatch(value)) or "," in value


def _value(value: str, *, text: bool, sweep: bool) -> str:
    """A value in Hydra's grammar: text in quotes, unless the user has quoted it or it is part of a sweep."""
    if _QUOTED.fullmatch(value) or (sweep and _is_sweep(value)):
        return value
    if text:
        return value if value in ("null", "") else quoted(value)
    # JSON differs from Hydra's grammar in the quotes of keys. Other text in brackets is in that grammar already.
    if value[:1] in ("[", "{"):
        with suppress(ValueError):
            return _literal(json.loads(value))
    structured = value[:1] in ("[", "{") or _CAST.fullmatch(value)
    return value if structured or "${" in value or _UNQUOTED.fullmatch(value) else quoted(value)
