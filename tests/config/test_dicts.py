"""Parameters that are dicts, on command lines without Hydra."""

from __future__ import annotations

from typing import Any

import pytest

from ng_rollouts.config.dicts import set_in_dict
from ng_rollouts.errors import ConfigError
from ng_rollouts.rescoring.config import RescoreConfig


def parsed(*arguments: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for argument in arguments:
        key, _, text = argument.partition("=")
        name, _, path = key.partition(".")
        set_in_dict(values, RescoreConfig, name, path, text)
    return values


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        (["verifier=mcqa"], {"verifier": {"kind": "mcqa"}}),
        (["verifier=mcqa", "verifier.answer_field=gold"], {"verifier": {"kind": "mcqa", "answer_field": "gold"}}),
        (["verifier.answer_field=gold", "verifier=mcqa"], {"verifier": {"kind": "mcqa", "answer_field": "gold"}}),
        (["verifiers.a=math", "verifiers.a.seconds=5"], {"verifiers": {"a": {"kind": "math", "seconds": 5}}}),
        (["verifiers.a.seconds=5", "verifiers.a=math"], {"verifiers": {"a": {"kind": "math", "seconds": 5}}}),
        (["verifiers={a: math, b: mcqa}"], {"verifiers": {"a": "math", "b": "mcqa"}}),
        (["where.meta.subject=algebra"], {"where": {"meta": {"subject": "algebra"}}}),
    ],
)
def test_keys_are_set_in_any_order(arguments: list[str], values: dict[str, Any]) -> None:
    """A text for a group, or for one of several, is its kind."""
    assert parsed(*arguments) == values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-0.5", -0.5),
        ("1e-3", 0.001),
        ("true", True),
        ("False", False),
        ("null", None),
        ("'3'", "3"),
        ("[1, b]", [1, "b"]),
        ("{a: 1}", {"a": 1}),
        ("", ""),
        ("no", "no"),
        ("007", "007"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("a: b", "a: b"),
    ],
)
def test_values_are_those_of_json_or_text(text: str, value: object) -> None:
    """Numbers and true, false, null are values, lists and dicts are YAML, and everything else is text."""
    found = parsed(f"where.field={text}")["where"]["field"]
    assert found == value
    assert type(found) is type(value)


def test_an_option_that_is_text_stays_text() -> None:
    """An API key, a pattern or a template is not read as a number or a list."""
    assert parsed("verifier.pattern=[0-9]", "verifier.api_key=123") == {
        "verifier": {"pattern": "[0-9]", "api_key": "123"}
    }


def test_an_environment_variable_gives_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the collector; one that is not set is an error."""
    monkeypatch.setenv("JUDGE_KEY", "007")
    assert parsed("verifier.api_key=${oc.env:JUDGE_KEY}") == {"verifier": {"api_key": "007"}}
    with pytest.raises(ConfigError, match="NOT_SET_HERE is not set"):
        parsed("verifier.api_key=${oc.env:NOT_SET_HERE}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["where=3"], "where has keys: write"),
        (["where.a=[1"], "is not a value in YAML"),
        (["where.a=3", "where.a.b=4"], "where.a is not a dict"),
    ],
)
def test_a_mistake_is_an_error(arguments: list[str], message: str) -> None:
    """The message names the parameter."""
    with pytest.raises(ConfigError, match=message):
        parsed(*arguments)
