"""Check the options of `verifier`, and build the verifier."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ng_rollouts.errors import ConfigError, did_you_mean, require_extra
from ng_rollouts.models.client import ModelClient
from ng_rollouts.types import Json
from ng_rollouts.user_code import import_callable
from ng_rollouts.verifiers.base import Verifier
from ng_rollouts.verifiers.builtin import ExactMatch, JsonSchema, Math, Mcqa, Regex, Unscored
from ng_rollouts.verifiers.judge import VERDICT_FORMATS, Judge, judge_params, judge_template
from ng_rollouts.verifiers.process_pool import ProcessPool
from ng_rollouts.verifiers.python_function import PythonFunction

OPTIONS = {
    "none": (),
    "exact_match": ("answer_field", "case_sensitive"),
    "mcqa": ("answer_field",),
    "math": ("answer_field", "seconds"),
    "regex": ("pattern", "answer_field", "seconds"),
    "json_schema": ("schema", "schema_field", "seconds"),
    "judge": (
        "template",
        "verdict_format",
        "verdict_pattern",
        "answer_field",
        "attempts",
        "base_url",
        "api_key",
        "model",
        "api",
        "responses_create_params",
    ),
    "python": ("function", "seconds"),
}
"""The kinds of verifiers, and the options of each in addition to `kind`."""

_REQUIRED_OPTIONS = {"regex": ("pattern",), "python": ("function",)}

_REQUIRED_MODULES = {"math": "math_verify", "json_schema": "jsonschema"}
"""Kinds that need an optional dependency, and its module."""


def verifier_options(value: Any, parameter: str = "verifier") -> Json:
    """Check the value of `verifier`, and return its options with `kind`. Options that are null are left out.

    Args:
        value: a kind, or a dict with `kind` and its options; null for no verifier.
        parameter: the parameter's name, for messages.

    Raises:
        ConfigError: a kind or option is unknown or missing, a value is not valid, or a dependency is not installed.
    """
    options = {"kind": value} if isinstance(value, str) else {"kind": "none"} if not value else dict(value)
    kind = options.get("kind")
    if kind is None:
        raise ConfigError(f"{parameter} has options but no kind: add +{parameter}=KIND, one of {', '.join(OPTIONS)}")
    if kind not in OPTIONS:
        raise ConfigError(f"{parameter} must be one of {', '.join(OPTIONS)}, got {kind!r}")
    options = {name: option for name, option in options.items() if option is not None}
    for name in options.keys() - {*OPTIONS[kind], "kind"}:
        hint = did_you_mean(name, OPTIONS[kind], otherwise=f": its options are {', '.join(OPTIONS[kind]) or 'none'}")
        raise ConfigError(f"{parameter}={kind} has no option {name!r}{hint}")
    if kind in _REQUIRED_MODULES:
        require_extra(_REQUIRED_MODULES[kind], "verifiers", f"{parameter}={kind}")
    for name in _REQUIRED_OPTIONS.get(kind, ()):
        if name not in options:
            raise ConfigError(f"{parameter}={kind} needs +{parameter}.{name}=...")
    _check_values(options, parameter)
    for name in ("pattern", "verdict_pattern"):
        _check_pattern(options.get(name), f"{parameter}.{name}")
    return options


def build_verifier(options: Json, process_pool: ProcessPool, judge_server: Callable[[Json], ModelClient]) -> Verifier:
    """Build the verifier for options that `verifier_options` returned.

    Args:
        options: the kind and its options.
        process_pool: runs what may take long or crash.
        judge_server: makes the client of the judge's model server from these options.

    Raises:
        ConfigError: the function cannot be imported, or the template cannot be read or is not valid.
    """
    kwargs = {name: option for name, option in options.items() if name != "kind"}
    if options["kind"] in _REQUIRED_MODULES:
        process_pool.preload.add(_REQUIRED_MODULES[options["kind"]])
    match options["kind"]:
        case "exact_match":
            return ExactMatch(**kwargs)
        case "mcqa":
            return Mcqa(**kwargs)
        case "math":
            return Math(process_pool=process_pool, **kwargs)
        case "regex":
            return Regex(process_pool=process_pool, **kwargs)
        case "json_schema":
            return JsonSchema(process_pool=process_pool, **kwargs)
        case "judge":
            return Judge(
                server=judge_server(kwargs),
                process_pool=process_pool,
                template=judge_template(_text_or_file(kwargs.get("template")), kwargs.get("verdict_format", "text")),
                params=judge_params(kwargs.get("responses_create_params"), kwargs.get("verdict_format", "text")),
                verdict_pattern=kwargs.get("verdict_pattern"),
                answer_field=kwargs.get("answer_field"),
                attempts=kwargs.get("attempts", 3),
            )
        case "python":
            import_callable(kwargs["function"])  # fails here, before the first request, if the function does not exist
            seconds = {"seconds": kwargs["seconds"]} if "seconds" in kwargs else {}
            return PythonFunction(name=kwargs["function"], process_pool=process_pool, **seconds)
    return Unscored()


def is_group_verifier(options: Json) -> bool:
    """True for options of a verifier that scores the rollouts of a task against each other."""
    return bool(options["kind"] == "group_judge")


def _text_or_file(template: str | None) -> str | None:
    """The text of a template, which is either the option itself or in the file that it names."""
    # a file name hardly has braces, and a template without a placeholder makes no sense
    if template is None or "{" in template or "\n" in template:
        return template
    try:
        return Path(template).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"verifier.template {template} cannot be read: {error}") from error


def _check_values(options: Json, parameter: str) -> None:
    seconds = options.get("seconds", 1.0)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
        raise ConfigError(f"{parameter}.seconds must be more than 0, got {seconds!r}")
    attempts = options.get("attempts", 1)
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
        raise ConfigError(f"{parameter}.attempts must be a positive integer, got {attempts!r}")
    if (verdict_format := options.get("verdict_format", "text")) not in VERDICT_FORMATS:
        raise ConfigError(
            f"{parameter}.verdict_format must be one of {', '.join(VERDICT_FORMATS)}, got {verdict_format!r}"
        )


def _check_pattern(pattern: Any, parameter: str) -> None:
    if pattern == "":
        raise ConfigError(f"{parameter} is empty, which matches every answer: give a regular expression")
    try:
        re.compile(pattern if pattern is not None else "")
    except (re.error, TypeError) as error:
        raise ConfigError(f"{parameter} is not a valid regular expression: {pattern!r}: {error}") from error
