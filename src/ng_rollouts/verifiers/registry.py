"""Check the options of `verifier`, and build the verifier."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ng_rollouts.errors import ConfigError, did_you_mean, require_extra
from ng_rollouts.models.client import ModelClient
from ng_rollouts.models.request import PATHS
from ng_rollouts.templates import Template
from ng_rollouts.types import Json
from ng_rollouts.user_code import import_callable
from ng_rollouts.verifiers.base import GroupVerifier, Verifier
from ng_rollouts.verifiers.builtin import ExactMatch, JsonSchema, Math, Mcqa, Regex, Unscored
from ng_rollouts.verifiers.group_judge import (
    ALL_ANSWERS,
    MODES,
    TWO_ANSWERS,
    Comparer,
    ListwiseJudge,
    PairwiseJudge,
    ReferenceJudge,
)
from ng_rollouts.verifiers.judge import ONE_ANSWER, VERDICT_FORMATS, Form, Judge, Panel
from ng_rollouts.verifiers.python_function import PythonFunction
from ng_rollouts.workers.process_pool import ProcessPool

_SERVER_OPTIONS = ("base_url", "api_key", "model", "api")
"""The options of a judge's model server, which each entry of `judges` may have, too."""

_JUDGE_OPTIONS = (
    "template",
    "verdict_format",
    "attempts",
    "votes",
    "judges",
    *_SERVER_OPTIONS,
    "responses_create_params",
)

OPTIONS = {
    "none": (),
    "exact_match": ("answer_field", "case_sensitive"),
    "mcqa": ("answer_field",),
    "math": ("answer_field", "seconds"),
    "regex": ("pattern", "answer_field", "seconds"),
    "json_schema": ("schema", "schema_field", "seconds"),
    "judge": (*_JUDGE_OPTIONS, "verdict_pattern", "answer_field", "compare_with"),
    "group_judge": (*_JUDGE_OPTIONS, "mode"),
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
    value = {"kind": value or "none"} if value is None or isinstance(value, str) else value
    options = (dict(value) or {"kind": "none"}) if isinstance(value, dict) else {"kind": value}
    kind = options.get("kind")
    if kind is None:
        raise ConfigError(f"{parameter} has options but no kind: add +{parameter}=KIND, one of {', '.join(OPTIONS)}")
    if not isinstance(kind, str) or kind not in OPTIONS:
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
        judge_server: makes the client of a judge's model server from its options.

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
            return _judge(kwargs, process_pool, judge_server)
        case "python":
            import_callable(kwargs["function"])  # fails here, before the first request, if the function does not exist
            seconds = {"seconds": kwargs["seconds"]} if "seconds" in kwargs else {}
            return PythonFunction(name=kwargs["function"], process_pool=process_pool, **seconds)
    return Unscored()


def is_group_verifier(options: Json) -> bool:
    """Whether options are those of a verifier that scores the rollouts of a task against each other."""
    return bool(options["kind"] == "group_judge")


def build_group_verifier(options: Json, judge_server: Callable[[Json], ModelClient]) -> GroupVerifier:
    """Build the group verifier for options that `verifier_options` returned.

    Args:
        options: the kind and its options.
        judge_server: makes the client of a judge's model server from its options.

    Raises:
        ConfigError: the template cannot be read or is not valid.
    """
    is_pairwise = options.get("mode") == "pairwise"
    form = TWO_ANSWERS if is_pairwise else ALL_ANSWERS
    # the votes on a list differ in its order
    panel = _panel(options, form, judge_server, are_prompts_equal=is_pairwise)
    return (PairwiseJudge if is_pairwise else ListwiseJudge)(panel=panel, template=_template(options, form))


def _judge(options: Json, process_pool: ProcessPool, judge_server: Callable[[Json], ModelClient]) -> Verifier:
    """Build the verifier `judge`."""
    form = TWO_ANSWERS if "compare_with" in options else ONE_ANSWER
    panel, template = _panel(options, form, judge_server), _template(options, form)
    if "compare_with" in options:
        return ReferenceJudge(comparer=Comparer(panel=panel, template=template), field=options["compare_with"])
    return Judge(
        panel=panel,
        process_pool=process_pool,
        template=template,
        verdict_pattern=options.get("verdict_pattern"),
        answer_field=options.get("answer_field"),
    )


def _panel(
    options: Json, form: Form, judge_server: Callable[[Json], ModelClient], *, are_prompts_equal: bool = True
) -> Panel:
    """The judges of options, and their votes: one for each judge by default."""
    servers = [judge_server(each) for each in judges_of(options)]
    votes = options.get("votes", len(servers))
    params = form.params(options.get("responses_create_params"), options.get("verdict_format", "text"))
    if votes > len(servers) and are_prompts_equal and params.get("seed") is None:
        params = {"temperature": 1.0, **params}  # an explicit null leaves it to the server
    return Panel(servers=servers, params=params, votes=votes, attempts=options.get("attempts", 3))


def judges_of(options: Json) -> list[Json]:
    """The options of each judge's model server. The verifier's own are the defaults of a judge at the same URL."""
    own = {name: options[name] for name in _SERVER_OPTIONS if name in options}
    # another URL must bring its own key
    return [
        judge if judge.get("base_url", own.get("base_url")) != own.get("base_url") else {**own, **judge}
        for judge in options.get("judges", [{}])
    ]


def _template(options: Json, form: Form) -> Template:
    return form.template(_text_or_file(options.get("template")), options.get("verdict_format", "text"))


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
    for name in ("attempts", "votes"):
        number = options.get(name, 1)
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ConfigError(f"{parameter}.{name} must be a positive integer, got {number!r}")
    for name, allowed in (("verdict_format", VERDICT_FORMATS), ("mode", MODES), ("api", ("auto", *PATHS))):
        if options.get(name, allowed[0]) not in allowed:
            raise ConfigError(f"{parameter}.{name} must be one of {', '.join(allowed)}, got {options[name]!r}")
    for name in ("verdict_pattern", "answer_field") if "compare_with" in options else ():
        if name in options:
            raise ConfigError(f"{parameter}.{name} has no effect with {parameter}.compare_with: remove one of them")
    if "judges" in options:
        options["judges"] = _checked_judges(options["judges"], f"{parameter}.judges")
    _check_votes(options, parameter)


def _checked_judges(judges: Any, parameter: str) -> list[Json]:
    """The entries of `judges`, without options that are null.

    Raises:
        ConfigError: it is not a list of objects, or an option is unknown or has the wrong type.
    """
    if not isinstance(judges, list) or not judges or not all(isinstance(judge, dict) for judge in judges):
        raise ConfigError(f"{parameter} must be a list of objects, such as [{{model: a}}, {{model: b}}]")
    for judge in judges:
        for name in judge.keys() - {*_SERVER_OPTIONS}:
            hint = did_you_mean(name, _SERVER_OPTIONS, otherwise=f": its options are {', '.join(_SERVER_OPTIONS)}")
            raise ConfigError(f"{parameter} has no option {name!r}{hint}")
        if judge.get("api") not in (None, "auto", *PATHS):
            raise ConfigError(f"{parameter}.api must be one of auto, {', '.join(PATHS)}, got {judge['api']!r}")
        for name in ("api_key", "model"):
            if not isinstance(judge.get(name), str | None):
                raise ConfigError(f"{parameter}.{name} must be a string, got {judge[name]!r}")
    return [{name: value for name, value in judge.items() if value is not None} for judge in judges]


def _check_votes(options: Json, parameter: str) -> None:
    """Check that the votes are shared evenly by the judges, can differ, and that those of one judge have a majority.

    Raises:
        ConfigError: they are not, or cannot, or may not.
    """
    judges = len(options.get("judges", [{}]))
    votes = options.get("votes", judges)
    if votes % judges:
        raise ConfigError(f"{parameter}.votes must be a multiple of the number of judges ({judges}), got {votes}")
    if options["kind"] == "judge" and judges == 1 and votes % 2 == 0:
        raise ConfigError(f"{parameter}.votes must be odd, so that there is a majority, got {votes}")
    are_prompts_equal = options["kind"] == "judge" or options.get("mode") == "pairwise"
    if votes > judges and are_prompts_equal and (options.get("responses_create_params") or {}).get("temperature") == 0:
        name = f"{parameter}.responses_create_params.temperature"
        raise ConfigError(f"{name}=0 makes all votes of a judge the same: raise it, or set {parameter}.votes={judges}")


def _check_pattern(pattern: Any, parameter: str) -> None:
    if pattern == "":
        raise ConfigError(f"{parameter} is empty, which matches every answer: give a regular expression")
    try:
        re.compile(pattern if pattern is not None else "")
    except (re.error, TypeError) as error:
        raise ConfigError(f"{parameter} is not a valid regular expression: {pattern!r}: {error}") from error
