"""What `verifier=` says -> the verifier."""

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
from ng_rollouts.verifiers.judge import VERDICT, Judge, judge_template
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
"""The options of each kind, beside `kind`."""

_NEEDS = {"math": "math_verify", "json_schema": "jsonschema"}


def verifier_options(value: Any, parameter: str = "verifier") -> Json:
    """A verifier as it is asked for, checked: `kind` and the options of that kind.

    Raises:
        ConfigError: there is no such kind or option, or what it needs is missing.
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
    if kind in _NEEDS:
        require_extra(_NEEDS[kind], "verifiers", f"{parameter}={kind}")
    for needed in {"regex": ("pattern",), "python": ("function",)}.get(kind, ()):
        if needed not in options:
            raise ConfigError(f"{parameter}={kind} needs +{parameter}.{needed}=...")
    seconds = options.get("seconds", 1.0)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
        raise ConfigError(f"{parameter}.seconds must be more than 0, got {seconds!r}")
    attempts = options.get("attempts", 1)
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
        raise ConfigError(f"{parameter}.attempts must be an integer from 1, got {attempts!r}")
    for pattern in ("pattern", "verdict_pattern"):
        _check_pattern(options.get(pattern), f"{parameter}.{pattern}")
    return options


def build_verifier(options: Json, process_pool: ProcessPool, judge_server: Callable[[Json], ModelClient]) -> Verifier:
    """The verifier for checked options.

    Args:
        judge_server: makes the judge's model server of these options.

    Raises:
        ConfigError: an option names what is not there.
    """
    given = {name: option for name, option in options.items() if name != "kind"}
    if options["kind"] in _NEEDS:
        process_pool.preload.add(_NEEDS[options["kind"]])
    match options["kind"]:
        case "exact_match":
            return ExactMatch(**given)
        case "mcqa":
            return Mcqa(**given)
        case "math":
            return Math(process_pool=process_pool, **given)
        case "regex":
            return Regex(process_pool=process_pool, **given)
        case "json_schema":
            return JsonSchema(process_pool=process_pool, **given)
        case "judge":
            return Judge(
                server=judge_server(given),
                process_pool=process_pool,
                template=judge_template(_text_or_file(given.get("template"))),
                params=given.get("responses_create_params") or {},
                verdict_pattern=given.get("verdict_pattern", VERDICT),
                answer_field=given.get("answer_field"),
                attempts=given.get("attempts", 3),
            )
        case "python":
            import_callable(given["function"])
            seconds = {"seconds": given["seconds"]} if "seconds" in given else {}
            return PythonFunction(name=given["function"], process_pool=process_pool, **seconds)
    return Unscored()


def _text_or_file(template: str | None) -> str | None:
    """A template given as text, or as the path of a file that holds it."""
    if template is None or "{" in template or "\n" in template:
        return template
    try:
        return Path(template).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"verifier.template {template} cannot be read: {error}") from error


def _check_pattern(pattern: Any, parameter: str) -> None:
    try:
        re.compile(pattern if pattern is not None else "")
    except (re.error, TypeError) as error:
        raise ConfigError(f"{parameter} {pattern!r} is no regular expression: {error}") from error
