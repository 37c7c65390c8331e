"""Commands other than the collector: the same `+key=value` arguments, without Hydra and its start-up time."""

from __future__ import annotations

import gc
import io
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TypeVar, get_origin, get_type_hints

from ng_rollouts._version import __version__
from ng_rollouts.config.build import build
from ng_rollouts.config.dicts import set_in_dict
from ng_rollouts.config.secrets import remember_arguments
from ng_rollouts.console import log, log_error, log_lines, only_json, open_closed_streams, print_text
from ng_rollouts.errors import ConfigError, NgRolloutsError, did_you_mean
from ng_rollouts.streams import LOOKALIKES

T = TypeVar("T")

_NEEDLESS = dict.fromkeys(("head_server.host", "head_server.port"), "metrics are computed here, without a server")
"""Parameters of NeMo Gym's commands that are accepted, and why none is needed."""


def run_command(name: str, config: type[T], run: Callable[[T], int], *, example: str) -> NoReturn:
    """Run a command: parse its arguments, run it, exit with its exit code.

    Args:
        example: arguments for the example in the help.
    """
    # Rows become many small objects without cycles. With the default thresholds, the garbage collector would traverse
    # them again and again.
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=LOOKALIKES)  # names and rows may have characters that the terminal lacks
    try:
        code = _run(name, config, run, example)
    except NgRolloutsError as error:
        log_error(error)
        code = error.exit_code
    # A reader such as `| head` has read enough: that is not an error.
    except BrokenPipeError:
        code = 0
    except OSError as error:
        log(f"error: {error.filename or 'a file'} cannot be used: {error.strerror}")
        code = ConfigError.exit_code
    # 128 + SIGINT, as shells report it.
    except KeyboardInterrupt:
        code = 130
    except Exception:
        log_lines(traceback.format_exc())
        log("error: unexpected error in ng_rollouts: please report it with the traceback above")
        code = NgRolloutsError.exit_code
    raise SystemExit(code)


def parse_args(config: type[T], arguments: Sequence[str]) -> T:
    """A configuration from `key=value` arguments, with or without plus signs.

    Raises:
        ConfigError: a key is unknown, a value has the wrong type or is out of range, or a required one is missing.
    """
    hints = get_type_hints(config)
    values: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.lstrip("+").partition("=")
        if key in _NEEDLESS:
            log(f"note: {key} has no effect: {_NEEDLESS[key]}")
            continue
        if not equals or argument.startswith("-"):
            raise ConfigError(f"{argument!r} is not a parameter: write {_as_parameter(argument, hints)} (see --help)")
        name, _, rest = key.partition(".")
        if get_origin(hints.get(name)) is dict:
            set_in_dict(values, config, name, rest, value)
            continue
        if key.endswith("fpath") and "://" in value:
            raise ConfigError(f"{key} {value}: this command reads local files only: copy the file here first")
        # An unknown key is read as text here. `build` then rejects it, and suggests the nearest key.
        values[key] = _value(key, value, hints.get(key, str))
    return build(config, values, form="+{}=")


def _run(name: str, config: type[T], run: Callable[[T], int], example: str) -> int:
    if {"--help", "-h"} & set(sys.argv[1:]):
        from ng_rollouts.config.help import command_help  # noqa: PLC0415 - only help needs it

        print_text(command_help(name, config, example))
        return 0
    if "--version" in sys.argv[1:]:
        print_text(f"ng_rollouts {__version__}\n")
        return 0
    remember_arguments(sys.argv[1:])
    parsed = parse_args(config, sys.argv[1:])
    with only_json(wanted=getattr(parsed, "quiet", False)):
        return run(parsed)


def _value(key: str, text: str, hint: Any) -> Any:
    """A typed value from its text.

    Raises:
        ConfigError: it has the wrong type.
    """
    # The members of a union such as `str | None`, or the type itself.
    kinds = getattr(hint, "__args__", (hint,))
    if text == "null" and type(None) in kinds:
        return None
    if bool in kinds:
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"{key} must be true or false, got {text!r}")
        return text.lower() == "true"
    numbers = {kind: wanted for kind, wanted in ((int, "an integer"), (float, "a number")) if kind in kinds}
    for kind in numbers:
        with suppress(ValueError):
            return kind(text)
    if numbers:
        raise ConfigError(f"{key} must be {list(numbers.values())[-1]}, got {text!r}")
    return text


def _as_parameter(argument: str, hints: Mapping[str, Any]) -> str:
    """How an argument without plus signs or a value is probably meant: `--serve` as `+serve=true`."""
    flag, _, value = argument.partition("=")
    name = flag.lstrip("+-").replace("-", "_")
    if name not in hints:
        return "+key=value" + did_you_mean(name, hints, form="+{}=")
    return f"+{name}={value or ('true' if hints[name] is bool else 'VALUE')}"
