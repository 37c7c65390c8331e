"""Commands beside the collector: typed like it, `+key=value`, without Hydra, which they have no use for."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any, NoReturn, TypeVar, get_type_hints

from ng_rollouts._version import __version__
from ng_rollouts.console import log
from ng_rollouts.errors import ConfigError, NgRolloutsError
from ng_rollouts.redaction import redact

T = TypeVar("T")


def run_command(name: str, config: type[T], run: Callable[[T], int]) -> NoReturn:
    """A command: its arguments -> its config -> its work -> its exit code."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    try:
        if {"--help", "-h"} & set(sys.argv[1:]):
            sys.stdout.write(help_text(name, config))
            code = 0
        elif "--version" in sys.argv[1:]:
            sys.stdout.write(f"ng_rollouts {__version__}\n")
            code = 0
        else:
            code = run(parse_args(config, sys.argv[1:]))
    except NgRolloutsError as error:
        log(f"error: {redact(str(error))}")
        code = error.exit_code
    except BrokenPipeError:
        code = 0
    except OSError as error:
        log(f"error: {error.filename or 'a file'} cannot be used: {error.strerror}")
        code = ConfigError.exit_code
    except KeyboardInterrupt:
        code = 130
    raise SystemExit(code)


def parse_args(config: type[T], arguments: Sequence[str]) -> T:
    """A config of `key=value` arguments, with or without plus signs.

    Raises:
        ConfigError: a key is not known, a value has the wrong type, or a required one is missing.
    """
    hints = get_type_hints(config)
    known = {field.name: field for field in fields(config)}  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.lstrip("+").partition("=")
        if not equals:
            raise ConfigError(f"{argument!r} is no parameter: write +key=value (see --help)")
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f", did you mean +{near[0]}=?" if near else ": " + ", ".join(known)
            raise ConfigError(f"there is no parameter {key!r}{hint}")
        if key.endswith("fpath") and "://" in value:
            raise ConfigError(f"{key} {value}: this command reads files of this machine: copy it here first")
        given[key] = _value(key, value, hints[key])
    for name, field in known.items():
        if name not in given and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{name} is missing: add +{name}=...")
    return config(**given)


def help_text(name: str, config: type) -> str:
    """What `--help` says: the config's docstring, and a line for each parameter, from its metadata."""
    lines = [(config.__doc__ or "").strip(), "", f"usage: {name} +key=value ...", ""]
    for field in fields(config):
        default = "" if field.default is MISSING else f" [{field.default}]"
        lines += [f"  +{field.name}", f"      {field.metadata['help']}{default}"]
    return "\n".join(lines) + "\n"


def _value(key: str, text: str, hint: Any) -> Any:
    kinds = getattr(hint, "__args__", (hint,))
    if text == "null" and type(None) in kinds:
        return None
    if bool in kinds:
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"{key} must be true or false, got {text!r}")
        return text.lower() == "true"
    for kind in (int, float):
        if kind in kinds:
            with suppress(ValueError):
                return kind(text)
            raise ConfigError(f"{key} must be a number, got {text!r}")
    return text
